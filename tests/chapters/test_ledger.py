"""The ledger's pages show every claim, its parts, its runs, and say no more than these."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from plasticity import cli
from plasticity.chapters import claims, ledger
from plasticity.chapters.claims import Condition, decide
from plasticity.runs import results
from plasticity.runs.results import Run
from plasticity.statistics import UNKNOWN, Interval

HIGH = Interval(0.9, 0.8, 1.0, 5)


def run(label: str, study: str) -> Run:
    """A run of which nothing is known but its name."""
    return Run("interventions", label, pd.DataFrame(), {}, {"study": study})


@pytest.mark.parametrize(
    ("label", "study", "evidence"),
    [
        ("laptop", "laptop", True), ("laptop_cifar", "laptop_cifar", True), ("gpu", "gpu", True),
        ("quick", "quick", False), ("smoke", "smoke", False), ("laptop-12345678", "laptop", False),
    ],
)  # fmt: skip
def test_runs_of_named_studies_are_evidence(label: str, study: str, evidence: bool) -> None:
    assert ledger.bears(run(label, study)) is evidence


def test_a_table_has_a_row_per_verdict_and_shows_the_interval() -> None:
    found = [
        decide("shrink-perturb-worst", Condition("a | b", HIGH, ">", 0.5), part="worse than none"),
        decide("shrink-perturb-worst", Condition("c", UNKNOWN, ">", 0.5), part="the worst"),
    ]
    lines = ledger.of_runs(found).splitlines()
    assert len(lines) == 2 + 2
    assert "**0.90** [0.80, 1.00], n = 5, needs > 0.5" in lines[2]
    assert "verdict-supported" in lines[2] and "a \\| b" in lines[2]
    assert "c: **unknown**, needs > 0.5" in lines[3] and "nan" not in lines[3]
    assert all(line.count("|") - line.count("\\|") == 5 for line in lines)


def test_what_does_not_count_says_why() -> None:
    empty = Condition("x", HIGH, ">", 0.5, "at the probe's floor")
    (line,) = ledger.of_runs([decide("adam-dead-units", empty)]).splitlines()[2:]
    assert "(does not count: at the probe's floor)" in line and "verdict-empty" in line


def test_near_one_there_are_digits_enough_to_leave_it() -> None:
    walk = Condition("x", Interval(1.0033, 1.0013, 1.0053, 10), ">", 1.0)
    (line,) = ledger.of_runs([decide("adam-dead-units", walk)]).splitlines()[2:]
    assert "**1.003** [1.001, 1.005]" in line


def test_the_words_of_the_recorded_runs_are_those_of_their_parts() -> None:
    """Of each claim: the chip on the home page says no more than what stands below it."""
    experiments = cli.all_experiments()
    entries = ledger.entries(experiments)
    assert [entry.claim.id for entry in entries] == list(claims.LEDGER)
    rows = ledger.table(entries, experiments).splitlines()[2:]
    for entry, row in zip(entries, rows, strict=True):
        assert ledger.chip(entry.word) in row and entry.claim.claim[1:] in row.replace("\\|", "|")
        text = ledger.details(entry)
        for verdict in entry.verdicts:
            assert ledger.chip(verdict.status) in text
        if entry.word == "supported":
            said = {(v.part, v.status) for v in entry.verdicts}
            assert {part.part for part in claims.parts(entry.claim.id)} == {p for p, _ in said}
            assert "contradicted" not in {status for _, status in said}
    words = ledger.in_words(entries)
    assert words.startswith("Of 20 claims of the paper and 1 beyond it: ")


def test_the_history_of_recordings_is_that_of_git(repository: Path) -> None:
    """Each commit changed the run's results, and the newest are those that lie there."""
    table = ledger.recordings()
    for (experiment, study), rows in table.groupby(["experiment", "study"]):
        run = results.load(str(experiment), str(study))
        assert run.provenance["finished"][:10] == rows.finished.iloc[-1]
        path = f"papermill_runs/{experiment}/{study}/results.csv"
        known = ["git", "-C", str(repository), "log", "--format=%h", "--", path]
        commits = subprocess.run(known, capture_output=True, text=True, check=False).stdout.split()
        if not commits:
            pytest.skip("the history of the repository is not here")
        assert set(rows.commit) <= {commit[:7] for commit in commits}
    assert set(table.experiment) == set(cli.experiment_names())
