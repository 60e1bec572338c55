"""Recorded runs: where they are stored, what they contain, and whether they can be trusted.

A recorded run is a folder ``papermill_runs/<experiment>/<label>/`` with a tidy table
(``results.csv``), named arrays (``arrays.npz``), in some a bank of parameters (``bank/``), and the
provenance (``run.json``), which holds the hashes of the others. ``label`` is the study, with a
suffix if settings were overridden, so that a trial never overwrites a recorded run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from plasticity import configuration, jax_settings
from plasticity.errors import Told
from plasticity.runs import folders
from plasticity.runs.files import ResultsError, cannot_write, npz_bytes, write_atomically
from plasticity.runs.folders import FIDELITY as FIDELITY
from plasticity.runs.folders import folder as folder
from plasticity.runs.folders import root as root

Records = Mapping[tuple[str, int], Mapping[str, np.ndarray]]
"""(arm, seed) → name → array with one row per chunk."""


class UnknownArm(Told, KeyError):
    """An arm that a run does not have, or of which it kept no parameters."""

    status = 2


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its table, its arrays and where they come from.

    Two are equal only if they are the same object, so that what is computed of one can be kept.
    """

    experiment: str
    label: str
    table: pd.DataFrame  # tidy: arm, swept settings, seed, step, metric, value
    arrays: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]  # what `run.json` holds

    @property
    def config(self) -> Mapping[str, Any]:
        """The run's configuration as stored."""
        return self.provenance["config"]  # type: ignore[no-any-return]

    @property
    def study(self) -> str:
        """The study that the configuration started from."""
        return str(self.provenance["study"])

    def select(self, **columns: object) -> pd.DataFrame:
        """Return the rows in which every named column has the given value, ordered by step.

        Raises KeyError, naming the values there are, if none has: an empty selection is a typo.
        """
        chosen = self.table
        for name, value in columns.items():
            known = self.table[name].unique()
            chosen = chosen[chosen[name] == value]
            if chosen.empty:
                raise KeyError(f"no rows with {columns}; {name} is one of {sorted(known)}")
        return chosen.sort_values(["seed", "step"])

    def banks(self) -> list[str]:
        """Return the arms whose parameters the run kept."""
        files = [name for name in self.provenance["sha256"] if name.startswith("bank/")]
        return [name.removeprefix("bank/").removesuffix(".npz") for name in files]

    def bank(self, arm: str) -> dict[str, np.ndarray]:
        """Return what the run kept of ``arm``: each parameter at every probe, (probes, ...).

        Raises `UnknownArm`, naming the arms that were kept, if this one was not.
        """
        if arm not in self.banks():
            known = ", ".join(self.banks()) or "none"
            raise UnknownArm(f"no parameters of {arm!r} were kept; there are {known}")
        path = folder(self.experiment, self.label) / "bank" / f"{arm}.npz"
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    def describe(self, images: int | None = None) -> str:
        """Return one line for a figure's foot: study, seeds, data, device.

        ``images`` is how many images the networks shown learned from, if these are not the run's
        agents. Settings of JAX are named if they make another program of the same code.
        """
        device, seeds = self.provenance["device"], len(self.provenance["seeds"])
        plural = "" if seeds == 1 else "s"
        of = f"{self.study} run · {seeds} seed{plural} · {self._data(images)} · {device['kind']}"
        settings = jax_settings.program(self.provenance.get("jax_settings"))
        return " · ".join([of, *(f"{name}={value}" for name, value in settings.items())])

    def other_settings(self, now: Mapping[str, Any]) -> str:
        """Return how ``now`` differs in settings of JAX that make another program of the same code.

        ``now`` is what `plasticity.jax_settings.differing` returns. A run from before they were
        noted has JAX's own.
        """
        was, now = map(jax_settings.program, (self.provenance.get("jax_settings"), now))
        return jax_settings.changes(was, now)

    def _data(self, images: int | None) -> str:
        data = self.provenance["data"]
        if "what" in data:
            return f"{data['records']:,} of {data['full_set']:,} {data['what']} ({data['dataset']})"
        config = self.provenance.get("config", {})
        each = images or config.get("problem", {}).get("n_images", data["records"])
        found = {
            str(one["dataset"]): int(one["records"])
            for one in data.get("sets", {}).values()
            if one["records"] == min(each, one["full_set"])
        } or {data["dataset"]: each}
        if len(set(found.values())) > 1:
            return " and ".join(f"{count:,} images of {name}" for name, count in found.items())
        several = "each " if len(found) > 1 else ""
        return f"{min(found.values()):,} images {several}of {' and '.join(sorted(found))}"


def label(studies: Mapping[str, Any], study: str, config: Any) -> str:
    """Return the name of the run's folder: the study, with a suffix if settings differ from it.

    Raises `configuration.ConfigError` for an unknown study.
    """
    if config == configuration.resolve(studies, study):
        return study
    return f"{study}-{configuration.digest(config)[:8]}"


