"""Ranks and shares of units where the answer is known, and theorems that hold for every matrix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plasticity.chapters.network_statistics import figures as network_statistics_figures
from plasticity.measure import ranks, snapshot
from plasticity.measure.ranks import (
    approximate_rank,
    effective_rank,
    feature_rank,
    singular_values,
    srank,
    stable_rank,
)
from plasticity.measure.units import dead_units, dormant_ratio, linearised_units
from plasticity.networks.architectures import MLP

EPS = float(np.finfo(np.float32).eps)
KEY = jax.random.key(0)

SCALE_FREE: dict[str, Callable[..., jax.Array]] = {
    "srank": srank,
    "approximate_rank": approximate_rank,
    "effective_rank": effective_rank,
    "stable_rank": stable_rank,
}
RANKS = SCALE_FREE | {"feature_rank": feature_rank}
UNITS = {"dormant_ratio": dormant_ratio, "linearised_units": linearised_units}
EVERYTHING = RANKS | UNITS | {"singular_values": singular_values}

each_scale_free = pytest.mark.parametrize("name", SCALE_FREE)
each_rank = pytest.mark.parametrize("name", RANKS)


def with_spectrum(spectrum: Any, rows: int, columns: int, seed: int = 0) -> jax.Array:
    """U diag(spectrum) Vᵀ with random orthonormal columns in U and V, built in float64."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(n, len(spectrum))))[0] for n in (rows, columns))
    return jnp.asarray((u * np.asarray(spectrum)[None]) @ v.T, jnp.float32)


def least_k(terms: Any, share: float) -> int:
    """The definition, word for word: the least k whose k largest terms make up the share."""
    terms = sorted((float(term) for term in terms), reverse=True)
    return next(k for k in range(1, len(terms) + 1) if sum(terms[:k]) >= share * sum(terms))


def entropy_rank(spectrum: Any) -> float:
    shares = [float(s) / float(np.sum(spectrum)) for s in spectrum if s > 0]
    return math.exp(-sum(p * math.log(p) for p in shares))


# A few shapes: each is compiled anew.
shapes = st.sampled_from([(1, 1), (1, 4), (5, 1), (3, 4), (5, 3), (4, 4)])
matrices = hnp.arrays(np.float32, shapes, elements=st.floats(-100, 100, width=16))
activations = hnp.arrays(np.float32, shapes, elements=st.floats(0, 100, width=16))
unhurried = settings(deadline=None, max_examples=60)


# Singular values.


@pytest.mark.parametrize(("rows", "columns"), [(40, 10), (10, 40), (10, 10)])
def test_singular_values_are_the_prescribed_ones(rows: int, columns: int) -> None:
    spectrum = np.array([30.0, 10, 9, 3, 1, 1, 0.5, 0.1, 0.01, 0])
    found = singular_values(with_spectrum(spectrum, rows, columns))
    assert found.shape == (10,) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, spectrum, atol=10 * 30 * EPS)  # backward stable: c·σ₁·eps


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_one_entry_that_is_not_finite_makes_every_statistic_nan(
    bad: float, shape: tuple[int, int]
) -> None:
    matrix = jnp.ones(shape).at[-1, -1].set(bad)
    for name, statistic in EVERYTHING.items():
        found = statistic(matrix)
        assert jnp.isnan(found).all(), name


@each_rank
def test_a_matrix_too_large_for_its_norm_has_no_rank(name: str) -> None:
    assert jnp.isnan(RANKS[name](jnp.full((4, 3), 3e38)))


# Ranks in closed form.


@each_rank
@pytest.mark.parametrize("r", [1, 2, 7])
def test_equal_singular_values_are_counted_by_every_rank(name: str, r: int) -> None:
    found = RANKS[name](with_spectrum([3.0] * r, 20, 7))
    np.testing.assert_allclose(found, r, rtol=1e-4)  # the zeros come out as 1e-6 and count a bit
    assert found.dtype == jnp.float32 and found.shape == ()


