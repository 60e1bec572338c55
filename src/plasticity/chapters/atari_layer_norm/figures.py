"""Figures of the chapter on Atari: bars, learning curves, C_k and spectra (Figs. 7, 19 to 22).

Callers pass in tables from `plasticity.chapters.atari_layer_norm.judge`: figures know no
experiment.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from plasticity.chapters.report import readable
from plasticity.chapters.style import COLOURS, GREY, STYLE, Figure, band, finish
from plasticity.measure import curvature, gradients
from plasticity.runs.results import Run

VARIANTS: Mapping[bool, tuple[str, str, str]] = {
    False: (COLOURS[1], "s", "without layer normalisation"),
    True: (COLOURS[0], "o", "with"),
}
"""Colour, marker and name of the two agents of a game."""

CLUSTERS = 8
"""Clusters in the k-means order of C_k; the paper does not give their number."""

POINTS = 600
"""How many points of a density are drawn."""

FLOOR = 1e-8
"""The smallest density that is drawn."""


def screens(run: Run) -> Figure:
    """Draw what the first seed's agents saw last, one row per arm, in order of time."""
    found = {
        arm: run.arrays[f"screens/{arm}"][0, -1] for arm in run.table.arm.unique()
    }  # (screens, height, width)
    columns = max(map(len, found.values()))
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(8, 1.6 * len(found) + 0.3))
        grid = figure.subplots(len(found), columns, squeeze=False)
        for row, (arm, pictures) in zip(grid, found.items(), strict=True):
            game, layer_norm = _pair(run, arm)
            for axes, picture in zip(row, pictures, strict=True):
                axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
            row[0].set_title(f"{readable(game)}, {VARIANTS[layer_norm][2]}", fontsize=9)
        return finish(figure, run)


def _pair(run: Run, arm: str) -> tuple[str, bool]:
    """Return an arm's game, and whether its network normalises layers."""
    first = run.table[run.table.arm == arm].iloc[0]
    return str(first.game), bool(first.layer_norm)


def improvements(run: Run, ours: pd.DataFrame, bars: pd.DataFrame) -> Figure:
    """Draw Fig. 7: what layer normalisation adds in each game, with the paper's bars next to ours.

    ``ours`` has columns game and improvement (a fraction), ``bars`` game and improvement_percent.
    The axis is linear between -10 and 10 % and logarithmic beyond.
    """
    mine = ours.set_index("game").improvement * 100
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.155 * len(bars) + 1.2))
        axes = figure.subplots()
        rows = np.arange(len(bars))
        axes.barh(rows, bars.improvement_percent, color=GREY, alpha=0.45, label="the paper")
        for row, game in zip(rows, bars.game, strict=True):
            if game in mine.index and np.isfinite(mine[game]):
                axes.plot(mine[game], row, "D", color=COLOURS[0], markersize=6, zorder=3)
        axes.plot([], [], "D", color=COLOURS[0], markersize=6, label="ours")
        axes.set_xscale("symlog", linthresh=10)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} %"))
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(rows, [readable(game) for game in bars.game], fontsize=7.5)
        axes.set_ylim(-1, len(bars))
        axes.set_xlabel("improvement by layer normalisation, human-normalised")
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower right", fontsize=9)
        return finish(figure, run)


def curves(run: Run) -> Figure:
    """Draw the curves of Figs. 19 and 20: score and mean absolute cosine, one column per game."""
    panels = {
        "score": "score in evaluation", "training_score": "score while learning",
        "collinearity": "mean |cosine| of gradients",
    }  # fmt: skip
    games = list(run.table.game.unique())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 7.4))
        grid = figure.subplots(len(panels), len(games), squeeze=False, sharex=True)
        for axes, game in zip(grid[0], games, strict=True):
            axes.set_title(readable(game))
        for row, (metric, title) in zip(grid, panels.items(), strict=True):
            for axes, game in zip(row, games, strict=True):
                for layer_norm, look in VARIANTS.items():
                    rows = run.table[(run.table.game == game) & (run.table.metric == metric)]
                    band(axes, rows[rows.layer_norm == layer_norm], *look)
                # Range of the agents, not of the intervals: with two seeds these can be any width.
                low, high = rows.value.min(), rows.value.max()
                margin = 0.1 * (high - low) or 1.0
                axes.set_ylim(low - margin, high + margin)
                axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
            row[0].set_ylabel(title)
        for axes in grid[-1]:
            axes.set_xlabel("frames")
            axes.set_ylim(0, None)
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=2, fontsize=9)
        return finish(figure, run)


def _thousands(x: float, _: object) -> str:
    if abs(x) >= 1e6:
        return f"{x / 1e6:g} M"
    return f"{x / 1e3:g} k" if x else "0"


