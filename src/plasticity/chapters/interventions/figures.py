"""Figures of the chapter on interventions: what keeps plasticity, and at what price for the task.

Figures after the paper's Figs. 10 to 16, and a scatter that the paper lacks. Callers pass in the
experiment's tables: figures know no experiment. Heat maps are in
`plasticity.chapters.interventions.heatmaps`, Figs. 17 and 18 in
`plasticity.chapters.probing.figures.probe_curves`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from plasticity.chapters.interventions.heatmaps import INTERVENTIONS, each, named
from plasticity.chapters.report import readable
from plasticity.chapters.style import COLOURS, GREY, STYLE, Figure, band, finish, logarithmic
from plasticity.measure.random_functions import BASELINE
from plasticity.runs.results import Run
from plasticity.statistics import Interval


def levels(run: Run, cells: pd.DataFrame) -> Figure:
    """Draw Figs. 10 and 11: probe losses before training and at the end, joined by a line.

    Panels are architectures (columns) and data sets with encodings (rows). In a panel each
    intervention has one line per variant in ``cells`` and one from the paper, which names no
    reward. Pale bars are intervals. A constant has a loss of .5.
    """
    variants = [str(variant) for variant in cells.variant.unique()]
    lanes = len(variants) + 1
    architectures = list(cells.architecture.unique())
    rows = list(cells.groupby(["dataset", "encoding"], sort=False))
    names = named(cells) or sorted(set(cells.intervention), key=float)  # a search's rates
    with mpl.rc_context(STYLE):
        height = (0.1 * lanes + 0.06) * len(names) + 0.45
        figure = Figure(figsize=(8, height * len(rows) + 0.8))
        grid = figure.subplots(
            len(rows), len(architectures), sharex=True, sharey=True, squeeze=False
        )
        for panels, ((dataset, encoding), table) in zip(grid, rows, strict=True):
            for axes, architecture in zip(panels, architectures, strict=True):
                for cell in each(table[table.architecture == architecture]):
                    row, lane = names.index(str(cell.intervention)), variants.index(cell.variant)
                    ours = cell.initial, cell.final
                    _dumbbell(axes, row + _offset(lane, lanes), ours, COLOURS[lane])
                    theirs = cell.paper_initial, cell.paper_final
                    _printed(axes, row + _offset(lanes - 1, lanes), theirs)
                axes.axvline(BASELINE, color=GREY, linestyle=":", linewidth=1)
                title = f"{readable(str(dataset), architecture)}\n{readable(str(encoding))} output"
                axes.set_title(title, fontsize=8.5)
                axes.tick_params(axis="y", length=0)
                axes.tick_params(labelsize=8)
                axes.grid(axis="y", visible=False)
        for edge in np.arange(1, len(names), 2):
            for axes in grid.flat:
                axes.axhspan(edge - 0.5, edge + 0.5, color="#f5f5f5", linewidth=0, zorder=0)
        grid[0, 0].set_yticks(range(len(names)), [readable(name) for name in names])
        drawn = [cells[name].map(lambda found: found.estimate) for name in ("initial", "final")]
        drawn += [cells.paper_initial, cells.paper_final]
        right = 1.08 * max(float(column.max()) for column in drawn)  # a wide interval may be cut
        grid[0, 0].set(ylim=(len(names) - 0.5, -0.5), xlim=(0, max(right, 1.1 * BASELINE)))
        for axes in grid[-1]:
            axes.set_xlabel("probe loss", fontsize=9)
        handles = [
            Line2D([], [], color=COLOURS[k], marker="o", label=readable(variant))
            for k, variant in enumerate(variants)
        ]
        handles += [
            Line2D([], [], color="black", marker="o", markerfacecolor="white", linewidth=0.8,
                   label="the paper"),
            Line2D([], [], color=GREY, marker="|", linestyle="", label="before training"),
            Line2D([], [], color=GREY, marker="o", linestyle="", label="at the end"),
            Line2D([], [], color=GREY, linestyle=":", linewidth=1, label="a constant"),
        ]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper left", ncols=6, fontsize=8.5,
                      columnspacing=1.3)  # fmt: skip
        return finish(figure, run)


def _offset(lane: int, lanes: int) -> float:
    """Return where a lane lies in a row of height 1, seen from the row's middle."""
    return 0.76 * ((lane + 0.5) / lanes - 0.5)


