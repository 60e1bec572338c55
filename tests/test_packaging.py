"""The lock, the Makefile, and the metadata that must agree with each other."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import plasticity

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
IN_LOCK = ("data", "atari", "book", "test", "cluster")


def project() -> dict[str, Any]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(document["project"])


def lock_text() -> str:
    return (ROOT / "requirements.lock").read_text(encoding="utf-8")


def locked() -> list[tuple[Requirement, list[str]]]:
    """Each entry of the lock with its hashes."""
    entries = lock_text().replace("\\\n", " ").splitlines()
    parsed = []
    for entry in filter(None, map(str.strip, entries)):
        requirement, *hashes = re.split(r"\s+--hash=", entry)
        parsed.append((Requirement(requirement), hashes))
    return parsed


def environment(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }


def test_lock_names_no_host() -> None:
    assert "://" not in lock_text()
    options = [line for line in map(str.strip, lock_text().splitlines()) if line.startswith("-")]
    assert all(option.startswith("--hash=sha256:") for option in options)  # no index, no editable


def test_lock_pins_and_hashes_everything() -> None:
    entries = locked()
    assert len(entries) > 50
    for requirement, hashes in entries:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), str(requirement)
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes)


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_satisfies_what_the_project_asks_for(python: str) -> None:
    pins: dict[str, Version] = {}
    for requirement, _ in locked():
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            name = canonicalize_name(requirement.name)
            assert name not in pins, f"{name} is pinned twice for Python {python}"
            pins[name] = Version(str(requirement.specifier).removeprefix("=="))
    extras = project()["optional-dependencies"]
    wanted = project()["dependencies"] + [line for extra in IN_LOCK for line in extras[extra]]
    for requirement in map(Requirement, wanted):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not in the lock: make lock"
        assert pin in requirement.specifier, f"{requirement} but {pin} is locked: make lock"


def test_make_lock_covers_the_extras_that_are_checked_here() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    command = makefile[makefile.index("LOCK :=") :].split("\n\n")[0]
    assert tuple(re.findall(r"--extra (\w+)", command)) == IN_LOCK


def test_benchmark_peers_stay_out_of_the_lock() -> None:
    assert "torch" not in {canonicalize_name(requirement.name) for requirement, _ in locked()}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_lists_every_target() -> None:
    made = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (\w+)$", makefile, re.MULTILINE)
    assert len(targets) > 5
    shown = {line.split()[0] for line in made.stdout.splitlines()[1:]}
    assert shown == set(targets)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://github.com/owner/name", "https://github.com/owner/name"),
        ("https://someone:secret@github.com/owner/name.git", "https://github.com/owner/name"),
        ("git@github.com:owner/name.git", "https://github.com/owner/name"),
        ("ssh://git@gitlab.com/owner/name.git/", "https://gitlab.com/owner/name"),
        ("http://git.internal.example/owner/name", ""),
        ("/srv/git/name.git", ""),
        ("file:///srv/git/owner/name.git", ""),
        ("C:\\git\\name", ""),
        ("https://github.com/owner", ""),
        ("", ""),
    ],
)
def test_buttons_lead_to_public_repositories_only(address: str, url: str) -> None:
    launch = runpy.run_path(str(ROOT / "book" / "_ext" / "launch.py"))
    assert launch["public_url"](address) == url


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    declared = project()["version"]
    assert citation["version"] == plasticity.__version__ == declared
    assert importlib.metadata.version("plasticity-companion") == declared, (
        "run make test, or reinstall"
    )


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the source distribution has, built by the backend that pyproject.toml names."""
    copy, made = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    left_out = shutil.ignore_patterns("*.egg-info", "__pycache__")
    for folder in ("src", "tests", "benchmarks"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=left_out)
    for file in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(made)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, check=True)
    (archive,) = made.iterdir()
    with tarfile.open(archive) as opened:
        return [name.partition("/")[2] for name in opened.getnames()]


def test_a_source_distribution_has_no_tests(source_distribution: list[str]) -> None:
    """They need the whole checkout; a few of them, which setuptools would take, are none."""
    assert [name for name in source_distribution if name.startswith(("tests", "bench"))] == []


def test_a_source_distribution_has_the_whole_package(source_distribution: list[str]) -> None:
    ours = [path for path in (ROOT / "src" / "plasticity").rglob("*") if path.is_file()]
    names = {path.relative_to(ROOT).as_posix() for path in ours if "__pycache__" not in path.parts}
    assert len(names) > 100 and names <= set(source_distribution)
    assert {"LICENSE", "README.md", "pyproject.toml"} <= set(source_distribution)


def test_licences_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["license"] == project()["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text


def test_core_needs_no_notebook_and_no_plotting_package() -> None:
    core = {canonicalize_name(Requirement(line).name) for line in project()["dependencies"]}
    assert core == {"flax", "jax", "numpy", "optax", "orbax-checkpoint", "pandas", "scipy", "tqdm"}


def test_the_tools_that_break_books_are_pinned() -> None:
    book = project()["optional-dependencies"]["book"]
    assert "jupyter-book>=1.0.4.post1,<2" in book
    assert "sphinx-book-theme==1.2.0" in book


WRITTEN = [
    ROOT / "Makefile", ROOT / "README.md", ROOT / "CONTRIBUTING.md",
    ROOT / "papermill_runs" / "Snakefile", *ROOT.glob("book/*.md"), *ROOT.glob("src/**/*.py"),
    *ROOT.glob("benchmarks/*.py"),
]  # fmt: skip
"""The change log names what is no more."""


def test_what_words_and_commands_name_of_the_package_is_there() -> None:
    """Also the names in docstrings and in one-line programs, which nothing else runs."""
    named = re.compile(r"\bplasticity(?:\.[A-Za-z_]\w*)+")
    imported = re.compile(r"\bfrom (plasticity[\w.]*) import ([\w, ]+)")
    missing = []
    for path in WRITTEN:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            names = named.findall(line)
            for module, members in imported.findall(line):
                names += [
                    f"{module}.{name.split()[0]}" for name in members.split(",") if name.strip()
                ]
            missing += [f"{path.relative_to(ROOT)}:{number}: {n}" for n in names if not exists(n)]
    assert missing == []


def exists(name: str) -> bool:
    """Return whether a module, or something that a module has, bears this full name."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for part in parts[k:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False
