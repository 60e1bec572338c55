"""A hash of exactly the code that produced a run, so that a recorded run can be called fresh.

Hashing whole files would make every run stale whenever a module gains a function. Instead the
definitions that an experiment's running parts reach, through names and through the attributes of
this package's modules, are collected and hashed as syntax trees: comments, docstrings and layout do
not count, a changed constant three calls down does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOTS = ("Config", "arms", "start", "advance", "chunks", "summarize")
"""What of an experiment decides its numbers. Claims and figures read results and do not count; what
``load`` returns is hashed itself (`plasticity.driver` stores it as ``world``), not its code."""

REPORTING = {f"plasticity.{name}" for name in ("configuration", "results", "claims")}
"""Modules that check, store and judge numbers but cannot change them: not followed."""

Definition = tuple[str, str]  # module, top-level name


def code_digest(experiment: ModuleType) -> str:
    """Return the SHA-256 (hex) of every definition that the experiment's running parts reach."""
    reached = reachable(experiment.__name__, ROOTS)
    text = "\n".join(
        f"{module}.{name} {_canonical(_tree(module)[name])}" for module, name in reached
    )
    return hashlib.sha256(text.encode()).hexdigest()


def is_fresh(provenance: Mapping[str, Any], experiment: ModuleType) -> bool:
    """Return whether today's code gives what a run recorded: it ran it, or reproduced it.

    ``provenance`` is the run's; `plasticity.reproduction` writes its list ``reproduced``.
    """
    proven = [provenance, *provenance.get("reproduced", [])]
    return code_digest(experiment) in {entry["code"] for entry in proven}


def reachable(module: str, roots: Iterable[str]) -> list[Definition]:
    """Return, sorted, the (module, name) pairs that ``roots`` of ``module`` reach.

    Only definitions in the top-level package of ``module`` or in `plasticity` are followed.
    """
    packages = {module.partition(".")[0], "plasticity"}
    seen: set[Definition] = set()
    pending = [(module, name) for name in roots if name in _tree(module)]
    while pending:
        definition = pending.pop()
        if definition in seen:
            continue
        seen.add(definition)
        pending += _references(*definition, packages)
    return sorted(seen)


def _references(module: str, name: str, packages: set[str]) -> list[Definition]:
    """Return the definitions that one definition names."""
    imports, found = _imports(module), []
    for node in ast.walk(_tree(module)[name]):
        if isinstance(node, ast.Name):
            found.append((module, node.id) if node.id in _tree(module) else imports.get(node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            source, member = imports.get(node.value.id, (None, None))
            if source is not None and member is None:
                found.append((source, node.attr))
    return [
        (source, member)
        for source, member in filter(None, found)
        if member is not None
        and source not in REPORTING
        and source.partition(".")[0] in packages
        and member in _tree(source)
    ]


@cache
def _parsed(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no source for {module}")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


@cache
def _tree(module: str) -> dict[str, ast.stmt]:
    """Return the top-level definitions of a module by name."""
    definitions: dict[str, ast.stmt] = {}
    for node in _parsed(module).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign):
            definitions |= {t.id: node for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            definitions[node.target.id] = node
    return definitions


@cache
def _imports(module: str) -> dict[str, tuple[str, str | None]]:
    """Return what a module's imports bind: name → (module, None) or (module, member)."""
    bound: dict[str, tuple[str, str | None]] = {}
    for node in _parsed(module).body:
        if isinstance(node, ast.Import):
            bound |= {a.asname or a.name: (a.name, None) for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                target = (inner, None) if _is_module(inner) else (node.module, alias.name)
                bound[alias.asname or alias.name] = target
    return bound


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is not a package
        return False


def _canonical(node: object) -> str:
    """Write a syntax tree without positions, docstrings or the fields that Python versions add."""
    if isinstance(node, ast.AST):
        fields = [
            (name, _without_docstring(value) if name == "body" else value)
            for name, value in ast.iter_fields(node)
            if name not in ("type_params", "kind", "type_comment", "ctx")
            and value not in (None, [])
        ]
        return f"{type(node).__name__}({','.join(f'{n}={_canonical(v)}' for n, v in fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)


def _without_docstring(body: object) -> object:
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return body[1:]
    return body
