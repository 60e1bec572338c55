"""Everything that can change what a chapter's cells print: code, files, versions, the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

from nbformat import NotebookNode

from up_to_date.reach import Reach, sha256

VARIABLES = ("JAX_", "MPL", "PLASTICITY_", "XLA_")
"""Beginnings of the names of environment variables that can change a result."""

CACHES = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_", "MPLCONFIGDIR")
"""Beginnings of such names that say only where something is kept."""

TAGS = {"raises-exception", "skip-execution"}
"""Tags of a cell that change what is executed; the others change how it looks."""


class Inputs:
    """What the chapters of a book are made from."""

    def __init__(
        self,
        root: Path,
        code: Sequence[str],
        data: Sequence[str],
        also: Mapping[str, Sequence[str]],
    ) -> None:
        """Take the book's folder and, relative to it, what is read.

        Args:
            root: the book's folder.
            code: folders of the modules that chapters import.
            data: patterns of the files that any chapter may read; ``!`` before one leaves out.
            also: page → patterns of what it reads besides; ``commit`` is the current one.
        """
        self.root, self.data, self.also = root, data, also
        self.reach = Reach([root / folder for folder in code])

    def of(self, page: str, notebook: NotebookNode) -> dict[str, str]:
        """Return the digest of each kind of input of a chapter."""
        cells = code_cells(notebook)
        found = {
            "cells": sha256(json.dumps([executed_part(cell) for cell in cells]), _kernel(notebook)),
            "code": self.reach.of([cell.source for cell in cells]),
            "files": self._files,
            "versions": versions(),
            "machine": self._machine,
            "builder": self._builder,
        }
        if page in self.also:
            patterns = [pattern for pattern in self.also[page] if pattern != "commit"]
            commit = _commit(self.root) if "commit" in self.also[page] else ""
            found["particulars"] = sha256(commit, files_digest(self.root, patterns))
        return found

    @cached_property
    def _files(self) -> str:
        return files_digest(self.root, self.data)

    @cached_property
    def _machine(self) -> str:
        settings = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(VARIABLES) and not name.startswith(CACHES)
        }
        kinds = (platform.system(), platform.machine(), _processor(), str(os.cpu_count()))
        return sha256(*kinds, json.dumps(settings, sort_keys=True))

    @cached_property
    def _builder(self) -> str:
        return files_digest(Path(__file__).parent, ["kernels.py"])


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return a notebook's code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def executed_part(cell: NotebookNode) -> tuple[str, list[str]]:
    """Return what of a code cell counts when it is executed."""
    return cell.source, sorted(TAGS & set(cell.metadata.get("tags", [])))


@cache
def versions() -> str:
    """Return the digest of Python's version and of every installed package's."""
    installed = importlib.metadata.distributions()
    return sha256(platform.python_version(), *sorted(f"{d.name} {d.version}" for d in installed))


def files_digest(root: Path, patterns: Iterable[str]) -> str:
    """Return the digest of the names and contents of the files that patterns choose."""
    chosen: set[Path] = set()
    for pattern in patterns:
        if pattern.startswith("!"):
            chosen -= set(root.glob(pattern[1:]))
        else:
            chosen |= {path for path in root.glob(pattern) if path.is_file()}
    parts = ((path.relative_to(root).as_posix(), _content(path)) for path in sorted(chosen))
    return sha256(*(part for pair in parts for part in pair))


def _content(path: Path) -> bytes:
    """Return a file's content; nothing if it was removed a moment ago, such as a temporary one."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _kernel(notebook: NotebookNode) -> str:
    return str(notebook.metadata.get("kernelspec", {}).get("name"))


def _commit(folder: Path) -> str:
    """Return the commit that is checked out, or nothing outside of a checkout."""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), "")