def test_orthogonal_columns_of_different_lengths() -> None:
    matrix = jnp.zeros((4, 3)).at[0, 0].set(3).at[2, 1].set(-2).at[3, 2].set(1)
    assert stable_rank(matrix) == pytest.approx((9 + 4 + 1) / 9, rel=10 * EPS)
    assert effective_rank(matrix) == pytest.approx(6 / (27 * 4) ** (1 / 6), rel=10 * EPS)
    assert srank(matrix, 0.2) == 2  # 5/6 of the sum
    assert srank(matrix, 0.1) == 3
    assert approximate_rank(matrix, 0.1) == 2  # 13/14 of the squares
    assert approximate_rank(matrix, 0.4) == 1  # 9/14


@pytest.mark.parametrize("n", [1, 99, 200])
def test_the_identity_needs_99_percent_of_its_size(n: int) -> None:
    identity = jnp.eye(n)
    needed = -(-99 * n // 100)  # rounded up, in whole numbers
    assert srank(identity) == approximate_rank(identity) == needed
    assert stable_rank(identity) == pytest.approx(n, rel=n * EPS)
    assert effective_rank(identity) == pytest.approx(n, rel=n * EPS)
    assert feature_rank(identity) == n


@pytest.mark.parametrize("q", [0.5, 0.8, 0.95])
def test_a_geometric_spectrum(q: float) -> None:
    n, delta = 30, 0.01
    matrix = with_spectrum(q ** np.arange(n), 50, n)
    for statistic, ratio in ((srank, q), (approximate_rank, q**2)):
        # the first k terms make up (1 - ratioᵏ) / (1 - ratioⁿ)
        k = math.log(1 - (1 - delta) * (1 - ratio**n)) / math.log(ratio)
        assert statistic(matrix, delta) == math.ceil(k)
    stable = (1 - q ** (2 * n)) / (1 - q**2)
    assert stable_rank(matrix) == pytest.approx(stable, rel=100 * EPS)
    # the entropy of a truncated geometric distribution
    mean = q * (1 - n * q ** (n - 1) + (n - 1) * q**n) / ((1 - q) * (1 - q**n))
    entropy = -math.log((1 - q) / (1 - q**n)) - mean * math.log(q)
    # a share p that is off by eps shifts the entropy by eps·log(1/eps)
    assert effective_rank(matrix) == pytest.approx(math.exp(entropy), rel=1e-4)


def test_feature_rank_counts_what_is_above_epsilon_root_n() -> None:
    n, epsilon = 25, 0.01
    spectrum = (
        5 * epsilon * np.array([100, 2, 1.01, 0.99, 0.1])
    )  # √25 · ε · what it is multiplied by
    matrix = with_spectrum(spectrum, n, 8)
    assert feature_rank(matrix) == 3
    assert feature_rank(matrix, epsilon / 2) == 4
    assert feature_rank(matrix, 3 * epsilon) == 1


def test_feature_rank_does_not_count_what_equals_epsilon() -> None:
    assert feature_rank(jnp.eye(4), 0.5) == 0  # 1 / √4
    assert feature_rank(jnp.eye(4), 0.499) == 4


@each_rank
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 5)])
def test_a_zero_matrix_has_rank_zero(name: str, shape: tuple[int, int]) -> None:
    assert RANKS[name](jnp.zeros(shape)) == 0


# What leaves a rank as it is.


@each_scale_free
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-3, 1e3, 1e20, 1e30])
def test_scale_does_not_matter(name: str, scale: float) -> None:
    matrix = jax.random.normal(KEY, (12, 8))
    expected, found = (SCALE_FREE[name](m) for m in (matrix, matrix * scale))
    np.testing.assert_allclose(found, expected, rtol=100 * EPS)


def test_but_to_the_feature_rank_it_does() -> None:
    matrix = jax.random.normal(KEY, (12, 8))
    found = [int(feature_rank(matrix * scale)) for scale in (1.0, 0.01, 1e-4)]
    assert found[0] == 8 and 0 < found[1] < 8 and found[2] == 0


