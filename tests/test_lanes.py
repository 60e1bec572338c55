"""Runs in step give what they give one by one, and call each program once for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import hurried
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity import lanes, programs
from plasticity.programs import program

Drawn = Callable[[float, bool, jax.Array], tuple[jax.Array, jax.Array]]


@pytest.fixture
def calls() -> list[tuple[str, int]]:
    """The programs that were called, each with how many lanes at once."""
    return []


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[str, int]]) -> None:
    run = lanes._run

    def note(asked: Any) -> Any:
        calls.append((asked[0].program.function.__name__, len(asked)))
        return run(asked)

    monkeypatch.setattr(lanes, "_run", note)


@program(static=("steps",), donate=("x",))
def learn(steps: int, rate: float, x: jax.Array, world: jax.Array) -> jax.Array:
    for _ in range(steps):
        x = x + rate * world
    return x


@program(effort="less")
def forget(key: jax.Array, x: jax.Array) -> jax.Array:
    return x * jax.random.uniform(key, x.shape)


@program(effort="least")
def look(x: jax.Array) -> dict[str, jax.Array]:
    return {"sum": jnp.sum(x), "largest": jnp.max(x)}


def run(rate: float, forgetful: bool, world: jax.Array, key: jax.Array) -> Any:
    """Three pieces; some lanes forget before each."""
    x = jnp.zeros(3)

    def piece(x: Any, _: None) -> Any:
        if forgetful:
            x = forget(key, x)
        x = learn(2, rate, x, world)
        return x, look(x)

    return programs.scan(piece, x, 3)


def several(world: jax.Array) -> list[Callable[[], Any]]:
    keys = jax.random.split(jax.random.key(0), 5)
    forgetful = (False, True, False, True, True)
    return [partial(run, k + 0.5, forgetful[k], world, key) for k, key in enumerate(keys)]


def test_lanes_in_step_are_lanes_one_by_one() -> None:
    world = jnp.arange(3.0)
    found = lanes.in_step(several(world))
    for k, one in enumerate(several(world)):
        with programs.apart():
            expected = one()
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found[k], expected)


@pytest.mark.usefixtures("noted")
def test_what_costs_much_is_called_once_for_all_and_waits_for_the_rest(
    calls: list[tuple[str, int]],
) -> None:
    lanes.in_step(several(jnp.arange(3.0)))
    piece = [("forget", 3), ("learn", 5), ("look", 5)]
    assert calls == [*piece, *piece, *piece, ("_stacked", 5)]


@pytest.mark.usefixtures("noted")
def test_lanes_with_other_static_arguments_or_shapes_are_answered_apart(
    calls: list[tuple[str, int]],
) -> None:
    def one(steps: int, size: int) -> Any:
        return learn(steps, 1.0, jnp.zeros(size), jnp.ones(size))

    sizes = [(2, 3), (1, 3), (2, 3), (2, 4)]
    found = lanes.in_step([partial(one, *size) for size in sizes])
    assert calls == [("learn", 2), ("learn", 1), ("learn", 1)]
    for (steps, size), x in zip(sizes, found, strict=True):
        np.testing.assert_array_equal(x, np.full(size, float(steps)))


def test_a_program_is_compiled_once_for_as_many_lanes() -> None:
    lanes._compiled.cache_clear()
    with hurried.compilations() as count:
        for _ in range(2):
            lanes.in_step(several(jnp.arange(3.0)))
    assert {name: count[name] for name in ("learn", "forget", "look")} == {
        "learn": 1, "forget": 1, "look": 1,
    }  # fmt: skip


def test_what_lanes_have_in_common_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    axes: list[Any] = []
    compiled = lanes._compiled
    monkeypatch.setattr(
        lanes, "_compiled", lambda kind, *rest: axes.append(rest[0]) or compiled(kind, *rest)
    )
    world = jnp.arange(3.0)
    lanes.in_step([partial(learn, 1, 1.0, jnp.zeros(3), world) for _ in range(2)])
    assert axes == [(0, None, 0)]  # rate, world, x


def test_the_same_for_all_is_computed_once() -> None:
    x = jnp.arange(3.0)
    first, second = lanes.in_step([partial(look, x), partial(look, x)])
    assert first is second and float(first["sum"]) == 3.0


def test_what_is_donated_is_gone_and_what_is_common_is_not() -> None:
    world = jnp.arange(3.0)
    stacked = jnp.zeros((2, 3))
    states = lanes.spread(stacked, 2)
    found = lanes.in_step([partial(learn, 1, 1.0, x, world) for x in states])
    assert stacked.is_deleted() and not world.is_deleted()
    # One array for both lanes: each must get its own.
    x = jnp.zeros(3)
    lanes.in_step([partial(learn, 1, 1.0, x, world) for _ in range(2)])
    assert not x.is_deleted()
    np.testing.assert_array_equal(lanes.gather(found), [[0, 1, 2], [0, 1, 2]])


def test_lanes_of_several_stacks_are_gathered_in_their_order() -> None:
    a, b = jnp.arange(6.0).reshape(3, 2), 10 + jnp.arange(4.0).reshape(2, 2)
    of_a, of_b = lanes.spread(a, 3), lanes.spread(b, 2)
    mixed = [of_b[1], of_a[2], of_a[0], of_b[0]]
    np.testing.assert_array_equal(lanes.gather(mixed), [[12, 13], [4, 5], [0, 1], [10, 11]])
    np.testing.assert_array_equal(lanes.gather([of_a[1], np.zeros(2)]), [[2, 3], [0, 0]])
    assert lanes.gather(of_a) is a and lanes.gather(of_a[::-1]) is not a
    keys = jax.random.split(jax.random.key(0), 3)
    swapped = lanes.gather([lanes.spread(keys, 3)[k] for k in (2, 0)])
    expected = keys[jnp.array([2, 0])]
    np.testing.assert_array_equal(jax.random.key_data(swapped), jax.random.key_data(expected))


def test_lanes_of_different_structure_are_refused() -> None:
    with pytest.raises(ValueError, match="different structure"):
        lanes.gather([{"x": jnp.ones(1)}, {"y": jnp.ones(1)}])


@pytest.mark.parametrize("when", ["at once", "between programs", "in a program"])
def test_an_error_in_one_lane_ends_all_of_them(when: str) -> None:
    @program()
    def broken(x: jax.Array) -> jax.Array:
        raise ArithmeticError("one lane")

    def one(k: int) -> Any:
        if k == 1 and when == "at once":
            raise ArithmeticError("one lane")
        x = learn(1, 1.0, jnp.zeros(3), jnp.ones(3))
        if k == 1 and when == "between programs":
            raise ArithmeticError("one lane")
        return broken(x) if k == 1 else look(x)

    before = threading.enumerate()
    with pytest.raises(ArithmeticError, match="one lane"):
        lanes.in_step([partial(one, k) for k in range(3)])
    for thread in set(threading.enumerate()) - set(before):
        thread.join(5)
        assert not thread.is_alive()


def test_as_many_lanes_as_would_fit_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the compiled program needs, before it runs: 4 lanes of 2 x 4,000 bytes, and room."""
    monkeypatch.setattr(lanes, "_memory", lambda: (25_000.0, 1_000.0))

    def one(k: int) -> Any:
        return forget(jax.random.key(k), jnp.full(2_000, float(k)))

    with pytest.raises(lanes.NoRoom, match="4 lanes do not fit") as told:
        lanes.in_step([partial(one, k) for k in range(4)])
    assert 1 <= told.value.fitting < 4
    lanes.in_step([partial(one, k) for k in range(told.value.fitting)])


def test_within_a_program_calls_are_part_of_it() -> None:
    @program()
    def outer(x: jax.Array) -> jax.Array:
        return look(learn(1, 1.0, x, jnp.ones(3)))["sum"]

    found = lanes.in_step([partial(outer, jnp.full(3, float(k))) for k in range(2)])
    np.testing.assert_array_equal(lanes.gather(found), [3.0, 6.0])
