"""What the contenders of `training_speed` share: the case, the world they start from, the clock."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

CHECK_STEPS = 20
"""Optimizer steps after which contenders must have the same parameters."""


class Case(NamedTuple):
    """What is trained: Fig. 1's network, at some width, on minibatches of some size."""

    width: int  # units a hidden layer
    batch_size: int  # images
    n_images: int
    block: int  # optimizer steps between two looks at the clock


class World(NamedTuple):
    """What every contender starts from, bit for bit."""

    inputs: np.ndarray  # (images, 784), standardised
    labels: np.ndarray  # (images,), random
    params: list[np.ndarray]  # (bias, kernel) of the first layer, of the second, of the third


class Task(Protocol):
    """The work of a contender on one case."""

    def reset(self) -> None:
        """Go back to the initial parameters and a fresh optimizer."""

    def block(self) -> int:
        """Take the steps of one block, wait until they are done, return how many."""

    def check(self, indices: np.ndarray) -> list[np.ndarray]:
        """Train from the start on these minibatches; return the parameters in World's order."""


def write_world(path: Path, world: World) -> None:
    """Store a world for the contenders to read."""
    params = {f"params_{k}": leaf for k, leaf in enumerate(world.params)}
    np.savez(path, inputs=world.inputs, labels=world.labels, **params)


def read_world(path: Path) -> World:
    """Return what `write_world` stored."""
    with np.load(path, allow_pickle=False) as stored:
        params = [stored[f"params_{k}"] for k in range(len(stored.files) - 2)]
        return World(stored["inputs"], stored["labels"], params)


def turn(task: Task, seconds: float) -> float:
    """Return steps per second from the initial state on, measured for at least ``seconds``.

    A first block, which wakes threads and caches up, is not counted.
    """
    task.reset()
    task.block()
    steps, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not steps:
        steps += task.block()
    return steps / elapsed


def compile_seconds(task: Task) -> float:
    """Return what the very first block takes beyond a second one."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        task.block()
        times.append(time.perf_counter() - began)
    return max(0.0, times[0] - times[1])
