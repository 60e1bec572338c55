"""The code's hash moves with what a run computes, and with nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from plasticity import fingerprint

HELPER = """
def used(x):
    return inner(x)

def inner(x):
    return x + SHIFT

SHIFT = 1

def unused(x):
    return x
"""
MAIN = """
from probed import helper
from probed.helper import used as renamed

def advance(x):
    return helper.used(x)

def judge(x):
    return helper.unused(x)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of two modules, of which the main one has one root and one judge."""
    folder = tmp_path / "probed"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "helper.py").write_text(HELPER)
    (folder / "main.py").write_text(MAIN)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("probed")]:
        del sys.modules[name]


def digest() -> str:
    """Hash the package as it now stands on disk."""
    for cached in (fingerprint._parsed, fingerprint._tree, fingerprint._imports):
        cached.cache_clear()
    return fingerprint.code_digest(ModuleType("probed.main"))


def test_follows_names_through_modules_and_leaves_the_rest(package: Path) -> None:
    digest()
    assert fingerprint.reachable("probed.main", ["advance"]) == [
        ("probed.helper", "SHIFT"),
        ("probed.helper", "inner"),
        ("probed.helper", "used"),
        ("probed.main", "advance"),
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "moves"),
    [
        ("helper.py", "SHIFT = 1", "SHIFT = 2", True),
        ("helper.py", "x + SHIFT", "x - SHIFT", True),
        ("main.py", "return helper.used(x)", "return helper.used(-x)", True),
        ("main.py", "return helper.used(x)", "return renamed(x)", True),
        ("helper.py", "def inner(x):\n", 'def inner(x):\n    """Documented."""\n', False),
        ("helper.py", "x + SHIFT", "(x +  SHIFT)  # why", False),
        ("helper.py", "def unused(x):\n    return x", "def unused(x):\n    return -x", False),
        ("main.py", "helper.unused(x)", "helper.unused(-x)", False),
    ],
)
def test_moves_exactly_with_what_a_run_computes(
    package: Path, file: str, old: str, new: str, moves: bool
) -> None:
    before = digest()
    source = (package / file).read_text()
    assert old in source
    (package / file).write_text(source.replace(old, new))
    assert (digest() != before) is moves


def test_a_run_is_fresh_if_this_code_ran_it_or_any_reproduction(package: Path) -> None:
    main, code = ModuleType("probed.main"), digest()
    other = {"code": "other"}
    assert fingerprint.is_fresh({"code": code}, main)
    assert not fingerprint.is_fresh(other, main)
    assert fingerprint.is_fresh({**other, "reproduced": [{"code": code}, other]}, main)
    assert fingerprint.is_fresh({"code": code, "reproduced": [other]}, main)
    assert not fingerprint.is_fresh({**other, "reproduced": [other]}, main)


def test_the_experiment_reaches_its_optimizer_and_no_figure() -> None:
    reached = fingerprint.reachable(
        "plasticity.experiments.optimizer_instability", fingerprint.ROOTS
    )
    assert ("plasticity.optimizers", "TUNED_ADAM") in reached
    assert ("plasticity.networks", "MLP") in reached
    assert not {module for module, _ in reached} & {"plasticity.figures", *fingerprint.REPORTING}
