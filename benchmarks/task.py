"""What all contenders share: a task's contract, the world it starts from, clock and distance."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

CHECK_STEPS = 20
"""Optimizer steps after which contenders must have the same parameters."""

LONG_BLOCK = 0.5
"""Seconds from which a turn's first block counts: waking up is then negligible."""

Named = TypeVar("Named", bound=tuple[Any, ...])
"""A NamedTuple whose fields are arrays or lists of arrays."""


class Case(Protocol):
    """The size of a problem: a NamedTuple of numbers and words."""

    @property
    def name(self) -> str:
        """What the JSON file calls it."""

    @property
    def columns(self) -> dict[str, str | int]:
        """Its columns in the table."""


class Task(Protocol):
    """The work of a contender on one case."""

    def reset(self) -> None:
        """Go back to the initial parameters and a fresh optimizer."""

    def block(self) -> int:
        """Take the steps of one block, wait until they are done, return how many."""

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """Train from the start on the minibatches given; return what must come out equal."""


def write_world(path: Path, world: Any) -> None:
    """Store the arrays, and lists of arrays, of a NamedTuple."""
    arrays: dict[str, np.ndarray] = {}
    for name, value in world._asdict().items():
        if isinstance(value, list):
            arrays |= {f"{name}_{k}": leaf for k, leaf in enumerate(value)}
        else:
            arrays[name] = value
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_world(path: Path | str, kind: type[Named]) -> Named:
    """Return what `write_world` stored, as ``kind``."""
    fields: dict[str, Any] = {}
    with np.load(path, allow_pickle=False) as stored:
        for name in kind._fields:  # type: ignore[attr-defined]
            leaves = [key for key in stored.files if key.startswith(f"{name}_")]
            fields[name] = stored[name] if name in stored else [stored[key] for key in leaves]
    return kind(**fields)


def in_double(world: Named) -> Named:
    """Return the same world in float64, for a check.

    In float32 equal computations diverge within a few steps: of a million inputs to ReLUs some lie
    within rounding of zero, fall on different sides of it, and get different gradients.
    """

    def double(value: Any) -> Any:
        if isinstance(value, list):
            return [double(leaf) for leaf in value]
        return value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value

    return type(world)(*map(double, world))  # type: ignore[call-arg]


def turn(task: Task, seconds: float) -> float:
    """Return steps per second from the initial state on, measured for at least ``seconds``.

    The first block, which wakes threads and fills caches, is not counted unless it is long.
    """
    task.reset()
    began = time.perf_counter()
    steps = task.block()
    if time.perf_counter() - began < LONG_BLOCK:
        steps, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not steps:
        steps += task.block()
    return steps / elapsed


def distance(
    a: Iterable[np.ndarray], b: Iterable[np.ndarray], origin: Iterable[np.ndarray] | None = None
) -> float:
    """Return |a - b| / |a - origin| over all arrays together, in Euclidean norm."""
    a = list(a)
    origin = origin or [np.zeros_like(x) for x in a]
    apart = sum(float(np.sum((x - y) ** 2.0)) for x, y in zip(a, b, strict=True))
    whole = sum(float(np.sum((x - y) ** 2.0)) for x, y in zip(a, origin, strict=True))
    return (apart / whole) ** 0.5


TOLERANCE = CHECK_STEPS * float(np.finfo(np.float64).eps) ** 0.5
"""How far apart equal computations may end, in float64, relative to how far they moved.

Sums in another order differ by about eps of their terms' size. Adam divides each entry of the
gradient by that entry's own size, which magnifies the error of an entry that is small by
cancellation. A share x of the entries lies below x times the usual size and gets an error of
eps / x, at most about 1. The root mean square over all entries is then about √eps, at each step.
"""
