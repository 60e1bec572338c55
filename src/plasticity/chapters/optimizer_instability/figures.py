"""Figures of the chapter on optimizer instability (Fig. 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from plasticity.agents import optimizers
from plasticity.chapters.style import GREY, STYLE, Figure, finish
from plasticity.runs.results import Run
from plasticity.statistics import mean_interval

ARMS: Mapping[str, tuple[str, str, str]] = {
    "default": ("#D55E00", "o", "default Adam"),
    "b2_only": ("#CC79A7", "v", r"only $\beta_2$ = .9"),
    "eps_root_only": ("#009E73", "^", r"only $\bar\epsilon$ = 10$^{-3}$"),
    "tuned": ("#0072B2", "s", r"tuned: $\beta_2$ = .9 and $\bar\epsilon$ = 10$^{-3}$"),
}
"""Colour, marker and name of each main arm of optimizer_instability."""

SLOWER: Mapping[str, tuple[str, str, str]] = {
    "default_0.0002": ("#E69F00", "D", r"default Adam, rate 2$\cdot$10$^{-4}$"),
    "default_7e-05": ("#000000", "P", r"default Adam, rate 7$\cdot$10$^{-5}$"),
}
"""The same of default Adam at smaller learning rates."""

LOOKS = {**ARMS, **SLOWER}

VARIATIONS: Mapping[str, str] = {
    "width_half": "width ÷ 2",
    "width_double": "width × 2",
    "budget_half": "budget ÷ 2",
    "budget_double": "budget × 2",
    "batch_quarter": "batch ÷ 4",
    "batch_double": "batch × 2",
    "eps_root_tenfold": r"$\bar\epsilon$ × 10",
}
"""Names of the variations around the tuned arm."""


def accuracy_and_dead_units(run: Run, arms: Sequence[str] = ("default", "tuned")) -> Figure:
    """Draw Fig. 1: accuracy at the end of each label period, and dead units, against steps."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4))
        left, right = figure.subplots(1, 2, sharex=True)
        for axes, metric, title in (
            (left, "accuracy", "Accuracy at the end of each label period"),
            (right, "dead_units", "Fraction of dead units"),
        ):
            for arm in arms:
                _seeds_and_mean(axes, run.select(arm=arm, metric=metric), arm)
            axes.set(title=title, ylim=(-0.03, 1.03), xlabel="optimizer steps")
        left.axhline(0.1, color=GREY, linestyle=":", linewidth=1)
        left.text(
            0.01, 0.085, "chance", transform=left.get_yaxis_transform(), color=GREY, fontsize=8,
            va="top",
        )  # fmt: skip
        _legend(figure, arms)
        return finish(figure, run)


