"""Typed configurations: resolve, check, store.

An experiment's ``Config`` is a frozen dataclass. Every value that reaches a run passes through
`check`, so that a misspelt field, a string where a number belongs or a width of zero is refused
before any work begins.

A field may hold another frozen dataclass, or one of several (a union), told apart by their field
``kind``, a Literal with a default. A path such as ``network.width`` leads to an inner field.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar

from plasticity.errors import Told

C = TypeVar("C")


class ConfigError(Told, ValueError):
    """A setting that no run can have; the message names the field and what it accepts.

    >>> from plasticity.configuration import ConfigError
    >>> raise ConfigError("width = 0: must be above 0")
    Traceback (most recent call last):
    plasticity.configuration.ConfigError: width = 0: must be above 0
    """

    status = 2


def check(config: Any) -> None:
    """Raise `ConfigError` unless every field of ``config`` has its declared type.

    Call it first in ``__post_init__``. Types understood: bool, int, float (an int passes, NaN and
    infinity do not), str, Literal, dataclasses and unions of dataclasses, and tuples of all these.

    >>> from dataclasses import dataclass
    >>> from plasticity import configuration
    >>> @dataclass(frozen=True)
    ... class Config:
    ...     width: int = 64
    ...     def __post_init__(self):
    ...         configuration.check(self)
    >>> Config(width="wide")
    Traceback (most recent call last):
    plasticity.configuration.ConfigError: width = 'wide': expected a whole number
    """
    for name, kind in _kinds(type(config)).items():
        value = getattr(config, name)
        if not _matches(value, kind):
            raise ConfigError(f"{name} = {value!r}: expected {_describe(kind)}")


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError` with ``message`` unless ``condition`` holds.

    >>> from plasticity import configuration
    >>> configuration.require(7 % 2 == 0, "width = 7: must be even")
    Traceback (most recent call last):
    plasticity.configuration.ConfigError: width = 7: must be even
    """
    if not condition:
        raise ConfigError(message)


def require_positive(config: Any, *names: str) -> None:
    """Raise `ConfigError` unless each named field of ``config`` is above zero.

    >>> from dataclasses import dataclass
    >>> from plasticity import configuration
    >>> @dataclass(frozen=True)
    ... class Config:
    ...     width: int = 64
    >>> configuration.require_positive(Config(width=0), "width")
    Traceback (most recent call last):
    plasticity.configuration.ConfigError: width = 0: must be above 0
    """
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{name} = {value!r}: must be above 0")


def resolve(
    studies: Mapping[str, C],
    study: str,
    assignments: Iterable[str] = (),
    **overrides: object,
) -> C:
    """Return the configuration of ``study`` with changes applied, checked.

    ``assignments`` are texts ``field=value`` as typed on a command line; ``overrides`` are Python
    values, of which None leaves the study's. Raises `ConfigError` for an unknown study or field, an
    unreadable value, or a value out of range.

    >>> from dataclasses import dataclass
    >>> from plasticity import configuration
    >>> @dataclass(frozen=True)
    ... class Config:
    ...     width: int = 64
    >>> studies = {"small": Config(), "large": Config(width=1024)}
    >>> configuration.resolve(studies, "small", ["width=128"])
    Config(width=128)
    """
    if study not in studies:
        raise ConfigError(f"unknown study {study!r}: choose from {', '.join(studies)}")
    config = studies[study]
    given = {name: value for name, value in overrides.items() if value is not None}
    return replaced(config, {**given, **parse(config, assignments)})


def replaced(config: C, changes: Mapping[str, Any]) -> C:
    """Return ``config`` with other values at these paths, checked.

    If an object and some of its fields are both changed, the field changes apply to the new object.
    Raises `ConfigError` for a path that leads nowhere or a value that no run can have.

    >>> from dataclasses import dataclass
    >>> from plasticity import configuration
    >>> @dataclass(frozen=True)
    ... class Network:
    ...     width: int = 64
    ...     depth: int = 2
    >>> @dataclass(frozen=True)
    ... class Config:
    ...     network: Network = Network()
    ...     seeds: int = 3
    >>> configuration.replaced(Config(), {"network.width": 8, "seeds": 1})
    Config(network=Network(width=8, depth=2), seeds=1)
    """
    fields: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        _require_field(config, name)
        if rest:
            inner.setdefault(name, {})[rest] = value
        else:
            fields[name] = value
    for name, deeper in inner.items():
        fields[name] = replaced(fields.get(name, getattr(config, name)), deeper)
    # mypy cannot know that C is a dataclass; `_require_field` would have failed if it were not.
    return typing.cast(C, dataclasses.replace(typing.cast(Any, config), **fields))


