"""Which layers feed which, and where their units are: of our networks, of others, and of none."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import hurried
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity.networks import architectures, resnet, vit
from plasticity.networks.architectures import CNN, MLP, NatureCNN
from plasticity.networks.trace import Wiring, leaf_paths, unit_activations, wirings

KEY = jax.random.key(0)
ROW, IMAGE, SCREEN = jnp.ones((1, 4)), jnp.ones((1, 6, 6, 1)), jnp.ones((1, 36, 36, 2), jnp.uint8)

compiled = partial(
    jax.jit,
    compiler_options=hurried.UNFUSED,
)  # fmt: skip


def found(network: nn.Module, x: jax.Array) -> tuple[Wiring, ...]:
    """Of shapes alone: nothing that one could compute."""
    return wirings(network, jax.eval_shape(network.init, KEY, x), x)


def chain(*layers: tuple[str, int], last: str) -> tuple[Wiring, ...]:
    """The wiring of layers that each feed the next."""
    names = [name for name, _ in layers[1:]] + [last]
    return tuple(
        Wiring(f"params/{name}/kernel", f"params/{name}/bias", (f"params/{after}/kernel",), units)
        for (name, units), after in zip(layers, names, strict=True)
    )


# Our networks.


@pytest.mark.parametrize("norms", [{}, {"layer_norm": True}, {"spectral_norm": True}], ids=str)
def test_an_mlp_and_a_cnn_are_chains(norms: dict[str, bool]) -> None:
    mlp = chain(("Dense_0", 5), ("Dense_1", 7), last="Dense_2")
    assert found(MLP((5, 7), 3, **norms), ROW) == mlp
    cnn = chain(
        ("Conv_0", 2), ("Conv_1", 3), ("MLP_0/Dense_0", 5), ("MLP_0/Dense_1", 7),
        last="MLP_0/Dense_2",
    )  # fmt: skip
    assert found(CNN(3, channels=(2, 3), widths=(5, 7), **norms), IMAGE) == cnn


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("shared_bias", [False, True])
def test_dqns_network_is_a_chain(layer_norm: bool, shared_bias: bool) -> None:
    layers = (("Conv_0", 32), ("Conv_1", 64), ("Conv_2", 64), ("Dense_0", 512))
    assert found(NatureCNN(3, layer_norm, shared_bias), SCREEN) == chain(*layers, last="Dense_1")


def test_a_linear_network_has_no_hidden_layer() -> None:
    assert found(MLP((), 3), ROW) == ()


@pytest.mark.parametrize(
    "network",
    [
        MLP((5, 7), 3), MLP((5, 7), 3, layer_norm=True), MLP((5, 7), 3, spectral_norm=True),
        CNN(3, channels=(2, 3), widths=(5, 7)),
        CNN(3, channels=(2, 3), widths=(5, 7), layer_norm=True),
    ],
    ids=["mlp", "mlp layer norm", "mlp spectral norm", "cnn", "cnn layer norm"],
)  # fmt: skip
def test_units_compute_what_the_network_says_of_its_hidden_layers(network: nn.Module) -> None:
    """To the bit; of a convolutional layer a row for each example at each position."""
    x = jax.random.normal(KEY, (5, 4) if isinstance(network, MLP) else (5, 8, 6, 1))
    params = compiled(network.init)(KEY, x)
    wiring = wirings(network, params, x)
    units = unit_activations(network, wiring)(params, x)
    hidden = architectures.activations(network)(params, x)
    assert len(units) == len(hidden) == len(wiring)
    for ours, theirs, layer in zip(units, hidden, wiring, strict=True):
        assert ours.shape[1] == layer.units and ours.any()
        np.testing.assert_array_equal(ours, theirs.reshape(-1, layer.units))
    if not isinstance(network, MLP):
        assert [len(ours) for ours in units] == [5 * 4 * 3, 5 * 2 * 2, 5, 5]


def test_units_of_dqns_network_compute_what_it_says() -> None:
    network, rng = NatureCNN(3), np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 256, (2, 36, 36, 2)), jnp.uint8)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
        jax.eval_shape(network.init, KEY, x),
    )
    wiring = wirings(network, params, x)
    units = unit_activations(network, wiring)(params, x)
    for ours, theirs in zip(units, network.apply(params, x).hidden, strict=True):
        np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs)


# Networks of others.


class Pooled(nn.Module):
    """Pooling, normalisation, another nonlinearity, a parameter that is no layer's."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        scale = self.param("temperature", nn.initializers.ones, (1,))
        x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3), name="stem")(x)), (2, 2), (2, 2))
        x = nn.GroupNorm(2)(nn.Conv(6, (3, 3), name="second", use_bias=False)(x)).mean(axis=(1, 2))
        x = nn.LayerNorm(name="norm")(nn.Dense(5, name="middle")(x))
        return nn.Dense(3, name="top")(nn.gelu(x)) * scale[None]


