"""Runs any experiment: in chunks, under a progress bar, checkpointed, resumable to the same bits.

On a CPU every unit (one arm on one seed) runs in a worker process pinned to one core: measured,
that beats both threads inside one process and batching seeds with `jax.vmap`, and it makes the
bits independent of how many cores there are. On an accelerator the driver's own process runs the
arms one after the other with all seeds batched.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from tqdm import tqdm

from plasticity import (
    checkpoints,
    configuration,
    fingerprint,
    freshness,
    results,
    worker_pool,
)
from plasticity.results import Run
from plasticity.worker_pool import Unit

CHECKPOINT_SECONDS = 10.0
"""A unit is checkpointed at the first chunk that ends this long after the last checkpoint.

An experiment whose state is large may have a ``CHECKPOINT_SECONDS`` of its own.
"""


class Experiment(Protocol):
    """The contract of an experiment module; ``State`` and records are pytrees of arrays.

    ``Config`` is a frozen dataclass with at least ``seeds`` and ``first_seed``; equal arms and
    equal seeds give equal bits, and arms share the random numbers of a seed.
    """

    __name__: str
    Config: type
    PROFILES: Mapping[str, Any]
    CLAIMS: Mapping[str, Callable[[Run], Any]]

    def arms(self, config: Any) -> Mapping[str, Mapping[str, Any]]:
        """Return the changes to the configuration that define each arm."""

    def load(self, config: Any) -> tuple[Any, dict[str, object]]:
        """Return the arrays that training only reads, for all arms, and where they come from."""

    def shapes(self, config: Any) -> Any:
        """Return what `load` would give one arm as shapes and types, without loading anything."""

    def start(self, config: Any, world: Any, key: jax.Array) -> Any:
        """Return the state before the first chunk. Pure; jitted by the driver."""

    def advance(self, config: Any, world: Any, state: Any) -> tuple[Any, dict[str, jax.Array]]:
        """Return the state after one chunk and what was measured. Pure; jitted by the driver."""

    def chunks(self, config: Any) -> int:
        """Return how many chunks the run of one arm has."""

    def flops(self, config: Any) -> float:
        """Return about how many floating-point operations one seed of one arm takes."""

    def summarize(
        self, config: Any, records: results.Records
    ) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        """Return the tidy table and the named arrays of the whole run.

        Of the first seed alone it returns that seed's rows, and every array either whole or the
        first along the leading axis: what `plasticity.reproduction` compares.
        """


class UnitsFailed(RuntimeError):
    """Some units of a run failed; all others are kept."""


def run(
    experiment: ModuleType,
    config: Any,
    profile: str,
    *,
    reuse: bool = True,
    fresh: bool = False,
    workers: int | None = None,
    checkpoint_seconds: float | None = None,
) -> Run:
    """Run ``experiment`` with ``config``, or resume it, or return it if it is already recorded.

    Args:
        experiment: a module that keeps the contract of `Experiment`.
        config: an instance of its ``Config``.
        profile: the profile that ``config`` started from; names the run's folder.
        reuse: return the recorded run if there is one of this very configuration and code.
        fresh: discard an unfinished run of this folder instead of resuming it.
        workers: processes on a CPU, one pinned to each core; by default one for every core.
            0 runs in this process, unpinned: its bits are those of this many cores.
        checkpoint_seconds: see `CHECKPOINT_SECONDS`; by default the experiment's own.

    Raises:
        checkpoints.CheckpointError: the folder is in use, damaged, or holds another unfinished run.
        results.ResultsError: something cannot be written. Free space and call again: it resumes.
        UnitsFailed: some units failed, with the reason of each, which is told at once too. Call
            again to retry just them.
    """
    module = cast(Experiment, experiment)
    name = experiment.__name__.rpartition(".")[2]
    label = results.label(module.PROFILES, profile, config)
    if reuse and not fresh and (found := recorded(experiment, name, label, config)):
        return found
    work = results.folder(name, label) / "unfinished"
    with measured(
        experiment, config, work,
        fresh=fresh, workers=workers, checkpoint_seconds=checkpoint_seconds,
    ) as (records, provenance):  # fmt: skip
        table, arrays = module.summarize(config, records)
        if profile != "quick":  # which is never committed: nobody will ask whether it is fresh
            provenance["programs"] = freshness.programs(module, config)
        return results.write(name, label, table, arrays, {"profile": profile, **provenance})


def recorded(experiment: ModuleType, name: str, label: str, config: Any) -> Run | None:
    """Return the recorded run if it is of this configuration and fresh against this code."""
    try:
        found = results.load(name, label)
        same = configuration.from_dict(type(config), found.config) == config
    except (FileNotFoundError, configuration.ConfigError):  # none, or one of fields since removed
        return None
    return found if same and freshness.is_fresh(found.provenance, experiment) else None


def interval(experiment: ModuleType) -> float:
    """Return the seconds between checkpoints: the experiment's own, or `CHECKPOINT_SECONDS`."""
    return float(getattr(experiment, "CHECKPOINT_SECONDS", CHECKPOINT_SECONDS))


