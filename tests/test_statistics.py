"""Intervals against closed forms and against the coverage that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plasticity.power import detectable_correlation, detectable_difference, trials_needed
from plasticity.statistics import (
    UNKNOWN,
    Interval,
    human_normalised,
    human_normalised_improvement,
    mean_interval,
    paired_difference,
    resampled,
    sign_test,
    spearman_interval,
)


def test_mean_interval_is_students_t() -> None:
    values = [1.0, 2.0, 4.0, 7.0]
    half = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    estimate, low, high, n = mean_interval(values)
    np.testing.assert_allclose((estimate, low, high), (3.5, 3.5 - half, 3.5 + half), rtol=1e-12)
    assert n == 4


def test_t_covers_what_it_promises_with_five_seeds() -> None:
    samples = np.random.default_rng(0).normal(size=(2_000, 5))
    covered = np.mean([i.low < 0 < i.high for i in map(mean_interval, samples)])
    error = 4 * math.sqrt(0.95 * 0.05 / 2_000)  # four standard errors of a coverage
    assert abs(covered - 0.95) < error


def test_one_seed_knows_nothing_and_equal_seeds_know_all() -> None:
    assert mean_interval([0.3]) == Interval(0.3, -math.inf, math.inf, 1)
    assert mean_interval([0.3, 0.3, 0.3]) == Interval(0.3, 0.3, 0.3, 3)


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, math.nan], [1.0, math.inf]])
def test_what_cannot_be_averaged_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected one value per seed|not finite"):
        mean_interval(values)


@settings(deadline=None)  # a busy machine takes its time
@given(
    noise=st.lists(st.floats(-1, 1), min_size=3, max_size=8),
    shift=st.floats(-5, 5),
)
def test_pairing_removes_what_seeds_share(noise: list[float], shift: float) -> None:
    base = 100 * np.arange(len(noise))  # seeds far apart, arms close together
    found = paired_difference(base + np.array(noise) + shift, base)
    expected = mean_interval(np.array(noise) + shift)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_pairing_needs_the_same_seeds() -> None:
    with pytest.raises(ValueError, match="2 seeds cannot be paired with 3"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])


def test_mapping_an_interval_maps_its_ends() -> None:
    assert Interval(0.0, -1.0, 1.0, 5).map(math.exp) == Interval(1.0, math.exp(-1), math.e, 5)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.123456, -1.5, 250.4, 5), "0.12 [-1.50, 250], n = 5"),
        (Interval(0.0, 0.0123, 4e-5, 3), "0.00 [0.012, 4e-05], n = 3"),
    ],
)
def test_an_interval_writes_itself(interval: Interval, text: str) -> None:
    assert str(interval) == text


# Correlations.


def test_spearman_is_scipys_with_ties_too() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat([16.0, 32.0, 64.0, 128.0], 5)
    y = (rng.normal(size=20) - np.log(x)).round(1)
    found = spearman_interval(x, y, x)
    np.testing.assert_allclose(found.estimate, stats.spearmanr(x, y).statistic, rtol=1e-12)
    assert found.low < found.estimate < found.high < 0
    assert found.n == 20


def test_spearman_knows_nothing_but_order() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 12))
    found = spearman_interval(x, y)
    assert spearman_interval(np.exp(x), 3 * y - 1) == found
    assert spearman_interval(y, x) == found
    turned = spearman_interval(-x, y, resamples=2_000)
    np.testing.assert_allclose(turned.estimate, -found.estimate, rtol=1e-12)
    np.testing.assert_allclose(turned[1:3], (-found.high, -found.low), atol=0.05)
    assert spearman_interval(x, y, seed=1) != found == spearman_interval(x, y)
    assert spearman_interval(x, np.exp(x))[:3] == (1.0, 1.0, 1.0)


def test_groups_are_drawn_from_one_by_one() -> None:
    """Where every group has a value of its own, nothing can come out but what there is."""
    x, groups = np.repeat([1.0, 2.0, 3.0], 2), ["a", "a", "b", "b", "c", "c"]
    assert spearman_interval(x, [5.0, 5.0, 9.0, 9.0, 4.0, 4.0], groups)[:3] == (-0.5, -0.5, -0.5)
    free = spearman_interval(x, [5.0, 5.0, 9.0, 9.0, 4.0, 4.0])
    assert free.low < -0.5 < free.high


@pytest.mark.parametrize("y", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
def test_a_constant_has_no_correlation(y: list[float]) -> None:
    estimate, low, high, n = spearman_interval([1.0, 2.0, 3.0], y)
    assert math.isnan(estimate) and (low, high, n) == (-math.inf, math.inf, 3)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0], "2 values cannot be correlated with 3"),
        ([1.0, math.nan], [1.0, 2.0], "1 of 2 values are not finite"),
        ([], [], "expected one value per seed"),
    ],
)
def test_what_cannot_be_correlated_is_refused(x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spearman_interval(x, y)


def test_resamples_stay_inside_their_groups_and_take_each_member_as_often() -> None:
    codes = np.array([2, 0, 2, 1, 0, 2])
    chosen = resampled(codes, 3_000, np.random.default_rng(0))
    assert chosen.shape == (3_000, 6)
    assert (codes[chosen] == codes[None]).all()
    assert (chosen[:, 3] == 3).all()  # alone in its group
    for place in (0, 2, 5):  # four deviations of a share of a third
        shares = [np.mean(chosen[:, place] == member) for member in (0, 2, 5)]
        np.testing.assert_allclose(shares, 1 / 3, atol=4 * math.sqrt(2 / 9 / 3_000))
    assert len(np.unique(chosen, axis=0)) > 50  # of 27 · 4


# Power.


@pytest.mark.parametrize(("n", "power"), [(2, 0.8), (5, 0.8), (5, 0.95), (20, 0.5)])
def test_a_detectable_difference_is_detected_with_the_power_asked_for(n: int, power: float) -> None:
    """By t tests of made-up samples whose deviation is that of the differences, 0.3."""
    pilot = stats.zscore(np.arange(float(n)), ddof=1) * 0.3
    shift = detectable_difference(pilot, power)
    samples = np.random.default_rng(0).normal(shift, 0.3, size=(20_000, n))
    found = np.mean(stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05)
    np.testing.assert_allclose(found, power, atol=4 * math.sqrt(power * (1 - power) / 20_000))


@pytest.mark.parametrize(("n", "comparisons"), [(30, 1), (60, 12)])
def test_a_detectable_correlation_is_detected_with_the_power_asked_for(
    n: int, comparisons: int
) -> None:
    """Of a bivariate normal, whose rank correlation is 6/π asin ρ/2, tested by SciPy."""
    rank = detectable_correlation(n, comparisons)
    pearson = 2 * np.sin(np.pi * rank / 6)
    rng, found = np.random.default_rng(0), 0
    for x, noise in rng.normal(size=(2_000, 2, n)):
        test = stats.spearmanr(x, pearson * x + np.sqrt(1 - pearson**2) * noise)
        found += test.pvalue < 0.05 / comparisons
    assert 0.74 < found / 2_000 < 0.86


@pytest.mark.parametrize("bad", [{"n": 3}, {"comparisons": 0}, {"power": 0.04}, {"power": 1.0}])
def test_a_detectable_correlation_needs_four_pairs_and_a_power(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        detectable_correlation(**{"n": 12, **bad})


def test_a_detectable_difference_is_the_textbooks_for_many_seeds() -> None:
    """With the deviation known it is (z of .975 + z of .8) σ / √n."""
    pilot = stats.zscore(np.random.default_rng(0).normal(size=10_000), ddof=1)
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / 100
    np.testing.assert_allclose(detectable_difference(pilot), expected, rtol=1e-3)


@pytest.mark.parametrize("n", [*range(2, 21), 48, 128])
def test_a_difference_can_be_detected_with_any_number_of_seeds(n: int) -> None:
    """It scales with the scatter and not with the mean, and more power needs more of it."""
    pilot = np.random.default_rng(n).normal(size=n)
    found = detectable_difference(pilot)
    np.testing.assert_allclose(detectable_difference(3 * pilot + 7), 3 * found, rtol=1e-6)
    assert 0 < detectable_difference(pilot, 0.5) < found < detectable_difference(pilot, 0.99)
    assert found < detectable_difference(pilot, confidence=0.99)


def test_equal_differences_show_anything() -> None:
    assert detectable_difference([0.25, 0.25, 0.25]) == 0.0


@pytest.mark.parametrize(
    ("values", "power", "message"),
    [
        ([0.1], 0.8, "one difference has no scatter"),
        ([0.1, 0.2], 0.05, "power = 0.05: must lie between 0.05 and 1"),
        ([0.1, 0.2], 1.0, r"power = 1.0: must lie between"),
        ([0.1, math.nan], 0.8, "not finite"),
    ],
)
def test_a_power_that_cannot_be_had_is_refused(
    values: list[float], power: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        detectable_difference(values, power)


# Scores of games, and the sign test.


def test_human_normalised_scores_by_hand() -> None:
    found = human_normalised([-20.7, 14.6, 21.0], -20.7, 14.6)
    np.testing.assert_allclose(found, [0, 1, 41.7 / 35.3])
    with pytest.raises(ValueError, match=r"human = 1.0 must be above random = 1.0"):
        human_normalised(3, 1, 1)


def test_improvement_is_in_units_of_the_better_of_human_and_old_agent() -> None:
    # Old agent below the human player: (30 - 20) / (100 - 0); above it: (300 - 200) / (200 - 0).
    found = human_normalised_improvement([30, 300, 20], [20, 200, 20], 0, 100)
    np.testing.assert_allclose(found, [0.1, 0.5, 0])
    # A random player that scores below zero: (10 - 20) / (30 + 20).
    assert human_normalised_improvement(10, 20, -20, 30) == -0.2
    with pytest.raises(ValueError, match="must be above random"):
        human_normalised_improvement(1, 2, [0, 5], [1, 5])


def test_below_the_human_player_it_is_the_difference_of_normalised_scores() -> None:
    random, human = 10.0, 50.0
    new, old = np.array([12.0, 60.0, 5.0]), np.array([40.0, 20.0, 50.0])
    np.testing.assert_allclose(
        human_normalised_improvement(new, old, random, human),
        human_normalised(new, random, human) - human_normalised(old, random, human),
    )


def test_a_sign_test_counts_signs_and_leaves_zeros_out() -> None:
    found = sign_test([2.0, 0.1, 5.0, -1.0, 0.0])
    assert found.share.estimate == 0.75 and found.share.n == 4
    # By hand: 2 (4 + 1) / 16. The interval is that of the beta distribution.
    np.testing.assert_allclose(found.p_value, 10 / 16)
    expected = stats.beta.ppf(0.025, 3, 2), stats.beta.ppf(0.975, 4, 1)
    np.testing.assert_allclose(found.share[1:3], expected, rtol=1e-6)
    assert sign_test([0.0, 0.0]) == (UNKNOWN, 1.0)
    with pytest.raises(ValueError, match="not finite"):
        sign_test([1.0, np.nan])


def test_one_game_decides_nothing() -> None:
    assert sign_test([1.0]).share.low < 0.6


def test_so_many_trials_have_the_power_and_one_less_has_not() -> None:
    share, power = 45 / 55, 0.8
    n = trials_needed(share)
    assert n == 20

    def reached(n: int) -> float:
        """Return how often the interval's lower end is above one half, over all outcomes."""
        signs = [np.where(np.arange(n) < above, 1, -1) for above in range(n + 1)]
        lows = np.array([sign_test(sign).share.low for sign in signs])
        return float(stats.binom.pmf(np.arange(n + 1), n, share)[lows > 0.5].sum())

    assert reached(n) >= power > reached(n - 1)
    assert trials_needed(share, 0.6) > n
    for wrong in ({"share": 0.5}, {"share": 0.9, "threshold": 0.95}, {"share": 0.9, "power": 1.0}):
        with pytest.raises(ValueError, match="need 0 < threshold"):
            trials_needed(**wrong)
    with pytest.raises(ValueError, match="more than 10,000"):
        trials_needed(0.501)
