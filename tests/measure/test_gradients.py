"""Inner products of gradients layer by layer, against gradients that are all held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from plasticity.measure import inner_products
from plasticity.measure.gradients import covariance, kmeans_order, naive_gram, summary
from plasticity.networks import architectures, resnet, vit

KEY = jax.random.key(0)
K = 7


class Shared(nn.Module):
    """A layer that is used twice, one on positions, one without a bias, and a bare parameter."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        twice = nn.Dense(4)
        x = nn.tanh(nn.Dense(4)(x))  # x is (examples, positions, channels)
        x = nn.tanh(twice(nn.tanh(twice(x))))
        x = x * self.param("gain", nn.initializers.ones, (4,))[None, None]
        return nn.Dense(3, use_bias=False)(x.reshape(x.shape[0], -1))


class Attention(nn.Module):
    """General dense layers, which are computed leaf by leaf, beside known ones."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(4)(x)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm(use_bias=False)(x))
        return nn.Dense(3)(nn.LayerNorm(use_scale=False)(x).mean(axis=1))


class Odd(nn.Module):
    """Convolutions of other kinds, and positions that are made examples of."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.tanh(nn.Conv(4, (3, 3), kernel_dilation=2)(x))
        x = nn.tanh(nn.Conv(4, (2, 3), strides=2, use_bias=False, feature_group_count=2)(x))
        x = nn.tanh(nn.Conv(3, (2, 3), strides=[1, 2], padding="VALID", use_bias=False)(x))
        x = nn.tanh(nn.Conv(3, (2, 2), padding=((1, 0), (0, 1)))(x))
        rows = nn.tanh(nn.Dense(2)(x.reshape(-1, x.shape[-1])))
        return nn.Dense(3)(rows.reshape(x.shape[0], -1))


class Residual(nn.Module):
    """What a residual network is made of; compiling all of one takes minutes."""

    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = resnet.BasicBlock(4, 2, groups=2, layer_norm=self.layer_norm)(x)
        return nn.Dense(3)(x.mean(axis=(1, 2)))


VIT = vit.ViT(3, width=4, feed_forward=5, heads=2, layer_norm=True, spectral_norm=True)
CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "mlp": (architectures.MLP((6, 5), 3), (7,)),
    "mlp, layer norm": (architectures.MLP((6, 5), 3, layer_norm=True), (7,)),
    "cnn": (architectures.CNN(3, (2, 3), widths=(5,)), (7, 6, 2)),
    "cnn, layer norm": (architectures.CNN(3, (2, 3), widths=(5,), layer_norm=True), (7, 6, 2)),
    "cnn, stride 1": (architectures.CNN(3, (2, 3), (3, 2), (1, 1), "VALID", (5,)), (7, 6, 2)),
    "mlp, spectral norm": (architectures.MLP((6, 5), 3, spectral_norm=True), (7,)),
    "cnn, spectral norm": (
        architectures.CNN(3, (2, 3), widths=(5,), spectral_norm=True),
        (7, 6, 2),
    ),
    "residual": (Residual(), (5, 4, 2)),
    "residual, layer norm": (Residual(layer_norm=True), (5, 4, 2)),
    "vit": (VIT, (5, 4, 2)),
    "shared": (Shared(), (5, 2)),
    "attention": (Attention(), (5, 2)),
    "odd": (Odd(), (9, 8, 2)),
}


def losses(found: Any, targets: jax.Array) -> jax.Array:
    output = found.output if isinstance(found, architectures.Forward) else found
    return jnp.mean((output - targets) ** 2, axis=-1)


def problem(name: str, k: int = K) -> tuple[nn.Module, Any, jax.Array, jax.Array]:
    network, shape = CASES[name]
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(k, *shape))), jnp.asarray(rng.normal(size=(k, 3)))
    leaves = jax.eval_shape(network.init, KEY, x)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2), leaves)
    return network, params, x, y


def naive(network: nn.Module, params: Any, x: jax.Array, y: jax.Array) -> np.ndarray:
    def loss(params: Any, example: Any) -> jax.Array:
        return losses(network.apply(params, example[0][None]), example[1][None])[0]

    return np.asarray(jax.jit(naive_gram, static_argnums=0)(loss, params, (x, y)))


def gram(network: nn.Module, params: Any, x: jax.Array, y: jax.Array) -> np.ndarray:
    run = jax.jit(inner_products.gram, static_argnames=("network", "example_loss"))
    return np.asarray(run(network=network, params=params, inputs=x, example_loss=losses, targets=y))


def traced(name: str) -> None:
    """Go through what `gram` does and compute nothing."""
    network, params, x, y = problem(name)
    jax.eval_shape(lambda: inner_products.gram(network, params, x, losses, y))


@pytest.mark.parametrize("name", CASES)
def test_layer_by_layer_is_all_at_once(name: str, double: None) -> None:
    case = problem(name)
    expected = naive(*case)
    np.testing.assert_allclose(gram(*case), expected, atol=1e-12 * np.abs(expected).max())


