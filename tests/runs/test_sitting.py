"""A sitting at toy size: works off its queue, is killed, leaves files, and they are merged."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import toy

from plasticity import cli, configuration
from plasticity.runs import checkpoints, driver, plan, results, sitting, units
from plasticity.runs.budget import Budget


def test_a_queue_has_a_command_on_each_line(tmp_path: Path) -> None:
    queue = tmp_path / "queue.txt"
    queue.write_text("# first\ntoy --study gpu  # why\n\ntoy --study 'a b' --set x=1\n")
    assert sitting.read_queue(queue) == [
        ["toy", "--study", "gpu"], ["toy", "--study", "a b", "--set", "x=1"],
    ]  # fmt: skip
    queue.write_text("toy\ntoy --study 'gpu\n")
    with pytest.raises(configuration.ConfigError, match=r"queue.txt, line 2: No closing quotation"):
        sitting.read_queue(queue)


def test_what_is_queued_can_be_run() -> None:
    """Each line names an experiment, a study and settings that exist."""
    root = Path(__file__).parents[2]
    queue = sitting.read_queue(root / "papermill_runs" / "queue.txt")
    assert len(queue) > 3
    for words in queue:
        options = cli._parser().parse_args(["run", *words])
        chosen, config = cli._resolve(options)
        assert isinstance(config, chosen.Config)


@pytest.fixture
def away(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the runs on the machine that is lent; `home` sets that of this one."""
    monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / "away"))
    return tmp_path / "away"


def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / "home"))
    return tmp_path / "home"


def begin(chunks: int, config: toy.Config = toy.Config()) -> Path:  # noqa: B008 - frozen
    """Leave the toy's first unit after some chunks, as a sitting does whose time is up."""
    work = results.folder("toy", "quick") / "unfinished"
    header = driver.make_header(toy.EXPERIMENT, config, driver.origin.environment(), False, False)
    work.mkdir(parents=True, exist_ok=True)
    checkpoints.open_header(work, header)
    unit = plan.units_of(toy.EXPERIMENT, config, batched=False)[0]
    for done in units.advance_unit(toy.EXPERIMENT, config, unit, work, 0.0):
        if done >= chunks:
            break
    return work


