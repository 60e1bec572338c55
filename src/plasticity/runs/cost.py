"""What a run would cost, from the speed of the machine at hand.

A few warm chunks of one arm are timed, and all the others scaled by their floating-point
operations. The estimate is for this machine and others like it: it tells hours from months, not
minutes. An experiment may have a function ``sample(config)``, which returns settings of the same
agent with short chunks. Without it the quick study is timed; its small networks reach fewer
operations per second than large ones would.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from plasticity import configuration, jax_settings
from plasticity.errors import Told
from plasticity.runs import checkpoints, child, compiling, pool
from plasticity.runs.experiment import Experiment, find
from plasticity.runs.results import Run
from plasticity.runs.units import in_parts, load

SECONDS = 20.0
"""About how long chunks are timed."""

DEVICES = (1, 8, 64)
"""Numbers of devices for which times are printed."""


class NotTimed(Told, RuntimeError):
    """A process died that was to be timed; the message says how."""


class Rate(NamedTuple):
    """How fast this machine is: one core of a CPU, else the device with all seeds at once."""

    operations: float  # floating-point operations per second, as the experiment counts them
    seconds: float  # that were timed
    chunks: int  # that were timed
    arm: str
    study: str  # or "sample", or the label of a recorded run
    compiling: float = 0.0  # seconds that the programs of an arm took to compile


class Share(NamedTuple):
    """The part of a run that one figure needs."""

    units: int  # runs of an arm on a seed
    seconds: float  # of all devices together, apart from compiling
    compiling: float  # seconds to compile every program once
    wall: Mapping[int, float]  # devices → seconds until the last unit is done
    checkpoint_bytes: float  # while all units are unfinished, uncompressed
    result_bytes: float  # of all units' measurements, uncompressed


def measure(experiment: Experiment, config: Any, seconds: float = SECONDS) -> Rate:
    """Time warm chunks of the first arm of ``config``, for at least one chunk.

    On a CPU this is processor time, so that a busy machine does not look slow. Errors are those of
    the experiment's ``load`` and ``start``.
    """
    if experiment.sample is not None:
        timed, study = experiment.sample(config), "sample"
    else:
        timed, study = experiment.studies["quick"], "quick"
    arm = next(iter(experiment.arms(timed)))
    arm_config = experiment.arm(timed, arm)
    on_cpu = jax.default_backend() == "cpu"
    seeds = 1 if on_cpu else config.seeds
    world, _ = experiment.load(timed)
    start, advance = in_parts(experiment, [arm_config] * seeds)
    state = start(world, [jax.random.key(seed) for seed in range(seeds)])
    clock = time.process_time if on_cpu else time.perf_counter
    before = compiling.seconds()
    total = experiment.chunks(arm_config)
    for chunk in (0, 1):  # the first chunk often trains nothing, so that the second compiles too
        state, records = advance(world, state, chunk)
        jax.tree.map(np.asarray, records)
    compiled, began, done = compiling.seconds() - before, clock(), 0
    while done == 0 or (clock() - began < seconds and done < total - 2):
        state, records = advance(world, state, 2 + done)
        jax.tree.map(np.asarray, records)
        done += 1
    spent = clock() - began
    work = seeds * experiment.flops(arm_config) * done / total
    return Rate(work / spent, spent, done, arm, study, compiled)


def measure_on_a_core(experiment: Experiment, config: Any, seconds: float = SECONDS) -> Rate:
    """Do what `measure` does in a process pinned to one core, as the driver's workers are.

    Threads of one process that share two cores take more time in total for the same work. Raises
    RuntimeError if the process fails; the process says why on standard error.
    """
    load(experiment, config)  # a data error shows here, without a traceback
    job = {
        "experiment": experiment.module,
        "config": configuration.to_dict(config),
        "seconds": seconds,
    }
    core = pool.usable_cores()[-1]
    variables = jax_settings.variables()
    with child.start(
        "plasticity.runs.cost:answer_rate", job, core=core, environment=variables
    ) as process:
        try:
            return Rate(*child.hear(process))
        except EOFError:
            raise NotTimed(
                f"the process that was to be timed died: it {pool.ended(process.wait())}"
            ) from None
        finally:
            process.kill()


def answer_rate(
    job: Mapping[str, Any], receive: Callable[[], Any], answer: Callable[[Any], object]
) -> None:
    """Time a job in a child process, and answer its `Rate`."""
    experiment = find(job["experiment"])
    config: Any = configuration.from_dict(experiment.Config, job["config"])
    answer(measure(experiment, config, job["seconds"]))


def of_run(experiment: Experiment, run: Run) -> Rate:
    """Return how fast a recorded run was, over all of its arms, chunks and seeds."""
    config = configuration.from_dict(experiment.Config, run.config)
    compiled = run.provenance.get("compile_seconds", 0.0)  # older runs did not tell it apart
    spent = run.provenance["compute_seconds"] - compiled
    chunks = config.seeds * sum(map(experiment.chunks, _arms(experiment, config)))
    shares = {experiment.shares(arm) for arm in _arms(experiment, config)}
    rate, each = operations(experiment, config) / spent, compiled / len(shares)
    return Rate(rate, spent, chunks, "all arms", run.label, each)


@cache  # of a grid it takes a second
def operations(experiment: Experiment, config: Any) -> float:
    """Return the floating-point operations of all arms and seeds of ``config``."""
    return float(config.seeds * sum(map(experiment.flops, _arms(experiment, config))))


def _arms(experiment: Experiment, config: Any) -> list[Any]:
    return [experiment.arm(config, name) for name in experiment.arms(config)]


def estimate(experiment: Experiment, config: Any, rate: Rate) -> dict[str, Share]:
    """Return what each figure of a run of ``config`` costs at ``rate``, by the figure's name.

    An experiment's ``figures(config)`` says which arms each figure needs, and on how many seeds;
    without it the whole run counts as one figure. Figures that share arms share their cost.
    """
    everything = {"all": (list(experiment.arms(config)), config.seeds)}
    figures = experiment.figures(config) if experiment.figures else everything
    batched = jax.default_backend() != "cpu"
    return {
        name: _share(experiment, config, rate, arms, seeds, batched)
        for name, (arms, seeds) in figures.items()
    }


def _share(
    experiment: Experiment, config: Any, rate: Rate, arms: Sequence[str], seeds: int, batched: bool
) -> Share:
    lanes, units = (seeds, 1) if batched else (1, seeds)
    durations: list[float] = []
    stored = measured = 0.0
    sizes: dict[float, tuple[float, float]] = {}  # arms of equal work have arrays of equal shapes
    programs = {experiment.shares(experiment.arm(config, arm)) for arm in arms}
    for arm in arms:
        arm_config = experiment.arm(config, arm)
        work = experiment.flops(arm_config)
        if work not in sizes:
            sizes[work] = _bytes(experiment, config, arm_config)
        durations += [lanes * work / rate.operations] * units
        stored += seeds * checkpoints.KEPT * sizes[work][0]
        measured += seeds * sizes[work][1]
    wall = {devices: makespan(durations, devices) for devices in DEVICES}
    compiled = rate.compiling * len(programs)
    return Share(seeds * len(arms), sum(durations), compiled, wall, stored, measured)


def _bytes(experiment: Experiment, config: Any, arm_config: Any) -> tuple[float, float]:
    """Return the bytes of an arm's state, and of all its records."""
    world, _ = load(experiment, config)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda world: experiment.start(arm_config, world, key), world)
    _, record = jax.eval_shape(
        lambda world, state: experiment.advance(arm_config, world, state, 1), world, state
    )

    def size(tree: Any) -> float:
        found = jax.tree.map(lambda x: math.prod(x.shape) * x.dtype.itemsize, tree)
        return float(sum(jax.tree.leaves(found)))

    return size(state), size(record) * experiment.chunks(arm_config)


