"""What `agent_speed` trains and probes: an agent's network, and the world its contenders share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CHECK_PERIOD = 10
"""Steps between two target copies in a check, so that it sees some; 1,000 when timed."""

PROBE_CHECK_STEPS = 50
"""Steps of a probe's fit in a check: the shortest there is."""


class Case(NamedTuple):
    """An agent, or probes of one, at some size."""

    network: str  # "mlp" or "cnn"
    width: int  # units of each hidden layer, in the CNN of the fully connected ones
    channels: int  # of each convolution
    batch_size: int  # transitions, or a probe's inputs
    n_images: int
    steps: int  # of a call of `dqn.train`, or of one fit
    block: int  # steps of whoever trains step by step, between two looks at the clock
    targets: int = 0  # that a process fits in a row; 0: this is training and no probe

    @property
    def name(self) -> str:
        kind = "probe" if self.targets else "agent"
        return f"{kind}, {self.network} {self.width}, batch {self.batch_size}"

    @property
    def columns(self) -> dict[str, str | int]:
        return {"network": self.network, "batch_size": self.batch_size}


class World(NamedTuple):
    """What every contender starts from, bit for bit."""

    images: np.ndarray  # (images, height, width, channels), standardised
    labels: np.ndarray  # (images,), the true ones
    params: list[np.ndarray]  # (bias, kernel) of each layer
    adam: np.ndarray  # learning rate, b1, b2, eps
    settings: np.ndarray  # see `Settings`
    targets: np.ndarray  # (targets, images, 10): what a probe fits


class Settings(NamedTuple):
    """What of an agent stands in `World.settings`, in this order."""

    discount: float
    epsilon: float
    warmup: float
    capacity: float
    target_period: float
