"""The networks of Lyle et al. (2023), which return hidden activations with their output.

A statistic of the features needs no second forward pass and no hook: a network returns its
predictions together with the activations of every hidden layer.

No network lets examples see each other: there is no batch normalisation. The interventions of §6.2
that are part of a network are its fields ``layer_norm`` and ``spectral_norm``; a two-hot encoding
is a network with outputs · bins outputs. With ``spectral_norm`` the first linear layer, and no
other, has the kernel W / σ_max(W) (Gogianu et al. 2021; Miyato et al. 2018). This needs state next
to the parameters: see `plasticity.networks.spectral`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from plasticity.networks.convolution import convolve, convolve_in_blocks
from plasticity.networks.spectral import SpectralConv, SpectralDense
from plasticity.shapes import Array, Float, UInt8


class Forward(NamedTuple):
    """What a network computes from a batch."""

    output: Float[Array, "batch outputs"]
    hidden: tuple[Float[Array, "batch _"], ...]  # activations after the nonlinearity, first to last


LAYER = (-3, -2, -1)
"""Axes over all units of a convolutional layer: its positions and channels together."""


class MLP(nn.Module):
    """A fully connected ReLU network (Lyle et al. 2023, A.1 and A.2).

    Kernels start LeCun-normal and biases at zero (flax's defaults; the paper does not name its
    initialisation). With ``layer_norm`` each hidden layer is normalised before its ReLU.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks import architectures
    >>> network, x = architectures.MLP((8, 4), outputs=2), jnp.ones((5, 3))
    >>> params = network.init(jax.random.key(0), x)
    >>> output, hidden = network.apply(params, x)
    >>> output.shape, [layer.shape for layer in hidden]
    ((5, 2), [(5, 8), (5, 4)])
    """

    widths: Sequence[int]
    outputs: int
    layer_norm: bool = False
    spectral_norm: bool = False  # of the first layer

    @nn.compact
    def __call__(self, x: Float[Array, "batch features"]) -> Forward:
        """Return the outputs, shape (batch, outputs), and each hidden layer's activations."""
        hidden = []
        for k, width in enumerate(self.widths):
            # Named, because flax would name a spectral layer after its class.
            x = _dense(self.spectral_norm and k == 0)(width, name=f"Dense_{k}")(x)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = nn.relu(x)
            hidden.append(x)
        last = len(self.widths)
        head = _dense(self.spectral_norm and last == 0)(self.outputs, name=f"Dense_{last}")
        return Forward(head(x), tuple(hidden))


class CNN(nn.Module):
    """Two convolutional and two fully connected ReLU layers (Lyle et al. 2023, A.2).

    The paper gives kernels, channels and widths, but neither stride nor padding: ``strides`` are
    two by default; one is the other plausible reading. With ``layer_norm`` every hidden layer is
    normalised before its ReLU, a convolutional one over its positions and channels together (Ba et
    al. 2016: over all units of the layer), with a scale and a bias per channel.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks import architectures
    >>> network, images = architectures.CNN(outputs=10), jnp.ones((5, 28, 28, 1))
    >>> found, params = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    >>> found.output.shape, [layer.shape for layer in found.hidden]
    ((5, 10), [(5, 12544), (5, 3136), (5, 256), (5, 256)])
    """

    outputs: int
    channels: Sequence[int] = (64, 64)
    kernels: Sequence[int] = (5, 3)
    strides: Sequence[int] = (2, 2)
    padding: str = "SAME"
    widths: Sequence[int] = (256, 256)
    layer_norm: bool = False
    spectral_norm: bool = False  # of the first convolution

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Forward:
        """Return the outputs, shape (batch, outputs), and each hidden layer's activations.

        A convolutional layer's activations are flattened: its units are channels at positions.
        """
        hidden = []
        layers = zip(self.channels, self.kernels, self.strides, strict=True)
        for k, (channels, kernel, stride) in enumerate(layers):
            x = _conv(self.spectral_norm and k == 0)(
                channels, (kernel, kernel), (stride, stride), self.padding,
                conv_general_dilated=convolve, name=f"Conv_{k}",
            )(x)  # fmt: skip
            if self.layer_norm:
                x = nn.LayerNorm(reduction_axes=LAYER)(x)
            x = nn.relu(x)
            hidden.append(x.reshape(x.shape[0], -1))
        dense = MLP(self.widths, self.outputs, self.layer_norm)(hidden[-1])
        return Forward(dense.output, (*hidden, *dense.hidden))


