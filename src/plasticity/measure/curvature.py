"""The curvature of a loss at a network's parameters, from products with its Hessian only.

A network of d parameters has a Hessian of d² entries (Lyle et al. 2023, Eq. 2), which nobody can
store. One product with it costs a few gradients. From k such products Lanczos' method makes a
k × k matrix whose eigenvalues show the spectrum: its extremes exactly, its density approximately
(stochastic Lanczos quadrature: Ghorbani et al. 2019). In short::

    operator = curvature.hessian(loss, params, batch)
    spectrum = curvature.spectrum(operator, jax.random.key(0), order=64, probes=5)

Any ``loss(params, batch)`` that is a mean over the examples of the batch will do; parameters are
those of `plasticity.measure.contract`. All functions are jittable; a linear operator works on flat
vectors, the parameters that are trained raveled.

The scale of a loss does not matter: unless told a ``scale``, functions find that of the operator by
one more product, and work with eigenvalues near one.

Cost: k products per probe vector, each worth some gradients. Memory: k vectors of d numbers,
rounded up to whole blocks of 16, plus one more block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from plasticity.measure.flat import _check_loss, _examples, _in_chunks, _raveled
from plasticity.measure.lanczos import (
    BLOCK,
    Operator,
    _begin,
    _check_order,
    _fill_block,
    _random_direction,
    _scaled,
    _Unfinished,
    lanczos,
    ritz,
)
from plasticity.shapes import Array, Bool, Float, Int, Key

Loss = Callable[[Any, Any], Array]
"""(parameters, batch) → the mean loss over the batch; leaves of a batch are (examples, ...)."""

ORDER = 64
"""Lanczos steps of a spectral density."""


class Spectrum(NamedTuple):
    """A spectral density as weighted eigenvalue estimates, one row per probe vector."""

    nodes: Float[Array, "probes k"]  # Ritz values, ascending
    weights: Float[Array, "probes k"]  # of the nodes; each row adds up to one


class Extremes(NamedTuple):
    """The ends of a spectrum."""

    smallest: Float[Array, ""]
    largest: Float[Array, ""]
    error: Float[Array, ""]  # bound: each of the two is at least this close to an eigenvalue
    products: Int[Array, ""]  # how many products with the operator it took
    converged: Bool[Array, ""]  # whether the error is as small as requested


class Estimate(NamedTuple):
    """A mean over probe vectors and its standard error, which is NaN for one probe."""

    value: Array
    error: Array


# Operators.


def hessian(
    loss: Loss,
    params: Any,
    batch: Any,
    chunk_size: int | None = None,
    *,
    trainable: Any = None,
) -> Operator:
    """Return the Hessian of ``loss(·, batch)`` at ``params`` (Eq. 2).

    The gradient is linearised once, which keeps the activations of the whole batch. With a
    ``chunk_size`` it is recomputed at every product for that many examples at a time, which takes
    longer but only the memory of a chunk. ``trainable`` says which parameters it is in: see
    `plasticity.measure.contract`.

    Raises ValueError for parameters outside of the contract, an empty batch or a loss that is not
    scalar; outside jit also for a loss that is not finite, and for one that is no mean over
    examples if it is computed in chunks.

    >>> import jax.numpy as jnp
    >>> import plasticity as pl
    >>> def loss(params, batch):
    ...     x, y = batch
    ...     return jnp.mean((x @ params - y) ** 2)
    >>> batch = jnp.diag(jnp.array([1.0, 2.0])), jnp.zeros(2)
    >>> operator = pl.hessian(loss, jnp.ones(2), batch)
    >>> operator.product(jnp.ones(2)).round().tolist()
    [1.0, 4.0]
    """
    flat, unravel = _raveled(params, trainable)
    _examples(batch)

    def value(theta: Array, part: Any) -> Any:
        return loss(unravel(theta), part)

    _check_loss(value, flat, batch, chunk_size)
    gradient = jax.grad(value)
    if chunk_size is None:
        _, product = jax.linearize(lambda theta: gradient(theta, batch), flat)
        return Operator(product, flat.size, flat.dtype)

    def of_part(vector: Array, part: Any) -> Array:
        found: Array = jax.jvp(lambda theta: gradient(theta, part), (flat,), (vector,))[1]
        return found

    product = _in_chunks(of_part, batch, chunk_size)
    return Operator(product, flat.size, flat.dtype)


def gauss_newton(
    predict: Callable[[Any, Any], Array],
    output_loss: Callable[[Array, Any], Array],
    params: Any,
    batch: Any,
    chunk_size: int | None = None,
    *,
    trainable: Any = None,
) -> Operator:
    """Return the Gauss-Newton matrix Jᵀ H J of ``output_loss(predict(params, batch), batch)``.

    J is the Jacobian of the predictions in the parameters, H the Hessian of the loss in the
    predictions. The product is what remains of the full Hessian if the network is taken as linear.
    Positive semi-definite for a convex loss. ``chunk_size``, ``trainable`` and errors are as in
    `hessian`.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import curvature
    >>> operator = curvature.gauss_newton(
    ...     lambda params, x: x @ params, lambda made, x: jnp.mean(made**2), jnp.ones(2), jnp.eye(2)
    ... )
    >>> operator.product(jnp.array([1.0, 2.0])).tolist()
    [1.0, 2.0]
    """
    flat, unravel = _raveled(params, trainable)
    _examples(batch)

    def value(theta: Array, part: Any) -> Any:
        return output_loss(predict(unravel(theta), part), part)

    _check_loss(value, flat, batch, chunk_size)

    def linearised(part: Any) -> Callable[[Array], Array]:
        outputs, forward = jax.linearize(lambda theta: predict(unravel(theta), part), flat)
        backward = jax.linear_transpose(forward, flat)
        slope = jax.grad(lambda outputs: output_loss(outputs, part))

        def product(vector: Array) -> Array:
            curved = jax.jvp(slope, (outputs,), (forward(vector),))[1]
            found: Array = backward(curved)[0]
            return found

        return product

    if chunk_size is None:
        return Operator(linearised(batch), flat.size, flat.dtype)
    product = _in_chunks(lambda vector, part: linearised(part)(vector), batch, chunk_size)
    return Operator(product, flat.size, flat.dtype)


def proxy_loss(apply: Callable[[Any, Array], Array]) -> Loss:
    """Return the loss (f - stop(f) + ξ)² of §4.2 on batches (inputs, ξ), ξ shaped as predictions.

    It asks how easily the network can move its predictions in random directions. Its value is the
    mean of ξ² at all parameters; only its derivatives depend on them.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import curvature
    >>> loss = curvature.proxy_loss(lambda params, x: x @ params)
    >>> float(loss(jnp.ones(2), (jnp.eye(2), jnp.array([1.0, -1.0]))))
    1.0
    """

    def loss(params: Any, batch: tuple[Array, Array]) -> Float[Array, ""]:
        inputs, direction = batch
        outputs = apply(params, inputs)
        return jnp.mean((outputs - jax.lax.stop_gradient(outputs) + direction) ** 2)

    return loss


# Spectra, traces and eigenvalues.


def spectrum(
    operator: Operator,
    key: Key[Array, ""],
    order: int = ORDER,
    probes: int = 1,
    *,
    scale: float | None = None,
) -> Spectrum:
    """Return the spectral density by stochastic Lanczos quadrature (Ghorbani et al. 2019).

    Takes ``probes`` random start vectors, one after another, so that only one basis is kept. One is
    enough to see outliers; the bulk and the trace need five to ten. ``scale`` is a power of two
    near the size of the eigenvalues, where that is known; None: found by one more product. Raises
    ValueError unless 1 <= order <= d and probes >= 1.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import plasticity as pl
    >>> def loss(params, batch):
    ...     x, y = batch
    ...     return jnp.mean((x @ params - y) ** 2)
    >>> batch = jnp.diag(jnp.array([1.0, 2.0])), jnp.zeros(2)
    >>> found = pl.spectrum(pl.hessian(loss, jnp.ones(2), batch), jax.random.key(0), order=2)
    >>> found.nodes.round().tolist()
    [[1.0, 4.0]]
    """
    _check_order(operator, order)
    if probes < 1:
        raise ValueError(f"probes = {probes}: must be above 0")

    operator, unit = _scaled(operator, key, scale)

    def one(key: Array) -> Spectrum:
        found = lanczos(operator, _random_direction(key, operator), order)
        nodes, vectors = ritz(found.diagonal, found.off_diagonal)
        return Spectrum(nodes if unit is None else nodes * unit, vectors[0] ** 2)

    found: Spectrum = jax.lax.map(one, jax.random.split(key, probes))
    return found


def density(
    spectrum: Spectrum, grid: Float[Array, " points"], width: float | Float[Array, ""]
) -> Estimate:
    """Return the spectral density on ``grid``, each node spread as a Gaussian of ``width`` (A.1).

    Its integral is one. The error is the standard error over probe vectors at each point.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure.curvature import Spectrum, density
    >>> found = Spectrum(jnp.array([[0.0, 2.0]]), jnp.array([[0.75, 0.25]]))
    >>> density(found, jnp.array([0.0, 1.0, 2.0]), width=0.1).value.round().tolist()
    [3.0, 0.0, 1.0]
    """
    distance = (grid[None, None, :] - spectrum.nodes[:, :, None]) / width
    bumps = jnp.exp(-0.5 * distance**2) / (jnp.sqrt(2 * jnp.pi) * width)
    return _mean(jnp.sum(spectrum.weights[:, :, None] * bumps, axis=1))


def trace(spectrum: Spectrum, dimension: int) -> Estimate:
    """Return the trace of the operator: d times the mean of its spectrum.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure.curvature import Spectrum, trace
    >>> found = Spectrum(jnp.array([[0.0, 2.0]]), jnp.array([[0.75, 0.25]]))
    >>> float(trace(found, dimension=100).value)
    50.0
    """
    return _mean(dimension * jnp.sum(spectrum.weights * spectrum.nodes, axis=1))


def extremes(
    operator: Operator, key: Key[Array, ""], tolerance: float = 1e-4, most: int = 256
) -> Extremes:
    """Return the smallest and the largest eigenvalue, as exactly as requested.

    Lanczos' method makes `BLOCK` products at a time, up to ``most`` in all (at most d), and keeps
    ``most`` vectors, and one product more to know the scale. It stops early once the error is at
    most ``tolerance`` times the larger of the two absolute values. If a product is no number,
    neither are the ends and their error. Raises ValueError unless tolerance > 0 and most >= 1.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from plasticity.measure import curvature
    >>> operator = curvature.Operator(lambda v: jnp.array([1.0, 2.0, 6.0]) * v, 3, jnp.float32)
    >>> found = curvature.extremes(operator, jax.random.key(0))
    >>> round(float(found.smallest), 2), round(float(found.largest), 2), bool(found.converged)
    (1.0, 6.0, True)
    """
    if not tolerance > 0 or most < 1:
        raise ValueError(f"tolerance = {tolerance}, most = {most}: must be above 0")
    most = min(most, operator.dimension)
    scaled, unit = _scaled(operator, key, None)
    assert unit is not None
    begun = _begin(scaled, _random_direction(key, scaled), most)

    def ends(state: _Unfinished, made: Array) -> Extremes:
        # Couplings to vectors that are not computed yet do not belong to T.
        inside = jnp.where(jnp.arange(most - 1) < made - 1, state.coupling[:-1], 0)
        values, vectors = ritz(state.diagonal, inside)
        last = jnp.take(state.coupling, made - 1) * jnp.abs(jnp.take(vectors, made - 1, axis=0))
        error = jnp.maximum(last[0], last[-1])
        size = jnp.maximum(jnp.abs(values[0]), jnp.abs(values[-1]))
        # where a product is no number, neither are the ends, and no error is known
        known = jnp.isfinite(values[0]) & jnp.isfinite(values[-1])
        error = jnp.where(known, error, jnp.nan)
        return Extremes(values[0], values[-1], error, made, error <= tolerance * size)

    def go_on(carry: tuple[_Unfinished, Extremes]) -> Bool[Array, ""]:
        found = carry[1]
        begins = found.products == 0
        return (begins | ~jnp.isnan(found.error)) & ~found.converged & (found.products < most)

    def block(carry: tuple[_Unfinished, Extremes]) -> tuple[_Unfinished, Extremes]:
        state, found = carry
        state = _fill_block(scaled, state, found.products // BLOCK, most)
        return state, ends(state, jnp.minimum(found.products + BLOCK, most))

    nothing = jnp.zeros((), operator.dtype)
    unknown = Extremes(nothing, nothing, nothing, jnp.asarray(0), jnp.asarray(False))
    _, found = jax.lax.while_loop(go_on, block, (begun, unknown))
    return found._replace(
        smallest=found.smallest * unit, largest=found.largest * unit, error=found.error * unit
    )


def largest_eigenvalue(
    loss: Loss,
    params: Any,
    batch: Any,
    key: Key[Array, ""],
    order: int = 16,
    chunk_size: int | None = None,
    *,
    trainable: Any = None,
    scale: float | None = None,
) -> Float[Array, ""]:
    """Return λ₁ of the Hessian from a fixed number of products, to be logged in training.

    A lower bound, and a tight one for the outliers of a network's spectrum; `extremes` also says
    how tight. ``scale`` is as in `spectrum`. Raises as `hessian` and `lanczos` do.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from plasticity.measure.curvature import largest_eigenvalue
    >>> def loss(params, batch):
    ...     x, y = batch
    ...     return jnp.mean((x @ params - y) ** 2)
    >>> batch = jnp.diag(jnp.array([1.0, 2.0])), jnp.zeros(2)
    >>> found = largest_eigenvalue(loss, jnp.ones(2), batch, jax.random.key(0), order=2)
    >>> round(float(found), 2)
    4.0
    """
    operator = hessian(loss, params, batch, chunk_size, trainable=trainable)
    operator, unit = _scaled(operator, key, scale)
    found = lanczos(operator, _random_direction(key, operator), order)
    largest = ritz(found.diagonal, found.off_diagonal)[0][-1]
    return largest if unit is None else largest * unit


def _mean(values: Float[Array, "probes ..."]) -> Estimate:
    probes = values.shape[0]
    spread = jnp.std(values, axis=0, ddof=1) if probes > 1 else jnp.full_like(values[0], jnp.nan)
    return Estimate(jnp.mean(values, axis=0), spread / probes**0.5)
