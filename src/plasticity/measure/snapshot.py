"""Every statistic of one network at once: norms, shares of units, ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from plasticity.measure import activations, contract
from plasticity.measure.flat import _examples
from plasticity.measure.ranks import (
    _approximate_rank,
    _effective_rank,
    _feature_rank,
    _if_finite,
    _require,
    _srank,
    _stable_rank,
    singular_values,
    srank,
)
from plasticity.measure.units import (
    _over_units,
    dead_units,
    dormant_ratio,
    linearised_units,
    never_positive,
)
from plasticity.shapes import Array, Float

Network = nn.Module | Callable[[Any, Any], Any]
"""A linen network, or (params, x) → predictions, alone or with named or listed activations."""


def snapshot(
    network: Network, params: Any, x: Any, *, trainable: Any = None
) -> dict[str, Float[Array, ""]]:
    """Return every statistic of a network on a batch: norms, shares of units, ranks.

    Any network will do that keeps to `plasticity.measure.contract`. Hidden layers are found by
    `plasticity.measure.activations.of_layers`, unless the network returns its activations with its
    predictions, as a mapping or a sequence of (batch, ...). The networks of this package do.

    Args:
        network: a linen module, or a function of parameters and inputs.
        params: its parameters, any pytree.
        x: a batch of inputs, (batch, ...), an array or a pytree of arrays.
        trainable: which parameters count as weights: see `plasticity.measure.contract`.

    Returns what `of_network` does. Raises ValueError for parameters or inputs outside of the
    contract, and for a network without hidden layers.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import plasticity as pl
    >>> from flax import linen as nn
    >>> network = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(1)])
    >>> params = network.init(jax.random.key(0), jnp.ones((8, 2)))
    >>> found = pl.snapshot(network, params, jnp.ones((8, 2)))
    >>> float(found["dead_units"]), float(found["feature_rank"])
    (0.5, 1.0)
    """
    apply: Callable[[Any, Any], Any] = network.apply if isinstance(network, nn.Module) else network
    examples = _examples(x)
    trained, others, frame = contract.divide(params, trainable)
    made = apply(params, x)
    hidden = _returned(made, examples)
    if hidden is None:

        def whole(arrays: tuple[Any, tuple[Array, ...]], x: Any) -> Any:
            return apply(contract.together(arrays[0], arrays[1], frame), x)

        hidden = list(activations.of_layers(whole, (trained, others), x))
    # as one program: JAX may be told to find numbers that are none, also such as are not used
    found: dict[str, Array] = jax.jit(of_network)(hidden, trained)
    return found | {"dead_units": _over_units(dead_units, hidden)}  # also of units below zero


def _returned(made: Any, examples: int) -> list[Array] | None:
    """Return the activations that a network returned with its predictions; None if it did not.

    Two arrays, such as logits and values, are both predictions; so is what has no row per example.
    """
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping | Sequence)):
        return None
    named = made[1]
    layers = list(named.values()) if isinstance(named, Mapping) else list(named)
    rows = [contract.is_array(x) and jnp.ndim(x) > 1 and len(x) == examples for x in layers]
    return [jnp.reshape(layer, (examples, -1)) for layer in layers] if rows and all(rows) else None


def kernels(params: Any) -> list[Float[Array, ...]]:
    """Return the weights of a network, without biases and scales: all leaves of two or more axes.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import snapshot
    >>> [leaf.shape for leaf in snapshot.kernels({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})]
    [(2, 3)]
    """
    return [leaf for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) >= 2]


def weight_norm(params: Any) -> Float[Array, ""]:
    """Return the Euclidean norm of all weights: kernels only, neither biases nor scales.

    A leaf counts as a kernel when it has two or more axes.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure.snapshot import weight_norm
    >>> float(weight_norm({"kernel": 2 * jnp.ones((2, 2)), "bias": jnp.ones(2)}))
    4.0
    """
    norm: Array = optax.tree.norm(kernels(params))
    return norm


def weight_rank(params: Any) -> Float[Array, ""]:
    """Return the `srank` of each kernel, summed over kernels.

    Lyle et al. (2023, Fig. 3) plot a *weight rank* that they do not define; this definition is
    ours. A kernel is a leaf with two or more axes, as in `weight_norm`, read as a matrix of
    (fan-in, fan-out): the last axis against all others. Raises ValueError for an empty kernel.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure.snapshot import weight_rank
    >>> float(weight_rank({"first": jnp.eye(4), "second": jnp.ones((4, 2))}))
    5.0
    """
    ranks = [srank(k.reshape(math.prod(k.shape[:-1]), k.shape[-1])) for k in kernels(params)]
    return sum(ranks, jnp.zeros(()))


def of_network(
    hidden: Sequence[Float[Array, "batch _"]], params: Any
) -> dict[str, Float[Array, ""]]:
    """Return every statistic of one network by name, at the default thresholds.

    ``hidden`` holds the activations of each hidden layer on one batch, first to last, as in
    `plasticity.networks.architectures.Forward`. The shares of dead, dormant and linearised units
    count all units of all layers alike, so that a wide layer weighs more; units are those of ReLU,
    which are never negative. The five ranks are for the last hidden layer (the features) and share
    one decomposition. Raises ValueError if there is no hidden layer, and as the statistics do.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure.snapshot import of_network
    >>> found = of_network([jnp.eye(4)], {"kernel": jnp.eye(4)})
    >>> {name: round(float(found[name]), 2) for name in ("weight_norm", "dead_units", "srank")}
    {'weight_norm': 2.0, 'dead_units': 0.0, 'srank': 4.0}
    """
    return {**of_weights(params), **of_activations(hidden)}


def of_weights(params: Any) -> dict[str, Float[Array, ""]]:
    """Return `weight_norm` and `weight_rank` by name.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure.snapshot import of_weights
    >>> {name: float(value) for name, value in of_weights({"kernel": jnp.eye(4)}).items()}
    {'weight_norm': 2.0, 'weight_rank': 4.0}
    """
    return {"weight_norm": weight_norm(params), "weight_rank": weight_rank(params)}


def of_activations(hidden: Sequence[Float[Array, "batch _"]]) -> dict[str, Float[Array, ""]]:
    """Return the statistics of `of_network` that depend on hidden activations alone, by name.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure.snapshot import of_activations
    >>> found = of_activations([jnp.eye(4)])
    >>> {name: round(float(found[name]), 2) for name in ("dead_units", "srank")}
    {'dead_units': 0.0, 'srank': 4.0}
    """
    _require(len(hidden) > 0, "a network without hidden layers has no features")
    values = singular_values(hidden[-1])
    return {
        # compiled, `dead_units` may round to just below 0
        "dead_units": _over_units(
            lambda h: _if_finite(h, jnp.maximum(never_positive(h), 0)), hidden
        ),
        "dormant_ratio": _over_units(dormant_ratio, hidden),
        "linearised_units": _over_units(linearised_units, hidden),
        "feature_rank": _feature_rank(values, hidden[-1].shape[0]),
        "srank": _srank(values),
        "approximate_rank": _approximate_rank(values),
        "effective_rank": _effective_rank(values),
        "stable_rank": _stable_rank(values),
    }
