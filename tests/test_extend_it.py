"""What README says under "Extend it", done to a copy of the package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy

REPOSITORY = Path(__file__).parents[1]


def after(path: Path, line: str, added: str) -> None:
    """Put a line of code into a file, behind the line that is there once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(line) == 1, line
    path.write_text(text.replace(line, f"{line}\n{added}"), encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with an arm, a study and an experiment more; the folder it lies in."""
    copy = tmp_path_factory.mktemp("extended")
    shutil.copytree(
        REPOSITORY / "src", copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.egg-info")
    )
    chapters = copy / "plasticity" / "chapters"
    chapter = chapters / "optimizer_instability"
    after(
        chapter / "run.py",
        '        "eps_root_tenfold": tuned | {"eps_root": 10 * optimizers.TUNED_ADAM.eps_root},',
        '        "width_third": tuned | {"width": config.width // 3},',
    )
    after(
        chapter / "figures.py", '    "width_half": "width ÷ 2",', '    "width_third": "width ÷ 3",'
    )
    after(
        chapter / "run.py",
        '    "gpu": Config(),',
        '    "wide": Config(width=4_096, sensitivity=True),',
    )
    (chapters / "toy").mkdir()
    shutil.copy(toy.__file__, chapters / "toy" / "__init__.py")
    (chapters / "toy" / "run.py").touch()
    return copy


def said(extended: Path, runs: Path, *words: str) -> str:
    """Return what the copy's command line or a line of Python prints."""
    environment = {**os.environ, "PYTHONPATH": str(extended), "PLASTICITY_RUNS": str(runs)}
    done = subprocess.run(
        [sys.executable, *words], env=environment, cwd=extended, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_says_what_is_done_here() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Extend it")[2].partition("\n## ")[0]
    kinds = re.findall(r"^- \*\*(?:An?) ([a-z]+)\*\*", section, re.MULTILINE)
    assert kinds == ["arm", "study", "cure", "experiment"]


@pytest.mark.slow
def test_an_arm_is_a_line_and_a_name(extended: Path, runs: Path) -> None:
    code = (
        "from plasticity import cli\n"
        "from plasticity.chapters.optimizer_instability import figures, run\n"
        "cli.main(['units', 'optimizer_instability', '--study', 'laptop'])\n"
        "arms = run.arms(run.STUDIES['laptop'])\n"
        "print(arms.keys() - figures.ARMS.keys() - figures.VARIATIONS.keys())"
    )
    told, _, unnamed = said(extended, runs, "-c", code).strip().rpartition("\n")
    arms = {unit["arm"] for unit in json.loads(told)["units"]}
    assert "width_third" in arms and len(arms) == 12
    assert unnamed == "set()"


@pytest.mark.slow
def test_a_study_is_an_entry_and_an_experiment_a_folder(extended: Path, runs: Path) -> None:
    run = "run toy --study quick --seeds 1 --workers 0 --set chunks=2"
    code = (
        "from plasticity import cli\n"
        f"for words in (['list'], '{run}'.split(), ['status']):\n"
        "    assert cli.main(words) == 0\n"
        "    print('done:', *words)"
    )
    told = said(extended, runs, "-c", code)
    listed, ran, status = (told.split(f"done: {word}")[0] for word in ("list", "run", "status"))
    assert re.search(r"^toy\b", listed, re.MULTILINE), listed
    assert re.search(r"\bwide\b", listed), listed
    (recorded,) = runs.glob("toy/*/run.json")
    assert json.loads(recorded.read_text())["seeds"] == [0]
    assert "toy" in status[len(ran) :], status