@each_scale_free
def test_transposition_does_not_matter(name: str) -> None:
    matrix = with_spectrum([5, 3, 2, 1, 0.4, 0.1], 30, 9)
    expected, found = (SCALE_FREE[name](m) for m in (matrix, matrix.T))
    np.testing.assert_allclose(found, expected, rtol=100 * EPS)


def test_but_to_the_feature_rank_it_does_too() -> None:
    matrix = with_spectrum([1, 0.2], 900, 9)  # 0.2 / 30 is below 0.01, 0.2 / 3 above
    assert feature_rank(matrix) == 1
    assert feature_rank(matrix.T) == 2


@each_rank
def test_seeing_every_input_twice_does_not_matter(name: str) -> None:
    matrix = with_spectrum([5, 3, 0.5, 0.06, 0.04], 25, 9)  # twice √25 · ε lies between the last
    expected, found = (RANKS[name](m) for m in (matrix, jnp.concatenate([matrix, matrix])))
    np.testing.assert_allclose(found, expected, rtol=100 * EPS)


# Theorems, for any matrix.


@unhurried
@given(matrices)
def test_the_order_of_the_ranks(matrix: np.ndarray) -> None:
    """Stable ≤ Σσ/σ₁ ≤ effective ≤ rank: with pᵢ = σᵢ/Σσ, Σσᵢ² ≤ σ₁ Σσᵢ, and no entropy is below
    -log max p, none above the logarithm of how many pᵢ there are."""
    assume(matrix.any())
    matrix = jnp.asarray(matrix)
    values = np.asarray(singular_values(matrix))
    stable, effective = float(stable_rank(matrix)), float(effective_rank(matrix))
    slack = 1 + 100 * EPS
    chain = [1.0, stable, values.sum() / values[0], effective, min(matrix.shape)]
    assert all(a <= b * slack for a, b in itertools.pairwise(chain)), chain


@unhurried
@given(matrices, st.floats(0.01, 0.9))
def test_thresholds_on_squares_are_reached_first(matrix: np.ndarray, delta: float) -> None:
    """Squares favour the large: approximate ≤ srank. And k terms make at most k times the first."""
    assume(matrix.any())
    matrix = jnp.asarray(matrix)
    wider, narrower = delta * 1.001, delta * 0.999  # a tie may round either way
    approximate = float(approximate_rank(matrix, wider))
    assert approximate <= float(srank(matrix, narrower)) <= min(matrix.shape)
    assert approximate >= (1 - wider) * float(stable_rank(matrix)) * (1 - 100 * EPS)


@unhurried
@given(matrices, st.floats(0.01, 0.9))
def test_against_the_definitions_written_in_numpy(matrix: np.ndarray, delta: float) -> None:
    assume(matrix.any())
    exact = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    for statistic, terms in ((srank, exact), (approximate_rank, exact**2)):
        found = statistic(jnp.asarray(matrix), delta)
        # equal but for ties, which rounding may break either way
        assert least_k(terms, 1 - delta - 1e-4) <= found <= least_k(terms, 1 - delta + 1e-4)
    stable = (matrix.astype(np.float64) ** 2).sum() / exact[0] ** 2
    assert stable_rank(jnp.asarray(matrix)) == pytest.approx(stable, rel=100 * EPS)
    assert effective_rank(jnp.asarray(matrix)) == pytest.approx(entropy_rank(exact), rel=1e-4)
    # the same brackets: a singular value of zero comes out as some eps of the largest
    scaled, error = exact / math.sqrt(len(matrix)), 10 * EPS * exact[0]
    found = feature_rank(jnp.asarray(matrix))
    assert (scaled > 0.01 + error).sum() <= found <= (scaled > 0.01 - error).sum()


