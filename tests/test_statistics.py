"""Intervals against closed forms and against the coverage that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from plasticity.statistics import (
    UNKNOWN,
    Interval,
    bootstrap_interval,
    human_normalised,
    human_normalised_improvement,
    mean_interval,
    paired_difference,
    sign_test,
    trials_needed,
)


def test_mean_interval_is_students_t() -> None:
    values = [1.0, 2.0, 4.0, 7.0]
    half = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) / 2
    estimate, low, high, n = mean_interval(values)
    np.testing.assert_allclose((estimate, low, high), (3.5, 3.5 - half, 3.5 + half), rtol=1e-12)
    assert n == 4


def test_t_covers_what_it_promises_with_five_seeds_and_the_bootstrap_does_not() -> None:
    samples = np.random.default_rng(0).normal(size=(2_000, 5))
    t = np.mean([i.low < 0 < i.high for i in map(mean_interval, samples)])
    bootstrap = np.mean(
        [
            i.low < 0 < i.high
            for i in (bootstrap_interval(s, np.mean, resamples=500) for s in samples[:500])
        ]
    )
    error = 4 * math.sqrt(0.95 * 0.05 / 2_000)  # four standard errors of a coverage
    assert abs(t - 0.95) < error
    assert bootstrap < 0.90


def test_one_seed_knows_nothing_and_equal_seeds_know_all() -> None:
    assert mean_interval([0.3]) == Interval(0.3, -math.inf, math.inf, 1)
    assert mean_interval([0.3, 0.3, 0.3]) == Interval(0.3, 0.3, 0.3, 3)


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, math.nan], [1.0, math.inf]])
def test_what_cannot_be_averaged_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected one value a seed|not finite"):
        mean_interval(values)


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


def test_the_bootstrap_is_seeded_and_centred() -> None:
    values = np.random.default_rng(1).exponential(size=30)
    first, again, other = (bootstrap_interval(values, np.mean, seed=s) for s in (3, 3, 4))
    assert first == again != other
    assert first.low < first.estimate == np.mean(values) < first.high


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
