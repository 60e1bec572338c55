"""A child process that takes requests and answers in JSON, one document per line, over two pipes.

This is the only way in which this project talks to its own processes, such as workers that run
units or a process that is timed. The parent calls `start` with the name of a function; the child
calls it as ``function(job, receive, answer)``, where ``receive()`` waits for the next document and
``answer(document)`` sends one. The child ends as soon as its standard input does: the parent may
have been killed, and nobody would read the child's work.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


def start(
    function: str,
    job: Any,
    *,
    core: int | None = None,
    log: Path | None = None,
    inherit: Sequence[int] = (),
    environment: Mapping[str, str | None] | None = None,
    path: Sequence[Path] = (),
) -> subprocess.Popen[str]:
    """Start a child that computes on the CPU.

    Args:
        function: what it calls, such as ``plasticity.runs.worker:work``.
        job: the function's first argument, any JSON value.
        core: the core to which it is pinned, before any library counts the cores; None for all.
        log: the file for what it prints; by default it prints where the parent does.
        inherit: descriptors that it also holds, such as a lock's.
        environment: variables in addition to the parent's; a None takes one of these away.
        path: folders in which it looks for modules before the parent's.
    """
    folders = os.pathsep.join([*map(str, path), *(p for p in sys.path if p)])
    own = {"PYTHONPATH": folders, "JAX_PLATFORMS": "cpu", **(environment or {})}
    variables = {name: text for name, text in {**os.environ, **own}.items() if text is not None}
    stderr = None if log is None else open(log, "w")  # noqa: SIM115 - closed below
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "plasticity.runs.child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
            pass_fds=tuple(inherit), env=variables,
        )  # fmt: skip
    finally:
        if stderr is not None:
            stderr.close()
    with suppress(BrokenPipeError):  # it is gone already: whoever talks to it next notices
        tell(process, {"function": function, "core": core, "job": job})
    return process


def tell(process: subprocess.Popen[str], document: Any) -> None:
    """Send a document to a child. Raises BrokenPipeError if it is gone."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(document) + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> Any:
    """Wait for a child's next document. Raises EOFError if it is gone."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise EOFError("the child process died")
    return json.loads(line)


def main() -> None:
    """Be a child: call the function that the first line names until standard input ends."""
    # Libraries print to standard output as they like; the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # A terminal sends Ctrl-C to children too: stopping them is up to the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begun = json.loads(sys.stdin.readline())
    if begun["core"] is not None:
        os.sched_setaffinity(0, {begun["core"]})
    received: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(received,), daemon=True).start()
    module, _, name = begun["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    function(begun["job"], received.get, lambda found: answers.write(json.dumps(found) + "\n"))


def _listen(received: queue.SimpleQueue[Any]) -> None:
    for line in sys.stdin:
        received.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
