"""Spectral vectors and dropout counters: closed forms, and how optimizer steps move them on."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plasticity.networks import dropout, spectral
from plasticity.networks.architectures import CNN, MLP
from plasticity.networks.state import advanced, advancing
from plasticity.networks.vit import ViT

KEY = jax.random.key(0)
TINY = ViT(3, width=8, feed_forward=16, heads=2, spectral_norm=True)
IMAGES = jax.random.normal(KEY, (5, 7, 7, 2))


def kernel_of(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def drawn(network: nn.Module, x: jax.Array, path: str) -> Any:
    """Variables of some size, the vector right; compiling a network's own draw takes longer."""
    rng = np.random.default_rng(0)
    leaves = jax.eval_shape(network.init, KEY, x)
    found = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape) / 2, w.dtype), leaves)
    kernel = found["params"][path]["kernel"]
    state = {"spectral": {path: {"vector": spectral.leading_vector(kernel)}}}
    return {**found, **state, "dropout": {"counter": jnp.float32(7)}}


def largest(kernel: jax.Array) -> float:
    return float(np.linalg.norm(np.asarray(kernel).reshape(-1, kernel.shape[-1]), 2))


# Spectral normalisation.


@pytest.mark.parametrize("shape", [(6, 4), (3, 8), (3, 2, 2, 5)])
def test_a_kernel_is_divided_by_its_largest_singular_value(
    shape: tuple[int, ...], double: None
) -> None:
    kernel = kernel_of(*shape)
    found = spectral.normalised(kernel, spectral.leading_vector(kernel))
    np.testing.assert_allclose(largest(found), 1, rtol=1e-12)
    np.testing.assert_allclose(found, kernel / largest(kernel), rtol=1e-12)


def test_the_gradient_is_that_of_the_kernel_over_its_norm(double: None) -> None:
    kernel, weights = kernel_of(3, 2, 5), kernel_of(3, 2, 5, seed=1)
    vector = spectral.leading_vector(kernel)

    def ours(kernel: jax.Array, vector: jax.Array) -> jax.Array:
        return jnp.sum(weights * jnp.sin(spectral.normalised(kernel, vector)))

    def exact(kernel: jax.Array) -> jax.Array:
        return jnp.sum(weights * jnp.sin(kernel / jnp.linalg.norm(kernel.reshape(-1, 5), 2)))

    by_kernel, by_vector = jax.grad(ours, (0, 1))(kernel, vector)
    np.testing.assert_allclose(by_kernel, jax.grad(exact)(kernel), rtol=1e-10)
    assert not by_vector.any()


def test_power_iteration_finds_the_norm_from_anywhere(double: None) -> None:
    kernel = kernel_of(7, 5)
    vector, sigmas = jnp.full(5, 5**-0.5), []
    step = kernel.T @ (kernel @ vector)
    found = spectral.power_iteration(kernel, vector)
    np.testing.assert_allclose(found, step / jnp.linalg.norm(step), rtol=1e-12)
    for _ in range(200):
        sigmas.append(float(jnp.linalg.norm(kernel @ vector)))
        vector = spectral.power_iteration(kernel, vector)
    assert (np.diff(sigmas) > -1e-12).all()  # it never overestimates, and only gets better
    assert sigmas[0] < 0.9 * sigmas[-1]
    assert largest(spectral.normalised(kernel, vector)) <= 1 + 1e-12
    np.testing.assert_allclose(abs(vector @ spectral.leading_vector(kernel)), 1, rtol=1e-12)


def test_a_kernel_of_zeros_stays_one_and_can_leave_it() -> None:
    zeros, vector = jnp.zeros((3, 4)), jnp.full(4, 0.5)
    assert not spectral.normalised(zeros, vector).any()
    gradient = jax.grad(lambda w: jnp.sum(spectral.normalised(w, vector)))(zeros)
    np.testing.assert_array_equal(gradient, 1)
    np.testing.assert_array_equal(spectral.power_iteration(zeros, vector), vector)


