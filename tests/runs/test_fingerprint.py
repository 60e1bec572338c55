"""The hash of the code moves with what a run computes; names and places do not count."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from plasticity import cli
from plasticity.runs import fingerprint
from plasticity.runs.experiment import Experiment

HELPER = """
def used(x):
    found = inner(x)
    return found

def inner(x):
    return clamp(x) + SHIFT

def clamp(x):
    return max(x, 0)

SHIFT = 1

def unused(x):
    return x
"""
MAIN = """
from probed import helper
from probed.helper import used as renamed

class Config:
    unused: bool = False

def advance(x):
    return helper.used(x)

def judge(x):
    return helper.unused(x)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of two modules, of which the main one has two roots and a judge."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files change within a second
    write(tmp_path / "probed", {"__init__": "", "helper": HELPER, "main": MAIN})
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "probed"
    forget()


def write(folder: Path, modules: Mapping[str, str]) -> None:
    """Write a package, ``a/b`` for a module in a folder of its own."""
    for name, text in modules.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(text)


def forget() -> None:
    """Forget the package, whose files change between two looks."""
    for name in [name for name in sys.modules if name.startswith("probed")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    for cached in (
        fingerprint.source, fingerprint.statements, fingerprint._imports, fingerprint._is_module
    ):  # fmt: skip
        cached.cache_clear()


PARTS = (
    "Config", "arms", "load", "shapes", "start", "advance", "chunks", "flops", "summarize"
)  # fmt: skip


def experiment(module: str) -> Experiment:
    """Return an experiment of those parts that a module has."""
    found: Any = importlib.import_module(module)
    parts: dict[str, Any] = {name: getattr(found, name, None) for name in PARTS}
    return Experiment(module, studies={}, **parts)


def digest(module: str = "probed.main") -> str:
    """Hash the package as it now stands on disk."""
    forget()
    return fingerprint.code_digest(experiment(module))


def test_follows_names_through_modules_and_leaves_the_rest(package: Path) -> None:
    forget()
    reached = fingerprint.reachable([fingerprint.Definition("probed.main", "advance")])
    assert reached == [
        ("probed.helper", "SHIFT"),
        ("probed.helper", "clamp"),
        ("probed.helper", "inner"),
        ("probed.helper", "used"),
        ("probed.main", "advance"),
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "moves"),
    [
        ("helper", "SHIFT = 1", "SHIFT = 2", True),
        ("helper", "+ SHIFT", "- SHIFT", True),
        ("helper", "clamp(x) +", "x +", True),
        ("main", "return helper.used(x)", "return helper.used(-x)", True),
        ("main", "unused: bool = False", "unused: bool = True", True),
        ("helper", "def inner(x):", "def inner(x, sign=1):", True),
        # What a run does not depend on.
        ("main", "return helper.used(x)", "return renamed(x)", False),
        ("helper", "def inner(x):\n", 'def inner(x):\n    """Documented."""\n', False),
        ("helper", "clamp(x) + SHIFT", "(clamp(x) +  SHIFT)  # why", False),
        ("helper", "def unused(x):\n    return x", "def unused(x):\n    return -x", False),
        ("main", "helper.unused(x)", "helper.unused(-x)", False),
        ("helper", "def inner(x):", "def inner(x: float) -> float:", False),
        ("main", "unused: bool", "unused: int", False),
        ("helper", "SHIFT = 1", "SHIFT: int = 1", False),
        # Names.
        ("helper", "SHIFT", "OFFSET", False),
        ("helper", "inner", "middle", False),
        ("helper", "found", "answer", False),
        # A field is not the function of its name.
        ("helper", "def unused(x):", "def unused(x, y):", False),
    ],
)
def test_moves_exactly_with_what_a_run_computes(
    package: Path, file: str, old: str, new: str, moves: bool
) -> None:
    before = digest()
    source = (package / f"{file}.py").read_text()
    assert old in source
    (package / f"{file}.py").write_text(source.replace(old, new))
    assert (digest() != before) is moves


IMPORTS = {
    "a re-exporting __init__": {
        "__init__": "",
        "room/__init__": "from probed.room.helper import used",
        "room/helper": HELPER,
        "main": "from probed import room\ndef advance(x):\n    return room.used(x)",
    },
    "a re-exported name": {
        "__init__": "",
        "room/__init__": "from probed.room.helper import used as exported",
        "room/helper": HELPER,
        "main": "from probed.room import exported\ndef advance(x):\n    return exported(x)",
    },
    "a star": {
        "__init__": "",
        "room/__init__": "from probed.room.helper import *",
        "room/helper": HELPER,
        "main": "from probed.room import used\ndef advance(x):\n    return used(x)",
    },
    "relative imports": {
        "__init__": "",
        "room/__init__": "",
        "room/helper": HELPER,
        "main": "from .room import helper\ndef advance(x):\n    return helper.used(x)",
    },
    "a relative import inside of a folder": {
        "__init__": "",
        "helper": HELPER,
        "room/__init__": "from ..helper import used",
        "main": "from .room import used\ndef advance(x):\n    return used(x)",
    },
    "a chain of attributes": {
        "__init__": "",
        "room/__init__": "",
        "room/helper": HELPER,
        "main": "import probed.room.helper\ndef advance(x):\n    return probed.room.helper.used(x)",
    },
    "an import inside of a function": {
        "__init__": "",
        "room/__init__": "",
        "room/helper": HELPER,
        "main": "def advance(x):\n    from probed.room import helper\n    return helper.used(x)",
    },
    "an import in a block": {
        "__init__": "",
        "room/__init__": "",
        "room/helper": HELPER,
        "main": "try:\n    from probed.room import helper\nexcept ImportError:\n    helper = None\n"
        "def advance(x):\n    return helper.used(x)",
    },
}


