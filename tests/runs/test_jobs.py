"""Units as jobs of their own: beside each other, after a kill, and through the real workflow."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import toy

from plasticity import cli, configuration, devices
from plasticity.runs import checkpoints, driver, jobs, pool, results
from plasticity.runs.units import UnitsFailed


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the driver believe that it has one: everything runs in this process."""
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")


def run_units(config: toy.Config, *units: tuple[str, int]) -> None:
    for arm, seed in units:
        jobs.run_unit(toy.EXPERIMENT, config, "quick", arm, seed, checkpoint_seconds=0.0)


UNITS = [("narrow", 0), ("narrow", 1), ("wide", 0), ("wide", 1)]


def test_units_one_by_one_are_the_run(runs: Path, accelerator: None) -> None:
    """On an accelerator too, where `driver.run` would batch the seeds."""
    config = toy.Config(scale=2.0)
    run_units(config, *UNITS[:3])
    folder, left = jobs.unfinished(toy.EXPERIMENT, config, "quick")
    assert left == [pool.Unit("wide", (1,))]
    run_units(config, *UNITS)  # those that are done are left alone
    assert jobs.unfinished(toy.EXPERIMENT, config, "quick") == (folder, [])
    found = driver.run(toy.EXPERIMENT, config, "quick")
    assert found.provenance["execution"] == {"processes": "one", "batched": False}
    assert jobs.unfinished(toy.EXPERIMENT, config, "quick") == (folder, [])
    run_units(config, *UNITS)  # recorded: nothing is begun
    assert not list((folder / "unfinished").glob("*/"))


def test_units_have_the_bits_of_the_run(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = driver.run(toy.EXPERIMENT, toy.Config(), "laptop", workers=0).provenance["sha256"]
    monkeypatch.setattr(devices, "is_cpu", lambda: False)  # in this process, as that run
    run_units(toy.Config(), *UNITS)
    assert (
        driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0).provenance["sha256"]
        == expected
    )


