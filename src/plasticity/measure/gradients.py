"""Whether examples pull a network the same way: C_k of Lyle et al. (2023, Eq. 3).

.. math:: C_k[i, j] = \\frac{\\langle g_i, g_j \\rangle}{\\lVert g_i \\rVert \\lVert g_j \\rVert},
    \\qquad g_i = \\nabla_\\theta \\ell(\\theta, x_i)

For k examples and d parameters the gradients are k · d numbers. None of them is needed: for a dense
layer with inputs H and gradients D at its outputs the inner products are (H Hᵀ + 1) ∘ (D Dᵀ), and a
convolution needs only k small kernels. `plasticity.measure.inner_products` uses this for flax
networks of dense, convolutional and normalising layers; `naive_gram` takes any loss, but holds all
gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.cluster.vq import kmeans2

from plasticity.measure import ranks
from plasticity.measure.flat import _check_scalar, _examples, _raveled
from plasticity.shapes import Array, Float, Int


class Covariance(NamedTuple):
    """C_k, and what it was made from."""

    cosines: Float[Array, "k k"]  # C_k; zero in rows and columns of examples without gradient
    norms: Float[Array, " k"]  # of each example's gradient


class Summary(NamedTuple):
    """C_k in a few numbers; pairs are of two different examples with nonzero gradients."""

    negative_share: Float[Array, ""]  # of pairs: with a cosine below -0.1 they interfere
    collinearity: Float[Array, ""]  # mean |cosine| of pairs: 1 if all gradients share a line
    mean: Float[Array, ""]  # mean cosine of pairs
    rank: Float[Array, ""]  # of C_k: `plasticity.measure.ranks.effective_rank`
    zero_share: Float[Array, ""]  # of examples without any gradient, as in a dead network


def gradient_covariance(
    loss: Callable[[Any, Any], Float[Array, ""]], params: Any, batch: Any, *, trainable: Any = None
) -> Covariance:
    """Return C_k (Eq. 3) of any network, holding the gradient of each example.

    ``loss(params, example)`` is the loss of one example: a slice of ``batch`` without the leading
    axis. Cosines do not depend on the sizes of the gradients, however small or large these are.
    ``trainable`` says which parameters they are of: see `plasticity.measure.contract`. For a linen
    network `plasticity.measure.inner_products.covariance` needs far less memory and time.

    Raises ValueError for parameters outside of the contract, an empty batch or a loss that is not
    scalar.

    >>> import jax.numpy as jnp
    >>> import plasticity as pl
    >>> def loss(params, example):
    ...     x, y = example
    ...     return (jnp.vdot(params, x) - y) ** 2
    >>> x = jnp.array([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> pl.gradient_covariance(loss, jnp.zeros(2), (x, jnp.ones(3))).cosines.tolist()
    [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]
    """
    rows = _rows(loss, params, batch, trainable)
    sizes = jnp.max(jnp.abs(rows), axis=1)
    unit = jnp.where((sizes > 0) & jnp.isfinite(sizes), sizes, 1)
    found = covariance(_products(rows / unit[:, None]))
    return found._replace(norms=found.norms * unit)


def covariance(gram: Float[Array, "k k"]) -> Covariance:
    """Return C_k (Eq. 3) from the inner products of the gradients.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import gradients
    >>> found = gradients.covariance(jnp.array([[4.0, -2.0], [-2.0, 4.0]]))
    >>> found.cosines.tolist(), found.norms.tolist()
    ([[1.0, -0.5], [-0.5, 1.0]], [2.0, 2.0])
    """
    norms = jnp.sqrt(jnp.maximum(jnp.diag(gram), 0))
    inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
    return Covariance(gram * inverse[:, None] * inverse[None, :], norms)


def summary(found: Covariance) -> Summary:
    """Return `Summary`; statistics of pairs are NaN with fewer than two nonzero gradients.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import gradients
    >>> inner = jnp.array([[1.0, -0.5, 0.5], [-0.5, 1.0, 0.0], [0.5, 0.0, 1.0]])
    >>> found = gradients.summary(gradients.covariance(inner))
    >>> round(float(found.negative_share), 2), round(float(found.collinearity), 2)
    (0.33, 0.33)
    """
    k = found.norms.shape[0]
    alive = found.norms > 0
    pairs = alive[:, None] & alive[None, :] & ~jnp.eye(k, dtype=bool)
    count = jnp.sum(pairs)

    def mean(values: Array) -> Float[Array, ""]:
        return jnp.sum(jnp.where(pairs, values, 0)) / count

    return Summary(
        negative_share=mean(found.cosines < -0.1),
        collinearity=mean(jnp.abs(found.cosines)),
        mean=mean(found.cosines),
        rank=ranks.effective_rank(found.cosines),
        zero_share=1 - jnp.mean(alive),
    )


def kmeans_order(cosines: np.ndarray, clusters: int, seed: int = 0) -> Int[np.ndarray, " k"]:
    """Return an order of the examples that keeps those of a cluster together (A.1).

    Rows of C_k are clustered by k-means, and the largest cluster comes first. If there are fewer
    distinct rows than ``clusters``, each is a cluster. Raises ValueError unless
    1 <= clusters <= k, and for entries that are not finite.

    >>> import numpy as np
    >>> from plasticity.measure.gradients import kmeans_order
    >>> sign = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    >>> kmeans_order(np.outer(sign, sign), clusters=2).tolist()
    [0, 2, 4, 1, 3]
    """
    cosines = np.asarray(cosines, np.float64)
    if not 1 <= clusters <= len(cosines):
        raise ValueError(f"{clusters} clusters of {len(cosines)} examples")
    if not np.isfinite(cosines).all():
        raise ValueError("there are entries that are not finite")
    clusters = min(clusters, len(np.unique(cosines, axis=0)))  # k-means++ divides by zero beyond
    _, label = kmeans2(cosines, clusters, minit="++", rng=np.random.default_rng(seed))
    size = np.bincount(label, minlength=clusters)
    place = np.empty(clusters, int)
    place[np.argsort(-size, kind="stable")] = np.arange(clusters)
    return np.argsort(place[label], kind="stable")


# Inner products of gradients.


def naive_gram(
    loss: Callable[[Any, Any], Float[Array, ""]], params: Any, batch: Any, *, trainable: Any = None
) -> Float[Array, "k k"]:
    """Return the inner products of the gradients of ``loss(params, example)``, holding them all.

    For any loss of one example: a slice of ``batch`` without the leading axis. Raises ValueError as
    `gradient_covariance` does.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure.gradients import naive_gram
    >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    >>> naive_gram(lambda params, x: jnp.vdot(params, x), jnp.zeros(2), x).tolist()
    [[1.0, 1.0], [1.0, 2.0]]
    """
    return _products(_rows(loss, params, batch, trainable))


def _rows(
    loss: Callable[[Any, Any], Float[Array, ""]], params: Any, batch: Any, trainable: Any
) -> Float[Array, "k d"]:
    """Return the gradient of each example as a vector."""
    flat, whole = _raveled(params, trainable)
    _examples(batch)

    def value(theta: Array, example: Any) -> Any:
        return loss(whole(theta), example)

    _check_scalar(value, flat, jax.tree.map(lambda leaf: leaf[0], batch))
    rows: Array = jax.vmap(jax.grad(value), (None, 0))(flat, batch)
    return rows


def _products(rows: Float[Array, "k d"]) -> Float[Array, "k k"]:
    with jax.default_matmul_precision("highest"):
        return rows @ rows.T