class Measured(NamedTuple):
    """What all units of a run measured, and where that comes from."""

    records: results.Records
    provenance: dict[str, Any]


@contextmanager
def measured(
    experiment: ModuleType,
    config: Any,
    work: Path,
    *,
    fresh: bool = False,
    workers: int | None = None,
    checkpoint_seconds: float | None = None,
) -> Iterator[Measured]:
    """Run every unit of ``config`` in the folder ``work``, or resume it, and hand over the whole.

    The folder stays locked as long as the caller has it, and is emptied when the caller is done; if
    the caller raises, it keeps everything for the next attempt. Arguments and errors are those of
    `run`.
    """
    module = cast(Experiment, experiment)
    if checkpoint_seconds is None:
        checkpoint_seconds = interval(experiment)
    in_workers = jax.default_backend() == "cpu" and workers != 0
    environment = results.environment()
    began = results.now()
    with checkpoints.locked(work) as lock:
        if fresh:
            _discard(work)
        header = make_header(experiment, config, environment, in_workers, _is_batched(work))
        checkpoints.open_header(work, header)
        # A data error shows here, once, before any worker starts.
        world, source = load(experiment, config)
        parts = units_of(module, config, header["execution"]["batched"])
        left = [unit for unit in parts if not is_done(module, config, unit, work)]
        failed: dict[Unit, str] = {}
        if left and in_workers:
            cores = worker_pool.usable_cores()[: workers or None][: len(left)]
            failed = run_in_workers(
                experiment, config, left, work, lock, cores, work, checkpoint_seconds
            )
        elif left:
            failed = run_here(module, config, left, work, checkpoint_seconds)
        require_none(failed, len(parts))
        folders = {unit: checkpoints.UnitFolder(work, *unit) for unit in parts}
        records = {
            (unit.arm, seed): lane
            for unit, folder in folders.items()
            for seed, lane in _lanes(unit, folder.records()).items()
        }
        provenance = {
            "config": header["config"],
            "code": header["code"],
            "data": source,
            "world": checkpoints.digest(world),
            "seeds": _seeds(config),
            "execution": header["execution"],
            "compute_seconds": round(sum(folder.seconds() for folder in folders.values()), 1),
            "began": began,
            "finished": results.now(),
            **environment,
        }
        yield Measured(records, provenance)
        _discard(work)


def make_header(
    experiment: ModuleType,
    config: Any,
    environment: Mapping[str, Any],
    in_workers: bool,
    batched: bool,
) -> dict[str, Any]:
    """Return what every process that runs units of one run must have in common."""
    return {
        "config": configuration.to_dict(config),
        "code": fingerprint.code_digest(experiment),
        "environment": environment["packages"] | environment["device"],
        "execution": {"processes": "one a core" if in_workers else "one", "batched": batched},
    }