@pytest.mark.parametrize("delta", [0.0, 0.01, 0.3])
def test_the_default_is_one_percent_and_zero_asks_for_everything(delta: float) -> None:
    spectrum = np.array([8.0, 4, 2, 1, 0.5, 0.1])
    matrix = jnp.diag(jnp.asarray(spectrum, jnp.float32))  # its singular values are exact
    assert srank(matrix, delta) == least_k(spectrum, 1 - delta)
    assert approximate_rank(matrix, delta) == least_k(spectrum**2, 1 - delta)
    if delta == 0.01:
        assert srank(matrix) == 5 and approximate_rank(matrix) == 4


# Units.


def test_dormant_units_are_small_beside_their_layer() -> None:
    # mean absolute activations 0, 1, 1, 2: their mean is 1
    layer = jnp.array([[0.0, 1, -2, 4], [0, -1, 0, 0]])
    assert dormant_ratio(layer, 0.0) == 0.25
    assert dormant_ratio(layer, 0.99) == 0.25
    assert dormant_ratio(layer, 1.0) == 0.75  # "at most"
    assert dormant_ratio(layer, 2.0) == 1.0


def test_the_default_threshold_of_dormancy() -> None:
    means = np.array([0.024] * 10 + [0.026] * 20 + [1.0] * 70)
    means[30:] += (100 - means.sum()) / 70  # the layer's mean is 1
    layer = jnp.asarray(np.stack([means, means]), jnp.float32)
    assert dormant_ratio(layer) == pytest.approx(0.1)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_dormancy_is_relative(scale: float) -> None:
    layer = jnp.array([[1.0, 0.001, 0, 2], [1, 0.001, 0, 0]])
    assert dormant_ratio(layer * scale) == 0.5


def test_in_a_layer_of_zeros_every_unit_is_dormant_and_none_linear() -> None:
    assert dormant_ratio(jnp.zeros((3, 5))) == 1.0
    assert linearised_units(jnp.zeros((3, 5))) == 0.0


def test_a_unit_is_linearised_if_no_input_silences_it() -> None:
    layer = jnp.array([[1.0, 0, 1e-30, 0], [2, 0, 1, 3]])
    assert linearised_units(layer) == 0.5


def test_a_network_of_linearised_units_is_affine() -> None:
    model, x = MLP((16, 8), 3), jax.random.normal(KEY, (10, 5))
    params = model.init(KEY, x)["params"]
    for layer in ("Dense_0", "Dense_1"):
        params[layer]["bias"] = params[layer]["bias"] + 100.0
    # the last bias is so large that the second layer stays positive as well
    params["Dense_1"]["bias"] = params["Dense_1"]["bias"] + 1000.0
    output, hidden = model.apply({"params": params}, x)
    assert [float(linearised_units(layer)) for layer in hidden] == [1, 1]
    middle = model.apply({"params": params}, (x[:5] + x[5:]) / 2).output
    np.testing.assert_allclose(middle, (output[:5] + output[5:]) / 2, atol=1e4 * EPS)


@unhurried
@given(activations, st.floats(0, 1))
def test_dead_units_are_dormant_and_never_linearised(layer: np.ndarray, tau: float) -> None:
    layer = jnp.asarray(layer)
    dead = float(dead_units(layer))
    assert dormant_ratio(layer, 0.0) == pytest.approx(dead)  # of ReLU activations
    assert dead <= dormant_ratio(layer, tau) + EPS
    assert dead + float(linearised_units(layer)) <= 1 + EPS


@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (4, 1)])
def test_means_that_overflow_are_not_compared(shape: tuple[int, int]) -> None:
    layer = jnp.full(shape, 3e38)
    assert jnp.isnan(dormant_ratio(layer))
    assert linearised_units(layer) == 1.0  # which takes no mean of them


# Weights.


