"""Resets of whole layers, networks and optimizers (Lyle et al. 2023, §6.2, B.1).

Each function returns a `plasticity.cure.Cure` with an event every so many optimizer steps, for any
parameters and any optimizer. The slots of reset parameters in the optimizer's state are reset too
(`plasticity.cures.slots`). The paper's other interventions are not events: layer and spectral
normalisation and the two-hot output are fields of a network, weight decay is part of an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from plasticity.cure import Cure, Seen
from plasticity.cures import slots
from plasticity.networks.trace import Path
from plasticity.shapes import Array, Key

Init = Callable[[Key[Array, ""]], Any]
"""key → fresh parameters of the network."""


def reset_layer(
    init: Init, optimizer: optax.GradientTransformation, path: Path, every: int
) -> Cure:
    """Redraw a layer's parameters and reset their optimizer slots.

    For the last layer this is §6.2's simplified form of Nikishin et al. (2022). Step counts, which
    an optimizer keeps for all parameters together, go on. Raises ValueError, when the event is
    traced, if the network has no such layer.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.cure import Seen
    >>> from plasticity.cures import resets
    >>> from plasticity.learner import start
    >>> def init(key):
    ...     return {"params": {"body": jnp.zeros(2), "head": jnp.zeros(2)}}
    >>> cure = resets.reset_layer(init, optax.sgd(0.1), ("head",), every=1_000)
    >>> tired = start(optax.sgd(0.1), {"params": {"body": jnp.ones(2), "head": jnp.ones(2)}})
    >>> after = cure.event(jax.random.key(0), tired, Seen(jnp.ones((1, 2)), ()))
    >>> after.params["params"]["body"].tolist(), after.params["params"]["head"].tolist()
    ([1.0, 1.0], [0.0, 0.0])
    """

    def event(key: Key[Array, ""], learner: Any, seen: Seen) -> Any:
        inside = jax.tree_util.tree_map_with_path(
            lambda where, _: _names(where)[1 : 1 + len(path)] == path, learner.params
        )
        if not any(jax.tree.leaves(inside)):
            raise ValueError(f"the network has no layer {'/'.join(path)}")
        return slots.replace(optimizer, inside, init(key), learner)

    return Cure("reset_layer", "Nikishin et al. (2022)", event=event, every=every)


def shrink_and_perturb(init: Init, shrink: float, perturb: float, every: int) -> Cure:
    """Make each kernel W into shrink · W + perturb · W′.

    W′ comes from a fresh network, drawn at each event (Ash & Adams 2020; §6.2: "a perturbation
    equal to the weights of a randomly initialized network"). A kernel is a leaf with two or more
    axes, as in `plasticity.measure.snapshot.weight_norm`; biases, scales and the optimizer's state
    stay. With shrink 1 and perturb 0 nothing changes.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.cure import Seen
    >>> from plasticity.cures import resets
    >>> from plasticity.learner import start
    >>> cure = resets.shrink_and_perturb(lambda key: jnp.ones((1, 2)), 0.5, 0.25, every=1_000)
    >>> begun = start(optax.sgd(0.1), jnp.array([[4.0, 8.0]]))
    >>> cure.event(jax.random.key(0), begun, Seen(jnp.ones((1, 2)), ())).params.tolist()
    [[2.25, 4.25]]
    """

    def event(key: Key[Array, ""], learner: Any, seen: Seen) -> Any:
        def mixed(old: Array, new: Array) -> Array:
            return shrink * old + perturb * new if jnp.ndim(old) >= 2 else old

        return learner._replace(params=jax.tree.map(mixed, learner.params, init(key)))

    return Cure("shrink_and_perturb", "Ash & Adams (2020)", event=event, every=every)


def reset_optimizer(optimizer: optax.GradientTransformation, every: int) -> Cure:
    """Forget all of the optimizer's state, and nothing else (B.1).

    >>> import jax, jax.numpy as jnp, optax
    >>> import plasticity as pl
    >>> from plasticity import cure, learner
    >>> adam = optax.adam(0.1)
    >>> forget = pl.cures.resets.reset_optimizer(adam, every=1_000)
    >>> begun = learner.start(adam, jnp.ones(2))
    >>> tired = begun._replace(opt_state=jax.tree.map(lambda leaf: leaf + 1, begun.opt_state))
    >>> after = forget.event(jax.random.key(0), tired, cure.Seen(jnp.ones((1, 2)), ()))
    >>> int(tired.opt_state[0].count), int(after.opt_state[0].count)
    (1, 0)
    """

    def event(key: Key[Array, ""], learner: Any, seen: Seen) -> Any:
        return learner._replace(opt_state=optimizer.init(learner.params))

    return Cure("reset_optimizer", "Lyle et al. (2023, B.1)", event=event, every=every)


def _names(path: Any) -> Path:
    return tuple(step.key for step in path)
