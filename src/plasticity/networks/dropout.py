"""Dropout without a random key: masks are functions of a counter beside the parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from plasticity.shapes import Array, Float, Key

DROPOUT = "dropout"
"""The collection of counters, one a network."""

OFFSETS = 2**22
"""Counters start below this: a float32 counts on from there exactly for 12 million steps."""


# Dropout.


def start_counter(key: Key[Array, ""]) -> Float[Array, ""]:
    """Return a counter of optimizer steps that begins anywhere below `OFFSETS`."""
    return jax.random.randint(key, (), 0, OFFSETS).astype(jnp.float32)


def dropout_key(counter: Float[Array, ""]) -> Key[Array, ""]:
    """Return the random key of this step."""
    return jax.random.key(jax.lax.stop_gradient(counter).astype(jnp.uint32))
