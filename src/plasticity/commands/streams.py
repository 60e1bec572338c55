"""Standard output and error as a command finds them: without Unicode, left by a reader, full."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import TextIO

BROKEN_PIPE = 141
"""The exit status of a command whose reader has left: what shells report of one that SIGPIPE ends.

The signal itself is not let through. It would also end a run of which only a worker has died.
"""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Why a file takes no more."""


def escape() -> None:
    r"""Let streams write what their encoding lacks as an escape, such as ``\u2192``."""
    for stream in _open():
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write what is still to be written. Raises OSError if a stream does not take it."""
    for stream in _open():
        stream.flush()


def lost(error: Exception) -> bool:
    """Return whether an error came of a stream that takes nothing any more, and of nothing else."""
    if isinstance(error, BrokenPipeError):
        return any(map(_left, _open()))
    return isinstance(error, OSError) and error.filename is None and error.errno in FULL


def give_up(error: Exception) -> int:
    """Drop what a stream did not take; return the exit status. A reader who left is not told."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in _open():
        try:
            stream.flush()
        except OSError:  # Python would offer it once more at its end, and complain
            with suppress(OSError):  # of one that is no file of the system's
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    print(f"plasticity: cannot write: {getattr(error, 'strerror', error)}", file=sys.stderr)
    return 1


def _open() -> list[TextIO]:
    """Return the streams that are open; Python has None for one that was closed at its start."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream and not stream.closed]


def _left(stream: TextIO) -> bool:
    """Return whether nobody reads at the other end of a stream's pipe."""
    try:
        looking = select.poll()
        looking.register(stream.fileno(), select.POLLOUT)
        return any(found & (select.POLLERR | select.POLLHUP) for _, found in looking.poll(0))
    except (OSError, AttributeError):  # no file of the system's, or a system without poll
        return False
