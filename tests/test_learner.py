"""A step is optax's own, with a penalty and a projection; events happen when they are due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plasticity import learner as learning
from plasticity.cure import NONE, Cure, Seen
from plasticity.learner import Learner

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
PARAMS = {"w": jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32), "b": jnp.array([0.5, -1.0])}
BATCH = tuple(jnp.asarray(RNG.normal(size=(6, n)), jnp.float32) for n in (4, 2))
ADAM = optax.adam(0.1)
OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "adam": ADAM,
    "decayed": optax.chain(optax.clip(0.5), optax.add_decayed_weights(0.1), ADAM),
}


def loss(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    """The squared error; beside it the predictions."""
    x, y = batch
    found = x @ params["w"] + params["b"][None]
    return jnp.mean((found - y) ** 2), found


def value(params: Any) -> jax.Array:
    return loss(params, BATCH)[0]


def same(a: Any, b: Any) -> None:
    """To the bit, in types and in structure."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for ours, theirs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert jnp.asarray(ours).dtype == jnp.asarray(theirs).dtype
        np.testing.assert_array_equal(ours, theirs)


def stepped(
    cure: Cure, optimizer: Any = ADAM, cure_state: Any = ()
) -> tuple[Learner, learning.Taken]:
    learner = learning.start(optimizer, PARAMS)._replace(cure_state=cure_state)
    return learning.step(optimizer, cure, loss, learner, BATCH)


# A step.


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("transform", [lambda step: step, jax.jit], ids=["eager", "jit"])
def test_without_a_cure_a_step_is_optaxs_to_the_bit(name: str, transform: Any) -> None:
    optimizer = OPTIMIZERS[name]

    @transform
    def plain(params: Any, opt_state: Any, batch: Any) -> Any:
        (loss_, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch)
        update, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, update), opt_state, (loss_, aux, gradient, update)

    @transform
    def ours(learner: Learner, batch: Any) -> Any:
        return learning.step(optimizer, NONE, loss, learner, batch)

    learner, params, opt_state = learning.start(optimizer, PARAMS), PARAMS, optimizer.init(PARAMS)
    for k in range(3):
        learner, taken = ours(learner, BATCH)
        params, opt_state, seen = plain(params, opt_state, BATCH)
        same((learner.params, learner.opt_state, tuple(taken)), (params, opt_state, seen))
        assert int(learner.steps) == k + 1 and learner.steps.dtype == jnp.int32


def test_what_is_missing_is_not_computed() -> None:
    """The program has no trace of a cure that has nothing."""

    def plain(params: Any, opt_state: Any, steps: Any) -> Any:
        (_, _), gradient = jax.value_and_grad(loss, has_aux=True)(params, BATCH)
        update, opt_state = ADAM.update(gradient, opt_state, params)
        return optax.apply_updates(params, update), opt_state, steps + 1

    def ours(params: Any, opt_state: Any, steps: Any) -> Any:
        learner = Learner(params, opt_state, (), steps)
        found, _ = learning.step(ADAM, Cure("empty"), loss, learner, BATCH)
        return found.params, found.opt_state, found.steps

    given = (PARAMS, ADAM.init(PARAMS), jnp.zeros((), jnp.int32))
    assert str(jax.make_jaxpr(ours)(*given)) == str(jax.make_jaxpr(plain)(*given))


def test_the_gradient_has_the_penalty_and_the_loss_has_it_not() -> None:
    """The penalty knows its state, the parameters, and what the loss says beside its value."""
    state = {"scale": jnp.float32(3.0)}

    def penalty(state: Any, params: Any, found: jax.Array) -> jax.Array:
        return state["scale"] * jnp.sum(params["w"] ** 2) + jnp.mean(found**2)

    def both(params: Any) -> jax.Array:
        own, found = loss(params, BATCH)
        return own + penalty(state, params, found)

    cure = Cure("decay", init=lambda key, params: state, penalty=penalty)
    learner, taken = stepped(cure, cure_state=state)
    expected = jax.grad(both)(PARAMS)
    same(taken.gradient, expected)
    update, opt_state = ADAM.update(expected, ADAM.init(PARAMS), PARAMS)
    same((taken.update, learner.opt_state), (update, opt_state))
    same((taken.loss, taken.aux), loss(PARAMS, BATCH))
    same(learner.cure_state, state)
    plain = jax.grad(value)(PARAMS)
    assert np.abs(taken.gradient["w"] - plain["w"]).min() > 0.01
    assert np.abs(taken.gradient["b"] - plain["b"]).min() > 0.01  # by way of the predictions


