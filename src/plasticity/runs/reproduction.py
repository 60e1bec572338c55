"""Proves with one seed that today's code gives what a recorded run holds, to the bit.

A run keeps the hash of the code that made it, and any change of that code makes the run stale, even
one that leaves every number as it was. To record it again would cost hours. Instead the first seed
of every arm runs again under the run's own configuration. Every number of that seed, in the table
and in the arrays, has to equal the recorded one. The other seeds run the same program on other
random numbers.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from plasticity import configuration, jax_settings
from plasticity.runs import driver, files, origin, results, units
from plasticity.runs.experiment import Experiment
from plasticity.runs.results import Run


class NotReproduced(files.ResultsError):
    """A recorded run that today's code does not reproduce; the message says where they differ."""


@dataclass(frozen=True)
class Reproduction:
    """What was compared and is equal to the bit."""

    run: Run  # with the proof in its provenance
    seeds: tuple[int, ...]
    rows: int  # of the table
    arrays: int
    numbers: int  # rows and entries of arrays

    def __str__(self) -> str:
        """Return one line that says it."""
        seeds = ", ".join(map(str, self.seeds))
        return (
            f"reproduced to the bit: {self.numbers:,} numbers, {self.rows:,} rows of the table and "
            f"{self.arrays:,} arrays (seed {seeds})"
        )


class Difference(NamedTuple):
    """Where the table or one array is not what was recorded."""

    numbers: int  # how many differ
    first: str  # where, and what was and is there
    largest: float  # relative difference; infinite where one side has no number


def reproduce(
    experiment: Experiment,
    label: str,
    *,
    fresh: bool = False,
    workers: int | None = None,
    checkpoint_seconds: float | None = None,
    minutes: float | None = None,
) -> Reproduction:
    """Run the first seed of every arm of a recorded run again and compare every number of it.

    It resumes after a kill, from the folder ``reproducing/`` inside the run's. If all is equal, an
    entry (code, commit, packages, device, settings, seeds, numbers, date) goes to the list
    ``proofs`` in ``run.json``, and the run is fresh for this code. If a run's seeds were batched,
    all are run and compared: the bits depend on the whole batch.

    Args:
        experiment: see `plasticity.runs.experiment.Experiment`.
        label: the name of the run's folder, such as ``laptop``.
        fresh: discard an unfinished reproduction instead of resuming it.
        workers: see `plasticity.runs.driver.run`.
        checkpoint_seconds: see `plasticity.runs.driver.run`.
        minutes: see `plasticity.runs.driver.run`.

    Raises:
        FileNotFoundError: there is no such run.
        configuration.ConfigError: its configuration has fields that no longer exist.
        NotReproduced: the data or some numbers differ, or settings of JAX that make another
            program. Nothing is written.
        checkpoints.CheckpointError, results.ResultsError, driver.UnitsFailed: as for a run.
    """
    run = results.load(experiment.name, label)
    if other := run.other_settings(jax_settings.differing()):
        raise NotReproduced(
            f"{_name(run)} was recorded under other settings of JAX ({other}), which make another "
            "program: undo the change to reproduce it. Nothing was run"
        )
    recorded: Any = configuration.from_dict(experiment.Config, run.config)
    seeds = recorded.seeds if run.provenance["execution"]["batched"] else 1
    config = dataclasses.replace(recorded, seeds=seeds)
    _, source = units.load(experiment, config)
    if json.loads(json.dumps(source)) != run.provenance["data"]:
        raise NotReproduced(
            f"{_name(run)}: the data differ. Today's code loads other images or labels than the "
            f"run had{_elsewhere(run.provenance, origin.environment())}. {_remedy(run)}"
        )
    work = results.folder(run.experiment, label) / "reproducing"
    with driver.measured(
        experiment, config, work,
        fresh=fresh, workers=workers, checkpoint_seconds=checkpoint_seconds, minutes=minutes,
    ) as (records, provenance):  # fmt: skip
        table, arrays = experiment.summarize(config, records)
        # Read both tables from their text, each number as exactly what its digits say.
        was = _read((results.folder(run.experiment, label) / "results.csv").read_bytes())
        was = was[was.seed.isin(provenance["seeds"])]
        now = _read(table.to_csv(index=False).encode())
        found = list(differences(was, _arrays(run), now, arrays, seeds))
        numbers = len(now) + sum(array.size for array in arrays.values())
        if not found:
            names = (
                "code", "commit", "uncommitted_source", "why_unknown", "packages", "device",
                "jax_settings", "seeds",
            )  # fmt: skip
            noted = {name: provenance[name] for name in names if name in provenance}
            entry = {"by": "reproduction", **noted}
            entry |= {"numbers": numbers, "date": origin.now()}
            run = results.add_proof(run, entry)
    if found:  # outside the block, so that the folder is emptied: changed code could not resume it
        raise NotReproduced(
            f"{_name(run)}: {sum(d.numbers for d in found):,} numbers are not those recorded, "
            f"of {numbers:,} compared. The first: {found[0].first}. Largest relative difference: "
            f"{max(d.largest for d in found):.2g}{_elsewhere(run.provenance, provenance)}. "
            f"{_remedy(run)}"
        )
    return Reproduction(run, tuple(provenance["seeds"]), len(now), len(arrays), numbers)


