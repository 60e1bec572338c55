"""Tables and sentences of the chapter on optimizer instability."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from plasticity.chapters.claims import Verdict
from plasticity.chapters.optimizer_instability import judge
from plasticity.runs.results import Run
from plasticity.statistics import Interval, mean_interval

CHANGES = {
    "floor": "ε̄: 0 → 10⁻³, at β₂ = .999",
    "floor beside faster": "ε̄: 0 → 10⁻³, at β₂ = .9",
    "faster": "β₂: .999 → .9, at ε̄ = 0",
    "faster beside floor": "β₂: .999 → .9, at ε̄ = 10⁻³",
}
"""How tables write the contrasts of `judge.gains`."""


ARMS = {
    "default": "default Adam", "b2_only": "only β₂ = .9", "eps_root_only": "only ε̄ = 10⁻³",
    "tuned": "tuned", "width_half": "tuned, width ÷ 2", "width_double": "tuned, width × 2",
    "budget_half": "tuned, budget ÷ 2", "budget_double": "tuned, budget × 2",
    "batch_quarter": "tuned, batch ÷ 4", "batch_double": "tuned, batch × 2",
    "eps_root_tenfold": "tuned, ε̄ × 10",
}  # fmt: skip
"""How tables write arms; default Adam with another rate has the rate in its name."""


def named(arm: str) -> str:
    """Return how tables write an arm."""
    rate = arm.removeprefix("default_")
    return ARMS.get(arm, arm if rate == arm else f"default Adam, rate {float(rate):g}")


def size(run: Run) -> str:
    """Return how tables call a run: its study with its width and its number of images."""
    return f"{run.study}: width {run.config['width']:,}, {run.config['n_images']:,} images"


def which_constant(runs: Sequence[Run], gains: Sequence[Mapping[str, Interval]]) -> pd.DataFrame:
    """Return what each of the two constants does, alone and with the other.

    One row per contrast, one column per run: how many more sets of labels a network learns with
    the change, as from `judge.gains` of each run, and what the interval says of it.
    """
    columns = {"change": list(CHANGES.values())} | {
        size(run): [_gain(found[name]) for name in CHANGES]
        for run, found in zip(runs, gains, strict=True)
    }
    return pd.DataFrame(columns)


def _gain(found: Interval) -> str:
    """Write a difference in sets of labels with its interval, and whether it is clear of zero."""
    said = "helps" if found.low > 0 else "harms" if found.high < 0 else "not shown"
    return f"{found.estimate:+.2f} [{found.low:+.2f}, {found.high:+.2f}], {said}"


def mechanism(switches: Mapping[int, pd.DataFrame], window: int) -> pd.DataFrame:
    """Return what happens to each main arm at some switches of labels, mean over seeds.

    ``switches`` has what `judge.at_switch` says of each, for windows of ``window`` steps.
    """
    rows = []
    for switch, found in switches.items():
        for arm, row in found.iterrows():
            rows.append(
                {
                    "switch": switch,
                    "arm": arm,
                    "accuracy before": f"{row.accuracy:.2f}",
                    "m̂/√v̂: before → peak": f"{row.ratio_before:.2g} → {row.ratio_peak:.2g}",
                    "update norm: before → peak": (
                        f"{row.update_before:.2g} → {row.update_peak:.2g}"
                    ),
                    "jump": f"× {row.jump:.1f}",
                    f"update norm, {window} steps on": f"{row.update_late:.2g}",
                }
            )
    return pd.DataFrame(rows)


CLOCKS = {
    "step": "optimizer steps",
    "switches": "switches",
    "memorised": "sets memorised",
    "distance": "distance moved",
}
"""Columns of `times_to_collapse` that count time, with their names."""


def lifetimes(times: pd.DataFrame, absolute: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the median time to collapse of each arm by each clock, and how many collapsed.

    Medians are `judge.median_lifetime`, with the shortest and longest life; "> x" is one that lies
    beyond the longest. ``absolute`` has the times by an absolute threshold, of which the median
    number of optimizer steps is shown.
    """
    rows = []
    for arm, group in times.groupby("arm", sort=False):
        row = {"arm": named(str(arm)), "collapsed": f"{group.collapsed.sum()} of {len(group)}"}
        for clock, name in CLOCKS.items():
            low, high = group[clock].min(), group[clock].max()
            row[name] = f"{_median(group, clock)} ({low:,.0f}–{high:,.0f})"
        if absolute is not None:
            row["steps, absolute"] = _median(absolute[absolute.arm == arm], "step")
        rows.append(row)
    return pd.DataFrame(rows)


def _median(group: pd.DataFrame, clock: str) -> str:
    found = judge.median_lifetime(group[clock].to_numpy(), group.collapsed.to_numpy())
    return f"{found:,.0f}" if np.isfinite(found) else f"> {group[clock].max():,.0f}"


