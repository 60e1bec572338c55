"""Networks and their statistics where the answer is known."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from plasticity.measure import snapshot, units
from plasticity.networks import convolution
from plasticity.networks.architectures import CNN, MLP, Forward, NatureCNN
from plasticity.networks.resnet import BasicBlock, ResNet18
from plasticity.networks.vit import ViT

KEY = jax.random.key(0)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_an_mlp_is_its_formula(layer_norm: bool) -> None:
    model, x = MLP((7, 5), 3, layer_norm), jax.random.normal(KEY, (4, 6))
    params = model.init(KEY, x)
    weights = jax.tree.map(np.asarray, params["params"])
    expected, hidden = np.asarray(x), []
    for k in range(2):
        dense = weights[f"Dense_{k}"]
        expected = expected @ dense["kernel"] + dense["bias"][None]
        if layer_norm:
            norm = weights[f"LayerNorm_{k}"]
            centred = expected - expected.mean(1, keepdims=True)
            expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
            expected = expected * norm["scale"][None] + norm["bias"][None]
        expected = np.maximum(expected, 0)
        hidden.append(expected)
    expected = expected @ weights["Dense_2"]["kernel"] + weights["Dense_2"]["bias"][None]
    found = model.apply(params, x)
    tolerance = 100 * np.finfo(np.float32).eps  # a few dozen roundings deep
    np.testing.assert_allclose(found.output, expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(found.hidden, hidden, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_layer_norm_adds_a_scale_and_a_bias_for_each_hidden_unit() -> None:
    x = jnp.zeros((1, 6))
    plain, normed = (MLP((7, 5), 3, n).init(KEY, x) for n in (False, True))
    count = [sum(leaf.size for leaf in jax.tree.leaves(p)) for p in (plain, normed)]
    assert count == [6 * 7 + 7 + 7 * 5 + 5 + 5 * 3 + 3, count[0] + 2 * (7 + 5)]


def test_kernels_start_lecun_normal_and_biases_at_zero() -> None:
    params = MLP((4096,), 3).init(KEY, jnp.zeros((1, 100)))["params"]["Dense_0"]
    np.testing.assert_allclose(params["kernel"].std(), 0.1, rtol=0.01)  # 1 / sqrt(fan-in)
    assert not params["bias"].any()


def test_all_negative_biases_are_all_dead() -> None:
    model, x = MLP((8, 4), 2), jax.random.uniform(KEY, (16, 6))
    params = model.init(KEY, x)["params"]
    params["Dense_0"]["bias"] = jnp.full(8, -1e3)
    first, second = model.apply({"params": params}, x).hidden
    assert units.dead_units(first) == 1.0
    # a layer fed by zeros sees only its bias, which starts at zero: dead as well
    assert units.dead_units(second) == 1.0


def test_a_unit_is_alive_if_one_input_wakes_it() -> None:
    activations = jnp.zeros((5, 4)).at[3, 1].set(1e-30).at[:, 2].set(2.0)
    assert units.dead_units(activations) == 0.5


def test_the_weight_norm_is_of_kernels_alone() -> None:
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.array([8.0])}
    assert snapshot.weight_norm(params) == 6.0


# What recorded runs were made with: the networks as they were before they had further fields.


class RecordedMLP(nn.Module):
    layer_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> Forward:
        hidden = []
        for width in (7, 5):
            x = nn.Dense(width)(x)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = nn.relu(x)
            hidden.append(x)
        return Forward(nn.Dense(3)(x), tuple(hidden))


class RecordedCNN(nn.Module):
    layer_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> Forward:
        hidden = []
        for channels, kernel in ((3, 5), (4, 3)):
            x = nn.Conv(
                channels, (kernel, kernel), (2, 2), conv_general_dilated=convolution.convolve
            )(x)
            if self.layer_norm:
                x = nn.LayerNorm(reduction_axes=(-3, -2, -1))(x)
            x = nn.relu(x)
            hidden.append(x.reshape(x.shape[0], -1))
        dense = MLP((7, 5), 3, self.layer_norm)(hidden[-1])
        return Forward(dense.output, (*hidden, *dense.hidden))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_networks_of_recorded_runs_are_what_they_were(layer_norm: bool) -> None:
    for model, recorded, shape in (
        (MLP((7, 5), 3, layer_norm), RecordedMLP(layer_norm), (4, 6)),
        (
            CNN(3, (3, 4), widths=(7, 5), layer_norm=layer_norm),
            RecordedCNN(layer_norm),
            (4, 8, 7, 2),
        ),
    ):
        x = jax.random.normal(KEY, shape)
        params = model.init(KEY, x)
        # Names, numbers and the computation itself are the same, to the bit.
        jax.tree.map(np.testing.assert_array_equal, params, recorded.init(KEY, x))
        assert str(jax.make_jaxpr(model.apply)(params, x)) == str(
            jax.make_jaxpr(recorded.apply)(params, x)
        )


# Residual networks and transformers.


def drawn(model: nn.Module, x: jax.Array) -> Any:
    """Variables of some size, biases as well; compiling the network's own draw takes longer."""
    rng = np.random.default_rng(0)
    leaves = jax.eval_shape(model.init, KEY, x)
    return jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape) / 2, w.dtype), leaves)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize(("width", "stride"), [(6, 2), (4, 1)])
