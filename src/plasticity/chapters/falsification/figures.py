"""Figures of the falsification chapter (Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from plasticity.chapters.report import readable
from plasticity.chapters.style import COLOURS, GREY, MARKERS, STYLE, Figure, finish, logarithmic
from plasticity.runs.results import Run

PANELS: Mapping[str, tuple[str, str]] = {
    "weight_norm": ("dataset", "weight norm"),
    "weight_rank": ("dataset", "weight rank"),
    "dead_units": ("architecture", "share of dead units"),
    "feature_rank": ("variant", "feature rank"),
}
"""The four statistics of Fig. 3, each with what the paper colours it by, and their names."""


def scatter(run: Run, table: pd.DataFrame) -> Figure:
    """Draw Fig. 3: each statistic against plasticity loss, one dot per agent, at its last probe.

    ``table`` has one row per agent with columns plasticity_loss, setting and those of `PANELS`.
    Colours are the paper's groups, markers optimizer settings.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 6.4))
        settings = list(table.setting.unique())
        for axes, (statistic, (group, name)) in zip(
            figure.subplots(2, 2).flat, PANELS.items(), strict=True
        ):
            for k, (value, rows) in enumerate(table.groupby(group, sort=False)):
                for setting, chosen in rows.groupby("setting", sort=False):
                    axes.plot(
                        chosen[statistic], chosen.plasticity_loss,
                        MARKERS[settings.index(str(setting))],
                        color=COLOURS[k], alpha=0.65, markersize=5,
                        label=readable(str(value)) if setting == settings[0] else None,
                    )  # fmt: skip
            axes.axhline(0, color=GREY, linewidth=0.8)
            axes.set(xlabel=name, ylabel="plasticity loss")
            # Above the panel: a legend inside would lie on agents.
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, borderaxespad=0.2,
                columnspacing=1, handletextpad=0.2,
            )  # fmt: skip
        handles = [
            Line2D([], [], color=GREY, marker=MARKERS[k], linestyle="", label=setting)
            for k, setting in enumerate(settings)
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=9)
        return finish(figure, run)


def correlations(run: Run, stability: pd.DataFrame) -> Figure:
    """Draw every stratum's correlation with its interval, pooled over settings and within them.

    ``stability`` is `plasticity.statistics.sign_stability` of one or more statistics over the
    strata variant, dataset, architecture.
    """
    names = list(stability.statistic.unique())
    with mpl.rc_context(STYLE):
        strata = stability[["variant", "dataset", "architecture"]].drop_duplicates()
        labels = [readable(*row) for row in strata.to_numpy()]
        rows = -(-len(names) // 4)
        figure = Figure(figsize=(8, (0.9 + 0.32 * len(labels)) * rows + 0.6))
        columns = -(-len(names) // rows)
        grid = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True))
        for axes, name in zip(grid.ravel(), names, strict=False):
            for k, adjustment in enumerate(("pooled", "within")):
                chosen = stability[
                    (stability.statistic == name) & (stability.adjustment == adjustment)
                ]
                y = np.arange(len(chosen)) + 0.28 * (k - 0.5)
                known = np.isfinite(chosen.spearman.to_numpy())
                for at, low, high in zip(y, chosen.low, chosen.high, strict=True):
                    if np.isfinite(low):
                        axes.plot([low, high], [at, at], color=COLOURS[k], linewidth=1.3)
                clear = ((chosen.low > 0) | (chosen.high < 0)).to_numpy() & known
                for mask, fill in ((clear, COLOURS[k]), (known & ~clear, "white")):
                    axes.plot(
                        chosen.spearman.to_numpy()[mask], y[mask], MARKERS[k],
                        color=COLOURS[k], markerfacecolor=fill,
                    )  # fmt: skip
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.set(title=readable(str(name)), xlim=(-1.05, 1.05))
            axes.tick_params(axis="y", labelsize=8)
        grid.ravel()[0].set_yticks(range(len(labels)), labels)
        grid.ravel()[0].invert_yaxis()
        for axes in grid.ravel()[len(names) :]:
            axes.set_visible(False)
        handles = [
            Line2D([], [], color=COLOURS[k], marker=MARKERS[k], label=label)
            for k, label in enumerate(("pooled over optimizer settings", "within them"))
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize=9)
        return finish(figure, run)


def sharpness_traces(run: Run, panels: Mapping[str, Mapping[str, str]], every: int) -> Figure:
    """Draw λ₁ of the proxy loss as it was logged in training, one panel per stratum.

    ``panels`` maps a title to {arm: name in the legend}, ``every`` is the number of optimizer steps
    between two values. Thin lines are seeds, thick ones geometric means.
    """
    with mpl.rc_context(STYLE):
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(8, 2.2 * rows + 0.7))
        grid = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
        for axes, (title, arms) in zip(grid, panels.items(), strict=False):
            for k, (arm, name) in enumerate(arms.items()):
                trace = run.arrays[f"sharpness_trace/{arm}"][:, 1:]  # none before training
                trace = trace.reshape(len(trace), -1)
                at = every * np.arange(1, trace.shape[1] + 1)
                axes.plot(at, trace.T, color=COLOURS[k], alpha=0.3, linewidth=0.7)
                mean = np.exp(np.log(trace).mean(axis=0))
                axes.plot(at, mean, color=COLOURS[k], marker=MARKERS[k], markersize=3, label=name)
            axes.set_title(title, fontsize=9)
            logarithmic(axes)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(panels) - columns) : len(panels)]:
            axes.set_xlabel("optimizer steps")
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=3, fontsize=9)
        return finish(figure, run)