def _dumbbell(axes: Axes, at: float, ends: tuple[Interval, Interval], colour: str) -> None:
    for end in ends:
        if np.isfinite(end.low) and np.isfinite(end.high):
            axes.plot([end.low, end.high], [at, at], color=colour, alpha=0.25, linewidth=4,
                      solid_capstyle="butt")  # fmt: skip
    first, last = (end.estimate for end in ends)
    axes.plot([first, last], [at, at], color=colour, linewidth=1.2)
    axes.plot(first, at, "|", color=colour, markersize=6, markeredgewidth=1.3)
    axes.plot(last, at, "o", color=colour, markersize=4)


def _printed(axes: Axes, at: float, ends: tuple[float, float]) -> None:
    axes.plot(ends, [at, at], color="black", linewidth=0.8)
    axes.plot(ends[0], at, "|", color="black", markersize=6)
    axes.plot(ends[1], at, "o", color="black", markersize=4, markerfacecolor="white")


METRICS: Mapping[str, str] = {
    "accuracy": "share of images right",
    "td_loss": "TD loss, mean",
    "td_loss_max": "TD loss, largest",
    "probe_loss": "probe loss",
    "sharpness": "λ₁ of the proxy loss",
}
"""How an axis names a metric."""

LOGARITHMIC = ("td_loss", "td_loss_max", "sharpness")
"""Metrics on a logarithmic axis, with geometric means."""


def task_curves(run: Run, metric: str = "accuracy", dataset: str | None = None) -> Figure:
    """Draw Figs. 12, 13, 15 and 16: a metric over training, one colour per intervention.

    Panels are architectures (rows) and variants with encodings (columns), on one data set: the
    run's first if none is named. Lines are means over seeds with their 95 % intervals. Agents for
    which the metric is not finite are left out, and their number stands in the panel.
    """
    dataset = dataset or str(run.table.dataset.iloc[0])
    table = run.select(dataset=dataset, metric=metric)
    columns = list(table[["variant", "encoding"]].drop_duplicates().sort_values(
        ["variant", "encoding"], ascending=[False, True]).itertuples(index=False))  # fmt: skip
    architectures = list(run.select(dataset=dataset).architecture.unique())
    with mpl.rc_context(STYLE | {"lines.linewidth": 1.3, "lines.markersize": 3.5}):
        figure = Figure(figsize=(8, 1.85 * len(architectures) + 1.1))
        grid = figure.subplots(
            len(architectures), len(columns), sharex=True, sharey="row", squeeze=False
        )
        for panels, architecture in zip(grid, architectures, strict=True):
            for axes, (variant, encoding) in zip(panels, columns, strict=True):
                _task_panel(axes, table[(table.architecture == architecture)
                                        & (table.variant == variant)
                                        & (table.encoding == encoding)], metric)  # fmt: skip
                axes.set_title(
                    f"{readable(architecture, variant)}\n{readable(encoding)} output", fontsize=8.5
                )
                axes.tick_params(labelsize=8)
                axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            panels[0].set_ylabel(METRICS.get(metric, readable(metric)), fontsize=9)
            if metric in LOGARITHMIC:
                values = table[table.architecture == architecture].value
                _decades(panels[0], values[np.isfinite(values)])
        for axes in grid[-1]:
            axes.set_xlabel("optimizer steps", fontsize=9)
        _legend(figure, named(table))
        return finish(figure, run)


def _task_panel(axes: Axes, table: pd.DataFrame, metric: str) -> None:
    started = table[table.step > 0] if table[table.step == 0].value.isna().all() else table
    lost = 0
    for name in named(started):
        rows = started[started.intervention == name]
        finite = rows.value.map(np.isfinite).groupby(rows.seed).transform("all")
        lost += rows[~finite].seed.nunique()
        if finite.any():
            band(axes, rows[finite], *INTERVENTIONS[name], name, logs=metric in LOGARITHMIC,
                 seeds=False)  # fmt: skip
    if lost:
        axes.text(0.98, 0.02, f"{lost} diverged", transform=axes.transAxes, fontsize=7.5,
                  color=GREY, ha="right")  # fmt: skip


def _decades(axes: Axes, values: pd.Series[float]) -> None:
    """Give a row of panels a logarithmic axis that holds every seed; a wide interval may be cut."""
    low, high = (values.min() / 1.5, values.max() * 1.5) if len(values) else (0.1, 1.0)
    axes.set_ylim(low, high)
    logarithmic(axes)
    if high / low > 1e3:  # more ticks than there is room for: matplotlib would draw none
        axes.yaxis.set_major_locator(LogLocator())


