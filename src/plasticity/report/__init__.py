"""The sentences and tables with numbers that the book shows, as Markdown written from runs.

No number of ours is typed into prose: a cell displays what one of these functions returns. Tables
are pandas DataFrames, which a notebook renders; sentences are text. One module a chapter.
"""

from plasticity.report.general import (
    cost,
    falsifiers,
    in_words,
    judged,
    machine,
    provenance,
    run_table,
    scale,
    table,
)
from plasticity.report.optimizer_instability import (
    lifetimes,
    mechanism,
    steadiest_clock,
    which_constant,
    windows,
)

__all__ = [
    "cost",
    "falsifiers",
    "in_words",
    "judged",
    "lifetimes",
    "machine",
    "mechanism",
    "provenance",
    "run_table",
    "scale",
    "steadiest_clock",
    "table",
    "which_constant",
    "windows",
]
