"""Networks whose hidden activations are part of their output: those of Lyle et al. (2023).

A statistic of the features needs no second forward pass and no hook: a network returns what it
predicts together with what every hidden layer computed on the way.

Examples do not see each other in any of them: there is no batch normalisation. The interventions
of §6.2 that are part of a network are its fields ``layer_norm`` and ``spectral_norm``; a two-hot
encoding is a network with outputs · bins outputs. With ``spectral_norm`` the first linear layer,
and no other, has the kernel W / σ_max(W) (Gogianu et al. 2021; Miyato et al. 2018); what that takes
is state beside the parameters: see `plasticity.network_state`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from plasticity.convolution import convolve, convolve_in_blocks
from plasticity.network_state import (
    DROPOUT,
    SpectralConv,
    SpectralDense,
    dropout_key,
    start_counter,
)
from plasticity.shapes import Array, Float, UInt8


class Forward(NamedTuple):
    """What a network computes from a batch."""

    output: Float[Array, "batch outputs"]
    hidden: tuple[Float[Array, "batch _"], ...]  # activations after the nonlinearity, first to last


LAYER = (-3, -2, -1)
"""Axes of all units of a convolutional layer: its positions and channels together."""


class MLP(nn.Module):
    """A fully connected ReLU network (Lyle et al. 2023, A.1 and A.2).

    Kernels start LeCun-normal and biases at zero (flax's defaults; the paper does not name its
    initialisation). With ``layer_norm`` each hidden layer is normalised before its ReLU.
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
    spectral_norm: bool = False  # of the first convolution

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Forward:
        """Return the outputs, shape (batch, outputs), and each hidden layer's activations.

        Those of a convolutional layer are flattened: its units are channels at positions.
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
    """The network of DQN (Mnih et al. 2015) as double DQN has it (Lyle et al. 2023, A.3).

    Three convolutions, 32 of 8x8 with stride 4, 64 of 4x4 with stride 2, 64 of 3x3, without
    padding, then 512 units, all ReLU. Of 84x84 pixels that makes 1,684,128 parameters below the
    output layer, which has weights for each output and, with ``shared_bias``, one bias for all of
    them (Van Hasselt et al. 2016, the tuned version). Every parameter starts uniform between plus
    and minus one over the root of the layer's fan-in, biases too, as in dqn_zoo.

    With ``layer_norm`` each of the four hidden layers is normalised as in `CNN`.
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
    """Return initializers of kernel and bias, uniform within ± 1 / √fan_in."""

    def start(key: Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return {"kernel_init": start, "bias_init": start}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added back in (He et al. 2016, Figure 2).

    Where the block changes the shape, the input passes a 1x1 convolution (their option B).
    """

    width: int
    stride: int
    groups: int
    layer_norm: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns features"]:
        """Return the activations after the block's last ReLU."""
        y = _plain_conv(self.width, 3, self.stride)(x)
        y = nn.relu(_normalise(y, self.groups, self.layer_norm))
        y = _plain_conv(self.width, 3, 1)(y)
        y = _normalise(y, self.groups, self.layer_norm)
        if x.shape != y.shape:
            x = _plain_conv(self.width, 1, self.stride)(x)
            x = _normalise(x, self.groups, self.layer_norm)
        return nn.relu(x + y)


class ResNet18(nn.Module):
    """A residual network of 18 layers (He et al. 2016; Lyle et al. 2023, A.2).

    A.2 says no more than "a standard resnet18 architecture", which was made for images of 224
    pixels. This is its usual form for small images: the first convolution is 3x3 with stride one
    and no pooling follows. Then come four stages of two blocks, of ``base_width`` times 1, 2, 4 and
    8 channels, the last three beginning with stride two (padded as SAME has it, which for even
    sizes is to the right and below alone), the mean over positions, and a dense layer.

    Batch normalisation would let examples see each other: there would be no gradient of an example
    (C_k), no action for a single image, and running statistics to copy to a target network. Group
    normalisation (Wu & He 2018) stands in its place, with as many parameters. With ``layer_norm``
    the same places have layer normalisation over positions and channels, as in `CNN`. A kernel
    that is normalised in either way may be scaled without changing the output, so
    ``spectral_norm`` changes here the size of gradients only.
    """

    outputs: int
    base_width: int = 64
    groups: int = 32  # of group normalisation, as Wu & He have it; must divide the base width
    layer_norm: bool = False
    spectral_norm: bool = False  # of the first convolution

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Forward:
        """Return the outputs, shape (batch, outputs), and what each of the eight blocks computes.

        That is (batch, channels), the mean over positions of the activations after the block's
        ReLU; the last is what the dense layer sees. As they are never negative, a mean is zero if
        and only if all its positions are, so that a dead unit is a channel that is dead everywhere;
        all positions of a batch would be hundreds of megabytes. ReLUs within a block are not there.
        """
        stem = _conv(self.spectral_norm)(
            self.base_width, (3, 3), use_bias=False, conv_general_dilated=convolve, name="Conv_0"
        )
        x = nn.relu(_normalise(stem(x), self.groups, self.layer_norm))
        hidden = []
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                width = self.base_width * 2**stage
                x = BasicBlock(width, stride, self.groups, self.layer_norm)(x)
                hidden.append(x.mean(axis=(1, 2)))
        return Forward(nn.Dense(self.outputs)(hidden[-1]), tuple(hidden))


class ViT(nn.Module):
    """A small vision transformer (Dosovitskiy et al. 2020; Lyle et al. 2023, A.2).

    Patches of three pixels, a model of 256 dimensions, a feed-forward layer of 1,024, one block and
    dropout of .1 are the paper's. Where it is silent, we take Dosovitskiy et al.: layer norms
    before attention, before the feed-forward layer and at the end, GELU, a learned embedding of
    positions, a class token whose final state is the features, heads of 64 dimensions (so four),
    and dropout after the position embedding and every dense layer but queries, keys and values,
    none on attention weights. Images whose sides are no multiples of the patch are padded with
    zeros as SAME has it, 28 pixels to 30 and 32 to 33, so that no pixel is lost. Dense kernels
    start LeCun-normal and the output layer too, as in `MLP`.

    Every arm has those layer norms. ``layer_norm`` adds one after each fully connected hidden
    layer: after the embedding of patches, and before the GELU.

    ``training`` turns dropout on. Masks are functions of a counter beside the parameters, one more
    at each optimizer step, so that ``apply(variables, x)`` needs no random key. The loss that is
    learned from sees dropout, that of the agent and that of a probe's fit; acting, the target
    network, statistics, C_k and curvature do not.
    """

    outputs: int
    patch: int = 3
    width: int = 256
    feed_forward: int = 1024
    heads: int = 4
    dropout: float = 0.1
    layer_norm: bool = False
    spectral_norm: bool = False  # of the embedding of patches
    training: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Forward:
        """Return the outputs, shape (batch, outputs), and two layers' activations.

        These are of the feed-forward layer after the GELU, (batch, feed_forward), the mean over
        tokens, and the features, (batch, width). A GELU is never exactly off and features are
        normalised, so that dead and linearised units mean nothing here; ranks, norms and dormant
        units do. Statistics of weights take the class token and the positions for kernels.
        """
        drop = self._dropout()
        embed = _conv(self.spectral_norm)(
            self.width, (self.patch, self.patch), (self.patch, self.patch), "SAME",
            conv_general_dilated=convolve, name="embedding",
        )  # fmt: skip
        x = embed(x)
        x = x.reshape(x.shape[0], -1, self.width)
        if self.layer_norm:
            x = nn.LayerNorm(name="embedding_norm")(x)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        token = jnp.broadcast_to(token, (x.shape[0], 1, self.width))
        x = jnp.concatenate([token.astype(x.dtype), x], axis=1)
        position = nn.initializers.normal(0.02)
        x = drop(x + self.param("positions", position, (1, x.shape[1], self.width)), 0)
        x = x + drop(self._attention(nn.LayerNorm(name="attention_norm")(x)), 1)
        y = nn.LayerNorm(name="feed_forward_norm")(x)
        y = nn.Dense(self.feed_forward, name="feed_forward_in")(y)
        if self.layer_norm:
            y = nn.LayerNorm(name="hidden_norm")(y)
        hidden = nn.gelu(y, approximate=False)
        x = x + drop(nn.Dense(self.width, name="feed_forward_out")(drop(hidden, 2)), 3)
        features = nn.LayerNorm(name="features_norm")(x)[:, 0]
        output = nn.Dense(self.outputs, name="head")(features)
        return Forward(output, (hidden.mean(axis=1), features))

    def _attention(
        self, x: Float[Array, "batch tokens width"]
    ) -> Float[Array, "batch tokens width"]:
        """Let every token see all tokens.

        Of plain dense layers, and not flax's module of general ones: `gradient_covariance` is fast
        on these, and their kernels are matrices to the statistics of weights.
        """
        query, key, value = (
            nn.Dense(self.width, name=name)(x).reshape(*x.shape[:2], self.heads, -1)
            for name in ("query", "key", "value")
        )
        mixed = nn.dot_product_attention(query, key, value)
        return nn.Dense(self.width, name="projection")(mixed.reshape(x.shape))

    def _dropout(self) -> Callable[[Array, int], Array]:
        """Return dropout, by what it is applied to and the place, which has masks of its own."""
        counter = self.variable(DROPOUT, "counter", lambda: start_counter(self.make_rng("params")))
        step = dropout_key(counter.value)

        def drop(x: Array, place: int) -> Array:
            layer = nn.Dropout(self.dropout, deterministic=not self.training)
            found: Array = layer(x, rng=jax.random.fold_in(step, place))
            return found

        return drop


def _dense(spectral: bool) -> type[nn.Dense]:
    return SpectralDense if spectral else nn.Dense


def _conv(spectral: bool) -> type[nn.Conv]:
    return SpectralConv if spectral else nn.Conv


def _plain_conv(features: int, kernel: int, stride: int) -> nn.Conv:
    """Return a convolution without a bias, which a normalisation follows."""
    return nn.Conv(
        features, (kernel, kernel), (stride, stride), use_bias=False, conv_general_dilated=convolve
    )


def _normalise(x: Array, groups: int, layer_norm: bool) -> Array:
    norm = nn.LayerNorm(reduction_axes=LAYER) if layer_norm else nn.GroupNorm(groups)
    found: Array = norm(x)
    return found


def predictions(network: nn.Module) -> Callable[[Any, Array], Array]:
    """Return ``apply(params, x)`` of one of these networks that gives its outputs alone.

    That is what `plasticity.probe` takes.
    """

    def apply(params: Any, x: Array) -> Array:
        found: Forward = network.apply(params, x)  # type: ignore[assignment]
        return found.output

    return apply
