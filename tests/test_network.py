"""Networks and their statistics where the answer is known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity import network_statistics
from plasticity.networks import MLP, NatureCNN

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
    assert network_statistics.dead_units(first) == 1.0
    # a layer fed by zeros sees only its bias, which starts at zero: dead as well
    assert network_statistics.dead_units(second) == 1.0


def test_a_unit_is_alive_if_one_input_wakes_it() -> None:
    activations = jnp.zeros((5, 4)).at[3, 1].set(1e-30).at[:, 2].set(2.0)
    assert network_statistics.dead_units(activations) == 0.5


def test_the_weight_norm_is_of_kernels_alone() -> None:
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.array([8.0])}
    assert network_statistics.weight_norm(params) == 6.0


def nature(outputs: int, **fields: Any) -> Any:
    """Return the shapes of the parameters for Atari's frames."""
    x = jnp.zeros((1, 84, 84, 4), jnp.uint8)
    return jax.eval_shape(NatureCNN(outputs, **fields).init, KEY, x)


def count(params: Any) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def test_the_nature_network_has_the_parameters_of_the_publication() -> None:
    below = 1_684_128
    assert count(nature(6)) == below + 512 * 6 + 1  # one bias for all actions
    assert count(nature(18, shared_bias=False)) == below + 512 * 18 + 18
    # a scale and a bias a channel and a hidden unit
    assert count(nature(6, layer_norm=True)) == count(nature(6)) + 2 * (32 + 64 + 64 + 512)


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
