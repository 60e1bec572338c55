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
    adam: np.ndarray  # learning rate, b1, b2, eps


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
    np.savez(path, inputs=world.inputs, labels=world.labels, adam=world.adam, **params)


def read_world(path: Path) -> World:
    """Return what `write_world` stored."""
    with np.load(path, allow_pickle=False) as stored:
        params = [stored[f"params_{k}"] for k in range(len(stored.files) - 3)]
        return World(stored["inputs"], stored["labels"], params, stored["adam"])


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


def distance(
    a: list[np.ndarray], b: list[np.ndarray], origin: list[np.ndarray] | None = None
) -> float:
    """Return |a - b| / |a - origin| over all arrays together, in Euclidean norm."""
    origin = origin or [np.zeros_like(x) for x in a]
    apart = sum(float(np.sum((x - y) ** 2.0)) for x, y in zip(a, b, strict=True))
    whole = sum(float(np.sum((x - y) ** 2.0)) for x, y in zip(a, origin, strict=True))
    return (apart / whole) ** 0.5


def in_double(world: World) -> World:
    """Return the same world in float64, for a check.

    In float32 equal computations part within a few steps: of a million inputs to ReLUs some lie
    within rounding of zero, fall on different sides of it, and have another gradient.
    """
    params = [leaf.astype(np.float64) for leaf in world.params]
    return world._replace(inputs=world.inputs.astype(np.float64), params=params)


TOLERANCE = CHECK_STEPS * float(np.finfo(np.float64).eps) ** 0.5
"""How far apart equal computations may end, in float64, relative to how far they went.

Sums in another order differ by about eps of their terms' size. Adam divides each entry of the
gradient by that entry's own size, so the error of an entry that is small by cancellation is
magnified: a share x of the entries lies below x times the usual size and gets an error of eps / x,
at most about 1. The root mean square over all entries is then about the root of eps, at each step.
"""
