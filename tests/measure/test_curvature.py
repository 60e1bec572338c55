"""Products with a Hessian, Lanczos' method, and what is made of it: against dense matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from plasticity.measure import curvature, lanczos
from plasticity.measure.lanczos import Operator
from plasticity.networks import architectures

KEY = jax.random.key(0)
EPS32 = float(np.finfo(np.float32).eps)


# Products with Hessians.


class Transformer(nn.Module):
    """One block of attention over five positions."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(4)(x)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(6)(nn.LayerNorm()(x))))
        return nn.Dense(3)(x.mean(axis=1))


NETWORKS: dict[str, tuple[Callable[[Any, Any], Any], nn.Module, tuple[int, ...]]] = {}
for name, network, shape in (
    ("mlp", architectures.MLP((6, 5), 3), (7,)),
    ("mlp with layer norm", architectures.MLP((6, 5), 3, layer_norm=True), (7,)),
    ("cnn", architectures.CNN(3, (2, 3), widths=(5,)), (6, 5, 2)),
    ("transformer", Transformer(), (5, 3)),
):
    outputs = network.apply if name == "transformer" else architectures.predictions(network)
    NETWORKS[name] = (outputs, network, shape)


@pytest.fixture(params=NETWORKS)
def problem(request: pytest.FixtureRequest, double: None) -> tuple[Any, Any, Any]:
    """A network's predictions, parameters of some size in float64, and a batch of 11 examples."""
    predict, network, shape = NETWORKS[request.param]
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(11, *shape))), jnp.asarray(rng.normal(size=(11, 3)))
    leaves = jax.eval_shape(network.init, KEY, x)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2), leaves)
    return jax.jit(predict), params, (x, y)


def squares(predict: Any) -> curvature.Loss:
    return lambda params, batch: jnp.mean((predict(params, batch[0]) - batch[1]) ** 2)


def matrix(operator: Operator) -> np.ndarray:
    """The operator's entries, column by column."""
    return np.asarray(jax.jit(jax.vmap(operator.product))(jnp.eye(operator.dimension)))


def dense_hessian(loss: curvature.Loss, params: Any, batch: Any) -> np.ndarray:
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jit(jax.hessian(lambda theta: loss(unravel(theta), batch)))(flat))


def test_products_are_those_of_the_dense_hessian(problem: tuple[Any, Any, Any]) -> None:
    predict, params, batch = problem
    loss = squares(predict)
    expected = dense_hessian(loss, params, batch)
    scale = np.abs(expected).max()
    for chunk_size in (None, 4):  # two chunks and a rest of three
        found = matrix(curvature.hessian(loss, params, batch, chunk_size))
        np.testing.assert_allclose(found, expected, atol=1e-11 * scale, err_msg=str(chunk_size))


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 5, 100])
def test_chunks_of_any_size_give_the_whole(chunk_size: int, double: None) -> None:
    batch = tuple(jnp.asarray(np.random.default_rng(0).normal(size=s)) for s in ((5, 2), (5,)))
    expected = 2 / 5 * batch[0].T @ batch[0]
    found = matrix(curvature.hessian(plane, {"w": jnp.ones(2)}, batch, chunk_size))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_gauss_newton_is_jacobians_around_the_output_hessian(
    problem: tuple[Any, Any, Any],
) -> None:
    predict, params, batch = problem
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jit(jax.jacobian(lambda theta: predict(unravel(theta), batch[0]).ravel()))(flat)
    expected = np.asarray(2 / jacobian.shape[0] * jacobian.T @ jacobian)

    def output_loss(found: jax.Array, batch: Any) -> jax.Array:
        return jnp.mean((found - batch[1]) ** 2)

    for chunk_size in (None, 4):
        operator = curvature.gauss_newton(
            lambda params, batch: predict(params, batch[0]), output_loss, params, batch, chunk_size
        )
        found = matrix(operator)
        np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())


