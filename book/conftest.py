"""nbval runs chapters side by side, in as many processes as pytest is told to start."""

from __future__ import annotations

import os


def pytest_configure() -> None:
    """Give each process, and the kernels that it starts, an equal share of the cores.

    An experiment starts a worker on each core that it may use. Two experiments with two workers
    each on two cores would trace and compile everything twice, and wait for each other.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    cores, count = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    if own := cores[int(worker.removeprefix("gw")) :: count]:
        os.sched_setaffinity(0, own)
