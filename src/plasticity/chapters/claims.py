"""The claims of the paper, and what our own runs say about each.

The ledger (`claims.csv`) was written before any run was looked at. It fixes what is measured and
what would contradict each claim. A verdict is computed from a recorded run each time it is shown;
none is stored.
"""

from __future__ import annotations

import csv
import importlib.resources
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from plasticity.runs.results import Run
from plasticity.statistics import Interval

Side = Literal[">", "<"]
Status = Literal["supported", "contradicted", "inconclusive", "not run"]


class Claim(NamedTuple):
    """One row of the ledger."""

    id: str
    where: str  # figure or section of the paper
    claim: str  # what the paper says
    measure: str  # what is computed
    falsified_if: str  # what result speaks against it
    experiment: str  # the experiment whose judge decides


class Condition(NamedTuple):
    """What a claim requires of one measured quantity."""

    name: str
    measured: Interval
    side: Side
    threshold: float

    @property
    def holds(self) -> bool | None:
        """True or False if the whole interval lies on one side of the threshold, else None."""
        _, low, high, _ = self.measured
        above, below = low > self.threshold, high < self.threshold
        if above or below:
            return above if self.side == ">" else below
        return None

    def __str__(self) -> str:
        """Write the quantity, its interval and what the claim needs."""
        mark = {True: "holds", False: "fails", None: "undecided"}[self.holds]
        return f"{self.name}: {self.measured}; needs {self.side} {self.threshold:g}: {mark}"


class Verdict(NamedTuple):
    """What a run says about a claim, and by what measurements."""

    claim: Claim
    status: Status
    conditions: tuple[Condition, ...] = ()
    run: str = ""  # the run's description

    def __str__(self) -> str:
        """Write the verdict as plain text, one line per condition."""
        lines = [f"{self.claim.id}: {self.status}", *map(str, self.conditions)]
        return "\n  ".join(lines)


def read_ledger() -> dict[str, Claim]:
    """Return every claim by its id, in the paper's order."""
    text = (importlib.resources.files("plasticity.chapters") / "claims.csv").read_text(
        encoding="utf-8"
    )
    return {row["id"]: Claim(**row) for row in csv.DictReader(text.splitlines())}


LEDGER = read_ledger()


def decide(claim_id: str, *conditions: Condition) -> Verdict:
    """Return the verdict: every condition must hold, and one that fails contradicts the claim.

    If an interval contains its threshold, that condition decides nothing. Raises KeyError for a
    claim that is not in the ledger, ValueError without conditions.
    """
    if not conditions:
        raise ValueError(f"{claim_id}: nothing was measured")
    held = [condition.holds for condition in conditions]
    status: Status = "inconclusive"
    if False in held:
        status = "contradicted"
    elif all(held):
        status = "supported"
    return Verdict(LEDGER[claim_id], status, conditions)


def judge(run: Run, judges: Mapping[str, Callable[[Run], Verdict]]) -> list[Verdict]:
    """Return the verdict of ``run`` on each claim that its experiment decides."""
    return [judge(run)._replace(run=run.describe()) for judge in judges.values()]


def ledger(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return a verdict for every claim of the ledger: "not run" where ``verdicts`` has none."""
    known = {verdict.claim.id: verdict for verdict in verdicts}
    return [known.get(name, Verdict(claim, "not run")) for name, claim in LEDGER.items()]


def as_markdown(verdicts: Iterable[Verdict]) -> str:
    """Return a Markdown table: claim, what was measured and what the claim needs, verdict."""
    rows = ["| Claim | Measured | Verdict |", "|---|---|---|"]
    for verdict in verdicts:
        claim = verdict.claim
        measured = "<br>".join(
            f"{c.name}: {_measured(c.measured)}, needs {c.side} {c.threshold:g}"
            for c in verdict.conditions
        )
        kind = verdict.status.replace(" ", "-")
        cells = (
            f"**{claim.id}** ({claim.where})<br>{claim.claim}",
            measured or f"would be: {claim.measure}",
            f'<span class="verdict verdict-{kind}">{verdict.status}</span>',
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _measured(found: Interval) -> str:
    """Write an estimate with its interval, or say that there is none."""
    if math.isnan(found.estimate):
        return "**unknown**"
    return f"**{found.estimate:.2f}** [{found.low:.2f}, {found.high:.2f}]"
