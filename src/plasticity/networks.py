"""Networks whose hidden activations are part of their output.

A statistic of the features needs no second forward pass and no hook: a network returns what it
predicts together with what every hidden layer computed on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from plasticity.convolution import convolve
from plasticity.shapes import Array, Float


class Forward(NamedTuple):
    """What a network computes from a batch."""

    output: Float[Array, "batch outputs"]
    hidden: tuple[Float[Array, "batch _"], ...]  # activations after the nonlinearity, first to last


class MLP(nn.Module):
    """A fully connected ReLU network (Lyle et al. 2023, A.1 and A.2).

    Kernels start LeCun-normal and biases at zero (flax's defaults; the paper does not name its
    initialisation). With ``layer_norm`` each hidden layer is normalised before its ReLU.
    """

    widths: Sequence[int]
    outputs: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch features"]) -> Forward:
        """Return the outputs, shape (batch, outputs), and each hidden layer's activations."""
        hidden = []
        for width in self.widths:
            x = nn.Dense(width)(x)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = nn.relu(x)
            hidden.append(x)
        return Forward(nn.Dense(self.outputs)(x), tuple(hidden))


class CNN(nn.Module):
    """Two convolutional and two fully connected ReLU layers (Lyle et al. 2023, A.2).

    The paper gives kernels, channels and widths, but neither stride nor padding: ``strides`` of two
    by default, one as the other reading. With ``layer_norm`` every hidden layer is normalised
    before its ReLU, a convolutional one over its positions and channels together (Ba et al. 2016:
    over all units of the layer), with a scale and a bias a channel.
    """

    outputs: int
    channels: Sequence[int] = (64, 64)
    kernels: Sequence[int] = (5, 3)
    strides: Sequence[int] = (2, 2)
    padding: str = "SAME"
    widths: Sequence[int] = (256, 256)
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Forward:
        """Return the outputs, shape (batch, outputs), and each hidden layer's activations.

        Those of a convolutional layer are flattened: its units are channels at positions.
        """
        hidden = []
        layers = zip(self.channels, self.kernels, self.strides, strict=True)
        for channels, kernel, stride in layers:
            x = nn.Conv(
                channels, (kernel, kernel), (stride, stride), self.padding,
                conv_general_dilated=convolve,
            )(x)  # fmt: skip
            if self.layer_norm:
                x = nn.LayerNorm(reduction_axes=(-3, -2, -1))(x)
            x = nn.relu(x)
            hidden.append(x.reshape(x.shape[0], -1))
        dense = MLP(self.widths, self.outputs, self.layer_norm)(hidden[-1])
        return Forward(dense.output, (*hidden, *dense.hidden))


def predictions(network: nn.Module) -> Callable[[Any, Array], Array]:
    """Return ``apply(params, x)`` of one of these networks that gives its outputs alone.

    That is what `plasticity.probe` takes.
    """

    def apply(params: Any, x: Array) -> Array:
        found: Forward = network.apply(params, x)  # type: ignore[assignment]
        return found.output

    return apply
