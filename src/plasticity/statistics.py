"""Intervals over seeds, and contrasts between arms that share them.

Thin wrappers over SciPy. With the handful of seeds that deep learning affords, Student's t gives
the honest interval for a mean: a percentile bootstrap of five seeds covers about four times in five
where it promises nineteen in twenty (`tests/test_statistics.py` measures both).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate with its confidence interval and the number of independent seeds behind it.

    >>> from math import exp
    >>> from plasticity.statistics import Interval
    >>> print(Interval(0.0, -1.0, 1.0, n=5).map(exp))
    1.00 [0.37, 2.72], n = 5
    """

    estimate: float
    low: float
    high: float
    n: int

    def map(self, function: Callable[[float], float]) -> Interval:
        """Return the interval of an increasing function of the quantity (e.g. exp of a log)."""
        estimate, low, high = (float(function(x)) for x in self[:3])
        return Interval(estimate, low, high, self.n)

    def __str__(self) -> str:
        """Write ``estimate [low, high], n = seeds``."""
        return f"{_number(self.estimate)} [{_number(self.low)}, {_number(self.high)}], n = {self.n}"


UNKNOWN = Interval(math.nan, -math.inf, math.inf, 0)
"""What is known of a quantity that was never measured."""


def mean_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of ``values`` (one per seed) with Student's t interval.

    One value has an infinite interval. Raises ValueError for no values, or for values that are
    not finite: a diverged seed must be counted, not averaged away.

    >>> from plasticity.statistics import mean_interval
    >>> print(mean_interval([0.61, 0.58, 0.66, 0.63, 0.60]))
    0.62 [0.58, 0.65], n = 5
    """
    seen = sample(values)
    mean = float(seen.mean())
    if seen.size == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf((1 + confidence) / 2, seen.size - 1) * stats.sem(seen))
    return Interval(mean, mean - half, mean + half, seen.size)


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of ``a - b`` with its interval, pairing the k-th seed of each.

    Raises ValueError if the two have different numbers of seeds.

    >>> from plasticity.statistics import paired_difference
    >>> print(paired_difference([0.61, 0.58, 0.66], [0.41, 0.40, 0.43]))
    0.20 [0.14, 0.27], n = 3
    """
    first, second = sample(a), sample(b)
    if first.shape != second.shape:
        raise ValueError(f"{first.size} seeds cannot be paired with {second.size}")
    return mean_interval(first - second, confidence)


def sign_stability(
    table: pd.DataFrame,
    statistics: Sequence[str],
    target: str,
    strata: Sequence[str],
    setting: str | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    resamples: int = 4_000,
) -> pd.DataFrame:
    """Return how each statistic correlates with ``target`` in every stratum: does its sign hold?

    The falsification test of Lyle et al. (2023, §5.2) for any table of runs. A quantity that
    explains the target should go with it everywhere; if the sign turns, it cannot be the cause.

    Args:
        table: one row per run; rows with a value that is not finite are left out and counted.
        statistics: columns to test.
        target: the column to explain.
        strata: columns whose combinations are the strata.
        setting: a column of settings, such as the optimizer, that may move statistic and target
            together. With it each stratum has two rows: ``pooled`` over settings, and ``within``
            them, which correlates ranks taken inside each setting.
        confidence, seed, resamples: of the percentile bootstrap over runs, drawn inside settings.

    One row per statistic, stratum and adjustment, with columns ``n``, ``left_out``, ``spearman``,
    ``low``, ``high``, and ``low_all``, ``high_all``: an interval that holds for all strata of the
    statistic at once (Bonferroni). Only that one allows a statement about the highest or the lowest
    stratum. A statistic that is constant in a stratum has no correlation: NaN, in an infinite
    interval. Raises KeyError for a column that is missing, ValueError for an empty table.

    >>> import pandas as pd
    >>> from plasticity.statistics import sign_stability
    >>> rank, score = [1, 2, 3, 4, 4, 3, 2, 1], [1, 2, 3, 4, 1, 2, 3, 4]
    >>> table = pd.DataFrame({"env": list("aaaabbbb"), "rank": rank, "score": score})
    >>> found = sign_stability(table, ["rank"], target="score", strata=["env"])
    >>> found.spearman.round(2).tolist()  # the sign turns: rank is not the cause
    [1.0, -1.0]
    """
    missing = {*statistics, target, *strata, *([setting] if setting else [])} - set(table.columns)
    if missing:
        raise KeyError(f"the table has no column {', '.join(sorted(missing))}")
    if table.empty:
        raise ValueError("the table has no rows")
    rows = []
    groups = list(table.groupby(list(strata), sort=False))
    alpha = 1 - confidence
    levels = [alpha / 2, 1 - alpha / 2, alpha / 2 / len(groups), 1 - alpha / 2 / len(groups)]
    for statistic in statistics:
        for values, group in groups:
            kept = group[np.isfinite(group[[statistic, target]].to_numpy(float)).all(axis=1)]
            codes = pd.factorize(kept[setting])[0] if setting else np.zeros(len(kept), int)
            x, y = kept[statistic].to_numpy(float), kept[target].to_numpy(float)
            for adjustment in ("pooled", "within") if setting else ("pooled",):
                inside = codes if adjustment == "within" else np.zeros_like(codes)
                estimate = float(_spearman(x[None], y[None], inside)[0])
                bounds = [-np.inf, np.inf] * 2
                if np.isfinite(estimate):
                    chosen = resampled(codes, resamples, np.random.default_rng(seed))
                    # a resample in which one of the two is constant counts as uncorrelated
                    drawn = np.nan_to_num(_spearman(x[chosen], y[chosen], inside))
                    bounds = np.quantile(drawn, levels).tolist()
                counts = len(kept), len(group) - len(kept)
                rows.append((statistic, *values, adjustment, *counts, estimate, *bounds))
    names = ["low", "high", "low_all", "high_all"]
    columns = ["statistic", *strata, "adjustment", "n", "left_out", "spearman", *names]
    return pd.DataFrame(rows, columns=columns)


