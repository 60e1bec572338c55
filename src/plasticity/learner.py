"""What learns, and the one optimizer step that every algorithm and every fit takes.

::

    learner = start(optimizer, params, cure, key)
    learner, taken = step(optimizer, cure, loss, learner, batch)      # jit it, or scan over batches
    learner = intervene(cure, key, learner, seen)                     # between steps, when due
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from plasticity.cure import NONE, Cure, Seen, is_due
from plasticity.shapes import Array, Bool, Float, Int, Key

Loss = Callable[[Any, Any], tuple[Float[Array, ""], Any]]
"""(params, batch) → the loss, and whatever else it should return (None for nothing)."""


class Learner(NamedTuple):
    """A network that learns, with everything that changes as it learns."""

    params: Any  # any pytree, such as flax's variables
    opt_state: Any
    cure_state: Any  # () if the cure has none
    steps: Int[Array, ""]  # optimizer steps taken


class Taken(NamedTuple):
    """What a step computed, at the parameters before it."""

    loss: Float[Array, ""]  # without the cure's penalty
    aux: Any  # what the loss returned besides its value
    gradient: Any  # of the loss and the cure's penalty
    update: Any  # what the optimizer made of the gradient and added to the parameters


def start(
    optimizer: optax.GradientTransformation,
    params: Any,
    cure: Cure = NONE,
    key: Key[Array, ""] | None = None,
    opt_state: Any = None,
) -> Learner:
    """Return a learner before its first step.

    ``key`` is for cures that draw something at the start; ``opt_state`` continues from an earlier
    state instead of a fresh one. Raises ValueError if the cure needs a key and there is none.

    >>> import jax.numpy as jnp, optax
    >>> from plasticity import learner
    >>> begun = learner.start(optax.sgd(0.5), {"w": jnp.array(2.0)})
    >>> int(begun.steps), begun.cure_state
    (0, ())
    """
    if cure.init is not None and key is None:
        raise ValueError(f"{cure.name} has a state of its own: it needs a key")
    cure_state = () if key is None else cure.start(key, params)
    state = optimizer.init(params) if opt_state is None else opt_state
    return Learner(params, state, cure_state, jnp.zeros((), jnp.int32))


def step(
    optimizer: optax.GradientTransformation, cure: Cure, loss: Loss, learner: Learner, batch: Any
) -> tuple[Learner, Taken]:
    """Take one optimizer step on the loss of a batch, with a cure's penalty and projection.

    Events are separate (`intervene`): they are rare, see activations and need a key. Jittable;
    ``params`` may be any pytree. An optimizer that wants to know the loss gets it, as
    ``value``, ``grad`` and ``value_fn``, the names that optax has for them.

    >>> import jax.numpy as jnp, optax
    >>> import plasticity as pl
    >>> from plasticity import cure, learner
    >>> def loss(params, batch):
    ...     return (params["w"] - batch) ** 2, None
    >>> begun = learner.start(optax.sgd(0.25), {"w": jnp.array(2.0)})
    >>> after, taken = pl.step(optax.sgd(0.25), cure.NONE, loss, begun, jnp.array(0.0))
    >>> float(after.params["w"]), float(taken.loss), int(after.steps)
    (1.0, 4.0, 1)
    """
    params, opt_state, cure_state, steps = learner

    def total(params: Any) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Any]]:
        value, aux = loss(params, batch)
        if cure.penalty is None:
            return value, (value, aux)
        return value + cure.penalty(cure_state, params, aux), (value, aux)

    (descended, (value, aux)), gradient = jax.value_and_grad(total, has_aux=True)(params)
    more: dict[str, Any] = {}
    if isinstance(optimizer, optax.GradientTransformationExtraArgs):
        # line searches, Polyak's step size and schedules that watch the loss
        more = {"value": descended, "grad": gradient, "value_fn": lambda params: total(params)[0]}
    update, opt_state = optimizer.update(gradient, opt_state, params, **more)
    params = optax.apply_updates(params, update)
    if cure.project is not None:
        params = cure.project(cure_state, params)
    return Learner(params, opt_state, cure_state, steps + 1), Taken(value, aux, gradient, update)


def intervene(
    cure: Cure, key: Key[Array, ""], learner: Learner, seen: Callable[[Learner], Seen]
) -> Learner:
    """Let the cure's event happen if it is due: every `Cure.every` steps, not before the first.

    ``seen(learner)`` returns what the event sees; it is computed only when the event happens.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity import cure, learner
    >>> halve = cure.Cure("halve", event=lambda key, now, seen: now._replace(
    ...     params=now.params / 2), every=10)
    >>> def seen(now):
    ...     return cure.Seen(inputs=jnp.zeros((1, 1)), hidden=())
    >>> begun = learner.start(optax.sgd(0.1), jnp.array(8.0))
    >>> for steps in (0, 9, 10):
    ...     now = begun._replace(steps=jnp.array(steps))
    ...     print(float(learner.intervene(halve, jax.random.key(0), now, seen).params))
    8.0
    8.0
    4.0
    """
    if cure.event is None:
        return learner
    event = cure.event
    found: Learner = jax.lax.cond(
        is_due(cure, learner),
        lambda learner: event(key, learner, seen(learner)),
        lambda learner: learner,
        learner,
    )
    return found


def is_finite(params: Any) -> Bool[Array, ""]:
    """Return whether every parameter is finite; in a network that diverged some are not.

    >>> import jax.numpy as jnp
    >>> from plasticity import learner
    >>> [bool(learner.is_finite({"w": jnp.array([w])})) for w in (1.0, jnp.inf)]
    [True, False]
    """
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))