def parse(config: Any, assignments: Iterable[str]) -> dict[str, Any]:
    """Return the changes to ``config`` that texts ``path=value`` ask for, in the declared types.

    An object is written as its kind, or as its kind with fields: ``network=cnn(channels=16)``.
    Raises `ConfigError` for an unknown path or an unreadable value; ranges are not checked here.

    >>> from dataclasses import dataclass
    >>> from plasticity import configuration
    >>> @dataclass(frozen=True)
    ... class Config:
    ...     width: int = 64
    >>> configuration.parse(Config(), ["width=128"])
    {'width': 128}
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ConfigError(f"{assignment!r}: write it as field=value")
        parent, _, name = path.rpartition(".")
        owner = changes.get(parent) or _at(config, parent)
        _require_field(owner, name)
        changes[path] = _parse(path, text, _kinds(type(owner))[name])
    return changes


def _at(config: Any, path: str) -> Any:
    """Return the object at a path; the configuration itself at an empty one."""
    for name in path.split(".") if path else ():
        _require_field(config, name)
        config = getattr(config, name)
    return config


def _require_field(config: Any, name: str) -> None:
    kinds = _kinds(type(config)) if dataclasses.is_dataclass(config) else {}
    if name not in kinds:
        fields = f"the fields are {', '.join(kinds)}" if kinds else f"{config!r} has no fields"
        raise ConfigError(f"unknown field {name!r}: {fields}")


def to_dict(config: Any) -> dict[str, Any]:
    """Return ``config`` as JSON-able values (tuples become lists).

    >>> from dataclasses import dataclass
    >>> from plasticity import configuration
    >>> @dataclass(frozen=True)
    ... class Config:
    ...     widths: tuple[int, ...] = (64, 128)
    >>> configuration.to_dict(Config())
    {'widths': [64, 128]}
    """
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return fields


def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
    """Inverse of `to_dict`.

    A field that ``values`` lack takes its default: it was added later, and its default does what
    the code did before (`plasticity.runs.freshness` proves it). Raises `ConfigError` for a field
    that ``cls`` does not have, and for a missing field that has no default.

    >>> from dataclasses import dataclass
    >>> from plasticity import configuration
    >>> @dataclass(frozen=True)
    ... class Config:
    ...     widths: tuple[int, ...] = (64, 128)
    >>> configuration.from_dict(Config, {"widths": [32]})
    Config(widths=(32,))
    """
    kinds = _kinds(cls)
    given = {
        field.name
        for field in dataclasses.fields(typing.cast(Any, cls))
        if (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
    }
    missing, unknown = set(kinds) - given - set(values), set(values) - set(kinds)
    if missing or unknown:
        raise ConfigError(
            f"stored configuration lacks {missing or '{}'}, has extra {unknown or '{}'}"
        )
    return cls(**{name: _restored(value, kinds[name]) for name, value in values.items()})


def _restored(value: Any, kind: Any) -> Any:
    """Return a stored value in its field's declared type: lists as tuples, objects by kind."""
    if isinstance(value, list):
        return tuple(_restored(item, typing.get_args(kind)[0]) for item in value)
    if isinstance(value, dict):
        classes = _classes(kind)
        return from_dict(
            classes[0] if len(classes) == 1 else _of_kind(value.get("kind"), kind), value
        )
    return value


def _of_kind(name: Any, kind: Any) -> type:
    """Return the dataclass of this name among those that a field declares."""
    found = [cls for cls in _classes(kind) if getattr(cls, "kind", None) == name]
    if not found:
        raise ConfigError(f"kind = {name!r}: expected {_describe(kind)}")
    return found[0]


