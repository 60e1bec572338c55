"""Puts fresh numbers into a network and clears what the optimizer remembers of the old ones.

The only place where an optimizer's state is edited. Adam's moments are *slots*: arrays shaped like
the parameters. Its count of steps is not a slot, and goes on for all parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from plasticity.networks.trace import Wiring, leaf_paths
from plasticity.shapes import Array, Bool


def replace(optimizer: optax.GradientTransformation, mask: Any, fresh: Any, learner: Any) -> Any:
    """Return the learner with the entries of ``fresh``, and fresh slots, where ``mask`` says so.

    ``learner`` is a `plasticity.learner.Learner`. ``mask`` and ``fresh`` are trees like its
    parameters; a leaf of the mask is True or False for a whole leaf, or an array of truth values
    that broadcasts to it. Entries outside the mask, and their slots, keep every bit.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity import learner
    >>> from plasticity.cures import slots
    >>> adam = optax.adam(0.1)
    >>> begun = learner.start(adam, jnp.ones(2))
    >>> tired = begun._replace(opt_state=jax.tree.map(lambda leaf: leaf + 1, begun.opt_state))
    >>> after = slots.replace(adam, jnp.array([False, True]), jnp.array([5.0, 6.0]), tired)
    >>> after.params.tolist(), after.opt_state[0].mu.tolist(), int(after.opt_state[0].count)
    ([1.0, 6.0], [1.0, 0.0], 1)
    """
    params = jax.tree.map(_choose, mask, fresh, learner.params)
    is_slot = optax.tree.map_params(
        optimizer, lambda _, chosen: chosen, learner.opt_state, mask,
        transform_non_params=lambda _: False,
    )  # fmt: skip
    opt_state = jax.tree.map(_choose, is_slot, optimizer.init(params), learner.opt_state)
    return learner._replace(params=params, opt_state=opt_state)


def nowhere(params: Any) -> Any:
    """Return the mask that leaves everything as it is.

    >>> import jax.numpy as jnp
    >>> from plasticity.cures import slots
    >>> slots.nowhere({"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))})
    {'bias': False, 'kernel': False}
    """
    return jax.tree.map(lambda _: False, params)


def _choose(mask: Any, fresh: Array, old: Array) -> Array:
    if isinstance(mask, bool):
        return fresh if mask else old
    return jnp.where(mask, fresh, old)


def renew_units(
    optimizer: optax.GradientTransformation,
    wiring: Sequence[Wiring],
    chosen: Sequence[Bool[Array, " _"]],
    fresh: Any,
    learner: Any,
) -> Any:
    """Return the learner with renewed units: incoming weights are fresh, outgoing weights zero.

    ``chosen`` marks the units of each layer; incoming weights and biases come from ``fresh``. With
    zero outgoing weights a new unit changes nothing at first; a weight between two renewed units is
    zero. All these entries get fresh slots; all others keep every bit. Raises KeyError for a path
    in the wiring that the parameters do not have.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity import learner
    >>> from plasticity.cures import slots
    >>> from plasticity.networks.trace import Wiring
    >>> layer = Wiring(incoming="first", bias=None, outgoing=("second",), units=2)
    >>> params = {"first": jnp.ones((1, 2)), "second": jnp.ones((2, 1))}
    >>> begun, chosen = learner.start(optax.sgd(0.1), params), [jnp.array([True, False])]
    >>> fresh = jax.tree.map(lambda kernel: 5 * kernel, params)
    >>> after = slots.renew_units(optax.sgd(0.1), [layer], chosen, fresh, begun)
    >>> after.params["first"].tolist(), after.params["second"].tolist()
    ([[5.0, 1.0]], [[0.0], [1.0]])
    """
    masks: dict[str, Array] = {}
    silent: dict[str, Array] = {}

    def add(to: dict[str, Array], path: str, mask: Array) -> None:
        to[path] = to[path] | mask if path in to else mask

    leaves = leaf_paths(learner.params)
    for layer, units in zip(wiring, chosen, strict=True):
        add(masks, layer.incoming, jnp.broadcast_to(units, leaves[layer.incoming].shape))
        if layer.bias is not None:
            add(masks, layer.bias, jnp.broadcast_to(units, leaves[layer.bias].shape))
        for path in layer.outgoing:
            kernel = leaves[path]
            rows = jnp.tile(units, kernel.shape[-2] // layer.units)[:, None]
            add(masks, path, jnp.broadcast_to(rows, kernel.shape))
            add(silent, path, jnp.broadcast_to(rows, kernel.shape))

    def with_zeros(path: str, leaf: Array) -> Array:
        return jnp.where(silent[path], 0, leaf) if path in silent else leaf

    mask = _by_path(lambda path, _: masks.get(path, False), learner.params)
    return replace(optimizer, mask, _by_path(with_zeros, fresh), learner)


def _by_path(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Map ``function(path, leaf)`` over a tree, paths as `leaf_paths` writes them."""
    return jax.tree.map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf),
        tree,
    )
