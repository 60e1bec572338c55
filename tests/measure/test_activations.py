"""What layers compute, found in traced programs, against what networks say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import hurried
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import plasticity
from plasticity.measure import snapshot
from plasticity.measure.activations import of_layers
from plasticity.networks import architectures
from plasticity.networks.architectures import CNN, MLP

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (7, 6))
compiled = partial(jax.jit, compiler_options=hurried.OPTIONS)


def plain_params() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    shapes = {"w": (6, 4), "v": (4, 5), "u": (5, 2)}
    return {name: jnp.asarray(rng.normal(size=n), jnp.float32) for name, n in shapes.items()}


PARAMS = plain_params()


def plain(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(jax.nn.relu(x @ params["w"]) @ params["v"]) @ params["u"]


def by_hand(params: Any, x: jax.Array) -> list[jax.Array]:
    first = jax.nn.relu(x @ params["w"])
    return [first, jnp.tanh(first @ params["v"])]


def same(found: Any, expected: Any) -> None:
    """To the bit."""
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, np.reshape(theirs, (len(theirs), -1)))


# Networks of all kinds.


@pytest.mark.parametrize("norms", [{}, {"layer_norm": True}, {"spectral_norm": True}], ids=str)
def test_an_mlps_layers_are_those_that_it_returns(norms: dict[str, bool]) -> None:
    """After the nonlinearity, and normalised if the layer is."""
    network = MLP((4, 5), 3, **norms)
    params = compiled(network.init)(KEY, X)
    found = of_layers(architectures.predictions(network), params, X)
    same(found, network.apply(params, X).hidden)


def test_a_plain_functions_layers_are_found_whatever_its_parameters_look_like() -> None:
    same(of_layers(plain, PARAMS, X), by_hand(PARAMS, X))
    listed = [*PARAMS.values()]
    found = of_layers(lambda p, x: plain(dict(zip("wvu", p, strict=True)), x), listed, X)
    same(found, by_hand(PARAMS, X))
    # what a function has in its closure is a parameter too
    same(of_layers(lambda p, x: plain(PARAMS, x), (), X), by_hand(PARAMS, X))


def test_a_flax_nnx_models_layers_are_found() -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first = nnx.Linear(6, 4, rngs=rngs)
            self.second = nnx.Linear(4, 5, rngs=rngs)
            self.norm = nnx.LayerNorm(5, rngs=rngs)
            self.third = nnx.Linear(5, 2, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.third(nnx.gelu(self.norm(self.second(nnx.relu(self.first(x))))))

    model = Model(nnx.Rngs(0))
    definition, params = nnx.split(model)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        made: jax.Array = nnx.merge(definition, params)(x)
        return made

    first = nnx.relu(model.first(X))
    hidden = [first, nnx.gelu(model.norm(model.second(first)))]
    same(of_layers(apply, params, X), hidden)
    snap = plasticity.snapshot(apply, params, X)
    expected = snapshot.of_network(hidden, params) | {"dead_units": 0.0}  # below zero, not dead
    for name, value in expected.items():
        np.testing.assert_allclose(snap[name], value, rtol=1e-6, err_msg=name)


def test_a_convolution_is_a_layer_too() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            first = nn.relu(nn.Conv(2, (3, 3))(x))
            second = nn.max_pool(nn.relu(nn.Conv(3, (3, 3))(first)), (2, 2), (2, 2))
            return nn.Dense(2)(second.reshape(len(x), -1)), (first, second)

    network, x = Net(), jax.random.normal(KEY, (3, 6, 6, 1))
    params = compiled(network.init)(KEY, x)
    found = of_layers(lambda p, x: network.apply(p, x)[0], params, x)
    same(found, network.apply(params, x)[1])
    assert [layer.shape for layer in found] == [(3, 6 * 6 * 2), (3, 3 * 3 * 3)]


class Attention(nn.Module):
    """Queries, keys and values read one layer's output, and then each other."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        first = nn.relu(nn.Dense(8, name="first")(x))
        query, key, value = (nn.Dense(8, name=name)(first) for name in ("query", "key", "value"))
        weights = nn.softmax(query @ key.transpose(0, 2, 1))
        seen = weights @ value
        pooled = nn.Dense(5, name="out")(seen).mean(axis=1)
        return nn.Dense(2, name="top")(pooled), (first, seen, pooled)


def test_what_queries_keys_and_values_read_is_counted_once() -> None:
    """And their products with each other are no layers."""
    network, x = Attention(), jax.random.normal(KEY, (3, 4, 6))
    params = compiled(network.init)(KEY, x)
    found = of_layers(lambda p, x: network.apply(p, x)[0], params, x)
    same(found, network.apply(params, x)[1])


def test_flaxs_own_attention_has_its_inputs_and_its_outputs_for_layers() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            first = nn.Dense(8)(x)
            return nn.Dense(2)(nn.MultiHeadDotProductAttention(2)(first, first).mean(axis=1))

    network, x = Net(), jax.random.normal(KEY, (3, 4, 6))
    params = compiled(network.init)(KEY, x)
    found = of_layers(network.apply, params, x)
    # what all three read, the heads' outputs, and the mean over positions
    assert [layer.shape for layer in found] == [(3, 32), (3, 32), (3, 8)]
    dense = params["params"]["Dense_0"]
    same(found[:1], [x @ dense["kernel"] + dense["bias"][None, None]])


