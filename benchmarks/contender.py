"""One contender of `training_speed`: a process of its own that works only when it is told to.

It reads one JSON document a line from standard input, first what it is, then what to do, and
answers each on standard output. Between two turns it waits in a read and should take no core;
what it takes all the same it reports.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from task import Case, Task, compile_seconds, in_double, read_world, turn


def module_of(name: str) -> ModuleType:
    """Import what the named contender needs, and nothing that it does not."""
    return importlib.import_module("torch_contenders" if "torch" in name else "jax_contenders")


def obey(order: Mapping[str, Any], name: str, tasks: dict[Case, Task]) -> dict[str, Any]:
    """Prepare a case, train for a check, or take a turn; return the answer."""
    case, module = Case(*order["case"]), module_of(name)
    make = module.TASKS[name]
    if order["do"] == "prepare":
        tasks[case] = make(case, read_world(order["world"]))
        return {"compile_seconds": compile_seconds(tasks[case])}
    if order["do"] == "check":
        with module.double_precision():
            double = make(case, in_double(read_world(order["world"])))
            np.savez(order["out"], *double.check(np.load(order["indices"])))
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
