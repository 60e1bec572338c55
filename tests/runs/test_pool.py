"""Workers that fail, die or cannot be started, and what is said of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy

from plasticity import configuration
from plasticity.runs import checkpoints, child, cost, driver, pool, results, worker
from plasticity.runs.files import ResultsError
from plasticity.runs.units import UnitsFailed


class Full:
    """Standard error into a file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    flush = close = lambda self: None


def answers(
    job: dict[str, Any], units: Iterator[tuple[str, list[int], list[str]]]
) -> list[dict[str, Any]]:
    """Return what a worker answers until there are no units left."""
    found: list[dict[str, Any]] = []
    with pytest.raises(StopIteration):
        worker.work(job, lambda: next(units), found.append)
    return found


def job(work: Path, config: toy.Config) -> dict[str, Any]:
    return {
        "experiment": "toy", "config": configuration.to_dict(config), "work": str(work),
        "checkpoint_seconds": 10.0, "deadline": None,
    }  # fmt: skip


def test_a_reason_arrives_though_its_log_has_no_room(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    config = toy.Config(fail_arm="wide", chunks=2)
    units = iter([("wide", [0], []), ("narrow", [0], [])])
    found = [one["failed"] for one in answers(job(runs, config), units) if "failed" in one]
    assert "told to fail" in found[0] and found[1] is None  # and it goes on


def test_what_explains_itself_is_not_introduced(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise ResultsError("cannot write x: No space left on device")

    monkeypatch.setattr(checkpoints.UnitFolder, "save", full)
    (reason,) = (
        one["failed"]
        for one in answers(job(runs, toy.Config(chunks=1)), iter([("wide", [0], [])]))
        if "failed" in one
    )
    assert reason == "cannot write x: No space left on device"


@pytest.mark.slow
def test_a_full_disk_under_the_logs_costs_no_worker(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    config = toy.Config(fail_arm="wide", chunks=2, seeds=1)
    work = results.folder("toy", results.label(toy.STUDIES, "quick", config)) / "unfinished"
    work.mkdir(parents=True)
    for core in pool.usable_cores():
        (work / f"worker_{core}.log").symlink_to("/dev/full")
    with pytest.raises(UnitsFailed, match=r"(?s)1 of 2 units.*wide, seed 0: .*told to fail"):
        driver.run(toy.EXPERIMENT, config, "quick", workers=1)


@pytest.mark.slow
def test_of_the_last_worker_s_death_all_that_is_left_says_how(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.setenv("TOY_DIES_ONCE", str(tmp_path / "once"))
    config = toy.Config(chunks=2, seeds=1, seconds_a_chunk=0.001)
    with pytest.raises(UnitsFailed) as raised:
        driver.run(toy.EXPERIMENT, config, "quick", workers=1)
    _, first, second = str(raised.value).splitlines()
    killed = "was killed by SIGKILL (out of memory?)"
    assert first.startswith(f"  narrow, seed 0: its worker {killed}")
    assert f"wide, seed 0: no worker was left to run it; the last one {killed}" in second


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (0, "ended with exit status 0"), (3, "ended with exit status 3"),
        (-9, "was killed by SIGKILL (out of memory?)"), (-11, "was killed by SIGSEGV"),
        (-63, "was killed by signal 63"),
    ],
)  # fmt: skip
def test_an_end_is_told_by_its_signal_or_status(status: int, how: str) -> None:
    assert pool.ended(status) == how


def test_a_log_that_cannot_be_written_is_named(runs: Path) -> None:
    work = runs / "toy" / "quick" / "unfinished"
    for core in pool.usable_cores():
        (work / f"worker_{core}.log").mkdir(parents=True)
    with pytest.raises(ResultsError, match=r"cannot write .*worker_.*\.log: Is a directory"):
        driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=1)


def test_a_worker_that_cannot_be_started_is_told(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*arguments: object, **options: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", none_left)
    with pytest.raises(ResultsError, match=r"cannot start a worker .*temporarily unavailable"):
        pool._started({}, None, runs.parent / "log", 0, {})


def test_a_worker_that_is_gone_at_once_is_noticed_by_who_asks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    for _ in range(5):  # before or after the first line is sent
        process = child.start("nowhere:nothing", "x" * 1_000_000, log=tmp_path / "log")
        with process, pytest.raises((EOFError, BrokenPipeError)):
            child.hear(process)
            child.tell(process, "again")
        assert process.returncode == 1


def test_what_is_raised_beside_a_worker_is_raised_by_the_run(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader of its progress has left: that is no unit's failure, and no worker's death."""

    def nobody_reads(*arguments: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.setattr("tqdm.std.tqdm.update", nobody_reads)
    with pytest.raises(BrokenPipeError):
        driver.run(toy.EXPERIMENT, toy.Config(chunks=2), "quick", workers=1)
    assert not list(runs.glob("toy/*/unfinished/*/*/failed.txt"))


def test_fewer_workers_than_none_are_refused(runs: Path) -> None:
    with pytest.raises(configuration.ConfigError, match="workers = -1: must be 0 or more"):
        driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=-1)
    assert not runs.exists()


def test_a_timed_process_that_dies_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    started = child.start

    def dies(function: str, job: Any, **options: Any) -> Any:
        process = started("time:sleep", 600, **options)
        process.kill()
        return process

    monkeypatch.setattr(child, "start", dies)
    with pytest.raises(cost.NotTimed, match="was to be timed died: it was killed by SIGKILL"):
        cost.measure_on_a_core(toy.EXPERIMENT, toy.Config(), 1.0)


def test_nobody_writes_into_a_folder_that_cannot_be_locked(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, how: int) -> None:
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr("fcntl.flock", no_locks)
    for options in ({}, {"wait": True}, {"shared": True}):
        with (
            pytest.raises(checkpoints.CheckpointError, match=r"cannot be locked .*PLASTICITY_RUNS"),
            checkpoints.locked(runs, **options),
        ):
            pass
    assert not checkpoints.is_locked(runs)
