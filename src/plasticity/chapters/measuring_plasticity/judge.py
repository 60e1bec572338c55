"""Evaluates a run of *measuring plasticity*: what agents lost, and the calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from plasticity import configuration, statistics
from plasticity.chapters.measuring_plasticity.run import CALIBRATION, Config, fresh_arm
from plasticity.chapters.printed import fresh_losses
from plasticity.runs.results import Run


def change(run: Run, arm: str) -> statistics.Interval:
    """Return how much the probe loss of ``arm`` rose from before training to the end."""
    losses = run.select(arm=arm, metric="probe_loss").groupby("seed").value
    return statistics.paired_difference(losses.last().to_numpy(), losses.first().to_numpy())


def calibration(run: Run) -> pd.DataFrame:
    """Return the probe losses of fresh networks of the paper's size, with the paper's own.

    One row per setting, data set and architecture: ``setting``, ``dataset``, ``architecture``,
    ``ours`` (an interval over seeds), ``printed`` and their ``difference``.
    """
    printed = fresh_losses().set_index(["dataset", "architecture"]).loss
    rows = []
    for dataset in configuration.from_dict(Config, run.config).calibration_sets:
        for architecture in ("mlp", "cnn"):
            for name in CALIBRATION:
                arm = fresh_arm(dataset, architecture, name)
                ours = statistics.mean_interval(run.select(arm=arm, metric="probe_loss").value)
                theirs = float(printed[dataset.partition("_")[0], architecture])
                rows.append((name, dataset, architecture, ours, theirs, ours.estimate - theirs))
    columns = ["setting", "dataset", "architecture", "ours", "printed", "difference"]
    return pd.DataFrame(rows, columns=columns)


def nearest_setting(run: Run) -> pd.Series:
    """Return each setting's root mean square distance from the paper's four losses, least first."""
    found = calibration(run)
    squares = (found.difference**2).groupby(found.setting, sort=False).mean()
    return (squares**0.5).sort_values()


CLAIMS: Mapping[str, Any] = {}
"""No claim in the ledger is decided here: this chapter builds the instrument for the others."""