def test_seeds_begun_together_are_not_resumed_one_by_one(
    runs: Path, accelerator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.Config(fail_arm="wide", chunks=2)
    with pytest.raises(UnitsFailed):
        driver.run(toy.EXPERIMENT, config, "quick")
    with pytest.raises(checkpoints.CheckpointError, match=r"another execution \(batched: True"):
        run_units(config, ("wide", 0))


def test_a_unit_that_the_run_does_not_have_is_refused(runs: Path) -> None:
    with pytest.raises(configuration.ConfigError, match=r"no unit wide 2.*narrow, wide.*0, 1"):
        run_units(toy.Config(), ("wide", 2))
    assert not runs.exists()


def test_a_unit_that_fails_says_why_and_is_tried_again(
    runs: Path, accelerator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.Config(fail_arm="wide", chunks=2)
    with pytest.raises(UnitsFailed, match=r"(?s)1 of 1 units failed.*told to fail"):
        run_units(config, ("wide", 1))
    monkeypatch.setenv("TOY_MENDED", "1")
    run_units(config, ("wide", 1))
    assert pool.Unit("wide", (1,)) not in jobs.unfinished(toy.EXPERIMENT, config, "quick")[1]


def test_jobs_share_the_folder_and_a_run_has_it_alone(
    runs: Path, accelerator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    work = results.folder("toy", "quick") / "unfinished"
    with checkpoints.locked(work, shared=True):
        run_units(toy.Config(), ("wide", 1))
        with pytest.raises(checkpoints.CheckpointError, match="in use"):
            driver.run(toy.EXPERIMENT, toy.Config(), "quick")
    with (
        checkpoints.locked(work),
        pytest.raises(checkpoints.CheckpointError, match="in use"),
    ):
        run_units(toy.Config(), ("wide", 0))


def test_a_job_at_work_is_seen_from_outside(runs: Path) -> None:
    with checkpoints.locked(runs, shared=True):
        assert not checkpoints.in_use(runs)  # as yet it has no unit
        with checkpoints.UnitFolder(runs, "wide", (0,)).begun():
            assert checkpoints.in_use(runs)
    assert not checkpoints.in_use(runs)


def test_where_locks_cannot_be_read_it_is_not_said_that_nobody_is_at_work(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = checkpoints.UnitFolder(runs, "wide", (0,))
    with unit.begun():
        assert checkpoints.in_use(runs) is True

        def none(descriptor: int, how: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", none)
        assert checkpoints.in_use(runs) is None and unit.is_running() is None
        assert checkpoints.in_use(runs / "nothing") is False


def test_of_two_headers_at_once_one_is_refused(runs: Path) -> None:
    """Jobs on two kinds of node start at the same moment."""
    refused, start = [], threading.Barrier(8)

    def open_header(kind: int) -> None:
        start.wait()
        try:
            checkpoints.open_header(runs, {"environment": {"kind": kind % 2}})
        except checkpoints.CheckpointError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=open_header, args=(kind,)) for kind in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 4 and all("another environment" in reason for reason in refused)


def test_a_unit_that_an_orphan_has_is_waited_for(runs: Path, accelerator: None) -> None:
    work = results.folder("toy", "quick") / "unfinished"
    job = threading.Thread(target=run_units, args=(toy.Config(), ("wide", 0)))
    with checkpoints.locked(checkpoints.UnitFolder(work, "wide", (0,)).path):
        job.start()
        job.join(0.5)
        assert job.is_alive()
    job.join(600)
    assert not job.is_alive()
    assert pool.Unit("wide", (0,)) not in jobs.unfinished(toy.EXPERIMENT, toy.Config(), "quick")[1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can pin a process to a core")
def test_jobs_on_one_machine_take_other_cores() -> None:
    cores = pool.usable_cores()
    with jobs._own_core() as first:
        assert first in cores
        if len(cores) > 1:
            with jobs._own_core() as second:
                assert second in cores and second != first
    with jobs._own_core() as again:
        assert again in cores


@pytest.mark.parametrize("name", cli.experiment_names())
def test_arms_can_be_folders_and_wildcards(name: str) -> None:
    experiment = cli.experiment(name)
    for config in experiment.studies.values():
        for arm in experiment.arms(config):
            assert re.fullmatch(r"[\w.+-]+", arm), arm  # no comma, no equal sign, no slash


def test_the_command_line_lists_units_and_runs_one(
    runs: Path,
    accelerator: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "experiment_names", lambda: ["toy"])
    monkeypatch.setattr(cli, "experiment", lambda name: toy.EXPERIMENT)
    settings = ["toy", "--study", "quick", "--seeds", "1", "--set", "chunks=2"]
    assert cli.main(["unit", *settings, "--arm", "narrow", "--seed", "0"]) == 0
    capsys.readouterr()
    assert cli.main(["units", *settings]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["units"] == [{"arm": "wide", "seed": 0}]
    assert Path(told["folder"]).parent == runs / "toy"
    assert cli.main(["unit", *settings, "--arm", "wide", "--seed", "7"]) == 2


@pytest.fixture
def toy_package(tmp_path: Path, repository: Path) -> Path:
    """A copy of the package that has the toy among its experiments; the folder it lies in."""
    pytest.importorskip("snakemake", reason="the extra `cluster` is not installed")
    copy = tmp_path / "package"
    shutil.copytree(repository / "src", copy, ignore=shutil.ignore_patterns("*.egg-info"))
    chapter = copy / "plasticity" / "chapters" / "toy"
    chapter.mkdir()
    shutil.copy(toy.__file__, chapter / "__init__.py")
    (chapter / "run.py").touch()  # by which the command line knows a chapter with an experiment
    return copy


@pytest.mark.slow
def test_the_workflow_killed_redoes_only_what_is_missing(
    runs: Path, toy_package: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with its jobs when two of four units are done and others have computed some chunks.

    Each chunk leaves a line when it is computed: only those that were not yet stored come twice.
    """
    settings: dict[str, Any] = {"chunks": 5, "seconds_a_chunk": 0.2}
    chunks = tmp_path / "chunks"
    words = " ".join(f"--set {name}={value}" for name, value in settings.items())
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", repository / "papermill_runs/Snakefile",
        "--cores", "2", "--nolock", "--config", f"run=toy --study quick {words}",
    ]  # fmt: skip
    environment = {
        **os.environ, "PYTHONPATH": str(toy_package), "PLASTICITY_RUNS": str(runs),
        "TOY_LOG": str(chunks), "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip

    def start(log: Path, *options: str) -> subprocess.Popen[bytes]:
        with open(log, "w") as out:
            return subprocess.Popen(
                [*command, *options],
                stdout=out, stderr=out, cwd=tmp_path, env=environment, start_new_session=True,
            )  # fmt: skip

    def computed() -> int:
        return len(chunks.read_text().splitlines()) if chunks.exists() else 0

    controller = start(tmp_path / "first.log")
    while len(done := list(runs.glob("toy/*/unfinished/*/*/done"))) < 2 or computed() <= 10:
        assert controller.poll() is None, (tmp_path / "first.log").read_text()
        time.sleep(0.02)
    os.killpg(controller.pid, signal.SIGKILL)
    controller.wait()
    twice = computed() - 2 * 5

    controller = start(tmp_path / "second.log")
    assert controller.wait(600) == 0, (tmp_path / "second.log").read_text()
    second = (tmp_path / "second.log").read_text()
    assert re.search(r"^unit +2$", second, re.MULTILINE), second
    assert not any(str(mark) in second for mark in done)
    assert computed() == 4 * 5 + twice

    assert start(tmp_path / "third.log", "--dry-run").wait(600) == 0
    third = (tmp_path / "third.log").read_text()
    assert re.search(r"^total +1$", third, re.MULTILINE), third  # it tells what is recorded

    (recorded,) = runs.glob("toy/*/run.json")
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / "unbroken"))
    unbroken = driver.run(toy.EXPERIMENT, toy.Config(**settings), "quick", workers=1)
    assert json.loads(recorded.read_text())["sha256"] == unbroken.provenance["sha256"]
