"""Made-up parameters, inputs and optimizers: the right answer, or an error that explains itself."""

from __future__ import annotations

import warnings
from typing import Any

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import plasticity as pl
from plasticity.measure import contract, probe, random_functions

KEY = jax.random.key(0)
KINDS = ("float32", "float16", "bfloat16", "int32", "uint8", "bool", "complex64")
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


@st.composite
def leaves(draw: st.DrawFn) -> Any:
    """An array of any kind, or what is no array."""
    if draw(st.booleans()):
        shape, kind = draw(SHAPES), draw(st.sampled_from(KINDS))
        made = np.full(shape, draw(st.floats(-4, 4)))
        return jnp.asarray(made).astype(kind)
    return draw(st.sampled_from([None, 3, 0.5, "text", jax.nn.relu, KEY, np.ones(2)]))


parameters = st.recursive(
    leaves(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.sampled_from(["params", "w", "batch_stats"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def same(one: Any, other: Any) -> bool:
    return one is other or (
        contract.is_array(one) and one.dtype == other.dtype and one.shape == other.shape
    )


@given(parameters, st.sampled_from([None, True, False, {"w": True}, 3, "all"]))
def test_parameters_are_divided_and_put_together_or_refused(params: Any, trainable: Any) -> None:
    try:
        divided = contract.divide(params, trainable)
    except ValueError as error:
        assert str(error)
        return
    whole = contract.together(*divided)
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    assert all(map(same, jax.tree.leaves(whole), jax.tree.leaves(params)))
    trained = jax.tree.leaves(divided.trained)
    assert trained
    assert all(map(contract.is_floating, trained))
    assert divided.frame == contract.divide(params, trainable).frame
    assert hash(divided.frame) == hash(contract.divide(params, trainable).frame)


@given(parameters)
def test_a_hessian_is_of_what_is_trained(params: Any) -> None:
    """Of ½‖θ‖² it is the identity."""

    def loss(params: Any, batch: Any) -> jax.Array:
        trained = jax.tree.leaves(contract.divide(params).trained)
        return sum((0.5 * jnp.sum(x.astype(jnp.float32) ** 2) for x in trained), jnp.zeros(()))

    try:
        trained = jax.tree.leaves(contract.divide(params).trained)
    except ValueError as refused:
        with pytest.raises(ValueError, match="param") as found:
            pl.hessian(loss, params, jnp.zeros(1))
        assert str(found.value) == str(refused)
        return
    operator = pl.hessian(loss, params, jnp.zeros(1))
    assert operator.dimension == sum(leaf.size for leaf in trained)
    vector = jnp.arange(operator.dimension, dtype=jnp.float32)
    np.testing.assert_allclose(operator.product(vector), vector, rtol=0.01)  # bf16 has 8 bits


numbers = st.floats(width=32) | st.integers(-5, 5)
inputs = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
) | st.recursive(
    arrays.arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(0, 2))) | numbers,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=1), inner),
    max_leaves=4,
)  # fmt: skip


@given(inputs)
def test_inputs_are_arrays_of_as_many_finite_examples_or_refused(x: Any) -> None:
    try:
        found, count = contract.inputs(x)
    except ValueError as error:
        assert str(error)
        return
    shapes = [leaf.shape for leaf in jax.tree.leaves(found)]
    assert count > 0
    assert all(shape[0] == count for shape in shapes)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))


# Optimizers of some kinds, each with one program, and hyperparameters of any size.

X = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
OPTIMIZERS = {
    "sgd": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9),
    "adam": optax.inject_hyperparams(optax.adam)(learning_rate=0.1, b1=0.9, b2=0.999),
    "adamw": optax.inject_hyperparams(optax.adamw)(learning_rate=0.1, weight_decay=0.1),
    "rmsprop": optax.inject_hyperparams(optax.rmsprop)(learning_rate=0.1, decay=0.9),
}


def init(key: jax.Array) -> Any:
    first, second = jax.random.split(key)
    return jax.random.normal(first, (3, 4)), jax.random.normal(second, (4, 2))


def apply(params: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ params[0]) @ params[1]


@given(st.sampled_from(sorted(OPTIMIZERS)), st.data())
def test_a_probe_answers_whatever_the_optimizer_does(name: str, data: st.DataObject) -> None:
    optimizer, params = OPTIMIZERS[name], init(KEY)
    state = optimizer.init(params)
    drawn = {
        which: jnp.float32(data.draw(st.floats(width=32), label=which))
        for which in state.hyperparams
        if jnp.issubdtype(jnp.result_type(state.hyperparams[which]), jnp.floating)
    }
    state = state._replace(hyperparams=state.hyperparams | drawn)
    found = probe.measure(
        apply, init, params, X, optimizer, KEY, opt_state=state, n_targets=1, steps=50,
        batch_size=4,
    )  # fmt: skip
    said = str(found)
    if not np.isfinite(found.loss).all():
        assert "diverged" in said
    elif found.loss.mean() > probe.DIVERGING * found.baseline.mean():
        assert "these fits diverge" in said
    elif found.plasticity <= 0:
        assert "learned nothing" in said
    else:
        assert "of what there was to learn" in said


@given(arrays.arrays(np.float32, (16, 3), elements=st.floats(width=32)))
def test_targets_are_random_or_refused(x: np.ndarray) -> None:
    """Inputs of any size: equal ones, tiny ones, and such as overflow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            found = random_functions.draw(apply, init, x, KEY, 2)
        except ValueError as error:
            assert str(error)
            return
    assert found.shape == (2, 16, 2)
    assert (np.abs(found) <= 1).all()
    assert (random_functions.baseline(found) > 0).all()
    assert len(np.unique(x, axis=0)) > 1, "equal inputs cannot have targets that vary"
