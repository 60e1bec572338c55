"""A benchmark's contenders in threads of the test's own process, which has imported all they need.

A process of each takes seconds to start, and what several of them compile alike is compiled anew.
What they are told and answer goes through JSON all the same, as through the pipes of
`plasticity.runs.child`.
"""

from __future__ import annotations

import importlib
import io
import json
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


class Killed(BaseException):
    """No error of an order, which a contender would answer: it ends the thread."""


class Thread:
    """Stands in for a child process: it obeys orders until it is killed."""

    def __init__(self, serve: Callable[..., None], job: Any) -> None:
        self.orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.work, args=(serve, job), daemon=True)
        self.thread.start()

    def work(self, serve: Callable[..., None], job: Any) -> None:
        with suppress(Killed):
            serve(job, self.receive, lambda found: self.answers.put(json.dumps(found)))

    def receive(self) -> Any:
        order = self.orders.get()
        if order is None:
            raise Killed
        return json.loads(order)

    def kill(self) -> None:
        self.orders.put(None)

    def __enter__(self) -> Thread:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join()


def start(function: str, job: Any, **_: Any) -> Thread:
    """As `plasticity.runs.child.start`, but for cores, logs and variables."""
    module, _, name = function.partition(":")
    return Thread(getattr(importlib.import_module(module), name), job)


def tell(thread: Thread, document: Any) -> None:
    thread.orders.put(json.dumps(document))


def hear(thread: Thread) -> Any:
    return json.loads(thread.answers.get(timeout=600))


@contextmanager
def threads(folder: Path) -> Iterator[None]:
    """Within it contenders of `rounds` are threads, one for each that would be pinned to a core.

    What one of them has compiled the others read from ``folder``.
    """
    import rounds

    with pytest.MonkeyPatch.context() as patch, compiling_into(folder):
        patch.setattr(rounds, "child", SimpleNamespace(start=start, tell=tell, hear=hear))
        patch.setattr("os.sched_getaffinity", lambda process: {0})
        patch.setattr(subprocess, "run", Once())
        yield
    jax.clear_caches()  # as much as several processes would have held


@contextmanager
def compiling_into(folder: Path) -> Iterator[None]:
    """Within it compiled programs are stored, and read if they are there."""
    settings: dict[str, Any] = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # jax looks once whether there is one
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


class Once:
    """Stands in for `subprocess.run`: of a script's processes only the first is started.

    The others do their work here, where the memory that a Gram matrix takes means nothing and all
    else is the same.
    """

    def __init__(self) -> None:
        self.run, self.started = subprocess.run, 0

    def __call__(self, command: list[str], **options: Any) -> Any:
        import curvature_memory
        import width_cost

        names = {Path(word).stem: k for k, word in enumerate(command) if word.endswith(".py")}
        if not names.keys() & {curvature_memory.__name__, width_cost.__name__} or not self.started:
            self.started += bool(names)
            return self.run(command, **options)
        if width_cost.__name__ in names:
            arm = command[command.index("--arm") + 1]
            return SimpleNamespace(stdout=json.dumps(width_cost.measured(arm, "--toy" in command)))
        words = command[names[curvature_memory.__name__] + 1 :]
        return SimpleNamespace(stdout=printed(curvature_memory.main, *words))


def printed(main: Callable[..., object], *arguments: str) -> str:
    """Return what a function prints."""
    with redirect_stdout(io.StringIO()) as out:
        main(*arguments)
    return out.getvalue()
