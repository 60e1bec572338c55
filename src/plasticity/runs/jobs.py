"""One unit of a run as a separate job, for a scheduler to start on as many nodes as it has.

The jobs of a run share its work folder, each with its own arm and seed; a unit has the same bits as
under `plasticity.runs.driver.run` on a CPU. When all are done, `plasticity.runs.driver.run` with
the same settings finds them, and only collects and records. ``papermill_runs/Snakefile`` is the
workflow of these two steps.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plasticity import configuration, devices
from plasticity.runs import checkpoints, driver, origin, plan, pool, results, units
from plasticity.runs.budget import Budget, OutOfTime
from plasticity.runs.experiment import Experiment


def unfinished(experiment: Experiment, config: Any, study: str) -> tuple[Path, list[pool.Unit]]:
    """Return the folder of a run and its unfinished units; no units if it is recorded."""
    label = results.label(experiment.studies, study, config)
    folder = results.folder(experiment.name, label)
    if driver.recorded(experiment, label, config):
        return folder, []
    parts = plan.units_of(experiment, config, batched=False)
    work = folder / "unfinished"
    return folder, [unit for unit in parts if not units.is_done(experiment, config, unit, work)]


def run_unit(
    experiment: Experiment,
    config: Any,
    study: str,
    arm: str,
    seed: int,
    *,
    checkpoint_seconds: float | None = None,
    minutes: float | None = None,
) -> None:
    """Run or resume one unit of a run, while jobs may be at work on others.

    Nothing happens if the unit is done or the run recorded. If another process is at work on this
    unit, such as a job whose controller was killed, wait for that process.

    With ``minutes`` it stops before this time is up, as `plasticity.runs.driver.run` does.

    Raises:
        budget.OutOfTime: the time was up before the unit was done. Call again to go on.
        configuration.ConfigError: the run has no such unit.
        checkpoints.CheckpointError: the folder is damaged, `plasticity.runs.driver.run` holds it
            alone, or it has a run with another configuration, code, environment (settings of JAX
            included), data or kind of node.
        results.ResultsError: something cannot be written.
        driver.UnitsFailed: the unit failed. Call again to retry it from its last checkpoint.
    """
    unit = pool.Unit(arm, (seed,))
    parts = plan.units_of(experiment, config, batched=False)
    if unit not in parts:
        arms = ", ".join(experiment.arms(config))
        seeds = ", ".join(str(part.seeds[0]) for part in parts if part.arm == parts[0].arm)
        raise configuration.ConfigError(
            f"no unit {arm} {seed}: choose an arm from {arms} and a seed from {seeds}"
        )
    folder, left = unfinished(experiment, config, study)
    if unit not in left:
        return
    work = folder / "unfinished"
    budget, seconds = Budget.of(minutes), checkpoint_seconds
    if seconds is None:
        seconds = experiment.checkpoint_seconds
    header = driver.make_header(
        experiment, config, origin.environment(), in_workers=devices.is_cpu(), batched=False
    )
    with checkpoints.locked(work, shared=True) as lock:
        checkpoints.open_header(work, header)
        own = checkpoints.UnitFolder(work, *unit).path
        with checkpoints.locked(own, wait=True):
            pass
        if devices.is_cpu():
            with _own_core() as core:
                failed = units.run_in_workers(
                    experiment, config, [unit], work, lock, [core], own, seconds, budget
                )
        else:
            failed = units.run_here(experiment, config, [unit], work, seconds, budget)
    units.require_none(failed, 1)
    if not units.is_done(experiment, config, unit, work):
        raise OutOfTime(f"{arm} {seed}: the time is up; the same command goes on where it stopped")


@contextmanager
def _own_core() -> Iterator[int | None]:
    """Hold a core that no other job on this machine holds, or any core if none is left.

    A scheduler may give each job its own cores or show all of them to every job. The hold is a name
    in Linux's abstract socket namespace: the kernel drops it when the process is gone.
    """
    cores = pool.usable_cores()
    with socket.socket(socket.AF_UNIX) as holder:
        free = (core for core in cores if core is not None and _hold(holder, core))
        yield next(free, cores[os.getpid() % len(cores)])


def _hold(holder: socket.socket, core: int) -> bool:
    try:
        holder.bind(f"\0plasticity-core-{core}")
    except OSError:  # another job has it
        return False
    return True