class TwoHeads(nn.Module):
    """Its layers are made in another order than they are computed in."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        value, advantage, body = nn.Dense(1, name="a"), nn.Dense(3, name="b"), nn.Dense(4, name="z")
        x = nn.tanh(body(x))
        return value(x) + advantage(x)


class ChannelsFirst(nn.Module):
    """What is done to the inputs before the first layer is nobody's business."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = jnp.concatenate([x, x[:, ::-1]], axis=1).transpose(0, 2, 3, 1)
        x = nn.relu(nn.Conv(3, (3, 3), name="conv")(x))
        return nn.Dense(2, name="top")(x.reshape(len(x), -1))


def test_pooling_and_normalisation_leave_units_where_they_are() -> None:
    stem, second, middle = found(Pooled(), IMAGE)
    assert stem == Wiring("params/stem/kernel", "params/stem/bias", ("params/second/kernel",), 4)
    assert second == Wiring("params/second/kernel", None, ("params/middle/kernel",), 6)
    assert middle == Wiring("params/middle/kernel", "params/middle/bias", ("params/top/kernel",), 5)


def test_a_layer_may_have_several_readers() -> None:
    (layer,) = found(TwoHeads(), ROW)
    readers = ("params/a/kernel", "params/b/kernel")
    assert layer == Wiring("params/z/kernel", "params/z/bias", readers, 4)
    network, x = TwoHeads(), jnp.arange(12.0).reshape(3, 4) / 12
    params = network.init(KEY, x)
    (units,) = unit_activations(network, (layer,))(params, x)
    made = params["params"]["z"]
    np.testing.assert_allclose(units, jnp.tanh(x @ made["kernel"] + made["bias"][None]), rtol=1e-6)


def test_inputs_may_be_put_in_any_order_before_the_first_layer() -> None:
    (layer,) = found(ChannelsFirst(), jnp.ones((1, 2, 6, 6)))
    assert layer == chain(("conv", 3), last="top")[0]


# What cannot be wired.


class Named(nn.Module):
    """Two layers, and between them what a function makes of the first one's units."""

    between: Any
    first: int = 4

    @nn.compact
    def __call__(self, x: Any) -> Any:
        units = nn.relu(nn.Dense(self.first, name="first")(x))
        return nn.Dense(3, name="top")(self.between(units, x))


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        again = nn.Dense(4, name="again")
        return nn.Dense(2, name="top")(nn.relu(again(nn.relu(again(x)))))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.Dense(4, name="first")(x))
        return nn.Dense(2, name="top")(x + nn.relu(nn.Dense(4, name="second")(x)))


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.Conv(4, (3, 3), name="first")(x))
        return nn.Conv(4, (3, 3), name="grouped", feature_group_count=2)(x)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.MultiHeadDotProductAttention(2, name="attention")(nn.Dense(4, name="first")(x))
        return nn.Dense(3, name="top")(x.mean(axis=1))


def crelu(units: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.concatenate([units, -units], axis=-1)


@pytest.mark.parametrize(
    ("network", "x", "message"),
    [
        (Twice(), ROW, "layer again is used twice"),
        (Residual(), ROW, "layer top reads a sum or mixture of first, second"),
        (
            resnet.ResNet18(3, base_width=2, groups=2), IMAGE,
            "layer BasicBlock_1/Conv_0 reads a sum or mixture of BasicBlock_0/Conv_1, Conv_0",
        ),
        (
            vit.ViT(3, width=8, feed_forward=8, heads=2), IMAGE,
            "the units of embedding pass through concatenate",
        ),
        (Attention(), jnp.ones((1, 5, 3)), "the units of attention/key, .* through dot_general"),
        (Grouped(), IMAGE, "layer grouped reads 2 features of the 4 units of first"),
        (Named(crelu), ROW, "the units of first pass through concatenate"),
        (
            Named(lambda units, x: jnp.concatenate([units, x], axis=-1)), ROW,
            "the units of first, the inputs pass through concatenate",
        ),
        (Named(lambda units, x: units + x), ROW, "layer top reads a sum or mixture of first, the"),
        (Named(lambda units, x: units[:, ::-1]), ROW, "the units of first pass through rev"),
        (
            Named(lambda units, x: units[:, jnp.array([2, 0, 1, 3])]), ROW,
            "the units of first pass through gather",
        ),
        (
            Named(lambda units, x: jnp.repeat(units, 2, axis=1)), ROW,
            "layer top reads 8 features of the 4 units of first",
        ),
        (Named(lambda units, x: nn.glu(units)), ROW, "layer top reads 2 features of the 4 units"),
    ],
    ids=[
        "twice", "residual", "resnet", "vit", "attention", "grouped", "crelu", "concatenated",
        "inputs added", "reversed", "shuffled", "repeated", "gated",
    ],
)  # fmt: skip
def test_units_that_cannot_be_told_apart_are_refused_by_the_name_of_their_layer(
    network: nn.Module, x: jax.Array, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        found(network, x)


# Paths.


def test_leaves_are_named_by_their_paths_in_any_tree() -> None:
    one, two, three, four = jnp.arange(4.0)
    tree = {"params": {"Dense_0": {"kernel": one, "bias": two}}, "rest": [three, (four,)]}
    assert leaf_paths(tree) == {
        "params/Dense_0/bias": two, "params/Dense_0/kernel": one, "rest/0": three, "rest/1/0": four,
    }  # fmt: skip
