"""The command line as its users meet it."""

from __future__ import annotations

import ast
import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import nbformat
import numpy as np
import pytest
from PIL import Image

from plasticity import cli, configuration
from plasticity.chapters import style
from plasticity.chapters.optimizer_instability import EXPERIMENT
from plasticity.runs import checkpoints, cost, driver, freshness, notebooks, results

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
        (["optimizer_instability", "--study", "quick", "--seeds", "0"], "--seeds: 0: must be 1"),
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


def test_a_cpu_is_not_compared_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check"]) == 0
    assert "this is a CPU" in capsys.readouterr().out


@pytest.mark.slow
def test_run_then_list_then_status(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # To count the operations of all experiments takes long.
    monkeypatch.setattr(cli, "experiment_names", lambda: ["optimizer_instability"])
    arguments = ["run", "optimizer_instability", "--study", "quick", "--seeds", "1", *TINY]
    assert cli.main([*arguments, "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "adam-dead-units: inconclusive" in out  # one seed decides nothing
    (label,) = [path.name for path in (runs / "optimizer_instability").iterdir()]
    assert label.startswith("quick-")
    assert results.load("optimizer_instability", label).config["seeds"] == 1

    assert cli.main(["status"]) == 0
    assert f"optimizer_instability {label}: finished" in capsys.readouterr().out
    assert cli.main(["list", "--long"]) == 0
    out = capsys.readouterr().out
    assert "estimated from" in out
    for study in EXPERIMENT.studies:
        assert f"  {study}" in out


def test_status_tells_how_far_an_unfinished_run_is(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EXPERIMENT.studies["quick"]
    work = runs / "optimizer_instability" / "quick" / "unfinished"
    header = {
        "config": configuration.to_dict(config),
        "execution": {"processes": "one a core", "batched": False},
    }
    checkpoints.open_header(work, header)
    folder = checkpoints.UnitFolder(work, "tuned", (0,))
    folder.save(3, {"x": np.ones(2)}, [{"y": np.ones(1)}] * 3, checkpoints.Spent(66.0, 60.0))
    assert cli.main(["status"]) == 0
    told = capsys.readouterr().out
    # 3 of 12 chunks of one of 12 units took 6 s, and a minute to compile: there are 141 more chunks
    # of 2 s, and two more arms with programs of their own, which they share
    rest = "5 min of computing and 1 min of compiling left"
    assert f"3 of 144 chunks done, {rest}; stopped" in told
    with checkpoints.locked(work):
        assert cli.main(["status"]) == 0
        assert "running" in capsys.readouterr().out


def test_status_names_a_run_that_was_begun_with_settings_since_removed(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = runs / "scaling" / "laptop" / "unfinished"
    checkpoints.open_header(work, {"config": {"mlp_width": 64}, "execution": {"batched": False}})
    assert cli.main(["status"]) == 0
    told = capsys.readouterr().out
    assert "scaling/laptop was begun with settings that the code no longer has" in told
    assert "`plasticity run scaling --study laptop --fresh` begins again" in told


def test_the_product_is_all_of_the_grid(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    (command,) = re.findall(r"plasticity run (interventions --study \w+)", makefile)
    _, config = cli._resolve(cli._parser().parse_args(["run", *command.split()]))
    assert config == cli.experiment("interventions").studies["smoke"]
    assert config.seeds == 1
    assert len(cli.experiment("interventions").arms(config)) == 4 * 2 * 7 * 3 * 2


@pytest.mark.parametrize("name", cli.experiment_names())
def test_git_takes_the_runs_of_studies_but_the_quick_one_and_no_other(
    repository: Path, name: str
) -> None:
    if not (repository / ".git").exists():
        pytest.skip("no git checkout")
    studies = cli.experiment(name).studies
    taken = {f"{study}/run.json": study != "quick" for study in studies}
    for study in studies:
        taken |= {f"{study}/{work}/header.json": False for work in ("unfinished", "reproducing")}
        taken[f"{study}-0badc0de/run.json"] = False
    for path, expected in taken.items():
        found = subprocess.run(
            ["git", "check-ignore", "--quiet", f"papermill_runs/{name}/{path}"], cwd=repository,
            check=False,
        )  # fmt: skip
        assert (found.returncode == 1) is expected, path  # 1: not ignored, 0: ignored


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
    known = ", ".join(EXPERIMENT.studies)
    assert f"unknown study 'fast': choose from {known}" in done.stderr


RECORDED = [run for name in cli.experiment_names() for run in results.recorded(name)]
STUDIES = [run for run in RECORDED if run.label not in ("quick", "smoke") and "-" not in run.label]
"""Recorded runs but those that git leaves out: test_recorded_runs.py knows that these are all.

And but ``smoke``, at whose size nothing is learned: a chapter's checks of what agents learn fail.
"""


def execute(source: str, place: str, names: dict[str, Any]) -> None:
    """Execute a cell, and have what it ends with drawn and written, as a notebook shows it."""
    tree = ast.parse(source, place)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, place, "exec"), names)
    if isinstance(last, ast.Expr):
        shown = eval(compile(ast.Expression(last.value), place, "eval"), names)
        for form in ("png", "html", "markdown"):
            getattr(shown, f"_repr_{form}_", str)()


@pytest.mark.slow
@pytest.mark.parametrize("run", STUDIES, ids=lambda run: f"{run.experiment}-{run.label}")
def test_a_chapter_runs_at_the_studies_that_are_recorded(
    repository: Path, monkeypatch: pytest.MonkeyPatch, run: results.Run
) -> None:
    """Its own checks hold there too, and it needs no data that is not in the checkout.

    Cell by cell in this process, which has imported what a kernel would first import.
    """
    if not freshness.is_fresh(run.provenance, cli.experiment(run.experiment)):
        pytest.skip("of older code, of which test_recorded_runs.py says why: the chapter would run")
    monkeypatch.delenv("PLASTICITY_DATA", raising=False)
    monkeypatch.chdir(repository)
    monkeypatch.setattr(driver, "measured", lambda *_, **__: pytest.fail("it computes"))
    chapter = nbformat.read(repository / "book" / f"{run.experiment}.ipynb", as_version=4)
    names: dict[str, Any] = {"__name__": "__main__"}
    if run.label == "laptop_more_images":  # of fresh networks alone: its chapter says so at once
        with pytest.raises(configuration.ConfigError, match="trains no agents"):
            run_cells(chapter, run, names)
        return
    monkeypatch.setitem(style.STYLE, "savefig.dpi", 40)  # nobody looks at it
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as readers have it
    with jax.numpy_rank_promotion("allow"):  # and this
        run_cells(chapter, run, names)
    assert names["study"] == run.label


def run_cells(chapter: Any, run: results.Run, names: dict[str, Any]) -> None:
    """Execute the cells of a chapter at the study of a run."""
    for number, cell in enumerate(chapter.cells):
        if cell.cell_type == "code":
            execute(cell.source, f"{run.experiment}, cell {number}", names)
        if "parameters" in cell.metadata.get("tags", []):
            names["study"] = run.label


def test_pictures_of_an_executed_notebook_get_a_palette_and_look_the_same() -> None:
    shown = style.Figure(figsize=(4, 3))
    shown.subplots().plot(np.arange(9), color=style.COLOURS[0])
    picture = base64.b64encode(shown._repr_png_()).decode()
    outputs: list[dict[str, Any]] = [
        {"data": {"image/png": picture}},
        {"data": {"text/plain": "1"}},
    ]
    notebooks.with_palettes({"cells": [{"outputs": outputs}, {"cell_type": "markdown"}]})
    smaller = outputs[0]["data"]["image/png"]
    assert len(smaller) < len(picture) / 2 and outputs[1] == {"data": {"text/plain": "1"}}
    was, now = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"), float)
        for text in (picture, smaller)
    )
    assert abs(was - now).mean() < 1 and abs(was - now).max() < 64


def test_costs_are_those_of_the_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EXPERIMENT.studies["paper"]
    arms = [EXPERIMENT.arm(config, arm) for arm in EXPERIMENT.arms(config)]
    hours = 2 * sum(map(EXPERIMENT.flops, arms)) / 1e12 / 3600
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
    assert notebooks.ran_to_its_end({"cells": [*cells, prose]}) is succeeded
