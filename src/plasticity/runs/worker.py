"""A process that runs units for `plasticity.runs.driver`, pinned to one core.

It reads its job and then units from standard input, one JSON document a line, and answers on
standard output: ``{"done": chunks}`` as it goes, and ``{"failed": reason}`` at the end of a unit,
the reason being null if it did not. When standard input ends, so does it, at once: the driver may
have been killed, and nobody would read its work.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any


def main() -> None:
    """Serve units until standard input ends."""
    # Libraries print to standard output as they like; the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # A terminal sends Ctrl-C to the workers too: it is the driver's to stop them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = json.loads(sys.stdin.readline())
    if job["core"] is not None:
        os.sched_setaffinity(0, {job["core"]})  # before jax counts the cores
    units: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(units,), daemon=True).start()
    _work(job, units, lambda message: answers.write(json.dumps(message) + "\n"))


def _listen(units: queue.SimpleQueue[Any]) -> None:
    for line in sys.stdin:
        units.put(json.loads(line))
    os._exit(0)


def _work(job: dict[str, Any], units: queue.SimpleQueue[Any], answer: Any) -> None:
    import traceback
    from pathlib import Path

    from plasticity import configuration
    from plasticity.runs import experiment, pool
    from plasticity.runs import units as work

    chosen = experiment.find(job["experiment"])
    config = configuration.from_dict(chosen.Config, job["config"])
    while True:
        arm, seeds = units.get()
        unit, reason = pool.Unit(arm, tuple(seeds)), None
        try:
            for done in work.advance_unit(
                chosen, config, unit, Path(job["work"]), job["checkpoint_seconds"]
            ):
                answer({"done": done})
        except Exception as error:
            traceback.print_exc()  # whole, in the worker's log
            reason = f"{type(error).__name__}: {error}"
        answer({"failed": reason})


if __name__ == "__main__":
    main()
