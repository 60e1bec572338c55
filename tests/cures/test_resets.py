"""Events: each touches what it names and nothing else, in any network and any optimizer's state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import hurried
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plasticity.agents import optimizers
from plasticity.cure import Cure, Seen
from plasticity.cures.resets import reset_layer, reset_optimizer, shrink_and_perturb
from plasticity.learner import Learner
from plasticity.networks import architectures, resnet, vit
from plasticity.networks.state import advancing
from plasticity.networks.trace import last_layer

KEY = jax.random.key(0)
X = jnp.zeros((1, 6, 6, 1))


EVERY = 5


def happen(cure: Cure, key: jax.Array, learner: Learner) -> Learner:
    """Let the event happen, which looks at nothing and is all that there is to the cure."""
    assert cure.event is not None and cure.every == EVERY
    assert cure.init is None and cure.penalty is None and cure.project is None
    found: Learner = cure.event(key, learner, Seen(None, ()))
    assert found.cure_state is learner.cure_state
    return found


class Foreign(nn.Module):
    """A network of somebody else's, its layers named and of other kinds than ours."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        scale = self.param("temperature", nn.initializers.ones, (1,))
        x = nn.relu(nn.Conv(4, (3, 3), name="stem")(x)).mean(axis=(1, 2))
        x = nn.LayerNorm(name="norm")(nn.Dense(5, name="middle")(x))
        return nn.Dense(3, name="top")(nn.relu(x)) * scale[None]


compiled = partial(
    jax.jit,
    compiler_options=hurried.UNFUSED,
)  # fmt: skip
foreign = compiled(partial(Foreign().init, x=X))
VIT = vit.ViT(3, width=8, feed_forward=12, heads=2, spectral_norm=True)
small_vit = compiled(partial(VIT.init, x=X))  # with state of both kinds beside its parameters

SGD = optax.sgd(0.1)
ADAM = optimizers.of_name("adam", 1e-3)
DECAYED = optax.chain(optax.add_decayed_weights(1e-5), ADAM)
OPTIMIZERS: dict[str, tuple[optax.GradientTransformation, int]] = {
    "adam": (ADAM, 2),
    "rmsprop": (optimizers.of_name("rmsprop", 1e-3), 2),
    "sgd": (SGD, 0),
    "momentum": (optax.sgd(0.1, momentum=0.9), 1),
    "decayed": (DECAYED, 2),
    "advancing": (advancing(DECAYED), 2),
}
"""Each with how many slots it has for a parameter."""


