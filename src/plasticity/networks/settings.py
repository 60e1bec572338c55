"""Settings of A.2's networks and of the meaning of their outputs, each a small frozen dataclass.

A configuration holds one of each; ``kind`` names it in files and on the command line::

    network = CNN(channels=16, width=64)
    module = network.module(outputs=10)             # a linen module
    module.init(key, network.inputs(images))

Where the paper is silent a field's comment says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from plasticity import configuration
from plasticity.networks import architectures, heads, resnet, vit
from plasticity.shapes import Array

Shape = tuple[int, ...]
"""Of an image: (height, width, channels)."""


@dataclass(frozen=True)
class MLP:
    """A fully connected network of two hidden layers, on flat images.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks import settings
    >>> network = settings.MLP(width=64)
    >>> network.module(outputs=10).widths, network.inputs(jnp.ones((2, 4, 4, 1))).shape
    ((64, 64), (2, 16))
    """

    kind: Literal["mlp"] = "mlp"
    width: int = 512  # units of each hidden layer
    layer_norm: bool = False
    spectral_norm: bool = False  # of the first linear layer

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        configuration.check(self)
        configuration.require_positive(self, "width")

    @property
    def stateful(self) -> bool:
        """Whether it keeps state besides its parameters, advanced by optimizer steps."""
        return self.spectral_norm

    def module(self, outputs: int, learning: bool = False) -> nn.Module:
        """Return the network; ``learning``, as the loss sees it, makes no difference here."""
        return architectures.MLP(
            (self.width,) * 2, outputs, self.layer_norm, self.spectral_norm
        )  # fmt: skip

    def inputs(self, images: Array) -> Array:
        """Return images (batch, height, width, channels) as the network takes them: flat."""
        return images.reshape(images.shape[0], -1)

    def multiplications(self, shape: Shape, outputs: int) -> float:
        """Return how many multiplications an image takes, without biases and norms."""
        return float(self.width * (math.prod(shape) + self.width + outputs))


@dataclass(frozen=True)
class CNN:
    """Two convolutional and two fully connected layers.

    >>> from plasticity.networks import settings
    >>> settings.CNN(channels=16, width=64).module(outputs=10).channels
    (16, 16)
    """

    kind: Literal["cnn"] = "cnn"
    channels: int = 64  # of each convolution
    width: int = 256  # units of each fully connected hidden layer
    stride: int = 2  # of each convolution; not in the paper
    padding: Literal["SAME", "VALID"] = "SAME"  # not in the paper
    layer_norm: bool = False
    spectral_norm: bool = False  # of the first convolution

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        configuration.check(self)
        configuration.require_positive(self, "channels", "width", "stride")

    @property
    def stateful(self) -> bool:
        """Whether it keeps state besides its parameters, advanced by optimizer steps."""
        return self.spectral_norm

    def module(self, outputs: int, learning: bool = False) -> nn.Module:
        """Return the network; ``learning``, as the loss sees it, makes no difference here."""
        return architectures.CNN(
            outputs, channels=(self.channels,) * 2, strides=(self.stride,) * 2,
            padding=self.padding, widths=(self.width,) * 2, layer_norm=self.layer_norm,
            spectral_norm=self.spectral_norm,
        )  # fmt: skip

    def inputs(self, images: Array) -> Array:
        """Return images as the network takes them."""
        return images

    def multiplications(self, shape: Shape, outputs: int) -> float:
        """Return how many multiplications an image takes, without biases and norms."""
        pixels, area = shape[0] * shape[1], self.stride**2
        first, second = pixels / area, pixels / area**2  # positions of the two layers
        convolving = first * 25 * shape[2] * self.channels + second * 9 * self.channels**2
        return convolving + self.width * (second * self.channels + self.width + outputs)


@dataclass(frozen=True)
class ResNet18:
    """A residual network of 18 layers.

    >>> from plasticity.networks import settings
    >>> settings.ResNet18(width=8).module(outputs=10).groups
    8
    """

    kind: Literal["resnet"] = "resnet"
    width: int = 64  # channels of the first stage; He et al. (2016)
    layer_norm: bool = False
    spectral_norm: bool = False  # of the first convolution

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        configuration.check(self)
        configuration.require_positive(self, "width")

    @property
    def stateful(self) -> bool:
        """Whether it keeps state besides its parameters, advanced by optimizer steps."""
        return self.spectral_norm

    def module(self, outputs: int, learning: bool = False) -> nn.Module:
        """Return the network; ``learning``, as the loss sees it, makes no difference here."""
        return resnet.ResNet18(
            outputs, self.width, groups=math.gcd(32, self.width), layer_norm=self.layer_norm,
            spectral_norm=self.spectral_norm,
        )  # fmt: skip

    def inputs(self, images: Array) -> Array:
        """Return images as the network takes them."""
        return images

    def multiplications(self, shape: Shape, outputs: int) -> float:
        """Return about how many multiplications an image takes: half of what XLA counts."""
        return _counted(ResNet18(width=self.width), shape) + 8.0 * self.width * outputs


@dataclass(frozen=True)
class ViT:
    """A small vision transformer.

    >>> from plasticity.networks import settings
    >>> network = settings.ViT(width=64)
    >>> [network.module(10, learning).training for learning in (False, True)]  # dropout
    [False, True]
    """

    kind: Literal["vit"] = "vit"
    width: int = 256  # model dimension
    feed_forward: int = 1_024  # units of the feed-forward layer
    heads: int = 4  # of attention; not in the paper
    layer_norm: bool = False
    spectral_norm: bool = False  # of the embedding of patches

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        configuration.check(self)
        configuration.require_positive(self, "width", "feed_forward", "heads")
        configuration.require(
            self.width % self.heads == 0,
            f"width = {self.width}: must be a multiple of heads = {self.heads}",
        )

    @property
    def stateful(self) -> bool:
        """Whether it keeps state besides its parameters: always, dropout's counter."""
        return True

    def module(self, outputs: int, learning: bool = False) -> nn.Module:
        """Return the network; with ``learning``, as the loss sees it: with dropout."""
        return vit.ViT(
            outputs, width=self.width, feed_forward=self.feed_forward, heads=self.heads,
            layer_norm=self.layer_norm, spectral_norm=self.spectral_norm, training=learning,
        )  # fmt: skip

    def inputs(self, images: Array) -> Array:
        """Return images as the network takes them."""
        return images

    def multiplications(self, shape: Shape, outputs: int) -> float:
        """Return about how many multiplications an image takes: half of what XLA counts."""
        plain = ViT(width=self.width, feed_forward=self.feed_forward, heads=self.heads)
        return _counted(plain, shape) + float(self.width * outputs)


