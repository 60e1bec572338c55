"""What is done to a network between two target updates to keep it able to learn (§6.2, B.1).

Each function returns an event, ``event(key, state) → state``, for any state that is a NamedTuple
with ``params`` and ``opt_state``, and any flax network. What is reset loses its slots in the
optimizer's state with it. The other interventions of the paper are no events: layer and spectral
normalisation and the two-hot output are fields of a network, weight decay is part of an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from plasticity.networks.trace import Path
from plasticity.shapes import Array, Key

Event = Callable[[Key[Array, ""], Any], Any]
"""(key, state) → state."""

Init = Callable[[Key[Array, ""]], Any]
"""key → fresh variables of the network."""


def reset_layer(init: Init, optimizer: optax.GradientTransformation, path: Path) -> Event:
    """Return the event that draws a layer anew, its parameters and their optimizer slots.

    For the last layer this is §6.2's simplified form of Nikishin et al. (2022). Counts of steps,
    which an optimizer has for all parameters together, go on. Raises ValueError, when the event is
    traced, if the network has no such layer.
    """

    def event(key: Key[Array, ""], state: Any) -> Any:
        inside = jax.tree_util.tree_map_with_path(
            lambda where, _: _names(where)[1 : 1 + len(path)] == path, state.params
        )
        if not any(jax.tree.leaves(inside)):
            raise ValueError(f"the network has no layer {'/'.join(path)}")
        params = jax.tree.map(_choose, inside, init(key), state.params)
        slots_inside = optax.tree.map_params(
            optimizer, lambda _, inside: inside, state.opt_state, inside,
            transform_non_params=lambda _: False,
        )  # fmt: skip
        opt_state = jax.tree.map(_choose, slots_inside, optimizer.init(params), state.opt_state)
        return state._replace(params=params, opt_state=opt_state)

    return event


def shrink_and_perturb(init: Init, shrink: float, perturb: float) -> Event:
    """Return the event that makes each kernel W into shrink · W + perturb · W′.

    W′ is that of a fresh network (Ash & Adams 2020; §6.2: "a perturbation equal to the weights of a
    randomly initialized network"). A kernel is a leaf with two or more axes, as in
    `plasticity.measure.snapshot.weight_norm`; biases, scales and the optimizer's state stay.
    With shrink 1 and perturb 0 nothing changes.
    """

    def event(key: Key[Array, ""], state: Any) -> Any:
        def mixed(old: Array, new: Array) -> Array:
            return shrink * old + perturb * new if jnp.ndim(old) >= 2 else old

        return state._replace(params=jax.tree.map(mixed, state.params, init(key)))

    return event


def reset_optimizer(optimizer: optax.GradientTransformation) -> Event:
    """Return the event that forgets all of the optimizer's state, and nothing else (B.1)."""

    def event(key: Key[Array, ""], state: Any) -> Any:
        return state._replace(opt_state=optimizer.init(state.params))

    return event


def _choose(first: bool, a: Array, b: Array) -> Array:
    return a if first else b


def _names(path: Any) -> Path:
    return tuple(step.key for step in path)
