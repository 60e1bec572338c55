"""What there is to run, read from the chapters' sources: no chapter is imported, and so no JAX.

An experiment says in its chapter's ``__init__.py`` what its settings and its studies are::

    EXPERIMENT = Experiment(__name__, run.Config, run.STUDIES, ...)

Names are followed from there, as `plasticity.runs.fingerprint` does. What is written in another way
is not understood here: then nothing is said, and whoever asks has to import the chapter.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from plasticity.configuration import ConfigError
from plasticity.runs import fingerprint
from plasticity.runs.fingerprint import Definition

CONFIG, STUDIES = (1, "Config"), (2, "studies")
"""Where an experiment has them among its arguments, and what they are called there."""


def question(name: str) -> str:
    """Return the first line of the docstring of an experiment's module; empty without one."""
    try:
        tree, _ = fingerprint.source(_module(name))
    except ModuleNotFoundError:
        return ""
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def studies(name: str) -> list[str] | None:
    """Return the names of an experiment's studies; None if its source does not tell them."""
    found = _argument(name, *STUDIES)
    value = getattr(found and _statement(found), "value", None)
    if not isinstance(value, ast.Dict):
        return None
    keys = [key.value if isinstance(key, ast.Constant) else None for key in value.keys]
    names = [key for key in keys if isinstance(key, str)]
    return names if len(names) == len(keys) else None


def refuse(name: str, study: str, assignments: Iterable[str] = ()) -> None:
    """Raise `configuration.ConfigError` for a study or a field that an experiment cannot have.

    ``assignments`` are texts ``field=value``; values are not looked at. What is not refused here
    may still be refused by `configuration.resolve`, which knows all.
    """
    known = studies(name)
    if known is not None and study not in known:
        raise ConfigError(f"unknown study {study!r}: choose from {', '.join(known)}")
    if config := _argument(name, *CONFIG):
        for assignment in assignments:
            _follow([config], assignment.partition("=")[0].strip())


def _follow(owners: Iterable[Definition], path: str) -> None:
    """Raise `ConfigError` if a path leads nowhere in any of some classes."""
    fields: dict[str, list[Definition]] = {}
    for owner in owners:
        found = _fields(owner)
        if found is None:
            return
        for name, classes in found.items():
            fields.setdefault(name, []).extend(classes)
    name, _, rest = path.partition(".")
    if fields and name not in fields:
        raise ConfigError(f"unknown field {name!r}: the fields are {', '.join(fields)}")
    if rest:
        _follow(fields.get(name, []), rest)


def _fields(owner: Definition) -> dict[str, list[Definition]] | None:
    """Return for each field of a dataclass the classes that it may hold; None if that is not told.

    Inherited fields come first, as in the class itself.
    """
    node = _statement(owner)
    if not isinstance(node, ast.ClassDef):
        return None
    found: dict[str, list[Definition]] = {}
    for base in node.bases:
        above = fingerprint.meaning(owner.module, base)
        inherited = above and _fields(above)
        if inherited is None:
            return None
        found |= inherited
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            found[field.target.id] = list(_classes(owner.module, field.annotation))
    return found


def _classes(module: str, annotation: ast.expr) -> Iterator[Definition]:
    """Yield the classes of ours that an annotation names, alone or in a union."""
    if isinstance(annotation, ast.BinOp):
        yield from _classes(module, annotation.left)
        yield from _classes(module, annotation.right)
    elif isinstance(annotation, ast.Name | ast.Attribute):
        found = fingerprint.meaning(module, annotation)
        node = found and _statement(found)
        if found and isinstance(node, ast.ClassDef):
            yield found
        elif found and isinstance(node, ast.Assign):  # a name for a union
            yield from _classes(found.module, node.value)


def _argument(name: str, position: int, keyword: str) -> Definition | None:
    """Return the definition that an experiment is given as an argument; None if none is named."""
    module = _module(name)
    made = getattr(_statement(Definition(module, "EXPERIMENT")), "value", None)
    if not isinstance(made, ast.Call):
        return None
    named = {given.arg: given.value for given in made.keywords}
    value = made.args[position] if position < len(made.args) else named.get(keyword)
    return None if value is None else fingerprint.meaning(module, value)


def _statement(found: Definition) -> ast.stmt | None:
    """Return the statement that makes a definition; None if there is none."""
    try:
        return fingerprint.statements(found.module).get(found.name)
    except ModuleNotFoundError:
        return None


def _module(name: str) -> str:
    return f"plasticity.chapters.{name}"
