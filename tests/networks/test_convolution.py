"""Convolution by patches against loops and against XLA, and the network that is made of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity import devices
from plasticity.networks import convolution
from plasticity.networks.architectures import CNN

EPS = float(np.finfo(np.float64).eps)
AXES = ("NHWC", "HWIO", "NHWC")
KEY = jax.random.key(0)


@pytest.fixture
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def lax_form(images: jax.Array, kernel: jax.Array, strides: Any, padding: Any) -> jax.Array:
    return jax.lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=AXES)


def loop_form(images: np.ndarray, kernel: np.ndarray, strides: Any, padding: Any) -> np.ndarray:
    """The definition, entry by entry, with explicit padding."""
    padded = np.pad(images, [(0, 0), *padding, (0, 0)])
    kh, kw, _, features = kernel.shape
    shape = [(n - k) // s + 1 for n, k, s in zip(padded.shape[1:3], (kh, kw), strides, strict=True)]
    out = np.zeros((len(images), *shape, features))
    for b, y, x, f in itertools.product(*map(range, out.shape)):
        top, left = y * strides[0], x * strides[1]
        out[b, y, x, f] = np.sum(padded[b, top : top + kh, left : left + kw] * kernel[..., f])
    return out


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((1, 2), (0, 3))])
def test_a_convolution_is_its_definition(padding: Any) -> None:
    images, kernel = random(2, 6, 5, 3), random(3, 2, 3, 4, seed=1)
    found = convolution.by_patches(jnp.asarray(images), jnp.asarray(kernel), (2, 1), padding)
    expected = loop_form(images, kernel, (2, 1), padding)
    np.testing.assert_allclose(found, expected, atol=4 * kernel[..., 0].size * 10 * EPS)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("size", "kernel", "strides", "padding"),
    [
        ((7, 7), (3, 3), (1, 1), "SAME"),
        ((7, 7), (3, 3), (2, 2), "SAME"),
        ((8, 8), (5, 5), (2, 2), "SAME"),
        ((8, 8), (5, 5), (2, 2), "SAME_LOWER"),
        ((9, 6), (3, 2), (3, 3), "SAME"),
        ((9, 6), (4, 3), (2, 3), "SAME"),
        ((7, 7), (3, 3), (1, 1), "VALID"),
        ((8, 7), (3, 3), (2, 2), "VALID"),
        ((10, 9), (3, 4), (3, 1), "VALID"),
        ((5, 5), (5, 5), (1, 1), "VALID"),
        ((5, 5), (1, 1), (3, 3), "VALID"),
        ((7, 6), (3, 3), (2, 2), ((1, 0), (2, 3))),
        ((7, 6), (3, 3), (3, 2), [(0, 0), (1, 1)]),
        ((1, 1), (3, 3), (1, 1), "SAME"),
    ],
)
def test_values_and_gradients_are_those_of_xla(
    size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int], padding: Any
) -> None:
    images, weights = random(3, *size, 2), random(*kernel, 2, 4, seed=1)

    def both(form: Callable[..., jax.Array]) -> Any:
        def run(images: jax.Array, weights: jax.Array) -> Any:
            out, pull = jax.vjp(lambda x, w: form(x, w, strides, padding), images, weights)
            return out, *pull(jnp.sin(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))

        return jax.jit(run)(jnp.asarray(images), jnp.asarray(weights))

    expected = both(lax_form)
    # A sum of n products errs by at most n eps times the sum of their sizes.
    for name, ours, theirs in zip(
        ("values", "by images", "by kernel"), both(convolution.by_patches), expected, strict=True
    ):
        assert ours.dtype == np.float64
        assert ours.shape == theirs.shape
        terms = {
            "values": weights[..., 0].size,
            "by images": weights[:, :, 0].size,
            "by kernel": expected[0][..., 0].size,
        }[name]
        largest = np.abs(images).max() * max(np.abs(weights).max(), 1)
        np.testing.assert_allclose(ours, theirs, atol=terms**2 * largest * EPS, err_msg=name)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("named", "padding"),
    [(((1, 2), (0, 3)), ((1, 2), (0, 3))), ("VALID", ((0, 0), (0, 0))), ("SAME", ((1, 1), (0, 1)))],
)
def test_patches_are_what_the_kernel_sees_in_the_order_of_its_entries(
    named: Any, padding: Any
) -> None:
    images, kernel, strides = random(2, 6, 5, 3), random(4, 2, 3, 4, seed=1), (2, 1)
    found = np.asarray(convolution.patches(jnp.asarray(images), (4, 2), strides, named))
    padded = np.pad(images, [(0, 0), *padding, (0, 0)])
    shape = [(n - k) // s + 1 for n, k, s in zip(padded.shape[1:3], (4, 2), strides, strict=True)]
    assert found.shape == (4 * 2 * 3, 2, *shape)
    expected = np.full(found.shape, np.nan)
    for b, y, x in itertools.product(*map(range, found.shape[1:])):
        for entry, (i, j, c) in enumerate(itertools.product(range(4), range(2), range(3))):
            expected[entry, b, y, x] = padded[b, 2 * y + i, x + j, c]
    np.testing.assert_array_equal(found, expected)
    product = np.einsum("ebyx,ef->byxf", found, kernel.reshape(4 * 2 * 3, 4))
    by_loops = loop_form(images, kernel, strides, padding)
    np.testing.assert_allclose(product, by_loops, atol=24 * 10 * EPS)


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [((13, 17), (8, 8), 4), ((9, 12), (4, 6), 2), ((5, 5), (3, 3), 1)]
)
@pytest.mark.usefixtures("double")
def test_blocks_are_the_same_convolution(
    size: tuple[int, int], kernel: tuple[int, int], stride: int
) -> None:
    images = jnp.asarray(random(2, *size, 3))
    weights = jnp.asarray(random(*kernel, 3, 4, seed=1))
    strides = (stride, stride)

    def both(form: Callable[..., jax.Array]) -> Any:
        def total(images: jax.Array, weights: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(form(images, weights, strides, "VALID")))

        return form(images, weights, strides, "VALID"), jax.grad(total, (0, 1))(images, weights)

    ours, theirs = (
        jax.tree.leaves(both(convolution.convolve_in_blocks)),
        jax.tree.leaves(both(lax_form)),
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_blocks_must_fill_the_kernel_and_take_no_padding() -> None:
    images, weights = jnp.asarray(random(1, 9, 9, 1)), jnp.asarray(random(4, 4, 1, 2))
    for strides, padding in (((3, 3), "VALID"), ((2, 2), "SAME")):
        with pytest.raises(NotImplementedError, match="in blocks"):
            convolution.convolve_in_blocks(images, weights, strides, padding)


@pytest.mark.parametrize(
    "arguments",
    [
        {"lhs_dilation": (2, 1)},
        {"rhs_dilation": (1, 2)},
        {"feature_group_count": 2},
        {"batch_group_count": 2},
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
    ],
    ids=str,
)
def test_what_has_no_form_by_patches_says_so(arguments: dict[str, Any]) -> None:
    images, kernel = jnp.ones((2, 4, 4, 4)), jnp.ones((3, 3, 4, 4))
    with pytest.raises(NotImplementedError):
        convolution.by_patches(images, kernel, (1, 1), "SAME", **arguments)


def test_precision_and_type_are_those_asked_for() -> None:
    images = jnp.asarray(random(1, 3, 3, 2), jnp.bfloat16)
    kernel = jnp.asarray(random(2, 2, 2, 3, seed=1), jnp.bfloat16)
    found = convolution.by_patches(
        images, kernel, (1, 1), "VALID", preferred_element_type=jnp.float32
    )
    assert found.dtype == jnp.float32
    jaxpr = jax.make_jaxpr(
        lambda x, w: convolution.by_patches(x, w, (1, 1), "VALID", precision="highest")
    )(images, kernel)
    assert "Precision.HIGHEST" in str(jaxpr)


def test_channels_must_agree() -> None:
    plain = convolution.by_patches.__wrapped__  # the shape checker would be first
    with pytest.raises(ValueError, match="the images have 3 channels, the kernel 2"):
        plain(jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 2, 4)), (1, 1), "SAME")


@pytest.mark.parametrize("cpu", [True, False])
def test_the_axes_are_the_same_on_every_device(cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "is_cpu", lambda: cpu)
    images, kernel = jnp.asarray(random(2, 5, 6, 3)), jnp.asarray(random(3, 2, 3, 4, seed=1))
    found = convolution.convolve(images, kernel, (1, 1), "VALID")
    expected = loop_form(np.asarray(images), np.asarray(kernel), (1, 1), ((0, 0), (0, 0)))
    tolerance = 20 * kernel[..., 0].size * np.finfo(np.float32).eps
    np.testing.assert_allclose(found, expected, atol=tolerance)


# The network.

SMALL = {"outputs": 3, "channels": (3, 4), "widths": (6, 5)}


def drawn(model: CNN, x: jax.Array) -> Any:
    """Parameters of some size, biases as well; compiling the network's own draw takes seconds."""
    rng = np.random.default_rng(0)
    leaves = jax.eval_shape(model.init, KEY, x)
    return jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape) / 4, w.dtype), leaves)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_cnn_is_its_formula(layer_norm: bool) -> None:
    model, x = CNN(**SMALL, layer_norm=layer_norm), jnp.asarray(random(2, 7, 8, 2), jnp.float32)
    params = drawn(model, x)
    weights = jax.tree.map(lambda w: np.asarray(w, np.float64), params["params"])

    def normalised(values: np.ndarray, norm: dict[str, np.ndarray]) -> np.ndarray:
        axes = tuple(range(1, values.ndim))  # the whole layer of each image
        centred = values - values.mean(axes, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + 1e-6)
        return scaled * norm["scale"] + norm["bias"]

    value, hidden = np.asarray(x, np.float64), []
    # The padding that SAME means: 7 and 8 with a 5-kernel, then 4 and 4 with a 3-kernel, stride 2.
    for k, padding in enumerate((((2, 2), (1, 2)), ((0, 1), (0, 1)))):
        conv = weights[f"Conv_{k}"]
        value = loop_form(value, conv["kernel"], (2, 2), padding) + conv["bias"]
        if layer_norm:
            value = normalised(value, weights[f"LayerNorm_{k}"])
        value = np.maximum(value, 0)
        hidden.append(value.reshape(2, -1))
    value = hidden[-1]
    for k in range(2):
        dense = weights["MLP_0"][f"Dense_{k}"]
        value = value @ dense["kernel"] + dense["bias"]
        if layer_norm:
            value = normalised(value, weights["MLP_0"][f"LayerNorm_{k}"])
        value = np.maximum(value, 0)
        hidden.append(value)
    dense = weights["MLP_0"]["Dense_2"]
    found = jax.jit(model.apply)(params, x)
    tolerance = 300 * np.finfo(np.float32).eps  # sums of up to 75 terms, four layers deep
    expected = value @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(found.output, expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(found.hidden, hidden, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_a_cnn_is_the_same_in_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    x, model, found = jnp.asarray(random(2, 7, 8, 2), jnp.float32), CNN(**SMALL), []
    for cpu in (True, False):
        monkeypatch.setattr(devices, "is_cpu", lambda cpu=cpu: cpu)

        def loss(params: Any) -> Any:
            forward = model.apply(params, x)
            return jnp.sum(jnp.sin(forward.output)), forward

        params = drawn(model, x)
        found.append((params, jax.jit(jax.grad(loss, has_aux=True))(params)))
    (params, result), (other_params, other_result) = found
    jax.tree.map(np.testing.assert_array_equal, params, other_params)
    tolerance = 300 * np.finfo(np.float32).eps
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
        result, other_result,
    )  # fmt: skip


def shapes(model: CNN, image: tuple[int, int, int]) -> tuple[dict[str, Any], Any]:
    """The network at full size, nothing computed."""

    def run() -> Any:
        x = jnp.zeros((7, *image))
        params = model.init(KEY, x)
        return params["params"], model.apply(params, x)

    return jax.eval_shape(run)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("image", "stride", "positions", "total"),
    [
        ((28, 28, 1), 2, (14, 7), 910_026),
        ((28, 28, 1), 1, (28, 28), 12_952_266),
        ((32, 32, 3), 2, (16, 8), 1_158_986),
        ((32, 32, 3), 1, (32, 32), 16_887_626),
    ],
)
def test_parameters_and_activations_at_full_size(
    image: tuple[int, int, int], stride: int, positions: tuple[int, int], total: int
) -> None:
    model = CNN(10, strides=(stride, stride))
    params, forward = shapes(model, image)
    flat = 64 * positions[1] ** 2
    layers = [(25 * image[2], 64), (9 * 64, 64), (flat, 256), (256, 256), (256, 10)]
    assert total == sum(fan_in * units + units for fan_in, units in layers)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == total
    assert params["Conv_0"]["kernel"].shape == (5, 5, image[2], 64)
    assert params["Conv_1"]["kernel"].shape == (3, 3, 64, 64)
    expected = [(7, 64 * positions[0] ** 2), (7, flat), (7, 256), (7, 256)]
    assert [h.shape for h in forward.hidden] == expected
    assert forward.output.shape == (7, 10)


def test_layer_norm_adds_a_scale_and_a_bias_to_each_hidden_layer_and_nothing_else() -> None:
    def leaves(layer_norm: bool) -> dict[str, tuple[int, ...]]:
        params, _ = shapes(CNN(10, layer_norm=layer_norm), (28, 28, 1))
        found = jax.tree_util.tree_leaves_with_path(params)
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in found
        }

    plain, normed = leaves(False), leaves(True)
    assert normed.items() - plain.items() == {
        (f"{layer}/{leaf}", (size,))
        for layer, size in (
            ("LayerNorm_0", 64), ("LayerNorm_1", 64),
            ("MLP_0/LayerNorm_0", 256), ("MLP_0/LayerNorm_1", 256),
        )
        for leaf in ("scale", "bias")
    }  # fmt: skip
    assert plain.items() <= normed.items()


def test_layers_without_a_stride_each_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        shapes(CNN(10, strides=(2,)), (28, 28, 1))
