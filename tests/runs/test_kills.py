"""Ten kills of real runs, as `tests/kills` takes a hundred: resumed, each run has the same bits."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from kills import hundred, trials
from kills.scenes import SCENES
from kills.trials import DRIVER, JOB, KERNEL, NEEDS, PLAN, WORKER, Laboratory, Planned
from kills.ways import Way, at, in_a_chunk

from plasticity.runs.files import ResultsError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

FIRST = "run over an older run"


@pytest.fixture(scope="module")
def lab() -> Iterator[Laboratory]:
    """A laboratory that knows what an undisturbed run leaves: all scenes here are of that run."""
    with trials.laboratory() as found:
        usual = found.learn(SCENES[FIRST])
        found.usual = dict.fromkeys(SCENES, usual)
        yield found


TEN: dict[str, list[Way]] = {
    FIRST: [
        in_a_chunk,
        at("rename", "after", name="state_", share=0.3),
        WORKER,
        at("write", "bytes", name="state_", share=0.1),
        at("rename", "after", name="records_", share=0.2),
        DRIVER,
        at("rename", "after", name="results.csv"),
    ],
    "sitting and merge": [at("write", "bytes", name="/.sitting", under="out")],
    "notebook": [KERNEL],
    "snakemake": [JOB],
}
"""Scene → the kills of one run, one after another."""


@pytest.mark.slow
@pytest.mark.parametrize(("scene", "ways"), TEN.items(), ids=TEN)
def test_a_run_that_was_killed_and_resumed_has_the_bits_of_one_left_alone(
    scene: str, ways: list[Way], lab: Laboratory
) -> None:
    if importlib.util.find_spec(NEEDS.get(scene, "plasticity")) is None:
        if scene != "snakemake":
            pytest.skip(f"{NEEDS[scene]} is not installed")
        scene = "units at once"  # the jobs that it would start
    plans = [Planned(1, scene, "", way) for way in ways]
    rows = lab.trial(1, plans, Random(f"ten {scene}"))
    for row in rows:
        assert row.equal, row.problem
        assert row.calls == 1
    assert len(rows) == len(plans)


def test_there_are_ten_and_a_hundred() -> None:
    assert sum(map(len, TEN.values())) == 10
    assert sum(plan.count for plan in PLAN) == 100
    assert set(TEN) < {plan.scene for plan in PLAN} == set(SCENES)
    runs = hundred.drawn(100, Random(0))
    assert sorted(id(plan) for run in runs for plan in run) == sorted(
        id(plan) for plan in PLAN for _ in range(plan.count)
    )
    assert all(len({plan.scene for plan in run}) == 1 for run in runs)
    without = hundred.drawn(100, Random(0), without=["snakemake"])
    assert sum(map(len, without)) == 100 and "snakemake" not in {run[0].scene for run in without}


def test_what_is_recorded_is_read_and_told(tmp_path: Path) -> None:
    rows = [
        trials.Row(1, "run", "in a chunk", "with 3 of 18 done", "a worker", 2.5, 1, True, ""),
        trials.Row(2, "run", "at any time", "after 5% of its time", "all processes", 0.5, 1, False,
                   "results.csv has other bytes"),
    ]  # fmt: skip
    hundred.record(tmp_path, rows, {"device": {"kind": "a machine"}}, {"settings": {"seed": 3}})
    table, document = hundred.read(tmp_path)
    assert list(table.number) == [1, 2] and list(table.problem) == ["", rows[1].problem]
    assert document["kills"] == {"in a chunk": 1, "at any time": 1}
    assert "2 kills of 2 runs (1 in a chunk, 1 at any time)" in hundred.words(tmp_path)
    assert "a machine: after 1 of them" in hundred.words(tmp_path)
    (tmp_path / "outcome.csv").write_text("edited")
    with pytest.raises(ResultsError, match="make kills"):
        hundred.read(tmp_path)


def test_a_hundred_are_recorded_and_every_run_was_resumed_to_the_same_bits() -> None:
    table, document = hundred.read()
    assert len(table) == document["settings"]["kills"] == sum(document["kills"].values()) == 100
    assert table.equal.all() and document["uncommitted_source"] is False
    assert set(table.command) | set(document["not_run"]) == set(SCENES)
    assert not re.search(r"/(tmp|home|work|root|Users)\b", table.to_csv() + json.dumps(document))
