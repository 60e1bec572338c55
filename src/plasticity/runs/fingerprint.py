"""A hash of exactly the code that produced a run, blind to where that code lies.

Hashing whole files would make every run stale whenever a module gains a function, and hashing paths
whenever one moves. Instead, collect the definitions that an experiment's running parts reach,
through every form of import, and write them as syntax trees. There a reference to one of our own
definitions is its number in the order of the first visit; a local variable is a number too.
Comments, docstrings, annotations, layout, the names of modules, functions and local variables do
not count; a changed constant three calls down does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, NamedTuple

ROOTS = ("Config", "arms", "start", "advance", "chunks", "summarize")
"""The parts of an experiment that determine its numbers. Claims and figures read results and do not
count. Of ``load`` the returned data are hashed (`plasticity.runs.driver` stores them as
``world``), not the code."""

REPORTING = {"plasticity.configuration", "plasticity.runs.results", "plasticity.chapters.claims"}
"""Modules that check, store and judge numbers but cannot change them; they are not followed."""


class Definition(NamedTuple):
    """A name that a module binds at its top level."""

    module: str
    name: str


class _Imported(NamedTuple):
    """What an imported name stands for."""

    module: str
    member: str | None  # None: the module itself


class Follow(NamedTuple):
    """How far definitions are followed. The default is what can change a run's numbers."""

    packages: frozenset[str] = frozenset({"plasticity"})  # besides those of the roots
    left_out: frozenset[str] = frozenset(REPORTING)  # modules that are named but not followed
    # Definitions that one reaches otherwise than by their names, given it and its statement.
    beyond: Callable[[Definition, ast.stmt], Iterable[Definition]] = lambda definition, node: ()


NUMBERS = Follow()


def code_digest(experiment: Any) -> str:
    """Return the SHA-256 (hex) of every definition that the experiment's running parts reach.

    ``experiment`` is a `plasticity.runs.experiment.Experiment`.
    """
    parts = [_defined(getattr(experiment, name)) for name in ROOTS]
    return digest([root for roots, _ in parts for root in roots], [text for _, text in parts])


def _defined(value: Any) -> tuple[list[Definition], str]:
    """Return the definitions in a function, class or partial, and text on how they combine."""
    if isinstance(value, partial):
        given = [*value.args, *(value.keywords[name] for name in sorted(value.keywords))]
        parts = [_defined(part) for part in (value.func, *given)]
        text = f"partial({','.join(text for _, text in parts)};{sorted(value.keywords)})"
        return [root for roots, _ in parts for root in roots], text
    if hasattr(value, "__qualname__"):
        return [Definition(value.__module__, value.__qualname__.partition(".")[0])], "definition"
    return [], repr(value)


def digest(roots: Iterable[Definition], more: Iterable[str] = ()) -> str:
    """Return the SHA-256 (hex) of what ``roots`` reach, as written here, and of ``more``."""
    texts = "\n".join([*more, *(text for _, text in reached(roots))])
    return hashlib.sha256(texts.encode()).hexdigest()


def reachable(roots: Iterable[Definition]) -> list[Definition]:
    """Return the definitions that ``roots`` reach, sorted.

    Only definitions in the top-level packages of ``roots`` and in `plasticity` are followed.
    """
    return sorted(definition for definition, _ in reached(roots))


def reached(
    roots: Iterable[Definition], follow: Follow = NUMBERS
) -> Iterator[tuple[Definition, str]]:
    """Yield every definition that is reached, in the order of the first visit, with its text."""
    order = list(dict.fromkeys(roots))
    packages = follow.packages | {_package(root.module) for root in order}
    follow = follow._replace(packages=packages)
    number = {definition: k for k, definition in enumerate(order)}

    def reference(definition: Definition) -> str:
        if definition not in number:
            number[definition] = len(order)
            order.append(definition)
        return f"#{number[definition]}"

    k = 0
    while k < len(order):  # grows as it is walked
        definition = order[k]
        node = statements(definition.module)[definition.name]
        yield definition, _Writer(definition.module, follow, reference).definition(node)
        for found in follow.beyond(definition, node):
            reference(found)
        k += 1


def meaning(module: str, name: ast.expr, follow: Follow = NUMBERS) -> Definition | None:
    """Return the definition for which a name, or a chain of attributes, stands in ``module``."""
    found = _Writer(module, follow, str).target(name, _Scope(_imports(module)))
    return found if isinstance(found, Definition) else None


def definitions(module: str) -> list[Definition]:
    """Return every definition of a module."""
    return [Definition(module, name) for name in statements(module)]


# A module's names.


@cache
def source(module: str) -> tuple[ast.Module, bool]:
    """Return a module's syntax tree, and whether it is a package."""
    spec = _spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source for {module}")
    text = Path(spec.origin).read_text(encoding="utf-8")
    return ast.parse(text), spec.submodule_search_locations is not None