def test_unfinished_units_travel_and_are_resumed_to_the_same_bits(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(3)
    left = sitting.pack(tmp_path / "out")
    assert [path.name[-6:] for path in left.parts] == ["1_of_1"] and left.behind == []
    there = home(monkeypatch, tmp_path)
    begin(1)  # of an earlier sitting
    told = sitting.merge(tmp_path / "out")
    assert told == [f"{there}/toy/quick/unfinished: 1 units have come further"]
    work = there / "toy" / "quick" / "unfinished"
    unit = plan.units_of(toy.EXPERIMENT, toy.Config(), batched=False)[0]
    folder = checkpoints.UnitFolder(work, *unit)
    assert folder.chunks_done() == 3
    list(units.advance_unit(toy.EXPERIMENT, toy.Config(), unit, work, 0.0))
    whole = tmp_path / "whole"
    list(units.advance_unit(toy.EXPERIMENT, toy.Config(), unit, whole, 0.0))
    expected = checkpoints.UnitFolder(whole, *unit).records()
    for name, array in folder.records().items():
        np.testing.assert_array_equal(array, expected[name])
    # What is here has come further by now, and stays.
    assert sitting.merge(tmp_path / "out") == [f"{work}: 0 units have come further"]
    assert folder.chunks_done() == 6


def test_a_recorded_run_takes_the_place_of_the_unfinished_one(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0)
    sitting.pack(tmp_path / "out")
    there = home(monkeypatch, tmp_path)
    begin(2)
    assert sitting.merge(tmp_path / "out") == [f"{there}/toy/quick: recorded"]
    found = results.load("toy", "quick")
    assert found.provenance == run.provenance
    assert not list((there / "toy" / "quick" / "unfinished").glob("*"))


def test_what_was_recorded_before_the_sitting_stays_where_it_is(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0)
    stored = away / "toy" / "quick" / "run.json"
    sitting.pack(tmp_path / "out", since=stored.stat().st_mtime + 1)
    home(monkeypatch, tmp_path)
    assert sitting.merge(tmp_path / "out") == []


def test_files_are_cut_to_size_and_put_together(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(3)
    left = sitting.pack(tmp_path / "out", file_bytes=1_000)
    assert len(left.parts) > 2
    assert {path.stat().st_size for path in left.parts[:-1]} == {1_000}
    there = home(monkeypatch, tmp_path)
    (told,) = sitting.merge(tmp_path / "out")
    assert told.startswith(f"{there}/toy/quick")
    damaged = bytearray(left.parts[0].read_bytes())
    damaged[500] ^= 1
    left.parts[0].write_bytes(damaged)
    with pytest.raises(sitting.NotMerged, match="damaged: fetch them again"):
        sitting.merge(tmp_path / "out")
    left.parts[1].unlink()
    with pytest.raises(sitting.NotMerged, match=rf"2_of_{len(left.parts)} is missing"):
        sitting.merge(tmp_path / "out")
    with pytest.raises(sitting.NotMerged, match="no files of a sitting"):
        sitting.merge(tmp_path / "elsewhere")


def test_what_is_too_large_stays_behind(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest units first: that unit begins again, all others are taken."""
    work = begin(2)
    small = plan.units_of(toy.EXPERIMENT, toy.Config(), batched=False)[1]
    list(units.advance_unit(toy.EXPERIMENT, toy.Config(), small, work, 0.0))
    large = checkpoints.UnitFolder(work, "narrow", (0,)).path
    noise = np.random.default_rng(0).bytes(200_000)
    (large / "state_000002" / "more").write_bytes(noise)
    left = sitting.pack(tmp_path / "out", all_bytes=100_000)
    assert left.behind == [large]
    there = home(monkeypatch, tmp_path)
    sitting.merge(tmp_path / "out")
    units_here = {path.name for path in (there / "toy/quick/unfinished/narrow").iterdir()}
    assert units_here == {"1"}


@pytest.mark.parametrize("what", ["config", "damaged"])
def test_another_run_under_way_here_is_not_touched(
    what: str, away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(1)
    sitting.pack(tmp_path / "out")
    there = home(monkeypatch, tmp_path)
    work = begin(2, dataclasses.replace(toy.Config(), scale=3.0))
    header = (work / "header.json").read_bytes()
    if what == "damaged":
        (work / "header.json").write_bytes(header[:20])
    error = sitting.NotMerged if what == "config" else checkpoints.CheckpointError
    with pytest.raises(error, match="another config" if what == "config" else "damaged"):
        sitting.merge(tmp_path / "out")
    assert checkpoints.UnitFolder(work, "narrow", (0,)).chunks_done() == 2
    assert there.exists()


@pytest.mark.parametrize("what", ["unfinished", "recorded"])
def test_a_folder_in_use_is_not_touched(
    what: str, away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "unfinished":
        begin(2)
    else:
        driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0)
    sitting.pack(tmp_path / "out")
    home(monkeypatch, tmp_path)
    work = begin(1)
    with checkpoints.locked(work), pytest.raises(checkpoints.CheckpointError, match="in use"):
        sitting.merge(tmp_path / "out")
    assert checkpoints.UnitFolder(work, "narrow", (0,)).chunks_done() == 1


def test_a_folder_that_may_be_in_use_is_not_touched(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(2)
    sitting.pack(tmp_path / "out")
    home(monkeypatch, tmp_path)
    begin(1)
    monkeypatch.setattr(checkpoints, "in_use", lambda work: None)
    with pytest.raises(checkpoints.CheckpointError, match=r"may be \(its locks cannot be read\)"):
        sitting.merge(tmp_path / "out")


TINY = (
    "optimizer_instability --study quick --seeds 1 --set n_images=60 --set width=16 "
    "--set batch_size=8 --set window=4 --set accuracy_sample=40"
)


def sit(out: Path, runs: Path, minutes: float, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a bare machine does: with nothing installed of this repository."""
    root = Path(__file__).parents[2]
    queue = out.parent / "queue.txt"
    queue.write_text(f"{TINY} --set no_such_field=1\n{' '.join([TINY, *settings])}\n")
    return subprocess.run(
        [root / "papermill_runs" / "sitting.sh", str(minutes), out, queue],
        env={**os.environ, "PLASTICITY_RUNS": str(runs), "PYTHON": sys.executable},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def here(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, where all sittings share what is compiled."""
    assert timeout > 0 and command[1:3] == ["-m", "plasticity.cli"]
    return subprocess.CompletedProcess(command, cli.main(command[3:]))


def test_sittings_end_with_the_bits_of_an_unbroken_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is over in the middle of a run; another goes on from what it left, elsewhere."""
    process = SimpleNamespace(run=here, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(sitting, "subprocess", process)
    sizes = ("--workers", "0", "--set", "steps_per_period=12", "--set", "periods=5")
    queue = [[*TINY.split(), *sizes]]
    monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / "whole"))
    sitting.work_off(queue, 5.0, tmp_path / "out")
    (whole,) = results.recorded("optimizer_instability")
    sat = 0
    while not list((tmp_path / "home").glob("*/*/run.json")):
        sat += 1
        machine, out = tmp_path / f"machine_{sat}", tmp_path / f"out_{sat}"
        if (tmp_path / "home").exists():
            shutil.copytree(tmp_path / "home", machine)
        monkeypatch.setenv("PLASTICITY_RUNS", str(machine))
        chunks = itertools.count()  # there is time for some of 20
        with monkeypatch.context() as patch:
            patch.setattr(Budget, "allows", lambda budget, compiled, done=chunks: next(done) < 10)
            sitting.work_off(queue, 5.0, out)
        monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / "home"))
        sitting.merge(out)
    assert sat > 1
    (found,) = results.recorded("optimizer_instability")
    assert found.provenance["sha256"] == whole.provenance["sha256"]


def test_nothing_is_run_on_a_machine_that_computes_something_else(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fails(*words: str, timeout: float) -> subprocess.CompletedProcess[bytes]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 1)

    monkeypatch.setattr(sitting, "_plasticity", fails)
    with pytest.raises(sitting.NotRun, match="nothing was run"):
        sitting.work_off([TINY.split()], 5.0, tmp_path / "out")
    assert asked == [("check",)]


@pytest.mark.slow
def test_the_script_is_over_in_time_whatever_it_does(tmp_path: Path) -> None:
    """What fails is passed over; a chunk that would take minutes is killed."""
    began = time.monotonic()
    endless = ("--workers 0", "--set steps_per_period=100000000")
    # `plasticity check`, a run that is refused, and time enough to begin the endless one
    seconds = sitting.PACKING + 18
    done = sit(tmp_path / "out", tmp_path / "runs", seconds / 60, *endless)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < seconds
    assert "no_such_field" in done.stderr and "exit status 2; on to the next" in done.stdout
    assert "stopped in the middle of a chunk" in done.stdout
    assert "1_of_1" in done.stdout
