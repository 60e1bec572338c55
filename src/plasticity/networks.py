"""Networks whose hidden activations are part of their output.

A statistic of the features needs no second forward pass and no hook: a network returns what it
predicts together with what every hidden layer computed on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn

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
