"""Runs any experiment: in chunks, under a progress bar, checkpointed, resumable to the same bits.

On a CPU every unit (one arm on one seed) runs in a worker process pinned to one core. By
measurement that beats both threads inside one process and batching seeds with `jax.vmap`, and it
makes the bits independent of the number of cores. On an accelerator the driver's own process runs
all arms that share programs in step, on all seeds, as many as fit into the device's memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from plasticity import configuration, devices, jax_settings
from plasticity.runs import (
    checkpoints,
    fingerprint,
    freshness,
    history,
    origin,
    pool,
    progress,
    results,
)
from plasticity.runs.budget import Budget, OutOfTime
from plasticity.runs.experiment import Experiment
from plasticity.runs.files import ResultsError
from plasticity.runs.plan import planned, seeds_of, units_of
from plasticity.runs.pool import Unit
from plasticity.runs.results import Run
from plasticity.runs.units import (
    is_done,
    load,
    of_lanes,
    require_none,
    run_here,
    run_in_workers,
)


def run(
    experiment: Experiment,
    config: Any,
    study: str,
    *,
    reuse: bool = True,
    fresh: bool = False,
    workers: int | None = None,
    checkpoint_seconds: float | None = None,
    minutes: float | None = None,
) -> Run:
    """Run ``experiment`` with ``config``, or resume it, or return it if it is already recorded.

    Args:
        experiment: see `plasticity.runs.experiment.Experiment`.
        config: an instance of its ``Config``.
        study: the study that ``config`` started from; names the run's folder.
        reuse: return the recorded run if there is one with exactly this configuration and code, of
            whichever device and compiler's settings.
        fresh: discard an unfinished run of this folder instead of resuming it.
        workers: processes on a CPU, one pinned to each core; by default one for every core, and
            where this process has but one core it does the work itself, with the same bits.
            0 runs in this process, unpinned: the bits then depend on the number of cores.
        checkpoint_seconds: between two checkpoints of a unit; by default the experiment's own.
        minutes: the run stops before this time is up, ready to be resumed; by default it goes on
            to its end. What workers are in the middle of when the time is up is lost; in this
            process a chunk that takes longer than those before it goes over the time.

    Raises:
        budget.OutOfTime: the time was up before all was done. Call again to go on.
        configuration.ConfigError: there cannot be so few workers.
        checkpoints.CheckpointError: the folder is in use, damaged, or holds another unfinished run,
            or one recorded under settings of JAX that make another program of the same code.
        results.ResultsError: something cannot be written. Free space and call again: it resumes.
        UnitsFailed: some units failed, with the reason for each, which is also printed at once.
            Call again to retry just those.
    """
    configuration.require(
        workers is None or workers >= 0, f"workers = {workers}: must be 0 or more"
    )
    label = results.label(experiment.studies, study, config)
    work = results.folder(experiment.name, label) / "unfinished"
    if reuse and not fresh and (found := recorded(experiment, label, config)):
        return _tidied(experiment, found, work)
    with measured(
        experiment, config, work,
        fresh=fresh, workers=workers, checkpoint_seconds=checkpoint_seconds, minutes=minutes,
    ) as (records, provenance):  # fmt: skip
        table, arrays = experiment.summarize(config, records)
        run = results.write(experiment.name, label, table, arrays, {"study": study, **provenance})
        return _with_programs(experiment, run)  # before what tells that this was left to be done


def _with_programs(experiment: Experiment, run: Run) -> Run:
    """Store a run's programs, for later code to be compared, if that is this process's business.

    A quick run is never committed: nobody will ask whether it is fresh. An accelerator's time is
    dear: `plasticity prove` stores the programs elsewhere.
    """
    if run.study == "quick" or not devices.is_cpu() or "programs" in run.provenance:
        return run
    return freshness.store(experiment, run)


def _tidied(experiment: Experiment, found: Run, work: Path) -> Run:
    """Do what a process left to be done that was killed after it had recorded ``found``.

    Its checkpoints are still there. Those of another run, such as one that was begun anew with
    ``fresh``, stay where they are.
    """
    try:
        header = checkpoints.read_header(work)
    except (FileNotFoundError, checkpoints.CheckpointError):
        return found
    sittings = history.read(work)  # `discard` begins with these
    of_another = sittings and sittings[0]["began"] != found.provenance["began"]
    if of_another or any(header[part] != found.provenance[part] for part in ("config", "code")):
        return found
    if checkpoints.in_use(work):  # it is just being done
        return found
    with checkpoints.locked(work):
        found = _with_programs(experiment, found)
        discard(work)
    return found


def recorded(experiment: Experiment, label: str, config: Any) -> Run | None:
    """Return the recorded run if it has this configuration and is fresh against this code.

    A run that rounds otherwise, on another device or with other settings of the compiler, is the
    same run. Raises `checkpoints.CheckpointError` for one under settings of JAX that make another
    program: it is not, and must not be replaced by chance either. Raises `results.ResultsError` if
    it is damaged, but not if a run is unfinished there: then a process was killed while it recorded
    that one over an older one.
    """
    try:
        found = results.load(experiment.name, label)
        same = configuration.from_dict(type(config), found.config) == config
    except (FileNotFoundError, configuration.ConfigError):  # no run, or one with removed fields
        return None
    except ResultsError:
        if (results.folder(experiment.name, label) / "unfinished" / "header.json").exists():
            return None
        raise
    if same and (other := found.other_settings(jax_settings.differing())):
        raise checkpoints.CheckpointError(
            f"{results.folder(experiment.name, label)} holds this run, recorded under other "
            f"settings of JAX ({other}): undo the change to have that run, replace it with "
            "--fresh, or set PLASTICITY_RUNS to another folder"
        )
    return found if same and freshness.is_fresh(found.provenance, experiment) else None


def rounded_otherwise(run: Run) -> str:
    """Return how the settings noted with a run differ from this process's, if they do."""
    noted = run.provenance.get("jax_settings")
    return "" if noted is None else jax_settings.changes(noted, jax_settings.differing())


