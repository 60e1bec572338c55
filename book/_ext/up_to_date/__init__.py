"""Execute the chapters that are not up to date, and show every chapter with its outputs.

Before Sphinx reads any page, this compares all that each chapter is made from (`inputs`) with what
it was made from when it was last executed (`store`), and executes those that differ, as many at a
time as there are cores (`kernels`). MyST-NB then reads notebooks that have their outputs already
(``execute_notebooks: off``). Its own mode ``cache`` sees a chapter's cells but no code or data
behind them, executes one chapter at a time, and starts anew after an edit of a caption.

Settings, under ``sphinx: config:`` in _config.yml; see `inputs.Inputs`:

- ``up_to_date_code``, ``up_to_date_data``: what any chapter may import, and read.
- ``up_to_date_also``: page → what it reads besides. These are executed when all others are done.
- ``up_to_date_pages``: patterns of files on which the look of all pages depends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ConfigError, SphinxError
from sphinx.util import logging

from up_to_date import kernels
from up_to_date.inputs import Inputs, code_cells, executed_part
from up_to_date.pages import Pages
from up_to_date.store import Executed, Store

logger = logging.getLogger(__name__)


class ChaptersFailed(SphinxError):
    """A chapter did not run to its end."""

    category = "Executing chapters failed"


class Book:
    """One build of the book."""

    def __init__(self, app: Sphinx) -> None:
        """Take Sphinx's application; it is not configured yet."""
        self.app = app
        self.executed: dict[str, Executed] = {}

    def begin(self, app: Sphinx, config: Any) -> None:
        """Look whether what the last build left can be used."""
        if config.nb_execution_mode != "off":
            raise ConfigError("execute_notebooks must be off: up_to_date executes the chapters")
        for folder in config.up_to_date_code:
            if not (Path(app.srcdir) / folder).is_dir():
                raise ConfigError(f"up_to_date_code: there is no folder {folder}")
        self.store = Store(Path(app.outdir).parent / "executed")
        self.pages = Pages(app)
        self.pages.begin()

    def bring_up_to_date(self, app: Sphinx, env: BuildEnvironment, *docs: set[str]) -> list[str]:
        """Execute the chapters that are not up to date; return the pages to be read again."""
        config = app.config
        code, data, also = config.up_to_date_code, config.up_to_date_data, config.up_to_date_also
        if missing := also.keys() - env.found_docs:
            raise ConfigError(f"up_to_date_also: there is no page {', '.join(sorted(missing))}")
        inputs = Inputs(Path(app.srcdir), code, data, also)
        chapters = [page for page in sorted(env.found_docs) if _is_chapter(env, page)]
        logger.info("")  # Sphinx has begun a line
        for last in (False, True):
            self._execute(inputs, [page for page in chapters if (page in also) is last])
        self.code = inputs.reach.everything()
        return self.pages.changed(env, self._outputs())

    def _execute(self, made_from: Inputs, chapters: list[str]) -> None:
        """Execute those of some chapters that are not up to date, the longest first."""
        stale: dict[str, Executed] = {}
        for page in chapters:
            notebook = _read(Path(self.app.env.doc2path(page)).read_text(encoding="utf-8"))
            kept, inputs = self.store.read(page), _inputs(made_from, page, notebook)
            if kept is not None and kept.inputs == inputs:
                self.executed[page] = kept
            else:
                logger.info("%s: %s", page, _why(kept, inputs))
                seconds = kept.seconds if kept else _guess(notebook)
                stale[page] = Executed(notebook, inputs, seconds)
        if failures := self._run(stale):
            raise ChaptersFailed(f"{', '.join(failures)} (cells and tracebacks stand above)")

    def _run(self, stale: dict[str, Executed]) -> list[str]:
        """Run chapters, of which only the outputs are to be filled in; return those that failed."""
        failures: list[str] = []

        def done(page: str, took: float) -> None:
            self.executed[page] = stale[page]._replace(seconds=took)
            self.store.write(page, self.executed[page])
            logger.info("%s: executed in %.0f s", page, took)

        def failed(page: str, why: str) -> None:
            failures.append(page)
            logger.info("%s: failed\n%s", page, why)

        longest_first = sorted(stale, key=lambda page: stale[page].seconds, reverse=True)
        path = self.app.env.doc2path
        kernels.execute(
            {page: kernels.Work(Path(path(page)), stale[page].notebook) for page in longest_first},
            self.app.config.nb_execution_timeout,
            begun=lambda page: logger.info("%s: executing", page),
            done=done,
            failed=failed,
        )
        return failures

    def _outputs(self) -> dict[str, str]:
        return {page: executed.sha256 for page, executed in self.executed.items()}

    def reading(self, app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
        """Note which pages are read."""
        self.pages.read = list(pages)

    def fill_in(self, app: Sphinx, page: str, source: list[str]) -> None:
        """Give a chapter its outputs before it is read."""
        if _is_chapter(app.env, page):
            notebook = _with_outputs(page, _read(source[0]), self.executed[page].notebook)
            source[0] = nbformat.writes(notebook)  # type: ignore[no-untyped-call]

    def write(self, app: Sphinx, env: BuildEnvironment) -> list[str]:
        """Return the pages to be written."""
        return self.pages.note(env, self._outputs(), self.code)

    def end(self, app: Sphinx, exception: Exception | None) -> None:
        """Note a build that ended well."""
        if exception is None:
            self.pages.end()


def _is_chapter(env: BuildEnvironment, page: str) -> bool:
    return str(env.doc2path(page)).endswith(".ipynb")


def _read(text: str) -> NotebookNode:
    notebook: NotebookNode = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def _inputs(made_from: Inputs, page: str, notebook: NotebookNode) -> dict[str, str]:
    try:
        return made_from.of(page, notebook)
    except SyntaxError as error:
        raise ChaptersFailed(f"{page} reaches code that is none: {error}") from error


def _guess(notebook: NotebookNode) -> float:
    """Return about how many seconds a chapter takes: one with parameters runs an experiment."""
    tags = [tag for cell in code_cells(notebook) for tag in cell.metadata.get("tags", [])]
    return 60.0 if "parameters" in tags else 10.0


def _why(kept: Executed | None, inputs: dict[str, str]) -> str:
    """Return why a chapter is executed."""
    if kept is None:
        return "not executed yet"
    names = inputs.keys() | kept.inputs.keys()
    changed = [name for name in sorted(names) if inputs.get(name) != kept.inputs.get(name)]
    return f"other {', '.join(changed)} than when it was executed"


def _with_outputs(page: str, notebook: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Return a notebook with the outputs of its executed cells."""
    cells, done = code_cells(notebook), code_cells(executed)
    if [*map(executed_part, cells)] != [*map(executed_part, done)]:
        raise ChaptersFailed(f"{page} was edited while the book was built: build it again")
    for cell, other in zip(cells, done, strict=True):
        cell.outputs, cell.execution_count = other.outputs, other.execution_count
    for name in ("language_info", "widgets"):
        if name in executed.metadata:
            notebook.metadata[name] = executed.metadata[name]
    return notebook


def setup(app: Sphinx) -> dict[str, bool]:
    """Look at everything before the first page is read."""
    app.add_config_value("up_to_date_code", [], "")
    app.add_config_value("up_to_date_data", [], "")
    app.add_config_value("up_to_date_also", {}, "")
    app.add_config_value("up_to_date_pages", [], "")
    book = Book(app)
    app.connect("config-inited", book.begin)
    app.connect("env-get-outdated", book.bring_up_to_date)
    app.connect("env-before-read-docs", book.reading)
    app.connect("source-read", book.fill_in)
    app.connect("env-get-updated", book.write)
    app.connect("build-finished", book.end)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
