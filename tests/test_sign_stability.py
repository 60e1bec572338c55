"""Does a statistic's correlation keep its sign over strata? Made-up tables with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from plasticity.statistics import UNKNOWN, extremes, sign_stability


def table(slopes: dict[str, float], n: int = 12, seed: int = 0) -> pd.DataFrame:
    """Return runs in which y = slope · x + noise, a slope a stratum."""
    rng = np.random.default_rng(seed)
    rows = []
    for stratum, slope in slopes.items():
        x = rng.normal(size=n)
        y = slope * x + 0.1 * rng.normal(size=n)
        rows.append(pd.DataFrame({"stratum": stratum, "x": x, "y": y}))
    return pd.concat(rows, ignore_index=True)


def test_pooled_is_scipys_spearman() -> None:
    made = table({"a": 1.0, "b": -0.3})
    made["x"] = made.x.round(1)  # ties too
    found = sign_stability(made, ["x"], "y", ["stratum"])
    for stratum, rows in made.groupby("stratum"):
        expected = stats.spearmanr(rows.x, rows.y).statistic
        (ours,) = found[found.stratum == stratum].spearman
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
    assert list(found.n) == [12, 12]


def test_a_sign_that_turns_and_one_that_holds() -> None:
    turned = sign_stability(table({"a": 1.0, "b": -1.0, "c": 0.0}), ["x"], "y", ["stratum"])
    highest, lowest = extremes(turned)
    assert highest.low > 0 and lowest.high < 0
    held = sign_stability(table({"a": 1.0, "b": 2.0, "c": 0.5}), ["x"], "y", ["stratum"])
    highest, lowest = extremes(held)
    assert highest.low > 0 and lowest.low > 0
    assert (held.low_all <= held.low).all() and (held.high_all >= held.high).all()


def test_settings_that_move_both_make_a_correlation_that_vanishes_within_them() -> None:
    """Simpson's paradox: between settings up, within each of them down."""
    rng, rows = np.random.default_rng(0), []
    for setting, offset in (("slow", 0.0), ("fast", 10.0), ("faster", 20.0)):
        x = rng.normal(size=10)
        rows.append(pd.DataFrame({"setting": setting, "x": x + offset, "y": offset - x}))
    made = pd.concat(rows).assign(stratum="only")
    found = sign_stability(made, ["x"], "y", ["stratum"], setting="setting")
    pooled, within = found.to_dict("records")
    assert (pooled["adjustment"], within["adjustment"]) == ("pooled", "within")
    assert pooled["low"] > 0.5
    assert within["spearman"] == -1.0 == within["high"]


def test_noise_is_seldom_said_to_have_a_sign() -> None:
    """Of the extremes of twelve strata of noise, about as few are clear of 0 as was promised."""
    rng, single, extreme = np.random.default_rng(0), 0, 0
    for _ in range(40):
        made = pd.DataFrame(
            {
                "stratum": np.repeat(np.arange(12), 12),
                "x": rng.normal(size=144),
                "y": rng.normal(size=144),
            }
        )
        found = sign_stability(made, ["x"], "y", ["stratum"], resamples=1_000)
        single += int(((found.low > 0) | (found.high < 0)).sum())
        highest, lowest = extremes(found)
        extreme += bool(highest.low > 0 or lowest.high < 0)
    # 5 % promised of 480 and of 40: a thousand to one that a correct interval stays below these
    assert single <= stats.binom.ppf(0.999, 480, 0.05)
    assert extreme <= stats.binom.ppf(0.999, 40, 0.05) + 1  # two ends, each with half of it


def test_runs_that_are_not_finite_are_left_out_and_counted() -> None:
    made = table({"a": 1.0})
    made.loc[0, "x"], made.loc[1, "y"] = np.nan, np.inf
    (row,) = sign_stability(made, ["x"], "y", ["stratum"]).to_dict("records")
    assert (row["n"], row["left_out"]) == (10, 2)
    assert np.isfinite(row["spearman"])


def test_a_constant_statistic_has_no_correlation() -> None:
    made = table({"a": 1.0}).assign(x=3.0)
    found = sign_stability(made, ["x"], "y", ["stratum"])
    (row,) = found.to_dict("records")
    assert np.isnan(row["spearman"]) and (row["low"], row["high"]) == (-np.inf, np.inf)
    assert extremes(found) == (UNKNOWN, UNKNOWN)


def test_equal_seeds_draw_equal_intervals() -> None:
    made = table({"a": 0.1, "b": 0.0})
    first, again, other = (
        sign_stability(made, ["x"], "y", ["stratum"], seed=seed) for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first.low.equals(other.low)


def test_several_statistics_and_strata_of_several_columns() -> None:
    made = table({"a": 1.0, "b": 1.0}).assign(z=lambda t: -t.x, other="same")
    found = sign_stability(made, ["x", "z"], "y", ["stratum", "other"])
    assert list(found.statistic) == ["x", "x", "z", "z"]
    np.testing.assert_allclose(found.spearman[:2], -found.spearman[2:].to_numpy())


def test_a_table_that_cannot_be_tested_is_refused() -> None:
    made = table({"a": 1.0})
    with pytest.raises(KeyError, match="no column optimizer"):
        sign_stability(made, ["x"], "y", ["stratum"], setting="optimizer")
    with pytest.raises(ValueError, match="no rows"):
        sign_stability(made.iloc[:0], ["x"], "y", ["stratum"])