@pytest.mark.parametrize("form", IMPORTS)
def test_sees_a_dropped_clamp_three_calls_down_through_every_form_of_import(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write(tmp_path / "probed", IMPORTS[form])
    before = digest()
    (helper,) = (tmp_path / "probed").rglob("helper.py")
    helper.write_text(HELPER.replace("max(x, 0)", "x"))
    assert digest() != before
    helper.write_text(
        HELPER.replace("def unused(x):\n    return x", "def unused(x):\n    return 1")
    )
    assert digest() == before
    forget()


MOVED = {
    "__init__": "",
    "ground/__init__": "",
    "ground/numbers": "SHIFT = 1\ndef clamp(x):\n    return max(x, 0)",
    "room/__init__": "",
    "room/upper": "from probed.ground import numbers\n"
    "def used(x):\n    found = inner(x)\n    return found\n"
    "def inner(x):\n    return numbers.clamp(x) + numbers.SHIFT",
    "chapters/main": "from ..room.upper import used as first\n"
    "class Config:\n    unused: bool = False\n"
    "def advance(x):\n    return first(x)",
}
"""The package of the fixture in other modules, imported in other ways."""


def test_a_move_into_other_modules_changes_nothing(package: Path, tmp_path: Path) -> None:
    before = digest()
    write(package, MOVED)
    assert digest("probed.chapters.main") == before


def test_a_local_variable_is_not_the_definition_of_its_name(package: Path) -> None:
    write(package, {"main": "from probed.helper import inner\n"
                    "def clamp(x):\n    return 1\n"
                    "def advance(x):\n    return [clamp for clamp in range(x)]"})  # fmt: skip
    forget()
    reached = fingerprint.reachable([fingerprint.Definition("probed.main", "advance")])
    assert reached == [("probed.main", "advance")]


def test_swapping_two_local_variables_is_seen(package: Path) -> None:
    text = "def advance(x):\n    a, b = x, -x\n    return a - b"
    write(package, {"main": text})
    before = digest()
    write(package, {"main": text.replace("a - b", "b - a")})
    assert digest() != before


def test_the_parts_of_an_experiment_may_lie_in_other_modules(package: Path) -> None:
    before = digest()
    write(package, {"other": "from probed.main import Config, advance"})
    assert digest("probed.other") == before


PARTIAL = """
from functools import partial
from probed import helper

def measured(factor, x, shift=0):
    return factor * helper.used(x) + shift

advance = partial(measured, 2, shift=1)
"""


@pytest.mark.parametrize(
    ("file", "old", "new", "moves"),
    [
        ("main", "factor * helper", "factor + helper", True),
        ("main", "(measured, 2", "(measured, 3", True),
        ("main", "2, shift=1", "2, shift=2", True),
        ("main", "(measured, 2, shift=1)", "(measured, 2)", True),
        ("main", "(measured, 2,", "(measured, helper.inner,", True),
        ("helper", "max(x, 0)", "x", True),
        ("main", "measured", "renamed", False),
        ("helper", "def unused(x):\n    return x", "def unused(x):\n    return -x", False),
    ],
)
def test_a_partial_application_is_its_function_and_what_it_is_given(
    package: Path, file: str, old: str, new: str, moves: bool
) -> None:
    write(package, {"main": PARTIAL})
    before = digest()
    source = (package / f"{file}.py").read_text()
    assert old in source
    (package / f"{file}.py").write_text(source.replace(old, new))
    assert (digest() != before) is moves


def test_a_function_that_a_partial_application_is_given_is_followed(package: Path) -> None:
    text = PARTIAL.replace("(measured, 2,", "(measured, helper.inner,")
    write(package, {"main": text})
    before = digest()
    write(package, {"helper": HELPER.replace("max(x, 0)", "x")})
    assert digest() != before


def reached(name: str) -> list[fingerprint.Definition]:
    """Return what an experiment of ours reaches."""
    found = cli.experiment(name)
    roots = [fingerprint._defined(getattr(found, part))[0] for part in fingerprint.ROOTS]
    return fingerprint.reachable(definition for part in roots for definition in part)


def test_the_experiment_reaches_its_optimizer_and_its_network() -> None:
    found = reached("optimizer_instability")
    assert ("plasticity.agents.optimizers", "TUNED_ADAM") in found
    assert ("plasticity.networks.architectures", "MLP") in found


@pytest.mark.parametrize("name", cli.experiment_names())
def test_no_number_hangs_on_what_draws_judges_or_speaks_of_it(name: str) -> None:
    modules = {module for module, _ in reached(name)}
    assert f"plasticity.chapters.{name}.run" in modules
    assert not modules & fingerprint.REPORTING
    reporting = {"figures", "heatmaps", "judge", "words", "style", "report", "printed", "claims"}
    assert not {module for module in modules if module.rpartition(".")[2] in reporting}
