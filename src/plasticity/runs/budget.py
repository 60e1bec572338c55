"""A limit on the time of a run, which then stops by itself, ready to be resumed."""

from __future__ import annotations

import time
from dataclasses import dataclass

from plasticity import configuration
from plasticity.errors import Told

MARGIN = 1.25
"""A chunk is begun if there is this many times the time that it is expected to take."""


LAST = 3.0
"""Seconds before the end at which what is not done is dropped, to say so in time."""


class OutOfTime(Told, RuntimeError):
    """A run has used up its time; all that it did is kept, and the same command goes on."""

    status = 75  # EX_TEMPFAIL of sysexits.h: "the user is invited to retry"


@dataclass
class Budget:
    """When a run has to stop, and how long its chunks have taken so far in this process.

    >>> from plasticity.runs.budget import Budget
    >>> budget = Budget.of(minutes=1)
    >>> budget.note(computing=50.0, compiling=0.0)
    >>> budget.allows(compiled=0.0), Budget(None).allows(compiled=0.0)
    (False, True)
    """

    deadline: float | None  # of `time.monotonic`, which all processes of a machine share
    computing: float = 0.0  # seconds of the longest chunk, apart from compiling
    compiling: float = 0.0  # seconds of all compiling for a unit, the longest

    @classmethod
    def of(cls, minutes: float | None) -> Budget:
        """Return the budget that begins now; None is without a limit.

        Raises `configuration.ConfigError` unless there is some time.
        """
        if minutes is None:
            return cls(None)
        configuration.require(minutes > 0, f"minutes = {minutes}: must be above 0")
        return cls(time.monotonic() + max(0.0, 60 * minutes - LAST))

    def left(self) -> float:
        """Return the seconds that are left: infinitely many without a limit, none at its end."""
        return float("inf") if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def allows(self, compiled: float) -> bool:
        """Return whether another chunk would fit in.

        ``compiled`` is how many seconds went into compiling for its unit already.
        """
        return self.left() > MARGIN * (self.computing + max(0.0, self.compiling - compiled))

    def note(self, computing: float, compiling: float) -> None:
        """Learn from a chunk how long it computed, and its unit has compiled."""
        self.computing = max(self.computing, computing)
        self.compiling = max(self.compiling, compiling)
