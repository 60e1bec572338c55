"""Hashes of programs: what is recorded decides them, and not how the code is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.extend import core

from plasticity.runs import dataflow

World = tuple[jax.Array, jax.Array]
WORLD: World = (jnp.ones((6, 3)), jnp.arange(6))


class State(NamedTuple):
    weights: Any
    moments: Any
    steps: Any
    key: Any


def start(world: World, key: Any) -> State:
    weights = jax.random.normal(key, (3,))
    return State(weights, (jnp.zeros(3), jnp.zeros(3)), jnp.zeros((), jnp.int32), key)


def loss(weights: Any, x: Any, y: Any) -> Any:
    return jnp.mean(jnp.clip(x @ weights - y, -1, 1) ** 2)


def advance(world: World, state: State) -> tuple[State, dict[str, Any]]:
    """Adam by hand, ten steps of it, with a counter inside of the loop."""
    key, now = jax.random.split(state.key)

    def step(carry: Any, k: Any) -> Any:
        weights, first, second, steps = carry
        chosen = jax.random.randint(k, (2,), 0, 6)
        value, g = jax.value_and_grad(loss)(weights, world[0][chosen], world[1][chosen])
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        weights = weights - 0.01 * first / (jnp.sqrt(second) + 1e-8)
        return (weights, first, second, steps + 1), value

    carry = (state.weights, *state.moments, state.steps)
    (weights, first, second, steps), values = jax.lax.scan(step, carry, jax.random.split(now, 10))
    late = jax.lax.cond(steps > 5, lambda w: w.sum(), lambda w: w[0], weights)
    record = {"loss": values.mean(), "late": late, "steps": steps}
    return State(weights, (first, second), steps, key), record


def hashes(
    advance: Callable[..., Any] = advance, start: Callable[..., Any] = start
) -> dict[str, str]:
    found = dataflow.recorded(start, advance, WORLD, lambda function: function.__name__)
    return {name: quantity.hash for name, quantity in found.items()}


class Learner(NamedTuple):
    """The same state in another order, in parts, beside something that no result needs."""

    steps: Any
    params: dict[str, Any]
    spare: Any
    key: Any


def start_learner(world: World, key: Any) -> Learner:
    state = start(world, key)
    first, second = state.moments
    return Learner(
        state.steps, {"w": state.weights, "nu": second, "mu": first}, jnp.zeros(()), state.key
    )


def advance_learner(world: World, learner: Learner) -> tuple[Learner, dict[str, Any]]:
    """The same computation: other names, other order, a function more, the counter outside."""
    after, key = jax.random.split(learner.key)

    @jax.jit
    def update(params: dict[str, Any], k: Any) -> tuple[dict[str, Any], Any]:
        rows = jax.random.randint(k, (2,), 0, 6)
        value, g = jax.value_and_grad(lambda w: loss(w, world[0][rows], world[1][rows]))(
            params["w"]
        )
        mu, nu = 0.9 * params["mu"] + 0.1 * g, 0.999 * params["nu"] + 0.001 * g**2
        return {"mu": mu, "nu": nu, "w": params["w"] - 0.01 * mu / (jnp.sqrt(nu) + 1e-8)}, value

    def step(carry: Any, k: Any) -> Any:
        spare, params = carry
        params, value = update(params, k)
        return (spare + value, params), value

    (spare, params), values = jax.lax.scan(
        step, (learner.spare, learner.params), jax.random.split(key, 10)
    )
    steps = learner.steps + 10
    late, _ = jax.lax.cond(
        steps > 5, lambda w, n: (w.sum(), n), lambda w, n: (w[0], n), params["w"], steps
    )
    return (
        Learner(steps, params, spare, after),
        {"steps": steps, "loss": values.mean(), "late": late},
    )


def test_order_names_parts_and_what_nobody_needs_do_not_count() -> None:
    assert hashes(advance_learner, start_learner) == hashes()


def edited(old: str, new: str) -> Callable[..., Any]:
    """Return `advance` with other source."""
    import inspect
    import textwrap

    source = textwrap.dedent(inspect.getsource(advance))
    assert old in source
    scope = {**globals(), "World": Any, "State": State}
    exec("from __future__ import annotations\n" + source.replace(old, new), scope)
    found: Callable[..., Any] = scope["advance"]
    return found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.999 * second", "0.99 * second"),
        ("0.9 * first + 0.1 * g, 0.999 * second", "0.9 * second + 0.1 * g, 0.999 * first"),
        ("first / (jnp.sqrt(second)", "second / (jnp.sqrt(first)"),
        ("split(now, 10)", "split(now, 11)"),
        ("split(now, 10)", "split(key, 10)"),
        ("world[1][chosen]", "world[1][chosen[::-1]]"),
        ("grad(loss)", "grad(lambda w, x, y: jnp.mean((x @ w - y) ** 2))"),
    ],
)  # fmt: skip
def test_every_change_of_a_number_counts(old: str, new: str) -> None:
    assert hashes(edited(old, new))["loss"] != hashes()["loss"]


def test_a_condition_and_its_branches_count() -> None:
    ours = hashes()
    for old, new in (("steps > 5", "steps > 6"), ("w[0]", "w[1]")):
        changed = hashes(edited(old, new))
        assert changed["late"] != ours["late"]
        assert changed["loss"] == ours["loss"]


def test_what_state_starts_with_counts() -> None:
    def other(world: World, key: Any) -> State:
        return start(world, key)._replace(moments=(jnp.zeros(3), jnp.ones(3)))

    assert hashes(start=other)["loss"] != hashes()["loss"]
    assert hashes(start=other)["steps"] == hashes()["steps"]


def test_two_arrays_that_could_pass_for_each_other_are_refused() -> None:
    world = (jnp.ones(3), jnp.ones(3))

    def advance(world: Any, state: Any) -> Any:
        return state, {"sum": world[0].sum() + 2 * world[1].sum()}

    with pytest.raises(ValueError, match="one shape and type"):
        dataflow.recorded(lambda world, key: key, advance, world, str)


def test_an_optimizer_of_optax_and_its_swapped_moments() -> None:
    def program(swap: bool) -> dict[str, str]:
        optimizer = optax.adam(1e-2)

        def start(world: World, key: Any) -> Any:
            weights = jax.random.normal(key, (3,))
            return weights, optimizer.init(weights)

        def advance(world: World, state: Any) -> Any:
            weights, moments = state
            value, g = jax.value_and_grad(loss)(weights, *world)
            update, moments = optimizer.update(g, moments, weights)
            if swap:
                adam: Any = moments[0]
                moments = (adam._replace(mu=adam.nu, nu=adam.mu), *moments[1:])
            return (weights + update, moments), {"loss": value}

        return hashes(advance, start)

    assert program(False) == program(False) != program(True)


def test_a_loop_without_a_length_and_its_condition() -> None:
    def program(most: float, factor: float) -> str:
        def advance(world: World, state: State) -> Any:
            grown = jax.lax.while_loop(
                lambda w: jnp.abs(w).max() < most, lambda w: factor * w, state.weights
            )
            return state, {"grown": grown}

        return hashes(advance)["grown"]

    assert program(10, 2) == program(10, 2)
    assert len({program(10, 2), program(20, 2), program(10, 3)}) == 3


def test_what_is_called_on_the_host_counts() -> None:
    def program(name: str) -> str:
        def call(x: Any) -> Any:
            return x

        call.__name__ = name

        def advance(world: World, state: State) -> Any:
            shape = jax.ShapeDtypeStruct((3,), jnp.float32)
            return state, {"seen": jax.pure_callback(call, shape, state.weights)}

        found = dataflow.recorded(
            start, advance, WORLD, lambda f: getattr(f, "callback_func", f).__name__
        )
        return found["seen"].hash

    assert program("a") == program("a") != program("b")


def test_constants_count_by_their_content() -> None:
    def program(table: Any) -> str:
        def advance(world: World, state: State) -> Any:
            return state, {"sum": (jnp.asarray(table) * state.weights).sum()}

        return hashes(advance)["sum"]

    assert program([1.0, 2.0, 3.0]) == program([1.0, 2.0, 3.0]) != program([1.0, 2.0, 4.0])


def test_programs_are_what_jax_says_they_are() -> None:
    """The few things of jax's own that the hash rests on."""
    closed = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, _: (c + 1, c), x, length=3))(0)
    assert isinstance(closed, core.ClosedJaxpr)
    (scan,) = closed.jaxpr.eqns
    assert {"jaxpr", "length", "reverse"} <= scan.params.keys()
    assert dataflow._sizes(scan.params) == (0, 1)


def test_shapes_and_types_are_those_of_the_record() -> None:
    found = dataflow.recorded(start, advance, WORLD, lambda function: function.__name__)
    shapes = {name: (quantity.shape, quantity.dtype) for name, quantity in found.items()}
    assert shapes == {"loss": ((), "float32"), "late": ((), "float32"), "steps": ((), "int32")}
