"""A hundred kills: which, in what order, and the record of what came of them."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import os
import secrets
import sys
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

from plasticity.runs.files import ResultsError, write_atomically
from plasticity.runs.origin import environment, now

from .scenes import RUNS, SCENES
from .trials import NEEDS, PLAN, SPACING, Laboratory, Planned, Row, laboratory

HERE = Path(__file__).parent

COLD = 0.1
"""Share of the runs that find nothing compiled, so that a kill can land in that."""

AGAIN = 0.25
"""Chance of a kill to be of a run that was killed before."""

TRIES = 5
"""How often a kill is tried whose moment does not come."""


def take(count: int, seed: int | None, output: Path) -> int:
    """Take so many kills, record them, print a summary; return 1 if anything was wrong, else 0."""
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    say(f"{count} kills, seed {seed}")
    begun = {**environment(), "began": now(), "load_before": round(os.getloadavg()[0], 2)}
    absent = {scene: package for scene, package in NEEDS.items() if not _there(package)}
    with laboratory() as lab:
        waiting = deque((1, plans) for plans in drawn(count, Random(seed), absent))
        for scene in sorted({plans[0].scene for _, plans in waiting}):
            for _ in range(2):  # the second one finds everything compiled, as a run that is killed
                usual = lab.learn(SCENES[scene])
            say(f"{scene}: undisturbed {usual.seconds:.1f} s, {usual.chunks} chunks")
        rows, missed = _taken(lab, waiting, seed)
        found = {
            "settings": {
                "seed": seed, "kills": count, "runs": RUNS, "seconds_between_checkpoints": SPACING,
                "xla_flags": os.environ.get("XLA_FLAGS", ""),
            },
            "undisturbed": {
                scene: {"seconds": round(one.seconds, 1), "chunks": one.chunks, **one.events}
                for scene, one in lab.usual.items()
            },
            "not_run": {scene: f"{package} is not installed" for scene, package in absent.items()},
            "moments_that_never_came": missed,
        }  # fmt: skip
    record(output, rows, begun, found)
    print(words(output))
    return 0 if all(row.equal for row in rows) and len(rows) == count else 1


def _there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def drawn(count: int, random: Random, without: Iterable[str] = ()) -> list[list[Planned]]:
    """Return so many kills, in the shares of the plan; those in one list are of one run."""
    kills = [plan for plan in PLAN for _ in range(plan.count) if plan.scene not in without]
    random.shuffle(kills)
    runs: list[list[Planned]] = []
    for plan in itertools.islice(itertools.cycle(kills), count):
        same = [run for run in runs if run[0].scene == plan.scene and len(run) < 3]
        if same and random.random() < AGAIN:
            random.choice(same).append(plan)
        else:
            runs.append([plan])
    return runs


def _taken(
    lab: Laboratory, waiting: deque[tuple[int, list[Planned]]], seed: int
) -> tuple[list[Row], int]:
    """Take all kills; return them, and how often the moment of one did not come."""
    count, rows, missed = sum(len(plans) for _, plans in waiting), list[Row](), 0
    for number in itertools.count(1):
        if not waiting:
            break
        attempt, plans = waiting.popleft()
        random = Random(f"{seed}/{number}")
        found = lab.trial(number, plans, random, cold=random.random() < COLD)
        for row in found:
            rows.append(row)
            said = f"equal after {row.calls} calls" if row.equal else f"WRONG: {row.problem}"
            say(f"{len(rows)} of {count}: {row.command}, {row.way} ({row.moment}): {said}")
        if len(found) < len(plans):
            missed += 1
            if attempt < TRIES:
                waiting.append((attempt + 1, plans[len(found) :]))
    return rows, missed


def say(text: str) -> None:
    """Report progress to whoever waits."""
    print(text, file=sys.stderr, flush=True)


def record(folder: Path, rows: Sequence[Row], begun: dict[str, Any], found: dict[str, Any]) -> None:
    """Write the kills to outcome.csv and all else to outcome.json, the table first."""
    table = pd.DataFrame(rows, columns=Row._fields)
    table.insert(0, "number", range(1, len(table) + 1))
    content = table.to_csv(index=False).encode()
    document = {
        **begun, "finished": now(), **found,
        "kills": {way: int(many) for way, many in Counter(table.way).items()},
        "equal": int(table.equal.sum()),
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    write_atomically(folder / "outcome.csv", content)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "outcome.json", text.encode())


def read(folder: Path = HERE) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return what was recorded: the kills, and seed, machine, versions and times.

    Raises FileNotFoundError if nothing is recorded, `ResultsError` if the files do not belong
    together.
    """
    document = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    table = folder / "outcome.csv"
    if hashlib.sha256(table.read_bytes()).hexdigest() != document["sha256"]:
        raise ResultsError(f"{table} is not what was recorded: run `make kills` again")
    return pd.read_csv(table, keep_default_na=False), document


def words(folder: Path = HERE) -> str:
    """Return in a sentence what was recorded."""
    table, document = read(folder)
    ways = ", ".join(f"{many} {way}" for way, many in document["kills"].items())
    where = f"{document['finished'][:10]} on {document['device']['kind']}"
    return (
        f"{len(table)} kills of {table.run.nunique()} runs ({ways}), {where}: after "
        f"{document['equal']} of them the run that was resumed has the bits of one that nobody "
        "disturbed, and nothing is left behind."
    )
