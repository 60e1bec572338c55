"""Tables and sentences of the chapters that probe agents."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from plasticity.report.general import readable
from plasticity.results import Run
from plasticity.statistics import Interval, mean_interval, paired_difference


def plasticity_lost(run: Run, arms: Mapping[str, str]) -> pd.DataFrame:
    """Return each arm's probe loss before training and at the end, what it lost, and its task.

    ``arms`` maps an arm to its name in the table. Intervals are over seeds.
    """
    rows = []
    for arm, name in arms.items():
        losses = run.select(arm=arm, metric="probe_loss").groupby("seed").value
        first, last = losses.first().to_numpy(), losses.last().to_numpy()
        accuracy = run.select(arm=arm, metric="accuracy").groupby("seed").value.last()
        rows.append(
            {
                "network": name,
                "fresh": short(mean_interval(first)),
                "after training": short(mean_interval(last)),
                "plasticity lost": short(paired_difference(last, first)),
                "task: share of images right": short(mean_interval(accuracy)),
            }
        )
    return pd.DataFrame(rows)


def lost_in_words(run: Run, arm: str) -> str:
    """Return how much plasticity ``arm`` lost, in a sentence."""
    losses = run.select(arm=arm, metric="probe_loss").groupby("seed").value
    first, last = losses.first().to_numpy(), losses.last().to_numpy()
    steps = run.select(arm=arm).step.max()
    return (
        f"On new random targets a fresh network reaches a loss of **{first.mean():.2f}**, and the "
        f"same network after {steps:,} steps of Q-learning **{last.mean():.2f}**, in the same "
        f"number of steps with the same optimizer: it lost {paired_difference(last, first)} of its "
        "plasticity. A constant has .50."
    )


def diverged(run: Run) -> str:
    """Return how many agents of the run diverged, in a sentence."""
    flags = run.select(metric="diverged").groupby(["arm", "seed"]).value.max()
    gone = int((flags > 0).sum())
    which = ", ".join(sorted({str(arm) for arm, _ in flags[flags > 0].index}))
    return (
        f"{len(flags)} agents, of which {gone} diverged (a parameter was not a finite number)"
        + (f": {which}. Their rows are in the table, and their values NaN." if gone else ".")
    )


def calibration(table: pd.DataFrame) -> pd.DataFrame:
    """Return the calibration with one row a setting and one column a network."""
    cells = table.assign(
        cell=table.ours.map(short),
        network=[readable(*pair) for pair in zip(table.dataset, table.architecture, strict=True)],
    )
    wide = cells.pivot(index="setting", columns="network", values="cell")
    wide = wide.loc[list(dict.fromkeys(table.setting)), list(dict.fromkeys(cells.network))]
    printed = cells.drop_duplicates("network").set_index("network").printed
    wide.loc["**printed in the paper**"] = [f"**{printed[name]:.2f}**" for name in wide.columns]
    return wide.reset_index(names="setting")


def nearest(distances: pd.Series) -> str:
    """Return which setting comes nearest to the paper's four fresh losses, in a sentence."""
    first, others = distances.index[0], distances.iloc[1:]
    rest = "; ".join(f"{name}: {value:.2f}" for name, value in others.items())
    return (
        f"Nearest to the four printed losses is **{first}**, whose root mean square distance from "
        f"them is {distances.iloc[0]:.2f} (the others: {rest})."
    )


def sign_table(stability: pd.DataFrame) -> pd.DataFrame:
    """Return for each statistic in how many strata its correlation is clear of 0, and on what side.

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
    """Return the table of `plasticity.experiments.falsification.curves` in words and intervals."""
    return pd.DataFrame(
        {
            "network": [
                readable(*stratum)
                for stratum in curves[["variant", "dataset", "architecture"]].to_numpy()
            ],
            "setting": curves.setting,
            # Probes that never got there count with their budget: the ratio is a bound.
            "steps to half, last / first": [
                ("≥ " if never else "") + short(ratio)
                for ratio, never in zip(curves.slower, curves.never, strict=True)
            ],
            "loss at the end": curves.end.map(short),
            "fall in the last quarter": curves.fall.map(short),
            "rougher by": curves.rougher.map(short),
            "slower, not higher": curves.status,
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


def short(interval: Interval) -> str:
    """Write an interval without the number of seeds, which the table's caption has."""
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
