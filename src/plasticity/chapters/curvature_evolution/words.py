"""Tables and sentences of the chapter on curvature."""

from __future__ import annotations

import pandas as pd

from plasticity.chapters.report import short
from plasticity.statistics import Interval

ARMS = {"agent": "SGD", "adam": "Adam"}
"""Name of each arm: the optimizer that trains it."""


def process(name: str) -> str:
    """Return how figures and tables name a process, such as ``walk_x10``."""
    plain = {
        "agent": "gradient descent",
        "walk": "random walk",
        "walk_per_tensor": "walk, tensor by tensor",
    }
    return plain.get(name) or f"walk, steps × {name.partition('_x')[2]}"


def walk_table(walks: pd.DataFrame) -> pd.DataFrame:
    """Return `plasticity.chapters.curvature_evolution.judge.walks` in words and intervals."""
    return pd.DataFrame(
        {
            "optimizer": walks.arm.map(ARMS),
            "process": walks.process.map(process),
            "distance moved / norm": walks.distance.map(short),
            "λ₁ after 5 updates / start": walks.after.map(ratio),
            "λ₁ at the end / start": walks.growth.map(ratio),
            "pairs that interfere, end": walks.interference.map(short),
        }
    )


def walk_growth(walks: pd.DataFrame, arm: str = "agent") -> str:
    """Return at which step norms the random walk's λ₁ grows, in a sentence."""
    rows = walks[(walks.arm == arm) & walks.process.str.startswith("walk")]
    rows = rows[rows.process != "walk_per_tensor"]
    said = [
        f"steps {_scale(name)} {_grown(grown)}"
        for name, grown in zip(rows.process, rows.growth, strict=True)
    ]
    agent = walks[(walks.arm == arm) & (walks.process == "agent")].growth.item()
    return (
        f"While λ₁ grew {agent.estimate:.1f} times [{agent.low:.1f}, {agent.high:.1f}] under "
        f"{ARMS[arm]}, the walks' changed by: {'; '.join(said)}."
    )


def _scale(name: str) -> str:
    return "as long as the agent's" if name == "walk" else f"{name.partition('_x')[2]} times"


def _grown(found: Interval) -> str:
    """Return a growth with what its interval says about it."""
    if found.low > 1:
        sign = "grows"
    elif found.high < 1:
        sign = "shrinks"
    else:
        sign = "not clear of 1"
    return f"{ratio(found)}, {sign}"


def ratio(found: Interval) -> str:
    """Write a ratio: with three digits near one, where two would say that nothing has changed."""
    digits = 3 if abs(found.estimate - 1) < 0.01 else 2
    return f"{found.estimate:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def sharpness_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `plasticity.chapters.curvature_evolution.judge.layer_norm` in words and intervals."""
    return pd.DataFrame(
        {
            "problem": rows.variant.str.replace("_", "-"),
            "layer normalisation": rows.layer_norm.map({False: "without", True: "with"}),
            "λ₁ at the start": rows.start.map(_digits),
            "λ₁ at the end": rows.end.map(_digits),
            "growth": rows.growth.map(_digits),
            "task: share of images right": rows.accuracy.map(short),
        }
    )


def _digits(found: Interval) -> str:
    """Return an interval with three digits, or with all digits before the point."""
    estimate, low, high = (
        f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        for value in (found.estimate, found.low, found.high)
    )
    return f"{estimate} [{low}, {high}]"
