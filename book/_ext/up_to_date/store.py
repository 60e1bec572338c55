"""What executing a chapter gave, kept on disk with a digest of everything that went into it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode


class Executed(NamedTuple):
    """An executed chapter."""

    notebook: NotebookNode
    inputs: dict[str, str]  # what it was made from: kind of input → its digest
    seconds: float  # how long it took

    @property
    def sha256(self) -> str:
        """The hash of the notebook, with its outputs."""
        return hashlib.sha256(json.dumps(self.notebook, sort_keys=True).encode()).hexdigest()


class Store:
    """A folder with one file for each chapter."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, which need not exist yet."""
        self.folder = folder

    def read(self, page: str) -> Executed | None:
        """Return what is kept of a chapter; None if that is nothing, or damaged."""
        try:
            kept = json.loads(self._path(page).read_text(encoding="utf-8"))
            notebook = nbformat.from_dict(kept["notebook"])  # type: ignore[no-untyped-call]
            found = Executed(notebook, dict(kept["inputs"]), float(kept["seconds"]))
            return found if found.sha256 == kept["sha256"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, page: str, executed: Executed) -> None:
        """Keep an executed chapter, all of it or nothing."""
        path = self._path(page)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        kept = {**executed._asdict(), "sha256": executed.sha256}
        new.write_text(json.dumps(kept), encoding="utf-8")
        os.replace(new, path)

    def _path(self, page: str) -> Path:
        return self.folder / f"{page}.json"
