"""The book executes what is not up to date and nothing else, and never shows a stale page.

On a book of four small chapters, and a package of two modules, in a temporary folder.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plasticity import cli
from plasticity.runs import fingerprint

REPOSITORY = Path(__file__).parents[1]
EXTENSIONS = REPOSITORY / "book" / "_ext"

CONF = f"""
import sys

sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "up_to_date"]
html_theme = "basic"
exclude_patterns = ["_build"]
nb_execution_mode = "off"
nb_execution_timeout = 60
up_to_date_code = ["src"]
up_to_date_data = ["runs/*/run.json", "!runs/quick/*"]
up_to_date_also = {{"last": ["runs/quick/run.json"]}}
up_to_date_pages = ["conf.py"]
"""

PACKAGE = {
    "fake/__init__.py": "",
    "fake/words.py": '''
"""What the chapters say."""

from fake import numbers


def first():
    """Say something."""
    return f"first says {numbers.ONE}"


def second():
    """Say something else."""
    return f"second says {numbers.TWO}"
''',
    "fake/numbers.py": "ONE = 1\nTWO = 2\nUNUSED = 3\n",
}

LOG = """
from pathlib import Path

with Path("ran.txt").open("a") as log:
    print("{name}", file=log)
"""

TOGETHER = """
import time

Path("{name}.begun").touch()
until = time.monotonic() + 30
while not Path("{other}.begun").exists():
    assert time.monotonic() < until, "the other chapter waits for this one to end"
    time.sleep(0.01)
"""
"""Ends only if two chapters run at a time."""


def chapter(name: str, *sources: str, prose: str = "Prose.") -> str:
    """Return a notebook that says in ran.txt that it ran."""
    code: dict[str, Any] = {"cell_type": "code", "outputs": [], "execution_count": None}
    cells = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": f"# {name}\n"}]
    cells[0]["source"] += f"\n{prose}\n"
    for k, source in enumerate((LOG.format(name=name), *sources)):
        cells.append({**code, "id": f"cell-{k}", "metadata": {}, "source": source.strip()})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


SHOWN = "from fake import words\nprint(words.{name}())"
LITERAL = "\n```{literalinclude} src/fake/words.py\n:pyobject: first\n```\n"
QUICK = 'Path("runs/quick/run.json").write_text(words.second())'

FILES = {
    "conf.py": CONF,
    "index.md": "# A book\n\n```{toctree}\nfirst\nsecond\nthird\nlast\napi\n```\n",
    "api.md": "# API\n\n```{eval-rst}\n.. automodule:: fake.words\n   :members:\n```\n",
    "first.ipynb": chapter(
        "first", TOGETHER.format(name="first", other="second"), SHOWN.format(name="first"),
        prose=LITERAL,
    ),
    "second.ipynb": chapter(
        "second", TOGETHER.format(name="second", other="first"), SHOWN.format(name="second"), QUICK
    ),
    "third.ipynb": chapter("third"),
    "last.ipynb": chapter("last", 'print(Path("runs/quick/run.json").read_text())'),
    "runs/recorded/run.json": "recorded",
    "runs/quick/run.json": "",
    **{f"src/{name}": text for name, text in PACKAGE.items()},
}  # fmt: skip


EVERY = ["first", "last", "second", "third"]

BUILD = ["-W", "--keep-going", ".", "_build/html", "-d", "_build/.doctrees"]

BUILDER = """
import json, os, sys
import myst_nb.sphinx_ext, myst_parser.sphinx_ext.main, nbclient, sphinx.cmd.build
import sphinx.application, sphinx.builders.html, sphinx.ext.autodoc, sphinx.ext.viewcode

