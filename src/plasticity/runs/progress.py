"""How far unfinished runs are, read from their work folders: what `plasticity status` prints.

Nothing here talks to the running process: a unit's folder tells, even after a kill, what is done,
whether the unit is running and why it failed.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from plasticity import configuration
from plasticity.runs import checkpoints, pool
from plasticity.runs.experiment import Experiment
from plasticity.runs.folders import duration
from plasticity.runs.folders import unfinished as unfinished
from plasticity.runs.plan import planned

ArmState = Literal["done", "running", "failed", "waiting", "unknown"]
"""What an arm is at; "unknown" if its locks cannot be read, and it may be running."""

WATCH_SECONDS = 5.0
"""How long `watch` waits before it looks again."""


class Arm(NamedTuple):
    """How far one arm is."""

    name: str
    seeds_done: int
    seeds: int
    chunks_done: int
    chunks: int
    spent: checkpoints.Spent  # behind its checkpoints
    state: ArmState
    failures: tuple[str, ...]  # the seeds and the reason, for each unit that failed


def arms(experiment: Experiment, work: Path) -> list[Arm]:
    """Return how far each arm of an unfinished run is, in the order in which arms are begun.

    Raises `checkpoints.CheckpointError` if the folder is damaged.
    """
    config, batched = _settings(experiment, work)
    by_arm: dict[str, list[pool.Unit]] = {}
    for unit in planned(experiment, config, work, batched):
        for arm in (unit.arm, *unit.others):
            by_arm.setdefault(arm, []).append(unit)
    return [
        _arm(name, work, units, experiment.chunks(experiment.arm(config, name)))
        for name, units in by_arm.items()
    ]


def _settings(experiment: Experiment, work: Path) -> tuple[Any, bool]:
    """Return an unfinished run's configuration, and whether its lanes go in step."""
    header = checkpoints.read_header(work)
    try:
        config = configuration.from_dict(experiment.Config, header["config"])
        return config, header["execution"]["batched"]
    except (KeyError, TypeError, AttributeError) as error:  # JSON, but not what a run writes
        raise checkpoints.CheckpointError(
            f"{work / 'header.json'} is damaged ({type(error).__name__}: {error}): start over with "
            "--fresh"
        ) from None


def _arm(name: str, work: Path, units: Sequence[pool.Unit], chunks: int) -> Arm:
    folders = {unit: checkpoints.UnitFolder(work, *unit) for unit in units}
    done = {unit: folder.chunks_done() for unit, folder in folders.items()}
    reasons = {unit: folder.failure() for unit, folder in folders.items() if done[unit] < chunks}
    failures = tuple(
        f"seed {', '.join(map(str, unit.seeds))}: {why}" for unit, why in reasons.items() if why
    )
    state: ArmState = "waiting"
    running = {folders[unit].is_running() for unit in reasons}
    if not reasons:
        state = "done"
    elif True in running:
        state = "running"
    elif None in running:
        state = "unknown"
    elif failures:
        state = "failed"
    return Arm(
        name,
        sum(len(unit.seeds) for unit in units if unit not in reasons),
        sum(len(unit.seeds) for unit in units),
        sum(done.values()),
        chunks * len(units),
        checkpoints.total(
            folder.spent().share(1 + len(unit.others)) for unit, folder in folders.items()
        ),
        state,
        failures,
    )


def line(experiment: Experiment, work: Path, found: Sequence[Arm]) -> str:
    """Write how far an unfinished run is and how much longer it will take."""
    rest = left(experiment, work, found)
    name, label = work.parent.parent.name, work.parent.name
    what = "being reproduced, " if work.name == "reproducing" else ""
    state = {
        True: "running",
        False: "stopped; the same command resumes it",
        None: "running or stopped: its locks cannot be read",
    }[checkpoints.in_use(work)]
    return f"{name} {label}: {what}{_done(found)}{rest and f', {rest}'}; {state}"


def stopped(experiment: Experiment, work: Path) -> str:
    """Write how far a run is whose time is up, and how much longer it will take."""
    found = arms(experiment, work)
    rest = left(experiment, work, found)
    name, label = work.parent.parent.name, work.parent.name
    none = sum(arm.chunks_done for arm in found) == 0
    return (
        f"{name} {label}: the time is up with {_done(found)}{rest and f', {rest}'}; the same "
        f"command goes on where it stopped{' (but give it more time)' if none else ''}"
    )


def _done(found: Sequence[Arm]) -> str:
    return (
        f"{sum(arm.chunks_done for arm in found)} of {sum(arm.chunks for arm in found)} chunks done"
    )


def left(experiment: Experiment, work: Path, found: Sequence[Arm]) -> str:
    """Write how much longer a run computes and compiles; empty if nothing tells yet."""
    rest = remaining(experiment, work, found)
    if rest is None:
        return ""
    more = f" and {duration(rest.compiling)} of compiling" if rest.compiling else ""
    return f"{duration(rest.computing)} of computing{more} left"


