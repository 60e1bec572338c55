"""One contender of `training_speed`: a process of its own that works only when it is told to.

It reads one JSON document a line from standard input, first what it is, then what to do, and
answers each on standard output. Between two turns it waits in a read and should take no core;
what it takes all the same it reports.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from task import Case, Task, World, compile_seconds, read_world, turn


def maker(name: str) -> Callable[[Case, World], Task]:
    """Return what builds the tasks of the named contender; import nothing that it does not use."""
    if name.startswith("torch"):
        import torch_contenders

        return torch_contenders.TASKS[name]
    import jax_contenders

    return jax_contenders.TASKS[name]


def obey(order: Mapping[str, Any], name: str, tasks: dict[Case, Task]) -> dict[str, Any]:
    """Prepare a case, train for a check, or take a turn; return the answer."""
    case = Case(*order["case"])
    if order["do"] == "prepare":
        tasks[case] = maker(name)(case, read_world(order["world"]))
        return {"compile_seconds": compile_seconds(tasks[case])}
    if order["do"] == "check":
        np.savez(order["out"], *tasks[case].check(np.load(order["indices"])))
        return {}
    return {"steps_per_second": turn(tasks[case], order["seconds"])}


def main() -> None:
    """Serve until standard input ends."""
    # Libraries print to standard output as they like; the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    if job["core"] is not None:
        os.sched_setaffinity(0, {job["core"]})  # before any library counts the cores
    tasks: dict[Case, Task] = {}
    answered = time.process_time()
    for line in sys.stdin:
        # What was computed since the last answer disturbed the others' measurements.
        idle = time.process_time() - answered
        try:
            answer = obey(json.loads(line), job["contender"], tasks)
        except Exception as error:
            answer = {
                "failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            }
        answered = time.process_time()
        answers.write(json.dumps(answer | {"idle_cpu_seconds": idle}) + "\n")


if __name__ == "__main__":
    main()
