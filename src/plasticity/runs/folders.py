"""Where runs lie, and what each says of itself in ``run.json``: read without numpy and JAX."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from plasticity.runs.files import NotRecorded, ResultsError

RUNS = "papermill_runs"
"""The name of the folder of recorded runs."""

FIDELITY = ("paper", "gpu", "night", "laptop", "quick")
"""The studies of an experiment's whole question, from the most to the least faithful to the paper.

Others, such as a search for a setting, ask a different question.
"""

KEYS = ("study", "config", "sha256")
"""What makes a ``run.json`` one."""


class Provenance(dict[str, Any]):
    """What a ``run.json`` holds. Who asks for what it lacks is told that the file is damaged."""

    def __init__(self, found: Mapping[str, Any], path: Path) -> None:
        """Take what the file holds, and where it lies."""
        super().__init__(found)
        self.path = path

    def __missing__(self, key: str) -> Any:
        """Raise `files.ResultsError`."""
        raise damaged(self.path, f"it has no {key}")


def root() -> Path:
    """Return the folder of recorded runs: ``$PLASTICITY_RUNS``, or the nearest ``papermill_runs``.

    Searched for in the working directory and its parents; if there is none, it will be created in
    the working directory. Raises `files.ResultsError` if that directory is gone.
    """
    if chosen := os.environ.get("PLASTICITY_RUNS"):
        return Path(chosen)
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise ResultsError(
            "the working directory is gone: go to another, or set PLASTICITY_RUNS to a folder"
        ) from None
    for folder in (here, *here.parents):
        if (folder / RUNS).is_dir():
            return folder / RUNS
    return here / RUNS


def folder(experiment: str, run_label: str) -> Path:
    """Return the run's folder, whether or not it exists."""
    return root() / experiment / run_label


def checkout() -> Path | None:
    """Return the checkout that this code lies in; None if it is installed without one."""
    above = Path(__file__).resolve().parents[3]
    return above if (above / RUNS).is_dir() else None


def labels(experiment: str, runs: Path | None = None) -> list[str]:
    """Return the labels of what is recorded: whole questions first, the most faithful on top.

    ``runs`` is where to look, by default `root`.
    """
    ranks = {study: rank for rank, study in enumerate(FIDELITY)}
    found = (path.parent.name for path in ((runs or root()) / experiment).glob("*/run.json"))
    return sorted(found, key=lambda name: (ranks.get(name, len(ranks)), name))


def not_recorded(what: str, experiment: str, *wanted: str) -> NotRecorded:
    """Return the error that ``what`` is not there, and where to look for the run instead.

    ``wanted`` are the labels of which any would do, the last one the least to run.
    """
    home = checkout()
    there = home and home / RUNS
    if there and there != root().resolve() and set(wanted) & set(labels(experiment, there)):
        return NotRecorded(
            f"{what}. It is recorded in {there}: work in {home} (papermill: --cwd {home}), "
            f"or set PLASTICITY_RUNS={there}"
        )
    study = wanted[-1].partition("-")[0]
    return NotRecorded(
        f"{what}. If it is recorded elsewhere, work in that checkout (papermill: --cwd CHECKOUT), "
        f"or set PLASTICITY_RUNS to the {RUNS} there. Else `plasticity run {experiment} --study "
        f"{study}` records it; `plasticity cost {experiment} --study {study}` says what that takes"
    )


def provenance(experiment: str, run_label: str) -> Provenance:
    """Return what a run's ``run.json`` holds.

    Raises `files.NotRecorded` if there is none, `files.ResultsError` if it cannot be read or is not
    what a run writes.
    """
    path = folder(experiment, run_label) / "run.json"
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise not_recorded(f"{path} is missing", experiment, run_label) from None
    except OSError as error:
        raise cannot_read(path, error) from None
    except ValueError as error:  # no JSON, or no text
        raise damaged(path, str(error)) from None
    known = found if isinstance(found, dict) else {}
    if missing := [name for name in KEYS if name not in known]:
        raise damaged(path, f"it has no {', '.join(missing)}")
    return Provenance(known, path)


def cannot_read(path: Path, error: OSError) -> ResultsError:
    """Return the error that says what to do when a file of a recorded run cannot be read."""
    return ResultsError(
        f"cannot read {path}: {error.strerror or error}. Make it readable, restore it from version "
        f"control, or delete {path.parent} and run again"
    )


def damaged(path: Path, why: str) -> ResultsError:
    """Return the error that says what to do where a ``run.json`` is not what a run writes."""
    return ResultsError(
        f"{path} is not a run's provenance ({why}): restore it from version control, or delete "
        f"{path.parent} and run again"
    )


class Summary(NamedTuple):
    """What a recorded run says of itself in a line."""

    finished: str  # the time in UTC, as ISO 8601 writes it
    device: str
    platform: str  # as `jax.default_backend` names it
    compute_seconds: float  # of a core on a CPU, else of the device


def took(seconds: float, platform: str) -> str:
    """Return how long a run took, such as ``2 h 05 min of core-time``."""
    return f"{duration(seconds)} of {'core-' if platform == 'cpu' else ''}time"


def duration(seconds: float) -> str:
    """Return a time such as ``2 h 05 min``."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min" if minutes else "< 1 min"


def summary(experiment: str, run_label: str) -> Summary:
    """Return the line of a recorded run; its results are not read.

    Raises `files.ResultsError` if ``run.json`` does not tell it.
    """
    found = provenance(experiment, run_label)
    try:
        device = found["device"]
        kind, platform = str(device["kind"]), str(device["platform"])
        return Summary(str(found["finished"]), kind, platform, float(found["compute_seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(found.path, f"{type(error).__name__}: {error}") from None


def unfinished(name: str | None = None, label: str | None = None) -> list[Path]:
    """Return the work folders of unfinished runs and reproductions.

    ``name`` selects one experiment; ``label`` selects one folder, or a study together with the runs
    whose settings differ from it.
    """
    found = [header.parent for header in root().glob("*/*/*/header.json")]
    return sorted(
        work
        for work in found
        if name in (None, work.parent.parent.name) and has_label(work.parent.name, label)
    )


def has_label(found: str, label: str | None) -> bool:
    """Return whether a run's label is the one asked for, or belongs to the study asked for."""
    return label is None or found == label or found.startswith(f"{label}-")