def test_the_proxy_loss_has_the_curvature_that_the_paper_means(
    problem: tuple[Any, Any, Any],
) -> None:
    """2/n Σ (∇f ∇fᵀ + ξ ∇²f), which is the Hessian of (f - target)² at target = f - ξ."""
    predict, params, (x, xi) = problem
    loss = curvature.proxy_loss(predict)
    np.testing.assert_allclose(loss(params, (x, xi)), np.mean(np.asarray(xi) ** 2), rtol=1e-12)
    target = predict(params, x) - xi
    expected = dense_hessian(squares(predict), params, (x, target))
    found = matrix(curvature.hessian(loss, params, (x, xi)))
    np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())


# Lanczos' method on matrices of known spectrum.

SPECTRA = {
    "outliers": np.concatenate([np.linspace(-0.1, 0.1, 54), [1, 2, 4, 8, 16, -3]]),
    "uniform": np.linspace(-1, 10, 60),
    "identity": np.ones(60),
    "zero": np.zeros(60),
    "low rank": np.concatenate([np.zeros(57), [1e-6, 3, -2]]),
    "three values": np.repeat([-1.0, 0.5, 2.0], 20),
    "nearly zero": 1e-12 * np.linspace(-1, 3, 60),
    "negative": -np.geomspace(1e-3, 1e3, 60),
}


def of_spectrum(values: np.ndarray, dtype: Any = np.float64) -> tuple[np.ndarray, Operator]:
    """A dense matrix with these eigenvalues in a random basis, and as an operator."""
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(len(values), len(values))))
    dense = jnp.asarray(q * values @ q.T, dtype)
    return np.asarray(dense), Operator(lambda v: dense @ v, len(values), dense.dtype)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("order", [1, 7, 40, 60])
def test_the_identity_that_defines_lanczos(name: str, order: int, double: None) -> None:
    """A Qᵀ = Qᵀ T + r e_kᵀ, rows of Q orthonormal or, after an early end, zero."""
    dense, operator = of_spectrum(SPECTRA[name])
    start = jnp.asarray(np.random.default_rng(2).normal(size=60))
    found = jax.jit(lanczos.lanczos, static_argnums=(0, 2))(operator, start, order)
    q, t = np.asarray(found.basis), np.diag(found.diagonal)
    t = t + np.diag(found.off_diagonal, 1) + np.diag(found.off_diagonal, -1)
    r = np.zeros((60, order))
    r[:, -1] = found.residual
    scale = np.abs(SPECTRA[name]).max()
    np.testing.assert_allclose(dense @ q.T, q.T @ t + r, atol=1e-12 * scale)
    lengths = np.linalg.norm(q, axis=1)
    assert set(np.round(lengths, 12)) <= {0.0, 1.0}
    np.testing.assert_allclose(q @ q.T, np.diag(lengths**2), atol=1e-13)
    np.testing.assert_allclose(q[0] * np.linalg.norm(start), start, rtol=1e-12)


@pytest.mark.parametrize("order", [40, 64])
def test_no_ghosts_in_single_precision(order: int) -> None:
    """Orthogonal to rounding after convergence, where plain Lanczos repeats its outliers."""
    values = np.concatenate([np.linspace(0, 1, 190), np.geomspace(10, 1000, 10)])
    _, operator = of_spectrum(values, np.float32)
    found = lanczos.lanczos(operator, jax.random.normal(KEY, (200,)), order)
    overlap = np.asarray(found.basis @ found.basis.T)
    np.testing.assert_allclose(overlap, np.eye(order), atol=20 * EPS32)
    nodes = np.asarray(lanczos.ritz(found.diagonal, found.off_diagonal)[0])
    assert (nodes > 5).sum() == 10
    np.testing.assert_allclose(nodes[-10:], values[-10:], rtol=1e-4)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-8), (np.float32, 1e-4)])
