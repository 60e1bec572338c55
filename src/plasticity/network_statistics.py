"""Statistics of a network that have been conjectured to explain its plasticity.

The literature uses some of these names for different things; each docstring says which one is
meant and where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from plasticity.shapes import Array, Float

# Two axes. Not said here but checked in each function, so that tests see the error that users see.
Matrix = Float[Array, "..."]


def dead_units(activations: Float[Array, "batch units"]) -> Float[Array, ""]:
    """Return the fraction of units that are zero on every input of the batch.

    This is the *dead* (saturated) unit of Lyle et al. (2023, §4.1): a ReLU unit whose
    pre-activation is never positive receives no gradient from these inputs. It is not the
    *dormant* unit of Sokar et al. (2023), which may be small without being zero.
    """
    ever_active = jnp.any(activations > 0, axis=0)
    return 1.0 - jnp.mean(ever_active)


def weight_norm(params: Any) -> Float[Array, ""]:
    """Return the Euclidean norm of all weights: kernels only, neither biases nor scales.

    A leaf counts as a kernel when it has two or more axes.
    """
    kernels = [leaf for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) >= 2]
    norm: Array = optax.tree.norm(kernels)
    return norm


# The ranks. All are functions of the singular values σ₁ ≥ σ₂ ≥ … of one matrix. Of a zero matrix
# each is 0; of a matrix with a NaN or an infinity each is NaN, and so they are where σ₁ overflows.


def singular_values(matrix: Matrix) -> Float[Array, " values"]:
    """Return the singular values of a (rows, columns) matrix, largest first: (min(rows, columns),).

    All of them are NaN if an entry is not finite. Raises ValueError unless the matrix has two axes
    and at least one entry.
    """
    _require_matrix(matrix)
    # Solvers may answer a NaN with anything, or never (SciPy warns of that): they get none.
    finite = jnp.all(jnp.isfinite(matrix))
    values: Array = jnp.linalg.svd(jnp.where(finite, matrix, 0), compute_uv=False)
    return jnp.where(finite, values, jnp.nan)


def feature_rank(features: Matrix, epsilon: float = 0.01) -> Float[Array, ""]:
    """Return the number of singular values of Φ/√n above ε, Φ the features of n inputs.

    Source: Lyle et al. (2022, Eqs. (4), (5)); Lyle et al. (2023) plot it as the feature rank.
    ``features`` is (inputs, units). Alone among the ranks it depends on the scale of its matrix and
    on which axis is which. Raises ValueError as `singular_values` does and if ``epsilon`` < 0.
    """
    return _feature_rank(singular_values(features), features.shape[0], epsilon)


def srank(matrix: Matrix, delta: float = 0.01) -> Float[Array, ""]:
    """Return the least k for which σ₁ + … + σₖ reaches the share 1 - δ of the sum of all.

    Source: Kumar et al. (2021, §3), who call it the *effective rank*, srank_δ; others call it the
    stable rank. It is neither `effective_rank` nor `stable_rank`. Raises ValueError as
    `singular_values` does, and unless 0 ≤ ``delta`` < 1.
    """
    return _srank(singular_values(matrix), delta)


def approximate_rank(matrix: Matrix, delta: float = 0.01) -> Float[Array, ""]:
    """Return the least k for which σ₁² + … + σₖ² reaches the share 1 - δ of the sum of all squares.

    Source: Yang et al. (2020, §2), with 99 %: as many principal components, uncentred, as explain
    that share of the variance. `srank` asks the same of the σ themselves. Raises as `srank` does.
    """
    return _approximate_rank(singular_values(matrix), delta)


def effective_rank(matrix: Matrix) -> Float[Array, ""]:
    """Return exp(-Σ pᵢ log pᵢ) with pᵢ = σᵢ / Σⱼ σⱼ: the entropy of the spectrum as a number.

    Source: Roy and Vetterli (2007). For a matrix of rank r it lies between 1 and r; a zero matrix,
    which has no pᵢ, gets 0. Raises ValueError as `singular_values` does.
    """
    return _effective_rank(singular_values(matrix))


def stable_rank(matrix: Matrix) -> Float[Array, ""]:
    """Return ‖Φ‖_F² / ‖Φ‖₂², which is Σ σᵢ² / σ₁².

    Source: Rudelson and Vershynin (2007, who call it the numerical rank). Raises ValueError as
    `singular_values` does.
    """
    return _stable_rank(singular_values(matrix))


def weight_rank(params: Any) -> Float[Array, ""]:
    """Return the `srank` of each kernel, summed over kernels.

    Lyle et al. (2023, Fig. 3) plot a *weight rank* that they do not define; this definition is
    ours. A kernel is a leaf with two or more axes, as in `weight_norm`, read as a matrix of
    (fan-in, fan-out): the last axis against all others. Raises ValueError for an empty kernel.
    """
    kernels = [leaf for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) >= 2]
    ranks = [srank(k.reshape(math.prod(k.shape[:-1]), k.shape[-1])) for k in kernels]
    return sum(ranks, jnp.zeros(()))


# The units. A comparison with NaN is False, which would count as an answer: hence `_if_finite`.


def dormant_ratio(activations: Matrix, tau: float = 0.025) -> Float[Array, ""]:
    """Return the share of units whose mean size is at most τ times the layer's mean of these.

    Source: Sokar et al. (2023, Definition 3.1). ``activations`` is (batch, units), of one layer.
    The means are compared and not divided, so that in a layer of zeros every unit is dormant.
    A dead ReLU unit is dormant; a dormant one need not be dead. NaN if an activation is not finite.
    Raises ValueError unless ``activations`` has two axes and at least one entry, and if ``tau`` is
    negative.
    """
    _require_matrix(activations)
    _require(tau >= 0, f"tau = {tau}: must not be below 0")
    size = jnp.mean(jnp.abs(activations), axis=0)
    typical = jnp.mean(size)
    return _if_finite(typical, jnp.mean(size <= tau * typical))


def linearised_units(activations: Matrix) -> Float[Array, ""]:
    """Return the share of ReLU units that are active, above zero, on every input of the batch.

    Source: the linearised ("zombie") units of Lyle et al. (2024): on these inputs such a unit is a
    linear one. ``activations`` is (batch, units), after the ReLU. NaN if an activation is not
    finite. Raises ValueError unless ``activations`` has two axes and at least one entry.
    """
    _require_matrix(activations)
    return _if_finite(activations, jnp.mean(jnp.all(activations > 0, axis=0)))


def of_network(
    hidden: Sequence[Float[Array, "batch _"]], params: Any
) -> dict[str, Float[Array, ""]]:
    """Return every statistic of this module for one network, by name, at the default thresholds.

    ``hidden`` holds the activations of each hidden layer on one batch, first to last, as in
    `networks.Forward`. The shares of dead, dormant and linearised units count all units of all
    layers alike, so that a wide layer weighs more. The five ranks are of the last hidden layer, the
    features, from a single decomposition. Raises ValueError if there is no hidden layer, and as the
    statistics do.
    """
    _require(len(hidden) > 0, "a network without hidden layers has no features")
    values = singular_values(hidden[-1])
    return {
        "weight_norm": weight_norm(params),
        "weight_rank": weight_rank(params),
        # compiled, `dead_units` may round to just below 0
        "dead_units": _over_units(lambda h: _if_finite(h, jnp.maximum(dead_units(h), 0)), hidden),
        "dormant_ratio": _over_units(dormant_ratio, hidden),
        "linearised_units": _over_units(linearised_units, hidden),
        "feature_rank": _feature_rank(values, hidden[-1].shape[0]),
        "srank": _srank(values),
        "approximate_rank": _approximate_rank(values),
        "effective_rank": _effective_rank(values),
        "stable_rank": _stable_rank(values),
    }


# The formulas, from singular values.


def _feature_rank(values: Array, n: int, epsilon: float = 0.01) -> Array:
    _require(epsilon >= 0, f"epsilon = {epsilon}: must not be below 0")
    above = values / n**0.5 > epsilon
    return _if_finite(values, jnp.sum(above, dtype=values.dtype))


def _srank(values: Array, delta: float = 0.01) -> Array:
    return _least_reaching(_relative(values), delta)


def _approximate_rank(values: Array, delta: float = 0.01) -> Array:
    return _least_reaching(_relative(values) ** 2, delta)


def _effective_rank(values: Array) -> Array:
    relative = _relative(values)
    total = jnp.sum(relative)
    entropy = jnp.sum(jax.scipy.special.entr(relative / total))  # 0 log 0 = 0
    return _unless_zero(total, jnp.exp(entropy))


def _stable_rank(values: Array) -> Array:
    return jnp.sum(_relative(values) ** 2)


def _relative(values: Array) -> Array:
    """Divide by the largest: no scale of the matrix then overflows or underflows when squared."""
    return values / jnp.where(values[0] == 0, 1, values[0])


def _least_reaching(terms: Array, delta: float) -> Array:
    """Return how many of the first terms (descending, none negative) reach 1 - δ of their sum."""
    _require(0 <= delta < 1, f"delta = {delta}: must lie in [0, 1)")
    reached = jnp.cumsum(terms)
    short = reached < (1 - delta) * reached[-1]
    return _unless_zero(reached[-1], 1 + jnp.sum(short, dtype=terms.dtype))


def _unless_zero(total: Array, rank: Array) -> Array:
    """Return the rank where the sum over the spectrum is positive, else that sum: 0 or NaN."""
    return jnp.where(total > 0, rank, total)


def _if_finite(array: Array, statistic: Array) -> Array:
    return jnp.where(jnp.all(jnp.isfinite(array)), statistic, jnp.nan)


def _over_units(statistic: Callable[[Array], Array], layers: Sequence[Array]) -> Array:
    """Average a share of units over layers, each layer weighted by its number of units."""
    units = [layer.shape[1] for layer in layers]
    shares = jnp.stack([statistic(layer) for layer in layers])
    return jnp.average(shares, weights=jnp.array(units, shares.dtype))


def _require_matrix(matrix: Array) -> None:
    found = f"found shape {jnp.shape(matrix)}"
    _require(jnp.ndim(matrix) == 2 and matrix.size > 0, f"need a matrix with entries, {found}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
