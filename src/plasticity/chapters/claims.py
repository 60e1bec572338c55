"""The claims of the paper, part by part, and what our own runs say about each.

`claims.csv` was written before any run was recorded: it fixes what is measured and what would
contradict a claim. `parts.csv` divides claims that say several things. A verdict is on one part, by
one recorded run; it is computed each time it is shown, and none is stored.
"""

from __future__ import annotations

import csv
import importlib.resources
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from plasticity.runs.results import Run
from plasticity.statistics import Interval

Side = Literal[">", "<"]

Status = Literal[
    "supported", "contradicted", "inconclusive", "undecided", "depends", "empty", "not run"
]
"""What one run says of one part of a claim.

*inconclusive*: an interval contains its threshold. *undecided*: what was not run could turn it.
*depends*: on a choice that the paper leaves open. *empty*: at its size it could not have failed.
"""

Word = Literal[
    "supported", "contradicted", "partly supported", "mixed", "runs disagree", "inconclusive",
    "undecided", "not run",
]  # fmt: skip
"""What all runs say of all parts of a claim: see `Entry.word`."""


class Claim(NamedTuple):
    """One row of the ledger."""

    id: str
    where: str  # figure or section of the paper
    claim: str  # what the paper says
    measure: str  # what is computed
    falsified_if: str  # what result speaks against it
    experiment: str  # the experiment whose judge decides


class Part(NamedTuple):
    """One of several things that a claim says."""

    claim: str  # its id
    part: str  # a short name; "" if the claim says one thing
    says: str
    falsified_if: str


class Condition(NamedTuple):
    """What a claim requires of one measured quantity."""

    name: str
    measured: Interval
    side: Side
    threshold: float
    empty: str = ""  # why it could not fail, or could not hold; then it does not count

    @property
    def holds(self) -> bool | None:
        """True or False if the whole interval lies on one side of the threshold, else None."""
        _, low, high, _ = self.measured
        above, below = low > self.threshold, high < self.threshold
        if not self.empty and (above or below):
            return above if self.side == ">" else below
        return None

    def __str__(self) -> str:
        """Write the quantity, its interval and what the claim needs."""
        mark = {True: "holds", False: "fails", None: "undecided"}[self.holds]
        if self.empty:
            mark = f"does not count, {self.empty}"
        return f"{self.name}: {self.measured}; needs {self.side} {self.threshold:g}: {mark}"


class Verdict(NamedTuple):
    """What a run says about a part of a claim, and by what measurements."""

    claim: Claim
    status: Status
    conditions: tuple[Condition, ...] = ()
    part: str = ""  # the part's short name
    note: str = ""  # a sentence: in which window it holds, or what it depends on
    run: str = ""  # the run's folder: experiment/label

    def __str__(self) -> str:
        """Write the verdict as plain text, one line per condition."""
        name = f"{self.claim.id} ({self.part})" if self.part else self.claim.id
        lines = [f"{name}: {self.status}", *map(str, self.conditions)]
        return "\n  ".join([*lines, self.note] if self.note else lines)


Judge = Callable[[Run], Sequence[Verdict]]
"""Returns what a run says of each part of a claim; nothing if it has no arms to say it by."""


def _rows(name: str) -> Iterable[dict[str, str]]:
    text = (importlib.resources.files("plasticity.chapters") / name).read_text(encoding="utf-8")
    return csv.DictReader(text.splitlines())


LEDGER = {row["id"]: Claim(**row) for row in _rows("claims.csv")}
"""Every claim by its id, in the paper's order."""

PARTS = {(row["claim"], row["part"]): Part(**row) for row in _rows("parts.csv")}
"""The parts of claims that say several things."""


def parts(claim_id: str) -> list[Part]:
    """Return the parts of a claim: itself, if it says one thing."""
    claim = LEDGER[claim_id]
    found = [part for (name, _), part in PARTS.items() if name == claim_id]
    return found or [Part(claim_id, "", claim.claim, claim.falsified_if)]


