"""The sentences and tables with numbers that the book shows, as Markdown written from runs.

No number of ours is typed into prose: a cell displays what one of these functions returns. Tables
are pandas DataFrames, which a notebook renders; sentences are text. One module a chapter.
"""

from plasticity.report.atari import (
    agent_table,
    days_on_device,
    games_needed,
    improvement_table,
)
from plasticity.report.curvature import ARMS, process, sharpness_table, walk_growth, walk_table
from plasticity.report.general import (
    cost,
    falsifiers,
    in_words,
    judged,
    machine,
    not_run,
    provenance,
    readable,
    run_table,
    scale,
    table,
)
from plasticity.report.interventions import (
    cells_table,
    front_in_words,
    layer_norm_cells,
    power_table,
    probe_loss_table,
    search_table,
)
from plasticity.report.optimizer_instability import (
    lifetimes,
    mechanism,
    steadiest_clock,
    which_constant,
    windows,
)
from plasticity.report.probing import (
    calibration,
    curve_table,
    diverged,
    lost_in_words,
    nearest,
    one_sided,
    plasticity_lost,
    pooling,
    sensitivity_table,
    sign_table,
)
from plasticity.report.scaling import width_cost_note, width_cost_table, width_table

__all__ = [
    "ARMS",
    "agent_table",
    "calibration",
    "cells_table",
    "cost",
    "curve_table",
    "days_on_device",
    "diverged",
    "falsifiers",
    "front_in_words",
    "games_needed",
    "improvement_table",
    "in_words",
    "judged",
    "layer_norm_cells",
    "lifetimes",
    "lost_in_words",
    "machine",
    "mechanism",
    "nearest",
    "not_run",
    "one_sided",
    "plasticity_lost",
    "pooling",
    "power_table",
    "probe_loss_table",
    "process",
    "provenance",
    "readable",
    "run_table",
    "scale",
    "search_table",
    "sensitivity_table",
    "sharpness_table",
    "sign_table",
    "steadiest_clock",
    "table",
    "walk_growth",
    "walk_table",
    "which_constant",
    "width_cost_note",
    "width_cost_table",
    "width_table",
    "windows",
]
