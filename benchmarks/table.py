"""What a benchmark compares: tables of contenders, each with its description and its code."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from task import TOLERANCE, Task


class Entry(NamedTuple):
    """A contender: its name, the code that does its work, and how.

    It is declared with the problem that it solves and not in the module of its code, because its
    description is read where PyTorch is not installed.
    """

    name: str  # in the recorded tables
    words: str  # in the tables that are shown
    code: str  # of its `Task`: module and class
    options: Mapping[str, Any] = MappingProxyType({})  # of the class
    pinned: bool = False  # a process pinned to each core, rates added up; else one on all cores
    checked: bool = True  # False if a checked contender does the same work
    tolerance: float = TOLERANCE  # in a check; larger for one that rounds more than others

    @property
    def module(self) -> str:
        """Return the module of its code."""
        return self.code.partition(".")[0]

    def task(self, case: Any, world: Any) -> Task:
        """Return its work on a case, starting from a world; imports what it needs."""
        kind = getattr(importlib.import_module(self.module), self.code.partition(".")[2])
        made: Task = kind(case, world, **self.options)
        return made


class Table(NamedTuple):
    """Contenders that are compared with each other."""

    benchmark: str  # the script that measures it, and its files' name
    ours: str  # whose rate is the numerator of the ratios
    heading: str  # of the rates and of the ratios
    entries: tuple[Entry, ...]  # in the order in which they are shown
    form: str = "{:.2f} ×"  # of a ratio
    rate: str = "steps"  # what sentences call the thing that is counted
    seconds: bool = False  # show how long one takes, not how many there are per second
    size: str = "batch"  # what ``batch_size`` counts

    @property
    def peers(self) -> tuple[str, ...]:
        """Return those in PyTorch, the default (eager on all cores) first."""
        return tuple(entry.name for entry in self.entries if entry.module.endswith("_torch"))
