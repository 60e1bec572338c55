"""Lanczos' method with full reorthogonalisation, for operators known by their products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from plasticity.shapes import Array, Float, Int, Key

BLOCK = 16
"""Steps of Lanczos' method between two checks of the extremes, and vectors per stored block."""


class Operator(NamedTuple):
    """A symmetric matrix, known by its products with vectors.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure.lanczos import Operator
    >>> operator = Operator(lambda v: jnp.array([1.0, 2.0, 6.0]) * v, 3, jnp.float32)
    >>> operator.product(jnp.ones(3)).tolist()
    [1.0, 2.0, 6.0]
    """

    product: Callable[[Float[Array, " d"]], Float[Array, " d"]]
    dimension: int  # d
    dtype: Any  # of the vectors


class Lanczos(NamedTuple):
    """A Q^T = Q^T T + r e_k^T with orthonormal rows of Q and tridiagonal T."""

    diagonal: Float[Array, " k"]  # of T
    off_diagonal: Float[Array, " k-1"]
    basis: Float[Array, "k d"]  # Q
    residual: Float[Array, " d"]  # r


def _scaled(
    operator: Operator, key: Key[Array, ""], scale: float | None
) -> tuple[Operator, Float[Array, ""] | None]:
    """Return the operator in units of its eigenvalues' size, and that unit: None if it is one.

    The unit is a power of two, by which nothing is rounded. Norms of vectors would otherwise
    overflow or vanish in float32 from eigenvalues of 1e19 or 1e-19 on.
    """
    if scale is not None and not 0 < scale < np.inf:
        raise ValueError(f"scale = {scale}: must be positive and finite")
    if scale == 1:
        return operator, None
    if scale is None:
        largest = jnp.max(jnp.abs(operator.product(_random_direction(key, operator))))
        known = jnp.isfinite(largest) & (largest > 0)
        exponent = jnp.frexp(jnp.where(known, largest, 1))[1]
        # beyond, the reciprocal is no normal number
        limit = -np.finfo(operator.dtype).minexp
        unit = jnp.ldexp(jnp.ones((), operator.dtype), jnp.clip(exponent, -limit, limit))
    else:
        unit = jnp.asarray(scale, operator.dtype)
    return operator._replace(product=lambda vector: operator.product(vector) / unit), unit


# Lanczos' method.


def lanczos(operator: Operator, start: Float[Array, " d"], order: int) -> Lanczos:
    """Return ``order`` steps of Lanczos' method from ``start``, fully reorthogonalised.

    Every new vector is made orthogonal to the last two by the three-term recurrence, then to all
    earlier ones by classical Gram-Schmidt, and once more if that removed much of it (Daniel et al.
    1976: twice is enough). Otherwise copies of outlying eigenvalues appear after some thirty steps.
    Once the vectors span everything that the operator makes of ``start``, all later ones are zero.
    Raises ValueError unless 1 <= order <= d.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure.lanczos import Operator, lanczos
    >>> operator = Operator(lambda v: jnp.array([1.0, 2.0, 6.0]) * v, 3, jnp.float32)
    >>> found = lanczos(operator, jnp.ones(3), order=2)
    >>> found.diagonal.shape, found.off_diagonal.shape, found.basis.shape
    ((2,), (1,), (2, 3))
    """
    _check_order(operator, order)
    state = _begin(operator, start, order)

    def fill(n: Array, state: _Unfinished) -> _Unfinished:
        return _fill_block(operator, state, n, order)

    state = jax.lax.fori_loop(0, len(state.blocks), fill, state)
    basis = jnp.concatenate(state.blocks)[:order]
    return Lanczos(state.diagonal, state.coupling[:-1], basis, state.residual)


class _Unfinished(NamedTuple):
    """Lanczos' method in progress; what is not yet computed is zero."""

    diagonal: Float[Array, " k"]
    coupling: Float[Array, " k"]  # of each vector with the next: norms of residuals
    # A loop that writes to an array and reads all of it copies it at every step. So the steps of a
    # block write to an array of their own, and only read the earlier blocks.
    blocks: tuple[Float[Array, "rows d"], ...]
    previous: Float[Array, " d"]  # the last vector
    residual: Float[Array, " d"]  # the next, to be normalised