def decide(
    claim_id: str,
    *conditions: Condition,
    part: str = "",
    of: int | None = None,
    limit: int = 1,
    note: str = "",
) -> Verdict:
    """Return the verdict: ``limit`` failing conditions contradict, with fewer it is supported.

    An interval that contains its threshold decides nothing, and what could not fail does not count.
    Of a rule that counts networks, data sets or games, ``of`` says how many it counts: what was not
    run is unknown, and if it could turn the verdict, this is "undecided". Raises KeyError for a
    claim or a part that is not in the ledger, ValueError without conditions.
    """
    if not conditions:
        raise ValueError(f"{claim_id}: nothing was measured")
    if part not in {known.part for known in parts(claim_id)}:
        raise KeyError(f"{claim_id}: it has no part {part!r}")
    counting = [condition.holds for condition in conditions if not condition.empty]
    whole = len(counting) if of is None else of
    unknown, fails = whole - len(counting), counting.count(False)
    status: Status = "inconclusive"
    if not counting:
        status = "empty"
    elif fails >= limit:
        status = "contradicted"
    elif counting.count(True) > whole - limit:
        status = "supported"
    elif fails + unknown >= limit:
        status = "undecided"
    return Verdict(LEDGER[claim_id], status, conditions, part, note)


def judge(run: Run, judges: Mapping[str, Judge]) -> list[Verdict]:
    """Return the verdicts of ``run`` on each part of each claim that its experiment decides."""
    name = f"{run.experiment}/{run.label}"
    found = itertools.chain.from_iterable(judge(run) for judge in judges.values())
    return [verdict._replace(run=name) for verdict in found]


def over_steps(
    run: Run, judge: Judge, part: str = "", steps: Iterable[int] | None = None
) -> dict[int, Status]:
    """Return the verdict on a part as if the run had ended at each step after the start.

    If not all arms were measured at the same steps, ``steps`` says at which to look.
    """
    found: dict[int, Status] = {}
    for step in sorted(set(run.table.step if steps is None else steps) - {0}):
        shorter = replace(run, table=run.table[run.table.step <= step])
        found |= {int(step): v.status for v in judge(shorter) if v.part == part}
    return found


def windows(statuses: Mapping[int, Status]) -> str:
    """Return in which windows of steps a verdict holds, in a sentence; nothing if it never turns.

    >>> from plasticity.chapters.claims import windows
    >>> windows({500: "supported", 1_000: "supported", 1_500: "contradicted"})
    'Had the run ended earlier: supported at 500 to 1,000 steps, contradicted at 1,500.'
    """
    spans: list[str] = []
    for status, group in itertools.groupby(statuses.items(), key=lambda item: item[1]):
        steps = [step for step, _ in group]
        unit = " steps" if not spans else ""
        span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        spans.append(f"{status} at {span}{unit}")
    return f"Had the run ended earlier: {', '.join(spans)}." if len(spans) > 1 else ""


class Entry(NamedTuple):
    """A claim with every verdict on any of its parts."""

    claim: Claim
    verdicts: tuple[Verdict, ...]

    @property
    def word(self) -> Word:
        """What the verdicts say together.

        "runs disagree" if one run supports and another contradicts the same part, "mixed" if parts
        differ so or a verdict depends on an open choice, "partly supported" if some parts are, or
        by some runs, and the rest is open. A claim of which a part is contradicted and none
        supported is contradicted.
        """
        by_part: dict[str, set[Status]] = {part.part: set() for part in parts(self.claim.id)}
        for verdict in self.verdicts:
            by_part[verdict.part].add(verdict.status)
        said = set().union(*(found or {"not run"} for found in by_part.values()))
        opposed = {"supported", "contradicted"}
        if any(opposed <= found for found in by_part.values()):
            return "runs disagree"
        if opposed <= said or "depends" in said:
            return "mixed"
        if "supported" in said:
            whole = all(found == {"supported"} for found in by_part.values())
            return "supported" if whole else "partly supported"
        if "contradicted" in said:
            return "contradicted"
        if "undecided" in said or "empty" in said:
            return "undecided"
        return "inconclusive" if "inconclusive" in said else "not run"


def ledger(verdicts: Iterable[Verdict]) -> list[Entry]:
    """Return an entry for every claim, in the ledger's order, whether or not a run bears on it."""
    found: dict[str, list[Verdict]] = {name: [] for name in LEDGER}
    for verdict in verdicts:
        found[verdict.claim.id].append(verdict)
    order = {(name, part.part): k for name in LEDGER for k, part in enumerate(parts(name))}
    return [
        Entry(claim, tuple(sorted(found[name], key=lambda v: order[name, v.part])))
        for name, claim in LEDGER.items()
    ]
