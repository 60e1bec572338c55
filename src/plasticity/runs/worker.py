"""What a worker does: it runs the units that `plasticity.runs.pool` gives it, one by one.

It answers ``{"done": chunks}`` as it goes, and ``{"failed": reason}`` at the end of a unit; the
reason is null if the unit succeeded.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from plasticity import configuration
from plasticity.errors import Told
from plasticity.runs import experiment, pool, units
from plasticity.runs.budget import Budget


def work(
    job: Mapping[str, Any], receive: Callable[[], Any], answer: Callable[[Any], object]
) -> None:
    """Run units as they come, forever: `plasticity.runs.child` ends with its parent."""
    chosen = experiment.find(job["experiment"])
    config = configuration.from_dict(chosen.Config, job["config"])
    budget = Budget(job["deadline"])
    while True:
        arm, seeds, others = receive()
        unit, reason = pool.Unit(arm, tuple(seeds), tuple(others)), None
        try:
            for done in units.advance_unit(
                chosen, config, unit, Path(job["work"]), job["checkpoint_seconds"], budget
            ):
                answer({"done": done})
        except Exception as error:
            with suppress(OSError):  # the disk may be full, and the reason has to arrive
                traceback.print_exc()  # whole, in the worker's log
            reason = str(error) if isinstance(error, Told) else f"{type(error).__name__}: {error}"
        answer({"failed": reason})
