"""The arms, the calibration against the paper's numbers, and the recorded runs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from plasticity import configuration
from plasticity.chapters.measuring_plasticity import EXPERIMENT, judge
from plasticity.chapters.measuring_plasticity.run import CALIBRATION, fresh_arm
from plasticity.chapters.printed import fresh_losses, interventions
from plasticity.chapters.probing import probed_agent
from plasticity.networks.settings import CNN, MLP
from plasticity.runs.results import Run


def test_arms_are_problems_with_and_without_layer_norm_traps_and_fresh_networks() -> None:
    assert list(EXPERIMENT.arms(EXPERIMENT.studies["quick"])) == [
        "random_label", "random_label-layer_norm",
    ]  # fmt: skip
    config = EXPERIMENT.studies["laptop"]
    arms = {name: EXPERIMENT.arm(config, name) for name in EXPERIMENT.arms(config)}
    assert len(arms) == 2 * 3 + 2 + 4 * len(CALIBRATION)
    for name, arm in arms.items():
        assert (probed_agent.chunks(arm) == 1) == name.startswith("fresh")
        if name.startswith("fresh"):  # A.2's networks
            assert arm.network in (MLP(width=512), CNN(channels=64, width=256))


def test_the_paper_prints_four_fresh_losses_for_our_networks() -> None:
    printed = fresh_losses().set_index(["dataset", "architecture"]).loss
    assert printed["cifar10", "cnn"] == 0.16 and printed["cifar10", "mlp"] == 0.40
    assert printed["mnist", "cnn"] == 0.20 and printed["mnist", "mlp"] == 0.25
    assert len(interventions()) == 360


def made_up(offset: dict[str, float]) -> Run:
    """Make up a run whose fresh losses are the paper's plus an offset for each setting."""
    printed = fresh_losses().set_index(["dataset", "architecture"]).loss
    rows = [
        {
            "arm": fresh_arm(dataset, architecture, setting),
            "seed": seed,
            "step": 0,
            "metric": "probe_loss",
            "value": printed[dataset.partition("_")[0], architecture] + away + 0.001 * seed,
        }
        for setting, away in offset.items()
        for dataset in ("mnist_5k", "cifar10_train")
        for architecture in ("mlp", "cnn")
        for seed in (-1, 0, 1)
    ]
    rows += [
        {
            "arm": "a",
            "seed": s,
            "step": t,
            "metric": "probe_loss",
            "value": 0.1 + 0.2 * t + 0.01 * s,
        }
        for s in (0, 1)
        for t in (0, 1)
    ]
    provenance = {"config": configuration.to_dict(EXPERIMENT.studies["laptop"])}
    return Run("measuring_plasticity", "laptop", pd.DataFrame(rows), {}, provenance)


def test_calibration_is_the_distance_to_the_printed_losses() -> None:
    offset = dict(zip(CALIBRATION, (0.1, -0.02, 0.3, 0.2, 0.4), strict=True))
    run = made_up(offset)
    table = judge.calibration(run)
    for setting, rows in table.groupby("setting"):
        np.testing.assert_allclose(rows.difference, offset[str(setting)], atol=1e-9)
    nearest = judge.nearest_setting(run)
    assert list(nearest.index) == sorted(offset, key=lambda name: abs(offset[name]))
    np.testing.assert_allclose(nearest.iloc[0], 0.02, atol=1e-9)


def test_the_change_is_paired_by_seed() -> None:
    change = judge.change(made_up(dict.fromkeys(CALIBRATION, 0.0)), "a")
    np.testing.assert_allclose(change[:3], 0.2)