def extremes(rows: pd.DataFrame) -> tuple[Interval, Interval]:
    """Return the highest and the lowest correlation over strata, with simultaneous intervals.

    ``rows`` come from `sign_stability`, for one statistic and one adjustment. As the intervals of
    all strata hold at once, the highest correlation lies between the highest lower and the highest
    upper bound; the lowest likewise. Where a stratum's correlation is undefined it could be any.

    >>> import pandas as pd
    >>> from plasticity.statistics import extremes
    >>> rows = {"spearman": [0.9, -0.5], "low_all": [0.6, -0.8], "high_all": [1.0, 0.1], "n": 8}
    >>> high, low = extremes(pd.DataFrame(rows))
    >>> print(low)
    -0.50 [-0.80, 0.10], n = 16
    """
    if not np.isfinite(rows.spearman).any():
        return UNKNOWN, UNKNOWN
    n = int(rows.n.sum())
    high = Interval(rows.spearman.max(), rows.low_all.max(), rows.high_all.max(), n)
    low = Interval(rows.spearman.min(), rows.low_all.min(), rows.high_all.min(), n)
    return high, low


def human_normalised(score: ArrayLike, random: ArrayLike, human: ArrayLike) -> np.ndarray:
    """Return (score - random) / (human - random): 0 plays like a random player, 1 like a human one.

    The measure of Mnih et al. (2015), for scores of one game or of many at once. For the scores of
    the two players see `plasticity.worlds.atari.scores`. Raises ValueError where the human player
    is not the better one: the measure says nothing there.

    >>> from plasticity.statistics import human_normalised
    >>> human_normalised([5.0, 30.0], random=0.0, human=20.0).tolist()
    [0.25, 1.5]
    """
    agent, low, high = (np.asarray(x, np.float64) for x in (score, random, human))
    if not np.all(high > low):
        raise ValueError(f"human = {high} must be above random = {low}")
    return (agent - low) / (high - low)


def human_normalised_improvement(
    new: ArrayLike, old: ArrayLike, random: ArrayLike, human: ArrayLike
) -> np.ndarray:
    """Return (new - old) / (max(human, old) - random): how far one agent is above another.

    The measure of Fig. 7, from Wang et al. (2016), as a fraction and not in percent. Its unit is
    the old agent's score or the human's, whichever is higher, so that a large change in a bad agent
    does not count for much. Arguments and errors are as for `human_normalised`.

    >>> from plasticity.statistics import human_normalised_improvement
    >>> float(human_normalised_improvement(new=30.0, old=25.0, random=0.0, human=20.0))
    0.2
    """
    agent, baseline, low, high = (np.asarray(x, np.float64) for x in (new, old, random, human))
    if not np.all(high > low):
        raise ValueError(f"human = {high} must be above random = {low}")
    return (agent - baseline) / (np.maximum(high, baseline) - low)