def steadiest_clock(times: pd.DataFrame) -> pd.DataFrame:
    """Return how much each clock's median time to collapse differs between arms.

    If a clock alone set the time of collapse, its median would be the same in all arms. Arms whose
    median network outlived its run are left out and counted: by no clock is their time known.
    """
    rows = []
    for clock, name in CLOCKS.items():
        medians = {
            arm: judge.median_lifetime(group[clock].to_numpy(), group.collapsed.to_numpy())
            for arm, group in times.groupby("arm")
        }
        known = pd.Series({arm: found for arm, found in medians.items() if np.isfinite(found)})
        rows.append(
            {
                "clock": name,
                "shortest median": f"{known.min():,.0f} ({named(str(known.idxmin()))})",
                "longest median": f"{known.max():,.0f} ({named(str(known.idxmax()))})",
                "longest / shortest": f"{known.max() / known.min():.1f}",
                "arms left out": len(medians) - len(known),
            }
        )
    return pd.DataFrame(rows)


def windows(run: Run, threshold: float = 0.9) -> str:
    """Return from when until when two arms memorised every set of labels, a sentence per arm."""
    lines = []
    for arm in ("default", "tuned"):
        first, last = [], []
        for _, rows in run.select(arm=arm, metric="accuracy").groupby("seed"):
            good = rows.value.to_numpy() >= threshold
            if good.any():
                begin = int(np.argmax(good))
                end = begin + int(np.argmax(np.append(~good[begin:], True))) - 1
                first.append(rows.step.iloc[begin])
                last.append(rows.step.iloc[end])
        steps = f"of {run.select(arm=arm).step.max():,.0f}"
        if first:
            lines.append(
                f"- **{arm} Adam** ended every label period at an accuracy of {threshold:g} or "
                f"more from step {np.median(first):,.0f} to step {np.median(last):,.0f} {steps} "
                f"(medians of {len(last)} seeds; the last such step lies between {min(last):,.0f} "
                f"and {max(last):,.0f})."
            )
        else:
            lines.append(f"- **{arm} Adam** ended no label period at {threshold:g}, {steps}.")
    return "\n".join(lines)


def postponed(run: Run, times: pd.DataFrame, floor: float = 0.2) -> str:
    """Return by what factor the tuned optimizer postpones the collapse, by two ways to say when.

    ``times`` is from `judge.times_to_collapse`. The second way is the first step at which the mean
    accuracy of an arm is below ``floor``, twice chance. Raises ValueError if one of the two arms
    outlives the run.
    """
    half, low = {}, {}
    for arm in ("default", "tuned"):
        mean = run.select(arm=arm, metric="accuracy").groupby("step").value.mean()
        if not times[times.arm == arm].collapsed.all() or mean.min() >= floor:
            raise ValueError(f"{arm}: had not collapsed when the run ended")
        half[arm] = times[times.arm == arm].step.median()
        low[arm] = mean.index[mean < floor].min()
    return (
        f"The median network has lost half of its best accuracy at step {half['default']:,.0f} "
        f"under default Adam and at step {half['tuned']:,.0f} under the tuned one, "
        f"**{half['tuned'] / half['default']:.1f} times** as late. The mean accuracy falls below "
        f"{floor:g}, twice chance, at step {low['default']:,.0f} and at step {low['tuned']:,.0f}, "
        f"**{low['tuned'] / low['default']:.1f} times** as late."
    )


def over_steps(run: Run, verdicts: pd.Series) -> str:
    """Return what the verdict on a claim would be had the run ended earlier, in a sentence.

    ``verdicts`` has a status for each step, as from `judge.tuned_stable_by_step`.
    """
    parts = []
    for status, group in itertools.groupby(verdicts.items(), key=lambda item: item[1]):
        steps = [step for step, _ in group]
        last = steps[-1] == verdicts.index[-1]
        until = "on" if last else f"to {steps[-1]:,}"
        span = f"at step {steps[0]:,}" if len(steps) == 1 else f"from step {steps[0]:,} {until}"
        parts.append(f"{status} {span}")
    return f"Judged as if the run had ended earlier (`{run.study}`): {'; '.join(parts)}."


def compared(
    runs: Sequence[Run],
    times: Sequence[pd.DataFrame],
    verdicts: Sequence[Sequence[Verdict]],
) -> pd.DataFrame:
    """Return what runs of different size say of the four settings, one column per run.

    ``times`` and ``verdicts`` are those of each run.
    """
    columns = {}
    for run, when, found in zip(runs, times, verdicts, strict=True):
        step = when.groupby("arm").step.median()
        rows = {"collapse under default Adam, step": f"{step['default']:,.0f}"}
        for arm, name in (
            ("b2_only", "only β₂ = .9"), ("eps_root_only", "only ε̄ = 10⁻³"), ("tuned", "tuned")
        ):  # fmt: skip
            rows[f"times as late: {name}"] = f"{step[arm] / step['default']:.1f}"
        for layer in (1, 2):
            ends = [_at_end(run, arm, f"dead_units_layer_{layer}") for arm in ("default", "tuned")]
            rows[f"dead at the end, layer {layer}: default, tuned"] = ", ".join(ends)
        rows |= {verdict.claim.id: verdict.status for verdict in found}
        columns[size(run)] = rows
    return pd.DataFrame(columns).rename_axis("what").reset_index()


def _at_end(run: Run, arm: str, metric: str) -> str:
    last = run.select(arm=arm, metric=metric).groupby("seed").value.last()
    return f"{mean_interval(last).estimate:.2f}"
