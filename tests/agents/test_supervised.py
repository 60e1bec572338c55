"""A supervised learner is a plain loop of steps, each followed by what is due."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plasticity import learner as learning
from plasticity.agents import supervised
from plasticity.cure import Cure, Seen
from plasticity.learner import Learner, Taken

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (12, 3))
PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
BATCHES = jax.random.randint(KEY, (7, 4), 0, 12)
ADAM = optax.adam(0.1)


def loss(params: Any, batch: jax.Array) -> tuple[jax.Array, jax.Array]:
    made = X[batch] @ params["w"] + params["b"][None]
    return jnp.mean((made - jnp.sin(X[batch, :2])) ** 2), made


def seen(params: Any, batch: jax.Array) -> Seen:
    return Seen(X[batch], (X[batch] @ params["w"],))


def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
    noise = jax.random.normal(key, (2,)) + seen.hidden[0].mean(axis=0)
    return learner._replace(params=learner.params | {"b": noise})


NOISY = Cure("noisy", penalty=lambda state, params, aux: jnp.mean(aux**2), event=event, every=3)


def test_training_is_a_loop_of_steps_and_of_events_that_are_due() -> None:
    def watch(taken: Taken, learner: Learner) -> Any:
        return taken.loss, learner.steps, learner.params["b"]

    begun = learning.start(ADAM, PARAMS, NOISY)
    ours, found = supervised.train(ADAM, loss, begun, BATCHES, NOISY, KEY, seen, watch)
    learner, watched = begun, []
    for k, batch in enumerate(BATCHES, start=1):
        learner, taken = learning.step(ADAM, NOISY, loss, learner, batch)
        watched.append(watch(taken, learner))  # before the event
        if k in (3, 6):
            key = jax.random.fold_in(KEY, k)
            learner = event(key, learner, seen(learner.params, batch))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(learner), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for column, expected in zip(found, zip(*watched, strict=True), strict=True):
        np.testing.assert_allclose(column, jnp.stack(expected), rtol=1e-5, atol=1e-6)
    assert found[1].tolist() == list(range(1, 8))


def test_losses_are_watched_if_nothing_else_is_asked_for() -> None:
    begun = learning.start(ADAM, PARAMS)
    _, losses = supervised.train(ADAM, loss, begun, BATCHES)
    assert losses.shape == (7,)
    np.testing.assert_allclose(losses[0], loss(PARAMS, BATCHES[0])[0], rtol=1e-6)


@pytest.mark.parametrize("given", [{}, {"key": KEY}, {"seen": seen}], ids=["none", "key", "seen"])
def test_an_event_needs_a_key_and_something_to_see(given: Any) -> None:
    begun = learning.start(ADAM, PARAMS)
    with pytest.raises(ValueError, match="noisy has an event: it needs a key and something"):
        supervised.train(ADAM, loss, begun, BATCHES, cure=NOISY, **given)
