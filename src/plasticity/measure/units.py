"""Shares of units that no longer work: dead, dormant and linearised."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from plasticity.measure.ranks import Matrix, _if_finite, _require, _require_matrix
from plasticity.shapes import Array, Float


def dead_units(activations: Matrix) -> Float[Array, ""]:
    """Return the fraction of units that are zero on every input of the batch.

    This is the *dead* (saturated) unit of Lyle et al. (2023, §4.1): a ReLU unit whose
    pre-activation is never positive receives no gradient from these inputs. It is not the
    *dormant* unit of Sokar et al. (2023), which may be small without being zero. Units that can be
    negative, such as tanh's, are dead only where they are exactly zero. NaN if an activation is not
    finite. Raises ValueError unless ``activations`` has two axes and at least one entry.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import units
    >>> hidden = jnp.array([[0.0, 0.01, 1.0, 2.0], [0.0, 0.0, 3.0, 0.0]])  # two inputs, four units
    >>> float(units.dead_units(hidden))
    0.25
    """
    _require_matrix(activations)
    return _if_finite(activations, jnp.mean(jnp.all(activations == 0, axis=0)))


def never_positive(activations: Float[Array, "batch units"]) -> Float[Array, ""]:
    """Return `dead_units` of activations that are known to be finite and not negative.

    For training loops: the formula with which this book's runs were recorded.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import units
    >>> float(units.never_positive(jnp.array([[0.0, 1.0], [0.0, 0.0]])))
    0.5
    """
    ever_active = jnp.any(activations > 0, axis=0)
    return 1.0 - jnp.mean(ever_active)


# The units. A comparison with NaN is False, which would count as an answer: hence `_if_finite`.


def dormant_ratio(activations: Matrix, tau: float = 0.025) -> Float[Array, ""]:
    """Return the share of units whose mean size is at most τ times the mean over the layer.

    Source: Sokar et al. (2023, Definition 3.1). ``activations`` is (batch, units), of one layer.
    The means are compared and not divided, so that in a layer of zeros every unit is dormant.
    A dead ReLU unit is dormant; a dormant one need not be dead. NaN if an activation is not finite.
    Raises ValueError unless ``activations`` has two axes and at least one entry, and if ``tau`` is
    negative.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import units
    >>> hidden = jnp.array([[0.0, 0.01, 1.0, 2.0], [0.0, 0.0, 3.0, 0.0]])  # two inputs, four units
    >>> float(units.dormant_ratio(hidden, tau=0.1))  # the dead one and the small one
    0.5
    """
    _require_matrix(activations)
    _require(tau >= 0, f"tau = {tau}: must not be below 0")
    size = jnp.mean(jnp.abs(activations), axis=0)
    typical = jnp.mean(size)
    return _if_finite(typical, jnp.mean(size <= tau * typical))


def linearised_units(activations: Matrix) -> Float[Array, ""]:
    """Return the share of ReLU units that are active, above zero, on every input of the batch.

    Source: the linearised ("zombie") units of Lyle et al. (2024): on these inputs such a unit is
    linear. ``activations`` is (batch, units), after the ReLU. NaN if an activation is not finite.
    Raises ValueError unless ``activations`` has two axes and at least one entry.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import units
    >>> hidden = jnp.array([[0.0, 0.01, 1.0, 2.0], [0.0, 0.0, 3.0, 0.0]])  # two inputs, four units
    >>> float(units.linearised_units(hidden))  # the third
    0.25
    """
    _require_matrix(activations)
    return _if_finite(activations, jnp.mean(jnp.all(activations > 0, axis=0)))


def _over_units(statistic: Callable[[Array], Array], layers: Sequence[Array]) -> Array:
    """Average a share of units over layers, each layer weighted by its number of units."""
    units = [layer.shape[1] for layer in layers]
    shares = jnp.stack([statistic(layer) for layer in layers])
    return jnp.average(shares, weights=jnp.array(units, shares.dtype))
