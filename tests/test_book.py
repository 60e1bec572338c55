"""The structure that DESIGN promises: one name in four places, short cells, imports one way."""

from __future__ import annotations

import ast
import graphlib
import importlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from PIL import Image

from plasticity import cli
from plasticity.chapters import claims
from plasticity.runs import results

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src" / "plasticity"
NOTEBOOKS = sorted((REPOSITORY / "book").glob("*.ipynb"))
CHAPTERS = [REPOSITORY / "book" / f"{name}.ipynb" for name in cli.experiment_names()]

ROOMS = (
    (  # the ground floor
        "shapes", "devices", "jax_settings", "programs", "lanes", "jaxprs", "statistics", "power",
        "errors", "configuration", "cure", "learner",
    ),
    ("worlds",), ("networks",), ("runs",), ("measure",), ("cures",), ("agents",), ("chapters",),
    ("commands",), ("cli", "__main__"),
)  # fmt: skip
"""From the ground up: a module may import those of its own room and of lower ones."""

MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}
"""Each module of the package by its full name."""

MOST_LINES = {"module": 400, "function": 60}


def code_cells(path: Path) -> list[dict[str, Any]]:
    """Return a notebook's code cells."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def tags(cell: dict[str, Any]) -> list[str]:
    """Return a cell's tags."""
    found: list[str] = cell["metadata"].get("tags", [])
    return found


class Import(NamedTuple):
    """Where a module imports another, ours or not."""

    source: str
    target: str
    line: int
    later: str  # the function that imports it when called, or that only a type checker does

    def __str__(self) -> str:
        """Write it as a place and what is imported there."""
        where = f", in {self.later}" if self.later else ""
        return f"{shown(self.source)}:{self.line} imports {self.target}{where}"


def shown(module: str) -> Path:
    """Return where a module of ours lies in the checkout."""
    return MODULES[module].relative_to(REPOSITORY)


