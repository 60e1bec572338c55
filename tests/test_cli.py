"""The command line as its users meet it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plasticity import cli, configuration
from plasticity.chapters.interventions import run as interventions
from plasticity.chapters.optimizer_instability import run as optimizer_instability
from plasticity.runs import checkpoints, cost, results

TINY = [
    "--set", "n_images=50", "--set", "width=8", "--set", "batch_size=8",
    "--set", "steps_per_period=20", "--set", "periods=2", "--set", "window=5",
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense", "--study", "quick"], "unknown experiment 'nonsense': choose from"),
        (["optimizer_instability", "--study", "quikc"], "unknown study 'quikc'"),
        (["optimizer_instability", "--study", "quick", "--set", "widht=3"], "field 'widht'"),
        (["optimizer_instability", "--study", "quick", "--set", "width=wide"], "whole number"),
        (["optimizer_instability", "--study", "quick", "--seeds", "0"], "seeds = 0"),
        # out of range in an arm though not in the study: a quarter of 2 images is none
        (["optimizer_instability", "--study", "laptop", "--set", "batch_size=2"], "batch_size"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(
    arguments: list[str], message: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not runs.exists()


def test_a_data_problem_is_told_without_a_traceback(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLASTICITY_DATA", str(runs / "nowhere"))
    assert cli.main(["run", "optimizer_instability", "--study", "quick", *TINY]) == 1
    assert "PLASTICITY_DATA" in capsys.readouterr().err


@pytest.mark.slow
def test_run_then_list_then_status(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "optimizer_instability", "--study", "quick", "--seeds", "1", *TINY]
    assert cli.main([*arguments, "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "adam-dead-units: inconclusive" in out  # one seed decides nothing
    (label,) = [path.name for path in (runs / "optimizer_instability").iterdir()]
    assert label.startswith("quick-")
    assert results.load("optimizer_instability", label).config["seeds"] == 1

    assert cli.main(["status"]) == 0
    assert f"optimizer_instability {label}: finished" in capsys.readouterr().out
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "estimated from" in out
    for study in optimizer_instability.STUDIES:
        assert f"  {study}" in out


def test_status_tells_how_far_an_unfinished_run_is(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = optimizer_instability.STUDIES["quick"]
    work = runs / "optimizer_instability" / "quick" / "unfinished"
    header = {
        "config": configuration.to_dict(config),
        "execution": {"processes": "one a core", "batched": False},
    }
    checkpoints.open_header(work, header)
    folder = checkpoints.UnitFolder(work, "tuned", (0,))
    folder.save(3, {"x": results.np.ones(2)}, [{"y": results.np.ones(1)}] * 3, 6.0)
    assert cli.main(["status"]) == 0
    told = capsys.readouterr().out
    # 3 of 12 chunks of one of 12 units took 6 s: 141 chunks of 2 s are left
    assert "3 of 144 chunks, 5 min of compute left; stopped" in told
    with checkpoints.locked(work):
        assert cli.main(["status"]) == 0
        assert "running" in capsys.readouterr().out


def test_the_product_is_all_of_the_grid_and_git_takes_its_run(repository: Path) -> None:
    """If the folder has another name now: `make product`, and name it in .gitignore."""
    lines = (repository / "Makefile").read_text().replace("\\\n", " ").splitlines()
    (product,) = (line.partition(":=")[2] for line in lines if line.startswith("PRODUCT :="))
    studies = interventions.STUDIES
    config = configuration.resolve(studies, "paper", product.split(), seeds=1)
    assert len(interventions.arms(config)) == 4 * 2 * 7 * 3 * 2
    label = results.label(studies, "paper", config)
    folder = f"papermill_runs/interventions/{label}"
    if not (repository / ".git").exists():
        pytest.skip("no git checkout")
    for path, code in (("run.json", 1), ("unfinished/header.json", 0)):
        found = subprocess.run(
            ["git", "check-ignore", "--quiet", f"{folder}/{path}"], cwd=repository, check=False
        )
        assert (found.returncode, path) == (code, path), label  # 1: not ignored


def test_nothing_run_yet_is_said(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 0
    assert "plasticity list" in capsys.readouterr().out


def test_run_needs_no_plotting_and_no_notebook_package() -> None:
    """A GPU node has the core dependencies and nothing else."""
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    names = {'matplotlib', 'papermill', 'nbformat', 'IPython', 'jupyter_book',\n"
        "             'mlxtend', 'pooch', 'sklearn', 'gymnasium', 'ale_py', 'jaxtyping'}\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in self.names:\n"
        "            raise ModuleNotFoundError(f'{name} is not on this node')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from plasticity import cli\n"
        "cli._resolve(cli._parser().parse_args(\n"
        "    ['run', 'optimizer_instability', '--study', 'gpu']))\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_notebook_of_an_unknown_study_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["notebook", "optimizer_instability", "--study", "fast"]) == 2
    assert "unknown study 'fast'" in capsys.readouterr().err


@pytest.mark.slow
def test_plain_papermill_refuses_an_unknown_study(repository: Path, tmp_path: Path) -> None:
    """papermill itself checks no parameters: the chapter does."""
    chapter = repository / "book" / "optimizer_instability.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "papermill", chapter, tmp_path / "o.ipynb", "-p", "study", "fast"],
        capture_output=True, text=True, cwd=repository, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "unknown study 'fast': choose from quick, laptop, gpu, paper" in done.stderr


RECORDED = [run for name in cli.experiment_names() for run in results.recorded(name)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "run", [r for r in RECORDED if r.label == r.study != "quick"], ids=lambda run: run.experiment
)
def test_a_chapter_runs_at_the_studies_that_are_recorded(
    repository: Path, tmp_path: Path, run: results.Run
) -> None:
    """Its own checks hold there too, and it needs no data that is not in the checkout."""
    chapter = repository / "book" / f"{run.experiment}.ipynb"
    environment = {name: value for name, value in os.environ.items() if name != "PLASTICITY_DATA"}
    done = subprocess.run(
        [sys.executable, "-m", "papermill", chapter, tmp_path / "o.ipynb", "-p", "study",
         run.study],
        capture_output=True, text=True, cwd=repository, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]


def test_costs_are_those_of_the_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = optimizer_instability.STUDIES["paper"]
    arms = [
        type(config)(**{**vars(config), **c}) for c in optimizer_instability.arms(config).values()
    ]
    hours = 2 * sum(optimizer_instability.flops(arm) for arm in arms) / 1e12 / 3600
    rate = cost.Rate(1e12, 20.0, 7, "default", "quick")
    monkeypatch.setattr(cost, "measure_on_a_core", lambda *arguments: rate)
    assert cli.main(["cost", "optimizer_instability", "--study", "paper", "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert "7 chunks of default (study quick)" in out
    (row,) = (line.split() for line in out.splitlines() if line.split()[0] == "all")
    assert row[1:3] == [f"{2 * len(arms):,}", f"{hours:,.2f}"]


@pytest.mark.parametrize(
    ("exceptions", "succeeded"),
    [([False, False], True), ([False, None], False), ([False, True], False), ([None, None], False)],
)
def test_a_notebook_succeeded_only_if_every_cell_ran(
    exceptions: list[bool | None], succeeded: bool
) -> None:
    """A killed kernel leaves null in the cells that it never reached, all "completed"."""
    cells = [
        {"cell_type": "code", "metadata": {"papermill": {"exception": e, "status": "completed"}}}
        for e in exceptions
    ]
    prose = {"cell_type": "markdown", "metadata": {}}
    assert cli._ran_to_its_end({"cells": [*cells, prose]}) is succeeded
