"""What a number of seeds, agents or games can show: power, and the sizes that it takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from plasticity.statistics import CONFIDENCE, sample


def detectable_difference(
    differences: ArrayLike, power: float = 0.8, confidence: float = CONFIDENCE
) -> float:
    """Return the mean difference that as many seeds, scattered like these, detect with ``power``.

    If this is the true mean, a two-sided paired t test at 1 - ``confidence`` rejects with
    probability ``power`` (noncentral t, with the scatter of ``differences``). A smaller effect
    could well be there and not be seen. Raises ValueError for fewer than two values, and unless
    ``power`` lies between 1 - ``confidence`` and 1.

    >>> from plasticity.power import detectable_difference
    >>> round(detectable_difference([0.1, 0.3, 0.2, 0.4, 0.2]), 2)
    0.19
    """
    seen = sample(differences)
    if seen.size < 2:
        raise ValueError("one difference has no scatter: need two or more")
    if not 1 - confidence < power < 1:
        raise ValueError(f"power = {power}: must lie between {1 - confidence:g} and 1")
    freedom = seen.size - 1
    critical = stats.t.ppf((1 + confidence) / 2, freedom)

    def lacking(noncentrality: float) -> float:
        upper = stats.nct.sf(critical, freedom, noncentrality)
        # SciPy gives NaN for the other tail where that is below 1e-12.
        lower = np.nan_to_num(stats.nct.cdf(-critical, freedom, noncentrality))
        return float(upper + lower - power)

    far = 1.0
    while lacking(far) < 0:  # step by step: SciPy's distribution fails far out
        far += 1
    return float(optimize.brentq(lacking, 0.0, far) * stats.sem(seen))


def detectable_correlation(
    n: int, comparisons: int = 1, power: float = 0.8, confidence: float = CONFIDENCE
) -> float:
    """Return the rank correlation that ``n`` pairs show to be clear of zero with ``power``.

    By Fisher's z, whose variance for Spearman's coefficient is 1.06 / (n - 3) (Fieller, Hartley &
    Pearson 1957), with Bonferroni's correction for several ``comparisons``. An approximation: of
    fewer than about ten pairs it says little. Raises ValueError for fewer than four pairs, for no
    comparison, and unless ``power`` lies between 1 - ``confidence`` and 1.

    >>> from plasticity.power import detectable_correlation
    >>> round(detectable_correlation(85, comparisons=12), 2)
    0.4
    """
    if n < 4 or comparisons < 1:
        raise ValueError(f"n = {n}, comparisons = {comparisons}: need at least four, and one")
    if not 1 - confidence < power < 1:
        raise ValueError(f"power = {power}: must lie between {1 - confidence:g} and 1")
    critical = stats.norm.isf((1 - confidence) / 2 / comparisons)
    return float(np.tanh((critical + stats.norm.ppf(power)) * np.sqrt(1.06 / (n - 3))))


def trials_needed(
    share: float, threshold: float = 0.5, power: float = 0.8, confidence: float = CONFIDENCE
) -> int:
    """Return how many differences it takes to tell that more than ``threshold`` are above zero.

    If ``share`` of them truly are, the lower end of `sign_test`'s interval is above the threshold
    with probability ``power``. This holds for the number returned and for all numbers up to twice
    it: with whole numbers the power goes up and down a little. Raises ValueError unless threshold
    and power lie between 0 and 1 and the share above the threshold and not above 1, and if more
    than 10,000 are needed.

    >>> from plasticity.power import trials_needed
    >>> trials_needed(share=0.8)
    23
    """
    if not (0 < threshold < share <= 1 and 0 < power < 1):
        raise ValueError(
            f"threshold = {threshold}, share = {share}, power = {power}: need 0 < threshold < "
            "share <= 1 and 0 < power < 1"
        )
    n = np.arange(1, 10_001)
    # The lower end is above the threshold if this many or more would be rare at the threshold.
    least = stats.binom.isf((1 - confidence) / 2, n, threshold) + 1
    reached = np.asarray(stats.binom.sf(least - 1, n, share) >= power)
    if not reached[-1]:
        raise ValueError(f"more than {n[-1]:,} are needed to tell {share} from {threshold}")
    for first in n[reached]:
        if reached[first - 1 : 2 * first].all():
            return int(first)
    raise ValueError(f"more than {n[-1]:,} are needed to tell {share} from {threshold}")
