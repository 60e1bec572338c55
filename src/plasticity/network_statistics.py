"""Statistics of a network that have been conjectured to explain its plasticity.

The literature uses some of these names for different things; each docstring says which one is
meant and where it comes from.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from plasticity.shapes import Array, Float


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
