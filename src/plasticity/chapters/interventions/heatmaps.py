"""Heat maps of the chapter on interventions, ours next to the paper's (Figs. 6 and 8 to 11).

Callers pass in the experiment's tables: figures know no experiment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from plasticity.chapters.report import readable
from plasticity.chapters.style import COLOURS, GREY, STYLE, Figure, finish
from plasticity.runs.results import Run

INTERVENTIONS: Mapping[str, tuple[str, str]] = {
    "none": (COLOURS[6], "o"),
    "reset_last_layer": (COLOURS[0], "s"),
    "layer_norm": (COLOURS[2], "^"),
    "spectral_norm": (COLOURS[5], "v"),
    "weight_decay": (COLOURS[4], "D"),
    "shrink_and_perturb": (COLOURS[1], "P"),
    "reset_optimizer": (COLOURS[3], "X"),
}
"""Colour and marker of each intervention."""

HEADER = 0.75
"""Height of the line that names an encoding in a heat map, in rows."""

QUANTITIES: Mapping[str, str] = {
    "change": "plasticity lost (probe loss, end − start): darker is worse",
    "initial": "probe loss before training: darker is worse",
    "final": "probe loss at the end: darker is worse",
}
"""What a heat map can show, with the label of its scale."""


def heat_maps(
    run: Run, cells: pd.DataFrame, quantity: str = "change", variant: str = "true_label"
) -> Figure:
    """Draw Figs. 6 and 8 to 11: our cells, the paper's, and the difference, one row per data set.

    ``cells`` is the experiment's table; its rows for ``variant`` are drawn. ``quantity`` is one of
    `QUANTITIES`. Ours are followed by half their interval, the paper's changes by what it prints
    after ±. A difference is bold where the paper's mean lies outside our interval; ``*`` marks
    means without agents that diverged. Raises KeyError for an unknown variant or quantity.
    """
    if quantity not in QUANTITIES:
        raise KeyError(f"no quantity {quantity!r}: it is one of {', '.join(QUANTITIES)}")
    chosen = _rows(cells, variant)
    chosen = chosen.assign(
        ours=[found.estimate for found in chosen[quantity]], theirs=chosen[f"paper_{quantity}"]
    )
    chosen["difference"] = chosen.ours - chosen.theirs
    datasets = list(chosen.dataset.unique())
    colours = {
        "ours": _scale(chosen[["ours", "theirs"]].to_numpy(), "viridis_r"),
        "difference": _scale(chosen.difference.to_numpy(), "RdBu_r", symmetric=True),
    }
    colours["theirs"] = colours["ours"]
    lines = sum(len(named(part)) + HEADER for _, part in chosen.groupby("encoding"))
    height = 0.28 * lines * len(datasets)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(8, height + 0.5 * len(datasets) + 1.1))
        grid = figure.subplots(len(datasets), 3, sharey=True, squeeze=False)
        for row, dataset in zip(grid, datasets, strict=True):
            part = chosen[chosen.dataset == dataset]
            blocks = {
                "ours": (readable(dataset) + ": ours", _ours(part[quantity], part.diverged)),
                "theirs": ("the paper", _theirs(part, quantity)),
                "difference": ("ours − the paper", part.difference.map("{:+z.2f}".format)),
            }
            for axes, (column, (title, words)) in zip(row, blocks.items(), strict=True):
                bold = column == "difference" and pd.Series(
                    [
                        not found.low <= paper <= found.high
                        for found, paper in zip(part[quantity], part.theirs, strict=True)
                    ],
                    part.index,
                )
                _block(axes, part.assign(value=part[column], text=words, bold=bold),
                       colours[column])  # fmt: skip
                axes.set_title(title, pad=8)
        for column, axes, aspect, label in (
            ("ours", grid[:, :2], 38, QUANTITIES[quantity]),
            ("difference", grid[:, 2:], 18, "red: ours is worse"),
        ):
            bar = figure.colorbar(
                colours[column], ax=axes, location="bottom", aspect=aspect,
                fraction=0.15 / height, pad=0.08 / height,
            )  # fmt: skip
            bar.set_label(label, fontsize=8.5)
            bar.ax.tick_params(labelsize=8)
            bar.outline.set_visible(False)
        key = "bold: the paper's mean lies outside of our interval"
        if chosen.diverged.any():
            key += "   *: without agents that diverged"
        figure.suptitle(f"{readable(variant)} reward   {key}", fontsize=8.5, x=0.005, ha="left")
        return finish(figure, run)


def each(table: pd.DataFrame) -> Iterator[Any]:
    """Return the rows with columns as attributes; typed Any, as pandas' own types are too loose."""
    return iter(table.itertuples(index=False))