class Remaining(NamedTuple):
    """How much longer a run will take, in seconds of one core or device."""

    computing: float
    compiling: float


def remaining(experiment: Experiment, work: Path, found: Sequence[Arm]) -> Remaining | None:
    """Return how much longer a run computes and compiles; None if nothing tells yet.

    Computing is scaled by floating-point operations from arms that are past their first two chunks:
    the first often trains nothing. Compiling is scaled by the number of programs: arms that share
    theirs count once.
    """
    config, _ = _settings(experiment, work)
    settings = {arm.name: experiment.arm(config, arm.name) for arm in found}
    cost = {arm.name: arm.seeds * _flops(experiment, settings[arm.name]) for arm in found}
    done = {arm.name: cost[arm.name] * arm.chunks_done / arm.chunks for arm in found}
    telling = [arm for arm in found if arm.chunks_done > 2 or arm.state == "done"]
    computed = sum(arm.spent.seconds - arm.spent.compiling for arm in telling)
    told = sum(done[arm.name] for arm in telling)
    if not told:
        return None
    computing = computed * (sum(cost.values()) - sum(done.values())) / told
    begun = {experiment.shares(settings[arm.name]) for arm in found if arm.chunks_done}
    new = {experiment.shares(settings[arm.name]) for arm in found} - begun
    compiling = sum(arm.spent.compiling for arm in found) * len(new) / len(begun)
    return Remaining(computing, compiling)


@cache
def _flops(experiment: Experiment, config: Any) -> float:
    return float(
        experiment.flops(config)
    )  # may trace the network, and `watch` asks again and again


HEADINGS = ("seeds", "chunks", "time", "state")


def table(found: Sequence[Arm], width: int, height: int | None = None) -> str:
    """Write one row per arm, at most ``width`` wide: seeds and chunks done of all, time, state.

    The reason stands below an arm that failed, cut to the width. Names are never cut: where they
    leave no room for the numbers, those stand below. With more than ``height`` lines only running
    and failed arms are shown, as many as fit; the others are counted.
    """
    rows = {arm.name: _cells(arm) for arm in found}
    sizes = [max(map(len, column)) for column in zip(HEADINGS, *rows.values(), strict=True)]
    longest = max(len(name) for name in ("arm", *rows))
    beside = longest + sum(2 + size for size in sizes) <= width

    def row(name: str, cells: Sequence[str]) -> list[str]:
        numbers = "  ".join(f"{c:>{n}}" for c, n in zip(cells[:-1], sizes[:-1], strict=True))
        numbers = f"{numbers}  {cells[-1]}"
        return [f"{name:<{longest}}  {numbers}"] if beside else [name, f"    {numbers}"]

    blocks = {
        arm.name: row(arm.name, rows[arm.name])
        + [_cut(f"    failed: {why}", width) for why in arm.failures]
        for arm in found
    }
    shown, head = list(found), row("arm", HEADINGS)
    if height is not None and len(head) + sum(map(len, blocks.values())) > height:
        room, shown = height - len(head) - 1, []
        for arm in sorted(found, key=lambda arm: arm.state != "running"):
            if arm.state in ("running", "failed") and len(blocks[arm.name]) <= room:
                shown.append(arm)
                room -= len(blocks[arm.name])
    hidden = Counter(arm.state for arm in found if arm not in shown)
    lines = head + [text for arm in shown for text in blocks[arm.name]]
    if hidden:
        lines.append("and " + ", ".join(f"{count} {state}" for state, count in hidden.items()))
    return "\n".join(text.rstrip() for text in lines)


def _cells(arm: Arm) -> tuple[str, str, str, str]:
    return (
        f"{arm.seeds_done}/{arm.seeds}",
        f"{arm.chunks_done}/{arm.chunks}",
        duration(arm.spent.seconds) if arm.spent.seconds else "",
        arm.state,
    )


def _cut(text: str, width: int) -> str:
    text = " ".join(text.splitlines())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def watch(picture: Callable[[int, int | None], str], going_on: Callable[[], bool]) -> None:
    """Print ``picture`` (of width and height) every few seconds until nothing is going on.

    On a terminal each fits and replaces the last; elsewhere one is printed only if it changed.
    """
    last = ""
    while going_on():
        terminal = sys.stdout.isatty()
        width, height = screen()
        text = picture(width, height - 2 if terminal else None)
        if terminal:
            print(f"\033[2J\033[H{text}", flush=True)
        elif text != last:
            print(text, flush=True)
        last = text
        time.sleep(WATCH_SECONDS)


def screen() -> tuple[int, int]:
    """Return the width and height to write for: the terminal's, or 100 and 24 without one."""
    return shutil.get_terminal_size((100, 24))
