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
from typing import Any

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


def parts_of(folder: Path) -> list[Path]:
    """Return the files that sittings left."""
    return sorted(folder.glob("sitting_*"))


def finished() -> dict[str, str]:
    """Finish the toy's run, and return the hashes of what is recorded."""
    run = driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0)
    found: dict[str, str] = run.provenance["sha256"]
    return found


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The hashes of an undisturbed run."""
    with monkeypatch.context() as patch:
        patch.setenv("PLASTICITY_RUNS", str(tmp_path / "undisturbed"))
        return finished()


def test_what_a_killed_sitting_recorded_is_left_by_the_next(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, str]
) -> None:
    """It was killed when it was about to leave its files."""
    queue, out = [["toy"]], tmp_path / "out"

    def run(*words: str, timeout: float) -> subprocess.CompletedProcess[bytes]:
        if words[0] == "run":
            finished()
        return subprocess.CompletedProcess(words, 0)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sitting, "_plasticity", run)
    with monkeypatch.context() as patch:
        patch.setattr(sitting, "pack", killed)
        with pytest.raises(KeyboardInterrupt):
            sitting.work_off(queue, 5.0, out)
    old = time.time() - 100.0  # nothing that is newer than the next sitting
    os.utime(away / "toy" / "quick" / "run.json", (old, old))
    (out / ".begun").write_text(repr(old - 1.0))
    sitting.work_off(queue, 5.0, out)
    home(monkeypatch, tmp_path)
    sitting.merge(out)
    assert results.load("toy", "quick").provenance["sha256"] == expected
    assert not list(out.glob(".*"))
    sitting.work_off(queue, 5.0, out)  # the next has nothing to make up for


def test_half_of_what_a_killed_sitting_left_is_in_nobodys_way(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(3)
    first = sitting.pack(tmp_path / "out", file_bytes=1_000)
    first.parts[-1].unlink()
    (tmp_path / "out" / f".{first.parts[-1].name}.{2**22 + 1}.tmp").touch()  # no such process
    second = sitting.pack(tmp_path / "out")
    assert parts_of(tmp_path / "out") == second.parts
    assert not list((tmp_path / "out").glob(".*"))
    home(monkeypatch, tmp_path)
    assert "1 units" in sitting.merge(tmp_path / "out")[0]


def test_sittings_that_took_checkpoints_at_other_chunks_are_not_mixed(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, str]
) -> None:
    """Two began at the same place, and one file has what in the other is in several."""
    out = tmp_path / "out"
    for name, chunks in (("one", 5), ("two", 3)):
        monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / name))
        work = begin(chunks)
        if name == "one":
            unit = work / "narrow" / "0"
            joined = checkpoints.UnitFolder(work, "narrow", (0,)).records()
            for path in unit.glob("records_*"):
                if path.name != "records_000005.npz":
                    path.unlink()
            with np.load(unit / "records_000005.npz") as stored:
                own = {name: stored[name] for name in stored.files if name.startswith("_")}
            content = checkpoints.files.npz_bytes({**joined, **own})
            (unit / "records_000005.npz").write_bytes(content)
        sitting.pack(out)
    home(monkeypatch, tmp_path)
    sitting.merge(out)
    assert finished() == expected


def test_a_run_that_a_later_sitting_finished_is_not_merged_as_unfinished(
    away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, str]
) -> None:
    begin(3)
    sitting.pack(tmp_path / "out")
    assert finished() == expected
    sitting.pack(tmp_path / "out")
    there = home(monkeypatch, tmp_path)
    for _ in range(2):  # and not if both are merged once more
        assert sitting.merge(tmp_path / "out") == [f"{there}/toy/quick: recorded"]
        assert not list(there.glob("toy/quick/unfinished/*"))


@pytest.mark.parametrize("at", ["copy", "discard"])
def test_a_merge_that_was_killed_is_made_good_by_the_next(
    at: str, away: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, str]
) -> None:
    """What it had done of a unit must not mix with another state; nor units with another run."""
    first, second = tmp_path / "first", tmp_path / "second"
    begin(3)
    sitting.pack(first)
    begin(5)
    if at == "discard":
        assert finished() == expected
    sitting.pack(second)
    there = home(monkeypatch, tmp_path)
    work = there / "toy" / "quick" / "unfinished"
    remove = shutil.rmtree

    def copies(source: Path, target: Path, **options: Any) -> None:
        (target / "state_000006").mkdir(parents=True)  # of another sitting
        raise KeyboardInterrupt

    def removes(path: Path, **options: Any) -> None:
        if Path(path).is_relative_to(work / "narrow"):
            raise KeyboardInterrupt
        remove(path, **options)

    if at == "discard":
        sitting.merge(first)
    with monkeypatch.context() as patch:
        if at == "copy":
            patch.setattr(shutil, "copytree", copies)
        else:
            patch.setattr(shutil, "rmtree", removes)
        with pytest.raises(KeyboardInterrupt):
            sitting.merge(first if at == "copy" else second)
    if at == "discard":
        assert (work / "header.json").exists() and not (work / "sittings.json").exists()
    sitting.merge(second)
    assert not list(work.glob("narrow/.*"))
    assert finished() == expected
    assert not [path for path in work.glob("*") if path.name != "lock"]
