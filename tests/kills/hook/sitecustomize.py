"""Python imports this at every start, if its folder is in PYTHONPATH: it kills at a chosen write.

The folder in KILLS_PLACE has the order, ``order.json``: at which event, counted over all processes,
and how. Without an order events are only counted. The package itself is left as it is, except that
units are checkpointed as often as KILLS_SECONDS says: a run of some seconds has no checkpoint else.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PLACE, RUNS = os.environ.get("KILLS_PLACE", ""), os.environ.get("PLASTICITY_RUNS", "")
EVENTS = {"open": "write", "os.rename": "rename", "os.remove": "remove", "os.rmdir": "remove"}
"""Python's own event → how an order calls it. Deleting a folder is many events."""

last_words = threading.local()


def where(path: Any, folder: Any = -1) -> str:
    """Return an event's path in full; it may be relative to an open folder."""
    if not isinstance(path, str | bytes | os.PathLike):
        return ""  # an open file
    if isinstance(folder, int) and folder >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fspath(path))
    return os.path.abspath(os.fsdecode(path))


def hear(event: str, arguments: tuple[Any, ...]) -> None:
    """Kill this process if the order is for this event; called before it happens."""
    if event not in EVENTS or getattr(last_words, "busy", False):
        return
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return
    last_words.busy = True
    try:
        path = where(arguments[0], arguments[-1] if EVENTS[event] == "remove" else -1)
        if path.startswith(order().get("under", RUNS)) and count(EVENTS[event]):
            obey(EVENTS[event], path)
    finally:
        last_words.busy = False


def order() -> dict[str, Any]:
    """Return the order; it is empty if there is none, or if it was carried out already."""
    try:
        with open(os.path.join(PLACE, "order.json")) as file:
            found: dict[str, Any] = json.load(file)
    except FileNotFoundError:
        return {}
    return found


def count(event: str) -> bool:
    """Count an event, and return whether there is an order that is for events of this kind."""
    with open(os.path.join(PLACE, f"count.{event}"), "ab") as file:
        file.write(b".")
    return order().get("event") == event


def obey(event: str, path: str) -> None:
    """Carry out the order if this is the event that it waits for, or note that it has come nearer.

    A ``name`` in the order is a pattern: only events on such files count for it.
    """
    given = order()
    if not re.search(given.get("name", ""), path):
        return
    with open(os.path.join(PLACE, "waited"), "ab") as file:
        file.write(b".")
        file.flush()
        if file.tell() != given["number"]:
            return
    if given["how"] == "after":
        last_words.given = (event, path, given)  # `then_die`
    elif given["how"] == "before":
        die(event, path, given)
    else:
        tell(event, path)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # The kernel writes this much of a file and kills the process for the next byte.
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (given["bytes"], most))


def then_die(rename: Callable[..., None]) -> Callable[..., None]:
    """Return the function, which kills this process after the rename for which the order is."""

    def renamed(*arguments: Any, **options: Any) -> None:
        rename(*arguments, **options)
        if given := getattr(last_words, "given", None):
            die(*given)

    return renamed


def tell(event: str, path: str) -> None:
    """Leave word of who is killed, at what."""
    told = {"pid": os.getpid(), "event": event, "path": path, "time": time.monotonic()}
    with open(os.path.join(PLACE, "told.json"), "w") as file:
        json.dump(told, file)


def die(event: str, path: str, given: dict[str, Any]) -> None:
    """Kill this process, or its whole group."""
    last_words.given, last_words.busy = None, True
    tell(event, path)
    os.kill(0 if given["group"] else os.getpid(), signal.SIGKILL)


class Often(MetaPathFinder):
    """Gives experiments another default for the seconds between two checkpoints."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "plasticity.runs.experiment":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            made = module.Experiment.__init__
            seconds = float(os.environ["KILLS_SECONDS"])
            made.__defaults__ = tuple(
                seconds if value == module.CHECKPOINT_SECONDS else value
                for value in made.__defaults__
            )

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if PLACE:
    # The limit by which a parent is killed is not for those that it starts.
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.meta_path.insert(0, Often())
    sys.addaudithook(hear)
    os.rename, os.replace = then_die(os.rename), then_die(os.replace)