def _is_batched(work: Path) -> bool:
    """Return whether all seeds run at once: on an accelerator, unless jobs began them one by one.

    Raises `checkpoints.CheckpointError` if the header is damaged.
    """
    if jax.default_backend() == "cpu":
        return False
    try:
        return bool(checkpoints.read_header(work)["execution"]["batched"])
    except FileNotFoundError:  # a new run
        return True


def _discard(work: Path) -> None:
    """Empty the work folder but for its lock, which is held.

    The header goes last: without one, units that a kill had left would pass for those of any run.
    """
    for path in sorted(work.iterdir(), key=lambda path: path.name == "header.json"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def units_of(module: Experiment, config: Any, batched: bool) -> list[Unit]:
    """Return the parts of a run: each arm on each seed, or on all seeds at once if ``batched``."""
    lanes = [tuple(_seeds(config))] if batched else [(seed,) for seed in _seeds(config)]
    return [Unit(arm, lane) for arm in module.arms(config) for lane in lanes]


def require_none(failed: Mapping[Unit, str], count: int) -> None:
    """Raise `UnitsFailed`, with every reason, if any of ``count`` units failed."""
    if failed:
        reasons = "\n".join(f"  {unit.arm} {unit.seeds}: {why}" for unit, why in failed.items())
        raise UnitsFailed(
            f"{len(failed)} of {count} units failed; the others are kept, and the same "
            f"command retries these:\n{reasons}"
        )


def is_done(module: Experiment, config: Any, unit: Unit, work: Path) -> bool:
    """Return whether the last state of a unit is there."""
    done = checkpoints.UnitFolder(work, *unit).chunks_done()
    return done >= module.chunks(arm_config(module, config, unit.arm))


def _seeds(config: Any) -> list[int]:
    return [config.first_seed + k for k in range(config.seeds)]


def _lanes(unit: Unit, records: Mapping[str, np.ndarray]) -> dict[int, dict[str, np.ndarray]]:
    """Split a unit's records, (chunks, seeds, ...) if batched, into those of each seed."""
    if len(unit.seeds) == 1:
        return {unit.seeds[0]: dict(records)}
    return {
        seed: {name: array[:, k] for name, array in records.items()}
        for k, seed in enumerate(unit.seeds)
    }


def advance_unit(
    module: Experiment, config: Any, unit: Unit, work: Path, checkpoint_seconds: float
) -> Iterator[int]:
    """Run or resume one unit; yield the chunks done so far, first those found, then one by one."""
    folder = checkpoints.UnitFolder(work, *unit)
    done = folder.chunks_done()
    yield done
    if done < module.chunks(arm_config(module, config, unit.arm)):
        with folder.begun():
            yield from _advance(module, config, unit, folder, checkpoint_seconds)


def _advance(
    module: Experiment,
    config: Any,
    unit: Unit,
    folder: checkpoints.UnitFolder,
    checkpoint_seconds: float,
) -> Iterator[int]:
    changed = arm_config(module, config, unit.arm)
    _forget_other_arms(changed)
    done, total = folder.chunks_done(), module.chunks(changed)
    world, _ = load(cast(ModuleType, module), config)
    start, advance = compiled(cast(ModuleType, module), batched=len(unit.seeds) > 1)
    keys = [jax.random.key(seed) for seed in unit.seeds]
    state = start(changed, world, jnp.stack(keys) if len(keys) > 1 else keys[0])
    if done:
        state = folder.restore(state)
    pending: list[dict[str, Any]] = []
    # Time on the core, not on the clock: what else the machine does should not count as cost.
    since, spent = time.monotonic(), time.process_time()
    while done < total:
        state, record = advance(changed, world, state)
        pending.append(jax.device_get(record))
        done += 1
        if time.monotonic() - since >= checkpoint_seconds or done == total:
            folder.save(done, state, pending, time.process_time() - spent)
            pending, since, spent = [], time.monotonic(), time.process_time()
        yield done


@lru_cache(maxsize=4)
def load(module: ModuleType, config: Any) -> tuple[Any, dict[str, object]]:
    """Return what the experiment's own ``load`` does, once a process and configuration."""
    return cast(tuple[Any, dict[str, object]], module.load(config))


@lru_cache(maxsize=4)
def compiled(module: ModuleType, batched: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return jitted ``start`` and ``advance``; batched ones map over the seeds' leading axis."""

    def start(config: Any, world: Any, key: Any) -> Any:
        return module.start(config, world, key)

    def advance(config: Any, world: Any, state: Any) -> Any:
        return module.advance(config, world, state)

    if batched:
        start, advance = _over_seeds(start), _over_seeds(advance)
    return jax.jit(start, static_argnums=0), jax.jit(advance, static_argnums=0, donate_argnums=2)


@lru_cache(maxsize=1)
def _forget_other_arms(config: Any) -> None:
    """Free what is compiled, unless it is for the arm of the last call.

    The machine code of some dozens of arms takes more memory mappings than Linux allows a process.
    """
    jax.clear_caches()  # type: ignore[no-untyped-call]


def _over_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """Map ``function(config, world, x)`` over the leading axis of x."""

    def batched(config: Any, world: Any, x: Any) -> Any:
        return jax.vmap(partial(function, config, world))(x)

    return batched


def arm_config(module: Experiment, config: Any, arm: str) -> Any:
    """Return the configuration of one arm."""
    return dataclasses.replace(config, **module.arms(config)[arm])


def _bar(module: Experiment, config: Any, parts: list[Unit]) -> tqdm[Any]:
    """Return a progress bar that counts chunks over all units, with the time left."""
    total = sum(module.chunks(arm_config(module, config, unit.arm)) for unit in parts)
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total, unit="chunk", mininterval=0.2 if terminal else 10.0, dynamic_ncols=terminal
    )


def run_here(
    module: Experiment, config: Any, parts: list[Unit], work: Path, checkpoint_seconds: float
) -> dict[Unit, str]:
    """Run every unit in this process. A unit's failure is noted, and the next one runs."""
    failed: dict[Unit, str] = {}
    with _bar(module, config, parts) as bar:
        for unit in parts:
            bar.set_description(unit.arm)
            last = 0
            try:
                for done in advance_unit(module, config, unit, work, checkpoint_seconds):
                    bar.update(done - last)
                    last = done
            except results.ResultsError:  # the next unit would find the disk as full
                raise
            except Exception as error:
                _note(failed, work, unit, f"{type(error).__name__}: {error}")
    return failed


def _note(failed: dict[Unit, str], work: Path, unit: Unit, reason: str) -> None:
    """Note why a unit failed: here, on the screen, and in its folder for whoever looks later."""
    failed[unit] = reason
    tqdm.write(f"failed: {unit.arm} {unit.seeds}: {reason}", file=sys.stderr)
    with suppress(results.ResultsError):  # a full disk may be what it failed of
        checkpoints.UnitFolder(work, *unit).fail(reason)


def run_in_workers(
    experiment: ModuleType,
    config: Any,
    parts: list[Unit],
    work: Path,
    lock: int,
    cores: Sequence[int | None],
    logs: Path,
    checkpoint_seconds: float,
) -> dict[Unit, str]:
    """Run the units in worker processes, one on each core; return the reasons of failures.

    What the workers print goes to the folder ``logs``, a file for each core.
    """
    job = {
        "experiment": experiment.__name__,
        "config": configuration.to_dict(config),
        "work": str(work.absolute()),
        "checkpoint_seconds": checkpoint_seconds,
    }
    failed: dict[Unit, str] = {}
    with _bar(cast(Experiment, experiment), config, parts) as bar:
        note = partial(_note, failed, work)
        worker_pool.run(job, parts, lock, cores, logs, advanced=bar.update, failed=note)
    return failed
