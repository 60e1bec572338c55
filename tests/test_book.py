"""The structure that DESIGN promises: one name in four places, short cells, imports one way."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plasticity import cli
from plasticity.runs import results

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src" / "plasticity"
NOTEBOOKS = sorted((REPOSITORY / "book").glob("*.ipynb"))
CHAPTERS = [REPOSITORY / "book" / f"{name}.ipynb" for name in cli.experiment_names()]

LAYERS = [
    {"shapes"},
    {"devices", "configuration", "statistics", "paper"},
    {"data", "classification_mdp", "environments", "atari", "jitted_atari"},
    {
        "convolution",
        "network_state",
        "networks",
        "losses",
        "optimizers",
        "replay",
        "frame_replay",
        "dqn",
        "double_dqn",
    },
    {"curvature", "gradient_covariance", "network_statistics", "probe", "interventions"},
    {"fingerprint", "dataflow", "results", "checkpoints", "claims", "freshness"},
    {"mdp_agent", "probed_agent", "two_hot_probe", "atari_agent"},
    {
        "driver",
        "jobs",
        "worker",
        "worker_pool",
        "report",
        "figures",
        "comparisons",
        "speed",
        "reproduction",
        "progress",
        "cost",
        "atari_results",
    },
    {"experiments"},
    {"cli"},
]
"""Modules from the bottom up: each may import those of its own layer and of lower ones. Reports are
below experiments because they know runs and no experiment."""


def code_cells(path: Path) -> list[dict[str, Any]]:
    """Return a notebook's code cells."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def tags(cell: dict[str, Any]) -> list[str]:
    """Return a cell's tags."""
    found: list[str] = cell["metadata"].get("tags", [])
    return found


def imported(path: Path) -> set[str]:
    """Return every module that a file imports, ``package.module`` for this package's own."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize("name", cli.experiment_names())
def test_an_experiment_has_its_four_places(name: str) -> None:
    assert (REPOSITORY / "book" / f"{name}.ipynb").exists()
    assert (REPOSITORY / "tests" / "experiments" / f"test_{name}.py").exists()
    assert results.best(name).study in ("laptop", "gpu", "paper")
    assert f"book/{name}" in (REPOSITORY / "_toc.yml").read_text()
    module = cli.experiment(name)
    assert set(module.STUDIES) == {"quick", "laptop", "gpu", "paper"}
    assert all(module.CLAIMS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short_and_define_nothing(path: Path) -> None:
    for cell in code_cells(path):
        source = "".join(cell["source"])
        lines = [line for line in source.splitlines() if line.strip()]
        assert len(lines) <= 12, source
        kinds = (ast.FunctionDef, ast.ClassDef, ast.Lambda)
        assert not any(isinstance(node, kinds) for node in ast.walk(ast.parse(source))), source
        assert "plt" not in source and "matplotlib" not in source, source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_only_where_they_are_compared(path: Path) -> None:
    for cell in code_cells(path):
        kept = {"keep_output", "nbval-check-output"} <= set(tags(cell))
        assert bool(cell["outputs"]) == kept, "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_has_a_caption_and_an_alternative_in_words(path: Path) -> None:
    for cell in code_cells(path):
        if "figures." in "".join(cell["source"]).splitlines()[-1]:
            shown = cell["metadata"]["mystnb"]
            assert len(shown["image"]["alt"]) > 60
            assert shown["figure"]["caption"] and shown["figure"]["name"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_a_parameters_cell_and_checks(path: Path) -> None:
    (parameters,) = (cell for cell in code_cells(path) if "parameters" in tags(cell))
    for line in "".join(parameters["source"]).splitlines():
        assert line.partition("#")[2].strip(), f"{line}: says nothing about itself"
        assert ":" in line.partition("=")[0], f"{line}: has no type"
    text = path.read_text(encoding="utf-8")
    assert "assert " in text
    for part in (
        "In brief", "The idea", "The code", "See it run", "See it in full", "Does it agree?",
        "Checks", "Choices where the paper is silent", "Exercises", "Further reading",
    ):  # fmt: skip
        assert f"## {part}" in text, part


def test_imports_run_one_way() -> None:
    allowed: set[str] = set()
    seen: set[str] = set()
    for layer in LAYERS:
        allowed |= layer
        seen |= layer
        for name in layer:
            package = SOURCE / name
            for path in package.glob("*.py") if package.is_dir() else [SOURCE / f"{name}.py"]:
                own = {m.split(".")[1] for m in imported(path) if m.startswith("plasticity.")}
                assert own <= allowed, f"{path.name} imports {own - allowed} from above"
    files = {path.stem for path in SOURCE.glob("*.py")}
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert seen == (files | packages) - {"__init__"}


@pytest.mark.parametrize(
    ("package", "only"), [("matplotlib", {"figures"}), ("ale_py", {"atari"}), ("pickle", set())]
)
def test_some_packages_have_one_importer(package: str, only: set[str]) -> None:
    importers = {
        path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for path in SOURCE.rglob("*.py")
        if any(module.partition(".")[0] == package for module in imported(path))
    }
    assert importers <= only


def test_the_readme_shows_the_best_run() -> None:
    """If this fails after a new run: `make figure`."""
    with Image.open(REPOSITORY / "book" / "_static" / "home.png") as image:
        found = image.info["Source"]
    assert found == results.best("optimizer_instability").provenance["sha256"]["results.csv"]
