"""A run with a limit on its time: it stops in time, loses nothing, and ends with the same bits."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import toy

from plasticity import cli, configuration
from plasticity.runs import budget, checkpoints, compiling, driver, jobs, pool, progress, results
from plasticity.runs.budget import Budget, OutOfTime

SLOW = toy.Config(chunks=12, seconds_a_chunk=0.3, size=8)
LESS_SLOW = toy.Config(chunks=8, seconds_a_chunk=0.2, size=8)


def sittings(minutes: float, **options: Any) -> tuple[results.Run, int]:
    """Give the same command until the run is done; return it, and how often it took.

    Each sitting is longer than the last, so that one is long enough however busy the machine is.
    """
    for count in range(1, 20):
        try:
            run = driver.run(toy.EXPERIMENT, LESS_SLOW, "quick", minutes=minutes, **options)
            return run, count
        except OutOfTime as stopped:
            assert "the same command goes on" in str(stopped)
            minutes *= 1.25
    raise AssertionError("it never ends")


@pytest.mark.parametrize("workers", [0, 2])
def test_sittings_end_with_the_bits_of_an_unbroken_run(
    workers: int, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "LAST", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(toy, "time", SimpleNamespace(sleep=lambda seconds: None))  # not of workers
        whole, once = sittings(minutes=60, workers=workers)
    monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / "broken"))
    # 32 chunks of .2 seconds take 6 seconds of one process, 3 of two, which must start up first
    broken, count = sittings(minutes=(4 if workers else 2.5) / 60, workers=workers)
    assert (once, count > 1) == (1, True)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(array, broken.arrays[name])
    assert whole.table.equals(broken.table)


def test_it_stops_in_time_with_every_finished_chunk_kept(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though by its own settings it would have waited an hour before the first checkpoint."""
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(budget, "LAST", 0.0)
    began = time.monotonic()
    with pytest.raises(OutOfTime, match=r"quick-\w+: the time is up with \d+ of 48 chunks done"):
        driver.run(
            toy.EXPERIMENT, SLOW, "quick",
            minutes=4 / 60, workers=0, checkpoint_seconds=3_600.0,
        )  # fmt: skip
    assert time.monotonic() - began < 4 + 1  # the last second is for a busy machine
    (work,) = progress.unfinished("toy")
    arms = progress.arms(toy.EXPERIMENT, work)
    computed = len((tmp_path / "log").read_text().splitlines())
    assert sum(arm.chunks_done for arm in arms) == computed > 1


def test_workers_in_the_middle_of_a_chunk_are_stopped(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "LAST", 0.0)
    endless = toy.Config(seconds_a_chunk=600.0)
    began = time.monotonic()
    with pytest.raises(OutOfTime, match=r"0 of 24 chunks done.*give it more time"):
        driver.run(toy.EXPERIMENT, endless, "quick", minutes=3 / 60, workers=2)
    assert time.monotonic() - began < 3 + 2
    (work,) = progress.unfinished("toy")
    assert not checkpoints.in_use(work)  # nobody is left who computes


def test_a_job_has_a_limit_too(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "LAST", 0.0)
    with pytest.raises(OutOfTime, match="narrow 1: the time is up"):
        jobs.run_unit(toy.EXPERIMENT, SLOW, "quick", "narrow", 1, minutes=2.5 / 60)
    jobs.run_unit(toy.EXPERIMENT, SLOW, "quick", "narrow", 1, minutes=1)
    _, left = jobs.unfinished(toy.EXPERIMENT, SLOW, "quick")
    assert pool.Unit("narrow", (1,)) not in left and len(left) == 3


def test_a_chunk_is_begun_only_if_it_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limit = Budget(deadline=100.0)
    assert limit.left() == 100 and limit.allows(compiled=0.0)  # nothing is known yet
    limit.note(computing=10.0, compiling=30.0)
    limit.note(computing=8.0, compiling=5.0)  # another unit: the longest counts
    now = 100 - budget.MARGIN * 40 - 1
    assert limit.allows(compiled=0.0)
    now = 100 - budget.MARGIN * 40 + 1
    assert not limit.allows(compiled=0.0)
    assert limit.allows(compiled=30.0)  # this unit need not compile any more
    now = 101.0
    assert limit.left() == 0 and not limit.allows(compiled=30.0)
    assert Budget.of(None).allows(0.0)
    with pytest.raises(configuration.ConfigError, match="minutes = 0: must be above 0"):
        Budget.of(0)


def test_the_command_says_what_is_left_and_has_a_status_of_its_own(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, minutes: float, **__: Any) -> None:
        assert 1.9 < minutes < 2  # what the command took before this counts
        raise OutOfTime("the time is up")

    monkeypatch.setattr(driver, "run", stopped)
    command = ["run", "optimizer_instability", "--study", "quick", "--minutes", "2"]
    assert cli.main(command) == 75
    assert "the time is up" in capsys.readouterr().err
    assert cli.main([*command[:-1], "-1"]) == 2
    assert "--minutes: -1: must be above 0" in capsys.readouterr().err


def test_compiling_is_told_from_computing(runs: Path) -> None:
    config = toy.Config(chunks=4, size=16)
    finished = driver.run(toy.EXPERIMENT, config, "quick", workers=0)
    assert 0 < finished.provenance["compile_seconds"] <= finished.provenance["compute_seconds"]
    assert compiling.seconds() > 0


def test_what_is_left_is_scaled_from_computing_and_programs_apart(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of one arm is done: 30 s of computing and 60 s of compiling for the first network."""
    config = toy.Config(chunks=6, seeds=1)
    work = runs / "toy" / "quick" / "unfinished"
    header = {"config": configuration.to_dict(config), "execution": {"batched": False}}
    checkpoints.open_header(work, header)
    folder = checkpoints.UnitFolder(work, "narrow", (0,))
    state = {"x": np.zeros(1)}
    folder.save(3, state, [{"mean": np.zeros(())}] * 3, checkpoints.Spent(90.0, 60.0))
    found = progress.arms(toy.EXPERIMENT, work)
    # 3 chunks cost 30 s, and 9 are left; the other arm has a network of its own
    assert (
        progress.left(toy.EXPERIMENT, work, found)
        == "2 min of computing and 1 min of compiling left"
    )
    assert "3 of 12 chunks done, 2 min of computing" in progress.line(toy.EXPERIMENT, work, found)
