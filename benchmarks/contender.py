"""One contender of a benchmark: a process of its own that works only when it is told to.

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
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import numpy as np
from comparisons import ENTRIES
from table import Entry
from task import Task, in_double, read_world, turn


class Server:
    """What a contender knows from one order to the next."""

    def __init__(self) -> None:
        self.entry: Entry | None = None
        self.module: ModuleType | None = None
        self.tasks: dict[Any, Task] = {}

    def obey(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Become somebody, prepare a case, train for a check, or take a turn; return the answer."""
        if order["do"] == "start":
            if order["core"] is not None:
                os.sched_setaffinity(0, {order["core"]})  # before any library counts the cores
            # What the contender needs, and nothing that it does not.
            self.entry = ENTRIES[order["contender"]]
            self.module = importlib.import_module(self.entry.module)
            return {}
        assert self.entry is not None and self.module is not None
        case = self.module.Case(*order["case"])
        if order["do"] == "prepare":
            self.tasks[case] = self.entry.task(case, read_world(order["world"], self.module.World))
            began = time.perf_counter()
            steps = self.tasks[case].block()
            return {"seconds": time.perf_counter() - began, "steps": steps}
        if order["do"] == "check":
            world, precision = read_world(order["world"], self.module.World), nullcontext
            if order["double"]:
                world, precision = in_double(world), self.module.double_precision
            with precision():
                np.savez(order["out"], *self.entry.task(case, world).check(np.load(order["given"])))
            return {}
        return {"steps_per_second": turn(self.tasks[case], order["seconds"])}


def main() -> None:
    """Serve until standard input ends."""
    # Libraries print to standard output as they like; the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    server = Server()
    answered = time.process_time()
    for line in sys.stdin:
        # What was computed since the last answer disturbed the others' measurements.
        idle = time.process_time() - answered
        try:
            answer = server.obey(json.loads(line))
        except Exception as error:
            answer = {
                "failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            }
        answered = time.process_time()
        answers.write(json.dumps(answer | {"idle_cpu_seconds": idle}) + "\n")


if __name__ == "__main__":
    main()
