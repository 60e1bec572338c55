"""Every public function has an example in its docstring, and the example prints what it says."""

from __future__ import annotations

import ast
import doctest
import inspect
from pathlib import Path

import pytest

import plasticity

PACKAGE = Path(plasticity.__file__).parent
ROOMS = ("", "measure", "networks", "cures", "agents", "worlds")
"""The folders whose functions a reader may call; the first is the ground floor."""

EXEMPT = {
    "cli": "commands, which README shows and tests/test_cli.py types",
}
"""Modules whose functions need no example, and why."""

NEEDS = {"agents.atari_task": "ale_py", "worlds.gymnasium_api": "gymnasium"}
"""What examples of these modules need beside the package's own dependencies."""

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for room in ROOMS
    for path in sorted((PACKAGE / room).glob("*.py"))
    if path.stem not in EXEMPT
}
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def examples(path: Path) -> list[doctest.DocTest]:
    """Return what the docstrings of a file show, each to be run by itself.

    Read from the file: the tests' import hook wraps functions, which hides them from
    `doctest.DocTestFinder`. An example has only the names that it imports, as for who copies it.
    """
    parser, found = doctest.DocTestParser(), []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            name = getattr(node, "name", path.stem)
            line = node.body[0].lineno - 1
            found.append(parser.get_doctest(text, {"__name__": "__main__"}, name, str(path), line))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if examples(path)])
def test_examples_print_what_they_say(module: str) -> None:
    if module in NEEDS:
        pytest.importorskip(NEEDS[module], reason=f"examples of {module} need {NEEDS[module]}")
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in examples(MODULES[module]):
        runner.run(test, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_function_has_an_example(module: str) -> None:
    path = MODULES[module]
    missing = [
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if ">>> " not in (ast.get_docstring(node) or "")
    ]
    assert not missing, f"{path}: no `>>>` in the docstring of {', '.join(missing)}"


@pytest.mark.parametrize("name", plasticity.__all__)
def test_every_name_of_the_public_api_has_an_example(name: str) -> None:
    member = getattr(plasticity, name)
    if inspect.ismodule(member):
        paths = Path(inspect.getfile(member)).parent.glob("*.py")
        assert any(examples(path) for path in paths), f"no `>>>` in any module of {name}"
    else:
        assert ">>>" in inspect.getdoc(member), f"no `>>>` in the docstring of {name}"
