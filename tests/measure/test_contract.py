"""What a network may be: five frameworks' networks through every door, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import plasticity as pl
from plasticity.measure import contract, curvature, gradients, inner_products

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
SIZES: dict[str, Any] = {"n_targets": 1, "steps": 50, "batch_size": 4}
ADAM = optax.adam(1e-2)


class Case(NamedTuple):
    """A network of a framework: four units, ReLU, one output."""

    apply: Callable[[Any, Any], Any]
    init: Callable[[jax.Array], Any]
    trained: int  # how many numbers it learns


# The same network in five frameworks' forms.


class Normalised(nn.Module):
    """A linen network with running statistics."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x))
        return nn.Dense(1)(nn.relu(x))


class Model(nnx.Module):
    """An NNX network with running statistics, and a stream of random numbers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, deterministic=True, rngs=rngs)
        self.second = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(self.dropout(nnx.relu(self.norm(self.first(x)))))


def haiku_init(key: jax.Array) -> Any:
    """Parameters as Haiku has them: a dictionary of modules, each a dictionary."""
    first, second = jax.random.split(key)
    return {
        "mlp/~/linear_0": {"w": jax.random.normal(first, (3, 4)), "b": jnp.zeros(4)},
        "mlp/~/linear_1": {"w": jax.random.normal(second, (4, 1)), "b": jnp.zeros(1)},
    }


def haiku_apply(params: Any, rng: Any, x: jax.Array) -> jax.Array:
    first, second = params["mlp/~/linear_0"], params["mlp/~/linear_1"]
    return jax.nn.relu(x @ first["w"] + first["b"][None]) @ second["w"] + second["b"][None]


def plain_init(key: jax.Array) -> Any:
    """A list of matrices, with a counter that nobody trains."""
    first, second = jax.random.split(key)
    weights = [jax.random.normal(first, (3, 4)), jax.random.normal(second, (4, 1))]
    return weights, jnp.zeros((), jnp.int32)


def plain_apply(params: Any, x: jax.Array) -> jax.Array:
    (first, second), _ = params
    return jax.nn.relu(x @ first) @ second


LINEN = Normalised()
DEFINITION = nnx.graphdef(Model(nnx.Rngs(0)))
CASES = {
    "linen": Case(LINEN.apply, lambda key: LINEN.init(key, X), 16 + 8 + 5),
    "nnx": Case(
        lambda state, x: nnx.merge(DEFINITION, state)(x),
        lambda key: nnx.state(Model(nnx.Rngs(key))), 16 + 8 + 5,
    ),
    "equinox": Case(
        lambda model, x: jax.vmap(model)(x),
        lambda key: eqx.nn.MLP(3, 1, width_size=4, depth=1, key=key), 16 + 5,
    ),
    "haiku": Case(lambda params, x: haiku_apply(params, None, x), haiku_init, 16 + 5),
    "plain": Case(plain_apply, plain_init, 12 + 4),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_every_framework_is_probed(case: Case) -> None:
    params = case.init(KEY)
    kept = [np.array(leaf) for leaf in _numbers(params)]
    found = pl.probe(case.apply, case.init, params, X, ADAM, KEY, **SIZES)
    assert 0 < found.baseline[0] < 1
    assert found.curve.shape == (1, 1)
    assert np.isfinite(found.plasticity)
    assert found.loss < found.curve  # the mean loss of all steps: it fell
    for before, after in zip(kept, _numbers(params), strict=True):
        np.testing.assert_array_equal(before, after)


def test_every_frameworks_layers_are_found(case: Case) -> None:
    found = pl.snapshot(case.apply, case.init(KEY), X)
    assert 0 < found["srank"] <= 4
    assert 0 <= found["dead_units"] <= found["dormant_ratio"] <= 1
    assert found["weight_norm"] > 0


def test_every_framework_has_a_curvature_in_what_it_trains(case: Case) -> None:
    def loss(params: Any, batch: jax.Array) -> jax.Array:
        return jnp.mean(case.apply(params, batch) ** 2)

    operator = pl.hessian(loss, case.init(KEY), jnp.asarray(X))
    assert operator.dimension == case.trained
    ends = curvature.extremes(operator, KEY)
    assert ends.converged
    assert ends.largest > 0


def test_every_frameworks_examples_have_gradients(case: Case) -> None:
    def loss(params: Any, example: jax.Array) -> jax.Array:
        return jnp.mean(case.apply(params, example[None]) ** 2)

    found = pl.gradient_covariance(loss, case.init(KEY), jnp.asarray(X))
    assert found.cosines.shape == (12, 12)
    alive = np.asarray(found.norms) > 0
    np.testing.assert_allclose(np.diag(found.cosines), alive, atol=1e-6)


def _numbers(params: Any) -> Iterator[Any]:
    for leaf in jax.tree.leaves(params):
        if contract.is_array(leaf) and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            yield leaf


# What is trained.


def test_running_statistics_are_not_trained() -> None:
    """With a decay of what is trained they would shrink."""
    variables = LINEN.init(KEY, X)
    decay = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))
    parameters, frozen = variables["params"], variables["batch_stats"]

    def alone(params: Any, x: jax.Array) -> jax.Array:
        found: jax.Array = LINEN.apply({"params": params, "batch_stats": frozen}, x)
        return found

    init = CASES["linen"].init
    found = pl.probe(LINEN.apply, init, variables, X, decay, KEY, **SIZES)
    expected = pl.probe(alone, lambda key: init(key)["params"], parameters, X, decay, KEY, **SIZES)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-3)
    trained = pl.probe(LINEN.apply, init, variables, X, decay, KEY, trainable=True, **SIZES)
    assert abs(trained.loss[0] / found.loss[0] - 1) > 0.01


def test_trainable_says_which_branches_learn() -> None:
    params = haiku_init(KEY)
    only = {"mlp/~/linear_0": False, "mlp/~/linear_1": True}
    divided = contract.divide(params, only)
    assert jax.tree.leaves(divided.trained["mlp/~/linear_0"]) == []
    assert len(jax.tree.leaves(divided.trained)) == len(divided.others) == 2
    assert contract.divide(params, lambda params: only).frame == divided.frame
    whole = contract.together(*divided)
    jax.tree.map(np.testing.assert_array_equal, whole, params)

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        return jnp.mean(haiku_apply(params, None, batch) ** 2)

    assert pl.hessian(loss, params, X, trainable=only).dimension == 5


@pytest.mark.parametrize(
    ("params", "trainable", "message"),
    [
        ({}, None, "no parameters that are trained"),
        ({"steps": jnp.arange(3)}, None, "there is an array of int32"),
        ({"params": {}, "stats": jnp.ones(2)}, None, "no parameters that are trained"),
        ({"w": jnp.ones(2)}, False, "no parameters that are trained"),
        ({"w": jnp.ones(2)}, {"v": True}, "trainable does not fit the parameters"),
        ({"w": jnp.ones(2)}, {"w": 1}, "1 is no boolean"),
        ({"w": jnp.ones(2, jnp.complex64)}, None, "complex parameters"),
    ],
)
def test_parameters_outside_of_the_contract_are_refused(
    params: Any, trainable: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        contract.divide(params, trainable)
    with pytest.raises(ValueError, match=message):
        pl.probe(lambda p, x: x, lambda key: params, params, X, ADAM, KEY, trainable=trainable)
    with pytest.raises(ValueError, match=message):
        pl.snapshot(lambda p, x: x, params, X, trainable=trainable)
    with pytest.raises(ValueError, match=message):
        pl.hessian(lambda p, x: jnp.zeros(()), params, X, trainable=trainable)
    with pytest.raises(ValueError, match=message):
        pl.gradient_covariance(lambda p, x: jnp.zeros(()), params, X, trainable=trainable)


# Inputs and outputs.


class Reader(nn.Module):
    """A network that looks its inputs up."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        found = nn.Embed(30, 4)(tokens).reshape(len(tokens), -1)
        return nn.Dense(1)(nn.relu(nn.Dense(4)(found)))


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_integers_stay_integers(kind: Any) -> None:
    network, tokens = Reader(), np.random.default_rng(0).integers(0, 30, (40, 2)).astype(kind)
    params = network.init(KEY, jnp.asarray(tokens))
    found = pl.probe(
        network.apply, lambda key: network.init(key, tokens), params, tokens, ADAM, KEY, **SIZES
    )
    assert np.isfinite(found.plasticity)
    # a trace with more bits than the process has must leave nothing behind in the caller's array
    assert jnp.asarray(tokens).dtype.itemsize <= 4
    assert pl.snapshot(network, params, jnp.asarray(tokens))["srank"] > 0


