"""One contender of a benchmark: a separate process that works only when it is told to.

It is told first what it is, then what to do, and answers each order. Between two turns it waits and
should use no core; it reports any time that it does use.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
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
        """Become a contender, prepare a case, compute a check or take a turn; return the answer."""
        if order["do"] == "start":
            # Import what this contender needs, and nothing else.
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


def serve(job: Any, receive: Callable[[], Any], answer: Callable[[Any], None]) -> None:
    """Obey one order after another; `plasticity.runs.child` calls this."""
    server = Server()
    answered = time.process_time()
    while True:
        order = receive()
        # Anything computed since the last answer disturbed the others' measurements.
        idle = time.process_time() - answered
        try:
            found = server.obey(order)
        except Exception as error:
            found = {
                "failed": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            }
        answered = time.process_time()
        answer(found | {"idle_cpu_seconds": idle})
