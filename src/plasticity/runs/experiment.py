"""The contract that an experiment keeps with what runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
import pandas as pd

from plasticity.runs import results
from plasticity.runs.results import Run


class Experiment(Protocol):
    """The contract of an experiment module; ``State`` and records are pytrees of arrays.

    ``Config`` is a frozen dataclass with at least ``seeds`` and ``first_seed``; equal arms and
    equal seeds give equal bits, and arms share the random numbers of a seed.
    """

    __name__: str
    Config: type
    PROFILES: Mapping[str, Any]
    CLAIMS: Mapping[str, Callable[[Run], Any]]

    def arms(self, config: Any) -> Mapping[str, Mapping[str, Any]]:
        """Return the changes to the configuration that define each arm."""

    def load(self, config: Any) -> tuple[Any, dict[str, object]]:
        """Return the arrays that training only reads, for all arms, and where they come from."""

    def shapes(self, config: Any) -> Any:
        """Return what `load` would give one arm as shapes and types, without loading anything."""

    def start(self, config: Any, world: Any, key: jax.Array) -> Any:
        """Return the state before the first chunk. Pure; jitted by the driver."""

    def advance(self, config: Any, world: Any, state: Any) -> tuple[Any, dict[str, jax.Array]]:
        """Return the state after one chunk and what was measured. Pure; jitted by the driver."""

    def chunks(self, config: Any) -> int:
        """Return how many chunks the run of one arm has."""

    def flops(self, config: Any) -> float:
        """Return about how many floating-point operations one seed of one arm takes."""

    def summarize(
        self, config: Any, records: results.Records
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        """Return the tidy table and the named arrays of the whole run.

        Of the first seed alone it returns that seed's rows, and every array either whole or the
        first along the leading axis: what `plasticity.runs.reproduction` compares.
        """