def test_parameters_are_projected_after_the_update() -> None:
    bound = jnp.float32(0.6)

    def project(bound: Any, params: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), params)

    plain, untouched = stepped(NONE)
    learner, taken = stepped(Cure("clip", project=project), cure_state=bound)
    same(learner.params, project(bound, plain.params))
    assert any((np.abs(leaf) > 0.6).any() for leaf in jax.tree.leaves(plain.params))
    # the step itself knows nothing of it
    same((learner.opt_state, tuple(taken)), (plain.opt_state, tuple(untouched)))


def test_the_loss_may_say_nothing_beside_its_value() -> None:
    seen: list[Any] = []

    def penalty(state: Any, params: Any, aux: Any) -> jax.Array:
        seen.append(aux)
        return jnp.sum(params["b"] ** 2)

    def alone(params: Any, batch: Any) -> tuple[jax.Array, None]:
        return loss(params, batch)[0], None

    learner = learning.start(ADAM, PARAMS)
    _, taken = learning.step(ADAM, Cure(penalty=penalty), alone, learner, BATCH)
    assert seen == [None] and taken.aux is None


# The start.


def test_a_learner_starts_as_its_parts_do() -> None:
    learner = learning.start(ADAM, PARAMS)
    assert learner.params is PARAMS and learner.cure_state == () and int(learner.steps) == 0
    same(learner.opt_state, ADAM.init(PARAMS))
    carried = stepped(NONE)[0].opt_state
    assert learning.start(ADAM, PARAMS, opt_state=carried).opt_state is carried


def test_the_key_is_for_what_a_cure_draws() -> None:
    def draw(key: jax.Array, params: Any) -> Any:
        return jax.random.normal(key, params["w"].shape)

    cure = Cure("draw", init=draw)
    same(learning.start(ADAM, PARAMS, cure, KEY).cure_state, draw(KEY, PARAMS))
    with pytest.raises(ValueError, match="draw has a state of its own: it needs a key"):
        learning.start(ADAM, PARAMS, cure)
    assert learning.start(ADAM, PARAMS, Cure("other"), KEY).cure_state == ()


# Events.


def nothing_seen(learner: Learner) -> Seen:
    return Seen(None, ())


@pytest.mark.parametrize("transform", [lambda step: step, jax.jit], ids=["eager", "jit"])
def test_an_event_happens_every_so_many_steps_and_not_before_the_first(transform: Any) -> None:
    """And what it sees is computed only then."""
    looks: list[int] = []

    def seen(learner: Learner) -> Seen:
        jax.debug.callback(lambda steps: looks.append(int(steps)), learner.steps)
        return Seen(learner.steps[None], ())

    def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
        return learner._replace(cure_state=learner.cure_state.at[seen.inputs[0]].add(1))

    cure = Cure("count", init=lambda key, params: jnp.zeros(13, jnp.int32), event=event, every=4)
    happen: Callable[[Learner], Learner] = transform(
        lambda learner: learning.intervene(cure, KEY, learner, seen)
    )
    learner = learning.start(ADAM, PARAMS, cure, KEY)
    for steps in range(13):
        learner = happen(learner._replace(steps=jnp.asarray(steps)))
    jax.effects_barrier()
    assert np.flatnonzero(learner.cure_state).tolist() == looks == [4, 8, 12]
    assert learner.cure_state.max() == 1
    same(learner.params, PARAMS)


def test_an_event_gets_the_key_and_what_is_seen_of_the_learner() -> None:
    def seen(learner: Learner) -> Seen:
        return Seen(BATCH[0], (BATCH[0] @ learner.params["w"],))

    def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
        noise = jax.random.normal(key, (2,)) + seen.hidden[0].sum(axis=0)
        return learner._replace(params=learner.params | {"b": noise})

    learner, _ = stepped(NONE)
    found = learning.intervene(Cure(event=event, every=1), KEY, learner, seen)
    expected = jax.random.normal(KEY, (2,)) + (BATCH[0] @ learner.params["w"]).sum(axis=0)
    np.testing.assert_allclose(found.params["b"], expected, rtol=1e-5)
    same(found._replace(params=()), learner._replace(params=()))


def test_without_an_event_nothing_is_looked_at() -> None:
    def seen(learner: Learner) -> Seen:
        raise AssertionError("nobody asked")

    learner, _ = stepped(NONE)
    assert learning.intervene(NONE, KEY, learner, seen) is learner


def test_learners_in_a_batch_have_events_of_their_own() -> None:
    def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
        return learner._replace(params=jax.tree.map(jnp.zeros_like, learner.params))

    cure, learner = Cure(event=event, every=3), learning.start(ADAM, PARAMS)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), learner)
    several = several._replace(steps=jnp.arange(4))
    found = jax.vmap(lambda one: learning.intervene(cure, KEY, one, nothing_seen))(several)
    for k in range(4):
        expected = jax.tree.map(lambda leaf, k=k: leaf * (k != 3), PARAMS)
        same(jax.tree.map(lambda leaf, k=k: leaf[k], found.params), expected)