def test_extremes_are_as_exact_as_asked(
    name: str, dtype: Any, tolerance: float, double: None
) -> None:
    values = SPECTRA[name]
    _, operator = of_spectrum(values, dtype)
    run = jax.jit(curvature.extremes, static_argnames=("operator", "tolerance", "most"))
    found = run(operator, KEY, tolerance=tolerance)
    size = np.abs(values).max()
    assert found.converged and found.products <= 60
    assert found.error <= tolerance * size * 1.001
    # An error of a Ritz vector counts squared in its value.
    rounding = 60 * np.finfo(dtype).eps * size
    assert abs(found.largest - values.max()) <= float(found.error) + rounding
    assert abs(found.smallest - values.min()) <= float(found.error) + rounding
    assert found.largest.dtype == dtype


def test_too_few_products_are_reported() -> None:
    _, operator = of_spectrum(np.linspace(-1, 1, 60), np.float32)
    found = curvature.extremes(operator, KEY, tolerance=1e-6, most=5)
    assert not found.converged and found.products == 5
    assert found.error > 1e-6
    assert -1 < found.smallest < found.largest < 1


def test_easy_spectra_take_few_products() -> None:
    values = np.concatenate([np.zeros(90), np.geomspace(1, 1000, 10)])
    _, operator = of_spectrum(values, np.float32)
    assert curvature.extremes(operator, KEY).products == lanczos.BLOCK


# Densities.


@pytest.mark.parametrize("name", SPECTRA)
def test_densities_have_the_moments_of_the_spectrum(name: str, double: None) -> None:
    """All steps: exactly, by probe vector. Their mean over probes estimates the trace."""
    values = SPECTRA[name]
    dense, operator = of_spectrum(values)
    found = curvature.spectrum(operator, KEY, order=60, probes=40)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-12)
    size = np.abs(values).max() or 1.0
    for k, key in enumerate(jax.random.split(KEY, 40)[:5]):
        direction = np.asarray(jax.random.normal(key, (60,), np.float64))
        v = direction / np.linalg.norm(direction)
        for power in (1, 2, 3):
            exact = v @ np.linalg.matrix_power(dense, power) @ v
            ours = float(found.weights[k] @ found.nodes[k] ** power)
            np.testing.assert_allclose(ours, exact, atol=1e-11 * size**power)
    estimate = curvature.trace(found, 60)
    assert abs(estimate.value - values.sum()) <= 4 * estimate.error + 1e-10 * size


def test_density_is_a_density_with_an_error_bar(double: None) -> None:
    values = SPECTRA["uniform"]
    _, operator = of_spectrum(values)
    found = curvature.spectrum(operator, KEY, order=60, probes=30)
    grid = jnp.linspace(-8, 17, 4_001)
    smooth = curvature.density(found, grid, 0.7)
    np.testing.assert_allclose(np.trapezoid(smooth.value, grid), 1, rtol=1e-9)
    mean = np.trapezoid(smooth.value * grid, grid)
    np.testing.assert_allclose(60 * mean, curvature.trace(found, 60).value, rtol=1e-9)
    points = np.asarray(grid)[:, None]
    bumps = np.exp(-0.5 * ((points - values) / 0.7) ** 2) / (0.7 * np.sqrt(2 * np.pi))
    exact = bumps.mean(axis=1)
    off = np.abs(smooth.value - exact) / np.where(exact > 1e-6, smooth.error, np.inf)
    assert 0.2 < np.sqrt(np.mean(off[exact > 1e-6] ** 2)) < 3  # error bars of the right size
    assert np.isnan(curvature.trace(curvature.spectrum(operator, KEY, order=5), 60).error)


