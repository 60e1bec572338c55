"""Statistics of a network that have been conjectured to explain its plasticity.

The literature uses some of these names for different things; each docstring says which one is
meant and where it comes from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from plasticity.shapes import Array, Float

# Two axes: not declared but checked in each function, so that tests see the error that users see.
Matrix = Float[Array, "..."]


# The ranks. All are functions of the singular values σ₁ ≥ σ₂ ≥ … of one matrix. Each is 0 for a
# zero matrix, and NaN for a matrix with a NaN or an infinity or where σ₁ overflows.


def singular_values(matrix: Matrix) -> Float[Array, " values"]:
    """Return the singular values of a (rows, columns) matrix, largest first: (min(rows, columns),).

    All of them are NaN if an entry is not finite. Raises ValueError unless the matrix has two axes
    and at least one entry.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import ranks
    >>> features = jnp.diag(jnp.array([4.0, 2.0, 1.0, 0.0]))
    >>> ranks.singular_values(features).round().tolist()
    [4.0, 2.0, 1.0, 0.0]
    """
    _require_matrix(matrix)
    if matrix.dtype.itemsize < 4:  # no solver takes half precision
        matrix = matrix.astype(jnp.float32)
    # Solvers may answer a NaN with anything, or never return (SciPy warns of that): they get none.
    finite = jnp.all(jnp.isfinite(matrix))
    values: Array = jnp.linalg.svd(jnp.where(finite, matrix, 0), compute_uv=False)
    return jnp.where(finite, values, jnp.nan)


def feature_rank(features: Matrix, epsilon: float = 0.01) -> Float[Array, ""]:
    """Return the number of singular values of Φ/√n above ε, Φ the features of n inputs.

    Source: Lyle et al. (2022, Eqs. (4), (5)); Lyle et al. (2023) plot it as the feature rank.
    ``features`` is (inputs, units). Of all the ranks only this one depends on the scale of the
    matrix and on which axis is which. Raises as `singular_values` does, and if ``epsilon`` < 0.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import ranks
    >>> features = jnp.diag(jnp.array([4.0, 2.0, 1.0, 0.0]))
    >>> float(ranks.feature_rank(features))
    3.0
    """
    return _feature_rank(singular_values(features), features.shape[0], epsilon)


def srank(matrix: Matrix, delta: float = 0.01) -> Float[Array, ""]:
    """Return the least k for which σ₁ + … + σₖ is at least 1 - δ of the sum of all.

    Source: Kumar et al. (2021, §3), who call it the *effective rank*, srank_δ; others call it the
    stable rank. It is neither `effective_rank` nor `stable_rank`. Raises ValueError as
    `singular_values` does, and unless 0 ≤ ``delta`` < 1.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import ranks
    >>> features = jnp.diag(jnp.array([4.0, 2.0, 1.0, 0.0]))
    >>> float(ranks.srank(features, delta=0.1)), float(ranks.srank(features, delta=0.2))
    (3.0, 2.0)
    """
    return _srank(singular_values(matrix), delta)


def approximate_rank(matrix: Matrix, delta: float = 0.01) -> Float[Array, ""]:
    """Return the least k for which σ₁² + … + σₖ² is at least 1 - δ of the sum of all squares.

    Source: Yang et al. (2020, §2), with 99 %: the number of (uncentred) principal components that
    explain that share of the variance. `srank` does the same with the σ. Raises as `srank` does.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import ranks
    >>> features = jnp.diag(jnp.array([4.0, 2.0, 1.0, 0.0]))
    >>> float(ranks.approximate_rank(features, delta=0.1))
    2.0
    """
    return _approximate_rank(singular_values(matrix), delta)


def effective_rank(matrix: Matrix) -> Float[Array, ""]:
    """Return exp(-Σ pᵢ log pᵢ) with pᵢ = σᵢ / Σⱼ σⱼ: the entropy of the spectrum as a number.

    Source: Roy and Vetterli (2007). For a matrix of rank r it lies between 1 and r; a zero matrix,
    which has no pᵢ, gets 0. Raises ValueError as `singular_values` does.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import ranks
    >>> features = jnp.diag(jnp.array([4.0, 2.0, 1.0, 0.0]))
    >>> round(float(ranks.effective_rank(features)), 2)
    2.6
    """
    # as one program: of zeros, parts of the formula are no numbers, which JAX may be told to find
    found: Array = jax.jit(_effective_rank)(singular_values(matrix))
    return found


def stable_rank(matrix: Matrix) -> Float[Array, ""]:
    """Return ‖Φ‖_F² / ‖Φ‖₂², which is Σ σᵢ² / σ₁².

    Source: Rudelson and Vershynin (2007, who call it the numerical rank). Raises ValueError as
    `singular_values` does.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import ranks
    >>> features = jnp.diag(jnp.array([4.0, 2.0, 1.0, 0.0]))
    >>> round(float(ranks.stable_rank(features)), 2)
    1.31
    """
    return _stable_rank(singular_values(matrix))


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
    """Divide by the largest: then squares neither overflow nor underflow, whatever the scale."""
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


def _require_matrix(matrix: Array) -> None:
    shape = jnp.shape(matrix)
    flatten = (
        ": x.reshape(len(x), -1) makes each place of a feature map a unit, "
        "x.reshape(-1, x.shape[-1]) each channel"
        if len(shape) > 2
        else ""
    )
    full = len(shape) == 2 and matrix.size > 0
    _require(full, f"need a matrix with entries, found shape {shape}{flatten}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
