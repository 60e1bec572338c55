"""The ResNet-18 of Lyle et al. (2023, A.2), without batch normalisation."""

from __future__ import annotations

import flax.linen as nn

from plasticity.networks.architectures import LAYER, Forward, _conv
from plasticity.networks.convolution import convolve
from plasticity.shapes import Array, Float


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, with the input added to their result (He et al. 2016, Figure 2).

    Where the block changes the shape, the input passes through a 1x1 convolution (their option B).

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks.resnet import BasicBlock
    >>> block, x = BasicBlock(width=8, stride=2, groups=4), jnp.ones((1, 6, 6, 4))
    >>> made, params = jax.eval_shape(block.init_with_output, jax.random.key(0), x)
    >>> made.shape
    (1, 3, 3, 8)
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
    and no pooling follows. Then come four stages of two blocks, with ``base_width`` times 1, 2, 4
    and 8 channels. The last three begin with stride two (padded as SAME does it: for even sizes
    only at the right and below). A mean over positions and a dense layer follow.

    Batch normalisation would let examples see each other: no gradient of a single example (C_k), no
    action for a single image, and running statistics to copy to a target network. Group
    normalisation (Wu & He 2018), with as many parameters, replaces it. With ``layer_norm`` the same
    places have layer normalisation over positions and channels, as in `CNN`. The scale of a kernel
    that is normalised in either way does not affect the output, so ``spectral_norm`` changes only
    the size of gradients here.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks.resnet import ResNet18
    >>> network, images = ResNet18(outputs=10), jnp.ones((2, 32, 32, 3))
    >>> found, params = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    >>> found.output.shape, [layer.shape[1] for layer in found.hidden]
    ((2, 10), [64, 64, 128, 128, 256, 256, 512, 512])
    """

    outputs: int
    base_width: int = 64
    groups: int = 32  # for group normalisation, as in Wu & He; must divide the base width
    layer_norm: bool = False
    spectral_norm: bool = False  # of the first convolution

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Forward:
        """Return the outputs, shape (batch, outputs), and the activations of the eight blocks.

        Each is (batch, channels): the mean over positions after the block's last ReLU; the dense
        layer sees the last one. All positions of a batch would be hundreds of megabytes. As
        activations are never negative, a mean is zero if and only if all its positions are: a dead
        unit is a channel that is dead everywhere. ReLUs within a block are not included.
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


def _plain_conv(features: int, kernel: int, stride: int) -> nn.Conv:
    """Return a convolution without a bias, which a normalisation follows."""
    return nn.Conv(
        features, (kernel, kernel), (stride, stride), use_bias=False, conv_general_dilated=convolve
    )


def _normalise(x: Array, groups: int, layer_norm: bool) -> Array:
    norm = nn.LayerNorm(reduction_axes=LAYER) if layer_norm else nn.GroupNorm(groups)
    found: Array = norm(x)
    return found