def test_inputs_may_be_a_pytree_and_outputs_one_of_several() -> None:
    case = CASES["haiku"]
    params = case.init(KEY)
    plain = pl.probe(case.apply, case.init, params, X, ADAM, KEY, **SIZES)
    named = pl.probe(
        lambda p, x: {"logits": case.apply(p, x["observation"]), "aux": x["step"]},
        case.init, params, {"observation": X, "step": np.arange(12)}, ADAM, KEY,
        output=lambda made: made["logits"], **SIZES,
    )  # fmt: skip
    assert [part.tobytes() for part in named] == [part.tobytes() for part in plain]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda made: (made, made), "the network returns a tuple of 2: output= must pick"),
        (lambda made: {"q": made}, "the network returns a mapping of q: output= must pick"),
        (lambda made: made > 0, "predictions are an array of bool"),
    ],
)
def test_what_is_no_prediction_is_refused(returned: Any, message: str) -> None:
    case = CASES["haiku"]
    with pytest.raises(ValueError, match=message):
        pl.probe(
            lambda p, x: returned(case.apply(p, x)), case.init, case.init(KEY), X, ADAM, KEY,
            **SIZES,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((0, 3)), r"of shape \(0, 3\): need at least one"),
        ({}, r"of shape \[\]: need at least one"),
        ({"a": np.ones((2, 3)), "b": np.ones((3, 3))}, "the same number of examples"),
        (np.array([["a"]]), "of type <U1: they must be numbers"),
        (np.array([None, 1]), "of type object: they must be numbers"),
        (np.array([[np.nan, 1.0]]), "1 of the inputs' values are not finite"),
    ],
)
def test_inputs_outside_of_the_contract_are_refused(given: Any, message: str) -> None:
    case = CASES["haiku"]
    with pytest.raises(ValueError, match=message):
        pl.probe(case.apply, case.init, case.init(KEY), given, ADAM, KEY, **SIZES)


