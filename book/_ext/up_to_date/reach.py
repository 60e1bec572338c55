"""Which code a chapter reaches: every definition that its cells lead to, down to the last call.

`plasticity.runs.fingerprint` follows names. A page shows more than numbers, so nothing is left out
here, and what is reached otherwise than by a name is followed too: a function that a string names
for another process, modules that are found by their folder, the kinds of settings that a field
declares, and what a module does when it is imported.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

from plasticity.runs import fingerprint
from plasticity.runs.fingerprint import Definition

UNKNOWN = {"exec", "eval", "get_ipython", "importlib", "os", "runpy", "subprocess", "__import__"}
"""A cell that uses one of these may run anything: commands, or code that it finds by its name."""

_chapters = count()


class Found(NamedTuple):
    """What cells reach."""

    definitions: list[Definition]  # the first is that of the cells themselves
    texts: list[str]  # as they are written for the digest, and what is reached and is no definition


class Reach:
    """What is reached from cells, among the modules in some folders."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Take the folders that hold modules and packages, such as ``src``."""
        self.modules = {
            ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
            for folder in folders
            for path in sorted(folder.rglob("*.py"))
        }
        self.folders = list(folders)
        self.strings: dict[Definition, InStrings] = {}  # filled by `Beyond`
        self.packages = frozenset(module.partition(".")[0] for module in self.modules)

    def of(self, cells: Sequence[str]) -> str:
        """Return the SHA-256 (hex) of all code and files of ours that the cells can use."""
        found = self.definitions(cells)
        if found is None:
            return self.everything()
        return sha256(*found.texts, *self._beside({d.module for d in found.definitions}))

    def definitions(self, cells: Sequence[str]) -> Found | None:
        """Return the definitions that the cells reach; None if they may reach any."""
        tree = _parsed(cells)
        if tree is None:
            return None
        beyond = Beyond(self)
        follow = fingerprint.Follow(self.packages, frozenset(), beyond)
        with self._as_module(tree) as root:
            pairs = list(fingerprint.reached([root], follow))
        return Found([d for d, _ in pairs], [*(text for _, text in pairs), *beyond.texts])

    def everything(self) -> str:
        """Return the SHA-256 (hex) of all that there is, for cells that may use anything."""
        sources = [path.read_text(encoding="utf-8") for path in self.modules.values()]
        return sha256(*sources, *self._beside(self.packages))

    @contextmanager
    def _as_module(self, tree: ast.Module) -> Iterator[Definition]:
        """Yield the cells as the one definition of a module that Python finds."""
        name = f"cells_of_chapter_{next(_chapters)}"
        cells = ast.parse("def cells(): pass")
        assert isinstance(cells.body[0], ast.FunctionDef)
        cells.body[0].body = tree.body or [ast.Pass()]
        before = list(sys.path)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"{name}.py").write_text(ast.unparse(cells), encoding="utf-8")
            sys.path[:0] = [folder, *map(str, self.folders)]
            importlib.invalidate_caches()
            try:
                yield Definition(name, "cells")
            finally:
                sys.path[:] = before

    def _beside(self, modules: Iterable[str]) -> Iterator[str]:
        """Yield names and hashes of the files beside modules that are no code, such as tables."""
        for top in sorted({module.partition(".")[0] for module in modules} & self.modules.keys()):
            home = self.modules[top].parent
            paths = home.rglob("*") if self.modules[top].name == "__init__.py" else home.glob("*")
            for path in sorted(paths):
                if path.suffix != ".py" and "__pycache__" not in path.parts and path.is_file():
                    yield f"{path.relative_to(home)} {sha256(path.read_bytes())}"


class InStrings(NamedTuple):
    """What there is in the strings of a definition."""

    named: list[Definition]  # that is reached by their names
    verbatim: list[str]  # `fingerprint` takes names of modules out of strings; a page shows them


