"""When a run was computed: begin and end of each sitting, kept beside its checkpoints.

A run that was stopped and resumed has several. Of one that was killed the end is not known.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plasticity.runs import files, origin

NAME = "sittings.json"


@contextlib.contextmanager
def sitting(work: Path) -> Iterator[None]:
    """Note in a run's work folder that a sitting begins, and when it ends, however it does."""
    before = read(work)
    now = {"began": origin.now(), "ended": None}
    _write(work, [*before, now])
    try:
        yield
    finally:
        _write(work, [*before, now | {"ended": origin.now()}])


def so_far(work: Path) -> dict[str, Any]:
    """Return what the provenance of a run says that is finished in the sitting that goes on.

    ``began`` is the first sitting's, ``finished`` is now, ``sittings`` has all of them.
    """
    *before, last = read(work)
    now = origin.now()
    sittings = [*before, last | {"ended": now}]
    return {"began": sittings[0]["began"], "finished": now, "sittings": sittings}


def read(work: Path) -> list[dict[str, Any]]:
    """Return the sittings so far, the first one first; none of a folder that was never used.

    Raises `files.ResultsError` if the file is damaged.
    """
    path = work / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [{"began": one["began"], "ended": one["ended"]} for one in found]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise files.ResultsError(
            f"{path} is damaged ({error}): delete it, and only when the run was begun is forgotten"
        ) from None


def _write(work: Path, sittings: list[dict[str, Any]]) -> None:
    files.write_atomically(work / NAME, json.dumps(sittings).encode())
