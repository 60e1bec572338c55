"""What a process leaves that is killed where it hurts most, and that the same command mends it.

Kills of real processes at random moments found these; here an exception stands for the kill.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toy

from plasticity.runs import checkpoints, driver, files, freshness, history, progress, results
from plasticity.runs.files import ResultsError

CONFIG = toy.Config(chunks=2, size=8, seeds=1)


def record(config: toy.Config = CONFIG, study: str = "quick", **options: Any) -> results.Run:
    """Run in this process."""
    return driver.run(toy.EXPERIMENT, config, study, workers=0, **options)


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def left(runs: Path) -> list[str]:
    """Return what is in all work folders, but for their locks, and all that is half written."""
    work = [path for path in runs.glob("*/*/unfinished/*") if path.name != "lock"]
    return [path.name for path in [*work, *runs.rglob(".*")]]


def test_what_a_killed_writer_has_written_is_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".run.json.{dead.pid}.tmp", f".run.json.{os.getppid()}.tmp", ".run.json.mine.tmp",
             f".other.json.{dead.pid}.tmp"]  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    files.write_atomically(tmp_path / "run.json", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", *names[1:]}
    files.remove_halves(tmp_path)  # of any file
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", *names[1:3]}


@pytest.mark.parametrize("at", ["arrays.npz", "run.json"])
def test_killed_while_it_is_recorded_over_an_older_run_it_is_resumed(
    at: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = record().provenance["sha256"]
    older = {"code": "older", "study": "quick", "config": {"scale": 1.0}}
    old = results.load("toy", label := record().label)
    results.write("toy", label, old.table[:1], {}, {**old.provenance, **older})
    with monkeypatch.context() as patch:
        write = files.write_atomically

        def dies(path: Path, content: bytes) -> None:
            if path.name == at and path.parent.name == label:
                raise KeyboardInterrupt
            write(path, content)

        patch.setattr(results, "write_atomically", dies)
        with pytest.raises(KeyboardInterrupt):
            record()
    with pytest.raises(ResultsError, match="not what the run wrote"):
        results.load("toy", label)
    chunks = iter(range(0))
    monkeypatch.setattr("tqdm.std.tqdm.update", lambda *_: next(chunks))  # none is computed again
    assert record().provenance["sha256"] == expected
    assert not left(runs)


def test_a_damaged_run_where_none_is_unfinished_is_told(runs: Path) -> None:
    run = record()
    (runs / "toy" / run.label / "results.csv").write_text("edited")
    with pytest.raises(ResultsError, match="not what the run wrote"):
        record()


@pytest.mark.parametrize("at", ["sittings.json", "narrow", "header.json"])
def test_killed_while_it_tidies_up_the_next_call_goes_on(
    at: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = {name: getattr(owner, name) for owner, name in REMOVERS}

    def dies(name: str) -> Any:
        def call(path: Path, *rest: Any, **options: Any) -> None:
            if path.name == at and path.parent.name == "unfinished":
                raise KeyboardInterrupt
            remove[name](path, *rest, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in REMOVERS:
            patch.setattr(owner, name, dies(name))
        with pytest.raises(KeyboardInterrupt):
            record()
    assert at in left(runs) and "header.json" in left(runs)
    run = results.load("toy", results.label(toy.STUDIES, "quick", CONFIG))  # it is recorded
    assert record().provenance == run.provenance
    assert not left(runs)
    assert not progress.unfinished("toy")


REMOVERS: list[tuple[Any, str]] = [(driver.shutil, "rmtree"), (Path, "unlink")]
"""What deletes folders and files."""


def test_killed_before_its_programs_are_stored_the_next_call_stores_them(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(freshness, "store", killed)
        with pytest.raises(KeyboardInterrupt):
            record(study="laptop")
    again = record(study="laptop")
    assert again.provenance["programs"]["arms"].keys() == {"narrow", "wide"}
    assert not left(runs)


@pytest.mark.parametrize("what", ["begun anew", "of other code"])
def test_checkpoints_of_another_run_stay_where_they_are(
    what: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = record()
    work = runs / "toy" / run.label / "unfinished"
    with monkeypatch.context() as patch:
        patch.setattr(driver, "run_here", killed)
        patch.setattr("plasticity.runs.origin.now", lambda: "later")
        if what == "of other code":
            patch.setattr("plasticity.runs.fingerprint.code_digest", lambda experiment: "edited")
        with pytest.raises(KeyboardInterrupt):
            record(reuse=False)
    if what == "of other code":
        (work / history.NAME).unlink()  # as of jobs, which note no sittings
    before = {path: path.read_bytes() for path in work.glob("*.json")}
    assert record().provenance == run.provenance
    assert {path: path.read_bytes() for path in work.glob("*.json")} == before


def test_who_is_at_it_is_left_alone(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(driver, "discard", killed)
        with pytest.raises(KeyboardInterrupt):
            record()
    with checkpoints.locked(
        runs / "toy" / results.label(toy.STUDIES, "quick", CONFIG) / "unfinished"
    ):
        assert record().label.startswith("quick")
    assert left(runs)
