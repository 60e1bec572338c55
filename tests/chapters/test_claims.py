"""Verdicts follow from intervals and thresholds, and words from verdicts; from nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest

from plasticity.chapters import claims
from plasticity.chapters.claims import Condition, Status, Verdict, Word, decide
from plasticity.runs.results import Run
from plasticity.statistics import UNKNOWN, Interval

HIGH, LOW, WIDE = Interval(0.9, 0.8, 1.0, 5), Interval(0.1, 0.0, 0.2, 5), Interval(0.5, 0.1, 0.9, 5)


@pytest.mark.parametrize(
    ("measured", "side", "holds"),
    [
        (HIGH, ">", True), (HIGH, "<", False), (LOW, "<", True), (LOW, ">", False),
        (WIDE, ">", None), (WIDE, "<", None), (UNKNOWN, ">", None),
        (Interval(0.5, 0.5, 0.5, 3), ">", None),  # on the threshold
    ],
)  # fmt: skip
def test_a_condition_holds_only_if_the_whole_interval_does(
    measured: Interval, side: Literal[">", "<"], holds: bool | None
) -> None:
    assert Condition("x", measured, side, 0.5).holds is holds
    assert Condition("x", measured, side, 0.5, empty="at chance").holds is None


def above(*intervals: Interval, empty: str = "") -> list[Condition]:
    """Conditions that each of these is above one half."""
    return [Condition("x", interval, ">", 0.5, empty) for interval in intervals]


@pytest.mark.parametrize(
    ("intervals", "status"),
    [
        ([HIGH, HIGH], "supported"),
        ([HIGH, WIDE], "inconclusive"),
        ([WIDE, LOW], "contradicted"),
        ([HIGH, LOW], "contradicted"),
    ],
)
def test_one_failing_condition_contradicts_and_one_open_one_withholds(
    intervals: list[Interval], status: str
) -> None:
    assert decide("adam-dead-units", *above(*intervals)).status == status


@pytest.mark.parametrize(
    ("intervals", "status"),
    [
        ([HIGH, HIGH, HIGH], "supported"),  # the fourth alone cannot contradict
        ([LOW, LOW], "contradicted"),  # whatever the others say
        ([HIGH, LOW], "undecided"),  # one of the two that were not run would do
        ([HIGH, HIGH], "undecided"),  # both of them
        ([HIGH, HIGH, HIGH, LOW], "supported"),
        ([HIGH, HIGH, WIDE, LOW], "inconclusive"),
        ([WIDE, WIDE, HIGH], "inconclusive"),
    ],
)
def test_what_was_not_run_is_unknown_to_a_rule_that_counts(
    intervals: list[Interval], status: str
) -> None:
    """Contradicted by two of four."""
    assert decide("adam-dead-units", *above(*intervals), of=4, limit=2).status == status


def test_what_cannot_fail_does_not_count() -> None:
    empty = above(LOW, empty="at the probe's floor")
    assert decide("adam-dead-units", *above(HIGH), *empty).status == "supported"
    assert decide("adam-dead-units", *empty).status == "empty"
    # in a rule that counts it is as if it had not been run
    assert decide("adam-dead-units", *above(HIGH), *empty, of=2, limit=1).status == "undecided"
    assert "does not count, at the probe's floor" in str(empty[0])


def test_nothing_measured_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        decide("adam-dead-units")
    with pytest.raises(KeyError):
        decide("no-such-claim", *above(HIGH))
    with pytest.raises(KeyError, match="no part 'other'"):
        decide("adam-dead-units", *above(HIGH), part="other")
    with pytest.raises(KeyError, match="no part ''"):
        decide("shrink-perturb-worst", *above(HIGH))


def verdict(status: Status, part: str = "worse than none", run: str = "a/laptop") -> Verdict:
    """A verdict on a part of shrink-perturb-worst."""
    return Verdict(claims.LEDGER["shrink-perturb-worst"], status, tuple(above(HIGH)), part, run=run)


@pytest.mark.parametrize(
    ("worse", "worst", "word"),
    [
        (["supported"], ["supported"], "supported"),
        (["supported", "inconclusive"], ["supported"], "partly supported"),
        (["supported"], [], "partly supported"),  # the other part has no run
        (["supported"], ["inconclusive"], "partly supported"),
        (["supported"], ["empty"], "partly supported"),
        (["supported"], ["contradicted"], "mixed"),
        (["supported", "contradicted"], ["supported"], "runs disagree"),
        (["depends"], ["supported"], "mixed"),
        (["contradicted"], ["inconclusive"], "contradicted"),
        (["undecided"], ["inconclusive"], "undecided"),
        (["empty"], [], "undecided"),
        (["inconclusive"], [], "inconclusive"),
        ([], [], "not run"),
    ],
)
def test_one_word_says_no_more_than_the_parts(
    worse: list[Status], worst: list[Status], word: Word
) -> None:
    found = [verdict(status) for status in worse]
    found += [verdict(status, "the worst") for status in worst]
    entry = next(e for e in claims.ledger(found) if e.claim.id == "shrink-perturb-worst")
    assert entry.word == word
    assert len(entry.verdicts) == len(found)


def test_the_ledger_lists_every_claim_once_and_says_not_run() -> None:
    found = decide("adam-dead-units", *above(HIGH))
    ledger = claims.ledger([found])
    assert [entry.claim.id for entry in ledger] == list(claims.LEDGER)
    assert len(claims.LEDGER) == 21
    assert {entry.word for entry in ledger if entry.claim.id != "adam-dead-units"} == {"not run"}
    assert ledger[0].verdicts == (found,) and ledger[0].word == "supported"
    for claim in claims.LEDGER.values():
        assert all(claim), claim


def test_parts_are_those_of_claims_in_the_ledger() -> None:
    assert {claim for claim, _ in claims.PARTS} <= set(claims.LEDGER)
    for part in claims.PARTS.values():
        assert all(part), part
    (whole,) = claims.parts("adam-dead-units")
    assert whole.part == "" and whole.says == claims.LEDGER["adam-dead-units"].claim
    assert len(claims.parts("shrink-perturb-worst")) == 2


def test_a_verdict_over_steps_is_that_of_a_shorter_run() -> None:
    table = pd.DataFrame({"step": [0, 10, 20, 30], "value": [0.0, 0.9, 0.9, 0.1]})

    def judge(run: Run) -> list[Verdict]:
        last = float(run.table.value.iloc[-1])
        return [decide("adam-dead-units", *above(Interval(last, last, last, 3)))]

    found = claims.over_steps(Run("toy", "laptop", table, {}, {}), judge)
    assert found == {10: "supported", 20: "supported", 30: "contradicted"}
    said = claims.windows(found)
    assert said.endswith("supported at 10 to 20 steps, contradicted at 30.")
    assert claims.windows({10: "supported", 20: "supported"}) == ""


def test_the_page_says_when_the_thresholds_were_fixed(repository: Path) -> None:
    """They were there before the first run that was ever recorded; git knows."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(repository), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    text = (repository / "book" / "ledger.ipynb").read_text(encoding="utf-8")
    assert "commit `9ed4661`, on 2026-11-21 at 22:35 UTC" in text
    first = git("log", "--diff-filter=A", "--format=%H", "--", "papermill_runs/*/run.json")
    if not first or git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("the history of the repository is not here")
    oldest = first.splitlines()[-1]
    assert git("log", "-1", "--format=%cI", "9ed4661") == "2026-11-21T22:35:33+00:00"
    assert git("merge-base", "9ed4661", oldest) == git("rev-parse", "9ed4661")
    before, now = (
        claims_in(git("show", f"{commit}:{path}"))
        for commit, path in (
            ("9ed4661", "src/plasticity/claims.csv"),
            ("HEAD", "src/plasticity/chapters/claims.csv"),
        )
    )
    assert before == now, "a threshold has moved"


def claims_in(text: str) -> dict[str, str]:
    """Return what would falsify each claim of a ledger's file."""
    import csv

    return {row["id"]: row["falsified_if"] for row in csv.DictReader(text.splitlines())}