def parsed(module: str) -> ast.Module:
    """Return a module's syntax tree."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[Import]:
    """Yield every import of a module, wherever in it."""

    def inside(node: ast.AST, later: str) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, alias.name, child.lineno, later)
            elif isinstance(child, ast.ImportFrom):
                for name in members(module, child):
                    yield Import(module, name, child.lineno, later)
            own = ""
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                own = f"{child.name}()"
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                own = "TYPE_CHECKING"
            yield from inside(child, later or own)

    yield from inside(parsed(module), "")


def members(module: str, node: ast.ImportFrom) -> Iterator[str]:
    """Yield what ``from ... import`` imports: modules, or the one that has the names."""
    parts = module.split(".")
    is_package = MODULES[module].name == "__init__.py"
    above = parts[: len(parts) - node.level + is_package] if node.level else []
    base = ".".join([*above, *filter(None, [node.module])])
    for alias in node.names:
        yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


IMPORTS = [found for module in sorted(MODULES) for found in imports(module)]
OURS = [found for found in IMPORTS if found.target.partition(".")[0] == "plasticity"]


def rank(module: str) -> int:
    """Return which room from the ground up a module is in; the package itself is above all."""
    room = module.split(".")[1:2]
    return next((k for k, rooms in enumerate(ROOMS) if set(room) & set(rooms)), len(ROOMS))


def packages(module: str) -> set[str]:
    """Return the packages that a module is in: its import runs their ``__init__`` first."""
    parts = module.split(".")
    return {".".join(parts[:k]) for k in range(1, len(parts))}


def needs(found: Iterable[Import]) -> dict[str, dict[str, Import]]:
    """Return, for each module, the modules that its imports run, and the import that does."""
    needed: dict[str, dict[str, Import]] = {module: {} for module in MODULES}
    for one in found:
        run = {one.target} | packages(one.target) - packages(one.source) - {one.source}
        for target in run & MODULES.keys():
            needed[one.source].setdefault(target, one)
    return needed


def circle(found: Iterable[Import]) -> list[str]:
    """Return the imports of a circle of modules; nothing if there is none."""
    needed = needs(found)
    try:
        graphlib.TopologicalSorter(needed).prepare()
    except graphlib.CycleError as error:
        around: list[str] = error.args[1][::-1]
        return [str(needed[a][b]) for a, b in itertools.pairwise(around)]
    return []


def reached(module: str) -> set[str]:
    """Return every module that a module imports, now or later, directly or through others."""
    needed, seen, waiting = needs(OURS), set[str](), [module]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += needed[one]
    return seen


def importers(package: str) -> set[str]:
    """Return the modules of ours that import another package, as paths below ours."""
    found = {one.source for one in IMPORTS if one.target.partition(".")[0] == package}
    return {MODULES[module].relative_to(SOURCE).as_posix() for module in found}


@pytest.mark.parametrize("name", cli.experiment_names())
def test_an_experiment_has_its_four_places(name: str) -> None:
    parts = {path.stem for path in (SOURCE / "chapters" / name).glob("*.py")}
    assert {"__init__", "run", "judge", "figures", "words"} <= parts
    assert (REPOSITORY / "book" / f"{name}.ipynb").is_file()
    contents = yaml.safe_load((REPOSITORY / "_toc.yml").read_text(encoding="utf-8"))
    listed = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    assert f"book/{name}" in listed
    assert (REPOSITORY / "tests" / "chapters" / f"test_{name}.py").is_file()
    assert results.best(name).study in ("laptop", "night", "gpu", "paper")
    assert {"quick", "laptop", "gpu", "paper"} <= set(cli.experiment(name).studies)


def test_every_claim_of_the_ledger_is_judged_by_the_experiment_that_it_names() -> None:
    owners = {name: set(experiment.claims) for name, experiment in cli.all_experiments().items()}
    for claim in claims.LEDGER.values():
        assert [name for name in owners if claim.id in owners[name]] == [claim.experiment], claim.id
    assert set().union(*owners.values()) == set(claims.LEDGER)


@pytest.mark.parametrize("name", cli.experiment_names())
def test_a_judge_judges_the_claim_that_it_stands_for(name: str) -> None:
    run = results.best(name)
    for claim, judge in cli.experiment(name).claims.items():
        assert {verdict.claim.id for verdict in judge(run)} <= {claim}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short_and_define_nothing(path: Path) -> None:
    """But for those in which readers write a network or a loss of their own."""
    for cell in code_cells(path):
        source = "".join(cell["source"])
        lines = [line for line in source.splitlines() if line.strip()]
        assert len(lines) <= 12, source
        kinds = (ast.FunctionDef, ast.ClassDef, ast.Lambda)
        if not path.stem.endswith("_of_your_own") and path.stem != "probe_your_own":
            assert not any(isinstance(node, kinds) for node in ast.walk(ast.parse(source))), source
        assert "plt" not in source and "matplotlib" not in source, source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_that_a_reader_could_paste_is_in_a_cell_that_runs(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    for cell in document["cells"]:
        if cell["cell_type"] == "markdown":
            assert "```python" not in "".join(cell["source"]), "".join(cell["source"])


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


def test_every_module_is_in_a_room() -> None:
    assert [str(shown(module)) for module in MODULES if rank(module) == len(ROOMS)] == [
        "src/plasticity/__init__.py"
    ]


def test_imports_run_down_the_rooms() -> None:
    assert [str(one) for one in OURS if rank(one.target) > rank(one.source)] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(one for one in OURS if not one.later) == []


def test_no_function_closes_a_circle_by_what_it_imports_when_called() -> None:
    assert circle(OURS) == []


def test_a_circle_is_found_and_named() -> None:
    """Also one that goes through what a package imports when a module in it is imported."""

    def one(source: str, target: str, later: str = "") -> Import:
        return Import(f"plasticity.{source}", f"plasticity.{target}", 1, later)

    chain = [one("shapes", "devices"), one("devices", "statistics", "map_lanes()")]
    assert circle(chain) == []
    assert sorted(circle([*chain, one("statistics", "shapes")])) == [
        "src/plasticity/devices.py:1 imports plasticity.statistics, in map_lanes()",
        "src/plasticity/shapes.py:1 imports plasticity.devices",
        "src/plasticity/statistics.py:1 imports plasticity.shapes",
    ]
    through = [one("devices", "chapters.scaling.run"), one("chapters.scaling", "devices")]
    assert len(circle(through)) == 2


def test_importing_the_package_itself_imports_nothing_more() -> None:
    """What it offers it looks up when it is used."""
    code = "import sys, plasticity; print(*(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split().count("plasticity") == 1
    assert "jax" not in done.stdout.split()


@pytest.mark.parametrize(
    ("package", "only"),
    [
        ("matplotlib", ("chapters/style.py", "chapters/*/figures.py", "chapters/*/heatmaps.py")),
        ("ale_py", ("worlds/atari.py",)),
        ("pickle", ()),
    ],
)
def test_some_packages_are_imported_in_one_place(package: str, only: tuple[str, ...]) -> None:
    found = importers(package)
    assert bool(found) is bool(only)
    assert [path for path in found if not any(Path(path).match(one) for one in only)] == []


@pytest.mark.parametrize("name", ["cli", *(f"chapters.{x}" for x in cli.experiment_names())])
def test_what_runs_and_judges_knows_no_figures(name: str) -> None:
    """Not through others either: nodes that compute have no matplotlib."""
    drawing = importers("matplotlib")
    found = {MODULES[m].relative_to(SOURCE).as_posix() for m in reached(f"plasticity.{name}")}
    assert len(found) > 10
    assert sorted(found & drawing) == []


def test_modules_are_short() -> None:
    lines = {m: len(path.read_text("utf-8").splitlines()) for m, path in MODULES.items()}
    assert {str(shown(m)): n for m, n in lines.items() if n > MOST_LINES["module"]} == {}


def test_functions_are_short() -> None:
    """Docstrings are not counted."""
    long = {
        f"{shown(module)}:{node.lineno} {node.name}": length(node)
        for module in MODULES
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and length(node) > MOST_LINES["function"]
    }
    assert long == {}


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function but for its docstring and those inside of it."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    documented = [n for n in ast.walk(function) if isinstance(n, kinds) and ast.get_docstring(n)]
    docstrings = sum(lines(node.body[0]) for node in documented)
    return lines(function) - docstrings


def lines(node: ast.stmt) -> int:
    """Return how many lines a statement has."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_the_length_of_a_function_is_counted_by_hand() -> None:
    text = 'def f(x):\n    """Two\n    lines."""\n    def g():\n        "One."\n        return x\n'
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef)
    assert length(function) == 6 - 2 - 1


