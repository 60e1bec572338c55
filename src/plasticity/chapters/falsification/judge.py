"""Evaluates a run of *falsification*: correlations, learning curves of probes, verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from operator import attrgetter

import numpy as np
import pandas as pd

from plasticity import configuration, statistics
from plasticity.chapters.claims import Condition, Judge, Verdict, decide
from plasticity.chapters.falsification.run import (
    SENSITIVITY,
    SWEPT,
    Config,
    arm_name,
    arms,
)
from plasticity.chapters.probing import tables
from plasticity.measure import probe
from plasticity.runs.results import Run

STRATUM = ("variant", "dataset", "architecture")
"""What defines a stratum: claims.md takes Spearman's correlation in each combination."""

STATISTICS = ("weight_norm", "weight_rank", "feature_rank", "dead_units")
"""The four of Fig. 3."""

LANDSCAPE = ("sharpness", "gradient_norm", "interference", "collinearity", "gradient_rank")
"""The paper's own explanation, curvature and gradients, which it did not put to its own test."""

BEYOND = (
    "dormant_ratio", "linearised_units", "srank", "effective_rank", "stable_rank",
    "approximate_rank",
)  # fmt: skip
"""Further statistics of weights and units that the paper did not test."""


def main_arms(run: Run) -> list[str]:
    """Return the arms of the population, without those of the sensitivity analysis."""
    config = configuration.from_dict(Config, run.config)
    return list(arms(replace(config, sensitivity=False)))


def at_end(run: Run, arm_names: list[str]) -> pd.DataFrame:
    """Return one row per agent: its settings, every metric at the last probe, what it lost.

    ``plasticity_loss``, the y axis of Fig. 3, is the probe loss at the end (``probe_loss``) minus
    the one before training (``initial_loss``). ``setting`` is the optimizer with its learning rate.
    Diverged agents are included, with values NaN and ``diverged`` 1.
    """
    rows = run.table[run.table.arm.isin(arm_names)]
    last = tables.at_end(rows, ["arm", *SWEPT, "seed"])
    last["setting"] = last.optimizer + ":" + last.learning_rate.map("{:g}".format)
    last["arm"] = pd.Categorical(last.arm, arm_names)  # in the order of the arms
    return last.sort_values(["arm", "seed"], ignore_index=True).astype({"arm": str})


def sign_stability(run: Run, names: tuple[str, ...] = STATISTICS) -> pd.DataFrame:
    """Return Spearman's correlation of each statistic with plasticity loss in every stratum.

    Taken both over all optimizer settings pooled, as in the paper, and within each: see
    `plasticity.statistics.sign_stability`.
    """
    table = at_end(run, main_arms(run))
    known = [name for name in names if name in table]
    return statistics.sign_stability(
        table, known, "plasticity_loss", strata=STRATUM, setting="setting"
    )


def judge_flip_sign(run: Run, adjustment: str = "within") -> list[Verdict]:
    """Judge statistics-flip-sign: each of Fig. 3's four has both signs, in different strata.

    Judged within optimizer settings, where a difference between optimizers cannot pass for a
    property of the statistic; ``adjustment`` "pooled" is the paper's own test. The highest and the
    lowest stratum are compared with zero by simultaneous intervals
    (`plasticity.statistics.sign_stability`): picking the extremes of a dozen and testing only those
    would find signs in noise.
    """
    if not has_population(run):
        return []
    return [decide("statistics-flip-sign", *_both_signs(sign_stability(run), adjustment))]


def has_population(run: Run) -> bool:
    """Return whether a run has more than one stratum to correlate in."""
    return len(run.table[list(STRATUM)].drop_duplicates()) > 1


def judge_landscape(run: Run, adjustment: str = "within") -> list[Verdict]:
    """Judge sharpness-flips-too: the paper's explanation, put to the paper's test.

    As `judge_flip_sign`, with λ₁, gradient norm and effective rank.
    """
    if not has_population(run):
        return []
    found = sign_stability(run, ("sharpness", "gradient_norm", "effective_rank"))
    return [decide("sharpness-flips-too", *_both_signs(found, adjustment))]


def _both_signs(found: pd.DataFrame, adjustment: str) -> list[Condition]:
    """Return, for each statistic, that it has a stratum above zero and one below."""
    chosen = found[found.adjustment == adjustment]
    conditions = []
    for name, rows in chosen.groupby("statistic", sort=False):
        highest, lowest = statistics.extremes(rows)
        strata = f"of {len(rows)} strata, {str(name).replace('_', ' ')}"
        conditions.append(Condition(f"highest correlation {strata}", highest, ">", 0.0))
        conditions.append(Condition(f"lowest correlation {strata}", lowest, "<", 0.0))
    return conditions


