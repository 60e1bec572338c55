"""Tables and sentences of the chapter on Atari games."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from plasticity.chapters.report import readable
from plasticity.statistics import Interval


def improvement_table(improvements: pd.DataFrame) -> pd.DataFrame:
    """Return `judge.improvements` in words, with the paper's bars."""
    return pd.DataFrame(
        {
            "game": improvements.game.map(readable),
            "score without": improvements.without.map(_score),
            "score with": improvements.with_norm.map(_score),
            "improvement": improvements.improvement.map(_percent),
            "the paper's": improvements.paper.map(_percent),
        }
    )


def agent_table(agents: pd.DataFrame) -> pd.DataFrame:
    """Return `judge.agents` in words, one row per agent."""
    return pd.DataFrame(
        {
            "game": agents.game.map(readable),
            "layer normalisation": agents.layer_norm.map({False: "without", True: "with"}),
            "seed": agents.seed,
            "score": agents.score.map("{:,.1f}".format),
            "human-normalised": agents.normalised.map("{:z.2f}".format),
            "learned": agents.learned.map({False: "no", True: "yes"}),
            "mean abs. cosine": agents.collinearity.map("{:.2f}".format),
            "λ₁": agents.sharpness.map("{:.3g}".format),
            "TD loss": agents.td_loss.map("{:.2g}".format),
        }
    )


def games_needed(needed: Mapping[str, int], played: int) -> str:
    """Return how many games would decide Fig. 7's claim, and how many were ``played``.

    ``needed`` comes from `judge.games_needed`.
    """
    said = [f"{games} to see that {what}" for what, games in needed.items()]
    return (
        f"If layer normalisation helped in as many games as in the paper, it would take "
        f"{' and '.join(said)}, four times in five. This run played {played}."
    )


def days_on_device(
    table: pd.DataFrame, machine: Mapping[str, Any], frames: int, agents: int
) -> str:
    """Return how long so many agents would play on the device of a recorded benchmark.

    ``table`` and ``machine`` come from ``benchmarks/atari_device.py``, ``frames`` counts one
    agent's. Measurements are left out.
    """
    medians = table.groupby(["processes", "agents"]).frames_per_second.median()
    days = agents * frames / medians.max() / 86400
    return (
        f"On one {machine['device']['kind']} with {machine['device']['cores']} cores, where agents "
        f"play and learn from {medians.max():,.0f} frames a second in all at best, {agents:,} "
        f"agents of {frames:,} frames would take {days:,.0f} days, measurements left out."
    )


def _score(found: Interval) -> str:
    """Return a mean score with its interval, if there are seeds enough for one to mean anything."""
    if found.n < 3 or not np.isfinite(found.low):
        return f"{found.estimate:,.1f}"
    return f"{found.estimate:,.1f} [{found.low:,.1f}, {found.high:,.1f}]"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %" if np.isfinite(share) else "–"
