"""Figures of the page on the statistics of one network: how far they disagree."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from plasticity.chapters.style import GREY, STYLE, Figure

RANKS: Mapping[str, tuple[str, str, str]] = {
    "stable_rank": ("#0072B2", "o", "stable rank"),
    "effective_rank": ("#D55E00", "s", "effective rank"),
    "approximate_rank": ("#009E73", "^", "approximate rank"),
    "srank": ("#CC79A7", "v", "srank"),
    "feature_rank": ("#E69F00", "D", "feature rank"),
}
"""Colour, marker and name of each rank, by its name in `plasticity.measure.ranks`."""

SHARES: Mapping[str, tuple[str, str, str]] = {
    "accuracy": ("#000000", "o", "accuracy on the labels just learned"),
    "dead_units": ("#D55E00", "s", "dead units"),
    "dormant_ratio": ("#0072B2", "^", "dormant units"),
    "linearised_units": ("#009E73", "v", "linearised units"),
}
"""The same for statistics between 0 and 1."""


def spectra_and_ranks(
    spectra: Mapping[str, np.ndarray],
    ranks: Mapping[str, Mapping[str, float]],
    note: str,
    epsilon: float = 0.01,
) -> Figure:
    """Draw singular values in descending order, one panel per network, with every rank marked.

    ``spectra`` maps a panel's title to σ/√n of the features, shape (values,); ``ranks`` maps the
    same titles to the ranks of `RANKS` and ignores other keys. The dotted line is the threshold
    ``epsilon`` of the feature rank. ``note``, at the figure's foot, says what is shown.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.8))
        panels = np.atleast_1d(figure.subplots(1, len(spectra), sharex=True, sharey=True))
        for axes, (title, values) in zip(panels, spectra.items(), strict=True):
            index = np.arange(1, len(values) + 1)
            axes.plot(index, values, color=GREY, linewidth=1.2)
            for name, (colour, marker, _) in RANKS.items():
                rank = float(ranks[title][name])
                axes.axvline(rank, color=colour, linewidth=0.9)
                axes.plot(rank, np.interp(rank, index, values), marker, color=colour, markersize=7)
            axes.axhline(epsilon, color=GREY, linestyle=":", linewidth=1)
            axes.set(title=title, yscale="log", xlabel="index of the singular value, or rank")
        # Anything smaller than this, relative to the largest, is rounding.
        largest = max(float(np.max(values)) for values in spectra.values())
        floor = float(np.finfo(np.float32).eps) * largest
        panels[0].set(ylabel=r"$\sigma_i\,/\sqrt{n}$", ylim=(floor, 2 * largest))
        _legend(figure, RANKS)
        return _noted(figure, note)


def statistics_over_time(
    steps: np.ndarray, statistics: Mapping[str, np.ndarray], note: str
) -> Figure:
    """Draw the five ranks (left), and accuracy and the shares of units (right), against steps.

    ``statistics`` holds what `RANKS` and `SHARES` name, each shaped like ``steps``; NaN leaves a
    gap. ``note``, at the figure's foot, says what is shown.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.4))
        left, right = figure.subplots(1, 2, sharex=True)
        for axes, styles in ((left, RANKS), (right, SHARES)):
            for name, (colour, marker, _) in styles.items():
                axes.plot(steps, statistics[name], color=colour, marker=marker)
            axes.set_xlabel("optimizer steps")
            _legend(axes, styles)
        left.set(title="Five ranks of one feature matrix", ylim=(0, None))
        right.set(title="Accuracy and shares of units", ylim=(-0.03, 1.03))
        return _noted(figure, note)


def _legend(where: Figure | Axes, styles: Mapping[str, tuple[str, str, str]]) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, label=label)
        for colour, marker, label in styles.values()
    ]
    if isinstance(where, Figure):
        where.legend(handles=handles, loc="outside upper left", ncols=len(styles), fontsize=8)
    else:  # below the axis, so that no curve is hidden
        where.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=8
        )


def _noted(figure: Figure, note: str) -> Figure:
    """Write at the figure's foot what it shows: `style.finish` where there is no recorded run."""
    figure.supxlabel(note, fontsize=7.5, color=GREY, x=0.995, ha="right")
    return figure