class NatureCNN(nn.Module):
    """The network of DQN (Mnih et al. 2015) in double DQN's form (Lyle et al. 2023, A.3).

    Three convolutions, 32 of 8x8 with stride 4, 64 of 4x4 with stride 2, 64 of 3x3, without
    padding, then 512 units, all ReLU. For 84x84 pixels that makes 1,684,128 parameters below the
    output layer. That layer has weights for each output and, with ``shared_bias``, one bias for all
    outputs (Van Hasselt et al. 2016, the tuned version). Every parameter, biases too, starts
    uniform between plus and minus one over the root of the layer's fan-in, as in dqn_zoo.

    With ``layer_norm`` each of the four hidden layers is normalised as in `CNN`.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks import architectures
    >>> network, frames = architectures.NatureCNN(outputs=6), jnp.zeros((1, 84, 84, 4), jnp.uint8)
    >>> found, params = jax.eval_shape(network.init_with_output, jax.random.key(0), frames)
    >>> found.output.shape, sum(leaf.size for leaf in jax.tree.leaves(params))
    ((1, 6), 1687201)
    """

    outputs: int
    layer_norm: bool = False
    shared_bias: bool = True

    @nn.compact
    def __call__(self, x: UInt8[Array, "batch height width frames"]) -> Forward:
        """Return the outputs, shape (batch, outputs), and each hidden layer's activations.

        Pixels are integers from 0 to 255; they are scaled to [0, 1] here.
        """
        hidden = []
        x = x.astype(jnp.float32) / 255
        for channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = nn.Conv(
                channels, (kernel, kernel), (stride, stride), "VALID",
                conv_general_dilated=convolve_in_blocks, **_uniform(kernel**2 * x.shape[-1]),
            )(x)  # fmt: skip
            if self.layer_norm:
                x = nn.LayerNorm(reduction_axes=LAYER)(x)
            x = nn.relu(x)
            hidden.append(x.reshape(x.shape[0], -1))
        x = nn.Dense(512, **_uniform(hidden[-1].shape[-1]))(hidden[-1])
        if self.layer_norm:
            x = nn.LayerNorm()(x)
        x = nn.relu(x)
        hidden.append(x)
        start = _uniform(x.shape[-1])
        output = nn.Dense(self.outputs, not self.shared_bias, **start)(x)
        if self.shared_bias:
            output = output + self.param("shared_bias", start["bias_init"], (1,))[None]
        return Forward(output, tuple(hidden))


def _uniform(fan_in: int) -> dict[str, Any]:
    """Return initializers for kernel and bias, uniform within ± 1 / √fan_in."""

    def start(key: Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return {"kernel_init": start, "bias_init": start}


def _dense(spectral: bool) -> type[nn.Dense]:
    return SpectralDense if spectral else nn.Dense


def _conv(spectral: bool) -> type[nn.Conv]:
    return SpectralConv if spectral else nn.Conv


def activations(network: nn.Module) -> Callable[[Any, Array], tuple[Array, ...]]:
    """Return ``hidden(params, x)`` for one of these networks: each hidden layer's activations.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks import architectures
    >>> network, x = architectures.MLP((8, 4), outputs=2), jnp.ones((5, 3))
    >>> hidden = architectures.activations(network)(network.init(jax.random.key(0), x), x)
    >>> [layer.shape for layer in hidden]
    [(5, 8), (5, 4)]
    """

    def hidden(params: Any, x: Array) -> tuple[Array, ...]:
        found: Forward = network.apply(params, x)  # type: ignore[assignment]
        return found.hidden

    return hidden


def predictions(network: nn.Module) -> Callable[[Any, Array], Array]:
    """Return ``apply(params, x)`` for one of these networks, with its outputs only.

    That is what `plasticity.measure.probe` takes.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks import architectures
    >>> network, x = architectures.MLP((8, 4), outputs=2), jnp.ones((5, 3))
    >>> apply = architectures.predictions(network)
    >>> apply(network.init(jax.random.key(0), x), x).shape
    (5, 2)
    """

    def apply(params: Any, x: Array) -> Array:
        found: Forward = network.apply(params, x)  # type: ignore[assignment]
        return found.output

    return apply