# How a network is written.


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, jax.named_call])
def test_layers_within_programs_that_are_called_are_found(wrap: Callable[..., Any]) -> None:
    same(of_layers(wrap(plain), PARAMS, X), by_hand(PARAMS, X))


def test_kernels_may_be_made_of_parameters_by_more_than_naming_them() -> None:
    """As weight normalisation does it: what no input has touched is a parameter."""

    def normed(params: Any, x: jax.Array) -> jax.Array:
        scaled = {name: 2 * (w / jnp.linalg.norm(w)) for name, w in params.items()}
        return plain(scaled, x)

    kernels = {name: 2 * (w / jnp.linalg.norm(w)) for name, w in PARAMS.items()}
    same(of_layers(normed, PARAMS, X), by_hand(kernels, X))


def test_it_can_be_compiled_and_batched() -> None:
    found = compiled(lambda p, x: of_layers(plain, p, x))(PARAMS, X)
    for ours, theirs in zip(found, by_hand(PARAMS, X), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    several = jax.tree.map(lambda w: jnp.stack([w, -w]), PARAMS)
    both = jax.vmap(lambda p: of_layers(plain, p, X))(several)
    for k, sign in enumerate((1, -1)):
        signed = jax.tree.map(lambda w, sign=sign: sign * w, PARAMS)
        for ours, theirs in zip(both, by_hand(signed, X), strict=True):
            np.testing.assert_allclose(ours[k], theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "apply",
    [
        lambda p, x: x @ p["w"],
        lambda p, x: jnp.tanh(x),
        lambda p, x: jax.nn.relu(x @ p["w"]) @ x[:4],  # a product of activations alone
    ],
    ids=["linear", "no layer", "product"],
)
def test_without_a_second_layer_nothing_is_hidden(apply: Any) -> None:
    with pytest.raises(ValueError, match="the network has no hidden layer"):
        of_layers(apply, PARAMS, X)


# Every statistic at once.


def check(found: dict[str, Any], hidden: Any, params: Any) -> None:
    flat = [jnp.reshape(layer, (len(layer), -1)) for layer in hidden]
    expected = snapshot.of_network(flat, params)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)


def test_a_snapshot_of_a_linen_network_by_what_it_says_and_by_what_it_computes() -> None:
    network = MLP((4, 5), 3)
    params = compiled(network.init)(KEY, X)
    hidden = network.apply(params, X).hidden
    check(plasticity.snapshot(network, params, X), hidden, params)
    check(plasticity.snapshot(architectures.predictions(network), params, X), hidden, params)
    silent = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    params = compiled(silent.init)(KEY, X)
    made = params["params"]["layers_0"]
    first = nn.relu(X @ made["kernel"] + made["bias"][None])
    check(plasticity.snapshot(silent, params, X), [first], params)


def test_a_snapshot_of_a_network_that_says_what_its_layers_are() -> None:
    """Its word is taken, named or listed, of any shape; nothing else is looked for."""
    first, second = by_hand(PARAMS, X)
    maps = first.reshape(7, 2, 2)
    for said in ({"b": second, "a": maps}, [second, maps], (second, maps)):
        found = plasticity.snapshot(lambda p, x, said=said: (plain(p, x), said), PARAMS, X)
        check(found, [second, first], PARAMS)
    network = CNN(3, channels=(2, 3), widths=(5,))
    x = jax.random.normal(KEY, (4, 6, 6, 1))
    params = compiled(network.init)(KEY, x)
    check(plasticity.snapshot(network, params, x), network.apply(params, x).hidden, params)


@pytest.mark.parametrize("columns", [1, 2])
def test_two_outputs_are_not_taken_for_activations(columns: int) -> None:
    """Logits and values, as an actor-critic returns them."""

    def two(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return plain(params, x), plain(params, x)[:, :columns]

    check(plasticity.snapshot(two, PARAMS, X), by_hand(PARAMS, X), PARAMS)


def test_a_snapshot_needs_a_hidden_layer() -> None:
    with pytest.raises(ValueError, match="no hidden layer"):
        plasticity.snapshot(lambda p, x: x @ p["w"], PARAMS, X)
    with pytest.raises(ValueError, match="no hidden layer"):
        plasticity.snapshot(MLP((), 3), MLP((), 3).init(KEY, X), X)


def test_a_network_for_one_example_may_be_mapped_over_the_batch() -> None:
    """As Equinox's are; with as many units as examples a transposed layer would pass for it."""
    first, second = (jax.random.normal(jax.random.key(k), (7, 7)) for k in range(2))

    def one(params: Any, x: jax.Array) -> jax.Array:
        return params[1] @ jax.nn.relu(params[0] @ x)

    x = jax.random.normal(jax.random.key(2), (7, 7))
    (found,) = of_layers(jax.vmap(one, (None, 0)), (first, second), x)
    np.testing.assert_allclose(found, jax.nn.relu(x @ first.T), rtol=1e-5, atol=1e-6)