def test_the_weight_rank_adds_up_kernels_and_leaves_biases_out() -> None:
    params = {
        "a": {"kernel": with_spectrum([1, 1, 1], 6, 4), "bias": jnp.ones(4)},
        "b": {"kernel": with_spectrum([1, 1e-4], 4, 4), "bias": jnp.ones(4)},
        "norm": {"scale": jnp.ones(4)},
    }
    assert snapshot.weight_rank(params) == 3 + 1


def test_a_convolution_is_a_matrix_from_patches_to_channels() -> None:
    patch, channels = jax.random.normal(KEY, (3, 3, 4, 1)), jnp.arange(1.0, 9)
    assert snapshot.weight_rank({"kernel": patch * channels[None, None, None]}) == 1
    full = jax.random.normal(KEY, (3, 3, 4, 8))
    assert snapshot.weight_rank({"kernel": full}) == srank(full.reshape(36, 8)) > 1


def test_without_kernels_there_is_no_rank_to_add() -> None:
    assert snapshot.weight_rank({"bias": jnp.ones(3)}) == 0


def test_a_kernel_with_a_nan_has_no_rank() -> None:
    assert jnp.isnan(snapshot.weight_rank({"a": jnp.eye(3), "b": jnp.eye(2).at[0, 0].set(jnp.nan)}))


# A whole network.


def network(seed: int = 0) -> tuple[tuple[jax.Array, ...], Any]:
    model, x = MLP((12, 6), 3), jax.random.normal(KEY, (20, 5))
    params = model.init(jax.random.key(seed), x)
    return model.apply(params, x).hidden, params


def test_a_network_gets_every_statistic_from_its_own_function() -> None:
    hidden, params = network()
    found = snapshot.of_network(hidden, params)
    assert len(found) == 10
    for name, value in found.items():
        assert value.shape == () and value.dtype == jnp.float32, name
    for name, statistic in RANKS.items():
        assert found[name] == statistic(hidden[-1]), name
        assert found[name] != statistic(hidden[0]), name
    assert found["weight_norm"] == snapshot.weight_norm(params)
    assert found["weight_rank"] == snapshot.weight_rank(params)


def test_the_features_of_a_network_are_scaled_by_its_inputs_and_not_by_its_width() -> None:
    features = with_spectrum([1, 0.2], 900, 9)
    assert snapshot.of_network((features,), {})["feature_rank"] == feature_rank(features) == 1


def test_units_are_counted_over_layers_of_unequal_width() -> None:
    first = jnp.zeros((2, 6)).at[:, 0].set(1.0)  # five dead, one linear
    second = jnp.ones((2, 2)).at[0, 0].set(0)  # one linear, one in between
    found = snapshot.of_network((first, second), {})
    assert found["dead_units"] == pytest.approx(5 / 8)
    assert found["dormant_ratio"] == pytest.approx(5 / 8)
    assert found["linearised_units"] == pytest.approx(2 / 8)


def test_the_features_are_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, decompose = [], singular_values

    def counted(matrix: jax.Array) -> jax.Array:
        shapes.append(matrix.shape)
        return decompose(matrix)

    for module in (ranks, snapshot):
        monkeypatch.setattr(module, "singular_values", counted)
    snapshot.of_network(*network())
    assert sorted(shapes) == sorted([(20, 6), (5, 12), (12, 6), (6, 3)])


def test_a_nan_spoils_what_it_enters_and_nothing_else() -> None:
    hidden, params = network()
    units = {"dead_units", "dormant_ratio", "linearised_units"}
    for layer, spoilt in ((0, units), (1, units | set(RANKS))):
        damaged = list(hidden)
        damaged[layer] = hidden[layer].at[3, 2].set(jnp.nan)
        found = snapshot.of_network(tuple(damaged), params)
        assert {name for name, value in found.items() if jnp.isnan(value)} == spoilt


def test_a_silent_network_is_dead_dormant_and_without_rank() -> None:
    found = snapshot.of_network(
        (jnp.zeros((4, 3)), jnp.zeros((4, 2))), {"kernel": jnp.zeros((3, 2))}
    )
    ones = {"dead_units", "dormant_ratio"}
    assert {name: float(value) for name, value in found.items()} == {
        name: float(name in ones) for name in found
    }