def _begin(operator: Operator, start: Float[Array, " d"], order: int) -> _Unfinished:
    block = jnp.zeros((BLOCK, operator.dimension), operator.dtype)
    none = jnp.zeros((order,), operator.dtype)
    return _Unfinished(none, none, -(-order // BLOCK) * (block,), jnp.zeros_like(start), start)


def _fill_block(
    operator: Operator, state: _Unfinished, n: Int[Array, ""], order: int
) -> _Unfinished:
    """Take the steps of block ``n``, as far as ``order``."""
    first = n * BLOCK

    def step(k: Array, carry: tuple[_Unfinished, Array]) -> tuple[_Unfinished, Array]:
        found, block = carry
        size = jnp.linalg.norm(found.residual)
        current = found.residual / jnp.where(size > 0, size, 1)
        block = block.at[k - first].set(current)
        vector = operator.product(current)
        slope = jnp.vdot(current, vector)
        rest = vector - slope * current - size * found.previous
        rest = _orthogonal_to(state.blocks, n, block, rest)
        found = found._replace(
            diagonal=found.diagonal.at[k].set(slope),
            coupling=found.coupling.at[k].set(jnp.linalg.norm(rest)),
            previous=current,
            residual=rest,
        )
        return found, block

    end = jnp.minimum(first + BLOCK, order)
    begun = (state, jnp.zeros_like(state.blocks[0]))
    found, block = jax.lax.fori_loop(first, end, step, begun)
    blocks = tuple(jnp.where(n == i, block, other) for i, other in enumerate(state.blocks))
    filled: _Unfinished = found._replace(blocks=blocks)
    return filled


def _orthogonal_to(
    blocks: tuple[Array, ...], filled: Int[Array, ""], block: Array, vector: Array
) -> Array:
    """Return ``vector`` made orthogonal to ``block`` and the first ``filled`` of ``blocks``."""

    def less(part: Array, vector: Array, rest: Array) -> Array:
        return rest - (part @ vector) @ part

    def gram_schmidt(vector: Array) -> Array:
        rest = less(block, vector, vector)
        for i, part in enumerate(blocks):
            rest = jax.lax.cond(
                i < filled, less, lambda part, vector, rest: rest, part, vector, rest
            )
        return rest

    def again(once: Array) -> Array:
        twice = gram_schmidt(once)
        # If the second pass removes most of it, only rounding was left: the vector is in the span.
        return jnp.where(jnp.linalg.norm(twice) > 0.1 * jnp.linalg.norm(once), twice, 0)

    once = gram_schmidt(vector)
    enough = jnp.linalg.norm(once) > 2**-0.5 * jnp.linalg.norm(vector)
    rest: Array = jax.lax.cond(enough, lambda once: once, again, once)
    return rest


def ritz(
    diagonal: Float[Array, " k"], off_diagonal: Float[Array, " k-1"]
) -> tuple[Float[Array, " k"], Float[Array, "k k"]]:
    """Return the eigenvalues of a tridiagonal T, ascending, and its eigenvectors in columns.

    After a zero on the off-diagonal, where Lanczos' method ended, the diagonal is filled with its
    own first entry: that lies within the spectrum, and has no weight in the first vector.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure.lanczos import ritz
    >>> values, vectors = ritz(jnp.array([2.0, 2.0]), jnp.array([1.0]))
    >>> values.round().tolist(), vectors.shape
    ([1.0, 3.0], (2, 2))
    """
    none = jnp.zeros((1,), bool)
    ended = jnp.cumsum(jnp.concatenate([none, off_diagonal <= 0])) > 0
    diagonal = jnp.where(ended, diagonal[0], diagonal)
    off_diagonal = jnp.where(ended[1:], 0, off_diagonal)
    matrix = jnp.diag(diagonal) + jnp.diag(off_diagonal, 1) + jnp.diag(off_diagonal, -1)
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


def _check_order(operator: Operator, order: int) -> None:
    if not 1 <= order <= operator.dimension:
        raise ValueError(
            f"order = {order}: must lie between 1 and the number of parameters, "
            f"{operator.dimension}"
        )


def _random_direction(key: Key[Array, ""], operator: Operator) -> Float[Array, " d"]:
    return jax.random.normal(key, (operator.dimension,), operator.dtype)
