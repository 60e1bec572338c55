"""Tables and sentences of the chapter on optimizer instability."""

from __future__ import annotations

import numpy as np
import pandas as pd

from plasticity.runs.results import Run
from plasticity.statistics import mean_interval, paired_difference


def which_constant(run: Run) -> pd.DataFrame:
    """Return what each of the tuned optimizer's two constants does, alone and with the other.

    One row per contrast, paired over seeds: the difference in accuracy averaged over all periods.
    """
    accuracy = {
        arm: run.select(arm=arm, metric="accuracy").groupby("seed").value.mean().to_numpy()
        for arm in ("default", "b2_only", "eps_root_only", "tuned")
    }
    contrasts = {
        "ε̄: 0 → 10⁻³, at β₂ = .999": ("eps_root_only", "default"),
        "ε̄: 0 → 10⁻³, at β₂ = .9": ("tuned", "b2_only"),
        "β₂: .999 → .9, at ε̄ = 0": ("b2_only", "default"),
        "β₂: .999 → .9, at ε̄ = 10⁻³": ("tuned", "eps_root_only"),
    }
    return pd.DataFrame(
        {
            "change": contrasts.keys(),
            "gain in mean accuracy": [
                str(paired_difference(accuracy[a], accuracy[b])) for a, b in contrasts.values()
            ],
        }
    )


def mechanism(run: Run) -> pd.DataFrame:
    """Return, for each main arm, what happens at the first switch of labels, mean over seeds.

    ``m̂/√v̂ before`` and ``peak after`` are root mean squares over parameters: the median over the
    window before the switch and the largest value in the window after; ``update`` likewise.
    """
    window, rows = run.config["window"], []
    for arm in ("default", "b2_only", "eps_root_only", "tuned"):
        row = {"arm": arm}
        for name, trace in (("m̂/√v̂", "moment_ratio"), ("update norm", "update_norm")):
            array = run.arrays[f"{trace}/{arm}"]
            before = np.median(array[:, 0, window:], axis=1)
            peak = array[:, 1, :window].max(axis=1)
            row[f"{name} before"] = f"{before.mean():.3g}"
            row[f"{name} peak after"] = f"{peak.mean():.3g}"
            row[f"{name} jump"] = f"× {mean_interval(peak / before).estimate:.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


CLOCKS = {
    "step": "optimizer steps",
    "switches": "switches",
    "memorised": "sets memorised",
    "distance": "distance moved",
}
"""Columns of `times_to_collapse` that count time, with their names."""


def lifetimes(times: pd.DataFrame) -> pd.DataFrame:
    """Return the median time to collapse of each arm by each clock, and how many collapsed.

    "≥" marks a median network that had not collapsed when its run ended.
    """
    rows = []
    for arm, group in times.groupby("arm", sort=False):
        row = {"arm": arm, "collapsed": f"{group.collapsed.sum()} of {len(group)}"}
        mark = "" if group.collapsed.mean() > 0.5 else "≥ "
        for clock, name in CLOCKS.items():
            low, high = group[clock].min(), group[clock].max()
            row[name] = f"{mark}{group[clock].median():,.0f} ({low:,.0f}–{high:,.0f})"
        rows.append(row)
    return pd.DataFrame(rows)


def steadiest_clock(times: pd.DataFrame) -> pd.DataFrame:
    """Return how much each clock's median time to collapse differs between arms.

    If a clock alone set the time of collapse, its median would be the same in all arms. Where half
    of an arm's networks outlived their run, the time at its end counts, which is too short.
    """
    medians = times.groupby("arm")[list(CLOCKS)].median()
    return pd.DataFrame(
        {
            "clock": CLOCKS.values(),
            "shortest median": [f"{medians[c].min():,.0f} ({medians[c].idxmin()})" for c in CLOCKS],
            "longest median": [f"{medians[c].max():,.0f} ({medians[c].idxmax()})" for c in CLOCKS],
            "longest / shortest": [f"{medians[c].max() / medians[c].min():.1f}" for c in CLOCKS],
        }
    )


def windows(run: Run, threshold: float = 0.9) -> str:
    """Return until when each main arm memorised every set of labels, in one sentence per arm."""
    lines = []
    for arm in ("default", "tuned"):
        last = []
        for _, rows in run.select(arm=arm, metric="accuracy").groupby("seed"):
            failed = np.flatnonzero(rows.value.to_numpy() < threshold)
            last.append(rows.step.iloc[failed[0] - 1] if failed.size else rows.step.iloc[-1])
        lines.append(
            f"- **{arm} Adam** ended every label period above an accuracy of {threshold:g} until "
            f"step {np.median(last):,.0f} (median of {len(last)} seeds; "
            f"{min(last):,.0f} to {max(last):,.0f}) of {run.select(arm=arm).step.max():,.0f}."
        )
    return "\n".join(lines)
