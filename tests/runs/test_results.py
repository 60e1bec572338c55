"""Runs on disk: what is written is what is read, and a damaged run is not believed."""

from __future__ import annotations

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import toy

from plasticity import configuration
from plasticity.runs import files, folders, results

TABLE = pd.DataFrame(
    {"arm": ["a", "b"], "seed": [0, 0], "step": [1, 1], "metric": "x", "value": [0.1, 1 / 3]}
)
ARRAYS = {"trace/a": np.arange(6.0).reshape(2, 3)}
PROVENANCE = {
    "study": "laptop", "seeds": [0], "data": {"records": 5, "full_set": 10, "dataset": "toy"},
    "device": {"kind": "a machine"}, "config": {},
}  # fmt: skip


def write(label: str = "laptop", **changes: object) -> results.Run:
    """Record a made-up run."""
    return results.write("toy", label, TABLE, ARRAYS, {**PROVENANCE, **changes})


def test_what_is_written_is_what_is_read(runs: Path) -> None:
    run = write()
    pd.testing.assert_frame_equal(run.table, TABLE)
    np.testing.assert_array_equal(run.arrays["trace/a"], ARRAYS["trace/a"])
    assert {path.name for path in (runs / "toy" / "laptop").iterdir()} == {
        "results.csv", "arrays.npz", "run.json",
    }  # fmt: skip


def test_equal_runs_are_equal_bytes(runs: Path) -> None:
    write("laptop")
    write("gpu", study="gpu")
    for name in ("results.csv", "arrays.npz"):
        first, second = ((runs / "toy" / label / name).read_bytes() for label in ("laptop", "gpu"))
        assert first == second


@pytest.mark.parametrize("name", ["results.csv", "arrays.npz"])
def test_damage_is_found(runs: Path, name: str) -> None:
    write()
    path = runs / "toy" / "laptop" / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(files.ResultsError, match=f"{name} is not what the run wrote.*delete"):
        results.load("toy", "laptop")