def spearman_interval(
    x: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    resamples: int = 4_000,
) -> Interval:
    """Return Spearman's correlation of x and y with its percentile bootstrap interval.

    Runs are drawn inside ``groups`` where these are fixed by design, such as the widths of a sweep.
    A constant has no correlation: NaN, in an infinite interval. Raises ValueError unless both have
    one finite value per run.

    >>> from plasticity.statistics import spearman_interval
    >>> found = spearman_interval([64, 128, 256, 512, 1024], [0.2, 0.1, 0.4, 0.3, 0.5])
    >>> round(found.estimate, 2), found.low <= 0.8 <= found.high
    (0.8, True)
    """
    first, second = sample(x), sample(y)
    if first.shape != second.shape:
        raise ValueError(f"{first.size} values cannot be correlated with {second.size}")
    together = np.zeros(first.size, int)
    estimate = float(_spearman(first[None], second[None], together)[0])
    if not np.isfinite(estimate):
        return UNKNOWN._replace(n=first.size)
    codes = together if groups is None else pd.factorize(np.asarray(groups))[0]
    chosen = resampled(codes, resamples, np.random.default_rng(seed))
    drawn = np.nan_to_num(_spearman(first[chosen], second[chosen], together))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, max(-1.0, float(low)), min(1.0, float(high)), first.size)


class SignTest(NamedTuple):
    """How many of several paired differences are above zero, and whether chance explains it."""

    share: Interval  # among the nonzero ones; Clopper & Pearson (1934), which is exact
    p_value: float  # two-sided: of a split at least this uneven if both sides are equally likely


def sign_test(differences: ArrayLike, confidence: float = CONFIDENCE) -> SignTest:
    """Test whether differences tend to one side of zero, whatever their size.

    Zeros are left out. If nothing else is left the share is unknown and the p-value 1. Raises
    ValueError for no differences, or for some that are not finite.

    >>> from plasticity.statistics import sign_test
    >>> found = sign_test([0.2, 0.1, 0.4, -0.1, 0.3])
    >>> print(found.share)
    0.80 [0.28, 0.99], n = 5
    >>> round(found.p_value, 3)
    0.375
    """
    seen = sample(differences)
    above, n = int(np.sum(seen > 0)), int(np.sum(seen != 0))
    if n == 0:
        return SignTest(UNKNOWN, 1.0)
    found = stats.binomtest(above, n)
    low, high = found.proportion_ci(confidence)
    return SignTest(Interval(above / n, float(low), float(high), n), float(found.pvalue))


def resampled(codes: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return indices (resamples, n) that draw with replacement inside each group of ``codes``.

    >>> import numpy as np
    >>> from plasticity.statistics import resampled
    >>> chosen = resampled(np.array([0, 0, 1, 1]), resamples=3, rng=np.random.default_rng(0))
    >>> chosen.shape, bool((chosen[:, 2:] >= 2).all())
    ((3, 4), True)
    """
    chosen = np.empty((resamples, codes.size), int)
    for code in np.unique(codes):
        (members,) = np.nonzero(codes == code)
        chosen[:, members] = members[rng.integers(members.size, size=(resamples, members.size))]
    return chosen


def _spearman(x: np.ndarray, y: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return each row's correlation of ranks, taken and centred inside each group of columns.

    With one group this is Spearman's; NaN where x or y is constant.
    """
    centred = []
    for values in (x, y):
        ranks = np.empty(values.shape)
        for code in np.unique(codes):
            inside = stats.rankdata(values[:, codes == code], axis=1)
            ranks[:, codes == code] = inside - inside.mean(axis=1, keepdims=True)
        centred.append(ranks)
    a, b = centred
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    result = np.full(len(x), np.nan)
    np.divide((a * b).sum(axis=1), scale, out=result, where=scale > 0)
    return result


def sample(values: ArrayLike) -> np.ndarray:
    """Return one value per seed in float64; ValueError if there are none, or one is not finite.

    >>> from plasticity.statistics import sample
    >>> sample([1, 2]).dtype
    dtype('float64')
    """
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or found.size == 0:
        raise ValueError(f"expected one value per seed, found shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{np.sum(~np.isfinite(found))} of {found.size} values are not finite")
    return found


def _number(x: float) -> str:
    """Write ``x`` to three significant digits, without an exponent where it can be helped."""
    if x == 0 or 1e-3 <= abs(x) < 1e5:
        digits = 2 if abs(x) < 100 else 0
        return f"{x:.{digits}f}" if x == 0 or abs(x) >= 0.1 else f"{x:.2g}"
    return f"{x:.2g}"