def named(cells: pd.DataFrame) -> list[str]:
    """Return the interventions of a table in the order of `INTERVENTIONS`.

    Empty for a search, where arms are learning rates. Raises KeyError for an intervention that has
    no colour: a figure would silently leave it out.
    """
    names = set(cells.intervention)
    if all(name.replace(".", "").replace("e-", "").isdigit() for name in names):
        return []
    if unknown := names - INTERVENTIONS.keys():
        raise KeyError(f"no colour for {', '.join(sorted(unknown))}: give it one in INTERVENTIONS")
    return [name for name in INTERVENTIONS if name in names]


def _rows(cells: pd.DataFrame, variant: str) -> pd.DataFrame:
    if variant not in set(cells.variant):
        known = ", ".join(cells.variant.unique())
        raise KeyError(f"no cells of the variant {variant!r}: there are {known}")
    return cells[cells.variant == variant]


def _scale(values: np.ndarray, name: str, symmetric: bool = False) -> ScalarMappable:
    """Return a colour scale that holds all values; a flat one if there are none."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    if symmetric:
        high = max(abs(low), abs(high), 0.01)
        low = -high
    return ScalarMappable(Normalize(low, high), mpl.colormaps[name])


def _ours(found: pd.Series[Any], diverged: pd.Series[int]) -> list[str]:
    words = []
    for interval, gone in zip(found, diverged, strict=True):
        half = interval.high - interval.estimate
        spread = f"\n±{half:.2f}" if np.isfinite(half) else ""
        mark = "*" if gone else ""
        known = np.isfinite(interval.estimate)
        words.append(f"{interval.estimate:z.2f}{mark}{spread}" if known else "diverged")
    return words


def _theirs(part: pd.DataFrame, quantity: str) -> list[str]:
    if quantity != "change":  # the ± that the paper prints belong to the change
        return [f"{mean:z.2f}" for mean in part.theirs]
    return [
        f"{mean:z.2f}\n±{spread:.2f}"
        for mean, spread in zip(part.theirs, part.paper_spread, strict=True)
    ]


def _block(axes: Axes, part: pd.DataFrame, colours: ScalarMappable) -> None:
    """Draw one heat map: one cell per intervention, encoding (lines) and architecture (columns).

    ``part`` has columns value, text and bold besides those that name a cell. An encoding's name
    stands over its lines.
    """
    architectures = list(part.architecture.unique())
    top, ticks = 0.0, {}
    for encoding in part.encoding.unique():
        ticks[top + HEADER / 2 + 0.08] = f"{readable(str(encoding))} output"
        top += HEADER
        rows = part[part.encoding == encoding]
        for name in named(rows):
            ticks[top + 0.5] = readable(name)
            for cell in each(rows[rows.intervention == name]):
                _cell(axes, architectures.index(cell.architecture), top, cell, colours)
            top += 1
    axes.set(xlim=(0, len(architectures)), ylim=(top, 0))
    axes.set_xticks(np.arange(len(architectures)) + 0.5, [readable(a) for a in architectures])
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False, pad=2)
    for label in axes.get_yticklabels():
        if label.get_text().endswith("output"):
            label.set_fontweight("bold")
    axes.spines[:].set_visible(False)


def _cell(axes: Axes, left: float, top: float, cell: Any, colours: ScalarMappable) -> None:
    known = np.isfinite(cell.value)
    colour = colours.to_rgba(cell.value) if known else mpl.colors.to_rgba("#f3f3f3")
    axes.add_patch(Rectangle((left, top), 1, 1, facecolor=colour, edgecolor="white"))
    luminance = float(np.dot(colour[:3], (0.299, 0.587, 0.114)))
    missing = "diverged" if cell.text == "diverged" else "–"
    text = cell.text.replace("-", "−") if known else missing
    axes.text(
        left + 0.5, top + 0.5, text, ha="center", va="center",
        fontsize=7.2, linespacing=1.0, fontweight="bold" if cell.bold and known else "normal",
        color=GREY if not known else "white" if luminance < 0.45 else "black",
    )  # fmt: skip
