"""A supervised learner: one optimizer step on each minibatch, with a cure's events between them.

::

    learner = learning.start(optimizer, params, cure, key)
    batches = jax.random.randint(key, (1_000, 32), 0, len(images))
    learner, losses = supervised.train(optimizer, loss, learner, batches, cure, key, seen)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from plasticity import learner as learning
from plasticity.cure import NONE, Cure, Seen
from plasticity.learner import Learner, Loss, Taken
from plasticity.shapes import Array, Key

Watch = Callable[[Taken, Learner], Any]
"""(what a step computed, the learner after it) → what to keep of the step."""


def loss_of(taken: Taken, learner: Learner) -> Array:
    """Return the loss just before a step: what is watched by default.

    >>> import jax.numpy as jnp, optax
    >>> import plasticity as pl
    >>> from plasticity import cure, learner
    >>> from plasticity.agents import supervised
    >>> def loss(params, batch):
    ...     return (params - batch) ** 2, None
    >>> begun = learner.start(optax.sgd(0.25), jnp.array(2.0))
    >>> after, taken = pl.step(optax.sgd(0.25), cure.NONE, loss, begun, jnp.array(0.0))
    >>> float(supervised.loss_of(taken, after))
    4.0
    """
    return taken.loss


def train(
    optimizer: optax.GradientTransformation,
    loss: Loss,
    learner: Learner,
    batches: Any,
    cure: Cure = NONE,
    key: Key[Array, ""] | None = None,
    seen: Callable[[Any, Any], Seen] | None = None,
    watch: Watch = loss_of,
) -> tuple[Learner, Any]:
    """Take a step on each of ``batches``; return the learner and what was watched, stacked.

    Jittable.

    Args:
        optimizer: what moves the parameters.
        loss: (params, batch) → the loss of a batch and whatever else it returns.
        learner: see `plasticity.learner.start`.
        batches: what ``loss`` takes, such as indices of images, with a leading axis of steps.
        cure: what keeps the network plastic. Its event happens after each step at which it is due.
        key: draws what events need; folded with the step's number.
        seen: (params, batch) → what an event sees.
        watch: what is kept of each step.

    Raises ValueError if the cure has an event and there is no ``key`` or no ``seen``.

    >>> import jax.numpy as jnp, optax
    >>> from plasticity import learner
    >>> from plasticity.agents import supervised
    >>> def loss(params, batch):
    ...     return (params - batch) ** 2, None
    >>> begun = learner.start(optax.sgd(0.25), jnp.array(2.0))
    >>> after, losses = supervised.train(optax.sgd(0.25), loss, begun, batches=jnp.zeros(3))
    >>> losses.tolist(), float(after.params)
    ([4.0, 1.0, 0.25], 0.25)
    """
    if cure.event is not None and (key is None or seen is None):
        raise ValueError(f"{cure.name} has an event: it needs a key and something to see")

    def one(learner: Learner, batch: Any) -> tuple[Learner, Any]:
        learner, taken = learning.step(optimizer, cure, loss, learner, batch)
        watched = watch(taken, learner)
        if key is not None and seen is not None:
            own_key = jax.random.fold_in(key, learner.steps)
            learner = learning.intervene(
                cure, own_key, learner, lambda learner: seen(learner.params, batch)
            )
        return learner, watched

    return jax.lax.scan(one, learner, batches)
