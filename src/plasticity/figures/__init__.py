"""The book's figures: results in, a matplotlib Figure out.

This package alone imports matplotlib. One module a chapter, one function a figure; `style` holds
what they share.
"""

from plasticity.figures.optimizer_instability import (
    ARMS,
    accuracy_and_dead_units,
    around_the_switch,
    collapse_times,
    save_home_figure,
    spikes,
    two_by_two,
)
from plasticity.figures.style import Figure

__all__ = [
    "ARMS",
    "Figure",
    "accuracy_and_dead_units",
    "around_the_switch",
    "collapse_times",
    "save_home_figure",
    "spikes",
    "two_by_two",
]