def test_largest_eigenvalue_of_a_network(double: None) -> None:
    predict, network, shape = NETWORKS["mlp"]
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(40, *shape))), jnp.asarray(rng.normal(size=(40, 3)))
    shapes = jax.eval_shape(network.init, KEY, x)
    params = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape) / 2), shapes)
    loss = squares(predict)
    exact = np.linalg.eigvalsh(dense_hessian(loss, params, (x, y)))[-1]
    found = jax.jit(curvature.largest_eigenvalue, static_argnums=(0, 4))(
        loss, params, (x, y), KEY, 16
    )
    np.testing.assert_allclose(found, exact, rtol=1e-4)
    assert found <= exact * (1 + 1e-12)


def test_equal_keys_give_equal_bits() -> None:
    _, operator = of_spectrum(SPECTRA["uniform"], np.float32)
    first, again = (curvature.spectrum(operator, KEY, 20, 3) for _ in range(2))
    assert first.nodes.tobytes() == again.nodes.tobytes()
    other = curvature.spectrum(operator, jax.random.key(1), 20, 3)
    assert (np.asarray(first.nodes) != np.asarray(other.nodes)).any()
    assert (np.diff(np.asarray(first.nodes)[:, -1]) != 0).all()  # probes differ


# What is refused.

BATCH = (jnp.ones((4, 2)), jnp.ones((4,)))


def plane(params: Any, batch: Any) -> jax.Array:
    return jnp.mean((batch[0] @ params["w"] - batch[1]) ** 2)


W = {"w": jnp.ones(2)}


@pytest.mark.parametrize(
    ("params", "batch", "loss", "message"),
    [
        ({}, BATCH, plane, "there are no parameters"),
        ({"steps": jnp.arange(2)}, BATCH, plane, "there is an array of int32"),
        (W, BATCH, lambda p, b: (plane(p, b), b), "the loss is a tuple of 2: it must be a number"),
        (W, (jnp.ones((0, 2)), jnp.ones((0,))), plane, "same number of examples, at least one"),
        (W, (jnp.ones((4, 2)), jnp.ones((3,))), plane, "each needs the same number"),
        (W, (jnp.ones((4, 2)), jnp.ones(())), plane, "each needs the same number"),
        (W, BATCH, lambda p, b: b[0] @ p["w"], r"the loss has shape \(4,\)"),
        (W, (jnp.full((4, 2), jnp.inf), BATCH[1]), plane, "the loss is (inf|nan): it has no curva"),
        ({"w": jnp.array([1.0, jnp.nan])}, BATCH, plane, "the loss is nan"),
    ],
)
def test_losses_without_curvature_are_refused(
    params: Any, batch: Any, loss: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        curvature.hessian(loss, params, batch)


def test_sizes_that_cannot_be_are_refused() -> None:
    operator = curvature.hessian(plane, W, BATCH)
    for order in (0, 3):
        with pytest.raises(ValueError, match=f"order = {order}: must lie between 1 and .* 2"):
            lanczos.lanczos(operator, jnp.ones(2), order)
        with pytest.raises(ValueError, match=f"order = {order}"):
            curvature.spectrum(operator, KEY, order)
    with pytest.raises(ValueError, match="probes = 0"):
        curvature.spectrum(operator, KEY, 2, probes=0)
    with pytest.raises(ValueError, match="chunk_size = 0"):
        curvature.hessian(plane, W, BATCH, chunk_size=0)
    for tolerance, most in ((0.0, 5), (np.nan, 5), (1e-3, 0)):
        with pytest.raises(ValueError, match="must be above 0"):
            curvature.extremes(operator, KEY, tolerance, most)


def test_nothing_is_nan_silently() -> None:
    """Under jit no error can be raised: the extremes say that they did not converge."""

    def cubic(params: Any, batch: Any) -> jax.Array:
        return jnp.mean((batch[0] @ params["w"] - batch[1]) ** 3)

    @jax.jit
    def ends(params: Any) -> curvature.Extremes:
        return curvature.extremes(curvature.hessian(cubic, params, BATCH), KEY)

    assert ends(W).converged
    assert not ends({"w": jnp.array([1.0, jnp.nan])}).converged
