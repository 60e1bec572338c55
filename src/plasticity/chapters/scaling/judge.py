"""Evaluates a run of *scaling*: curves of plasticity lost against width, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from plasticity import statistics
from plasticity.chapters.claims import Condition, Judge, Verdict, decide
from plasticity.chapters.probing import tables
from plasticity.chapters.scaling.run import SWEPT
from plasticity.runs.results import Run
from plasticity.statistics import Interval

CURVE = ("dataset", "architecture", "target_period", "discount")
"""What defines a curve of Fig. 5."""


def agents(run: Run) -> pd.DataFrame:
    """Return one row per agent: `CURVE`, ``width``, every metric at the last probe, what it lost.

    ``width`` counts units per hidden layer of the MLP or channels of the CNN. An agent without a
    finite probe loss has diverged.
    """
    table = tables.at_end(run.table, ["arm", *SWEPT, "seed"])
    return table.assign(width=table.mlp_width.where(table.architecture == "mlp", table.channels))


class Fit(NamedTuple):
    """Plasticity lost against log₂ width, a straight line."""

    slope: Interval  # change per doubling of the width
    zero: Interval  # log₂ of the width at which the line reaches zero; infinite if it falls nowhere


def curves(run: Run) -> pd.DataFrame:
    """Return one row per curve: how the plasticity lost depends on width.

    Columns: `CURVE`, ``widths``, ``spearman`` and ``final`` (the width's correlation with the
    change and with the final loss, over all agents, resampled inside widths), ``widest`` (the
    change at the widest, an interval over seeds), ``initial`` (the loss of fresh networks there),
    ``slope`` and ``zero`` of `Fit`, ``diverged`` (agents). If divergence leaves no agent, or fewer
    than two widths for a line, the interval is infinite.
    """
    rows = []
    for names, group in agents(run).groupby(list(CURVE), sort=False):
        whole = group[np.isfinite(group.plasticity_loss)]
        last = whole[whole.width == group.width.max()]
        width, change = whole.width.to_numpy(float), whole.plasticity_loss.to_numpy()
        final = whole.probe_loss.to_numpy()
        fit = Fit(statistics.UNKNOWN, statistics.UNKNOWN)
        if whole.width.nunique() > 1:
            fit = fit_line(width, change)
        rows.append(
            {
                **dict(zip(CURVE, names, strict=True)),
                "widths": group.width.nunique(),
                "spearman": _spearman(width, change),
                "final": _spearman(width, final),
                "widest": _mean(last.plasticity_loss),
                "initial": _mean(last.initial_loss),
                **fit._asdict(),
                "diverged": len(group) - len(whole),
            }
        )
    return pd.DataFrame(rows)


def _mean(values: pd.Series[float]) -> Interval:
    return statistics.mean_interval(values) if len(values) else statistics.UNKNOWN


def _spearman(width: np.ndarray, values: np.ndarray) -> Interval:
    if not len(width):
        return statistics.UNKNOWN
    return statistics.spearman_interval(width, values, width)


def fit_line(width: np.ndarray, change: np.ndarray, resamples: int = 2_000) -> Fit:
    """Fit change = a + b log₂ width by least squares; intervals resample agents inside widths.

    A resampled line that does not fall never reaches zero: infinity.
    """
    x = np.log2(width)

    def line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centred = x - x.mean(axis=-1, keepdims=True)
        slope = (centred * y).sum(axis=-1) / (centred**2).sum(axis=-1)
        level = y.mean(axis=-1) - slope * x.mean(axis=-1)
        with np.errstate(divide="ignore"):
            return slope, np.where(slope < 0, -level / np.where(slope < 0, slope, -1), np.inf)

    chosen = statistics.resampled(width, resamples, np.random.default_rng(0))
    (slope,), (zero,) = line(x[None], change[None])
    slopes, zeros = line(x[chosen], change[chosen])
    low, high = np.quantile(slopes, [0.025, 0.975])
    nearest, farthest = np.quantile(zeros, [0.025, 0.975], method="inverted_cdf")
    return Fit(
        Interval(float(slope), float(low), float(high), len(x)),
        Interval(float(zero), float(nearest), float(farthest), len(x)),
    )


def main_curves(run: Run) -> pd.DataFrame:
    """Return `curves` without the one with exploding values."""
    found = curves(run)
    return pd.DataFrame(found[found.discount == run.config["algorithm"]["discount"]]).reset_index(
        drop=True
    )


NOT_FALLING = 2
"""This many of the paper's 12 curves may fail to fall; one more contradicts the claim."""

CURVES = 12
"""Curves of Fig. 5: three periods, two networks, two data sets."""

FLOOR = 0.05
"""A network whose probe loss is below this, fresh and at the end, is at the probe's floor: it has
nothing that it could be seen to lose."""


def judge_width(run: Run) -> list[Verdict]:
    """Judge width-helps-not-cures: curves fall with width, and some are above zero at the widest.

    The claim's own words are of the final loss, its measure is of the change: both are judged. The
    loss is cured if the interval at the widest network reaches zero in every curve.
    """
    found = main_curves(run)
    names = [f"{row.architecture}, {row.dataset}, period {row.target_period}"
             for row in found.itertuples()]  # fmt: skip

    def falling(part: str, column: str) -> Verdict:
        conditions = (
            Condition(f"Spearman of width and {part} ({name})", value, "<", 0.0)
            for name, value in zip(names, found[column], strict=True)
        )
        limit = NOT_FALLING + 1
        return decide("width-helps-not-cures", *conditions, part=part, of=CURVES, limit=limit)

    def left(name: str, fresh: Interval, change: Interval) -> Condition:
        at_floor = max(fresh.estimate, fresh.estimate + change.estimate) < FLOOR
        empty = "at the probe's floor, fresh and trained" if at_floor else ""
        return Condition(f"change at the widest ({name})", change, ">", 0.0, empty)

    at_widest = list(map(left, names, found.initial, found.widest))
    counting = sum(not condition.empty for condition in at_widest)
    # one curve that stays above zero is enough
    cure = decide(
        "width-helps-not-cures", *at_widest, part="no cure", of=counting, limit=max(counting, 1)
    )
    return [falling("final loss", "final"), falling("change", "spearman"), cure]


CLAIMS: Mapping[str, Judge] = {"width-helps-not-cures": judge_width}
"""Each claim of the ledger that this experiment decides, with its judge."""