def test_a_run_that_is_being_written_is_waited_for(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The book executes two chapters at a time, and one may read what the other records."""
    write()
    real, reading = results.write_atomically, []
    with ThreadPoolExecutor() as pool:

        def write_slowly(path: Path, content: bytes) -> None:
            if path.name == "run.json":  # the others are new by now
                reading.append(pool.submit(results.recorded, "toy"))
                with pytest.raises(TimeoutError):
                    reading[0].result(timeout=0.2)
            real(path, content)

        monkeypatch.setattr(results, "write_atomically", write_slowly)
        changed: dict[str, Any] = {**PROVENANCE, "seeds": [0, 1]}
        results.write("toy", "laptop", TABLE[:1], {"other": np.zeros(3)}, changed)
        (run,) = reading[0].result(timeout=10)
    assert len(run.table) == 1 and set(run.arrays) == {"other"}
    assert run.provenance["seeds"] == [0, 1]


def test_the_best_run_is_read_and_no_other(runs: Path) -> None:
    write("laptop")
    write("quick", study="quick")
    (runs / "toy" / "quick" / "results.csv").write_text("half of it")
    assert results.best("toy").label == "laptop"
    with pytest.raises(files.ResultsError, match="is not what the run wrote"):
        results.recorded("toy")


def test_broken_provenance_and_absent_runs_are_named(runs: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run\.json is missing.*--study laptop"):
        results.load("toy", "laptop-0badc0de")
    (runs / "toy").mkdir(parents=True)
    (runs / "toy" / "laptop").write_text("a file where the folder should be")
    with pytest.raises(files.NotRecorded, match=r"run\.json is missing"):
        results.load("toy", "laptop")
    (runs / "toy" / "laptop").unlink()
    write()
    path = runs / "toy" / "laptop" / "run.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(files.ResultsError, match=r"run\.json is not a run's provenance"):
        results.load("toy", "laptop")
    path.write_text(json.dumps({"no": "hashes"}))
    with pytest.raises(files.ResultsError):
        results.load("toy", "laptop")


def test_who_looks_in_the_wrong_folder_is_told_where_the_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Papermill starts a chapter in the folder that it was called in."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    monkeypatch.setenv("PLASTICITY_RUNS", str(home / "papermill_runs"))
    write("laptop")
    elsewhere.mkdir()
    monkeypatch.delenv("PLASTICITY_RUNS")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(folders, "checkout", lambda: None)
    for look in (lambda: results.best("toy"), lambda: results.load("toy", "laptop")):
        with pytest.raises(files.NotRecorded) as raised:
            look()
        told = str(raised.value)
        assert f"{elsewhere / 'papermill_runs'}" in told
        assert "papermill: --cwd CHECKOUT" in told and "PLASTICITY_RUNS" in told
        assert "`plasticity cost toy --study laptop` says what that takes" in told
    monkeypatch.setattr(folders, "checkout", lambda: home)
    for look in (lambda: results.best("toy"), lambda: results.load("toy", "laptop")):
        with pytest.raises(files.NotRecorded) as raised:
            look()
        there = f"papermill: --cwd {home}), or set PLASTICITY_RUNS={home / 'papermill_runs'}"
        assert str(raised.value).endswith(there)
    with pytest.raises(files.NotRecorded, match="`plasticity run toy --study paper` records it"):
        results.load("toy", "paper")
    monkeypatch.chdir(home)  # which is the checkout itself
    (home / "papermill_runs" / "toy" / "laptop" / "arrays.npz").unlink()
    with pytest.raises(files.NotRecorded, match=r"arrays\.npz is missing.*CHECKOUT"):
        results.load("toy", "laptop")


def test_the_best_run_is_the_one_nearest_to_the_paper_that_asks_the_whole_question(
    runs: Path,
) -> None:
    with pytest.raises(FileNotFoundError, match="no recorded run of toy"):
        results.best("toy")
    write("laptop_own_loss", study="laptop_own_loss")
    write("paper-0badc0de", study="paper")
    with pytest.raises(FileNotFoundError, match="no recorded run of toy"):
        results.best("toy")
    for study in ("quick", "laptop", "night"):
        write(study, study=study)
    assert results.best("toy").label == "night"
    assert [run.label for run in results.recorded("toy")] == [
        "night", "laptop", "quick", "laptop_own_loss", "paper-0badc0de",
    ]  # fmt: skip


def test_a_run_describes_itself(runs: Path) -> None:
    assert write().describe() == "laptop run · 1 seed · 5 images of toy · a machine"


def test_a_run_says_how_many_images_the_networks_of_a_figure_had(runs: Path) -> None:
    """Of several subsets a run draws, its agents learn from one."""

    def run(n_images: int, *drawn: tuple[str, int, int]) -> results.Run:
        sets = [dict(zip(("dataset", "records", "full_set"), one, strict=True)) for one in drawn]
        data = {"records": 9, "dataset": "c and m", "sets": {str(one): one for one in sets}}
        return write(data=data, config={"problem": {"n_images": n_images}})

    some = run(100, ("m", 100, 600), ("m", 466, 600), ("c", 466, 500), ("c", 50, 500))
    assert "· 100 images of m ·" in some.describe()
    assert "· 466 images each of c and m ·" in some.describe(images=466)
    whole = run(600, ("m", 600, 600), ("c", 500, 500))
    assert "· 600 images of m and 500 images of c ·" in whole.describe()


def test_labels_tell_trials_from_studies() -> None:
    assert results.label(toy.STUDIES, "quick", toy.Config()) == "quick"
    other = results.label(toy.STUDIES, "quick", toy.Config(scale=2.0))
    assert other == f"quick-{configuration.digest(toy.Config(scale=2.0))[:8]}"
    with pytest.raises(configuration.ConfigError, match="unknown study"):
        results.label(toy.STUDIES, "slow", toy.Config())


def test_runs_are_found_from_below_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLASTICITY_RUNS", raising=False)
    (tmp_path / "papermill_runs").mkdir()
    (tmp_path / "book").mkdir()
    monkeypatch.chdir(tmp_path / "book")
    assert results.root() == tmp_path / "papermill_runs"


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.csv"
    files.write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(files.ResultsError, match=r"No space left on device.*it resumes"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_on_a_file_system_without_locks_a_half_written_run_is_not_called_edited(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    path = runs / "toy" / "laptop" / "results.csv"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(files.ResultsError, match=r"run again$"):
        results.load("toy", "laptop")

    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(files.ResultsError, match="unless it is being written at this moment"):
        results.load("toy", "laptop")
    write("gpu")  # it goes without


def test_a_bank_is_a_file_for_each_arm_read_on_demand(runs: Path) -> None:
    kernels = {"bank/a/params/kernel": np.ones((3, 2)), "bank/b/params/bias": np.zeros((3, 4))}
    run = results.write("toy", "laptop", TABLE, {**ARRAYS, **kernels}, PROVENANCE)
    assert set(run.arrays) == {"trace/a"}
    assert run.banks() == ["a", "b"]
    np.testing.assert_array_equal(run.bank("a")["params/kernel"], np.ones((3, 2)))
    with pytest.raises(KeyError, match="no parameters of 'c' were kept; there are a, b"):
        run.bank("c")
    (runs / "toy" / "laptop" / "bank" / "b.npz").write_bytes(b"damaged")
    with pytest.raises(files.ResultsError, match=r"b\.npz is not what the run wrote"):
        results.load("toy", "laptop")
