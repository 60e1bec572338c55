"""Evaluates a run of *curvature evolution*: series, growth of the sharpness, verdicts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from plasticity import configuration, statistics
from plasticity.chapters.claims import Condition, Judge, Verdict, decide
from plasticity.chapters.curvature_evolution.run import FIG_2, Config, arms, cnn_arm
from plasticity.runs.results import Run


def series(run: Run, metric: str, arm: str = "agent", process: str = "agent") -> np.ndarray:
    """Return a metric of one process, (seeds, measurements)."""
    rows = run.select(arm=arm, process=process, metric=metric)
    return rows.pivot(index="seed", columns="step", values="value").to_numpy()


def judge_curvature(run: Run) -> list[Verdict]:
    """Judge curvature-gd-vs-brownian: λ₁ of the agent over its walk's, and whether both grow.

    Taken at Fig. 2's moment and at the end.
    """
    agent, walk = series(run, "sharpness"), series(run, "sharpness", process="walk")
    moments = {f"after {FIG_2} target updates": FIG_2, "at the end": -1}

    def above_one(part: str, what: str, a: np.ndarray, b: np.ndarray, later: bool) -> Verdict:
        conditions = (
            Condition(f"λ₁ {name}, {what}", log_ratio(a[:, k], b[:, 0 if later else k]), ">", 1.0)
            for name, k in moments.items()
        )
        return decide("curvature-gd-vs-brownian", *conditions, part=part)

    return [
        above_one("more than the walk's", "agent / walk", agent, walk, later=False),
        above_one("they grow", "agent / its start", agent, agent, later=True),
        above_one("the walk's grow", "walk / its start", walk, walk, later=True),
    ]


def judge_interference(run: Run) -> list[Verdict]:
    """Judge gradient-interference: the share of C_k's pairs below -0.1, agent minus walk."""
    agent, walk = (series(run, "negative_share", process=name)[:, -1] for name in ("agent", "walk"))
    more = statistics.paired_difference(agent, walk)
    what = "share of pairs with a cosine below -0.1 at the end, agent - walk"
    return [decide("gradient-interference", Condition(what, more, ">", 0))]


def judge_layer_norm(run: Run) -> list[Verdict]:
    """Judge layer-norm-sharpness: growth of λ₁ with layer normalisation over growth without it.

    Taken in both problems. A run without those arms has no verdict.
    """
    conditions = []
    for variant in ("true_label", "random_label"):
        if cnn_arm(variant, True) not in set(run.table.arm):
            return []
        with_norm, without = (growth(run, cnn_arm(variant, norm)) for norm in (True, False))
        name = f"growth of λ₁, with / without, {variant.replace('_', '-')}"
        conditions.append(Condition(name, log_ratio(with_norm, without), "<", 1.0))
    return [decide("layer-norm-sharpness", *conditions)]


def growth(run: Run, arm: str = "agent", process: str = "agent") -> np.ndarray:
    """Return λ₁ at the end over λ₁ at the start, (seeds,)."""
    found = series(run, "sharpness", arm, process)
    return np.asarray(found[:, -1] / found[:, 0])


def log_ratio(a: np.ndarray, b: np.ndarray | float = 1.0) -> statistics.Interval:
    """Return the geometric mean of a / b over seeds, with its interval."""
    return statistics.mean_interval(np.log(a / b)).map(np.exp)


def layer_norm(run: Run) -> pd.DataFrame:
    """Return how λ₁ developed in the arms of Fig. 14, one row per arm.

    Columns: variant, layer_norm, and as intervals over seeds ``start``, ``end`` and ``growth`` of
    λ₁ (geometric means) and ``accuracy`` at the end.
    """
    rows = []
    for variant in ("true_label", "random_label"):
        for norm in (False, True):
            arm = cnn_arm(variant, norm)
            sharp, accuracy = series(run, "sharpness", arm), series(run, "accuracy", arm)
            rows.append(
                {
                    "variant": variant,
                    "layer_norm": norm,
                    "start": log_ratio(sharp[:, 0]),
                    "end": log_ratio(sharp[:, -1]),
                    "growth": log_ratio(growth(run, arm)),
                    "accuracy": statistics.mean_interval(accuracy[:, -1]),
                }
            )
    return pd.DataFrame(rows)


def walks(run: Run) -> pd.DataFrame:
    """Return how each process developed, in the arms that are not Fig. 14's; one row per process.

    Columns: arm, process, and as intervals over seeds ``distance`` (from the start, relative to the
    norm of the parameters there), ``growth`` (λ₁ at the end over the start), ``after`` (the growth
    up to `FIG_2` target updates) and ``interference`` (share of C_k's pairs below -0.1 at the end).
    The rows of an arm are ordered by distance.
    """
    rows = []
    for arm in arms(configuration.from_dict(Config, run.config)):
        if arm.startswith("cnn"):
            continue
        found = []
        for process in run.select(arm=arm).process.unique():
            sharp = series(run, "sharpness", arm, process)
            far, share = (
                series(run, name, arm, process)[:, -1] for name in ("distance", "negative_share")
            )
            found.append(
                {
                    "arm": arm,
                    "process": process,
                    "distance": statistics.mean_interval(far),
                    "after": log_ratio(sharp[:, FIG_2], sharp[:, 0]),
                    "growth": log_ratio(sharp[:, -1], sharp[:, 0]),
                    "interference": statistics.mean_interval(share),
                }
            )
        rows += sorted(found, key=lambda row: row["distance"].estimate)
    return pd.DataFrame(rows)


CLAIMS: Mapping[str, Judge] = {
    "curvature-gd-vs-brownian": judge_curvature,
    "gradient-interference": judge_interference,
    "layer-norm-sharpness": judge_layer_norm,
}
"""Each claim of the ledger that this experiment decides, with its judge."""
