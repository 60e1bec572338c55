"""Dropout without a random key: masks are functions of a counter kept with the parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from plasticity.shapes import Array, Float, Key

DROPOUT = "dropout"
"""The collection of counters, one per network."""

OFFSETS = 2**22
"""Counters start below this: from there a float32 counts 12 million steps exactly."""


# Dropout.


def start_counter(key: Key[Array, ""]) -> Float[Array, ""]:
    """Return a counter of optimizer steps that starts at a random number below `OFFSETS`.

    >>> import jax
    >>> from plasticity.networks import dropout
    >>> counter = dropout.start_counter(jax.random.key(0))
    >>> 0 <= float(counter) < dropout.OFFSETS
    True
    """
    return jax.random.randint(key, (), 0, OFFSETS, jnp.int32).astype(jnp.float32)


def dropout_key(counter: Float[Array, ""]) -> Key[Array, ""]:
    """Return the random key of this step.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks.dropout import dropout_key
    >>> now, later = (dropout_key(jnp.array(step)) for step in (7.0, 8.0))
    >>> bool(now == dropout_key(jnp.array(7.0))), bool(now == later)
    (True, False)
    """
    return jax.random.key(jax.lax.stop_gradient(counter).astype(jnp.uint32))
