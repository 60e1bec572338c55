"""Chapters that cannot be executed: what is missing is said."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from plasticity import cli
from plasticity.chapters.optimizer_instability import EXPERIMENT
from plasticity.runs import folders, notebooks
from plasticity.runs.files import ResultsError

NAME = "optimizer_instability.ipynb"


@pytest.fixture
def copied(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chapter in a checkout that has nothing else, which is the working directory."""
    (tmp_path / "book").mkdir()
    (tmp_path / "papermill_runs").mkdir()
    shutil.copy(repository / "book" / NAME, tmp_path / "book")
    monkeypatch.delenv("PLASTICITY_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "book" / NAME


def refusal() -> str:
    """Return what is said instead of executing the chapter."""
    with pytest.raises(notebooks.NotebookFailed) as raised:
        notebooks.execute(EXPERIMENT, "quick")
    return str(raised.value)


def test_a_kernel_that_is_not_installed_is_named(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = json.loads(copied.read_text())
    notebook["metadata"]["kernelspec"]["name"] = "venv-311"
    copied.write_text(json.dumps(notebook))
    assert cli.main(["notebook", "optimizer_instability", "--study", "quick"]) == 1
    told = capsys.readouterr().err
    assert f"{copied} asks for the Jupyter kernel 'venv-311', which is not installed" in told
    assert "python -m ipykernel install --sys-prefix --name venv-311" in told


@pytest.mark.parametrize("content", ['{"half of', "[]", "3"])
def test_what_is_no_notebook_is_named(content: str, copied: Path) -> None:
    copied.write_text(content)
    assert f"{copied} cannot be read as a notebook" in refusal()


@pytest.mark.parametrize("package", ["papermill", "ipykernel"])
def test_a_package_that_is_not_installed_is_named(
    package: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def without(name: str) -> Any:
        return None if name == package else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert refusal().startswith(f"{package} is not installed: pip install ")


def test_outside_of_a_checkout_the_checkout_is_asked_for(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.unlink()
    home = tmp_path / "home"
    monkeypatch.setattr(folders, "checkout", lambda: home)
    assert f"there is no {copied}: go to a checkout" in refusal() and str(home) in refusal()
    monkeypatch.setattr(folders, "checkout", lambda: None)
    assert refusal().endswith("which has the folder book, and give the same command")
    assert list((tmp_path / "papermill_runs").iterdir()) == []


def test_where_runs_lie_elsewhere_by_name_the_chapter_is_that_of_the_code(
    copied: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is told by the same variable."""
    monkeypatch.setenv("PLASTICITY_RUNS", str(copied.parents[1] / "elsewhere" / "runs"))
    assert notebooks._chapter("optimizer_instability") == repository / "book" / NAME


def test_runs_that_cannot_be_written_are_told_before_anything_is_executed(copied: Path) -> None:
    shutil.rmtree(copied.parents[1] / "papermill_runs")
    (copied.parents[1] / "papermill_runs").mkdir()
    (copied.parents[1] / "papermill_runs" / "optimizer_instability").write_text("a file")
    with pytest.raises(ResultsError, match=r"cannot write .*optimizer_instability"):
        notebooks.execute(EXPERIMENT, "quick")