def makespan(durations: Sequence[float], devices: int) -> float:
    """Return when the last is done if each free device takes the longest one that is left.

    Raises ValueError without devices.
    """
    if devices < 1:
        raise ValueError(f"devices = {devices}: must be above 0")
    free = [0.0] * devices
    for duration in sorted(durations, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def describe(name: str, study: str, config: Any, rate: Rate, shares: Mapping[str, Share]) -> str:
    """Return the estimate as a table in plain text."""
    device = jax.devices()[0]
    kind = "core" if device.platform == "cpu" else "device"
    what = "its sample" if rate.study == "sample" else f"study {rate.study}"
    lines = [
        f"{name} {study}, at {rate.operations:.2g} operations a second on a {kind} "
        f"({device.device_kind}), timed on {rate.chunks} chunks of {rate.arm} ({what}) in "
        f"{rate.seconds:.0f} s"
    ]
    frames = getattr(config, "frames", None)
    if frames is not None:
        share = next(iter(shares.values()))
        lines.append(f"  {share.units * frames / share.seconds:,.0f} frames a second on a {kind}")
    found = table(shares, kind)
    rows = [["", *found.columns[1:]], *found.to_numpy().tolist()]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    lines.append("  bytes are uncompressed; those of checkpoints are free again after the run")
    return "\n".join(lines)


def table(shares: Mapping[str, Share], kind: str) -> pd.DataFrame:
    """Return the estimate in words, one row per figure; ``kind`` says whose hours it counts."""
    rows = [
        {
            "figure": figure,
            "units": f"{found.units:,}",
            f"{kind}-hours": f"{found.seconds / 3600:,.2f}",
            "compiling": f"{found.compiling / 3600:,.2f} h",
            **{f"days on {n}": f"{found.wall[n] / 86400:,.2f}" for n in DEVICES},
            "checkpoints": f"{found.checkpoint_bytes / 2**30:,.2f} GiB",
            "results": f"{found.result_bytes / 2**30:,.2f} GiB",
        }
        for figure, found in shares.items()
    ]
    return pd.DataFrame(rows)