class Unhashable:
    """A callable that is equal to nothing and has no hash, as a dataclass of arrays is."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        return haiku_apply(params, None, x)


def test_a_callable_need_have_no_hash() -> None:
    case, params = CASES["haiku"], haiku_init(KEY)
    found = pl.probe(Unhashable(), haiku_init, params, X, ADAM, KEY, **SIZES)
    plain = pl.probe(case.apply, haiku_init, params, X, ADAM, KEY, **SIZES)
    np.testing.assert_array_equal(found.loss, plain.loss)
    held = Unhashable()
    assert contract.Held(held) == contract.Held(held) != contract.Held(Unhashable())
    assert contract.Held(abs) == contract.Held(abs)
    assert hash(contract.Held(held)) == hash(contract.Held(held))


def test_half_precision_is_measured_in_single_precision() -> None:
    single = haiku_init(KEY)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), single)

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        return jnp.mean(haiku_apply(params, None, batch) ** 2)

    x = jnp.asarray(X)
    found, expected = (
        curvature.extremes(pl.hessian(loss, params, x), KEY) for params in (half, single)
    )
    np.testing.assert_allclose(found.largest, expected.largest, rtol=0.05)  # bf16 has 8 bits
    snap = pl.snapshot(CASES["haiku"].apply, half, x.astype(jnp.bfloat16))
    assert snap["srank"] >= 1


# Targets that say nothing.


def zeros(key: jax.Array) -> Any:
    made = haiku_init(key)
    last = made["mlp/~/linear_1"]
    return made | {"mlp/~/linear_1": {"w": jnp.zeros_like(last["w"]), "b": last["b"]}}


@pytest.mark.parametrize(
    ("init", "inputs", "message"),
    [
        (zeros, X, "all inputs the same prediction"),
        (haiku_init, X[:1], "all inputs the same prediction"),
        (haiku_init, np.ones((12, 3), np.float32), "all inputs the same prediction"),
        (lambda key: haiku_init(KEY), X, "the same network for every key"),
    ],
    ids=["zeros", "one input", "equal inputs", "no key"],
)
def test_targets_that_say_nothing_are_refused(init: Any, inputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pl.probe(CASES["haiku"].apply, init, haiku_init(KEY), inputs, ADAM, KEY, **SIZES)


def test_targets_that_hardly_vary_are_warned_of() -> None:
    def faint(key: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: 1e-3 * leaf, haiku_init(key))

    many = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    with pytest.warns(UserWarning, match="the targets vary less than random ones do"):
        pl.probe(CASES["haiku"].apply, faint, haiku_init(KEY), many, ADAM, KEY, **SIZES)


def test_fits_that_diverge_say_so_and_hint_at_the_inputs_size() -> None:
    pixels = 80 * np.abs(X)
    with pytest.warns(UserWarning, match="root mean square is .*standardise them first"):
        found = pl.probe(
            CASES["haiku"].apply, haiku_init, haiku_init(KEY), pixels, optax.adam(1.0), KEY,
            **SIZES,
        )  # fmt: skip
    assert "times as far off as a constant: these fits diverge" in str(found)


# Scale.


def scaled(size: float) -> Callable[[Any, Any], jax.Array]:
    return lambda params, batch: size * jnp.mean(haiku_apply(params, None, batch) ** 2)


@pytest.mark.parametrize("size", [1e30, 1e20, 1e-18, 1e-19, 1e-30])
def test_curvature_does_not_depend_on_the_scale_of_the_loss(size: float) -> None:
    params, x = haiku_init(KEY), jnp.asarray(X)
    one, other = (curvature.extremes(pl.hessian(scaled(s), params, x), KEY) for s in (1.0, size))
    assert other.converged
    assert other.products == one.products
    np.testing.assert_allclose(other.largest / size, one.largest, rtol=1e-5)
    np.testing.assert_allclose(other.smallest / size, one.smallest, atol=1e-5 * one.largest)
    assert other.error / size < 1e-4 * one.largest
    nodes = pl.spectrum(pl.hessian(scaled(size), params, x), KEY, order=8).nodes
    np.testing.assert_allclose(nodes.max() / size, one.largest, rtol=1e-3)
    largest = curvature.largest_eigenvalue(scaled(size), params, x, KEY)
    np.testing.assert_allclose(largest / size, one.largest, rtol=1e-3)


def test_a_curvature_that_is_no_number_has_no_error_either() -> None:
    operator = curvature.Operator(lambda vector: vector * jnp.nan, 10, jnp.float32)
    found = curvature.extremes(operator, KEY)
    assert np.isnan([found.smallest, found.largest, found.error]).all()
    assert not found.converged


def test_a_sum_in_chunks_is_not_read_as_a_mean() -> None:
    params, x = haiku_init(KEY), jnp.asarray(X)

    def total(params: Any, batch: jax.Array) -> jax.Array:
        return jnp.sum(haiku_apply(params, None, batch) ** 2)

    with pytest.raises(ValueError, match="in chunks it must be a mean over the examples"):
        pl.hessian(total, params, x, chunk_size=4)
    assert pl.hessian(scaled(1.0), params, x, chunk_size=5).dimension == 21


@pytest.mark.parametrize("size", [1e-22, 1e25])
def test_cosines_do_not_depend_on_the_size_of_gradients(size: float) -> None:
    params, x = haiku_init(KEY), jnp.asarray(X)

    def loss(params: Any, example: jax.Array) -> jax.Array:
        return size * jnp.sum(haiku_apply(params, None, example[None]))

    found = pl.gradient_covariance(loss, params, x)
    expected = pl.gradient_covariance(
        lambda params, example: loss(params, example) / size, params, x
    )
    np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-5)
    np.testing.assert_allclose(found.norms / size, expected.norms, rtol=1e-5)
    assert gradients.summary(found).zero_share == gradients.summary(expected).zero_share


@pytest.mark.parametrize("size", [1e-22, 1e25])
def test_nor_do_they_layer_by_layer(size: float) -> None:
    network = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
    x, y = jnp.asarray(X), jax.random.normal(KEY, (12, 2))
    params = network.init(KEY, x)

    def losses(made: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum(made * y, axis=1)

    found = inner_products.covariance(network, params, x, losses, size * y)
    expected = gradients.covariance(inner_products.gram(network, params, x, losses, y))
    np.testing.assert_allclose(found.cosines, expected.cosines, atol=1e-5)
    np.testing.assert_allclose(found.norms / size, expected.norms, rtol=1e-5)


def test_variables_that_are_none_are_refused() -> None:
    network = nn.Dense(1)
    with pytest.raises(ValueError, match="a linen network's variables have a collection"):
        inner_products.gram(network, {"w": jnp.ones(1)}, jnp.asarray(X), lambda made, y: made, None)


# Numbers that are none: JAX can be told to stop where one appears.


def test_nothing_that_is_no_number_appears_on_the_way() -> None:
    dead = jax.tree.map(jnp.zeros_like, haiku_init(KEY))
    x = jnp.asarray(X)
    with jax.debug_nans(True):
        found = pl.snapshot(CASES["haiku"].apply, dead, x)
        assert found["effective_rank"] == 0
        assert found["dead_units"] == 1
        ends = curvature.extremes(pl.hessian(scaled(1.0), haiku_init(KEY), x), KEY)
        assert ends.converged
        pl.probe(CASES["haiku"].apply, haiku_init, haiku_init(KEY), X, ADAM, KEY, **SIZES)


# What a stranger found.


def test_numpy_arrays_that_a_network_holds_stay_what_they_were() -> None:
    """JAX keeps the 64 bits that they have where they are first traced, also for their owner."""
    mean, columns = np.arange(3.0) / 4, np.array([2, 0, 1])

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return (x[:, columns] - mean[None]) @ params

    def init(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (3, 1))

    found = pl.probe(apply, init, init(KEY), X, ADAM, KEY, **SIZES)
    assert np.isfinite(found.plasticity)
    x = jnp.asarray(X)
    assert jax.jit(lambda x: x - mean[None])(x).dtype == (x - mean[None]).dtype == jnp.float32
    assert jax.jit(lambda x: x + columns)(jnp.ones(3, jnp.int32)).dtype == jnp.int32


def test_a_network_that_cannot_be_computed_in_double_precision_is_probed_in_single() -> None:
    network = nn.Sequential([nn.RNN(nn.GRUCell(4)), nn.Dense(1)])  # its carry begins in float32
    x = np.random.default_rng(0).normal(size=(6, 3, 2)).astype(np.float32)
    params = network.init(KEY, x)
    with pytest.warns(UserWarning, match=r"cannot be computed in double precision \(scan"):
        found = pl.probe(
            network.apply, lambda key: network.init(key, x), params, x, ADAM, KEY, **SIZES
        )
    assert np.isfinite(found.plasticity)
    seen = pytest.warns(UserWarning, match="layers within scan are not seen")
    with seen, pytest.raises(ValueError, match="no hidden layer"):
        pl.snapshot(network, params, jnp.asarray(x))


def test_an_equinox_module_of_booleans_is_a_mask() -> None:
    """Though it can be called."""
    model = eqx.nn.MLP(3, 1, width_size=4, depth=1, key=KEY)
    none = jax.tree.map(lambda _: False, model)
    last = eqx.tree_at(lambda tree: tree.layers[-1].weight, none, jnp.array(True))

    def loss(model: Any, batch: jax.Array) -> jax.Array:
        return jnp.mean(jax.vmap(model)(batch) ** 2)

    assert pl.hessian(loss, model, jnp.asarray(X), trainable=last).dimension == 4
    with pytest.raises(ValueError, match="trainable leaves no parameters"):
        pl.hessian(loss, model, jnp.asarray(X), trainable=none)


def test_a_sum_of_zeros_in_chunks_is_not_read_as_a_mean_either() -> None:
    def total(params: Any, batch: jax.Array) -> jax.Array:
        return jnp.sum((batch @ params) ** 2)

    with pytest.raises(ValueError, match="in chunks it must be a mean over the examples"):
        pl.hessian(total, jnp.zeros(3), jnp.asarray(X), chunk_size=4)
    mean = pl.hessian(lambda p, b: total(p, b) / len(b), jnp.zeros(3), jnp.asarray(X), chunk_size=5)
    assert mean.dimension == 3


@pytest.mark.parametrize("scale", [-1.0, 0.0, np.inf, np.nan])
def test_a_scale_is_positive(scale: float) -> None:
    operator = curvature.Operator(lambda vector: vector, 3, jnp.float32)
    with pytest.raises(ValueError, match=r"scale = .*: must be positive and finite"):
        pl.spectrum(operator, KEY, 2, scale=scale)


def test_what_else_is_no_answer_is_refused() -> None:
    case, params, x = CASES["haiku"], haiku_init(KEY), jnp.asarray(X)
    with pytest.raises(ValueError, match="the loss is of type int32: it needs a gradient"):
        pl.hessian(lambda p, b: jnp.sum(case.apply(p, b) > 0), params, x)
    with pytest.raises(ValueError, match="output= is a str: it must be a function"):
        contract.predictions(x, "logits")
    mutable = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(1)])
    variables = mutable.init(KEY, x)
    found = pl.snapshot(lambda p, x: mutable.apply(p, x, mutable=["batch_stats"]), variables, x)
    assert found["srank"] > 0, "an empty collection is no list of activations"