# Compiled, batched, refused.


@pytest.mark.parametrize("name", EVERYTHING)
def test_compiled_and_batched_they_say_the_same(name: str) -> None:
    statistic = EVERYTHING[name]
    stack = jax.nn.relu(jax.random.normal(KEY, (4, 9, 5)))
    stack = stack.at[1].set(0).at[2, 0, 0].set(jnp.nan)  # neighbours must not suffer
    expected = jnp.stack([statistic(matrix) for matrix in stack])
    assert jnp.isfinite(expected[jnp.array([0, 1, 3])]).all()
    for found in (
        jnp.stack([jax.jit(statistic)(matrix) for matrix in stack]),
        jax.vmap(statistic)(stack),
        jax.jit(jax.vmap(statistic))(stack),
    ):
        np.testing.assert_allclose(found, expected, rtol=100 * EPS, atol=100 * EPS)


def test_networks_in_a_batch() -> None:
    networks = [network(seed) for seed in range(3)]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    found = jax.jit(jax.vmap(snapshot.of_network))(*stack)
    for k, one in enumerate(networks):
        for name, value in snapshot.of_network(*one).items():
            assert found[name][k] == pytest.approx(float(value), rel=100 * EPS), name
    assert (found["dead_units"] >= 0).all()


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0, 3), (3, 0)])
def test_only_matrices_with_entries_are_taken(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="need a matrix with entries"):
        EVERYTHING[name](jnp.zeros(shape))


@pytest.mark.parametrize("statistic", [srank, approximate_rank])
@pytest.mark.parametrize("delta", [-0.1, 1.0, 1.5, math.nan])
def test_a_share_lies_between_none_and_all(
    statistic: Callable[..., jax.Array], delta: float
) -> None:
    with pytest.raises(ValueError, match="delta = "):
        statistic(jnp.eye(3), delta)


def test_a_threshold_is_not_negative() -> None:
    with pytest.raises(ValueError, match="epsilon = "):
        feature_rank(jnp.eye(3), -0.1)
    with pytest.raises(ValueError, match="tau = "):
        dormant_ratio(jnp.eye(3), -0.1)


def test_a_kernel_has_entries() -> None:
    for shape in ((3, 0), (0, 3), (2, 0, 3)):
        with pytest.raises(ValueError, match="need a matrix with entries"):
            snapshot.weight_rank({"kernel": jnp.zeros(shape)})


def test_a_network_has_hidden_layers() -> None:
    with pytest.raises(ValueError, match="no features"):
        snapshot.of_network((), {"kernel": jnp.eye(2)})


def test_the_figure_marks_every_rank_on_the_spectrum() -> None:
    spectrum = np.array([4.0, 2, 1, 0.5])
    ranks = dict(zip(network_statistics_figures.RANKS, [1.0, 1.5, 2, 3, 4], strict=True))
    figure = network_statistics_figures.spectra_and_ranks(
        {"one": spectrum}, {"one": ranks}, "a note"
    )
    (axes,) = figure.axes
    marks = [line.get_xydata()[0].tolist() for line in axes.lines if line.get_marker() in "osv^D"]
    assert marks == [[1, 4], [1.5, 3], [2, 2], [3, 1], [4, 0.5]]
    assert figure.get_supxlabel() == "a note"


def test_the_figure_over_time_draws_what_it_is_given() -> None:
    steps, names = (
        np.arange(3),
        [*network_statistics_figures.RANKS, *network_statistics_figures.SHARES],
    )
    series = {name: np.array([np.nan, k, k / 2]) for k, name in enumerate(names)}
    figure = network_statistics_figures.statistics_over_time(steps, series, "a note")
    drawn = [line.get_ydata() for axes in figure.axes for line in axes.lines]
    np.testing.assert_array_equal(drawn, list(series.values()))
