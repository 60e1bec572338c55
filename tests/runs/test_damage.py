"""Files beside a run's checkpoints that are damaged, and folders that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from plasticity import configuration
from plasticity.runs import checkpoints, driver, files, history, plan, sitting


@pytest.mark.parametrize("content", [b'{"half of', b"\xff", b"3", b"[3]", b'[{"began": "today"}]'])
def test_damaged_sittings_are_named(content: bytes, runs: Path) -> None:
    work = runs / "toy" / "quick" / "unfinished"
    work.mkdir(parents=True)
    (work / history.NAME).write_bytes(content)
    with pytest.raises(files.ResultsError, match=rf"{work / history.NAME} is damaged .*delete it"):
        driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0)
    (work / history.NAME).unlink()
    assert driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0).label == "quick"


@pytest.mark.parametrize("content", ["3", "[]", '{"a": 3}', '{"a": [["narrow", 3]]}'])
def test_a_list_of_parts_that_is_none_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(checkpoints.CheckpointError, match=r"split.json is damaged.*--fresh"):
        plan.planned(toy.EXPERIMENT, toy.Config(), tmp_path, batched=True)


def test_where_a_folder_should_be_and_a_file_is_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(files.ResultsError, match=r"cannot write .*runs/toy/run.json"):
        files.write_atomically(tmp_path / "runs" / "toy" / "run.json", b"")


def test_a_queue_that_cannot_be_read_is_a_bad_argument(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("nowhere", ".", "binary"):
        with pytest.raises(configuration.ConfigError, match="cannot read the queue"):
            sitting.read_queue(tmp_path / name)


def test_a_sitting_with_no_place_for_its_files_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sitting, "_plasticity", lambda *_, **__: pytest.fail("it runs something"))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(files.ResultsError, match=r"cannot write .*out"):
        sitting.work_off([], 5.0, tmp_path / "out")


def test_files_of_a_sitting_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / f"sitting_{'0' * 16}_1_of_1").mkdir()  # a folder of that name
    with pytest.raises(sitting.NotMerged, match=r"Is a directory.*goes on"):
        sitting.merge(tmp_path)