def _classes(kind: Any) -> tuple[type, ...]:
    """Return the dataclasses that a field may hold; empty if it holds something else."""
    members = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return tuple(cls for cls in members if dataclasses.is_dataclass(cls) and isinstance(cls, type))


def digest(config: Any) -> str:
    """Return the SHA-256 (hex) of the configuration's canonical JSON.

    >>> from dataclasses import dataclass
    >>> from plasticity import configuration
    >>> @dataclass(frozen=True)
    ... class Config:
    ...     width: int = 64
    >>> configuration.digest(Config())[:8]
    'ddfab03c'
    """
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Return ``path: a → b`` for every field in which two stored configurations differ.

    >>> from plasticity.configuration import differences
    >>> differences({"width": 64, "seed": 0}, {"width": 128, "seed": 0})
    'width: 64 → 128'
    """
    a, b = flat(a), flat(b)
    changed = [n for n in sorted(set(a) | set(b)) if a.get(n) != b.get(n)]
    return ", ".join(f"{n}: {a.get(n)!r} → {b.get(n)!r}" for n in changed)


def flat(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration as path → value, with objects in lists named by their kind.

    >>> from plasticity.configuration import flat
    >>> flat({"seeds": 3, "network": {"width": 64}, "networks": [{"kind": "mlp", "width": 8}]})
    {'seeds': 3, 'network.width': 64, 'networks.mlp.kind': 'mlp', 'networks.mlp.width': 8}
    """
    found: dict[str, Any] = {}
    for name, value in stored.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {item.get("kind", str(k)): item for k, item in enumerate(value)}
        if isinstance(value, dict):
            found |= {f"{name}.{path}": leaf for path, leaf in flat(value).items()}
        else:
            found[name] = value
    return found


def _kinds(cls: type) -> dict[str, Any]:
    return _cached_kinds(typing.cast(Any, cls))  # a run's grid is checked arm by arm


@cache
def _cached_kinds(cls: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass")
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _matches(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_matches(v, arguments[0]) for v in value)
    if classes := _classes(kind):
        return isinstance(value, classes)
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and abs(value) < float("inf")
    return kind is str and isinstance(value, str)


def _parse(name: str, text: str, kind: Any) -> Any:
    """Read ``text`` as the declared type of field ``name``; `check` judges the result."""
    if typing.get_origin(kind) is tuple:
        (inner,) = typing.get_args(kind)[:1]
        if _classes(inner):
            return _objects(name, text, inner)
        return tuple(_parse(name, part.strip(), inner) for part in text.split(",") if part.strip())
    if _classes(kind):
        found = _objects(name, text, kind)
        if len(found) != 1:
            raise ConfigError(f"{name} = {text!r}: expected {_describe(kind)}")
        return found[0]
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
    except (KeyError, ValueError):
        raise ConfigError(f"{name} = {text!r}: expected {_describe(kind)}") from None
    return text


def _objects(name: str, text: str, kind: Any) -> tuple[Any, ...]:
    """Read objects as Python would write them: ``mlp, cnn(channels=16)``."""
    problem = f"{name} = {text!r}: expected {_describe(kind)}"
    try:
        written: Any = ast.parse(f"({text},)" if text else "()", mode="eval").body
        found = []
        for node in written.elts:
            fields = getattr(node, "keywords", [])
            if getattr(node, "args", []):
                raise ConfigError(problem)
            cls = _of_kind(getattr(node, "func", node).id, kind)
            values = {field.arg: ast.literal_eval(field.value) for field in fields}
            for field in values:
                _require_field(cls(), field)
            found.append(cls(**values))
    except ConfigError:
        raise
    except (SyntaxError, AttributeError, ValueError, TypeError):
        raise ConfigError(problem) from None
    return tuple(found)


def _describe(kind: Any) -> str:
    if classes := _classes(kind):
        names = ", ".join(str(getattr(cls, "kind", cls.__name__)) for cls in classes)
        return f"one of {names}, with fields in brackets if they differ from the default"
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if isinstance(kind, types.GenericAlias):
        return f"a comma-separated list, each {_describe(typing.get_args(kind)[0])}"
    return {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}[
        kind
    ]