def write(
    experiment: str,
    run_label: str,
    table: pd.DataFrame,
    arrays: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
) -> Run:
    """Record a finished run, each file atomically and ``run.json`` last.

    Arrays named ``bank/<arm>/<name>`` go into one file per arm, which `Run.bank` reads. The folder
    is locked meanwhile: whoever finds there some files of the previous run and some of this one,
    such as another chapter of the book, waits until all are in place (`load`). Raises
    `ResultsError` if the folder cannot be written.
    """
    target = folder(experiment, run_label)
    banks: dict[str, dict[str, np.ndarray]] = {}
    for name in [name for name in arrays if name.startswith("bank/")]:
        _, arm, path = name.split("/", 2)
        banks.setdefault(arm, {})[path] = arrays[name]
    kept = {name: array for name, array in arrays.items() if not name.startswith("bank/")}
    files = {"results.csv": table.to_csv(index=False).encode(), "arrays.npz": npz_bytes(kept)}
    files |= {f"bank/{arm}.npz": npz_bytes(bank) for arm, bank in banks.items()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    document = {"experiment": experiment, **provenance, "sha256": hashes}
    files["run.json"] = _json(document)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(target, error) from error
    with _locked(target, fcntl.LOCK_EX):
        for name, content in files.items():
            write_atomically(target / name, content)
    return load(experiment, run_label)


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[bool]:
    """Hold a lock on a run's folder, which the kernel frees if the process is killed.

    Yield whether it is held: some network file systems lock no folders.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise folders.cannot_read(path, error) from None
    try:
        try:
            fcntl.flock(descriptor, how)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def add_proof(run: Run, entry: Mapping[str, Any]) -> Run:
    """Append ``entry`` to the list ``proofs`` of a run's provenance, atomically.

    Raises `ResultsError` if the folder holds another run by now: the proof is not about that one.
    """
    return amend(run, lambda found: {"proofs": [*found.get("proofs", []), dict(entry)]})


def amend(run: Run, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Run:
    """Change entries of a run's provenance, atomically; ``change`` gets what they are now.

    Raises `ResultsError` if the folder holds another run by now.
    """
    found = load(run.experiment, run.label)
    path = folder(run.experiment, run.label) / "run.json"
    if found.provenance["sha256"] != run.provenance["sha256"]:
        raise ResultsError(f"{path} was recorded again meanwhile: what was compared is gone")
    write_atomically(path, _json({**found.provenance, **change(found.provenance)}))
    return load(run.experiment, run.label)


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def load(experiment: str, run_label: str) -> Run:
    """Read a recorded run and check it against its hashes; wait for a run that is being written.

    Raises `files.NotRecorded` if there is none, `ResultsError` if a file is damaged or edited.
    """
    try:
        return _loaded(experiment, run_label)
    except ResultsError:  # or only some of its files are in place yet
        with _locked(folder(experiment, run_label), fcntl.LOCK_SH) as held:
            try:
                return _loaded(experiment, run_label)
            except ResultsError as error:
                if held:
                    raise
                raise ResultsError(
                    f"{error}; unless it is being written at this moment, which cannot be told on "
                    "a file system that locks no folders"
                ) from None


def _loaded(experiment: str, run_label: str) -> Run:
    """Do as `load` does, at this moment."""
    source = folder(experiment, run_label)
    provenance = folders.provenance(experiment, run_label)
    try:
        contents = {name: (source / name).read_bytes() for name in provenance["sha256"]}
        table, stored = (io.BytesIO(contents[name]) for name in ("results.csv", "arrays.npz"))
    except (FileNotFoundError, NotADirectoryError) as error:
        what = f"{error.filename} is missing"
        raise folders.not_recorded(what, experiment, run_label) from None
    except OSError as error:
        raise folders.cannot_read(Path(error.filename), error) from None
    except (KeyError, TypeError) as error:
        raise folders.damaged(source / "run.json", f"{type(error).__name__}: {error}") from None
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != provenance["sha256"][name]:
            raise ResultsError(
                f"{source / name} is not what the run wrote (its SHA-256 differs from run.json's): "
                f"restore it from version control, or delete {source} and run again"
            )
    with np.load(stored, allow_pickle=False) as opened:
        arrays = {name: opened[name] for name in opened.files}
    return Run(experiment, run_label, pd.read_csv(table), arrays, provenance)


def recorded(experiment: str) -> list[Run]:
    """Return the experiment's recorded runs, those of the whole question first."""
    return [load(experiment, found) for found in folders.labels(experiment)]


def best(experiment: str) -> Run:
    """Return the recorded run nearest to the paper, ignoring other studies and settings.

    Raises `files.NotRecorded`, naming where it looked, if nothing is recorded.
    """
    for found in folders.labels(experiment):
        if found in FIDELITY:
            return load(experiment, found)  # and no other, which may be written at this moment
    what = f"no recorded run of {experiment} in {root()}"
    raise folders.not_recorded(what, experiment, *(s for s in FIDELITY if s != "quick"))
