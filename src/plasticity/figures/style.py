"""The one style of the book's figures.

Okabe and Ito's colours, which colour-blind readers can tell apart, a marker for each arm beside its
colour, and at the foot of each figure the run that it shows.
"""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as MatplotlibFigure

from plasticity.results import Run


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
"""For series that have no colour of their own, in this order."""


def finish(figure: Figure, run: Run) -> Figure:
    """Write at the figure's foot which run it shows."""
    figure.supxlabel(run.describe(), fontsize=7.5, color=GREY, x=0.995, ha="right")
    return figure
