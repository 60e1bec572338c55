"""Evaluates a run of *optimizer instability*: times to collapse, and verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from scipy import stats

from plasticity import statistics
from plasticity.agents import optimizers
from plasticity.chapters import claims
from plasticity.chapters.claims import Condition, Judge, Verdict, decide
from plasticity.chapters.optimizer_instability.run import MAIN_ARMS
from plasticity.runs.results import Run
from plasticity.statistics import Interval

MEMORISED = 0.9
"""A label period that ends with at least this accuracy counts as memorised."""


def times_to_collapse(run: Run, least: float | None = None) -> pd.DataFrame:
    """Return, for each arm and seed, when the network stopped learning its labels, by four clocks.

    Collapse is the first period that ends with less than half of the network's best accuracy so
    far, or with an accuracy below ``least`` if that is given. One row per network: arm, seed,
    collapsed (False if its run ended first; the clocks then stand at the end) and four times. They
    are optimizer steps (``step``), ``switches`` of labels, labels ``memorised`` (accuracy above
    chance, summed over periods; a full set counts 1) and the ``distance`` that the parameters
    moved, period by period.
    """
    rows = []
    for (arm, seed), long in run.table.groupby(["arm", "seed"], sort=False):
        group = long.pivot(index="step", columns="metric", values="value").sort_index()
        accuracy = group.accuracy.to_numpy()
        bar = np.maximum.accumulate(accuracy) / 2 if least is None else least
        below = np.flatnonzero(accuracy < bar)
        last = int(below[0]) if below.size else len(accuracy) - 1
        rows.append(
            {
                "arm": arm,
                "seed": seed,
                "collapsed": bool(below.size),
                "step": group.index[last],
                "switches": last,
                "memorised": np.maximum(accuracy[:last] - 0.1, 0).sum() / 0.9,
                "distance": group.displacement.to_numpy()[:last].sum(),
            }
        )
    return pd.DataFrame(rows)


def median_lifetime(times: np.ndarray, collapsed: np.ndarray) -> float:
    """Return the median time to collapse, by Kaplan and Meier's estimator of survival.

    Of a network that had not ``collapsed`` when its run ended, the time says only that it lived at
    least so long. Infinite if more than half of the networks are estimated to outlive all times.
    """
    if not collapsed.any():
        return np.inf
    known = stats.CensoredData(uncensored=times[collapsed], right=times[~collapsed])
    alive = stats.ecdf(known).sf
    reached = alive.quantiles[alive.probabilities <= 0.5]
    return float(reached[0]) if reached.size else np.inf


def at_end(run: Run, arm: str, metric: str) -> np.ndarray:
    """Return the values of ``metric`` at the last step of ``arm``, one per seed, in seed order."""
    return run.select(arm=arm, metric=metric).groupby("seed").value.last().to_numpy()


def mean_accuracy(run: Run, arm: str) -> np.ndarray:
    """Return the accuracy of ``arm`` averaged over all periods, one per seed, in seed order."""
    return run.select(arm=arm, metric="accuracy").groupby("seed").value.mean().to_numpy()


CONTRASTS = {
    "floor": ("eps_root_only", "default"),
    "floor beside faster": ("tuned", "b2_only"),
    "faster": ("b2_only", "default"),
    "faster beside floor": ("tuned", "eps_root_only"),
}
"""What changes one constant, ε̄ (the floor) or β₂ (a faster second moment), and between which arms.
"""


def gains(run: Run) -> dict[str, Interval]:
    """Return how many sets of labels more each contrast lets a network learn, paired over seeds.

    That is the accuracy summed over all periods, so that a set learned in full counts 1: of the
    length of a run it does not depend once all networks have collapsed.
    """
    sets = {arm: mean_accuracy(run, arm) * run.config["periods"] for arm in MAIN_ARMS}
    return {
        name: statistics.paired_difference(sets[after], sets[before])
        for name, (after, before) in CONTRASTS.items()
    }


def memorised_switches(run: Run) -> list[int]:
    """Return the switches of labels that every main arm reached with the old ones memorised.

    They count from 1, the switch after the first period, and no seed is left out.
    """
    main = run.table[run.table.arm.isin(list(MAIN_ARMS)) & (run.table.metric == "accuracy")]
    lowest = main.groupby("step").value.min().to_numpy()
    return [int(k) for k in np.flatnonzero(lowest[:-1] >= MEMORISED) + 1]


def at_switch(run: Run, switch: int) -> pd.DataFrame:
    """Return what happens to each main arm at a switch of labels, one row per arm, mean over seeds.

    ``switch`` counts from 1. *before* is the median over the window before the switch, *peak* the
    largest value in the window after it, *late* the median over the last fifth of that window; of
    the norm of the update and of m̂ / √v̂ (``ratio``). ``jump`` is the geometric mean of peak over
    before, of the update. ``envelope`` is the largest m̂ / √v̂ after the switch relative to its
    closed form, `optimizers.ratio_after_jump`.
    """
    window, rows = run.config["window"], {}
    steps = np.arange(1, window + 1, dtype=np.float32)
    for arm, settings in MAIN_ARMS.items():
        update, ratio = (run.arrays[f"{name}/{arm}"] for name in ("update_norm", "moment_ratio"))
        accuracy = run.select(arm=arm, metric="accuracy").groupby("seed").value.nth(switch - 1)
        bound = np.asarray(optimizers.ratio_after_jump(jnp.asarray(steps), settings))
        row = {"accuracy": accuracy.mean()}
        for name, trace in (("update", update), ("ratio", ratio)):
            before, after = trace[:, switch - 1, window:], trace[:, switch, :window]
            row[f"{name}_before"] = np.median(before, axis=1).mean()
            row[f"{name}_peak"] = after.max(axis=1).mean()
            row[f"{name}_late"] = np.median(after[:, -max(1, window // 5) :], axis=1).mean()
        jumps = update[:, switch, :window].max(1) / np.median(update[:, switch - 1, window:], 1)
        row["jump"] = float(np.exp(np.log(jumps).mean()))
        row["envelope"] = float((ratio[:, switch, :window] / bound).max())
        rows[arm] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def tuned_stable_by_step(run: Run) -> pd.Series:
    """Return the verdict on adam-tuned-stable as if the run had ended at each step."""
    steps = run.select(arm="tuned").step
    return pd.Series(claims.over_steps(run, _tuned_stable, steps=steps))


def judge_dead_units(run: Run) -> list[Verdict]:
    """Judge adam-dead-units: the default optimizer ends with dead units and without accuracy."""
    dead = statistics.mean_interval(at_end(run, "default", "dead_units"))
    accuracy = statistics.mean_interval(at_end(run, "default", "accuracy"))
    return [
        decide(
            "adam-dead-units",
            Condition("dead units at the end, default", dead, ">", 0.2),
            Condition("accuracy at the end, default", accuracy, "<", 0.9),
        )
    ]


def judge_tuned_stable(run: Run) -> list[Verdict]:
    """Judge adam-tuned-stable: the tuned optimizer ends alive, accurate, better than default.

    The note has the verdict over steps: the length of the run decides.
    """
    by_step: dict[Any, Any] = tuned_stable_by_step(run).to_dict()
    note = claims.windows(by_step)
    return [verdict._replace(note=note) for verdict in _tuned_stable(run)]


CHANCE = 0.1
"""The accuracy of guessing one of ten labels; within .05 of it an arm is at chance."""


def _tuned_stable(run: Run) -> list[Verdict]:
    accuracy, other = (at_end(run, arm, "accuracy") for arm in ("tuned", "default"))
    lost = max(accuracy.mean(), other.mean()) < CHANCE + 0.05
    return [
        decide(
            "adam-tuned-stable",
            Condition(
                "dead units at the end, tuned",
                statistics.mean_interval(at_end(run, "tuned", "dead_units")), "<", 0.1,
            ),
            Condition("accuracy at the end, tuned", statistics.mean_interval(accuracy), ">", 0.9),
            Condition(
                "accuracy, tuned minus default", statistics.paired_difference(accuracy, other),
                ">", 0.0, empty="both are at chance" if lost else "",
            ),
        )
    ]  # fmt: skip


def judge_mechanism(run: Run) -> list[Verdict]:
    """Judge adam-mechanism: updates jump more at a switch under default Adam than under tuned.

    A seed's jump is the geometric mean of ``update_spike`` over the switches that both networks
    reached with the old labels memorised (accuracy of `MEMORISED`). The interval is for the ratio
    default / tuned, over seeds.
    """
    default, tuned = (
        run.select(arm=arm).pivot(index=["seed", "step"], columns="metric", values="value")
        for arm in ("default", "tuned")
    )
    memorised = (default.accuracy >= MEMORISED) & (tuned.accuracy >= MEMORISED)
    ratios: Any = (default.update_spike / tuned.update_spike)[memorised].dropna()
    jumps = ratios.map(np.log)
    by_seed = jumps.groupby("seed").mean().to_numpy()
    log_ratio = statistics.mean_interval(by_seed) if by_seed.size else statistics.UNKNOWN
    ratio = log_ratio.map(np.exp)
    return [decide("adam-mechanism", Condition("update spike, default / tuned", ratio, ">", 1.0))]


CLAIMS: Mapping[str, Judge] = {
    "adam-dead-units": judge_dead_units,
    "adam-tuned-stable": judge_tuned_stable,
    "adam-mechanism": judge_mechanism,
}
"""Each claim of the ledger that this experiment decides, with its judge."""
