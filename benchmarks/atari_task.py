"""What `atari_speed` steps and trains: a game, and the world that its contenders share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CHECK_PERIOD = 10
"""Updates between two target copies in a check, so that it sees some; 7,500 when timed."""

STACK = 4
"""Frames in an observation."""


class Case(NamedTuple):
    """Environments that only step, or one with an agent that learns."""

    environments: int  # that step together; an agent has one
    batch_size: int  # transitions; 0: nobody learns
    updates: int  # between two looks at the clock; who only steps takes as many frames as these
    capacity: int = 10_000  # transitions in the buffer
    filled: int = 1_000  # random actions in it before an agent is timed
    size: int = 84  # pixels: height and width of a frame
    game: str = "freeway"

    @property
    def name(self) -> str:
        if not self.batch_size:
            return f"{self.game}, environments: {self.environments}"
        return f"{self.game}, batch {self.batch_size}"

    @property
    def columns(self) -> dict[str, str | int]:
        return {"network": "nature", "batch_size": self.batch_size or self.environments}


class World(NamedTuple):
    """What every contender starts from, bit for bit."""

    params: list[np.ndarray]  # (bias, kernel) of each layer; of the last one kernel, shared bias
    settings: np.ndarray  # see `Settings`


class Settings(NamedTuple):
    """What of an agent stands in `World.settings`, in this order."""

    discount: float
    epsilon: float
    frame_skip: float
    learn_period: float  # frames
    target_period: float  # frames
    error_bound: float  # of Huber's loss
    learning_rate: float  # this and the next two are centred RMSProp's
    decay: float
    optimizer_epsilon: float  # inside the root, as dqn_zoo and optax have it


def batch_type(case: Case) -> np.dtype:
    """Return the type of a minibatch: one array of these holds all that a check learns from."""
    frames = (case.batch_size, STACK + 1, case.size, case.size)  # observation, and the frame after
    return np.dtype(
        [
            ("frames", np.uint8, frames),
            ("action", np.int32, case.batch_size),
            ("reward", np.float32, case.batch_size),
            ("discount", np.float32, case.batch_size),
        ]
    )
