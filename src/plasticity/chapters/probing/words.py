"""Tables and sentences that the chapters on probed agents share."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from plasticity.chapters.report import short
from plasticity.runs.results import Run
from plasticity.statistics import mean_interval, paired_difference
from plasticity.worlds import classification_mdp


def plasticity_lost(run: Run, arms: Mapping[str, str]) -> pd.DataFrame:
    """Return each arm's probe loss before training and at the end, what it lost, and its task.

    ``arms`` maps an arm to its name in the table. Intervals are over seeds. "By chance" is how
    often a random action is an optimal one.
    """
    rows, discount = [], run.config["algorithm"]["discount"]
    for arm, name in arms.items():
        losses = run.select(arm=arm, metric="probe_loss").groupby("seed").value
        first, last = losses.first().to_numpy(), losses.last().to_numpy()
        accuracy = run.select(arm=arm, metric="accuracy").groupby("seed").value.last()
        variant = run.select(arm=arm).variant.iloc[0]
        rows.append(
            {
                "network": name,
                "fresh": short(mean_interval(first)),
                "after training": short(mean_interval(last)),
                "plasticity lost": short(paired_difference(last, first)),
                "task: share of images right": short(mean_interval(accuracy)),
                "by chance": f"{classification_mdp.right_by_chance(variant, discount):.2f}",
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