def covariances(run: Run, agents: pd.DataFrame, game: str) -> Figure:
    """Draw Fig. 7's C_k of every agent of a game at the end, in k-means order (A.1).

    One column per seed, one row per variant. ``agents`` has columns game, layer_norm, seed and
    score; the score stands above each map.
    """
    mine = agents[agents.game == game]
    seeds = sorted(mine.seed.unique())
    width = 8 / max(3, len(seeds))
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(8, 2 * width + 0.9))
        grid = figure.subplots(2, max(3, len(seeds)), squeeze=False)
        steps = mpl.colormaps["PuOr_r"].resampled(21)  # noise in few colours makes a small file
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[], frame_on=False)
        for row, layer_norm in zip(grid, VARIANTS, strict=True):
            chosen = mine[mine.layer_norm == layer_norm].set_index("seed")
            (arm,) = run.table[
                (run.table.game == game) & (run.table.layer_norm == layer_norm)
            ].arm.unique()
            row[0].set_ylabel(VARIANTS[layer_norm][2])
            for n, (axes, seed) in enumerate(zip(row, seeds, strict=False)):
                cosines = np.asarray(run.arrays[f"cosines/{arm}"][n, -1], np.float32)
                order = gradients.kmeans_order(cosines, min(CLUSTERS, len(cosines)))
                shown = axes.imshow(
                    cosines[np.ix_(order, order)], cmap=steps, vmin=-1, vmax=1,
                    interpolation="nearest",
                )  # fmt: skip
                axes.set_title(f"seed {seed}: score {chosen.score[seed]:.4g}", fontsize=9)
        figure.colorbar(
            shown, ax=grid, location="bottom", shrink=0.5, aspect=40,
            label="cosine of two transitions' gradients",
        )  # fmt: skip
        return finish(figure, run)


def relations(run: Run, agents: pd.DataFrame) -> Figure:
    """Draw two statistics of networks, C_k's mean absolute cosine and λ₁, against their scores.

    One mark per agent, and a line between the two agents of a game and seed. ``agents`` has columns
    game, seed, layer_norm, normalised, collinearity and sharpness. The axis of scores is linear
    between -.1 and .1 and logarithmic beyond; λ₁ is on a logarithmic one.
    """
    panels = {"collinearity": "mean |cosine| of gradients", "sharpness": "λ₁ of the Hessian"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.8))
        row = figure.subplots(1, len(panels), sharex=True)
        for axes, (metric, title) in zip(row, panels.items(), strict=True):
            for _, pair in agents.groupby(["game", "seed"]):
                axes.plot(pair.normalised, pair[metric], color=GREY, alpha=0.4, linewidth=0.7)
            for layer_norm, (colour, marker, name) in VARIANTS.items():
                mine = agents[agents.layer_norm == layer_norm]
                axes.plot(mine.normalised, mine[metric], marker, color=colour, label=name)
            axes.set_xscale("symlog", linthresh=0.1)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.set(title=title, xlabel="human-normalised score")
        row[0].set_ylim(0, None)
        row[1].set_yscale("log")
        handles, names = row[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=2, fontsize=9)
        return finish(figure, run)


def spectra(run: Run, game: str) -> Figure:
    """Draw Figs. 21 and 22: the Hessian's spectrum for each seed at the end, one panel per variant.

    Each spectrum is in units of that agent's largest absolute eigenvalue, so that shapes can be
    compared; the legend gives the unit.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4))
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, (layer_norm, (_, _, name)) in zip(panels, VARIANTS.items(), strict=True):
            rows = run.table[(run.table.game == game) & (run.table.layer_norm == layer_norm)]
            (arm,) = rows.arm.unique()
            for n, seed in enumerate(sorted(rows.seed.unique())):
                _density(axes, run, arm, n, f"seed {seed}", COLOURS[n % len(COLOURS)])
            axes.set(title=name, yscale="log", ylim=(FLOOR, 1e3))
            axes.set_xlabel("eigenvalue / the largest")
            axes.legend(fontsize=8)
        panels[0].set_ylabel("density")
        return finish(figure, run)


def _density(axes: Axes, run: Run, arm: str, at: int, name: str, colour: str) -> None:
    """Draw the density for the seed at place ``at``, at the last measurement."""
    nodes, weights = (run.arrays[f"{part}/{arm}"][at, -1] for part in ("nodes", "weights"))
    unit = float(np.abs(nodes).max())
    grid = jnp.linspace(-1.1, 1.1, POINTS)
    found = curvature.density(
        curvature.Spectrum(jnp.asarray(nodes) / unit, jnp.asarray(weights)), grid, 0.01
    )
    label = rf"{name}: largest {unit:.2g}"
    axes.plot(grid, np.maximum(found.value, FLOOR), color=colour, label=label, linewidth=1.2)