def test_a_block_is_its_formula(layer_norm: bool, width: int, stride: int, double: None) -> None:
    model = BasicBlock(width, stride, groups=2, layer_norm=layer_norm)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 5, 4)))
    params = jax.tree.map(lambda w: w.astype(float), drawn(model, x))

    def conv(name: str, x: Any, stride: int) -> Any:
        axes = ("NHWC", "HWIO", "NHWC")
        kernel = params["params"][name]["kernel"]
        strides = (stride, stride)
        return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=axes)

    def norm(k: int, x: Any) -> np.ndarray:
        weights = params["params"][f"{'LayerNorm' if layer_norm else 'GroupNorm'}_{k}"]
        groups = np.split(np.asarray(x), 1 if layer_norm else 2, axis=-1)
        axes = (1, 2, 3)
        scaled = [
            (g - g.mean(axes, keepdims=True)) / np.sqrt(g.var(axes, keepdims=True) + 1e-6)
            for g in groups
        ]
        return np.concatenate(scaled, -1) * np.asarray(weights["scale"]) + np.asarray(
            weights["bias"]
        )

    y = np.maximum(norm(0, conv("Conv_0", x, stride)), 0)
    y = norm(1, conv("Conv_1", jnp.asarray(y), 1))
    short = np.asarray(x) if (width, stride) == (4, 1) else norm(2, conv("Conv_2", x, stride))
    found = model.apply(params, x)
    np.testing.assert_allclose(found, np.maximum(y + short, 0), rtol=1e-10, atol=1e-10)
    assert len(params["params"]) == (4 if (width, stride) == (4, 1) else 6)