class Measured(NamedTuple):
    """What all units of a run measured, and its provenance."""

    records: results.Records
    provenance: dict[str, Any]


@contextmanager
def measured(
    experiment: Experiment,
    config: Any,
    work: Path,
    *,
    fresh: bool = False,
    workers: int | None = None,
    checkpoint_seconds: float | None = None,
    minutes: float | None = None,
) -> Iterator[Measured]:
    """Run or resume every unit of ``config`` in the folder ``work``, and yield all results.

    The folder stays locked while the caller uses them, and is emptied when the caller is done; if
    the caller raises, it keeps everything for the next attempt. Arguments and errors are those of
    `run`.
    """
    if checkpoint_seconds is None:
        checkpoint_seconds = experiment.checkpoint_seconds
    in_workers = jax.default_backend() == "cpu" and workers != 0
    budget = Budget.of(minutes)
    environment = origin.environment()
    with checkpoints.locked(work) as lock:
        if fresh:
            discard(work)
        header = make_header(experiment, config, environment, in_workers, _is_batched(work))
        checkpoints.open_header(work, header)
        with history.sitting(work):
            _, source = load(experiment, config)
            parts = planned(experiment, config, work, header["execution"]["batched"])
            left = [unit for unit in parts if not is_done(experiment, config, unit, work)]
            failed: dict[Unit, str] = {}
            if left and in_workers and not _alone(workers, minutes):
                cores = pool.usable_cores()[: workers or None][: len(left)]
                failed = run_in_workers(
                    experiment, config, left, work, lock, cores, work, checkpoint_seconds, budget
                )
            elif left:
                failed = run_here(experiment, config, left, work, checkpoint_seconds, budget)
            require_none(failed, len(parts))
            parts = planned(experiment, config, work, header["execution"]["batched"])
            if not all(is_done(experiment, config, unit, work) for unit in parts):
                raise OutOfTime(progress.stopped(experiment, work))
            folders = {unit: checkpoints.UnitFolder(work, *unit) for unit in parts}
            records = {
                lane: record
                for unit, folder in folders.items()
                for lane, record in of_lanes(unit, folder.records()).items()
            }
            spent = checkpoints.total(folder.spent() for folder in folders.values())
            provenance = {
                "config": header["config"],
                "code": header["code"],
                "data": source,
                "world": header["world"],
                "seeds": seeds_of(config),
                "execution": header["execution"],
                **_split(experiment, config, parts, header["execution"]["batched"]),
                "compute_seconds": round(spent.seconds, 1),
                "compile_seconds": round(spent.compiling, 1),  # of these
                **history.so_far(work),
                **environment,
            }
            yield Measured(records, provenance)
        discard(work)


def _split(experiment: Experiment, config: Any, parts: list[Unit], batched: bool) -> dict[str, Any]:
    """Return how lanes were split, if they were: a smaller batch may be rounded otherwise."""
    whole = parts == units_of(experiment, config, batched)
    return {} if whole else {"split": [str(unit) for unit in parts]}


def _alone(workers: int | None, minutes: float | None) -> bool:
    """Return whether this process does on its only core what a worker would do there.

    A worker would import, load and trace once more. But with a limit of ``minutes`` there is one:
    it can be killed in the middle of a chunk.
    """
    usable = pool.usable_cores()
    return len(usable) == 1 and usable != [None] and workers is None and minutes is None


def make_header(
    experiment: Experiment,
    config: Any,
    environment: Mapping[str, Any],
    in_workers: bool,
    batched: bool,
) -> dict[str, Any]:
    """Return what every process that runs units of one run must have in common.

    Raises whatever the experiment's ``load`` does: data are part of it.
    """
    return {
        "config": configuration.to_dict(config),
        "code": fingerprint.code_digest(experiment),
        "environment": origin.identity(environment),
        "world": checkpoints.digest(load(experiment, config)[0]),
        "execution": {
            "processes": "one a core" if in_workers else "one",
            "batched": batched,
            **_threads(in_workers),
        },
    }


def _threads(in_workers: bool) -> dict[str, Any]:
    """Return what threads depend on that are not pinned to a core of their own, if it is not usual.

    Sums are cut into as many parts as there are threads.
    """
    cores = pool.usable_cores()
    if jax.default_backend() != "cpu" or (in_workers and None not in cores):
        return {}
    found = {name: os.environ[name] for name in jax_settings.THREADS if name in os.environ}
    return found | ({} if len(cores) == os.cpu_count() else {"usable_cores": len(cores)})


def _is_batched(work: Path) -> bool:
    """Return whether lanes go in step: on an accelerator, unless jobs began them one by one.

    Raises `checkpoints.CheckpointError` if the header is damaged.
    """
    if jax.default_backend() == "cpu":
        return False
    try:
        return bool(checkpoints.read_header(work)["execution"]["batched"])
    except FileNotFoundError:  # a new run
        return True


def discard(work: Path) -> None:
    """Empty the work folder, except for its lock, which is held.

    The header goes last: without it, units left by a kill could be taken for those of any run. The
    sittings go first: without them, it is plain that the others were to go too.
    """
    last = {"header.json": 1, history.NAME: -1}
    for path in sorted(work.iterdir(), key=lambda path: last.get(path.name, 0)):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
