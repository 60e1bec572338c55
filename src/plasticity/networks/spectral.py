"""Spectral normalisation, and the state that a network keeps besides its parameters.

A spectrally normalised layer keeps a vector, a network with dropout a counter. ``init`` returns
each in a collection of its own next to ``params``, so that ``apply`` stays a pure function of
variables and inputs: it needs no random key and changes nothing. State gets no gradient; only
`plasticity.networks.state.advanced`, which `plasticity.networks.state.advancing` calls at every
step, changes it.
"""

from __future__ import annotations

from typing import Any, no_type_check

import flax.linen as nn
import jax
import jax.numpy as jnp

from plasticity.shapes import Array, Float

SPECTRAL = "spectral"
"""The collection of vectors, one per normalised layer, under the path of that layer."""


# Spectral normalisation. flax's own `SpectralNorm` wraps a layer. That renames its parameters,
# needs a mutable collection in training, and leaves a plain `Dense` inside, for which
# `plasticity.measure.gradients` would take the gradient by the normalised kernel.


def leading_vector(kernel: Float[Array, "*in out"]) -> Float[Array, " out"]:
    """Return the right singular vector of the largest singular value; its sign is arbitrary.

    A convolutional kernel is read as the matrix of (patch entries, channels) (Miyato et al. 2018).

    >>> import jax.numpy as jnp
    >>> from plasticity.networks import spectral
    >>> vector = spectral.leading_vector(jnp.array([[1.0, 0.0], [0.0, 2.0]]))
    >>> [round(abs(entry), 3) for entry in vector.tolist()]
    [0.0, 1.0]
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    with jax.default_matmul_precision("highest"):
        _, vectors = jnp.linalg.eigh(matrix.T @ matrix)
    found: Array = vectors[:, -1]
    return found


def power_iteration(
    kernel: Float[Array, "*in out"], vector: Float[Array, " out"]
) -> Float[Array, " out"]:
    """Return Wᵀ W u / ‖Wᵀ W u‖, one step towards `leading_vector`; u itself where that is 0/0.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks import spectral
    >>> kernel, vector = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([0.6, 0.8])
    >>> [round(entry, 2) for entry in spectral.power_iteration(kernel, vector).tolist()]
    [0.18, 0.98]
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    with jax.default_matmul_precision("highest"):
        turned = matrix.T @ _unit(matrix @ vector)
    length = jnp.linalg.norm(turned)
    return jnp.where(length > 0, turned / jnp.where(length > 0, length, 1), vector)


def normalised(
    kernel: Float[Array, "*in out"], vector: Float[Array, " out"]
) -> Float[Array, "*in out"]:
    """Return W / σ with σ = vᵀ W u and v = W u / ‖W u‖; a kernel of zeros stays zero.

    Derivatives take u and v as constants, as in Miyato et al. (2018, Eq. 12): with u the leading
    right singular vector, the gradient is that of W / σ_max. So do second derivatives, so a Hessian
    lacks the part that comes from u and v turning.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks import spectral
    >>> kernel = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> spectral.normalised(kernel, jnp.array([0.0, 1.0])).tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    matrix, u = kernel.reshape(-1, kernel.shape[-1]), jax.lax.stop_gradient(vector)
    with jax.default_matmul_precision("highest"):
        v = jax.lax.stop_gradient(_unit(matrix @ u))
        sigma = v @ (matrix @ u)
    return kernel / jnp.where(sigma > 0, sigma, 1)


def _unit(vector: Float[Array, " n"]) -> Float[Array, " n"]:
    length = jnp.linalg.norm(vector)
    return vector / jnp.where(length > 0, length, 1)


class _Spectral(nn.Module):
    """Returns every kernel divided by its largest singular value."""

    @nn.nowrap
    def param(self, name: str, *arguments: Any, **named: Any) -> Any:
        value = super().param(name, *arguments, **named)
        if name != "kernel":
            return value
        return normalised(value, self.variable(SPECTRAL, "vector", leading_vector, value).value)


# The fields of flax's layers have annotations that the shape checker of the tests cannot check.
@no_type_check
class SpectralDense(_Spectral, nn.Dense):
    """`flax.linen.Dense` with the kernel W / σ_max(W).

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks.spectral import SpectralDense
    >>> made, variables = SpectralDense(2).init_with_output(jax.random.key(0), jnp.eye(2))
    >>> sorted(variables), round(float(jnp.linalg.norm(made, 2)), 3)
    (['params', 'spectral'], 1.0)
    """


@no_type_check
class SpectralConv(_Spectral, nn.Conv):
    """`flax.linen.Conv` with the kernel W / σ_max(W), W read as in `leading_vector`.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks.spectral import SpectralConv
    >>> layer, images = SpectralConv(8, (3, 3)), jnp.ones((1, 5, 5, 2))
    >>> made, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), images)
    >>> made.shape, variables["spectral"]["vector"].shape
    ((1, 5, 5, 8), (8,))
    """