@cache
def statements(module: str) -> dict[str, ast.stmt]:
    """Return the statement that defines each top-level name, or the block that it is in."""
    found: dict[str, ast.stmt] = {}
    for statement in source(module)[0].body:
        for name in _bound(statement):
            found[name] = statement
    return found


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a top-level statement binds, except by imports."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
        return
    for field in ("body", "orelse", "finalbody", "handlers"):
        for inner in getattr(statement, field, []):
            if isinstance(inner, ast.ExceptHandler):
                for handled in inner.body:
                    yield from _bound(handled)
            else:
                yield from _bound(inner)
    for node in _own_nodes(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


@cache
def _imports(module: str) -> dict[str, _Imported]:
    """Return what a module's imports bind, wherever they stand at its top level."""
    tree, _ = source(module)
    return _bindings(module, tree)


def _bindings(module: str, tree: ast.AST) -> dict[str, _Imported]:
    """Return what the imports in ``tree``, part of ``module``, bind, except in inner functions."""
    bound: dict[str, _Imported] = {}
    for node in _own_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                bound[alias.asname or first] = _Imported(
                    alias.name if alias.asname else first, None
                )
        elif isinstance(node, ast.ImportFrom):
            other = _absolute(module, node)
            for alias in node.names:
                if alias.name == "*":
                    names = [name for name in statements(other) if not name.startswith("_")]
                    bound |= {name: _Imported(other, name) for name in names}
                else:
                    bound[alias.asname or alias.name] = _member(other, alias.name)
    return bound


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """Return the full name of the module that ``from ... import`` in ``module`` names."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + source(module)[1]]
    return ".".join([*parts, *filter(None, [node.module])])


def _member(module: str, name: str) -> _Imported:
    """Return ``module.name``: the submodule of that name, or the module's own member."""
    inner = f"{module}.{name}"
    return _Imported(inner, None) if _is_module(inner) else _Imported(module, name)


@cache
def _is_module(name: str) -> bool:
    return _spec(name) is not None


def _spec(module: str) -> ModuleSpec | None:
    """Return where a module lies; neither it nor the packages that it is in are imported."""
    package = module.rpartition(".")[0]
    if not package:
        return importlib.util.find_spec(module)
    outer = _spec(package)
    folders = outer and outer.submodule_search_locations
    return PathFinder.find_spec(module, folders) if folders else None


def _package(module: str) -> str:
    return module.partition(".")[0]


def _own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below ``tree`` that share its scope: none inside functions or classes."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, _SCOPES):
            yield from _own_nodes(node)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (*_FUNCTIONS, ast.ClassDef, *_COMPREHENSIONS)

_IGNORED = ("type_params", "kind", "type_comment", "ctx", "annotation", "returns", "simple")
"""Fields of syntax trees that change nothing or that only some versions of Python have."""


class _Scope(NamedTuple):
    """What names mean inside a function, given the functions around it."""

    imports: Mapping[str, _Imported]  # of the module, and of the functions
    variables: frozenset[str] = frozenset()  # arguments and local variables: no definitions
    renamed: frozenset[str] = frozenset()  # the variables that are written as numbers


class _Writer:
    """Writes one definition as text, and asks for the number of each definition that it names."""

    def __init__(self, module: str, follow: Follow, reference: Callable[[Definition], str]) -> None:
        """Take the definition's module, how far to follow, and what numbers definitions."""
        self.module, self.follow, self.reference = module, follow, reference
        self.locals: dict[str, str] = {}  # local variable → its number, by first appearance

    def definition(self, node: ast.stmt) -> str:
        """Write a definition without its name, except for a class: flax's paths contain that."""
        scope = _Scope(_imports(self.module))
        if isinstance(node, _FUNCTIONS):
            return self.function(node, scope, named=False)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            return f"value={self.node(node.value, scope)}"
        return self.node(node, scope)

    def node(self, node: object, scope: _Scope) -> str:
        """Write any part of a syntax tree."""
        if isinstance(node, list):
            return f"[{','.join(self.node(part, scope) for part in node)}]"
        if isinstance(node, str):  # a message may name a module of ours or the distribution
            text = node.replace("plasticity-companion", "plasticity")
            return repr(re.sub(r"\bplasticity(\.\w+)*\.(?=\w)", "", text))
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, _FUNCTIONS):
            return self.function(node, scope)
        if isinstance(node, _COMPREHENSIONS):
            return self.fields(node, self.inside(node, scope))
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            return ""  # what it binds is written where it is used
        if isinstance(node, ast.Name) and node.id in scope.renamed:
            return self.local(node.id)
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
            named = self.named(node, scope)
            if named is not None:
                return named
        if isinstance(node, ast.ExceptHandler) and node.name in scope.renamed:
            return f"ExceptHandler({self.local(node.name)},{self.fields(node, scope, ('name',))})"
        if isinstance(node, ast.AnnAssign) and node.value is not None:  # as without annotation
            targets, value = (self.node(part, scope) for part in ([node.target], node.value))
            return f"Assign(targets={targets},value={value})"
        return self.fields(node, scope)

    def fields(self, node: ast.AST, scope: _Scope, skipped: Iterable[str] = ()) -> str:
        """Write a node's type and fields."""
        parts = []
        for name, value in ast.iter_fields(node):
            if name == "body":
                value = _without_docstring(value)
            if name not in (*_IGNORED, *skipped) and value not in (None, []):
                parts.append(f"{name}={self.node(value, scope)}")
        return f"{type(node).__name__}({','.join(parts)})"

    def function(self, node: Any, scope: _Scope, named: bool = True) -> str:
        """Write a function or lambda; decorators and defaults belong to the scope around it."""
        inside = self.inside(node, scope)
        arguments = node.args
        outside = [getattr(node, "decorator_list", []), arguments.defaults, arguments.kw_defaults]
        names = [a.arg for a in ast.walk(arguments) if isinstance(a, ast.arg)]
        stars = [a.arg if a else None for a in (arguments.vararg, arguments.kwarg)]
        shape = (names, len(arguments.posonlyargs), len(arguments.kwonlyargs), stars)
        own = getattr(node, "name", "")
        name = "" if not named else self.local(own) if own in scope.renamed else own
        body = _without_docstring(node.body)
        return (
            f"{type(node).__name__}({name},{shape},{self.node(outside, scope)},"
            f"{self.node(body, inside)})"
        )

    def inside(self, node: Any, scope: _Scope) -> _Scope:
        """Return the scope inside a function or comprehension."""
        arguments = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)} if isinstance(
            node, _FUNCTIONS
        ) else set()  # fmt: skip
        own = list(_own_nodes(node))
        shared = {
            name for n in own if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names
        }
        stored = {n.id for n in own if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        stored |= {n.name for n in own if isinstance(n, (*_FUNCTIONS[:2], ast.ClassDef))}
        stored |= {n.name for n in own if isinstance(n, ast.ExceptHandler) and n.name}
        stored -= shared
        imports = _bindings(self.module, node) if isinstance(node, _FUNCTIONS) else {}
        variables = (scope.variables | arguments | stored) - imports.keys()
        classes = {n.name for n in own if isinstance(n, ast.ClassDef)}  # their names may be paths
        renamed = (scope.renamed - arguments | stored - arguments - classes) - imports.keys()
        return _Scope({**scope.imports, **imports}, frozenset(variables), frozenset(renamed))

    def local(self, name: str) -> str:
        """Write a local variable as the number of its first appearance in this definition."""
        return self.locals.setdefault(name, f"local{len(self.locals)}")

    def named(self, node: ast.expr, scope: _Scope) -> str | None:
        """Write what a name or a chain of attributes stands for, if a module defines that."""
        target = self.target(node, scope)
        if isinstance(target, Definition):
            if target.module in self.follow.left_out:
                return f"reporting:{target.name}"
            return self.reference(target)
        if isinstance(target, _Imported):
            inside = target.member is None and _package(target.module) in self.follow.packages
            return "module" if inside else "external:" + ".".join(filter(None, target))
        return None

    def target(self, node: ast.expr, scope: _Scope) -> Definition | _Imported | None:
        """Return our own definition, or the imported thing, that an expression names."""
        if isinstance(node, ast.Name):
            if node.id in scope.variables:
                return None
            if node.id in scope.imports:  # even where a fallback is defined too
                return self.resolved(scope.imports[node.id])
            known = statements(self.module)
            return Definition(self.module, node.id) if node.id in known else None
        if isinstance(node, ast.Attribute):
            owner = self.target(node.value, scope)
            if isinstance(owner, _Imported):
                if owner.member is None:
                    return self.resolved(_member(owner.module, node.attr))
                return _Imported(owner.module, f"{owner.member}.{node.attr}")
        return None

    def resolved(self, found: _Imported) -> Definition | _Imported:
        """Follow re-exports to the definition; what is not ours is returned as it is."""
        while found.member is not None and _package(found.module) in self.follow.packages:
            if not _is_module(found.module):
                return found
            if found.member in statements(found.module):
                return Definition(found.module, found.member)
            onward = _imports(found.module).get(found.member)
            if onward is None:  # made at run time, such as ``__doc__``: nothing to follow
                return _Imported("ours", found.member)
            found = onward
        return found


def _without_docstring(body: object) -> object:
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return body[1:]
    return body
