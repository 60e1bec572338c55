"""Executes notebooks, as many at a time as there are cores, each in a kernel of its own.

What `nbclient` does for one notebook, for several side by side. Each gets an equal share of the
cores for itself: an experiment starts one worker on each core that it may use, and two experiments
with two workers each on two cores would compile everything twice and wait for each other.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from nbclient import NotebookClient
from nbformat import NotebookNode


class Work(NamedTuple):
    """A notebook to execute, in place."""

    path: Path
    notebook: NotebookNode


def execute(
    waiting: Mapping[str, Work],
    timeout: float,
    *,
    begun: Callable[[str], object],
    done: Callable[[str, float], object],
    failed: Callable[[str, str], object],
) -> None:
    """Execute notebooks in the given order; one that fails stops no other.

    Args:
        waiting: name → the notebook; it runs in the folder of its file.
        timeout: of each cell, in seconds.
        begun: called with the name.
        done: called with the name and the seconds that it took.
        failed: called with the name, and which cell failed with what traceback.
    """
    names = list(waiting)
    if not names:
        return

    async def work_off(cores: list[int]) -> None:
        while names:
            name = names.pop(0)
            begun(name)
            since = time.monotonic()
            failure = await _failure(waiting[name], cores, timeout)
            if failure is None:
                done(name, time.monotonic() - since)
            else:
                failed(name, failure)

    async def work_off_all() -> None:
        async with asyncio.TaskGroup() as group:
            for cores in shares(len(names)):
                group.create_task(work_off(cores))

    _in_a_thread(work_off_all())


def shares(count: int) -> list[list[int]]:
    """Return the cores for each of the notebooks that run at a time, of ``count`` in all."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if has_affinity else list(range(os.cpu_count() or 1))
    slots = min(count, len(cores))
    return [cores[k::slots] for k in range(slots)]


async def _failure(work: Work, cores: list[int], timeout: float) -> str | None:
    """Execute one notebook; return why it failed, or None."""
    at = {"cell": 0}

    def note(cell: NotebookNode, cell_index: int) -> None:
        at["cell"] = cell_index + 1

    client = NotebookClient(
        work.notebook,
        timeout=timeout,
        resources={"metadata": {"path": str(work.path.parent)}},
        on_cell_start=note,
    )
    try:
        await _run(client, cores)
    except Exception as error:
        text = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip()  # no colours
        where = f"cell {at['cell']}" if at["cell"] else "before its first cell"
        return f"{work.path.name}, {where}: {type(error).__name__}\n{text}"
    return None


async def _run(client: NotebookClient, cores: list[int]) -> None:
    """Execute the client's notebook on some cores, and leave no kernel behind."""
    manager: Any = client.create_kernel_manager()
    try:
        await client.async_start_new_kernel()
        with suppress(AttributeError, OSError):  # not every system has this, or lets us
            os.sched_setaffinity(manager.provisioner.pid, cores)  # what it starts inherits them
        work = asyncio.ensure_future(client.async_execute())
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            # nbclient would ask a kernel that computes to shut itself down, and wait for it. Of its
            # sudden death it makes an orderly end.
            await manager.provisioner.kill()
            with suppress(Exception):
                await work
            raise
    finally:
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)


def _in_a_thread(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` in a thread; on Ctrl-C cancel it, and wait until its kernels are gone.

    In the main thread nbclient would take over the signals, and stop only one of several kernels.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)

    def drive() -> None:
        with suppress(BaseException):  # the task keeps it
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=drive, daemon=True)
    thread.start()
    try:
        while thread.is_alive():  # in slices, so that Ctrl-C is heard
            thread.join(0.2)
    except BaseException:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    task.result()
