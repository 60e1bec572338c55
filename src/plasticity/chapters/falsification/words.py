"""Tables and sentences of the chapters that probe agents."""

from __future__ import annotations

import numpy as np
import pandas as pd

from plasticity import power
from plasticity.chapters.report import readable, short
from plasticity.statistics import Interval


def sign_table(stability: pd.DataFrame) -> pd.DataFrame:
    """Return in how many strata each statistic's correlation is clear of 0, and on which side.

    ``stability`` is `plasticity.statistics.sign_stability`.
    """
    rows = []
    for (name, adjustment), found in stability.groupby(["statistic", "adjustment"], sort=False):
        rows.append(
            {
                "statistic": readable(str(name)),
                "correlated": "pooled over settings" if adjustment == "pooled" else "within them",
                "strata": int(np.isfinite(found.spearman).sum()),
                "clearly positive": int((found.low > 0).sum()),
                "clearly negative": int((found.high < 0).sum()),
                "lowest": f"{found.spearman.min():.2f}",
                "highest": f"{found.spearman.max():.2f}",
                "mean size": f"{found.spearman.abs().mean():.2f}",
            }
        )
    return pd.DataFrame(rows)


def pooling(stability: pd.DataFrame) -> str:
    """Return what pooling over optimizer settings does to the correlations, in a sentence."""
    size = stability.assign(size=stability.spearman.abs()).groupby("adjustment")["size"].mean()
    clear = (stability.low > 0) | (stability.high < 0)
    counts = clear.groupby(stability.adjustment).sum()
    wide = stability.pivot(
        index=["statistic", "variant", "dataset", "architecture"],
        columns="adjustment", values="spearman",
    )  # fmt: skip
    turned = int((wide.pooled * wide.within < 0).sum())
    return (
        f"Over {len(wide)} combinations of a statistic and a stratum the correlation has a mean "
        f"size of **{size['pooled']:.2f}** pooled over optimizer settings and of "
        f"**{size['within']:.2f}** within them; {int(counts['pooled'])} are clear of zero pooled, "
        f"{int(counts['within'])} within. In {turned} of them the sign turns when the setting is "
        "held fixed."
    )


def detectable(stability: pd.DataFrame, aim: float = 0.5) -> str:
    """Return how strong a correlation must be to be seen, and how many agents ``aim`` takes.

    Four times in five, with intervals that hold for all strata at once.
    """
    within = stability[stability.adjustment == "within"]
    strata = len(within) // within.statistic.nunique()
    agents = int(within.n.min())
    least = power.detectable_correlation(agents, strata)
    counts = range(agents, 10_000)
    needed = next(n for n in counts if power.detectable_correlation(n, strata) <= aim)
    return (
        f"With {agents} agents in each of {strata} strata, a correlation has to be about "
        f"**{least:.2f}** to be found clear of zero four times in five, by intervals that hold for "
        f"all strata at once; to find one of {aim:.2f} it takes **{needed}** agents a stratum."
    )


def one_sided(stability: pd.DataFrame, adjustment: str = "pooled") -> str:
    """Return which statistics' clear correlations all have one sign, in a sentence."""
    said = []
    for name, rows in stability[stability.adjustment == adjustment].groupby(
        "statistic", sort=False
    ):
        positive, negative = int((rows.low > 0).sum()), int((rows.high < 0).sum())
        if (positive == 0) != (negative == 0):
            side = "positive" if positive else "negative"
            count = f"{side} in {positive or negative} of {len(rows)} strata"
            said.append(f"**{readable(str(name))}** ({count})")
    how = {"pooled": "Pooled over settings", "within": "Within settings"}[adjustment]
    if not said:
        return f"{how}, no statistic is clear of zero on one side only."
    return f"{how}, clear of zero on one side only: {', '.join(said)}."


def curve_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `judge.curves` in words and intervals."""
    return pd.DataFrame(
        {
            "network": [
                readable(*stratum)
                for stratum in curves[["variant", "dataset", "architecture"]].to_numpy()
            ],
            "setting": curves.setting,
            # Probes that never got there count as their whole budget: the ratio is a bound.
            "steps to half, last / first": [
                ("≥ " if never else "") + short(ratio)
                for ratio, never in zip(curves.slower, curves.never, strict=True)
            ],
            "loss at the end": curves.end.map(short),
            "fall in the last quarter": curves.fall.map(short),
            "rougher by": curves.rougher.map(short),
            "shallower": curves.shallower,
            "no plateau": curves.plateau,
        }
    )


def sensitivity_table(sensitivity: pd.DataFrame) -> pd.DataFrame:
    """Return the sensitivity table with its intervals written out."""
    written = sensitivity.assign(change=sensitivity.change.map(readable))
    for column in written.columns:
        if isinstance(written[column].iloc[0], Interval):
            written[column] = written[column].map(short)
    signs = written.pop("signs turned").astype(str) + " of " + written.pop("of").astype(str)
    return written.assign(**{"signs turned": signs}).rename(
        columns=lambda name: readable(str(name))
    )