PACKAGES = [module for module, path in MODULES.items() if path.name == "__init__.py"]


@pytest.mark.parametrize("module", sorted({*PACKAGES} - {"plasticity"}))
def test_a_room_passes_no_names_on(module: str) -> None:
    """What its ``__init__`` imports it uses, and what it makes is a chapter's experiment."""
    tree = parsed(module)
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                continue
            bound = {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            assert bound <= used, f"{shown(module)}:{node.lineno}"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            made = {ast.unparse(target) for target in targets}
            assert made == {"EXPERIMENT"}, f"{shown(module)}:{node.lineno}"
            assert isinstance(node.value, ast.Call), f"{shown(module)}:{node.lineno}"


def test_shapes_are_checked_in_the_rooms_that_compute() -> None:
    """conftest.py looks for their modules, and says which it leaves out and why."""
    rooms = ("networks", "measure", "cures", "agents")
    modules = [m for m in MODULES if m.split(".")[1:2] in [[room] for room in rooms]]
    modules += [m for m in MODULES if m.startswith("plasticity.chapters.") and m.endswith(".run")]
    modules += ["plasticity.worlds.classification_mdp", "plasticity.worlds.image_sets"]
    for module in modules:
        if MODULES[module].stem not in ("__init__", "mdp_agent", "atari_agent", "settings"):
            loader = importlib.import_module(module).__loader__
            assert type(loader).__module__.startswith("jaxtyping"), module


def test_the_readme_shows_the_best_run() -> None:
    """If this fails after a new run: `make figure`."""
    with Image.open(REPOSITORY / "book" / "_static" / "home.png") as image:
        found = image.info["Source"]
    assert found == results.best("optimizer_instability").provenance["sha256"]["results.csv"]
