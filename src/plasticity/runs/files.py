"""Writes files so that a crash leaves the old or the new one whole."""

from __future__ import annotations

import glob
import io
import os
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from plasticity.errors import Told

if TYPE_CHECKING:
    import numpy as np


class ResultsError(Told, RuntimeError):
    """A run folder that cannot be written or trusted; the message names the file and a remedy."""


class NotRecorded(Told, FileNotFoundError):
    """A run that is not recorded; the message says where it was looked for and what to do."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees either the old one or the new one whole.

    What writers of this file that were killed had written so far is removed.
    Raises `ResultsError` if the folder cannot be written or the disk is full; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_halves(path.parent, path.name)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # where the folder is a file, this fails too
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def remove_halves(folder: Path, name: str | None = None) -> None:
    """Remove what writers that were killed have left of a file, or of all files of a folder."""
    for half in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.tmp"):
        writer = re.search(r"\.(\d+)\.tmp$", half.name)
        if writer and not _is_alive(int(writer[1])):
            half.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # somebody else's; no number of a process
        return True
    return True


def cannot_write(path: Path, error: OSError) -> ResultsError:
    """Return the error that says what to do when ``path`` cannot be written."""
    return ResultsError(
        f"cannot write {path}: {error.strerror or error}. Free space or make the folder writable "
        "(or set PLASTICITY_RUNS to another folder), then run the same command: it resumes"
    )


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the arrays as a compressed npz; its bytes depend on nothing but the arrays."""
    import numpy as np  # here: who lists runs writes no arrays, and need not wait for it

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
            # A fixed date: `np.savez` stamps the clock, and equal runs would differ.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()
