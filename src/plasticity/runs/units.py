"""The units of a run, each an arm on a seed: how to list them, and how to advance one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from plasticity import configuration, programs
from plasticity.errors import Told
from plasticity.runs import checkpoints, compiling, files, pool
from plasticity.runs.budget import Budget
from plasticity.runs.experiment import Experiment
from plasticity.runs.pool import Unit


class UnitsFailed(Told, RuntimeError):
    """Some units of a run failed; all others are kept."""


MAPPINGS = 20_000
"""Memory mappings from which on compiled programs are freed; Linux allows 65,530."""


def units_of(experiment: Experiment, config: Any, batched: bool) -> list[Unit]:
    """Return the parts of a run: each arm on each seed, or on all seeds at once if ``batched``.

    Arms that share programs come together, so that these are compiled once.
    """
    lanes = [tuple(_seeds(config))] if batched else [(seed,) for seed in _seeds(config)]
    sharing: dict[Hashable, list[str]] = {}
    for arm in experiment.arms(config):
        sharing.setdefault(experiment.shares(experiment.arm(config, arm)), []).append(arm)
    return [Unit(arm, lane) for arms in sharing.values() for arm in arms for lane in lanes]


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
    experiment: Experiment,
    config: Any,
    unit: Unit,
    work: Path,
    checkpoint_seconds: float,
    budget: Budget | None = None,
) -> Iterator[int]:
    """Run or resume one unit; yield how many chunks are done, at the start and after each.

    It ends early, with a checkpoint, if the next chunk would not fit into the budget.
    """
    folder = checkpoints.UnitFolder(work, *unit)
    done = folder.chunks_done()
    yield done
    if done < experiment.chunks(experiment.arm(config, unit.arm)):
        with folder.begun():
            limit = budget or Budget(None)
            yield from _advance(experiment, config, unit, folder, checkpoint_seconds, limit)


def _advance(
    experiment: Experiment,
    config: Any,
    unit: Unit,
    folder: checkpoints.UnitFolder,
    checkpoint_seconds: float,
    budget: Budget,
) -> Iterator[int]:
    changed = experiment.arm(config, unit.arm)
    _make_room()
    done, total = folder.chunks_done(), experiment.chunks(changed)
    world, _ = load(experiment, config)
    start, advance = in_parts(experiment, batched=len(unit.seeds) > 1)
    keys = [jax.random.key(seed) for seed in unit.seeds]
    state = start(changed, world, jnp.stack(keys) if len(keys) > 1 else keys[0])
    if done:
        state = folder.restore(state)
    pending: list[dict[str, Any]] = []
    saved, clock, compiled = time.monotonic(), _Clock(), 0.0
    while done < total and budget.allows(compiled):
        began, before = time.monotonic(), compiling.seconds()
        state, record = advance(changed, world, state, done)
        pending.append(jax.device_get(record))
        done += 1
        anew = compiling.seconds() - before
        compiled += anew
        budget.note(time.monotonic() - began - anew, compiled)
        ends = done == total or not budget.allows(compiled)
        if ends or time.monotonic() - saved >= checkpoint_seconds:
            folder.save(done, state, pending, clock.lap())
            pending, saved = [], time.monotonic()
        yield done


class _Clock:
    """Processor time, not wall time: whatever else the machine does should not count as cost."""

    def __init__(self) -> None:
        self.since = self._now()

    def _now(self) -> checkpoints.Spent:
        return checkpoints.Spent(time.process_time(), compiling.seconds())

    def lap(self) -> checkpoints.Spent:
        """Return the time since the last lap."""
        was, self.since = self.since, self._now()
        seconds = self.since.seconds - was.seconds
        # Compiling is timed by the wall clock, which goes on when other processes have the core.
        return checkpoints.Spent(seconds, min(self.since.compiling - was.compiling, seconds))


@lru_cache(maxsize=4)
def load(experiment: Experiment, config: Any) -> tuple[Any, dict[str, object]]:
    """Return what the experiment's ``load`` does; cached per process and configuration."""
    return experiment.load(config)


def in_parts(
    experiment: Experiment, batched: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return ``start`` and ``advance`` as the host runs them; batched, for all seeds at once.

    ``start(config, world, keys)`` and ``advance(config, world, states, chunk)`` then map over the
    seeds' leading axis.
    """

    def start(config: Any, world: Any, key: Any) -> Any:
        with programs.apart():
            one = partial(experiment.start, config, world)
            return jax.vmap(one)(key) if batched else one(key)

    def advance(config: Any, world: Any, state: Any, chunk: int) -> Any:
        def one(state: Any) -> Any:
            return experiment.advance(config, world, state, chunk)

        with programs.apart():
            return jax.vmap(one)(state) if batched else one(state)

    return start, advance


def _make_room() -> None:
    """Free all compiled programs if they take up many of the memory mappings that Linux allows.

    The machine code of some dozen networks takes more than a process may have.
    """
    try:
        used = Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:  # not Linux: there is no such limit
        return
    if used > MAPPINGS:
        jax.clear_caches()  # type: ignore[no-untyped-call]


def _bar(experiment: Experiment, config: Any, parts: list[Unit]) -> tqdm[Any]:
    """Return a progress bar that counts chunks over all units, with the time left."""
    total = sum(experiment.chunks(experiment.arm(config, unit.arm)) for unit in parts)
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total, unit="chunk", mininterval=0.2 if terminal else 10.0, dynamic_ncols=terminal
    )


def run_here(
    experiment: Experiment,
    config: Any,
    parts: list[Unit],
    work: Path,
    checkpoint_seconds: float,
    budget: Budget,
) -> dict[Unit, str]:
    """Run the units in this process, as far as the budget allows; return the reasons for failures.

    After one that failed the next one runs.
    """
    failed: dict[Unit, str] = {}
    with _bar(experiment, config, parts) as bar:
        for unit in parts:
            bar.set_description(unit.arm)
            last = 0
            try:
                for done in advance_unit(
                    experiment, config, unit, work, checkpoint_seconds, budget
                ):
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
    budget: Budget,
) -> dict[Unit, str]:
    """Run the units in worker processes, one on each core; return the reasons for failures.

    When the budget is spent, workers that are in the middle of a chunk are killed. What they print
    goes to the folder ``logs``, one file per core.
    """
    job = {
        "experiment": experiment.module,
        "config": configuration.to_dict(config),
        "work": str(work.absolute()),
        "checkpoint_seconds": checkpoint_seconds,
        "deadline": budget.deadline,
    }
    failed: dict[Unit, str] = {}
    with _bar(experiment, config, parts) as bar:
        note = partial(_note, failed, work)
        shared = {arm: experiment.shares(experiment.arm(config, arm)) for arm, _ in parts}
        pool.run(
            job, parts, lock, cores, logs,
            budget=budget, environment=compiling.cached(work / "compiled"), shared=shared,
            advanced=bar.update, failed=note,
        )  # fmt: skip
    return failed