class Beyond:
    """What definitions reach otherwise than by a name; `fingerprint.Follow` calls it."""

    def __init__(self, reach: Reach) -> None:
        """Take the modules that there are."""
        self.reach = reach
        self.follow = fingerprint.Follow(reach.packages)
        self.modules: set[str] = set()
        self.texts: list[str] = []  # what is found here and is no definition

    def __call__(self, definition: Definition, node: ast.stmt) -> Iterator[Definition]:
        """Yield the definitions that one reaches otherwise than by their names."""
        if definition.module not in self.modules:
            self.modules.add(definition.module)
            yield from self._on_import(definition.module)
        known = self.reach.strings
        if definition not in known:
            verbatim = list(filter(None, map(_string, _undocumented(node))))
            known[definition] = InStrings(list(self._named_in_strings(node)), verbatim)
        yield from known[definition].named
        self.texts += known[definition].verbatim
        if isinstance(node, ast.ClassDef):
            yield from self._declared(definition.module, node)

    def _on_import(self, module: str) -> Iterator[Definition]:
        """Follow what a module does when it is imported, besides binding names."""
        for statement in _effects(self.reach.modules.get(module)):
            self.texts.append(ast.dump(statement))
            yield from self._names(module, statement)

    def _declared(self, module: str, node: ast.ClassDef) -> Iterator[Definition]:
        """Follow the types of a class's fields: stored settings are restored by them."""
        for field in node.body:
            if isinstance(field, ast.AnnAssign):
                self.texts.append(ast.dump(field.annotation))
                yield from self._names(module, field.annotation)

    def _names(self, module: str, tree: ast.AST) -> Iterator[Definition]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name | ast.Attribute):
                found = fingerprint.meaning(module, node, self.follow)
                if found is not None:
                    yield found

    def _named_in_strings(self, node: ast.stmt) -> Iterator[Definition]:
        """Follow ``"package.module:function"``, and modules whose names are given to a call."""
        for part in ast.walk(node):
            module, _, name = _string(part).partition(":")
            if name and module in self.reach.modules:
                yield from (d for d in fingerprint.definitions(module) if d.name == name)
            if isinstance(part, ast.Call):
                patterns = filter(None, map(self._module_names, ast.walk(part)))
                names = re.compile("|".join(patterns))
                for module in filter(names.fullmatch, self.reach.modules):
                    yield from fingerprint.definitions(module)

    def _module_names(self, node: ast.AST) -> str:
        """Return a pattern for the modules that a string may name, as it is or filled in."""
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
        package, dot, _ = str(texts[0]).partition(".")
        if not dot or package not in self.reach.packages:  # without a dot it may be any word
            return ""
        pattern = "".join(r"\w+" if text is None else re.escape(str(text)) for text in texts)
        return pattern + (r"\w+" if pattern.endswith(".") else "")


def _parsed(cells: Sequence[str]) -> ast.Module | None:
    """Return the cells' syntax tree, or None if they may run anything."""
    try:
        tree = ast.parse("\n".join(cells))
    except SyntaxError:  # a magic, or a shell command
        return None
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    used |= {alias.name.partition(".")[0] for node in imports for alias in node.names}
    used |= {(n.module or "").partition(".")[0] for n in imports if isinstance(n, ast.ImportFrom)}
    return None if used & UNKNOWN else tree


def _string(node: ast.AST) -> str:
    """Return a string's text; nothing for anything else."""
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) else ""


def _undocumented(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is below a node, except for docstrings and other strings that do nothing."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield child
            yield from _undocumented(child)


@cache
def _effects(path: Path | None) -> list[ast.stmt]:
    """Return the top-level statements of a file that do more than bind a name or document it."""
    if path is None:
        return []
    bind = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    return [
        statement
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        if not isinstance(statement, (*bind, ast.Assign, ast.AnnAssign))
        and not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
    ]


def sha256(*parts: str | bytes) -> str:
    """Return the SHA-256 (hex) of some parts, each by its length and content."""
    found = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        found.update(f"{len(content)} ".encode() + content)
    return found.hexdigest()