def test_a_resnet_ends_in_means_over_positions_and_sees_one_example_at_a_time() -> None:
    model, x = ResNet18(3, base_width=2, groups=1), jax.random.normal(KEY, (3, 9, 9, 1))
    params = drawn(model, x)
    apply = jax.jit(model.apply)
    found, other = apply(params, x), apply(params, x.at[1:].multiply(-3.0))
    assert [h.shape for h in found.hidden] == [(3, w) for w in (2, 2, 4, 4, 8, 8, 16, 16)]
    assert all((h >= 0).all() and h.any() for h in found.hidden)
    dense = params["params"]["Dense_0"]
    expected = found.hidden[-1] @ dense["kernel"] + dense["bias"][None]
    np.testing.assert_allclose(found.output, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert (ours[1:] != theirs[1:]).any()


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_vit_is_its_formula(layer_norm: bool, double: None) -> None:
    model = ViT(3, width=6, feed_forward=5, heads=2, layer_norm=layer_norm)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 5, 2)))
    variables = jax.tree.map(lambda w: w.astype(float), drawn(model, x))
    weights = jax.tree.map(np.asarray, variables["params"])

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return np.asarray(x @ weights[name]["kernel"] + weights[name]["bias"])

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return np.asarray(scaled * weights[name]["scale"] + weights[name]["bias"])

    # 4 and 5 pixels are padded to 6: by one on each side, and by one at the end.
    padded = np.pad(np.asarray(x), [(0, 0), (1, 1), (0, 1), (0, 0)])
    output, hidden, features = [], [], []
    for image in padded:
        patches = [image[i : i + 3, j : j + 3].ravel() for i in (0, 3) for j in (0, 3)]
        kernel = weights["embedding"]["kernel"].reshape(-1, 6)
        tokens = np.stack(patches) @ kernel + weights["embedding"]["bias"]
        if layer_norm:
            tokens = norm("embedding_norm", tokens)
        tokens = np.concatenate([weights["class_token"][0], tokens]) + weights["positions"][0]
        before = norm("attention_norm", tokens)
        query, key, value = (dense(name, before) for name in ("query", "key", "value"))
        mixed = []
        for part in (slice(0, 3), slice(3, 6)):  # the heads
            attention = special.softmax(query[:, part] @ key[:, part].T / 3**0.5, axis=1)
            mixed.append(attention @ value[:, part])
        tokens = tokens + dense("projection", np.concatenate(mixed, axis=1))
        inner = dense("feed_forward_in", norm("feed_forward_norm", tokens))
        if layer_norm:
            inner = norm("hidden_norm", inner)
        inner = inner * special.ndtr(inner)  # GELU
        tokens = tokens + dense("feed_forward_out", inner)
        features.append(norm("features_norm", tokens)[0])
        hidden.append(inner.mean(axis=0))
        output.append(dense("head", features[-1]))
    found = jax.jit(model.apply)(variables, x)
    for ours, theirs in zip(jax.tree.leaves(found), (output, hidden, features), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


# How many parameters.


def shapes(model: nn.Module, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The leaves of a network of full size, nothing computed."""
    x = jnp.zeros((1, math.prod(shape)) if isinstance(model, MLP) else (1, *shape))
    found = jax.tree_util.tree_leaves_with_path(jax.eval_shape(model.init, KEY, x)["params"])
    return {jax.tree_util.keystr(path, simple=True, separator="/"): w.shape for path, w in found}


def count(leaves: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in leaves.values())


def of_resnet(channels: int) -> int:
    """Kernels, and a scale and a bias for each channel of each convolution."""
    total, seen = 9 * channels * 64 + 2 * 64, 64
    for width in (64, 64, 128, 128, 256, 256, 512, 512):
        total += 9 * seen * width + 9 * width * width + 4 * width
        total += (seen * width + 2 * width) if seen != width else 0
        seen = width
    return total + 512 * 10 + 10


def of_vit(channels: int, tokens: int) -> int:
    attention, forward = 4 * (256 * 256 + 256), (256 * 1024 + 1024) + (1024 * 256 + 256)
    norms, embedding = 3 * 2 * 256, 9 * channels * 256 + 256
    return embedding + 256 + tokens * 256 + attention + forward + norms + 256 * 10 + 10


MNIST, CIFAR = (28, 28, 1), (32, 32, 3)


@pytest.mark.parametrize(
    ("model", "image", "formula", "total"),
    [
        (MLP((512, 512), 10), MNIST, 785 * 512 + 513 * 512 + 5130, 669_706),
        (MLP((512, 512), 10), CIFAR, 3073 * 512 + 513 * 512 + 5130, 1_841_162),
        (CNN(10), MNIST, 26 * 64 + 577 * 64 + 3137 * 256 + 257 * 256 + 2570, 910_026),
        (CNN(10), CIFAR, 76 * 64 + 577 * 64 + 4097 * 256 + 257 * 256 + 2570, 1_158_986),
        (ResNet18(10), MNIST, of_resnet(1), 11_172_810),
        # The number published for the CIFAR form with batch normalisation, 11.17 M, is this one.
        (ResNet18(10), CIFAR, of_resnet(3), 11_173_962),
        (ViT(10), MNIST, of_vit(1, 10 * 10 + 1), 821_514),
        (ViT(10), CIFAR, of_vit(3, 11 * 11 + 1), 831_498),
    ],
)
def test_parameters_at_full_size(
    model: nn.Module, image: tuple[int, int, int], formula: int, total: int
) -> None:
    plain = shapes(model, image)
    assert count(plain) == formula == total
    # Spectral normalisation adds none, a two-hot encoding changes the last layer alone.
    assert shapes(model.clone(spectral_norm=True), image) == plain
    binned = shapes(model.clone(outputs=10 * 51), image)
    changed = {name for name in plain if plain[name] != binned[name]}
    last = {MLP: "Dense_2", CNN: "MLP_0/Dense_2", ResNet18: "Dense_0", ViT: "head"}[type(model)]
    assert plain.keys() == binned.keys() and changed == {f"{last}/kernel", f"{last}/bias"}
    assert [binned[f"{last}/{leaf}"][-1] for leaf in ("kernel", "bias")] == [510, 510]


def test_layer_norm_adds_to_a_vit_two_and_replaces_those_of_a_resnet() -> None:
    plain, normed = (shapes(ViT(10, layer_norm=n), MNIST) for n in (False, True))
    assert normed.items() - plain.items() == {
        (f"{name}/{leaf}", (size,))
        for name, size in (("embedding_norm", 256), ("hidden_norm", 1024))
        for leaf in ("scale", "bias")
    }
    assert plain.items() <= normed.items()
    plain, normed = (shapes(ResNet18(10, layer_norm=n), MNIST) for n in (False, True))
    renamed = {name.replace("GroupNorm", "LayerNorm"): shape for name, shape in plain.items()}
    assert renamed == normed != plain


def nature(outputs: int, **fields: Any) -> Any:
    """Return the shapes of the parameters for Atari's frames."""
    x = jnp.zeros((1, 84, 84, 4), jnp.uint8)
    return jax.eval_shape(NatureCNN(outputs, **fields).init, KEY, x)


def weights_of(params: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def test_the_nature_network_has_the_parameters_of_the_publication() -> None:
    below = 1_684_128
    assert weights_of(nature(6)) == below + 512 * 6 + 1  # one bias for all actions
    assert weights_of(nature(18, shared_bias=False)) == below + 512 * 18 + 18
    # a scale and a bias a channel and a hidden unit
    assert weights_of(nature(6, layer_norm=True)) == weights_of(nature(6)) + 2 * (
        32 + 64 + 64 + 512
    )


@pytest.mark.parametrize("layer_norm", [False, True])
def test_the_nature_network_is_its_formula(layer_norm: bool) -> None:
    model, rng = NatureCNN(3, layer_norm), np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 256, (2, 36, 36, 2)), jnp.uint8)
    params = model.init(KEY, x)
    weights = jax.tree.map(np.asarray, params["params"])
    y, hidden = jnp.asarray(x, jnp.float32) / 255, []
    for k, stride in enumerate((4, 2, 1)):
        layer = weights[f"Conv_{k}"]
        y = jax.lax.conv_general_dilated(
            y, layer["kernel"], (stride, stride), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ) + layer["bias"][None, None, None]  # fmt: skip
        if layer_norm:
            y = (y - y.mean((1, 2, 3), keepdims=True)) / jnp.sqrt(
                y.var((1, 2, 3), keepdims=True) + 1e-6
            )
        y = jnp.maximum(y, 0)
        hidden.append(y.reshape(2, -1))
    y = hidden[-1] @ weights["Dense_0"]["kernel"] + weights["Dense_0"]["bias"][None]
    if layer_norm:
        y = (y - y.mean(1, keepdims=True)) / jnp.sqrt(y.var(1, keepdims=True) + 1e-6)
    hidden.append(jnp.maximum(y, 0))
    y = hidden[-1] @ weights["Dense_1"]["kernel"] + weights["shared_bias"][None]
    found = model.apply(params, x)
    np.testing.assert_allclose(found.output, y, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(found.hidden, hidden, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_the_nature_network_starts_uniform_within_one_over_the_root_of_the_fan_in() -> None:
    params = NatureCNN(6).init(KEY, jnp.zeros((1, 36, 36, 4), jnp.uint8))["params"]
    for name, fan_in in (("Conv_0", 256), ("Conv_1", 512), ("Conv_2", 576), ("Dense_1", 512)):
        bound, kernel = fan_in**-0.5, params[name]["kernel"]
        assert 0.95 * bound < np.abs(kernel).max() <= bound
        np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.05)
    assert np.abs(params["Conv_1"]["bias"]).max() > 0
