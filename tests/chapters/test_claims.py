"""Verdicts follow from intervals and thresholds, and from nothing else."""

from __future__ import annotations

from typing import Literal

import pytest

from plasticity.chapters import claims
from plasticity.chapters.claims import Condition, decide
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
    conditions = [Condition("x", interval, ">", 0.5) for interval in intervals]
    assert decide("adam-dead-units", *conditions).status == status


def test_nothing_measured_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        decide("adam-dead-units")
    with pytest.raises(KeyError):
        decide("no-such-claim", Condition("x", HIGH, ">", 0.5))


def test_the_ledger_lists_every_claim_once_and_says_not_run() -> None:
    verdict = decide("adam-dead-units", Condition("x", HIGH, ">", 0.5))
    ledger = claims.ledger([verdict])
    assert [v.claim.id for v in ledger] == list(claims.LEDGER)
    assert len(claims.LEDGER) == 21
    assert {v.status for v in ledger if v.claim.id != "adam-dead-units"} == {"not run"}
    assert ledger[0] == verdict
    for claim in claims.LEDGER.values():
        assert all(claim), claim


def test_markdown_has_a_row_a_claim_and_shows_the_interval() -> None:
    verdict = decide("adam-dead-units", Condition("dead | alive", HIGH, ">", 0.5))
    lines = claims.as_markdown(claims.ledger([verdict])).splitlines()
    assert len(lines) == 2 + len(claims.LEDGER)
    assert "0.90" in lines[2]
    assert "verdict-supported" in lines[2]
    assert all(line.count("|") - line.count("\\|") == 4 for line in lines)


def test_markdown_says_what_is_unknown() -> None:
    verdict = decide("adam-dead-units", Condition("dead", UNKNOWN, ">", 0.5))
    (line,) = claims.as_markdown([verdict]).splitlines()[2:]
    assert "dead: **unknown**, needs > 0.5" in line and "nan" not in line