for line in sys.stdin:
    folder, arguments = json.loads(line)
    if process := os.fork():
        status = os.waitpid(process, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    os.chdir(folder)
    sys.path[:0] = [folder, os.path.join(folder, "src")]
    os.environ["PYTHONPATH"] = sys.path[1]
    printed = os.open("printed.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1), os.dup2(printed, 2)
    sys.exit(sphinx.cmd.build.main(arguments))
"""
"""Builds books, each in a process of its own that has imported what is not ours.

To import Sphinx and its extensions takes longer than to build a page.
"""


@pytest.fixture(scope="module")
def builder() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", BUILDER], env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield process
        process.stdin.close()  # type: ignore[union-attr]


INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("sphinx", run_name="__main__", alter_sys=True)
"""
"""Starts Sphinx so that Ctrl-C ends it.

Tests that a shell runs in the background are told to ignore Ctrl-C, and so is what they start.
"""


class Book:
    """A book in a folder."""

    def __init__(self, folder: Path, builder: subprocess.Popen[str] | None = None) -> None:
        self.folder, self.builder = folder, builder

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, encoding="utf-8")

    def edit(self, name: str, old: str, new: str, seconds_ago: float = 0.0) -> None:
        """Replace some text; the file says that this happened so many seconds ago."""
        text = (self.folder / name).read_text(encoding="utf-8")
        assert old in text
        self.write(name, text.replace(old, new))
        then = time.time() - seconds_ago
        os.utime(self.folder / name, (then, then))

    def start(self) -> subprocess.Popen[str]:
        """Begin to build as `make book` does."""
        return subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, *BUILD],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder / "src"), "NO_COLOR": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def build(self, fails: bool = False) -> str:
        """Build, and return what that printed."""
        assert self.builder and self.builder.stdin and self.builder.stdout
        print(json.dumps([str(self.folder), BUILD]), file=self.builder.stdin, flush=True)
        assert select.select([self.builder.stdout], [], [], 120)[0], "it takes too long"
        status = int(self.builder.stdout.readline())
        printed = (self.folder / "printed.txt").read_text(encoding="utf-8")
        assert (status != 0) is fails, printed
        return printed

    def executed(self, fails: bool = False) -> list[str]:
        """Build, and return the chapters that ran."""
        (self.folder / "ran.txt").write_text("")
        self.build(fails)
        return sorted((self.folder / "ran.txt").read_text().split())

    def page(self, name: str) -> str:
        return (self.folder / "_build" / "html" / f"{name}.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, builder: subprocess.Popen[str]) -> Book:
    """A book that was built once, from nothing."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two chapters at a time take two cores")
    book = Book(tmp_path_factory.mktemp("built") / "book", builder)
    for name, text in FILES.items():
        book.write(name, text)
    assert book.executed() == EVERY
    return book


@pytest.fixture
def book(built: Book) -> Iterator[Book]:
    """The built book, put back as it was when the test is over: Sphinx's notes hold its path."""
    kept = built.folder.with_name("kept")
    shutil.copytree(built.folder, kept)
    yield built
    shutil.rmtree(built.folder)
    kept.rename(built.folder)


def test_from_nothing_every_chapter_runs_and_two_at_a_time(built: Book) -> None:
    """The fixture has built it; one chapter at a time would have waited for the other in vain."""
    assert "first says 1" in built.page("first")
    assert "second says 2" in built.page("second")
    assert "second says 2" in built.page("last"), "it runs when the others are done"


def test_nothing_runs_and_no_page_is_read_if_nothing_has_changed(book: Book) -> None:
    book.write("ran.txt", "")
    assert "no targets are out of date" in book.build()
    assert (book.folder / "ran.txt").read_text() == ""


def test_an_edit_of_prose_or_of_a_caption_runs_nothing_and_shows(book: Book) -> None:
    notebook = json.loads((book.folder / "second.ipynb").read_text())
    notebook["cells"][0]["source"] = "# Another title\n\nNew prose.\n"
    notebook["cells"][1]["metadata"] = {"tags": ["hide-input"], "mystnb": {"text_lexer": "none"}}
    book.write("second.ipynb", json.dumps(notebook))
    assert book.executed() == []
    assert "New prose." in book.page("second") and "second says 2" in book.page("second")
    assert 'title="Another title"' in book.page("first"), "which links to it as the next page"


@pytest.mark.parametrize(
    ("name", "old", "new", "runs"),
    [
        ("src/fake/words.py", "first says", "first has", ["first"]),
        ("src/fake/numbers.py", "ONE = 1", "ONE = 11", ["first"]),
        ("src/fake/numbers.py", "TWO = 2", "TWO = 22", ["last", "second"]),  # through a quick run
        ("src/fake/numbers.py", "UNUSED = 3", "UNUSED = 33", []),
        ("second.ipynb", "print(words", "print( words", ["second"]),
        ("runs/recorded/run.json", "recorded", "recorded again", EVERY),
    ],
)
def test_an_edit_runs_what_it_reaches_and_nothing_else(
    book: Book, name: str, old: str, new: str, runs: list[str]
) -> None:
    """Also if the file seems to be as old as before, such as one that is put back."""
    book.edit(name, old, new, seconds_ago=1e6)
    assert book.executed() == runs


def test_a_page_is_not_stale_if_a_file_that_it_shows_seems_old(book: Book) -> None:
    """A function that is included, a docstring, and the source that is linked to."""
    book.edit("src/fake/words.py", '"""Say something."""', '"""Say so."""', seconds_ago=1e6)
    assert book.executed() == []
    for page in ("first", "api", "_modules/fake/words"):
        assert "Say so." in book.page(page), page
        assert "Say something." not in book.page(page), page


def test_what_all_pages_depend_on_builds_them_anew(book: Book) -> None:
    book.write("_build/html/gone.html", "the page of a chapter that is no more")
    book.edit("conf.py", "sys.path", "sys . path", seconds_ago=1e6)
    assert "6 added" in book.build()
    assert not (book.folder / "_build" / "html" / "gone.html").exists()
    assert book.executed() == []


def test_a_failing_cell_fails_the_build_until_it_is_mended(book: Book) -> None:
    """The others run all the same, also those that have not begun, and need not run again."""
    book.edit("second.ipynb", "print(words", "print(1 / 0, words")
    book.edit("first.ipynb", "print(words", "time.sleep(1); print(words")
    book.edit("runs/recorded/run.json", "recorded", "recorded again")
    book.write("ran.txt", "")
    printed = book.build(fails=True)
    assert "second.ipynb, cell 4: CellExecutionError" in printed
    assert "print(1 / 0, words.second())" in printed and "ZeroDivisionError" in printed
    assert "Executing chapters failed:\nsecond (cells" in printed
    assert sorted((book.folder / "ran.txt").read_text().split()) == ["first", "second", "third"]
    assert book.executed(fails=True) == ["second"]
    book.edit("second.ipynb", "print(1 / 0, words", "print(words")
    assert book.executed() == ["last", "second"]


def test_a_warning_fails_every_build_until_it_is_mended(book: Book) -> None:
    """Sphinx warns when it reads a page, and would not read this one a second time."""
    book.edit("api.md", "# API", "# API\n\n{doc}`nowhere`")
    for _ in range(2):
        assert "nowhere" in book.build(fails=True)
    book.edit("api.md", "{doc}`nowhere`", "")
    book.build()


@pytest.mark.parametrize("damage", [("first says 1", "first says 9"), ('{"', "{")])
def test_a_damaged_record_is_made_anew(book: Book, damage: tuple[str, str]) -> None:
    book.edit("_build/executed/first.json", *damage)
    assert book.executed() == ["first"]
    assert "first says 1" in book.page("first")


def test_a_removed_build_folder_forgets_everything(book: Book) -> None:
    shutil.rmtree(book.folder / "_build")
    assert book.executed() == EVERY


def test_ctrl_c_stops_the_kernels(book: Book) -> None:
    note = "import os, time\nPath('kernel').write_text(f'{os.getpid()} ')\ntime.sleep(60)"
    book.write("first.ipynb", chapter("first", note))
    process, kernel = book.start(), book.folder / "kernel"
    wait_until(lambda: kernel.exists() and kernel.read_text().endswith(" "))
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode != 0, printed
    with pytest.raises(ProcessLookupError):
        os.kill(int(kernel.read_text()), 0)
    (book.folder / "_build" / "executed" / "first.json").read_text()


REACHED = {
    "fake/__init__.py": "",
    "fake/pool.py": """
WORK = "fake.worker:work"

def run():
    return start(WORK)
""",
    "fake/worker.py": """
def work():
    return 1

def rest():
    return 1
""",
    "fake/find.py": """
def find(name):
    return import_module(f"fake.parts.{name}").EXPERIMENT
""",
    "fake/parts/__init__.py": "",
    "fake/parts/one.py": "EXPERIMENT = 1",
    "fake/kinds.py": """
class Small:
    width: int = 8

class Config:
    network: Small = None

class Unused:
    width: int = 8
""",
    "fake/loud.py": """
from fake import style

style.set_up()

def draw():
    return 1
""",
    "fake/style.py": """
def set_up(*arguments):
    "Documented at plasticity.one.f."
    return 1, "defined at plasticity.one.f"
""",
    "fake/printed.csv": "1",
    "other.py": """
def f():
    return 1
""",
}
"""A package, and a module beside it."""


CASES = [
    # What a string names, for another process or for an import.
    ("from fake import pool\npool.run()", "fake/worker.py", "1", "2", True),
    ("from fake import pool\npool.run()", "fake/worker.py", "rest():\n    ", "rest(): ", False),
    ("from fake import find\nfind.find('one')", "fake/parts/one.py", "1", "2", True),
    ("from fake import find\nfind.find('one')", "fake/worker.py", "1", "2", False),
    # The kinds of settings that a field declares.
    ("from fake import kinds\nkinds.Config()", "fake/kinds.py", "int = 8", "int = 9", True),
    ("from fake import kinds\nkinds.Config()", "fake/kinds.py", ": int", ": float", True),
    ("from fake import kinds\nkinds.Small()", "fake/kinds.py", "None", "0", False),
    # What a module does when it is imported.
    ("from fake.loud import draw\ndraw()", "fake/style.py", "1", "2", True),
    ("from fake.loud import draw\ndraw()", "fake/loud.py", "up()", "up(1)", True),
    ("from fake.style import set_up\nset_up()", "fake/loud.py", "1", "2", False),
    # Names of modules in what a page says, which make no difference to a run.
    ("from fake.style import set_up\nset_up()", "fake/style.py", 'y.one.f"', 'y.two.f"', True),
    ("from fake.style import set_up\nset_up()", "fake/style.py", "y.one.f.", "y.two.f.", False),
    # Files beside the code, and code in another folder or module.
    ("from fake.style import set_up\nset_up()", "fake/printed.csv", "1", "2", True),
    ("from fake.style import set_up\nset_up()", "other.py", "1", "2", False),
    ("import other\nother.f()", "other.py", "1", "2", True),
    # Commands, which may run anything.
    ("!fake run", "other.py", "1", "2", True),
    ("%run other.py", "fake/worker.py", "1", "2", True),
    ("import subprocess", "fake/worker.py", "1", "2", True),
]
"""The code of a cell, an edit of a file, and whether the cell reaches it."""

DIGESTS = """
import json, os, sys
from pathlib import Path
from up_to_date.reach import Reach

for folder, cell in json.load(sys.stdin):
    if process := os.fork():  # each has seen no older code
        assert os.waitpid(process, 0)[1] == 0
    else:
        print(Reach([Path(folder)]).of([cell]), flush=True)
        os._exit(0)
"""


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The digest of what the cell of each case reaches, before any edit, then after its own."""
    folders = [tmp_path_factory.mktemp("reached") for _ in range(len(CASES) + 1)]
    for folder in folders:
        for name, text in REACHED.items():
            Book(folder).write(name, text)
    for folder, (_, file, old, new, _) in zip(folders[1:], CASES, strict=True):
        Book(folder).edit(file, old, new)
    wanted = [(str(folders[0]), case[0]) for case in CASES]
    wanted += [(str(folder), case[0]) for folder, case in zip(folders[1:], CASES, strict=True)]
    done = subprocess.run(
        [sys.executable, "-c", DIGESTS],
        env={**os.environ, "PYTHONPATH": str(EXTENSIONS), "PYTHONDONTWRITEBYTECODE": "1"},
        input=json.dumps(wanted), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}-{case[2]}")
def test_what_cells_reach(case: tuple[str, str, str, str, bool], digests: list[str]) -> None:
    """The digest says nothing of the folder that the code lies in."""
    before, after = digests[: len(CASES)], digests[len(CASES) :]
    assert len(before) == len(after) == len(CASES)
    index = CASES.index(case)
    assert (after[index] != before[index]) is case[4]


@pytest.fixture(scope="module")
def reached() -> dict[str, set[tuple[str, str]]]:
    """Chapter of our own book → every definition that it reaches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXTENSIONS)
        reach: Any = importlib.import_module("up_to_date.reach")
        found = reach.Reach([REPOSITORY / "src", REPOSITORY / "benchmarks"])
        return {
            path.stem: set(found.definitions(cells(path)).definitions)
            for path in sorted((REPOSITORY / "book").glob("*.ipynb"))
        }


