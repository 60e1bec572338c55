"""What `training_speed` trains: Fig. 1's network, and the world its contenders start from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """What is trained: Fig. 1's network, at some width, on minibatches of some size."""

    width: int  # units a hidden layer
    batch_size: int  # images
    n_images: int
    block: int  # optimizer steps between two looks at the clock

    @property
    def name(self) -> str:
        return f"width {self.width}, batch {self.batch_size}"

    @property
    def columns(self) -> dict[str, str | int]:
        return {"batch_size": self.batch_size, "width": self.width}


class World(NamedTuple):
    """What every contender starts from, bit for bit."""

    inputs: np.ndarray  # (images, 784), standardised
    labels: np.ndarray  # (images,), random
    params: list[np.ndarray]  # (bias, kernel) of the first layer, of the second, of the third
    adam: np.ndarray  # learning rate, b1, b2, eps
