"""What can be seen of a run from outside: while it runs, after it failed, after a kill."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy

from plasticity import cli
from plasticity.runs import checkpoints, driver, files, pool, progress, reproduction, results, units
from plasticity.runs.budget import Budget

LONG = "sparse_reward-cifar10_train-resnet-two_hot-shrink_and_perturb"


@pytest.fixture
def only_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line know one experiment, the toy."""
    monkeypatch.setattr(cli, "experiment_names", lambda: ["toy"])
    monkeypatch.setattr(cli, "experiment", lambda name: toy.EXPERIMENT)


def run_and_fail(config: toy.Config) -> Path:
    """Run in this process; every unit of the arm ``wide`` fails. Return the work folder."""
    with pytest.raises(units.UnitsFailed):
        driver.run(toy.EXPERIMENT, config, "quick", workers=0, checkpoint_seconds=0.0)
    return results.folder("toy", results.label(toy.STUDIES, "quick", config)) / "unfinished"


def arm(name: str, state: progress.ArmState, *failures: str, seconds: float = 0.0) -> progress.Arm:
    spent = checkpoints.Spent(seconds, seconds / 2)
    return progress.Arm(name, 1, 10, 25, 250, spent, state, failures)


def test_a_failed_unit_is_told_at_once_and_leaves_its_reason(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy.Config(fail_arm="wide", chunks=2)
    work = run_and_fail(config)
    told = capsys.readouterr().err
    assert "failed: wide, seed 0: " in told and "told to fail" in told
    narrow, wide = progress.arms(toy.EXPERIMENT, work)
    assert narrow == ("narrow", 2, 2, 4, 4, narrow.spent, "done", ()) and narrow.spent.seconds > 0
    assert wide[:7] == ("wide", 0, 2, 0, 4, (0.0, 0.0), "failed")
    assert [why.partition(":")[0] for why in wide.failures] == ["seed 0", "seed 1"]
    assert all("told to fail" in why for why in wide.failures)
    # Begun again it is no failure, whatever becomes of it.
    monkeypatch.setenv("TOY_MENDED", "1")
    steps = units.advance_unit(toy.EXPERIMENT, config, pool.Unit("wide", (1,)), work, 0.0)
    assert (next(steps), next(steps)) == (0, 1)
    wide = progress.arms(toy.EXPERIMENT, work)[1]
    assert (wide.state, len(wide.failures), wide.chunks_done) == ("running", 1, 1)
    steps.close()  # type: ignore[attr-defined]
    wide = progress.arms(toy.EXPERIMENT, work)[1]
    assert (wide.state, len(wide.failures), wide.chunks_done) == ("failed", 1, 1)


def test_the_last_failure_survives_where_the_disk_is_full(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room for the reason's file: the others go on, and the reason is in the error."""

    def full(self: checkpoints.UnitFolder, reason: str) -> None:
        raise files.ResultsError("no space")

    monkeypatch.setattr(checkpoints.UnitFolder, "fail", full)
    with pytest.raises(units.UnitsFailed, match=r"(?s)2 of 4 units.*told to fail"):
        driver.run(toy.EXPERIMENT, toy.Config(fail_arm="wide", chunks=2), "quick", workers=0)


@pytest.mark.slow
def test_workers_failures_are_told_and_left_too(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    config = toy.Config(fail_arm="wide", chunks=2, seeds=1)
    with pytest.raises(units.UnitsFailed):
        driver.run(toy.EXPERIMENT, config, "quick", workers=1)
    assert capsys.readouterr().err.count("failed: wide, seed 0: ") == 1
    work = results.folder("toy", results.label(toy.STUDIES, "quick", config)) / "unfinished"
    assert [found.state for found in progress.arms(toy.EXPERIMENT, work)] == ["done", "failed"]


@pytest.mark.parametrize(
    ("does", "stopped", "reason"),
    [
        ("", False, "its worker ended with exit status 0; the last line of {log}: its last words"),
        ("", True, None),
        ("sys.exit(3)", False, "its worker ended with exit status 3; the last line of "),
        ("os.kill(os.getpid(), 9)", False, "its worker was killed by SIGKILL (out of memory?); "),
        ("os.kill(os.getpid(), 11)", False, "its worker was killed by SIGSEGV; the last line of "),
        # dead before it takes anything, or in the middle of an answer
        ("os.close(0); os._exit(4)", False, "its worker ended with exit status 4; "),
        ("os.write(1, b'half of an answ'); os._exit(5)", False, "its worker ended with exit "),
    ],
)
def test_a_worker_that_dies_has_failed_unless_it_was_stopped(
    does: str, stopped: bool, reason: str | None, tmp_path: Path
) -> None:
    unit, failed, deaths = pool.Unit("wide", (3,)), dict[pool.Unit, str](), list[str]()
    log = tmp_path / "worker_0.log"
    log.write_text("first\nits last words\n\n")
    code = f"import os, sys\n{does if 'close(0)' in does else ''}\ninput()\n{does}"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    stopping = threading.Event()
    if stopped:
        stopping.set()
    if "close(0)" in does:
        process.wait()
    waiting, silent = pool.Waiting([unit], {"wide": "network"}), lambda chunks: None
    pool._serve(process, waiting, silent, failed.__setitem__, stopping, Budget(None), log, deaths)
    assert process.poll() is not None
    if reason is None:
        assert failed == {} and deaths == []
    else:
        assert failed[unit].startswith(reason.format(log=log))
        assert failed[unit] == f"its worker {deaths[0]}"


def test_no_other_process_takes_a_unit_that_is_running(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    folder = checkpoints.UnitFolder(runs, "narrow", (0,))
    assert not folder.is_running()
    with folder.begun():
        assert folder.is_running()
        with pytest.raises(checkpoints.CheckpointError, match="in use"), folder.begun():
            pass
    assert not folder.is_running()


def test_long_names_are_never_cut_and_nothing_is_wider_than_the_screen() -> None:
    found = [arm("mlp", "waiting"), arm(LONG, "failed", "seed 3: " + "no\nroom " * 40)]
    wide = progress.table(found, 100).splitlines()
    assert [line.split() for line in wide[:2]] == [
        ["arm", "seeds", "chunks", "time", "state"], ["mlp", "1/10", "25/250", "waiting"],
    ]  # fmt: skip
    assert wide[2].split() == [LONG, "1/10", "25/250", "failed"]
    assert wide[3].startswith("    failed: seed 3: no room no room") and wide[3].endswith("…")
    narrow = progress.table(found, 64).splitlines()
    assert narrow[4:6] == [LONG, "     1/10  25/250        failed"]
    for lines, width in ((wide, 100), (narrow, 64)):
        assert max(map(len, lines)) <= width


def test_a_low_screen_shows_what_runs_and_what_failed_and_counts_the_rest() -> None:
    found = [
        *[arm(f"a{k}", "done", seconds=7_500.0) for k in range(9)],
        arm("b", "failed", "seed 0: why"), arm("c", "running"), arm("d", "waiting"),
    ]  # fmt: skip
    assert len(progress.table(found, 80).splitlines()) == 1 + 12 + 1
    assert "2 h 05 min  done" in progress.table(found, 80)
    lines = progress.table(found, 80, 5).splitlines()
    assert [line.split()[0] for line in lines] == ["arm", "c", "b", "failed:", "and"]
    assert lines[-1] == "and 9 done, 1 waiting"
    lines = progress.table(found, 80, 4).splitlines()  # the failure does not fit either
    assert lines[-1] == "and 9 done, 1 failed, 1 waiting" and len(lines) == 3


def test_status_of_one_experiment_has_a_table(
    runs: Path, only_toy: None, capsys: pytest.CaptureFixture[str]
) -> None:
    work = run_and_fail(toy.Config(fail_arm="wide", chunks=2))
    label = work.parent.name
    assert cli.main(["status"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    (rest,) = re.findall(rf"^toy {label}: 4 of 8 chunks done, (.*) left; stopped", line)
    # what was compiled before this run counts for nothing
    assert rest in ("< 1 min of computing", "< 1 min of computing and < 1 min of compiling")
    assert cli.main(["status", "toy", "--study", "quick"]) == 0  # its variants too
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == line
    assert [text.split()[0] for text in lines[1:]] == ["arm", "narrow", "wide"] + 2 * ["failed:"]
    assert cli.main(["status", "toy", "--study", "laptop"]) == 0
    assert "nothing of toy laptop in" in capsys.readouterr().out


def test_a_run_whose_locks_cannot_be_read_is_not_called_stopped(
    runs: Path, only_toy: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header = driver.make_header(
        toy.EXPERIMENT, toy.Config(), driver.origin.environment(), False, False
    )
    checkpoints.open_header(runs / "toy" / "quick" / "unfinished", header)
    (runs / "toy" / "quick" / "unfinished" / "lock").touch()
    monkeypatch.setattr(checkpoints, "is_locked", lambda folder: None)
    assert cli.main(["status", "toy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("; running or stopped: its locks cannot be read")
    assert [line.split()[-1] for line in lines[2:]] == ["unknown", "unknown"]


def test_a_reproduction_has_its_table_too(
    runs: Path,
    only_toy: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = toy.Config(fail_arm="wide", chunks=2)
    monkeypatch.setenv("TOY_MENDED", "1")
    run = driver.run(toy.EXPERIMENT, config, "quick", workers=0)
    monkeypatch.delenv("TOY_MENDED")
    with pytest.raises(units.UnitsFailed):
        reproduction.reproduce(toy.EXPERIMENT, run.label, workers=0)
    capsys.readouterr()
    assert cli.main(["status", "toy", "--study", run.label]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"toy {run.label}: being reproduced, 2 of 4 chunks")
    assert lines[2].split()[:3] == ["narrow", "1/1", "2/2"]
    assert lines[-1].startswith(f"toy {run.label}: finished")


def test_watching_prints_what_changes_until_nothing_runs(
    runs: Path,
    only_toy: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seen by a watcher that wakes up three times, before chunk 1, after it, and after chunk 2."""
    config = toy.Config(chunks=4, seeds=1)
    unit = pool.Unit("narrow", (0,))
    work = runs / "toy" / "quick" / "unfinished"
    with pytest.MonkeyPatch.context() as patch:  # a header, and nothing done
        patch.setattr(driver, "run_here", lambda *arguments: {unit: "stopped"})
        with pytest.raises(units.UnitsFailed):
            driver.run(toy.EXPERIMENT, config, "quick", workers=0)
    (work,) = (runs / "toy").glob("*/unfinished")
    steps = units.advance_unit(toy.EXPERIMENT, config, unit, work, 0.0)

    def passing() -> Iterator[None]:
        with checkpoints.locked(work):
            next(steps)
            yield
            next(steps)
            yield
            yield  # nothing new: nothing printed
            next(steps)
            yield
            steps.close()  # type: ignore[attr-defined]

    run = passing()
    next(run)
    monkeypatch.setattr("time.sleep", lambda seconds: next(run, None))
    assert cli.main(["status", "toy", "--watch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    states = [line.partition("; ")[2] for line in lines if line.startswith("toy ")]
    assert states == ["running"] * 3 + ["stopped; the same command resumes it"]
    rows = [line.split()[2:] for line in lines if line.startswith("narrow")]
    assert [row[0] for row in rows] == ["0/4", "1/4", "2/4", "2/4"]
    assert [row[-1] for row in rows] == ["waiting", "running", "running", "waiting"]