def two_by_two(run: Run) -> Figure:
    """Draw accuracy for the four combinations of the two constants, one panel each."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5))
        grid = figure.subplots(2, 2, sharex=True, sharey=True)
        for axes, arm in zip(grid.flat, ARMS, strict=True):
            _seeds_and_mean(axes, run.select(arm=arm, metric="accuracy"), arm)
            axes.axhline(0.1, color=GREY, linestyle=":", linewidth=1)
            axes.set(title=ARMS[arm][2], ylim=(-0.03, 1.03))
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy")
        for axes in grid[1]:
            axes.set_xlabel("optimizer steps")
        return finish(figure, run)


def around_the_switch(run: Run, switch: int = 1, arms: Sequence[str] = tuple(ARMS)) -> Figure:
    """Draw loss, gradient, update and m̂ / √v̂ step by step around one switch of labels.

    ``switch`` counts from 1: the labels change between period ``switch`` and the next. Thin lines
    are seeds, thick ones their median. The last panel adds the closed form of
    `optimizers.ratio_after_jump`.
    """
    panels = {
        "step_loss": "training loss",
        "gradient_norm": "gradient norm",
        "update_norm": "update norm",
        "moment_ratio": r"rms of $\hat m\,/\sqrt{\hat v}$",
    }
    window = run.config["window"]
    steps = np.arange(-window, window)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5.4))
        grid = figure.subplots(2, 2, sharex=True)
        for axes, (metric, title) in zip(grid.flat, panels.items(), strict=True):
            for arm in arms:
                trace = run.arrays[f"{metric}/{arm}"]
                around = np.concatenate(
                    [trace[:, switch - 1, window:], trace[:, switch, :window]], axis=1
                )
                colour = LOOKS[arm][0]
                axes.plot(steps, around.T, color=colour, alpha=0.2, linewidth=0.7)
                middle = np.median(around, axis=0)
                axes.plot(steps, middle, color=colour, linestyle=_line(arm))
            axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
            axes.set(title=title, yscale="log")
        for settings, style in ((optimizers.DEFAULT_ADAM, "-"), (optimizers.TUNED_ADAM, ":")):
            after = np.arange(1, window + 1)
            bound = optimizers.ratio_after_jump(jnp.asarray(after, jnp.float32), settings)
            grid[1, 1].plot(
                after - 1, bound, "k", linestyle=style, linewidth=1,
                label=rf"closed form, $\beta_2$ = {settings.b2:g}",
            )  # fmt: skip
        grid[1, 1].legend(fontsize=7.5, loc="lower right")
        for axes in grid[1]:
            axes.set_xlabel("steps after the labels change")
        _legend(figure, arms)
        return finish(figure, run)


def spikes(run: Run, times: pd.DataFrame, arms: Sequence[str] = tuple(ARMS)) -> Figure:
    """Draw how much updates jump at each switch: the largest after it over the median before.

    A network is drawn until it collapses, which ``times`` says as for `collapse_times`.
    """
    ends = times.set_index(["arm", "seed"]).step
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4))
        left, right = figure.subplots(1, 2, sharex=True)
        for axes, metric, title in (
            (left, "update_spike", "Update norm: largest after / median before"),
            (right, "ratio_peak", r"$\hat m\,/\sqrt{\hat v}$: largest after / median before"),
        ):
            for arm in arms:
                rows = run.select(arm=arm, metric=metric)
                rows = rows[rows.step < rows.seed.map(ends[arm])]
                median = rows.groupby("step").value.median()
                colour, marker, _ = LOOKS[arm]
                axes.plot(rows.step, rows.value, marker, color=colour, alpha=0.25, markersize=3)
                axes.plot(median.index, median, color=colour, linestyle=_line(arm))
            axes.axhline(1, color=GREY, linestyle=":", linewidth=1)
            axes.set(title=title, yscale="log", xlabel="optimizer steps")
        _legend(figure, arms)
        return finish(figure, run)


def collapse_times(run: Run, times: pd.DataFrame) -> Figure:
    """Draw when each arm collapses, counted by three clocks, relative to the tuned arm's median.

    ``times`` has columns arm, seed, collapsed and one per clock, as from the experiment's
    `times_to_collapse`. A triangle is a network that had not collapsed when its run ended.
    """
    clocks = {
        "step": "optimizer steps",
        "switches": "switches of labels",
        "distance": "distance moved",
    }
    names = {arm: name for arm, (_, _, name) in ARMS.items()} | {"tuned": "tuned", **VARIATIONS}
    arms = [arm for arm in names if arm in set(times.arm)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2))
        columns = figure.subplots(1, 3, sharey=True)
        for axes, (clock, title) in zip(columns, clocks.items(), strict=True):
            reference = times[times.arm == "tuned"][clock].median()
            axes.axvline(reference, color=ARMS["tuned"][0], linestyle=":", linewidth=1.2)
            for row, arm in enumerate(arms):
                chosen = times[times.arm == arm]
                colour = LOOKS[arm][0] if arm in LOOKS else "#444444"
                for collapsed, marker in ((True, "o"), (False, ">")):
                    x = chosen[chosen.collapsed == collapsed][clock]
                    axes.plot(x, np.full(len(x), row), marker, color=colour, alpha=0.6)
                axes.plot(chosen[clock].median(), row, "|", color=colour, markersize=16)
            axes.set(title=title, xlim=(0, None))
        columns[0].set_yticks(range(len(arms)), [names[arm] for arm in arms])
        columns[0].invert_yaxis()
        return finish(figure, run)


def save_home_figure(run: Run, path: Path) -> None:
    """Write the README's figure, marked with the hash of the run's table, which a test compares."""
    figure = accuracy_and_dead_units(run, tuple(ARMS))
    source = {"Source": run.provenance["sha256"]["results.csv"]}
    figure.savefig(path, dpi=110, metadata=source)


def _seeds_and_mean(axes: Axes, rows: pd.DataFrame, arm: str) -> None:
    """Draw a thin line for each seed, and the mean with its 95 % interval as a band."""
    colour, marker, _ = LOOKS[arm]
    wide = rows.pivot(index="step", columns="seed", values="value")
    intervals = [mean_interval(values) for values in wide.to_numpy()]
    low, high = [np.clip([i[k] for i in intervals], 0, 1) for k in (1, 2)]
    axes.plot(wide.index, wide, color=colour, alpha=0.3, linewidth=0.7)
    every = max(1, len(wide) // 12)
    axes.plot(
        wide.index, wide.mean(axis=1), color=colour, marker=marker,
        markevery=(list(LOOKS).index(arm) * every // len(LOOKS), every),
        linestyle=_line(arm),
    )  # fmt: skip
    axes.fill_between(wide.index, low, high, color=colour, alpha=0.15, linewidth=0)


def _line(arm: str) -> Literal["-", "--"]:
    """Return how an arm's line is drawn: where tuned and floor alone do the same, both show."""
    return "--" if arm == "tuned" else "-"


def _legend(figure: Figure, arms: Iterable[str]) -> None:
    handles = [
        Line2D(
            [], [], color=LOOKS[arm][0], marker=LOOKS[arm][1], label=LOOKS[arm][2],
            linestyle=_line(arm),
        )
        for arm in arms
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize=9)
