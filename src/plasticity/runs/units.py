"""How to run the units of a run (`plasticity.runs.plan`): in this process, or in workers."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from plasticity import configuration, devices, jax_settings, lanes, programs
from plasticity.errors import Told
from plasticity.runs import checkpoints, compiling, files, plan, pool
from plasticity.runs.budget import Budget
from plasticity.runs.experiment import Experiment
from plasticity.runs.pool import Unit


class UnitsFailed(Told, RuntimeError):
    """Some units of a run failed; all others are kept."""


END = {"done": np.ones(1)}
"""The state of a unit that has come to its end."""

MAPPINGS = 20_000
"""Memory mappings from which on compiled programs are freed; Linux allows 65,530."""


def require_none(failed: Mapping[Unit, str], count: int) -> None:
    """Raise `UnitsFailed`, with every reason, if any of ``count`` units failed."""
    if failed:
        reasons = "\n".join(f"  {unit}: {why}" for unit, why in failed.items())
        raise UnitsFailed(
            f"{len(failed)} of {count} units failed; the others are kept, and the same "
            f"command retries these:\n{reasons}"
        )


def is_done(experiment: Experiment, config: Any, unit: Unit, work: Path) -> bool:
    """Return whether a unit's last state has been reached."""
    done = checkpoints.UnitFolder(work, *unit).chunks_done()
    return done >= experiment.chunks(experiment.arm(config, unit.arm))


Record = Mapping[str, Any]
"""What a chunk of a lane measured: name → array."""


def _joined(unit: Unit, records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Return what the lanes of a unit measured as one record; lanes may have different names.

    They are sorted, so that tables have their rows in one order however a record was put together.
    """
    if len(records) == 1:
        return {name: np.asarray(value) for name, value in sorted(records[0].items())}
    return {
        f"{k}:{name}": np.asarray(value)
        for k, record in enumerate(records)
        for name, value in sorted(record.items())
    }


def of_lanes(
    unit: Unit, records: Mapping[str, np.ndarray]
) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Return what each arm and seed of a unit measured, from all that the unit measured."""
    if len(unit.lanes) == 1:
        return {unit.lanes[0]: dict(records)}
    found: list[dict[str, np.ndarray]] = [{} for _ in unit.lanes]
    for key, array in records.items():
        lane, _, name = key.partition(":")
        found[int(lane)][name] = array
    return dict(zip(unit.lanes, found, strict=True))


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
    arms = [experiment.arm(config, arm) for arm, _ in unit.lanes]
    _make_room()
    done, total = folder.chunks_done(), experiment.chunks(arms[0])
    world, _ = load(experiment, config)
    start, advance = in_parts(experiment, arms)
    state = start(world, [jax.random.key(seed) for _, seed in unit.lanes])
    if done:
        state = folder.restore(state)
    pending: list[dict[str, Any]] = []
    saved, clock, compiled = time.monotonic(), _Clock(), 0.0
    going = budget.allows(compiled)
    while going:
        began, before = time.monotonic(), compiling.seconds()
        state, records = advance(world, state, done)
        pending.append(_joined(unit, records))
        done += 1
        anew = compiling.seconds() - before
        compiled += anew
        budget.note(time.monotonic() - began - anew, compiled)
        going = done < total and budget.allows(compiled)
        if not going or time.monotonic() - saved >= checkpoint_seconds:
            # Of a unit that is done nobody needs the state, which may be large.
            folder.save(done, END if done == total else state, pending, clock.lap())
            pending, saved = [], time.monotonic()
        yield done


class _Clock:
    """On a CPU processor time: whatever else the machine does should not count as cost."""

    def __init__(self) -> None:
        self.since = self._now()

    def _now(self) -> checkpoints.Spent:
        now = time.process_time if devices.is_cpu() else time.perf_counter
        return checkpoints.Spent(now(), compiling.seconds())

    def lap(self) -> checkpoints.Spent:
        """Return the time since the last lap."""
        was, self.since = self.since, self._now()
        seconds = self.since.seconds - was.seconds
        # Compiling is timed by the wall clock, which goes on when other processes have the core.
        return checkpoints.Spent(seconds, min(self.since.compiling - was.compiling, seconds))


def load(experiment: Experiment, config: Any) -> tuple[Any, dict[str, object]]:
    """Return what the experiment's ``load`` does; cached per process, configuration and settings.

    With other settings of JAX the same data may be of other types.
    """
    found: tuple[Any, dict[str, object]] = _loaded(experiment, config, jax_settings.key())
    return found


@lru_cache(maxsize=4)
def _loaded(experiment: Experiment, config: Any, settings: object) -> Any:
    return experiment.load(config)


def in_parts(
    experiment: Experiment, arms: Sequence[Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return ``start`` and ``advance`` as the host runs them, for one lane or several in step.

    ``arms`` are the lanes' configurations. ``start(world, keys)`` gives the state: the lane's, or
    that of all lanes, stacked. ``advance(world, state, chunk)`` gives it after another chunk, and
    what each lane measured.
    """

    def start(world: Any, keys: Sequence[jax.Array]) -> Any:
        calls = [
            partial(experiment.start, arm, world, key) for arm, key in zip(arms, keys, strict=True)
        ]
        return together(_in_step(calls))

    def advance(world: Any, state: Any, chunk: int) -> tuple[Any, list[Record]]:
        states = [state] if len(arms) == 1 else lanes.spread(state, len(arms))
        calls = [
            partial(experiment.advance, arm, world, one, chunk)
            for arm, one in zip(arms, states, strict=True)
        ]
        after, records = zip(*_in_step(calls), strict=True)
        return together(after), list(records)

    def together(states: Sequence[Any]) -> Any:
        return states[0] if len(arms) == 1 else lanes.gather(states)

    return start, advance


def _in_step(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    if len(calls) > 1:
        return lanes.in_step(calls)
    with programs.apart():
        return [calls[0]()]


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
    waiting = deque(parts)
    with _bar(experiment, config, parts) as bar:
        while waiting and budget.allows(compiled=0.0):
            unit = waiting.popleft()
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
            except lanes.NoRoom as error:
                smaller = plan.split(unit, error.fitting)
                plan.note_split(work, unit, smaller)
                tqdm.write(f"{unit}: {error}; goes on in {len(smaller)} parts", file=sys.stderr)
                waiting.extendleft(reversed(smaller))
                chunks = experiment.chunks(experiment.arm(config, unit.arm))
                bar.total += chunks * (len(smaller) - 1)
                bar.update(-last)
            except Exception as error:
                _note(failed, work, unit, f"{type(error).__name__}: {error}")
    return failed


def _note(failed: dict[Unit, str], work: Path, unit: Unit, reason: str) -> None:
    """Note why a unit failed: in ``failed``, on the screen, and in its folder for later."""
    failed[unit] = reason
    tqdm.write(f"failed: {unit}: {reason}", file=sys.stderr)
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
        shared = {unit.arm: experiment.shares(experiment.arm(config, unit.arm)) for unit in parts}
        pool.run(
            job, parts, lock, cores, logs,
            budget=budget, shared=shared, advanced=bar.update, failed=note,
            environment={**compiling.cached(work / "compiled"), **jax_settings.variables()},
        )  # fmt: skip
    return failed
