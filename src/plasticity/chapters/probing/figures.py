"""Figures of probes: a network's probe losses over time, and the probes' learning curves."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from plasticity.chapters.style import COLOURS, GREY, MARKERS, STYLE, Figure, band, finish
from plasticity.measure.probe import WINDOW, Result
from plasticity.measure.random_functions import BASELINE
from plasticity.runs.results import Run


def over_training(
    run: Run, arms: Mapping[str, str], metrics: Mapping[str, str] | None = None
) -> Figure:
    """Draw metrics of several arms against optimizer steps; by default probe loss and accuracy.

    ``arms`` maps an arm to its name in the legend, ``metrics`` a metric to its panel's title. Thin
    lines are seeds, thick ones means with their 95 % intervals.
    """
    metrics = metrics or {
        "probe_loss": "Probe loss: higher is less plastic",
        "accuracy": "Task: share of images right",
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6))
        panels = np.atleast_1d(figure.subplots(1, len(metrics)))
        for axes, (metric, title) in zip(panels, metrics.items(), strict=True):
            for k, (arm, name) in enumerate(arms.items()):
                band(axes, run.select(arm=arm, metric=metric), COLOURS[k], MARKERS[k], name)
            axes.set(title=title, xlabel="optimizer steps", ylim=(0, None))
            if metric == "probe_loss":
                _baseline(axes)
                axes.set_ylim(0, max(1.1 * BASELINE, axes.get_ylim()[1]))
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=3, fontsize=9)
        return finish(figure, run)


def _baseline(axes: Axes) -> None:
    axes.axhline(BASELINE, color=GREY, linestyle=":", linewidth=1)
    axes.text(
        0.99, BASELINE, "a constant", transform=axes.get_yaxis_transform(), color=GREY,
        fontsize=8, ha="right", va="bottom",
    )  # fmt: skip


def probe_curves(run: Run, arms: Mapping[str, str], columns: int = 3) -> Figure:
    """Draw the probe's learning curves from each checkpoint, one panel per arm (Fig. 4).

    Lines are means over seeds, bands reach from the smallest to the largest seed; darker is later
    in training. ``arms`` maps an arm to its panel's title.
    """
    with mpl.rc_context(STYLE):
        rows = -(-len(arms) // columns)
        figure = Figure(figsize=(8, 2.6 * rows + 0.6))
        grid = figure.subplots(rows, min(columns, len(arms)), sharex=True, sharey=True)
        panels = np.atleast_1d(grid).ravel()
        for axes, (arm, title) in zip(panels, arms.items(), strict=False):
            curves = run.arrays[f"curve/{arm}"]
            steps = run.select(arm=arm).step.unique()
            at = WINDOW * (np.arange(curves.shape[2]) + 0.5)
            for k, step in enumerate(steps):
                colour = mpl.colormaps["viridis_r"](0.1 + 0.9 * k / max(1, len(steps) - 1))
                seeds = curves[:, k]
                axes.plot(at, seeds.mean(axis=0), color=colour, label=f"step {step:,}")
                axes.fill_between(
                    at, seeds.min(axis=0), seeds.max(axis=0), color=colour, alpha=0.2, linewidth=0
                )
            _baseline(axes)
            axes.set(title=title)
        panels[0].set_ylim(0, _upper(run, arms))
        for axes in panels[len(arms) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(arms) - columns) : len(arms)]:
            axes.set_xlabel("steps of the probe")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside upper left", ncols=min(5, len(names)), fontsize=9
        )
        return finish(figure, run)


def _upper(run: Run, arms: Mapping[str, str]) -> float:
    """Return an upper end that leaves out the first points, where the head is still wrong."""
    tails = [run.arrays[f"curve/{arm}"][..., 2:].max() for arm in arms]
    return float(np.clip(1.1 * np.nanmax(tails), 1.2 * BASELINE, 1.0))


def answers(results: Mapping[str, Result], note: str) -> Figure:
    """Draw several probes' learning curves side by side, one colour per network.

    Thin lines are targets, thick ones their mean; ``note`` stands at the figure's foot.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4))
        axes = figure.subplots()
        for k, (name, result) in enumerate(results.items()):
            at = WINDOW * (np.arange(result.curve.shape[1]) + 0.5)
            axes.plot(at, result.curve.T, color=COLOURS[k], alpha=0.35, linewidth=0.7)
            axes.plot(
                at, result.curve.mean(axis=0), color=COLOURS[k], marker=MARKERS[k],
                markevery=max(1, len(at) // 8), label=name,
            )  # fmt: skip
        _baseline(axes)
        axes.set(xlabel="steps of the probe", ylabel="loss on new targets", ylim=(0, 1))
        axes.legend(fontsize=9)
        figure.supxlabel(note, fontsize=7.5, color=GREY, x=0.995, ha="right")
        return figure
