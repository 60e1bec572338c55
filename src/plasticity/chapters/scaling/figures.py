"""Figures of the chapter on scaling: plasticity lost against width (Fig. 5), and what width costs.

Callers pass in the experiment's tables: figures know no experiment.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from plasticity.chapters.report import readable
from plasticity.chapters.style import COLOURS, GREY, MARKERS, STYLE, Figure, finish, logarithmic
from plasticity.measure.random_functions import BASELINE
from plasticity.runs.results import Run
from plasticity.statistics import mean_interval

PANEL = ("dataset", "architecture", "discount")
"""What defines a panel; each of its curves is a target period."""

HUGE = 2.0
"""If an agent loses more than this, as networks with exploding values do, the axis is logarithmic
beyond 1, and medians replace means and their intervals."""


def widths(run: Run, agents: pd.DataFrame) -> Figure:
    """Draw Fig. 5: plasticity lost against width, one panel per data set, network and discount.

    ``agents`` has one row per agent: dataset, architecture, discount, target_period, width,
    plasticity_loss and initial_loss; not finite means diverged. Small dots are agents, large ones
    means with their 95 % intervals, joined by lines. A strip below each panel holds fresh networks'
    losses. A network can lose .5 minus that, the panel's dotted line, before it is worse than a
    constant. Where losses explode (`HUGE`) medians are drawn.
    """
    groups = list(agents.groupby(list(PANEL), sort=False))
    periods = sorted(agents.target_period.unique())
    several = agents.discount.nunique() > 1
    columns = min(len(groups), 3 if len(groups) > 4 else 2)
    rows = -(-len(groups) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.5 * rows + 0.7))
        grid = figure.subplots(
            2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": [3, 1] * rows}
        )
        for k, ((dataset, architecture, discount), table) in enumerate(groups):
            axes, below = grid[2 * (k // columns) : 2 * (k // columns) + 2, k % columns]
            explodes = bool(table.plasticity_loss[np.isfinite(table.plasticity_loss)].max() > HUGE)
            for n, period in enumerate(periods):
                curve = table[table.target_period == period]
                if len(curve):
                    shift = 2 ** (0.1 * (n - (len(periods) - 1) / 2))
                    _curve(axes, curve, (COLOURS[n], MARKERS[n]), shift, explodes)
            _ceiling(axes, below, table)
            if explodes:
                axes.set_yscale("symlog", linthresh=1.0)
                axes.set_ylim(bottom=min(-0.1, 1.2 * float(table.plasticity_loss.min())))
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            title = readable(str(dataset), str(architecture))
            title += f" · γ = {discount:g}" if several else ""
            axes.set_title(title + (" · medians" if explodes else ""), fontsize=9)
            unit = "units of a layer" if architecture == "mlp" else "channels"
            below.set_xlabel(f"width: {unit}", fontsize=9)
            for panel in (axes, below):
                _doublings(panel)
                panel.tick_params(labelsize=8)
                if k % columns == 0:
                    panel.set_ylabel(
                        "fresh loss" if panel is below else "plasticity lost", fontsize=9
                    )
            below.set_xlim(axes.get_xlim())
            axes.tick_params(labelbottom=False)
        for panel in grid[-2:, len(groups) - (rows - 1) * columns :].flat:
            panel.set_visible(False)
        diverged = not np.isfinite(agents.plasticity_loss).all()
        _legend(figure, [int(period) for period in periods], diverged)
        return finish(figure, run)


def _curve(
    axes: Axes, curve: pd.DataFrame, look: tuple[str, str], shift: float, explodes: bool
) -> None:
    """Draw agents, intervals and the means (or medians, if it explodes), joined by a line.

    A cross at the top marks a width where agents diverged.
    """
    means, (colour, marker) = {}, look
    for width, lost in curve.groupby("width").plasticity_loss:
        whole = lost[np.isfinite(lost)].to_numpy(float)
        at = float(str(width)) * shift
        if len(whole) < len(lost):
            axes.plot(at, 0.98, "x", color=colour, transform=axes.get_xaxis_transform(),
                      markersize=5, clip_on=False)  # fmt: skip
        if not len(whole):
            continue
        axes.plot(np.full(len(whole), at), whole, ".", color=colour, alpha=0.35, markersize=4)
        found = mean_interval(whole)
        if np.isfinite(found.low) and not explodes:
            axes.plot([at, at], [found.low, found.high], color=colour, linewidth=1.1)
        means[at] = float(np.median(whole)) if explodes else found.estimate
    axes.plot(list(means), list(means.values()), marker, color=colour, linestyle="-", linewidth=1.2)


def _ceiling(axes: Axes, below: Axes, table: pd.DataFrame) -> None:
    """Draw fresh networks' losses in the strip below, and how much more a constant loses above."""
    fresh = table[np.isfinite(table.initial_loss)].groupby("width").initial_loss.mean()
    below.plot(fresh.index, fresh, color=GREY, linewidth=1.2, marker="o", markersize=3)
    below.axhline(BASELINE, color=GREY, linestyle=":", linewidth=1)
    below.set(ylim=(0, 1.15 * max(BASELINE, fresh.max())))
    axes.plot(fresh.index, BASELINE - fresh, color=GREY, linestyle=":", linewidth=1)
    axes.axhline(0, color=GREY, linewidth=0.8)


def _doublings(axes: Axes) -> None:
    """Give the x axis a logarithmic scale with plain numbers at powers of two."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(figure: Figure, periods: list[int], diverged: bool) -> None:
    handles = [
        Line2D([], [], color=COLOURS[n], marker=MARKERS[n], label=_updates(period))
        for n, period in enumerate(periods)
    ]
    handles.append(
        Line2D([], [], color=GREY, linestyle=":", linewidth=1, label="as bad as a constant")
    )
    if diverged:
        handles.append(
            Line2D([], [], color=GREY, marker="x", linestyle="", label="agents that diverged")
        )
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=8.5)


def _updates(period: int) -> str:
    return f"target updated every {'step' if period == 1 else f'{period:,} steps'}"


def width_cost(run: Run | None, table: pd.DataFrame) -> Figure:
    """Draw what width costs: time and memory of an update, one line per architecture.

    ``table`` has columns architecture, width, milliseconds (per update) and mebibytes. Of several
    rows per width the median is drawn. ``run``, if any, is named at the foot.
    """
    panels = {"milliseconds": "Time of an update, ms", "mebibytes": "Memory, MiB"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4))
        for axes, (column, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            for k, (architecture, rows) in enumerate(table.groupby("architecture", sort=False)):
                median = rows.groupby("width")[column].median()
                axes.plot(
                    median.index, median, color=COLOURS[k], marker=MARKERS[k],
                    label=readable(str(architecture)),
                )  # fmt: skip
            _doublings(axes)
            logarithmic(axes)
            axes.set(title=title, xlabel="width: units of a layer, or channels")
        axes.legend(fontsize=9)
        return figure if run is None else finish(figure, run)
