"""The units of a run, each an arm on a seed: how to list them, and how to advance one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from plasticity import configuration
from plasticity.errors import Told
from plasticity.runs import checkpoints, files, pool
from plasticity.runs.experiment import Experiment
from plasticity.runs.pool import Unit


class UnitsFailed(Told, RuntimeError):
    """Some units of a run failed; all others are kept."""


def units_of(experiment: Experiment, config: Any, batched: bool) -> list[Unit]:
    """Return the parts of a run: each arm on each seed, or on all seeds at once if ``batched``."""
    lanes = [tuple(_seeds(config))] if batched else [(seed,) for seed in _seeds(config)]
    return [Unit(arm, lane) for arm in experiment.arms(config) for lane in lanes]


def require_none(failed: Mapping[Unit, str], count: int) -> None:
    """Raise `UnitsFailed`, with every reason, if any of ``count`` units failed."""
    if failed:
        reasons = "\n".join(f"  {unit.arm} {unit.seeds}: {why}" for unit, why in failed.items())
        raise UnitsFailed(
            f"{len(failed)} of {count} units failed; the others are kept, and the same "
            f"command retries these:\n{reasons}"
        )


def is_done(experiment: Experiment, config: Any, unit: Unit, work: Path) -> bool:
    """Return whether a unit's last state has been reached."""
    done = checkpoints.UnitFolder(work, *unit).chunks_done()
    return done >= experiment.chunks(experiment.arm(config, unit.arm))


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
    experiment: Experiment, config: Any, unit: Unit, work: Path, checkpoint_seconds: float
) -> Iterator[int]:
    """Run or resume one unit; yield how many chunks are done, at the start and after each."""
    folder = checkpoints.UnitFolder(work, *unit)
    done = folder.chunks_done()
    yield done
    if done < experiment.chunks(experiment.arm(config, unit.arm)):
        with folder.begun():
            yield from _advance(experiment, config, unit, folder, checkpoint_seconds)


def _advance(
    experiment: Experiment,
    config: Any,
    unit: Unit,
    folder: checkpoints.UnitFolder,
    checkpoint_seconds: float,
) -> Iterator[int]:
    changed = experiment.arm(config, unit.arm)
    _forget_other_arms(changed)
    done, total = folder.chunks_done(), experiment.chunks(changed)
    world, _ = load(experiment, config)
    start, advance = compiled(experiment, batched=len(unit.seeds) > 1)
    keys = [jax.random.key(seed) for seed in unit.seeds]
    state = start(changed, world, jnp.stack(keys) if len(keys) > 1 else keys[0])
    if done:
        state = folder.restore(state)
    pending: list[dict[str, Any]] = []
    # Processor time, not wall time: whatever else the machine does should not count as cost.
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
def load(experiment: Experiment, config: Any) -> tuple[Any, dict[str, object]]:
    """Return what the experiment's ``load`` does; cached per process and configuration."""
    return experiment.load(config)


@lru_cache(maxsize=4)
def compiled(
    experiment: Experiment, batched: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return jitted ``start`` and ``advance``; batched ones map over the seeds' leading axis."""

    def start(config: Any, world: Any, key: Any) -> Any:
        return experiment.start(config, world, key)

    def advance(config: Any, world: Any, state: Any) -> Any:
        return experiment.advance(config, world, state)

    if batched:
        start, advance = _over_seeds(start), _over_seeds(advance)
    return jax.jit(start, static_argnums=0), jax.jit(advance, static_argnums=0, donate_argnums=2)


@lru_cache(maxsize=1)
def _forget_other_arms(config: Any) -> None:
    """Free compiled programs, unless they are for the arm of the last call.

    The machine code of some dozen arms takes more memory mappings than Linux allows a process.
    """
    jax.clear_caches()  # type: ignore[no-untyped-call]


def _over_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """Map ``function(config, world, x)`` over the leading axis of x."""

    def batched(config: Any, world: Any, x: Any) -> Any:
        return jax.vmap(partial(function, config, world))(x)

    return batched


def _bar(experiment: Experiment, config: Any, parts: list[Unit]) -> tqdm[Any]:
    """Return a progress bar that counts chunks over all units, with the time left."""
    total = sum(experiment.chunks(experiment.arm(config, unit.arm)) for unit in parts)
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total, unit="chunk", mininterval=0.2 if terminal else 10.0, dynamic_ncols=terminal
    )


def run_here(
    experiment: Experiment, config: Any, parts: list[Unit], work: Path, checkpoint_seconds: float
) -> dict[Unit, str]:
    """Run every unit in this process. A unit's failure is noted, and the next one runs."""
    failed: dict[Unit, str] = {}
    with _bar(experiment, config, parts) as bar:
        for unit in parts:
            bar.set_description(unit.arm)
            last = 0
            try:
                for done in advance_unit(experiment, config, unit, work, checkpoint_seconds):
                    bar.update(done - last)
                    last = done
            except files.ResultsError:  # the disk would be just as full for the next unit
                raise
            except Exception as error:
                _note(failed, work, unit, f"{type(error).__name__}: {error}")
    return failed


def _note(failed: dict[Unit, str], work: Path, unit: Unit, reason: str) -> None:
    """Note why a unit failed: in ``failed``, on the screen, and in its folder for later."""
    failed[unit] = reason
    tqdm.write(f"failed: {unit.arm} {unit.seeds}: {reason}", file=sys.stderr)
    with suppress(files.ResultsError):  # a full disk may be the reason
        checkpoints.UnitFolder(work, *unit).fail(reason)


def run_in_workers(
    experiment: Experiment,
    config: Any,
    parts: list[Unit],
    work: Path,
    lock: int,
    cores: Sequence[int | None],
    logs: Path,
    checkpoint_seconds: float,
) -> dict[Unit, str]:
    """Run the units in worker processes, one on each core; return the reasons for failures.

    What the workers print goes to the folder ``logs``, one file per core.
    """
    job = {
        "experiment": experiment.module,
        "config": configuration.to_dict(config),
        "work": str(work.absolute()),
        "checkpoint_seconds": checkpoint_seconds,
    }
    failed: dict[Unit, str] = {}
    with _bar(experiment, config, parts) as bar:
        note = partial(_note, failed, work)
        pool.run(job, parts, lock, cores, logs, advanced=bar.update, failed=note)
    return failed
