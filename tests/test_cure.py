"""Cures put together keep their states and periods apart, and act in their order."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plasticity import learner as learning
from plasticity.cure import NONE, Cure, Seen, combined
from plasticity.learner import Learner

KEY = jax.random.key(0)
SGD = optax.sgd(0.5)
NOTHING = Seen(None, ())


def keep(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
    return learner


def counting(name: str, every: int, factor: float = 1.0, add: float = 0.0) -> Cure:
    """Count events in a state of its own, keep the last key, and move the parameters."""

    def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
        count, _ = learner.cure_state
        params = jax.tree.map(lambda leaf: factor * leaf + add, learner.params)
        return learner._replace(params=params, cure_state=(count + 1, key))

    return Cure(
        name, paper=f"{name} et al.", init=lambda key, params: (jnp.zeros((), jnp.int32), key),
        event=event, every=every,
    )  # fmt: skip


def data(key: jax.Array) -> list[int]:
    found: list[int] = jax.random.key_data(key).tolist()
    return found


# One cure.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"event": keep}, r"x: every = 0 with an event"),
        ({"event": keep, "every": -1}, r"x: every = -1 with an event"),
        ({"every": 5}, r"x: every = 5 without an event"),
        ({"every": -1}, r"x: every = -1 without an event"),
    ],
)
def test_an_event_needs_a_period_and_a_period_an_event(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cure("x", **fields)


def test_cures_are_equal_if_their_functions_are() -> None:
    """So that a jitted function that takes one statically is compiled once."""
    one, other = (Cure("x", event=keep, every=3) for _ in range(2))
    assert one == other and hash(one) == hash(other)
    assert one != Cure("x", event=keep, every=4) and one != NONE == Cure()


# Several.


def test_the_names_and_papers_of_several_stand_beside_each_other() -> None:
    several = combined(counting("A", 2), NONE, counting("B", 3))
    assert (several.name, several.paper) == ("A+none+B", "A et al.; B et al.")


@pytest.mark.parametrize(
    ("periods", "every"), [((4, 6), 2), ((4, 0), 4), ((3, 5), 1), ((0, 0), 0), ((6, 0, 9), 3)]
)
def test_the_period_of_several_is_what_theirs_have_in_common(
    periods: tuple[int, ...], every: int
) -> None:
    cures = [counting(str(n), n) if n else Cure(project=lambda state, p: p) for n in periods]
    several = combined(*cures)
    assert several.every == every == math.gcd(*periods)
    assert (several.event is None) == (every == 0)


def test_one_is_itself_and_none_are_none() -> None:
    cure = counting("A", 2)
    assert combined(cure) is cure
    empty = combined()
    assert (empty.name, empty.event, empty.penalty, empty.project) == ("none", None, None, None)
    assert empty.start(KEY, {}) == ()


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_states_and_periods_stay_apart(transform: Any) -> None:
    """Of periods 4 and 6, which have 2 in common; the middle one has no event, and a state."""
    middle = Cure("M", init=lambda key, params: jnp.float32(7.0), project=lambda state, p: p)
    several = combined(counting("A", 4), middle, counting("B", 6))
    learner = learning.start(SGD, {"w": jnp.ones(2)}, several, KEY)
    happen = transform(
        lambda key, learner: learning.intervene(several, key, learner, lambda _: NOTHING)
    )
    for steps in range(13):
        before = learner
        key = jax.random.fold_in(KEY, steps)
        learner = happen(key, learner._replace(steps=jnp.asarray(steps)))
        assert jax.tree.structure(before) == jax.tree.structure(learner)
        (a, a_key), seven, (b, b_key) = learner.cure_state
        due = [steps // every for every in (4, 6)]
        assert [int(a), int(b), float(seven)] == [*due, 7.0]
        if steps and steps % 4 == 0:
            assert data(a_key) == data(jax.random.fold_in(key, 0))
        if steps and steps % 6 == 0:
            assert data(b_key) == data(jax.random.fold_in(key, 2))
    assert data(a_key) == data(jax.random.fold_in(jax.random.fold_in(KEY, 12), 0))
    np.testing.assert_array_equal(learner.params["w"], np.ones(2))


def test_each_begins_with_a_key_of_its_own() -> None:
    several = combined(counting("A", 2), counting("A", 2))
    (_, first), (_, second) = several.start(KEY, {})
    assert data(first) == data(jax.random.fold_in(KEY, 0))
    assert data(second) == data(jax.random.fold_in(KEY, 1))
    assert len({tuple(data(key)) for key in (KEY, first, second)}) == 3


def test_events_follow_each_other_in_their_order() -> None:
    double, add = counting("A", 1, factor=2.0), counting("B", 1, add=1.0)
    for cures, expected in (((double, add), 7.0), ((add, double), 8.0)):
        learner = learning.start(SGD, {"w": jnp.full(1, 3.0)}, combined(*cures), KEY)
        event = combined(*cures).event
        assert event is not None
        found = event(KEY, learner._replace(steps=jnp.asarray(1)), NOTHING)
        np.testing.assert_array_equal(found.params["w"], [expected])


def test_penalties_are_added_up_and_projections_follow_each_other() -> None:
    """Each with its own state, in a step."""

    def pull(weight: float) -> Cure:
        return Cure(
            "pull", init=lambda key, params: jnp.float32(weight),
            penalty=lambda state, params, aux: state * jnp.sum(params["w"] * aux),
        )  # fmt: skip

    def moved(name: str, by: float, factor: float) -> Cure:
        return Cure(
            name, init=lambda key, params: jnp.float32(by),
            project=lambda state, params: {"w": factor * params["w"] + state},
        )  # fmt: skip

    cures = (pull(2.0), moved("first", 1.0, 1.0), NONE, pull(0.5), moved("second", 0.0, 10.0))
    several = combined(*cures)
    learner = learning.start(SGD, {"w": jnp.array([1.0, 2.0])}, several, KEY)

    def loss(params: Any, batch: Any) -> Any:
        return jnp.sum(params["w"] * batch), jnp.array([1.0, 3.0])

    found, taken = learning.step(SGD, several, loss, learner, jnp.array([1.0, -1.0]))
    np.testing.assert_array_equal(taken.gradient["w"], [1 + 2.5 * 1, -1 + 2.5 * 3])
    assert float(taken.loss) == -1.0
    stepped = np.array([1.0, 2.0]) - 0.5 * np.array([3.5, 6.5])
    np.testing.assert_array_equal(found.params["w"], 10 * (stepped + 1))  # first, then second
    assert [np.shape(state) for state in found.cure_state[:2]] == [(), ()]
    assert found.cure_state[2] == ()


def test_several_of_several_are_all_of_them() -> None:
    inner = combined(counting("A", 2), counting("B", 3))
    outer = combined(inner, counting("C", 4))
    assert (outer.name, outer.every) == ("A+B+C", 1)
    learner = learning.start(SGD, {"w": jnp.ones(1)}, outer, KEY)
    for steps in range(1, 13):
        at = learner._replace(steps=jnp.asarray(steps))
        learner = learning.intervene(outer, KEY, at, lambda _: NOTHING)
    ((a, _), (b, _)), (c, _) = learner.cure_state
    assert [int(a), int(b), int(c)] == [6, 4, 3]
