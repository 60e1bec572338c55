"""Evaluates a run of *optimizer instability*: times to collapse, and verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from plasticity import statistics
from plasticity.chapters.claims import Condition, Verdict, decide
from plasticity.runs.results import Run


def times_to_collapse(run: Run) -> pd.DataFrame:
    """Return, for each arm and seed, when the network stopped learning its labels, by four clocks.

    Collapse is the first period that ends with less than half of the network's best accuracy so
    far. One row per network: arm, seed, collapsed (False if its run ended first; the clocks then
    stand at the end) and four times. They are optimizer steps (``step``), ``switches`` of labels,
    labels ``memorised`` (accuracy above chance, summed over periods; a full set counts 1) and the
    ``distance`` that the parameters moved, period by period.
    """
    rows = []
    for (arm, seed), long in run.table.groupby(["arm", "seed"], sort=False):
        group = long.pivot(index="step", columns="metric", values="value").sort_index()
        accuracy = group.accuracy.to_numpy()
        below = np.flatnonzero(accuracy < np.maximum.accumulate(accuracy) / 2)
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


def at_end(run: Run, arm: str, metric: str) -> np.ndarray:
    """Return the values of ``metric`` at the last step of ``arm``, one per seed, in seed order."""
    return run.select(arm=arm, metric=metric).groupby("seed").value.last().to_numpy()


def mean_accuracy(run: Run, arm: str) -> np.ndarray:
    """Return the accuracy of ``arm`` averaged over all periods, one per seed, in seed order."""
    return run.select(arm=arm, metric="accuracy").groupby("seed").value.mean().to_numpy()


def judge_dead_units(run: Run) -> Verdict:
    """Judge adam-dead-units: the default optimizer ends with dead units and without accuracy."""
    dead = statistics.mean_interval(at_end(run, "default", "dead_units"))
    accuracy = statistics.mean_interval(at_end(run, "default", "accuracy"))
    return decide(
        "adam-dead-units",
        Condition("dead units at the end, default", dead, ">", 0.2),
        Condition("accuracy at the end, default", accuracy, "<", 0.9),
    )


def judge_tuned_stable(run: Run) -> Verdict:
    """Judge adam-tuned-stable: the tuned optimizer ends alive, accurate, better than default."""
    accuracy = at_end(run, "tuned", "accuracy")
    gain = statistics.paired_difference(accuracy, at_end(run, "default", "accuracy"))
    return decide(
        "adam-tuned-stable",
        Condition(
            "dead units at the end, tuned",
            statistics.mean_interval(at_end(run, "tuned", "dead_units")), "<", 0.1,
        ),
        Condition("accuracy at the end, tuned", statistics.mean_interval(accuracy), ">", 0.9),
        Condition("accuracy, tuned minus default", gain, ">", 0.0),
    )  # fmt: skip


def judge_mechanism(run: Run) -> Verdict:
    """Judge adam-mechanism: updates jump more at a switch under default Adam than under tuned.

    A seed's jump is the geometric mean of ``update_spike`` over the switches that both networks
    reached with the old labels memorised (accuracy of at least .9). The interval is for the ratio
    default / tuned, over seeds.
    """
    default, tuned = (
        run.select(arm=arm).pivot(index=["seed", "step"], columns="metric", values="value")
        for arm in ("default", "tuned")
    )
    memorised = (default.accuracy >= 0.9) & (tuned.accuracy >= 0.9)
    ratios: Any = (default.update_spike / tuned.update_spike)[memorised].dropna()
    jumps = ratios.map(np.log)
    by_seed = jumps.groupby("seed").mean().to_numpy()
    log_ratio = statistics.mean_interval(by_seed) if by_seed.size else statistics.UNKNOWN
    ratio = log_ratio.map(np.exp)
    return decide("adam-mechanism", Condition("update spike, default / tuned", ratio, ">", 1.0))


CLAIMS = {
    "adam-dead-units": judge_dead_units,
    "adam-tuned-stable": judge_tuned_stable,
    "adam-mechanism": judge_mechanism,
}
"""Each claim of the ledger that this experiment decides, with its judge."""