def _legend(figure: Figure, names: Iterable[str], *more: Line2D) -> None:
    handles = [
        Line2D([], [], color=INTERVENTIONS[name][0], marker=INTERVENTIONS[name][1],
               label=readable(name))
        for name in names
    ]  # fmt: skip
    figure.legend(
        handles=[*handles, *more], loc="outside upper left", ncols=5 if more else 4, fontsize=8.5,
        handlelength=1.6, columnspacing=1.3,
    )  # fmt: skip


Front = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(good, bad) → which points no other beats, like `contrasts.pareto`."""


def kept_against_task(run: Run, cells: pd.DataFrame, front: Front) -> Figure:
    """Draw what the paper does not: the plasticity left against success at the task.

    A point is an intervention under one encoding: accuracy at the end, and final probe loss on an
    inverted axis, so that up and right is better. Crosses are intervals; the line joins the front,
    the points that ``front`` says no other beats. Panels are architectures (columns) and data sets
    with variants (rows).
    """
    architectures = list(cells.architecture.unique())
    rows = list(cells.groupby(["dataset", "variant"], sort=False))
    columns = len(architectures)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, (2.1 if columns > 2 else 3.0) * len(rows) + 1.0))
        grid = figure.subplots(len(rows), columns, sharey="row", squeeze=False)
        for panels, ((dataset, variant), table) in zip(grid, rows, strict=True):
            for axes, architecture in zip(panels, architectures, strict=True):
                _trade(axes, table[table.architecture == architecture], front)
                tasks = table[table.architecture == architecture].accuracy
                axes.set_xlim(*_range(tasks, most=1.0))
                title = readable(architecture, str(dataset), str(variant))
                axes.set_title(
                    title if columns < 3 else title.replace(" · ", "\n", 1), fontsize=8.5
                )
                axes.tick_params(labelsize=8)
            panels[0].set_ylim(*reversed(_range(table.final)))
            panels[0].set_ylabel("probe loss at the end\n(up: more plastic)", fontsize=8.5)
        for axes in grid[-1]:
            axes.set_xlabel("share of images right", fontsize=9)
        _legend(
            figure, named(cells),
            *(
                Line2D([], [], color=GREY, marker="o", markerfacecolor=fill, linestyle="",
                       label=f"{readable(encoding)} output")
                for encoding, fill in FILLS.items() if encoding in set(cells.encoding)
            ),
            Line2D([], [], linewidth=5, label="best trade-offs", **PALE),
        )  # fmt: skip
        return finish(figure, run)


def _range(found: Iterable[Interval], most: float = np.inf) -> tuple[float, float]:
    """Return the ends of an axis that holds all estimates, and intervals that are not too wide.

    The quantity lies between 0 and ``most``; a margin is added.
    """
    known = np.array([interval[:3] for interval in found if np.isfinite(interval.estimate)])
    if not known.size:
        return 0.0, 1.0
    estimates, low, high = known.T
    room = max(0.5 * float(np.ptp(estimates)), 0.01)
    bottom = max(float(low.min()), float(estimates.min()) - room, 0.0)
    top = min(float(high.max()), float(estimates.max()) + room, most)
    margin = 0.04 * (top - bottom)
    return bottom - margin, top + margin


PALE: Mapping[str, Any] = {"color": GREY, "alpha": 0.3, "solid_capstyle": "round"}

FILLS: Mapping[str, str] = {"regression": GREY, "two_hot": "white"}
"""Filled markers are regression outputs, hollow ones two-hot."""


def _trade(axes: Axes, table: pd.DataFrame, front: Front) -> None:
    known = [np.isfinite(i.estimate) and np.isfinite(j.estimate)
             for i, j in zip(table.accuracy, table.final, strict=True)]  # fmt: skip
    table = table[known]
    if not named(table):  # a search has no interventions to tell apart
        return
    for cell in each(table):
        colour, marker = INTERVENTIONS[str(cell.intervention)]
        task, loss = cell.accuracy, cell.final
        if np.isfinite(task.low) and np.isfinite(loss.low):
            axes.plot([task.low, task.high], [loss.estimate] * 2, color=colour, linewidth=0.7)
            axes.plot([task.estimate] * 2, [loss.low, loss.high], color=colour, linewidth=0.7)
        axes.plot(
            task.estimate, loss.estimate, marker, color=colour, markersize=6,
            markerfacecolor=colour if cell.encoding == "regression" else "white", zorder=3,
        )  # fmt: skip
    good = np.array([found.estimate for found in table.accuracy])
    bad = np.array([found.estimate for found in table.final])
    best = front(good, bad)
    order = np.argsort(good[best])
    axes.plot(good[best][order], bad[best][order], linewidth=5, zorder=1, **PALE)