def differences(
    was: pd.DataFrame,
    was_arrays: Mapping[str, np.ndarray],
    now: pd.DataFrame,
    arrays: Mapping[str, np.ndarray],
    seeds: int,
) -> Iterator[Difference]:
    """Yield where the first ``seeds`` seeds now give numbers other than those recorded.

    ``was`` and ``now`` are these seeds' rows. An array whose shape is unchanged is compared whole,
    else its first entries along the leading axis. Nothing may be missing, and nothing new.
    """
    if found := _in_table(was, now):
        yield found
    for name in {**was_arrays, **arrays}:
        if found := _in_array(name, was_arrays.get(name), arrays.get(name), seeds):
            yield found


def _in_table(was: pd.DataFrame, now: pd.DataFrame) -> Difference | None:
    """Match rows by all columns but ``value``; the first difference is at the earliest step."""
    if list(was.columns) != list(now.columns):
        columns = f"{', '.join(was.columns)} → {', '.join(now.columns)}"
        return Difference(len(was), f"the table's columns, {columns}", np.inf)
    keys = [name for name in was.columns if name != "value"]
    both = was.merge(
        now, "outer", keys, suffixes=("_was", "_now"), indicator="side", validate="one_to_one"
    )
    unequal = _unequal(both.value_was.to_numpy(), both.value_now.to_numpy())
    both = both[unequal | (both.side != "both")].sort_values("step", kind="stable")
    if both.empty:
        return None
    row = both.iloc[0]
    where = ", ".join(f"{name} {row[name]}" for name in keys)
    absent = {"left_only": " (no such row now)", "right_only": " (no such row recorded)"}
    first = f"{where}: {row.value_was} → {row.value_now}{absent.get(row.side, '')}"
    relative = _relative(both.value_was.to_numpy(), both.value_now.to_numpy())
    return Difference(len(both), first, float(relative.max()))


def _in_array(
    name: str, was: np.ndarray | None, now: np.ndarray | None, seeds: int
) -> Difference | None:
    if was is None or now is None:
        size = sum(array.size for array in (was, now) if array is not None)
        return Difference(
            size, f"array {name}, {'not recorded' if was is None else 'not made now'}", np.inf
        )
    part = was[:seeds] if was.ndim and was.shape != now.shape else was
    if (part.shape, part.dtype) != (now.shape, now.dtype):
        kinds = f"{was.dtype} {was.shape} recorded, {now.dtype} {now.shape} of {seeds} seeds"
        return Difference(now.size, f"array {name}, {kinds}", np.inf)
    unequal = _unequal(part, now)
    if not unequal.any():
        return None
    first = tuple(int(k) for k in np.argwhere(unequal)[0])
    return Difference(
        int(unequal.sum()),
        f"array {name} at {first}: {part[first]} → {now[first]}",
        float(_relative(part[unequal], now[unequal]).max()),
    )


def _unequal(was: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return where two arrays differ in any bit, except that a NaN equals a NaN."""
    same = was == now
    if np.issubdtype(was.dtype, np.floating):
        same = same & (np.signbit(was) == np.signbit(now)) | np.isnan(was) & np.isnan(now)
    return np.asarray(~same)


def _relative(was: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return |now - was| / max(|was|, |now|); infinity where either is not a finite number."""
    was, now = was.astype(float), now.astype(float)
    with np.errstate(invalid="ignore"):
        relative = np.abs(now - was) / np.maximum(np.abs(was), np.abs(now))
    relative[was == now] = 0.0  # zeros that differ in sign
    return np.where(np.isnan(relative), np.inf, relative)


def _read(content: bytes) -> pd.DataFrame:
    frame = pd.read_csv(io.BytesIO(content), dtype={"value": str})
    return frame.assign(value=[float(text) for text in frame.value])  # always rounded correctly


def _arrays(run: Run) -> dict[str, np.ndarray]:
    """Return a run's arrays under the names that ``summarize`` gave them, the bank's included."""
    bank = {
        f"bank/{arm}/{name}": array for arm in run.banks() for name, array in run.bank(arm).items()
    }
    return {**run.arrays, **bank}


def _name(run: Run) -> str:
    return f"{run.experiment}/{run.label}"


def _elsewhere(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return how today's machine, packages and settings differ from the recorded ones, if they do.

    Settings of runs from before they were noted are not known.
    """
    then, today = (
        {**p["packages"], **p["device"], **p.get("execution", {}), "python": p["python"]}
        for p in (was, now)
    )
    shared = then.keys() & today.keys()
    settings = now["jax_settings"]
    noted = was.get("jax_settings", dict.fromkeys(settings, "not noted"))
    changed = jax_settings.changes(
        {name: then[name] for name in shared} | noted,
        {name: today[name] for name in shared} | settings,
    )
    return f" (this may be no fault of the code: it ran elsewhere, {changed})" if changed else ""


def _remedy(run: Run) -> str:
    settings = "" if run.label == run.study else " and the settings of its run.json"
    return (
        "Nothing was written. If the change is meant, record the run again: "
        f"`plasticity run {run.experiment} --study {run.study} --fresh`{settings}"
    )
