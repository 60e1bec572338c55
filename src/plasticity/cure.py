"""What keeps a network plastic, as a record of four pure functions, each of which may be missing.

::

    decay = Cure("l2_init", init=lambda key, params: params,
                 penalty=lambda origin, params, aux: 1e-2 * distance(params, origin))

A cure that changes the network (normalisation, CReLU) is a field of the network instead, and one
that changes the optimizer is an optax transformation. A missing function computes nothing: learning
without a cure is the same program, to the bit, as learning that never heard of cures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from plasticity.shapes import Array, Float, Key


class Seen(NamedTuple):
    """What an event is shown of the network."""

    inputs: Any  # a batch of what the network learns from, (batch, ...)
    hidden: tuple[Float[Array, "_ _"], ...]  # the activations of each hidden layer on it


@dataclass(frozen=True)
class Cure:
    """Four functions, their common name and the paper they come from.

    ``learner`` is a `plasticity.learner.Learner`. ``cure_state`` belongs to the cure: the arrays
    that `init` returns, or ``()`` without `init`. Two cures are equal if their functions are.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.cure import Cure
    >>> near = Cure("l2_init", init=lambda key, params: params,
    ...     penalty=lambda origin, params, aux: 0.5 * jnp.sum((params - origin) ** 2))
    >>> origin = near.start(jax.random.key(0), jnp.zeros(2))
    >>> float(near.penalty(origin, jnp.ones(2), None))
    1.0
    """

    name: str = "none"
    paper: str = ""  # where it comes from, such as "Sokar et al. (2023)"
    # (key, params) → cure_state
    init: Callable[[Key[Array, ""], Any], Any] | None = None
    # (cure_state, params, aux) → a scalar that is added to the loss; aux is what the loss returns
    # besides its value
    penalty: Callable[[Any, Any, Any], Float[Array, ""]] | None = None
    # (cure_state, params) → params, after each step
    project: Callable[[Any, Any], Any] | None = None
    # (key, learner, seen) → learner, after every `every` optimizer steps
    event: Callable[[Key[Array, ""], Any, Seen], Any] | None = None
    every: int = 0  # optimizer steps between two events; 0 for a cure without events

    def __post_init__(self) -> None:
        """Raise ValueError for a cure with an event and no period, or the reverse."""
        if self.every < 0 or (self.event is None) != (self.every == 0):
            raise ValueError(
                f"{self.name}: every = {self.every} with{'out' if self.event is None else ''} an "
                "event: an event needs a period above 0, and a period an event"
            )

    def start(self, key: Key[Array, ""], params: Any) -> Any:
        """Return the state that the cure begins with."""
        return () if self.init is None else self.init(key, params)


NONE = Cure()
"""No cure at all."""


def combined(*cures: Cure) -> Cure:
    """Return one cure that applies each of these, in this order.

    Each keeps its own state and its own period. Penalties are added up; projections and events run
    one after another. Each key is folded with the cure's place in the list, so that the same cure
    in another place draws other numbers.

    >>> import jax.numpy as jnp
    >>> from plasticity.cure import Cure, combined
    >>> small = Cure("small", penalty=lambda state, params, aux: params**2)
    >>> positive = Cure("positive", project=lambda state, params: abs(params))
    >>> both = combined(small, positive)
    >>> both.name, float(both.penalty(((), ()), jnp.array(3.0), None))
    ('small+positive', 9.0)
    >>> float(both.project(((), ()), jnp.array(-2.0)))
    2.0
    """
    if len(cures) == 1:
        return cures[0]

    def init(key: Key[Array, ""], params: Any) -> Any:
        return tuple(c.start(jax.random.fold_in(key, k), params) for k, c in enumerate(cures))

    def penalty(states: Any, params: Any, aux: Any) -> Float[Array, ""]:
        parts = [
            c.penalty(state, params, aux)
            for c, state in zip(cures, states, strict=True)
            if c.penalty is not None
        ]
        return sum(parts[1:], parts[0])

    def project(states: Any, params: Any) -> Any:
        for c, state in zip(cures, states, strict=True):
            params = params if c.project is None else c.project(state, params)
        return params

    def event(key: Key[Array, ""], learner: Any, seen: Seen) -> Any:
        for k, c in enumerate(cures):
            if c.event is not None:
                learner = _own(c, k, jax.random.fold_in(key, k), learner, seen)
        return learner

    def has(name: str) -> bool:
        return any(getattr(c, name) is not None for c in cures)

    return Cure(
        name="+".join(c.name for c in cures) or "none",
        paper="; ".join(c.paper for c in cures if c.paper),
        init=init,
        penalty=penalty if has("penalty") else None,
        project=project if has("project") else None,
        event=event if has("event") else None,
        every=math.gcd(*(c.every for c in cures)),
    )


def _own(cure: Cure, place: int, key: Key[Array, ""], learner: Any, seen: Seen) -> Any:
    """Let one of several cures act, if it is due, on the learner and that cure's own state."""
    states = learner.cure_state

    def act(learner: Any) -> Any:
        assert cure.event is not None
        after = cure.event(key, learner._replace(cure_state=states[place]), seen)
        kept = (*states[:place], after.cure_state, *states[place + 1 :])
        return after._replace(cure_state=kept)

    return jax.lax.cond(is_due(cure, learner), act, lambda learner: learner, learner)


def is_due(cure: Cure, learner: Any) -> Array:
    """Return whether the cure's event is due; it never is before the first step.

    >>> import jax.numpy as jnp, optax
    >>> from plasticity import cure, learner
    >>> often = cure.Cure("often", event=lambda key, now, seen: now, every=5)
    >>> begun = learner.start(optax.sgd(0.1), jnp.zeros(2))
    >>> [bool(cure.is_due(often, begun._replace(steps=jnp.array(n)))) for n in (0, 4, 5)]
    [False, False, True]
    """
    due: Array = (learner.steps > 0) & (learner.steps % cure.every == 0)
    return due
