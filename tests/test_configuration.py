"""Whatever is typed at a run is understood exactly or refused before it costs anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasticity import configuration
from plasticity.configuration import ConfigError


@dataclass(frozen=True)
class Config:
    """One field of each kind."""

    count: int = 3
    rate: float = 0.5
    name: str = "a"
    on: bool = False
    kind: Literal["x", "y"] = "x"
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        configuration.check(self)
        configuration.require_positive(self, "count")


STUDIES = {"quick": Config()}


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("count=7", "count", 7),
        ("rate=1e-3", "rate", 1e-3),
        ("rate=2", "rate", 2.0),
        ("name=b c", "name", "b c"),
        ("on=True", "on", True),
        ("kind=y", "kind", "y"),
        ("sizes=4,5, 6", "sizes", (4, 5, 6)),
        (" count = 8 ", "count", 8),
    ],
)
def test_assignments_are_read_as_the_field_declares(
    assignment: str, field: str, value: object
) -> None:
    found = getattr(configuration.resolve(STUDIES, "quick", [assignment]), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("cuont=7", "unknown field 'cuont'.*count"),
        ("count", "field=value"),
        ("count=7.5", "count = '7.5': expected a whole number"),
        ("count=-1", "count = -1: must be above 0"),
        ("rate=fast", "rate = 'fast': expected a finite number"),
        ("rate=nan", "rate = nan: expected a finite number"),
        ("rate=inf", "expected a finite number"),
        ("on=1", "on = '1': expected true or false"),
        ("kind=z", "kind = 'z': expected one of x, y"),
        ("sizes=1,b", "whole number"),
    ],
)
def test_what_cannot_be_read_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configuration.resolve(STUDIES, "quick", [assignment])


@pytest.mark.parametrize(
    "values",
    [{"count": True}, {"count": 2.0}, {"rate": "1"}, {"on": 1}, {"sizes": [1]}, {"sizes": ("a",)}],
)
def test_python_values_of_the_wrong_type_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Config(**values)


def test_an_unknown_study_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown study 'quikc': choose from quick"):
        configuration.resolve(STUDIES, "quikc")


@given(
    count=st.integers(1, 10**9),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    name=st.text(),
    sizes=st.lists(st.integers()),
)
def test_storing_and_reading_gives_the_same_configuration(
    count: int, rate: float, name: str, sizes: list[int]
) -> None:
    config = Config(count=count, rate=rate, name=name, sizes=tuple(sizes))
    assert configuration.from_dict(Config, configuration.to_dict(config)) == config


def test_a_stored_configuration_of_other_fields_is_refused() -> None:
    stored = configuration.to_dict(Config())
    with pytest.raises(ConfigError, match="depth"):
        configuration.from_dict(Config, stored | {"depth": 3})


@dataclass(frozen=True)
class Later:
    """A configuration that gained a field with a default and has one without."""

    needed: int
    sizes: tuple[int, ...] = field(default_factory=lambda: (1, 2))


def test_a_field_that_a_stored_configuration_lacks_takes_its_default() -> None:
    stored = configuration.to_dict(Config(count=7, rate=0.25))
    del stored["rate"]
    assert configuration.from_dict(Config, stored) == Config(count=7)
    assert configuration.from_dict(Later, {"needed": 1}) == Later(1)
    with pytest.raises(ConfigError, match=r"lacks \{'needed'\}"):
        configuration.from_dict(Later, {"sizes": [1]})


def test_the_digest_knows_each_field() -> None:
    base = configuration.digest(Config())
    assert base == configuration.digest(Config())
    changes: list[dict[str, Any]] = [
        {"count": 4}, {"rate": 0.25}, {"name": "b"}, {"on": True}, {"kind": "y"}, {"sizes": (1,)},
    ]  # fmt: skip
    assert len({base, *(configuration.digest(Config(**c)) for c in changes)}) == 7


def test_differences_name_the_fields_that_changed() -> None:
    assert configuration.differences({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "b: 2 → 3"


# Objects inside of a configuration.


@dataclass(frozen=True)
class Dense:
    """One of two kinds of network."""

    kind: Literal["dense"] = "dense"
    width: int = 8

    def __post_init__(self) -> None:
        configuration.check(self)
        configuration.require_positive(self, "width")


@dataclass(frozen=True)
class Conv:
    """The other one."""

    kind: Literal["conv"] = "conv"
    channels: int = 4
    padded: bool = False


@dataclass(frozen=True)
class Whole:
    """A configuration that is made of others."""

    inner: Config = Config()
    network: Dense | Conv = Dense()
    networks: tuple[Dense | Conv, ...] = (Dense(), Conv())

    def __post_init__(self) -> None:
        configuration.check(self)


WHOLE = {"quick": Whole()}


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["network.width=16"], Whole(network=Dense(width=16))),
        (["network=conv"], Whole(network=Conv())),
        (["network=conv(channels=2, padded=True)"], Whole(network=Conv(channels=2, padded=True))),
        (["network=conv", "network.channels=2"], Whole(network=Conv(channels=2))),
        (["networks=conv(channels=2), dense"], Whole(networks=(Conv(channels=2), Dense()))),
        (["networks=dense"], Whole(networks=(Dense(),))),
        (["networks="], Whole(networks=())),
        (["inner.count=7", "inner.kind=y"], Whole(inner=Config(count=7, kind="y"))),
    ],
)
def test_paths_and_kinds_lead_into_objects(assignments: list[str], expected: Whole) -> None:
    found = configuration.resolve(WHOLE, "quick", assignments)
    assert found == expected
    assert configuration.from_dict(Whole, configuration.to_dict(found)) == found


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("network.widht=3", "unknown field 'widht': the fields are kind, width"),
        ("netwrok.width=3", "unknown field 'netwrok'"),
        ("inner.count.real=3", "unknown field 'real': 3 has no fields"),
        ("network.width=wide", "network.width = 'wide': expected a whole number"),
        ("network.width=0", "width = 0: must be above 0"),
        ("network=", "expected one of dense, conv"),
        ("network=pool", "'pool': expected one of dense, conv"),
        ("network=dense, conv", "expected one of dense, conv"),
        ("network=conv(width=3)", "unknown field 'width': the fields are kind, channels"),
        ("network=conv(channels=many)", "expected one of dense, conv"),
        ("network=conv(3)", "expected one of dense, conv"),
        ("network=conv(", "expected one of dense, conv"),
        ("network=3", "expected one of dense, conv"),
        ("inner=3", "expected"),
    ],
)
def test_what_leads_nowhere_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configuration.resolve(WHOLE, "quick", [assignment])


def test_python_values_at_paths_are_checked_together() -> None:
    """Neither change alone need be possible: an object first, then its own fields."""
    changes = {"network.channels": 2, "network": Conv(padded=True)}
    assert configuration.replaced(Whole(), changes).network == Conv(channels=2, padded=True)
    with pytest.raises(ConfigError, match="network = 'conv': expected one of dense, conv"):
        configuration.replaced(Whole(), {"network": "conv"})


def test_a_stored_object_of_an_unknown_kind_is_refused() -> None:
    stored = configuration.to_dict(Whole())
    with pytest.raises(ConfigError, match="kind = 'pool': expected one of dense, conv"):
        configuration.from_dict(Whole, stored | {"network": {"kind": "pool"}})


def test_differences_lead_into_objects() -> None:
    a, b = (configuration.to_dict(Whole(network=Dense(width=width))) for width in (8, 16))
    assert configuration.differences(a, b) == "network.width: 8 → 16"
