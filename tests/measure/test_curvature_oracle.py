"""Lanczos' method and what is made of it, against matfree's, on Hessians of networks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity.measure import curvature, lanczos
from plasticity.networks import architectures

decomp = pytest.importorskip("matfree.decomp", reason="matfree is not installed")
from matfree import funm, stochtrace  # noqa: E402

KEY = jax.random.key(0)
ORDER = 12
EPS = float(np.finfo(np.float64).eps)

NETWORKS = {
    "mlp": (architectures.MLP((6, 5), 3), (7,)),
    "cnn": (architectures.CNN(3, (2, 3), widths=(5,)), (6, 5, 2)),
}


class Problem(NamedTuple):
    operator: lanczos.Operator
    dense: np.ndarray
    start: jax.Array


@pytest.fixture(params=NETWORKS)
def problem(request: pytest.FixtureRequest, double: None) -> Problem:
    """The Hessian of a network's mean squared error, as an operator and entry by entry."""
    network, shape = NETWORKS[request.param]
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(11, *shape))), jnp.asarray(rng.normal(size=(11, 3)))
    leaves = jax.eval_shape(network.init, KEY, x)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2), leaves)
    predict = architectures.predictions(network)

    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.mean((predict(params, batch[0]) - batch[1]) ** 2)

    operator = curvature.hessian(loss, params, (x, y))
    dense = np.asarray(jax.jit(jax.vmap(operator.product))(jnp.eye(operator.dimension)))
    return Problem(operator, dense, jnp.asarray(rng.normal(size=operator.dimension)))


def tolerance(problem: Problem) -> float:
    """What rounding explains: products, sums and couplings that are no small part of the norm."""
    return float(10 * ORDER * EPS * np.linalg.norm(problem.dense, 2))


def test_tridiagonal_entries_and_basis_are_those_of_matfree(problem: Problem) -> None:
    operator, _, start = problem
    ours = lanczos.lanczos(operator, start, ORDER)
    reduce = decomp.tridiag_sym(ORDER, reortho="full", materialize=False)
    basis, (diagonal, off_diagonal), residual, _ = reduce(operator.product, start)
    atol = tolerance(problem)
    # a small one would magnify the rounding of all steps before
    assert min(ours.off_diagonal) > 0.05 * np.linalg.norm(problem.dense, 2)
    np.testing.assert_allclose(ours.diagonal, diagonal, atol=atol)
    np.testing.assert_allclose(ours.off_diagonal, off_diagonal, atol=atol)
    np.testing.assert_allclose(ours.residual, residual, atol=atol)
    np.testing.assert_allclose(ours.basis, basis, atol=atol)


def test_ritz_values_are_those_of_matfree(problem: Problem) -> None:
    operator, dense, start = problem
    found = lanczos.lanczos(operator, start, ORDER)
    nodes, vectors = lanczos.ritz(found.diagonal, found.off_diagonal)
    tridiagonal = decomp.tridiag_sym(ORDER, reortho="full")(operator.product, start).J_small
    values, expected = jnp.linalg.eigh(tridiagonal)
    np.testing.assert_allclose(nodes, values, atol=tolerance(problem))
    np.testing.assert_allclose(vectors[0] ** 2, expected[0] ** 2, atol=tolerance(problem))
    # an eigenvalue from twelve products
    np.testing.assert_allclose(nodes[-1], np.linalg.eigvalsh(dense)[-1], rtol=1e-9)


def test_moments_of_a_density_are_those_of_matfree(problem: Problem) -> None:
    """Stochastic Lanczos quadrature: v^T f(H) v of one start vector, for powers and no powers."""
    operator, dense, start = problem
    found = lanczos.lanczos(operator, start, ORDER)
    nodes, vectors = lanczos.ritz(found.diagonal, found.off_diagonal)
    weights = vectors[0] ** 2
    reduce = decomp.tridiag_sym(ORDER, reortho="full")
    length = float(start @ start)
    functions = {
        "one": jnp.ones_like, "mean": lambda x: x, "square": lambda x: x**2,
        "cube": lambda x: x**3, "exponential": jnp.exp, "root": lambda x: jnp.sqrt(1 + x**2),
    }  # fmt: skip
    for name, function in functions.items():
        quadrature = funm.monte_carlo_funm_sym(funm.dense_funm_sym_eigh(function), reduce)
        expected = float(quadrature(operator.product, start))
        ours = length * float(weights @ function(nodes))
        np.testing.assert_allclose(ours, expected, rtol=1e-9, err_msg=name)
    for power in (1, 2, 3):
        exact = start @ np.linalg.matrix_power(dense, power) @ start
        np.testing.assert_allclose(length * weights @ nodes**power, exact, rtol=1e-9)


def test_the_trace_agrees_with_hutchinsons_within_the_error_bars(problem: Problem) -> None:
    operator, dense, _ = problem
    exact = float(np.trace(dense))
    spectrum = curvature.spectrum(operator, KEY, order=ORDER, probes=100)
    ours = curvature.trace(spectrum, operator.dimension)
    sampler = stochtrace.sampler_signs(jnp.ones(operator.dimension), num=100)
    hutchinson = stochtrace.estimator_monte_carlo_mean_and_sem(
        stochtrace.monte_carlo_trace(), sampler
    )
    value, error = hutchinson(operator.product, jax.random.key(1))
    assert abs(ours.value - exact) <= 4 * ours.error
    assert abs(ours.value - value) <= 4 * float(np.hypot(ours.error, error))
    assert ours.error < abs(exact), "an error bar that says something"
