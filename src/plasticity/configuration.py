"""Typed configurations: resolve, check, store.

An experiment's ``Config`` is a frozen dataclass. Every value that reaches a run passes through
`check`, so that a misspelt field, a string where a number belongs or a width of zero is refused
before any work begins.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
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
    infinity do not), str, Literal, and tuples of these.

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
    values. Raises `ConfigError` for an unknown study or field, an unreadable value, or a value
    out of range.

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
    changes = {**overrides, **parse(type(config), assignments)}
    _require_known(changes, _kinds(type(config)))
    # mypy cannot know that C is a dataclass; `_kinds` above would have failed if it were not.
    return typing.cast(C, dataclasses.replace(typing.cast(Any, config), **changes))


def parse(cls: type, assignments: Iterable[str]) -> dict[str, Any]:
    """Return the fields of ``cls`` that texts ``field=value`` set, read as their declared types.

    Raises `ConfigError` for an unknown field or an unreadable value; ranges are not checked here.

    >>> from dataclasses import dataclass
    >>> from plasticity import configuration
    >>> @dataclass(frozen=True)
    ... class Config:
    ...     width: int = 64
    >>> configuration.parse(Config, ["width=128"])
    {'width': 128}
    """
    kinds, changes = _kinds(cls), {}
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ConfigError(f"{assignment!r}: write it as field=value")
        changes[name] = _parse(name, text, kinds)
    _require_known(changes, kinds)
    return changes


def _require_known(changes: Iterable[str], kinds: Mapping[str, Any]) -> None:
    for name in changes:
        if name not in kinds:
            raise ConfigError(f"unknown field {name!r}: the fields are {', '.join(kinds)}")


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

    A field that ``values`` lack takes its default: it was added later, and its default stands for
    what was done before (`plasticity.runs.reproduction` proves it). Raises `ConfigError` for a
    field that ``cls`` does not have, and if one without a default is missing.

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
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


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
    """Return ``field: a → b`` for every field in which two stored configurations differ.

    >>> from plasticity.configuration import differences
    >>> differences({"width": 64, "seed": 0}, {"width": 128, "seed": 0})
    'width: 64 → 128'
    """
    names = sorted(set(a) | set(b))
    changed = [n for n in names if a.get(n) != b.get(n)]
    return ", ".join(f"{n}: {a.get(n)!r} → {b.get(n)!r}" for n in changed)


def _kinds(cls: type) -> dict[str, Any]:
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
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and abs(value) < float("inf")
    return kind is str and isinstance(value, str)


def _parse(name: str, text: str, kinds: Mapping[str, Any]) -> Any:
    """Read ``text`` as the declared type of field ``name``; `check` judges what comes out."""
    kind = kinds.get(name, str)
    if typing.get_origin(kind) is tuple:
        inner = {name: typing.get_args(kind)[0]}
        return tuple(_parse(name, part.strip(), inner) for part in text.split(",") if part.strip())
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
    except (KeyError, ValueError):
        raise ConfigError(f"{name} = {text!r}: expected {_describe(kind)}") from None
    return text


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if isinstance(kind, types.GenericAlias):
        return f"a comma-separated list, each {_describe(typing.get_args(kind)[0])}"
    return {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}[
        kind
    ]
