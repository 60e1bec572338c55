"""Tables of the chapter on scaling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from plasticity.chapters.report import readable, short
from plasticity.runs import origin
from plasticity.statistics import Interval


def width_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Return `plasticity.chapters.scaling.judge.curves` in words, one row per curve of Fig. 5.

    "zero at" is the width at which a straight line through the curve would reach zero. It is an
    extrapolation, and "nowhere" if the line does not fall.
    """
    return pd.DataFrame(
        {
            "network": [
                readable(*names) for names in curves[["dataset", "architecture"]].to_numpy()
            ],
            "target period": curves.target_period.map("{:,}".format),
            "discount": curves.discount.map("{:g}".format),
            "Spearman": [
                short(found) if np.isfinite(found.estimate) else "–" for found in curves.spearman
            ],
            "change at the widest": curves.widest.map(short),
            "change a doubling": [
                f"{found.estimate:+z.3f} [{found.low:+z.3f}, {found.high:+z.3f}]"
                for found in curves.slope
            ],
            "zero at": curves.zero.map(_zero),
            "fresh loss at the widest": curves.initial.map(short),
            "diverged": curves.diverged.map(lambda agents: str(agents) if agents else ""),
        }
    )


def _zero(log2: Interval) -> str:
    """Return the width of ``log2`` with its interval."""
    if not np.isfinite(log2.estimate):
        return f"nowhere (from {_width(log2.low)})" if np.isfinite(log2.low) else "nowhere"
    return f"{_width(log2.estimate)} [{_width(log2.low)}, {_width(log2.high)}]"


def _width(log2: float) -> str:
    """Return 2 to the ``log2``, in words if no network could have that width."""
    if log2 == np.inf:
        return "nowhere"
    return f"{2.0**log2:,.0f}" if log2 < 20 else "over a million"


def width_cost_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return what ``benchmarks/width_cost.py`` recorded in words, a row per network and width.

    Times are medians over the turns, with the shortest and the longest.
    """
    rows = []
    for (architecture, width), turns in table.groupby(["architecture", "width"], sort=False):
        times = turns.milliseconds
        rows.append(
            {
                "network": readable(str(architecture)),
                "width": f"{width:,}",
                "parameters": f"{turns.parameters.iloc[0]:,}",
                "ms an update": f"{times.median():.3g} [{times.min():.3g}, {times.max():.3g}]",
                "memory, MiB": f"{turns.mebibytes.median():,.0f}",
            }
        )
    return pd.DataFrame(rows)


def width_cost_note(machine: dict[str, Any]) -> str:
    """Return where, when and how the cost of widths was measured, in a sentence."""
    device, settings = machine["device"], machine["settings"]
    return (
        f"Measured {machine['finished'][:10]} on one core of {device['kind']}, "
        f"jax {machine['packages']['jax']}, {origin.told(machine)}: "
        f"{settings['turns']} turns of {settings['steps']:,} updates each, compiled before; "
        f"load of the machine when it began: {machine['load_before']:.1f}."
    )
