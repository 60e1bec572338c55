"""The book's figures: results in, a matplotlib Figure out.

This package alone imports matplotlib. One module a chapter, one function a figure; `style` holds
what they share.
"""

from plasticity.figures import atari
from plasticity.figures.curvature import (
    against_distance,
    covariance_maps,
    layer_norm,
    sharpness,
    spectra,
    spectra_film,
    spectral_density,
)
from plasticity.figures.falsification import correlations, scatter, sharpness_traces
from plasticity.figures.heatmaps import heat_maps
from plasticity.figures.interventions import kept_against_task, levels, task_curves
from plasticity.figures.network_statistics import spectra_and_ranks, statistics_over_time
from plasticity.figures.optimizer_instability import (
    ARMS,
    accuracy_and_dead_units,
    around_the_switch,
    collapse_times,
    save_home_figure,
    spikes,
    two_by_two,
)
from plasticity.figures.probing import answers, calibration, over_training, probe_curves
from plasticity.figures.scaling import width_cost, widths
from plasticity.figures.style import Figure

__all__ = [
    "ARMS",
    "Figure",
    "accuracy_and_dead_units",
    "against_distance",
    "answers",
    "around_the_switch",
    "atari",
    "calibration",
    "collapse_times",
    "correlations",
    "covariance_maps",
    "heat_maps",
    "kept_against_task",
    "layer_norm",
    "levels",
    "over_training",
    "probe_curves",
    "save_home_figure",
    "scatter",
    "sharpness",
    "sharpness_traces",
    "spectra",
    "spectra_and_ranks",
    "spectra_film",
    "spectral_density",
    "spikes",
    "statistics_over_time",
    "task_curves",
    "two_by_two",
    "width_cost",
    "widths",
]