def begun(init: Callable[[jax.Array], Any], optimizer: Any, seed: int = 1) -> Learner:
    """A learner in which no leaf is what it was at the start, not even those that start at zero.

    It has a cure's state too, which is none of an event's business.
    """
    rng = np.random.default_rng(seed)

    def other(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return leaf + 7
        return leaf + jnp.asarray(rng.uniform(0.5, 1.0, leaf.shape), leaf.dtype)

    params = jax.tree.map(other, init(KEY))
    opt_state = jax.tree.map(other, optimizer.init(params))
    return Learner(params, opt_state, jnp.arange(3.0), jnp.asarray(12))


def leaves(tree: Any) -> dict[str, np.ndarray]:
    flat, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def touched(before: Any, after: Any) -> set[str]:
    """The paths of leaves that differ in a bit; both trees must have the same."""
    old, new = leaves(before), leaves(after)
    assert old.keys() == new.keys()
    for name in old:
        assert (old[name].shape, old[name].dtype) == (new[name].shape, new[name].dtype), name
    return {name for name in old if old[name].tobytes() != new[name].tobytes()}


# The layer that is computed last.


class Shuffled(nn.Module):
    """Its layers are named, and made, in another order than they are computed in."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        out, into = nn.Dense(3, name="a"), nn.Dense(5, name="z")
        return out(nn.relu(into(x)))


@pytest.mark.parametrize(
    ("network", "shape", "path"),
    [
        (architectures.MLP((4, 4), 3), (1, 6), ("Dense_2",)),
        (architectures.MLP((4, 4), 3, True, True), (1, 6), ("Dense_2",)),
        (architectures.MLP((), 3, spectral_norm=True), (1, 6), ("Dense_0",)),
        (architectures.CNN(3, channels=(2, 2), widths=(4, 4)), X.shape, ("MLP_0", "Dense_2")),
        (resnet.ResNet18(3, base_width=2, groups=2), X.shape, ("Dense_0",)),
        (vit.ViT(3, width=8, feed_forward=8, heads=2), X.shape, ("head",)),
        (Foreign(), X.shape, ("top",)),
        (Shuffled(), (1, 6), ("a",)),
        (nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)]), (1, 6), ("layers_2",)),
        (nn.Sequential([nn.Dense(4), nn.Conv(2, (1, 1)), nn.LayerNorm()]), X.shape, ("layers_1",)),
        (nn.Dense(3), (1, 6), ()),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, nn.Module) else "",
)
def test_the_last_layer_is_found_and_nothing_computed(
    network: nn.Module, shape: tuple[int, ...], path: tuple[str, ...]
) -> None:
    x = jnp.zeros(shape)
    abstract = jax.eval_shape(network.init, KEY, x)  # shapes alone: nothing that one could compute
    assert last_layer(network, abstract, x) == path


def test_a_network_without_kernels_has_no_last_layer() -> None:
    network, x = nn.Sequential([nn.LayerNorm(), nn.relu]), jnp.zeros((1, 6))
    with pytest.raises(ValueError, match="no layer of Sequential has a kernel"):
        last_layer(network, network.init(KEY, x), x)


# Resetting a layer.


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_reset_layer_is_a_fresh_one_with_its_slots_and_nothing_else(name: str) -> None:
    optimizer, slots = OPTIMIZERS[name]
    init, path = (small_vit, "head") if name == "advancing" else (foreign, "top")
    state = begun(init, optimizer)
    key = jax.random.key(3)
    found = happen(reset_layer(init, optimizer, (path,), EVERY), key, state)
    assert touched(state.params, found.params) == {
        f"['params']['{path}']['kernel']", f"['params']['{path}']['bias']",
    }  # fmt: skip
    assert touched(init(key)["params"][path], found.params["params"][path]) == set()
    changed = touched(state.opt_state, found.opt_state)
    assert len(changed) == 2 * slots
    assert all(f"['params']['{path}']" in where for where in changed)
    fresh = leaves(optimizer.init(found.params))
    for where in changed:
        np.testing.assert_array_equal(leaves(found.opt_state)[where], fresh[where])
    assert found.steps is state.steps


def test_what_is_drawn_is_from_the_networks_own_distribution_and_new_each_time() -> None:
    network, x = architectures.MLP((400,), 30), jnp.zeros((1, 5))
    init = compiled(partial(network.init, x=x))
    cure = reset_layer(init, SGD, ("Dense_1",), EVERY)
    first, other = (
        happen(cure, jax.random.key(k), begun(init, SGD)).params["params"]["Dense_1"]
        for k in (0, 1)
    )
    assert (first["kernel"] != other["kernel"]).all()
    # LeCun-normal: 1 / √400, of 12,000 numbers
    np.testing.assert_allclose(np.std(first["kernel"]), 0.05, rtol=5 / np.sqrt(2 * 12_000))
    assert not first["bias"].any()


def test_a_layer_within_a_module_is_reset_with_its_state() -> None:
    network = architectures.CNN(3, channels=(2, 2), widths=(4, 4), spectral_norm=True)
    init = compiled(partial(network.init, x=X))
    state = begun(init, SGD)
    found = happen(reset_layer(init, SGD, ("MLP_0", "Dense_2"), EVERY), KEY, state)
    inside = {f"['params']['MLP_0']['Dense_2']['{leaf}']" for leaf in ("kernel", "bias")}
    assert touched(state.params, found.params) == inside
    found = happen(reset_layer(init, SGD, ("Conv_0",), EVERY), KEY, state)
    inside = {f"['params']['Conv_0']['{leaf}']" for leaf in ("kernel", "bias")}
    assert touched(state.params, found.params) == inside | {"['spectral']['Conv_0']['vector']"}
    # a network that is one layer
    whole = happen(reset_layer(init, SGD, (), EVERY), KEY, state)
    assert touched(init(KEY), whole.params) == set()


@pytest.mark.parametrize("path", [("bottom",), ("top", "kernel", "more"), ("to",)])
def test_an_unknown_layer_is_refused(path: tuple[str, ...]) -> None:
    cure = reset_layer(foreign, ADAM, path, EVERY)
    with pytest.raises(ValueError, match=f"the network has no layer {'/'.join(path)}"):
        happen(cure, KEY, begun(foreign, ADAM))


# Shrink and perturb.


def test_shrinking_by_one_and_perturbing_by_zero_changes_no_bit() -> None:
    state = begun(small_vit, ADAM)
    found = happen(shrink_and_perturb(small_vit, 1.0, 0.0, EVERY), KEY, state)
    assert touched(state, found) == set()


@pytest.mark.parametrize(("shrink", "perturb"), [(0.5, 1.0), (0.0, 1.0), (0.9, 0.25)])
def test_kernels_are_shrunk_and_perturbed_and_nothing_else(shrink: float, perturb: float) -> None:
    state, key = begun(small_vit, ADAM), jax.random.key(3)
    found = happen(shrink_and_perturb(small_vit, shrink, perturb, EVERY), key, state)
    old, new, fresh = leaves(state.params), leaves(found.params), leaves(small_vit(key))
    changed = touched(state.params, found.params)
    assert changed == {name for name, leaf in old.items() if leaf.ndim >= 2}
    kinds = {"kernel", "class_token", "positions"}
    assert {name.rsplit("'", 2)[1] for name in changed} == kinds  # no bias, no scale, no state
    for name in changed:
        # twice rounded, and once more where multiplication and sum are fused
        expected = shrink * old[name].astype(np.float64) + perturb * fresh[name]
        np.testing.assert_allclose(new[name], expected, rtol=3e-7, atol=3e-7)
    assert found.opt_state is state.opt_state
    assert found.steps is state.steps


# Resetting the optimizer.


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resetting_the_optimizer_forgets_all_of_its_state_and_no_parameter(name: str) -> None:
    optimizer, _ = OPTIMIZERS[name]
    init = small_vit if name == "advancing" else foreign
    state = begun(init, optimizer)
    found = happen(reset_optimizer(optimizer, EVERY), KEY, state)
    assert found.params is state.params and found.steps is state.steps
    assert touched(optimizer.init(state.params), found.opt_state) == set()
    everything = touched(state.opt_state, found.opt_state)  # also the count
    assert everything == leaves(state.opt_state).keys()


# In programs.


@pytest.mark.parametrize("name", ["reset_layer", "shrink_and_perturb", "reset_optimizer"])
def test_events_are_functions_that_jax_can_transform(name: str) -> None:
    network, x = architectures.MLP((4,), 3), jnp.zeros((1, 5))
    init = jax.jit(partial(network.init, x=x))
    cure = {
        "reset_layer": reset_layer(init, ADAM, ("Dense_1",), EVERY),
        "shrink_and_perturb": shrink_and_perturb(init, 0.5, 1.0, EVERY),
        "reset_optimizer": reset_optimizer(ADAM, EVERY),
    }[name]
    assert cure.name == name and cure.paper

    def event(key: jax.Array, learner: Learner) -> Learner:
        assert cure.event is not None
        found: Learner = cure.event(key, learner, Seen(None, ()))
        return found

    states = [begun(init, ADAM, seed) for seed in range(2)]
    keys = jax.random.split(KEY, 2)
    alone = [event(key, state) for key, state in zip(keys, states, strict=True)]
    shapes = jax.eval_shape(event, KEY, states[0])
    signature = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (shapes, states[0]))
    assert signature[0] == signature[1]
    stacked = jax.tree.map(lambda *both: jnp.stack(both), *states)
    together = compiled(jax.vmap(event))(keys, stacked)
    for k, expected in enumerate(alone):
        lane = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), lane, expected)