@pytest.mark.parametrize(
    ("network", "x", "path"),
    [
        (MLP((7, 5), 3, spectral_norm=True), IMAGES.reshape(5, -1), "Dense_0"),
        (MLP((), 3, spectral_norm=True), IMAGES.reshape(5, -1), "Dense_0"),
        (CNN(3, (3, 4), widths=(6,), spectral_norm=True), IMAGES, "Conv_0"),
        (TINY, IMAGES, "embedding"),
    ],
    ids=["mlp", "linear", "cnn", "vit"],
)
def test_the_first_layer_alone_is_normalised(network: nn.Module, x: jax.Array, path: str) -> None:
    assert list(jax.eval_shape(network.init, KEY, x)["spectral"]) == [path]
    variables = drawn(network, x, path)
    kernel = variables["params"][path]["kernel"]
    assert not 0.99 < largest(kernel) < 1.01
    layer = {**variables["params"][path], "kernel": kernel / largest(kernel)}
    divided = {**variables, "params": {**variables["params"], path: layer}}
    apply = jax.jit(lambda network, variables: network.apply(variables, x), static_argnums=0)
    expected = apply(network.clone(spectral_norm=False), divided)
    tolerance = 100 * np.finfo(np.float32).eps
    for ours, theirs in zip(
        jax.tree.leaves(apply(network, variables)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_a_network_starts_as_it_does_without_and_with_the_right_vector() -> None:
    network, x = MLP((7,), 3, spectral_norm=True), IMAGES.reshape(5, -1)
    variables, plain = (m.init(KEY, x) for m in (network, network.clone(spectral_norm=False)))
    jax.tree.map(np.testing.assert_array_equal, plain["params"], variables["params"])
    kernel, vector = (
        variables[c]["Dense_0"][n] for c, n in (("params", "kernel"), ("spectral", "vector"))
    )
    np.testing.assert_allclose(jnp.linalg.norm(kernel @ vector), largest(kernel), rtol=1e-6)


# Dropout.


def test_masks_depend_on_the_counter_alone() -> None:
    variables, training = drawn(TINY, IMAGES, "embedding"), TINY.clone(training=True)
    apply = jax.jit(lambda network, v: network.apply(v, IMAGES).output, static_argnums=0)
    later = advanced(variables)
    first, again, other = (apply(training, v) for v in (variables, variables, later))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    # Without training, and without dropout, there is none.
    calm = apply(TINY, variables)
    np.testing.assert_allclose(apply(TINY, later), calm, rtol=1e-5, atol=1e-6)
    none = apply(training.clone(dropout=0.0), variables)
    np.testing.assert_allclose(none, calm, rtol=1e-5, atol=1e-6)
    assert (first != calm).all()


def test_a_tenth_is_dropped_at_each_place_and_the_mean_is_kept() -> None:
    network = ViT(3, width=64, feed_forward=64, heads=1, training=True)
    x = jnp.ones((20, 9, 9, 1))
    seen = []

    def listen(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
        found = proceed(*args, **kwargs)
        if isinstance(context.module, nn.Dropout):
            seen.append((np.asarray(args[0]), np.asarray(found)))
        return found

    variables = drawn(network, x, "embedding")
    with nn.intercept_methods(listen):
        network.apply(variables, x)
    assert len(seen) == 4
    for before, after in seen:
        dropped = (after == 0) & (before != 0)
        error = (0.1 * 0.9 / dropped.size) ** 0.5
        assert abs(dropped.mean() - 0.1) < 5 * error
        np.testing.assert_allclose(after[~dropped], before[~dropped] / 0.9, rtol=1e-6)
    masks = np.stack([after == 0 for _, after in seen])  # all of one shape here
    agree = np.corrcoef(masks.reshape(4, -1))
    assert np.abs(agree - np.eye(4)).max() < 5 / masks[0].size ** 0.5


def test_counters_start_anywhere_and_count_exactly() -> None:
    starts = np.asarray(jax.vmap(dropout.start_counter)(jax.random.split(KEY, 1000)))
    assert (starts == np.round(starts)).all() and (starts >= 0).all()
    assert 0.9 * dropout.OFFSETS < starts.max() < dropout.OFFSETS
    assert len(np.unique(starts)) > 990
    last = jnp.float32(dropout.OFFSETS + 12e6)
    assert advanced({"dropout": {"counter": last}})["dropout"]["counter"] == last + 1


# Optimizer steps.


class Small(nn.Module):
    """A network with both kinds of state that compiles at once."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        counter = self.variable("dropout", "counter", jnp.zeros, ())
        x = spectral.SpectralDense(4, name="first")(x)
        noise = jax.random.normal(dropout.dropout_key(counter.value), x.shape)
        return nn.Dense(2)(x + noise)


X = jax.random.normal(KEY, (3, 5))


def loss(variables: Any) -> jax.Array:
    return jnp.mean(Small().apply(variables, X) ** 2)


def test_state_has_no_gradient() -> None:
    def loss(variables: Any) -> jax.Array:
        return jnp.mean(TINY.clone(training=True).apply(variables, IMAGES).output ** 2)

    gradient = jax.jit(jax.grad(loss))(drawn(TINY, IMAGES, "embedding"))
    state = jax.tree.leaves([gradient["spectral"], gradient["dropout"]])
    assert len(state) == 2 and not any(leaf.any() for leaf in state)
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["params"]["embedding"]))


def test_every_step_moves_state_on_in_scans_and_lanes() -> None:
    """Weight decay would shrink the state, and momentum drag it on."""
    steps = 3
    inner = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, momentum=0.9))
    optimizer = advancing(inner)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        variables, opt_state = carry
        update, opt_state = optimizer.update(jax.grad(loss)(variables), opt_state, variables)
        return (optax.apply_updates(variables, update), opt_state), None

    def run(variables: Any) -> Any:
        return jax.lax.scan(step, (variables, optimizer.init(variables)), length=steps)[0][0]

    start = jax.jit(jax.vmap(Small().init, (0, None)))(jax.random.split(KEY, 2), X)
    found = jax.jit(jax.vmap(run))(start)
    gradient = jax.jit(jax.grad(loss))
    for lane in range(2):
        variables = jax.tree.map(lambda leaf: leaf[lane], start)  # noqa: B023
        params, opt_state = variables["params"], inner.init(variables["params"])
        vector, count = variables["spectral"]["first"]["vector"], 0
        for count in range(steps):
            state = {"spectral": {"first": {"vector": vector}}, "dropout": {"counter": 1.0 * count}}
            slope = gradient({"params": params, **state})["params"]
            update, opt_state = inner.update(slope, opt_state, params)
            params = optax.apply_updates(params, update)
            vector = spectral.power_iteration(params["first"]["kernel"], vector)
        state = {"spectral": {"first": {"vector": vector}}, "dropout": {"counter": steps}}
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a[lane], b, rtol=1e-5, atol=1e-6),  # noqa: B023
            found, {"params": params, **state},
        )  # fmt: skip
    moved = found["spectral"]["first"]["vector"] - start["spectral"]["first"]["vector"]
    assert np.abs(moved).max() > 1e-3


def test_without_state_an_optimizer_is_what_it_was() -> None:
    variables = MLP((4,), 2).init(KEY, jnp.ones((1, 3)))
    plain, wrapped = optax.adam(0.1), advancing(optax.adam(0.1))
    gradient = jax.tree.map(jnp.ones_like, variables)
    expected = plain.update(gradient, plain.init(variables), variables)
    found = wrapped.update(gradient, wrapped.init(variables), variables)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    with pytest.raises(ValueError, match="needs its variables"):
        wrapped.update(gradient, wrapped.init(variables))
