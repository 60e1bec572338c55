"""Ways to kill: each starts a scene's command, waits for a moment drawn at random, and kills."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from random import Random
from typing import NamedTuple

from .scenes import PATIENCE, Place, Unexpected


class Missed(Exception):
    """The command ended, or never did what it was to be killed at."""


class Usual(NamedTuple):
    """What a scene's command does when nobody disturbs it."""

    seconds: float  # it takes
    chunks: int  # of all units
    events: Mapping[str, int]  # kind → how many


class Kill(NamedTuple):
    """A process was killed."""

    moment: str  # in words
    killed: str  # what
    seconds: float  # after the command's start


Way = Callable[[Place, Usual, Random], Kill]

# From outside.


def any_time(place: Place, usual: Usual, random: Random) -> Kill:
    """All processes of the command, at a moment of its whole time."""
    after = random.uniform(0.0, usual.seconds)
    place.start()
    sleep(place, after)
    return all_at_once(place, f"after {after / usual.seconds:.0%} of its time")


def in_a_chunk(place: Place, usual: Usual, random: Random) -> Kill:
    """All processes, after a checkpoint and before the next is due."""
    place.start()
    moment = wait_for_checkpoints(place, usual, random)
    return all_at_once(place, moment)


def one(word: str, called: str, says: str = "") -> Way:
    """Return the way to kill one process, with ``word`` in its command line, while it computes.

    If the command fails by that, it has to say so: ``says`` is among what it prints.
    """

    def way(place: Place, usual: Usual, random: Random) -> Kill:
        place.start()
        moment = wait_for_checkpoints(place, usual, random)
        if not (found := sorted(place.processes(word))):
            raise Missed
        kill = Kill(moment, called, time.monotonic() - place.began)
        with suppress(ProcessLookupError):
            os.kill(random.choice(found), signal.SIGKILL)
        if (status := place.wait()) and says not in place.said():
            raise Unexpected(f"status {status}, without {says!r}:\n{place.said()}")
        return kill

    return way


def all_at_once(place: Place, moment: str) -> Kill:
    """Kill the command's process group."""
    assert place.process is not None
    if place.process.poll() is not None:
        raise Missed
    kill = Kill(moment, "all processes", time.monotonic() - place.began)
    os.killpg(place.process.pid, signal.SIGKILL)
    place.wait()
    return kill


def wait_for_checkpoints(place: Place, usual: Usual, random: Random) -> str:
    """Wait until some more chunks are checkpointed, and for a part of the next; say so."""
    before = place.chunks_done()
    if before >= usual.chunks - 1:
        raise Missed
    more, part = random.randrange(1, usual.chunks - before), random.uniform(0.0, 0.3)
    for _ in until(place):
        if place.chunks_done() >= before + more:
            sleep(place, part)
            break
    done = place.chunks_done()
    return f"with {done} of {usual.chunks} chunks done"


def until(place: Place) -> Iterator[None]:
    """Yield every few milliseconds until the command ends, which raises `Missed`.

    Raises `Unexpected` if it goes on and on.
    """
    assert place.process is not None
    while place.process.poll() is None:
        yield
        time.sleep(0.005)
        if time.monotonic() > place.began + PATIENCE:
            raise Unexpected(f"{place.scene.name} goes on and on\n{place.said()}")
    raise Missed


def sleep(place: Place, seconds: float) -> None:
    """Wait. Raises `Missed` if the command ends before."""
    end = time.monotonic() + seconds
    for _ in until(place):
        if time.monotonic() >= end:
            return


# From inside, by the hook.

NAMES = {
    "write": ("", "", "records_", "state_", "results.csv|arrays.npz|run.json"),
    "rename": ("", "records_", "state_", "results.csv|arrays.npz|run.json"),
    "remove": ("",),
}
"""Event → patterns of the files at which to kill; the empty one is any."""


def at(
    event: str, how: str, *, name: str | None = None, under: str = "", share: float | None = None
) -> Way:
    """Return the way to kill at an event: a rename, a file that is removed or written.

    Args:
        event: as `kills.hook.sitecustomize` calls it.
        how: "before" or "after" it; "bytes": when the first bytes of a file have been written.
        name: a pattern of the files that count; by default one of `NAMES` is drawn.
        under: the folder in which they lie, of the place; by default that of the runs.
        share: which of these events, as a share of all; drawn by default.
    """

    def way(place: Place, usual: Usual, random: Random) -> Kill:
        pattern = random.choice(NAMES[event]) if name is None else name
        of_pattern = {"": usual.events[event], "records_": usual.chunks, "state_": usual.chunks}
        most = of_pattern.get(pattern, pattern.count("|") + 1)
        drawn = random.random() if share is None else share
        if pattern in of_pattern:  # a run that is resumed has fewer events
            drawn *= 1 - place.chunks_done() / usual.chunks
        place.seconds = 0.0  # as in what is usual: else there are fewer, too
        group = how != "bytes" and random.random() < 0.5
        size = int(10 ** random.uniform(0.0, 4.5)) if how == "bytes" else 0
        place.start(
            event=event, how=how, name=pattern, number=1 + int(most * drawn), bytes=size,
            group=group, under=str(place.folder / under) if under else str(place.runs),
        )  # fmt: skip
        status = place.wait()
        told = place.told()
        if not told or (how == "bytes" and not status and place.recorded()):
            raise Missed
        what = "all processes" if group else "the process that did it"
        where = told["path"].removeprefix(f"{place.folder}/")
        moment = f"{how} the {event} of {where}"
        if how == "bytes":
            moment = f"with {size} bytes of {_of_size(place, size) or 'a file'} written"
        return Kill(moment, what, told["time"] - place.began)

    return way


def _of_size(place: Place, size: int) -> str:
    """Return the newest file of so many bytes."""
    found = [
        path
        for name in ("papermill_runs", "home", "out")
        for path in (place.folder / name).rglob("*")
        if path.is_file() and path.stat().st_size == size
    ]
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return "" if newest is None else newest.relative_to(place.folder).as_posix()
