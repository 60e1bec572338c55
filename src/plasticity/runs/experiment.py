"""An experiment as an object: its settings, its pure functions, and the judges of its results."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Mapping
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

    States and records are pytrees of arrays. Equal arms and equal seeds give equal bits, and arms
    share the random numbers of a seed. A process that runs part of an experiment imports ``module``
    and takes its ``EXPERIMENT``::

        EXPERIMENT = Experiment(__name__, Config, STUDIES, arms=arms, load=load, ...)

    Two are equal only if they are the same object, so that compiled functions are never mixed up.
    """

    module: str  # the module with this as ``EXPERIMENT``; its last part is the experiment's name
    Config: type[Any]  # a frozen dataclass with at least ``seeds`` and ``first_seed``
    studies: Mapping[str, Any]  # name → a Config
    # Pure functions of a Config.
    arms: Callable[[Any], Arms]
    load: Callable[[Any], tuple[Any, dict[str, object]]]  # the world for all arms, its source
    shapes: Callable[[Any], Any]  # of an arm: shapes and types of what `load` gives it
    # Both are made of parts that `plasticity.programs` compiles; traced as a whole they are pure.
    start: Callable[[Any, Any, jax.Array], Any]  # (config, world, key) → state
    # (config, world, state, chunk) → state, what was measured; chunks count from 0
    advance: Callable[[Any, Any, Any, Any], tuple[Any, dict[str, jax.Array]]]
    chunks: Callable[[Any], int]  # of an arm
    flops: Callable[[Any], float]  # about how many operations one seed of an arm takes
    # (config, records) → the tidy table and the named arrays of the whole run. Given only the first
    # seed it must return that seed's rows, and each array either unchanged or cut to its first
    # entry along the leading axis: `plasticity.runs.reproduction` compares these.
    summarize: Callable[[Any, Records], tuple[pd.DataFrame, dict[str, np.ndarray]]]
    claims: Mapping[str, Callable[[Run], Any]] = field(default_factory=dict)  # with their judges
    # Arms of which this gives the same share all compiled programs, or nearly all. With as many
    # chunks they go in step on an accelerator: states need equal shapes then, records do not.
    shares: Callable[[Any], Hashable] = lambda config: config
    checkpoint_seconds: float = CHECKPOINT_SECONDS  # more where a state is large
    # For `plasticity.runs.cost`: settings of the same agents with short chunks, and the arms and
    # number of seeds that each figure of the paper needs.
    sample: Callable[[Any], Any] | None = None
    figures: Callable[[Any], dict[str, tuple[list[str], int]]] | None = None

    @property
    def name(self) -> str:
        """The experiment's name, shared by its chapter, its tests and its recorded runs."""
        return self.module.rpartition(".")[2]

    @property
    def question(self) -> str:
        """The first line of the module's docstring."""
        text = importlib.import_module(self.module).__doc__ or ""
        return text.strip().partition("\n")[0]

    def arm(self, config: Any, arm: str) -> Any:
        """Return the configuration of one arm."""
        return configuration.replaced(config, self.arms(config)[arm])


def find(module: str) -> Experiment:
    """Return the experiment of a module. Raises AttributeError if it has none."""
    found: Experiment = importlib.import_module(module).EXPERIMENT
    return found