def cells(path: Path) -> list[str]:
    """Return the code of a notebook's cells."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


Reached = dict[str, set[tuple[str, str]]]


def test_chapters_reach_what_stores_and_judges_a_run(reached: Reached) -> None:
    """Which cannot change a number, and can change a page."""
    modules = {name: {module for module, _ in found} for name, found in reached.items()}
    for name in cli.experiment_names():
        assert fingerprint.REPORTING - {"plasticity.chapters.claims"} <= modules[name], name
    assert "plasticity.chapters.claims" in modules["ledger"] & modules["scaling"]


def test_chapters_that_run_an_experiment_reach_its_workers(reached: Reached) -> None:
    for name in cli.experiment_names():
        assert ("plasticity.runs.worker", "work") in reached[name], name
        assert ("plasticity.runs.child", "main") in reached[name], name
    assert ("plasticity.runs.worker", "work") not in reached["probe_your_own"]


def test_pages_about_all_experiments_reach_all_of_them(reached: Reached) -> None:
    for page in ("index", "ledger", "status"):
        for name in cli.experiment_names():
            assert (f"plasticity.chapters.{name}", "EXPERIMENT") in reached[page]
            assert (f"plasticity.chapters.{name}.judge", "CLAIMS") in reached[page]
    drawing = {module for module, _ in reached["ledger"] if module.endswith((".figures", ".words"))}
    assert drawing == set(), "what only its chapter draws and says is no part of the ledger"


def test_chapters_do_not_reach_each_other(reached: Reached) -> None:
    for name in cli.experiment_names():
        found = {module.split(".")[2] for module, _ in reached[name] if module.count(".") > 2}
        assert found & {*cli.experiment_names()} == {name}


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something that takes some seconds."""
    until = time.monotonic() + 30
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)
