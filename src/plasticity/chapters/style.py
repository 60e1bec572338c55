"""The one style of the book's figures.

Okabe and Ito's colours, which colour-blind readers can tell apart, a marker as well as a colour for
each arm, and at the foot of each figure the run that it shows.
"""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from plasticity.runs.results import Run
from plasticity.statistics import mean_interval


class Figure(MatplotlibFigure):
    """A figure that notebooks display without pyplot, and so without its global state."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.savefig(buffer, format="png")
        return buffer.getvalue()


STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.dpi": 110,
    "savefig.dpi": 180,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
}

GREY = "#6b6b6b"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "v", "D", "P", "X")
"""Markers for series that have no style of their own, in this order."""


def finish(figure: Figure, run: Run, images: int | None = None) -> Figure:
    """Write at the figure's foot which run it shows, of networks that learn from ``images``."""
    figure.supxlabel(run.describe(images), fontsize=7.5, color=GREY, x=0.995, ha="right")
    return figure


def band(
    axes: Axes,
    rows: pd.DataFrame,
    colour: str,
    marker: str,
    name: str,
    *,
    logs: bool = False,
    seeds: bool = True,
) -> None:
    """Draw a thin line per seed, and the mean with its interval where there are two seeds.

    ``rows`` has columns step, seed and value. With ``logs`` the mean is geometric, with an interval
    from the logarithms; without ``seeds`` only mean and interval are drawn.
    """
    wide = rows.pivot(index="step", columns="seed", values="value")
    values = np.log(wide.to_numpy()) if logs else wide.to_numpy()
    back = np.exp if logs else np.asarray
    if seeds:
        axes.plot(wide.index, wide, color=colour, alpha=0.3, linewidth=0.7)
    axes.plot(wide.index, back(values.mean(axis=1)), color=colour, marker=marker, label=name)
    if wide.shape[1] > 1 and np.isfinite(values).all():
        bounds = back(np.array([mean_interval(row)[1:3] for row in values]))
        axes.fill_between(wide.index, *bounds.T, color=colour, alpha=0.15, linewidth=0)


def logarithmic(axes: Axes) -> None:
    """Give the y axis a logarithmic scale whose ticks are plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