def fig_4_arm(run: Run) -> str:
    """Return the arm nearest to Fig. 4: the CNN on CIFAR-10, true-label, first setting."""
    config = configuration.from_dict(Config, run.config)
    variant = "true_label" if "true_label" in config.variants else config.variants[0]
    return arm_name(variant, config.datasets[-1], config.networks[-1].kind, config.settings[0])


def steps_to_half(run: Run, arm: str) -> np.ndarray:
    """Return the optimizer steps until a probe's loss has halved, (seeds, probes).

    The loss starts near twice the baseline or above, and the best constant has about .5. "Half" is
    half of .5, the variance of a sine of random phase. A curve that never gets there counts as the
    whole budget, which is too short.
    """
    curve = run.arrays[f"curve/{arm}"]
    below = curve <= BASELINE / 2
    first = np.where(below.any(axis=2), below.argmax(axis=2) + 1, curve.shape[2])
    return np.asarray(first * probe.WINDOW)


BASELINE = 0.5
"""b of Eq. (5) for a sine of uniformly random phase: its mean square."""

FLAT = 0.05
"""A curve is flat if its loss falls by less than this share in the last quarter of its budget."""


def late_fall(run: Run, arm: str) -> np.ndarray:
    """Return the share by which a probe's loss falls in the last quarter, (seeds, probes).

    Both ends are averaged over a tenth of the budget.
    """
    curve = run.arrays[f"curve/{arm}"]
    windows = curve.shape[2]
    span, quarter = max(1, windows // 10), windows - windows // 4
    before = curve[..., quarter - span : quarter].mean(axis=2)
    return np.asarray(1 - curve[..., -span:].mean(axis=2) / before)


def end_of_curve(run: Run, arm: str) -> np.ndarray:
    """Return the mean minibatch loss over the last tenth of the budget, (seeds, probes)."""
    curve = run.arrays[f"curve/{arm}"]
    return np.asarray(curve[..., -max(1, curve.shape[2] // 10) :].mean(axis=2))


def roughness(run: Run, arm: str) -> np.ndarray:
    """Return how much the minibatch loss scatters, relative to itself, (seeds, probes)."""
    relative = run.arrays[f"noise/{arm}"] / run.arrays[f"curve/{arm}"]
    return np.asarray(relative.mean(axis=2))


def rising(run: Run, arm: str) -> np.ndarray:
    """Return the share of a curve's windows in which the loss rises, (seeds, probes)."""
    return np.asarray((np.diff(run.arrays[f"curve/{arm}"], axis=2) > 0).mean(axis=2))


def judge_slower(run: Run) -> list[Verdict]:
    """Judge slower-not-higher on Fig. 4's stratum; the notes say in how many of all it holds."""
    strata = [_slower(run, arm) for arm in main_arms(run)]

    def noted(k: int, verdict: Verdict) -> Verdict:
        counts = Counter(found[k].status for found in strata)
        said = ", ".join(f"{status} in {count}" for status, count in counts.most_common())
        return verdict._replace(note=f"Of {len(strata)} strata: {said}." if len(strata) > 1 else "")

    return [noted(k, verdict) for k, verdict in enumerate(_slower(run, fig_4_arm(run)))]


FLOOR = 0.05
"""A loss below this is at the probe's floor: a plateau would have to lie above it."""


def _slower(run: Run, arm: str) -> list[Verdict]:
    """Judge slower-not-higher on one stratum.

    There is a plateau if the last checkpoint's curves are flat above .1. Curves that end below .1
    have none, flat or not; those that end at the floor could not have one.
    """
    steps, rises = steps_to_half(run, arm), rising(run, arm)
    slower = Condition(
        "steps to half the baseline, last / first checkpoint", _ratio(steps[:, -1], steps[:, 0]),
        ">", 1.0,
    )  # fmt: skip
    end = statistics.mean_interval(end_of_curve(run, arm)[:, -1])
    plateau = Condition(
        "loss at the end of the budget, last checkpoint", end, "<", 0.1,
        empty="at the probe's floor" if end.estimate < FLOOR else "",
    )  # fmt: skip
    if not (plateau.empty or plateau.holds):
        fall = statistics.mean_interval(late_fall(run, arm)[:, -1])
        plateau = Condition(
            "fall of the loss in the last quarter, last checkpoint", fall, ">", FLAT
        )
    monotone = Condition(
        "share of windows in which the loss rises, last minus first checkpoint",
        statistics.paired_difference(rises[:, -1], rises[:, 0]), ">", 0.0,
    )  # fmt: skip
    by_part = {"shallower": slower, "no plateau": plateau, "less monotone": monotone}
    return [decide("slower-not-higher", found, part=part) for part, found in by_part.items()]


def curves(run: Run) -> pd.DataFrame:
    """Return how the probe's learning curves changed in every main arm, one row per arm.

    Columns: arm, `STRATUM`, setting, and as intervals over seeds ``slower`` (steps to half the
    baseline, last over first checkpoint), ``end`` and ``fall`` (loss at the end, and its fall in
    the last quarter, last checkpoint), ``rougher`` (last minus first relative scatter). ``never``
    is the share of the last probes that do not reach half. ``shallower`` and ``plateau`` are what
    is said of these parts of slower-not-higher in the arm.
    """
    config = configuration.from_dict(Config, run.config)
    rows = []
    for arm in main_arms(run):
        agent, steps = configuration.replaced(config, arms(config)[arm]), steps_to_half(run, arm)
        rough = roughness(run, arm)
        rows.append(
            {
                "arm": arm,
                **{name: attrgetter(SWEPT[name])(agent) for name in STRATUM},
                "setting": f"{agent.optimizer.name}:{agent.optimizer.learning_rate:g}",
                "slower": _ratio(steps[:, -1], steps[:, 0]),
                "never": float(
                    np.mean(run.arrays[f"curve/{arm}"][:, -1].min(axis=1) > BASELINE / 2)
                ),
                "end": statistics.mean_interval(end_of_curve(run, arm)[:, -1]),
                "fall": statistics.mean_interval(late_fall(run, arm)[:, -1]),
                "rougher": statistics.paired_difference(rough[:, -1], rough[:, 0]),
                **dict(zip(("shallower", "plateau"), _statuses(run, arm), strict=True)),
            }
        )
    return pd.DataFrame(rows)


def _statuses(run: Run, arm: str) -> list[str]:
    """Return what is said of the first two parts of slower-not-higher in a stratum."""
    return [verdict.status for verdict in _slower(run, arm)[:2]]


def _ratio(a: np.ndarray, b: np.ndarray) -> statistics.Interval:
    """Return the geometric mean of a / b over seeds, with its interval."""
    return statistics.mean_interval(np.log(a / b)).map(np.exp)


def open_choices(run: Run) -> pd.DataFrame:
    """Return how each choice that the paper leaves open changes the verdicts, one row per choice.

    Varied around the first data set, architecture and setting: three strata and one optimizer.
    Columns: ``change`` ("as run" first), one per variant with the plasticity lost (an interval),
    ``slower`` with what is said of "shallower" in the first variant, and ``signs turned``: how
    many correlations of Fig. 3's statistics have a different sign than as run. With so few agents
    per row some signs turn by chance; the column counts them, and claims no more.
    """
    config = configuration.from_dict(Config, run.config)
    around = (config.datasets[0], config.networks[0].kind, config.settings[0])
    chosen_arms = {"as run": [arm_name(variant, *around) for variant in config.variants]} | {
        name: [f"{variant}-{name}" for variant in config.variants] for name in SENSITIVITY
    }
    rows, reference = [], None
    for change, chosen in chosen_arms.items():
        table = at_end(run, chosen)
        lost = {
            variant: statistics.mean_interval(group.plasticity_loss)
            for variant, group in table.groupby("variant", sort=False)
        }
        found = statistics.sign_stability(table, STATISTICS, "plasticity_loss", ["variant"])
        signs = np.sign(found.spearman.to_numpy())
        reference = signs if reference is None else reference
        turned = int(np.sum(signs * reference < 0))
        rows.append(
            {"change": change, **lost, "slower": _statuses(run, chosen[0])[0]}
            | {"signs turned": turned, "of": int(np.sum(np.isfinite(signs)))}
        )
    return pd.DataFrame(rows)


CLAIMS: Mapping[str, Judge] = {
    "statistics-flip-sign": judge_flip_sign,
    "sharpness-flips-too": judge_landscape,
    "slower-not-higher": judge_slower,
}
"""Each claim of the ledger that this experiment decides, with its judge."""
