"""An experiment as an object: its settings, its pure functions, and who judges what comes out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import pandas as pd

from plasticity import configuration
from plasticity.runs.results import Records, Run

CHECKPOINT_SECONDS = 10.0
"""A unit is checkpointed at the first chunk that ends this long after the last checkpoint."""

Arms = Mapping[str, Mapping[str, Any]]
"""Name of an arm → what it changes of the configuration, by path: `configuration.replaced`."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """What it takes to run an experiment, to judge a run of it, and to say what it costs.

    ``State`` and records are pytrees of arrays. Equal arms and equal seeds give equal bits, and
    arms share the random numbers of a seed. A process that runs a part of it imports ``module`` and
    takes its ``EXPERIMENT``::

        EXPERIMENT = Experiment(__name__, Config, STUDIES, arms=arms, load=load, ...)

    Two are the same only if they are one object, so that what is compiled for one is not another's.
    """

    module: str  # that has it as ``EXPERIMENT``; the last part is the experiment's name
    Config: type[Any]  # a frozen dataclass with at least ``seeds`` and ``first_seed``
    studies: Mapping[str, Any]  # name → a Config
    # Pure functions of a Config.
    arms: Callable[[Any], Arms]
    load: Callable[[Any], tuple[Any, dict[str, object]]]  # the world for all arms, its source
    shapes: Callable[[Any], Any]  # of an arm: what `load` gives it as shapes and types, unloaded
    start: Callable[[Any, Any, jax.Array], Any]  # (config, world, key) → state; jitted
    # (config, world, state) → state, what was measured in a chunk; jitted
    advance: Callable[[Any, Any, Any], tuple[Any, dict[str, jax.Array]]]
    chunks: Callable[[Any], int]  # of an arm
    flops: Callable[[Any], float]  # about how many operations one seed of an arm takes
    # (config, records) → the tidy table and the named arrays of the whole run. Of the first seed
    # alone it returns that seed's rows, and every array whole or the first along the leading axis:
    # what `plasticity.runs.reproduction` compares.
    summarize: Callable[[Any, Records], tuple[pd.DataFrame, dict[str, np.ndarray]]]
    claims: Mapping[str, Callable[[Run], Any]] = field(default_factory=dict)  # with their judges
    checkpoint_seconds: float = CHECKPOINT_SECONDS  # more where a state is large
    # For `plasticity.runs.cost`: settings of the same agents with chunks that are soon over, and
    # the arms and the number of seeds that each figure of the paper needs.
    sample: Callable[[Any], Any] | None = None
    figures: Callable[[Any], dict[str, tuple[list[str], int]]] | None = None

    @property
    def name(self) -> str:
        """The experiment's name: that of its chapter, its tests and its recorded runs."""
        return self.module.rpartition(".")[2]

    @property
    def question(self) -> str:
        """The first line of what the module says of itself."""
        text = importlib.import_module(self.module).__doc__ or ""
        return text.strip().partition("\n")[0]

    def arm(self, config: Any, arm: str) -> Any:
        """Return the configuration of one arm."""
        return configuration.replaced(config, self.arms(config)[arm])


def find(module: str) -> Experiment:
    """Return the experiment of a module. Raises AttributeError if it has none."""
    found: Experiment = importlib.import_module(module).EXPERIMENT
    return found
