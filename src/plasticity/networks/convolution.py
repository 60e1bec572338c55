"""Convolution as patches times a matrix: the same numbers as XLA's, and on a CPU far faster.

Inside a scan, XLA's gradient of a convolution by its kernel runs at about a hundredth of a CPU's
speed. Slices concatenated into patches and one matrix product run at nearly full speed. On an
accelerator XLA's own convolution is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from plasticity import devices
from plasticity.shapes import Array, Float

AXES = ("NHWC", "HWIO", "NHWC")
"""Axes of images, kernel and result, in flax's convention: batch, height, width, channels."""


def convolve(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kh kw channels features"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **lax_arguments: Any,
) -> Float[Array, "batch out_height out_width features"]:
    """Return the convolution, computed in the form that is fastest on this device.

    Has the signature of `jax.lax.conv_general_dilated`, so that it can replace it in
    ``flax.linen.Conv(conv_general_dilated=convolve)``; the axes are those of flax's ``Conv``.

    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from plasticity.networks.convolution import convolve
    >>> layer = nn.Conv(3, (2, 2), strides=(2, 2), conv_general_dilated=convolve)
    >>> made, params = layer.init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 1)))
    >>> made.shape
    (1, 2, 2, 3)
    """
    lax_arguments = {"dimension_numbers": AXES} | lax_arguments
    if devices.is_cpu():
        return by_patches(images, kernel, window_strides, padding, **lax_arguments)
    return jax.lax.conv_general_dilated(images, kernel, window_strides, padding, **lax_arguments)


def convolve_in_blocks(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kh kw channels features"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **lax_arguments: Any,
) -> Float[Array, "batch out_height out_width features"]:
    """Return the convolution, without padding, for a kernel whose size is a multiple of the stride.

    As `convolve`, but where that makes patches, blocks of rows x columns pixels (the stride) become
    channels first, which leaves a convolution of stride one. DQN's first layer (kernel eight,
    stride four) then takes 4 slices instead of 64: fewer to compile, and each a longer run of
    memory. Raises NotImplementedError for padding and for kernels of other sizes.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks.convolution import convolve_in_blocks
    >>> images, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 3))
    >>> convolve_in_blocks(images, kernel, (2, 2), "VALID")[0, :, :, 0].tolist()
    [[4.0, 4.0], [4.0, 4.0]]
    """
    height, width, channels, features = kernel.shape
    rows, columns = window_strides
    if padding != "VALID" or height % rows or width % columns:
        raise NotImplementedError(
            f"padding {padding}, kernel {height} x {width}, stride {rows} x {columns}: in blocks "
            "there is no padding, and a kernel is a multiple of its stride"
        )
    if not devices.is_cpu():
        return convolve(images, kernel, window_strides, padding, **lax_arguments)
    down, across = images.shape[1] // rows, images.shape[2] // columns
    cut = images[:, : down * rows, : across * columns]
    blocks = cut.reshape(len(images), down, rows, across, columns, channels)
    taps = kernel.reshape(height // rows, rows, width // columns, columns, channels, features)
    depth = rows * columns * channels
    return by_patches(
        blocks.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), down, across, depth),
        taps.transpose(0, 2, 1, 3, 4, 5).reshape(*taps.shape[0:3:2], depth, features),
        (1, 1), padding, **lax_arguments,
    )  # fmt: skip


def by_patches(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "kh kw channels features"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    dimension_numbers: Any = AXES,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Float[Array, "batch out_height out_width features"]:
    """Return the convolution as kh · kw strided slices, concatenated, times the kernel as a matrix.

    Raises NotImplementedError for dilated or grouped convolutions and for axes other than `AXES`,
    ValueError if the kernel's channels are not the images'.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks import convolution
    >>> images, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 3))
    >>> ours = convolution.by_patches(images, kernel, (2, 2), "SAME")
    >>> xla = jax.lax.conv_general_dilated(
    ...     images, kernel, (2, 2), "SAME", dimension_numbers=convolution.AXES)
    >>> bool(jnp.allclose(ours, xla))
    True
    """
    groups = (feature_group_count, batch_group_count)
    if (*lhs_dilation, *rhs_dilation, *groups) != (1, 1, 1, 1, 1, 1):
        raise NotImplementedError("dilated and grouped convolutions have no form by patches")
    order = jax.lax.conv_dimension_numbers(images.shape, kernel.shape, dimension_numbers)
    if order != jax.lax.conv_dimension_numbers(images.shape, kernel.shape, AXES):
        raise NotImplementedError(f"axes {dimension_numbers}: by patches they must be {AXES}")
    height, width, channels, features = kernel.shape
    if images.shape[-1] != channels:
        raise ValueError(f"the images have {images.shape[-1]} channels, the kernel {channels}")
    slices = patches(images, (height, width), window_strides, padding)
    matrix = kernel.reshape(height * width * channels, features)
    # Two axes only: on a CPU, XLA has a fast product for a single matrix, not for a batch.
    flat = jnp.matmul(
        matrix.T,
        slices.reshape(height * width * channels, -1),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    return flat.reshape(features, *slices.shape[1:]).transpose(1, 2, 3, 0)


def patches(
    images: Float[Array, "batch height width channels"],
    size: Sequence[int],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
) -> Float[Array, "entries batch out_height out_width"]:
    """Return what a kernel of ``size`` sees at each of its positions.

    Entries are ordered (kernel row, kernel column, channel), like the rows of a kernel
    (kh, kw, channels, features) that is reshaped to a matrix.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks.convolution import patches
    >>> image = jnp.arange(9.0).reshape(1, 3, 3, 1)
    >>> found = patches(image, (2, 2), (1, 1), "VALID")
    >>> found.shape, found[:, 0, 0, 0].tolist()  # all, and what the kernel sees in the first corner
    ((4, 1, 2, 2), [0.0, 1.0, 3.0, 4.0])
    """
    height, width = size
    rows, columns = window_strides
    pads = (
        jax.lax.padtype_to_pads(images.shape[1:3], (height, width), window_strides, padding)
        if isinstance(padding, str)
        else padding
    )
    # Channels first, so that slices are long runs of memory and patches simply concatenate them.
    planes = images.transpose(3, 0, 1, 2)
    padded = jnp.pad(planes, [(0, 0), (0, 0), *((int(low), int(high)) for low, high in pads)])
    out_height = (padded.shape[2] - height) // rows + 1
    out_width = (padded.shape[3] - width) // columns + 1
    return jnp.concatenate(
        [
            padded[
                :,
                :,
                i : i + rows * (out_height - 1) + 1 : rows,
                j : j + columns * (out_width - 1) + 1 : columns,
            ]
            for i in range(height)
            for j in range(width)
        ]
    )
