"""Output heads that predict a distribution over fixed values, and what they encode and decode."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from plasticity.shapes import Array, Float


def two_hot(x: Float[Array, ""], support: Float[Array, " bins"]) -> Float[Array, " bins"]:
    """Return the distribution on ``support`` (ascending) with mean x and at most two atoms.

    A value outside of the support is moved to its nearest end. Inverse of `decode`.
    """
    x = jnp.clip(x, support[0], support[-1])
    above = jnp.clip(jnp.searchsorted(support, x, side="right"), 1, support.shape[0] - 1)
    low, high = support[above - 1], support[above]
    weight = (x - low) / (high - low)
    bins = support.shape[0]
    return (1 - weight) * jax.nn.one_hot(above - 1, bins) + weight * jax.nn.one_hot(above, bins)


def decode(
    logits: Float[Array, "*lead bins"], support: Float[Array, " bins"]
) -> Float[Array, "*lead"]:
    """Return the mean of the distribution softmax(logits) on ``support``."""
    # Of the highest precision: an accelerator would round the factors to its narrow format.
    return jnp.matmul(jax.nn.softmax(logits), support, precision="highest")