Network = MLP | CNN | ResNet18 | ViT


@dataclass(frozen=True)
class NatureCNN:
    """The network of DQN on Atari games (Mnih et al. 2015), in dqn_zoo's form.

    >>> from plasticity.networks import settings
    >>> settings.NatureCNN(layer_norm=True).module(outputs=6).outputs
    6
    """

    kind: Literal["nature_cnn"] = "nature_cnn"
    layer_norm: bool = False
    shared_bias: bool = True  # one for all actions

    def __post_init__(self) -> None:
        """Refuse other types."""
        configuration.check(self)

    def module(self, outputs: int) -> architectures.NatureCNN:
        """Return the network."""
        return architectures.NatureCNN(outputs, self.layer_norm, self.shared_bias)

    def multiplications(self, size: int, stack: int) -> float:
        """Return how many multiplications an observation takes, without the last layer."""
        total, side, depth = 0.0, size, stack
        for channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            side = (side - kernel) // stride + 1
            total += side**2 * channels * kernel**2 * depth
            depth = channels
        return total + 512 * side**2 * depth


@cache
def _counted(network: ResNet18 | ViT, shape: Shape) -> float:
    """Return half of what XLA counts for an image up to the last layer.

    Cached, and without norms or outputs, in which alone most arms of a grid differ: tracing takes
    some tenths of a second.
    """
    module, image = network.module(outputs=1), jnp.zeros((1, *shape))
    params = jax.eval_shape(module.init, jax.random.key(0), image)
    run = jax.jit(architectures.predictions(module))
    counted: Any = run.lower(params, jax.eval_shape(lambda: image)).cost_analysis()
    return float(counted["flops"]) / 2


@dataclass(frozen=True)
class Regression:
    """An output is the value of an action.

    >>> from plasticity.networks import settings
    >>> settings.Regression().head().bins
    1
    """

    kind: Literal["regression"] = "regression"

    def __post_init__(self) -> None:
        """Refuse another kind."""
        configuration.check(self)

    def head(self) -> heads.Head:
        """Return what reads the outputs."""
        return heads.SquaredError()


@dataclass(frozen=True)
class TwoHot:
    """Outputs are a distribution over values for each action (§6.2).

    >>> from plasticity.networks import settings
    >>> settings.TwoHot(bins=3).head()
    TwoHot(support=(-110.0, 0.0, 110.0))
    """

    kind: Literal["two_hot"] = "two_hot"
    bins: int = 221  # not in the paper
    # The first and last bin values, not in the paper. A fresh network predicts their middle, which
    # should be 0: otherwise its bootstrap targets are off by that much.
    low: float = -110.0
    high: float = 110.0  # with a discount of .99 no return is above 100

    def __post_init__(self) -> None:
        """Refuse values that are no support."""
        configuration.check(self)
        configuration.require_positive(self, "bins")
        try:
            self.head()
        except ValueError as error:
            raise configuration.ConfigError(str(error)) from None

    def head(self) -> heads.Head:
        """Return what reads the outputs."""
        return heads.TwoHot(tuple(np.linspace(self.low, self.high, self.bins).tolist()))


Output = Regression | TwoHot
