"""How fast ours is next to the fastest other library, per kind of work: a chart and its sentences.

The other library is taken at the fastest of all its forms that were measured, so its default counts
only where nothing beats it.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
import speed
from comparisons import AIMS, NAMES, WORKS, Work
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from plasticity.chapters.style import COLOURS, STYLE, Figure


class Compared(NamedTuple):
    """Ours against the fastest peer at a kind of work; the ratios are those of `speed.ratios`."""

    work: Work
    peer: str  # a contender
    ratio: float  # median over rounds of our rate over the peer's
    low: float  # in the worst round
    high: float  # in the best
    aim: float | None  # None: no aim was set against this peer

    @property
    def peer_name(self) -> str:
        """Return who the peer is, without how it was run."""
        return re.split("[:,']", NAMES[self.peer])[0]

    @property
    def title(self) -> str:
        """Return the kind of work as a line of its own begins with it."""
        return self.work.words[0].upper() + self.work.words[1:]

    @property
    def reached(self) -> bool:
        """Return whether there was an aim and the median reaches it."""
        return self.aim is not None and self.ratio >= self.aim


def compared(tables: Iterable[pd.DataFrame]) -> list[Compared]:
    """Return every kind of work at which the benchmarks have measured ours and another library."""
    recorded, found = list(tables), []
    for work in WORKS:
        for table in recorded:
            rows = speed.rows_of(table, work)
            if set(work.peers) & set(rows.contender):
                ratios = speed.ratios(rows, work.table).set_index("contender")
                peers = ratios[ratios.index.isin(work.peers)]
                peer = str(peers.ratio.idxmin())
                bounds = peers.loc[peer, ["ratio", "low", "high"]].tolist()
                found.append(Compared(work, peer, *bounds, _aim(work, peer)))
    return found


def _aim(work: Work, peer: str) -> float | None:
    case = (work.table, work.batch_size, work.network, work.width)
    aims = [
        aim.least
        for aim in AIMS
        if peer in aim.contenders and (aim.table, aim.batch_size, aim.network, aim.width) == case
    ]
    return max(aims, default=None)


def in_words(found: Sequence[Compared]) -> str:
    """Return what the chart shows in three sentences: how often ours is faster, how sure, aims."""
    best, worst = max(found, key=_ratio), min(found, key=_ratio)
    faster = [one for one in found if one.ratio > 1]
    always, never = ([o for o in found if o.low > 1], [o for o in found if o.high < 1])
    unsure = [one.work.words for one in found if one not in always and one not in never]
    aimed = [one for one in found if one.aim is not None]
    missed = [one.work.words for one in aimed if not one.reached]
    return (
        f"Ours is faster than the fastest peer in {len(faster)} of {len(found)} kinds of work; its "
        f"speed ranges from {worst.ratio:.2f} times the peer's ({worst.work.words}, "
        f"{worst.peer_name}) to {best.ratio:.2f} times ({best.work.words}, {best.peer_name}). "
        f"It is faster in every round in {len(always)} of them and slower in every round in "
        f"{len(never)}{f'; rounds disagree about {_listed(unsure)}' if unsure else ''}. "
        f"For {len(aimed)} of them an aim was set before anything was measured; the median reaches "
        f"{len(aimed) - len(missed)} of these aims and misses "
        f"{f'those for {_listed(missed)}' if missed else 'none'}."
    )


def _ratio(one: Compared) -> float:
    return one.ratio


def _listed(words: Sequence[str]) -> str:
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"


# The chart.

WIDTH = 4.2
"""Inches; on a phone's screen its letters are then as large as those of the text around it."""

AHEAD: Any = {"color": COLOURS[0]}
BEHIND: Any = {"facecolor": "white", "edgecolor": COLOURS[1], "hatch": "////"}
"""How a bar is drawn: a hatch too, so that colour is never alone."""

AIM: Any = {
    "color": COLOURS[4], "marker": "D", "markersize": 7, "markeredgecolor": "black",
    "linestyle": "none", "zorder": 3,
}  # fmt: skip
"""How an aim is drawn."""


@dataclass(frozen=True)
class Picture:
    """A figure with an alternative text of its own, where a cell's metadata have room for one."""

    figure: Figure
    alternative: str

    def _repr_png_(self) -> bytes:
        return self.figure._repr_png_()

    def _repr_html_(self) -> str:
        source = base64.b64encode(self._repr_png_()).decode()
        return (
            f'<img src="data:image/png;base64,{source}" alt="{html.escape(self.alternative)}" '
            'style="width: 30rem">'
        )


def chart(found: Sequence[Compared]) -> Picture:
    """Draw one bar per kind of work: median ratio, its range over rounds, and the aim."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.4 * len(found) + 1.2))
        axes = figure.subplots()
        for row, one in enumerate(found):
            _bar(axes, row, one)
        axes.axvline(1, color="black", linewidth=1)
        farthest = max(max(one.high, one.aim or 0) for one in found)
        axes.set(xlim=(0, 1.04 * farthest), ylim=(len(found) - 0.35, -0.75), yticks=[])
        axes.set_xlabel("times as fast as the fastest peer")
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        handles = [
            Patch(**AHEAD, label="ours is faster"),
            Patch(**BEHIND, label="the peer is faster"),
            Line2D([], [], color="black", linewidth=1, label="range over rounds"),
            Line2D([], [], **AIM, label="aim"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize=9)
    return Picture(figure, alternative(found))


def _bar(axes: Axes, row: int, one: Compared) -> None:
    """Draw a bar with its whisker and aim, below a line of text: a phone has no room beside it."""
    axes.barh(row, one.ratio, height=0.36, **(AHEAD if one.ratio > 1 else BEHIND))
    spread = [[one.ratio - one.low], [one.high - one.ratio]]
    axes.errorbar(one.ratio, row, xerr=spread, color="black", linewidth=1, capsize=2.5)
    if one.aim is not None:
        axes.plot(one.aim, row, **AIM)
    look = {
        "fontsize": 9, "va": "bottom", "transform": axes.get_yaxis_transform(), "in_layout": False,
        "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    }  # fmt: skip
    axes.text(0.004, row - 0.25, f"{one.title} · {one.peer_name}", **look)
    axes.text(1, row - 0.25, f"{one.ratio:.2f} ×", ha="right", weight="bold", **look)


def alternative(found: Sequence[Compared]) -> str:
    """Return the chart in words, for whoever cannot see it: every bar with its aim."""
    bars = [
        f"{one.title} against {one.peer_name} {one.ratio:.2f}, "
        f"rounds {one.low:.2f} to {one.high:.2f}, "
        + ("no aim" if one.aim is None else f"aim {one.aim:g}")
        for one in found
    ]
    return (
        f"{len(found)} horizontal bars from zero, with a vertical line at one: the ratio of our "
        f"speed to that of the fastest peer. {'; '.join(bars)}."
    )