def test_in_a_vit_only_what_no_layer_holds_is_held_by_example(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def note(*arguments: Any) -> Any:
        seen.append("/".join(arguments[2]))
        return jnp.zeros((K, K))

    monkeypatch.setattr(inner_products, "_of_leaf", note)
    traced("vit")
    # Of the embedding the gradient is that by the kernel before it is normalised.
    assert set(seen) == {"class_token", "positions", "embedding/kernel", "embedding/bias"}


@pytest.mark.parametrize("held", [1, 100])
def test_memory_that_is_short_changes_nothing(
    held: int, double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inner_products, "HELD", held)  # kernels column by column
    for name in ("cnn", "shared"):
        network, params, x, y = problem(name)
        expected = naive(network, params, x, y)
        found = inner_products.gram(network, params, x, losses, y)
        np.testing.assert_allclose(found, expected, atol=1e-12 * np.abs(expected).max())


def test_no_leaf_of_the_papers_networks_is_held_by_example(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AssertionError("leaf by leaf")

    monkeypatch.setattr(inner_products, "_of_leaf", refuse)
    for name in ("mlp, layer norm", "cnn, layer norm", "cnn, stride 1", "residual"):
        traced(name)
    for name in ("attention", "mlp, spectral norm"):
        with pytest.raises(AssertionError, match="leaf by leaf"):
            traced(name)


def test_the_naive_form_is_what_it_says(double: None) -> None:
    network, params, x, y = problem("mlp")
    rows = []
    for k in range(K):
        gradient = jax.grad(lambda p: losses(network.apply(p, x[k : k + 1]), y[k : k + 1])[0])  # noqa: B023
        leaves = jax.tree.leaves(gradient(params))
        rows.append(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    expected = np.array(rows) @ np.array(rows).T
    np.testing.assert_allclose(naive(network, params, x, y), expected, rtol=1e-11)


# C_k.


def gram_of(gradients: np.ndarray) -> jax.Array:
    return jnp.asarray(gradients @ gradients.T)


def test_c_k_are_cosines() -> None:
    gradients = np.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 1.0]])
    found = covariance(gram_of(gradients))
    half = 0.5**0.5
    expected = [[1, 0, -1, half], [0, 1, 0, half], [-1, 0, 1, -half], [half, half, -half, 1]]
    np.testing.assert_allclose(found.cosines, expected, atol=1e-6)
    np.testing.assert_allclose(found.norms, [3, 2, 1, 2**0.5], rtol=1e-6)
    said = summary(found)
    np.testing.assert_allclose(said.negative_share, 2 / 6)
    np.testing.assert_allclose(said.collinearity, (1 + 3 * half) / 6, rtol=1e-6)
    np.testing.assert_allclose(said.mean, (-1 + half) / 6, atol=1e-6)
    assert said.zero_share == 0


def test_dead_networks_have_no_direction_and_are_counted() -> None:
    gradients = np.zeros((4, 3))
    gradients[1], gradients[3] = [1, 0, 0], [-2, 0, 0]
    found = covariance(gram_of(gradients))
    assert np.isfinite(found.cosines).all()
    np.testing.assert_array_equal(found.cosines[0], 0)
    said = summary(found)
    assert (said.zero_share, said.negative_share, said.collinearity) == (0.5, 1.0, 1.0)
    np.testing.assert_allclose(said.rank, 1, rtol=1e-5)
    nobody = summary(covariance(jnp.zeros((4, 4))))
    assert nobody.zero_share == 1 and nobody.rank == 0
    assert np.isnan([nobody.negative_share, nobody.collinearity, nobody.mean]).all()


def test_a_dead_network_of_ours_is_one(double: None) -> None:
    network, params, x, y = problem("mlp")
    params["params"]["Dense_0"]["bias"] -= 1e3  # no unit of the first layer is ever active
    params["params"]["Dense_1"]["bias"] -= 1e3
    head = {"params": {**params["params"]}}
    head["params"]["Dense_2"] = jax.tree.map(jnp.zeros_like, params["params"]["Dense_2"])
    said = summary(covariance(jnp.asarray(gram(network, head, x, jnp.zeros_like(y)))))
    assert said.zero_share == 1  # no error and no path: not even the last bias moves
    said = summary(covariance(jnp.asarray(gram(network, head, x, y))))
    assert said.zero_share == 0 and said.rank <= 3 + 1e-9  # only the three biases of the head do


def test_numbers_that_are_none_stay_seen() -> None:
    network, params, x, y = problem("mlp")
    said = summary(covariance(jnp.asarray(gram(network, params, x.at[2].set(jnp.nan), y))))
    assert np.isnan(said.rank)


# Order.


def test_clusters_stand_together() -> None:
    rng = np.random.default_rng(0)
    centre = np.eye(3)[rng.integers(0, 3, 60)]
    gradients = centre + 0.05 * rng.normal(size=(60, 3))
    cosines = np.asarray(covariance(gram_of(gradients)).cosines)
    order = kmeans_order(cosines, 3)
    assert sorted(order) == list(range(60))
    kinds = centre.argmax(axis=1)[order]
    assert (np.diff(kinds) != 0).sum() == 2
    sizes = np.diff(np.flatnonzero(np.concatenate([[True], np.diff(kinds) != 0, [True]])))
    assert list(sizes) == sorted(sizes, reverse=True)
    np.testing.assert_array_equal(order, kmeans_order(cosines, 3))


def test_fewer_different_examples_than_clusters_are_a_cluster_each() -> None:
    kinds = np.array([0, 1, 0, 1, 0])
    cosines = np.where(kinds[:, None] == kinds[None], 1.0, -0.25)
    np.testing.assert_array_equal(kmeans_order(cosines, 4), [0, 2, 4, 1, 3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kmeans_order(np.eye(4), 5), "5 clusters of 4 examples"),
        (lambda: kmeans_order(np.eye(4), 0), "0 clusters"),
        (lambda: kmeans_order(np.full((4, 4), np.nan), 2), "not finite"),
        (lambda: empty(), "there are no examples"),
        (lambda: wrong(), r"losses of shape \(7, 3\) for 7 examples"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def empty() -> Any:
    network, params, x, y = problem("mlp")
    return inner_products.gram(network, params, x[:0], losses, y[:0])


def wrong() -> Any:
    network, params, x, y = problem("mlp")
    return inner_products.gram(network, params, x, lambda found, y: (found.output - y) ** 2, y)
