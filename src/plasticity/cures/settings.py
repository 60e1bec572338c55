"""Settings of the events of §6.2 and B.1, each a small frozen dataclass that makes its cure.

``kind`` names it in files and on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import optax

from plasticity import configuration
from plasticity.cure import Cure
from plasticity.cures import resets
from plasticity.networks.trace import Path


class Patient(NamedTuple):
    """What a cure needs to know about the network that it is for."""

    init: resets.Init  # draws fresh parameters
    last: Path  # its last layer
    optimizer: optax.GradientTransformation
    every: int  # optimizer steps between two events


@dataclass(frozen=True)
class ResetLastLayer:
    """Redraw the last layer.

    >>> from plasticity.cures import settings
    >>> settings.ResetLastLayer().kind
    'reset_last_layer'
    """

    kind: Literal["reset_last_layer"] = "reset_last_layer"

    def cure(self, patient: Patient) -> Cure:
        """Return the cure."""
        return resets.reset_layer(patient.init, patient.optimizer, patient.last, patient.every)


@dataclass(frozen=True)
class ShrinkAndPerturb:
    """Shrink the weights and add those of a fresh network.

    >>> from plasticity.cures import settings
    >>> settings.ShrinkAndPerturb(shrink=0.8).perturb
    1.0
    """

    kind: Literal["shrink_and_perturb"] = "shrink_and_perturb"
    shrink: float = 0.5  # "a small scalar"; not in the paper
    perturb: float = 1.0  # "equal to the weights of a randomly initialized network"

    def __post_init__(self) -> None:
        """Refuse negative or infinite strengths."""
        configuration.check(self)
        for name in ("shrink", "perturb"):
            value = getattr(self, name)
            configuration.require(value >= 0, f"{name} = {value}: must not be below 0")

    def cure(self, patient: Patient) -> Cure:
        """Return the cure."""
        return resets.shrink_and_perturb(patient.init, self.shrink, self.perturb, patient.every)


@dataclass(frozen=True)
class ResetOptimizer:
    """Forget the optimizer's state.

    >>> from plasticity.cures import settings
    >>> settings.ResetOptimizer().kind
    'reset_optimizer'
    """

    kind: Literal["reset_optimizer"] = "reset_optimizer"

    def cure(self, patient: Patient) -> Cure:
        """Return the cure."""
        return resets.reset_optimizer(patient.optimizer, patient.every)


Event = ResetLastLayer | ShrinkAndPerturb | ResetOptimizer
