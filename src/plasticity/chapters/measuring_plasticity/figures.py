"""Figures of the chapter on measuring plasticity."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd

from plasticity.chapters.report import readable
from plasticity.chapters.style import COLOURS, MARKERS, STYLE, Figure, finish
from plasticity.runs.results import Run


def calibration(run: Run, table: pd.DataFrame, settings: Sequence[str]) -> Figure:
    """Draw the probe losses of fresh networks under each setting, with the paper's.

    ``table`` has columns setting, dataset, architecture, ours (intervals) and printed.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4))
        axes = figure.subplots()
        cells = list(table.groupby(["dataset", "architecture"], sort=False))
        for x, (_, rows) in enumerate(cells):
            printed = rows.printed.iloc[0]
            axes.plot([x - 0.35, x + 0.35], [printed] * 2, "k", linewidth=2, zorder=3)
            for k, setting in enumerate(settings):
                (ours,) = rows[rows.setting == setting].ours
                at = x + 0.5 * (k / max(1, len(settings) - 1) - 0.5)
                axes.plot([at, at], ours[1:3], color=COLOURS[k], linewidth=1.2)
                label = setting if x == 0 else None
                axes.plot(at, ours.estimate, MARKERS[k], color=COLOURS[k], label=label)
        axes.plot([], [], "k", label="printed in the paper")
        names = [f"{readable(str(arch))}\n{readable(str(dataset))}" for (dataset, arch), _ in cells]
        axes.set_xticks(range(len(cells)), names)
        axes.set(ylabel="probe loss of fresh networks", ylim=(0, None))
        figure.legend(loc="outside upper left", ncols=3, fontsize=9)
        return finish(figure, run, images=run.config["calibration_images"])
