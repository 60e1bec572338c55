"""The workflows do what `.ci/run` does, by the same make targets; and `make lint` checks them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
NAMES = sorted(path.name for path in FOLDER.iterdir())
NIGHTLY = "fuzz.yml"  # does what CI has no time for, and is asked for by nobody's push
AS_CI = [name for name in NAMES if name != NIGHTLY]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def workflow(name: str) -> dict[Any, Any]:
    """Return a workflow as read from YAML, where its key ``on`` is True."""
    found: dict[Any, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return found


def jobs(name: str) -> dict[str, dict[str, Any]]:
    """Return the jobs of a workflow by name."""
    found: dict[str, dict[str, Any]] = workflow(name)["jobs"]
    return found


def steps(name: str) -> list[dict[str, Any]]:
    """Return the steps of all jobs of a workflow."""
    return [step for job in jobs(name).values() for step in job["steps"]]


def commands(name: str) -> list[str]:
    """Return what the steps of a workflow run, line by line."""
    return [line for step in steps(name) for line in step.get("run", "").splitlines()]


def parts(target: str) -> set[str]:
    """Return the phony targets that a target of the Makefile is made of: itself, if of none."""
    phony = re.findall(r"^\.PHONY: (\w+)$", MAKEFILE, re.MULTILINE)
    assert target in phony, f"make {target}: no such target"
    [line] = re.findall(rf"^{target}:([^:=\n]*)##", MAKEFILE, re.MULTILINE)
    below = [word for word in line.split() if word in phony]
    return set().union(*map(parts, below)) if below else {target}


def made(lines: list[str]) -> set[str]:
    """Return the parts of all targets that lines of a script make."""
    return set().union(*(parts(line.removeprefix("make ")) for line in lines))


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_pinned_by_commit(name: str) -> None:
    used = re.findall(r"uses: (.*)", (FOLDER / name).read_text(encoding="utf-8"))
    assert len(used) == sum("uses" in step for step in steps(name)) > 0
    for action in used:  # for readers, and for tools that renew it, the version stands beside it
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_an_action_has_the_same_commit_everywhere() -> None:
    used = {step["uses"] for name in NAMES for step in steps(name) if "uses" in step}
    assert len({action.partition("@")[0] for action in used}) == len(used)


@pytest.mark.parametrize("name", NAMES)
def test_steps_run_make_targets_and_nothing_else(name: str) -> None:
    assert made(commands(name))
    for line in commands(name):
        assert re.fullmatch(r"make \w+", line), line


def test_workflows_call_what_ci_calls() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    ours = made(re.findall(r"^make \w+$", script, re.MULTILINE))
    assert ours == {"book", "lint", "types", "notebooks", "unit"}
    assert made([line for name in AS_CI for line in commands(name)]) == ours
    assert made(commands("test.yml")) == ours - {"book"}
    book = commands("book.yml")  # what is deployed was checked
    assert book.index("make book") < book.index("make unit")
    assert jobs("book.yml")["deploy"]["needs"] == "build"


def test_every_python_that_we_support_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    strategy = jobs("test.yml")["test"]["strategy"]
    assert strategy["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert strategy["fail-fast"] is False
    assert {"push", "schedule"} <= set(workflow("test.yml")[True])


@pytest.mark.parametrize("name", NAMES)
def test_jobs_may_do_what_they_need_and_no_more(name: str) -> None:
    assert workflow(name)["permissions"] == {}
    for kind, job in jobs(name).items():
        writes = {what for what, right in job["permissions"].items() if right != "read"}
        assert writes == ({"pages", "id-token"} if kind == "deploy" else set())
        assert job["timeout-minutes"] <= 90
    for step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_pushes_take_each_others_place_and_deployments_do_not() -> None:
    build, deploy = (jobs("book.yml")[name] for name in ("build", "deploy"))
    assert "concurrency" not in workflow("book.yml")  # it would hold for the deployment too
    for concurrency in (workflow("test.yml")["concurrency"], build["concurrency"]):
        assert concurrency["cancel-in-progress"] is True and "github.ref" in concurrency["group"]
    assert deploy["concurrency"] == {"group": "pages", "cancel-in-progress": False}
    assert "github.ref == 'refs/heads/main'" in deploy["if"]


def test_what_is_made_up_at_night_is_ten_times_what_ci_makes_up() -> None:
    assert commands(NIGHTLY) == ["make fuzz"]
    assert set(workflow(NIGHTLY)[True]) == {"schedule", "workflow_dispatch"}
    assert "HYPOTHESIS_PROFILE=nightly" in MAKEFILE


@pytest.mark.parametrize("name", AS_CI)
def test_compiled_programs_are_restored_where_make_looks_for_them(name: str) -> None:
    """After a step that sets up .venv, which would remove them; before one that compiles."""
    [folder] = set(re.findall(r"JAX_COMPILATION_CACHE_DIR := \$\(CURDIR\)/(\S+)", MAKEFILE))
    folder = folder.replace("$(VENV)", ".venv")
    [found] = (job["steps"] for job in jobs(name).values() if len(job["steps"]) > 1)
    [at] = (k for k, step in enumerate(found) if step.get("with", {}).get("path") == folder)
    before, after = ({step.get("run") for step in part} for part in (found[:at], found[at:]))
    assert "make lint" in before and not before & {"make book", "make notebooks"}
    assert after & {"make book", "make notebooks"}


@pytest.mark.parametrize("name", NAMES)
def test_expressions_name_what_is_defined(name: str) -> None:
    """What actionlint finds and the tools of `make lint` do not."""
    for job in jobs(name).values():
        inside = yaml.safe_dump(job, width=10_000)
        matrix = job.get("strategy", {}).get("matrix", {})
        known = {step["id"] for step in job["steps"] if "id" in step}
        assert set(re.findall(r"\bmatrix\.(\w+)", inside)) <= set(matrix)
        assert set(re.findall(r"\bsteps\.(\w+)", inside)) <= known
        assert "needs" not in job or job["needs"] in jobs(name)
        for file in re.findall(r"hashFiles\('([^']*)'\)", inside):
            assert any(ROOT.glob(file)), file


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The workflows, where a test may break them."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    return tmp_path


def lint(folder: Path) -> str:
    """Check the workflows of a folder as `make lint` does; return its complaints."""
    recipe = MAKEFILE[MAKEFILE.index("\nlint:") :].split("\n\n")[0]
    lines = [line.strip() for line in recipe.splitlines() if ".github" in line]
    assert len(lines) == 2
    found = ""
    for line in lines:
        command = line.replace("$(BIN)", str(Path(sys.executable).parent))
        done = subprocess.run(command, cwd=folder, shell=True, capture_output=True, text=True)
        found += done.stdout + done.stderr if done.returncode else ""
    return found


def test_lint_accepts_the_workflows(copied: Path) -> None:
    assert lint(copied) == ""


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("test.yml", r"checkout@\w+ # ", "checkout@", "unpinned-uses"),
        ("test.yml", "persist-credentials: false", "fetch-depth: 1", "artipacked"),
        ("test.yml", r"permissions:\n +contents: read", "permissions: write-all", "excessive-"),
        ("test.yml", "make types", "make ${{ github.head_ref }}", "template-injection"),
        ("book.yml", "  pull_request:", "  pull_request_target:", "dangerous-triggers"),
        ("book.yml", "runs-on: .*", "runs-one: ubuntu-24.04", "runs-on"),
        ("book.yml", "    needs: ", "    need: ", "'need' was unexpected"),
        ("test.yml", "        python: .*", "        python: 3", "of type 'array'"),
        ("test.yml", "jobs:", "jobs: {", "Failed to parse"),
    ],
)
def test_lint_refuses_a_broken_workflow(
    copied: Path, name: str, old: str, new: str, complaint: str
) -> None:
    path = copied / ".github" / "workflows" / name
    text = path.read_text(encoding="utf-8")
    broken = re.sub(old, new, text, count=1)
    assert broken != text
    path.write_text(broken, encoding="utf-8")
    assert complaint in lint(copied)
