"""Worker processes that share the units of a run, one pinned to each core.

Each is a `plasticity.runs.worker` at the other end of a pipe, and gets its next unit when it is
done with the last. A worker that dies fails only its current unit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from plasticity.runs import child, files
from plasticity.runs.budget import Budget

WORK = "plasticity.runs.worker:work"
"""The function that a worker calls."""


class Unit(NamedTuple):
    """What is checkpointed and resumed separately: an arm on a seed, or many of them in step."""

    arm: str
    seeds: tuple[int, ...]
    others: tuple[str, ...] = ()  # further arms, each on these seeds

    @property
    def lanes(self) -> list[tuple[str, int]]:
        """Each arm on each seed."""
        return [(arm, seed) for arm in (self.arm, *self.others) for seed in self.seeds]

    def __str__(self) -> str:
        """Name the arms and seeds."""
        more = f" and {len(self.others)} more" if self.others else ""
        seeds = "seed" if len(self.seeds) == 1 else "seeds"
        return f"{self.arm}{more}, {seeds} {', '.join(map(str, self.seeds))}"


def run(
    job: Mapping[str, Any],
    parts: Sequence[Unit],
    lock: int,
    cores: Sequence[int | None],
    logs: Path,
    *,
    budget: Budget,
    environment: Mapping[str, str | None],
    shared: Mapping[str, Hashable],
    advanced: Callable[[int], object],
    failed: Callable[[Unit, str], None],
) -> None:
    """Run the units, one worker on each core, as far as the budget allows.

    Args:
        job: what `plasticity.runs.worker` reads first, without its core.
        parts: the units, in the order in which they should be begun.
        lock: descriptor of the work folder's lock, which the workers hold too.
        cores: one worker for each; a None is a worker that is not pinned.
        logs: the folder for what the workers print, a file for each core.
        budget: when it is spent, workers are killed in the middle of what they do.
        environment: variables of the workers in addition to this process's; a None takes one away.
        shared: name of an arm → the same value for arms that share compiled programs.
        advanced: called with the number of chunks whenever some are done.
        failed: called with each unit that failed and the reason.

    Raises `files.ResultsError` if no worker can be started, and what ``advanced`` and ``failed``
    raise, such as BrokenPipeError where nobody reads any more.
    """
    waiting, stopping = Waiting(parts, shared), threading.Event()
    processes: list[subprocess.Popen[str]] = []
    threads: list[threading.Thread] = []
    deaths, raised = list[str](), list[Exception]()

    def serve(process: subprocess.Popen[str], log: Path) -> None:
        try:
            _serve(process, waiting, advanced, failed, stopping, budget, log, deaths)
        except Exception as error:  # a thread would only print it
            raised.append(error)

    try:
        for core in cores:
            log = logs / f"worker_{core}.log"
            processes.append(_started(dict(job), core, log, lock, environment))
            threads.append(threading.Thread(target=serve, args=(processes[-1], log), daemon=True))
            threads[-1].start()
        for thread in threads:  # in slices, so that Ctrl-C is heard
            while thread.is_alive() and budget.left() and not raised:
                thread.join(min(0.2, budget.left()))
    finally:
        stopping.set()
        for process in processes:
            process.kill()
        for thread in threads:  # each notices when its worker ends, and closes the pipes
            thread.join()
    for error in raised:
        raise error
    while budget.left() and (unit := waiting.take(None)):  # only if every worker died
        failed(unit, "; the last one ".join(["no worker was left to run it", *deaths[-1:]]))


def _started(
    job: Mapping[str, Any],
    core: int | None,
    log: Path,
    lock: int,
    environment: Mapping[str, str | None],
) -> subprocess.Popen[str]:
    """Start a worker. Raises `files.ResultsError` if that fails, or its log cannot be written."""
    try:
        return child.start(WORK, job, core=core, log=log, inherit=[lock], environment=environment)
    except OSError as error:
        if error.filename == str(log):
            raise files.cannot_write(log, error) from error
        raise files.ResultsError(
            f"cannot start a worker ({error}): end other processes, or take fewer --workers; then "
            "the same command resumes"
        ) from error


class Waiting:
    """The units that no worker has begun, handed out so that few workers compile the same arm."""

    def __init__(self, parts: Sequence[Unit], shared: Mapping[str, Hashable]) -> None:
        """Take the units in the order in which they should be begun.

        Arms that have equal values in ``shared`` share compiled programs.
        """
        self.units, self.shared, self.lock = list(parts), shared, threading.Lock()
        self.begun = set[Hashable]()

    def take(self, arm: str | None) -> Unit | None:
        """Return the next unit for a worker that last ran ``arm``; None if none is left.

        Prefer a unit with the same programs, then one with programs that no worker has compiled,
        then the first that is left.
        """
        with self.lock:
            if not self.units:
                return None
            now = None if arm is None else self.shared[arm]
            same = [] if arm is None else [u for u in self.units if self.shared[u.arm] == now]
            unbegun = [unit for unit in self.units if self.shared[unit.arm] not in self.begun]
            unit = (same or unbegun or self.units)[0]
            self.units.remove(unit)
            self.begun.add(self.shared[unit.arm])
            return unit


def usable_cores() -> list[int | None]:
    """Return the cores that this process may use; a None for each where pinning is impossible."""
    if hasattr(os, "sched_getaffinity"):
        return list(sorted(os.sched_getaffinity(0)))
    return [None] * (os.cpu_count() or 1)


def _serve(
    process: subprocess.Popen[str],
    waiting: Waiting,
    advanced: Callable[[int], object],
    failed: Callable[[Unit, str], None],
    stopping: threading.Event,
    budget: Budget,
    log: Path,
    deaths: list[str],
) -> None:
    """Give units to one worker while some are left and time is; report each chunk, and failures.

    How it died, if it did, is added to ``deaths``. A worker that this process killed because it is
    ``stopping`` does not count as failed.
    """
    try:
        arm = None
        while budget.left() and (unit := waiting.take(arm)):
            arm, last = unit.arm, 0
            try:
                for message in _answers(process, unit):
                    if "done" in message:
                        advanced(message["done"] - last)
                        last = message["done"]
                    elif message["failed"]:
                        failed(unit, message["failed"])
            except EOFError:
                if not stopping.is_set():
                    deaths.append(_death(process, log))
                    failed(unit, f"its worker {deaths[-1]}")
                return
    finally:
        with suppress(BrokenPipeError), process:  # a dead one does not take what was not yet sent
            pass


def _answers(process: subprocess.Popen[str], unit: Unit) -> Iterator[Mapping[str, Any]]:
    """Give a unit to a worker; yield what it answers. Raises EOFError if the worker dies."""
    message: Mapping[str, Any] = {}
    while "failed" not in message:
        try:
            if not message:
                child.tell(process, unit)
            message = child.hear(process)
        except (BrokenPipeError, ValueError):  # the pipe ends, perhaps in the middle of a line
            raise EOFError from None
        yield message


LAST_WORDS = 300
"""The most characters of a log that a reason repeats."""


def _death(process: subprocess.Popen[str], log: Path) -> str:
    """Return how a worker died, and the last line of what it printed."""
    try:
        status = process.wait(timeout=10)
    except subprocess.TimeoutExpired:  # it closed its pipe, and goes on
        return f"closed its pipe; see {log}"
    how = ended(status)
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        if last := next((line.strip() for line in reversed(lines) if line.strip()), ""):
            return f"{how}; the last line of {log}: {last[:LAST_WORDS]}"
    return f"{how}, and printed nothing"


def ended(status: int) -> str:
    """Say how a process ended, from what `subprocess` calls its exit status.

    >>> from plasticity.runs import pool
    >>> pool.ended(-9)
    'was killed by SIGKILL (out of memory?)'
    """
    if status >= 0:
        return f"ended with exit status {status}"
    known = {int(one): one.name for one in signal.Signals}
    memory = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"was killed by {known.get(-status, f'signal {-status}')}{memory}"
