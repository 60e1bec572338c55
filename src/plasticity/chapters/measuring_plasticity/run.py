"""What plasticity is, and how to measure it (Lyle et al. 2023, §2.2, §3.1, A.2).

Agents are probed while they learn: a fresh network fits random targets, a trained one does so
less. Also probed are networks on which a probe tells nothing, and fresh networks of the paper's
size, under several settings, to find the settings that the paper does not state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plasticity.agents.settings import DQN, Optimizer, Problem
from plasticity.chapters.probing import probed_agent
from plasticity.chapters.probing.probed_agent import ALL_IMAGES
from plasticity.networks.settings import CNN, MLP
from plasticity.worlds import classification_mdp, image_files


@dataclass(frozen=True)
class Config(probed_agent.Config):
    """Settings of the agents; those of one agent are inherited."""

    variants: tuple[classification_mdp.Variant, ...] = classification_mdp.VARIANTS
    traps: bool = False  # also agents on which the probe tells nothing
    calibration: bool = False  # also fresh networks of the paper's size, under several settings
    calibration_images: int = 4_660  # the CIFAR-10 records available in development
    calibration_sets: tuple[image_files.Dataset, ...] = ("mnist_5k", "cifar10_train")


STUDIES: Mapping[str, Config] = {
    "quick": Config(
        variants=("random_label",), problem=Problem(n_images=500), network=MLP(width=64),
        algorithm=DQN(target_period=500), probe_every=2_000, probes=2, n_targets=2,
        probe_steps=800, seeds=2,
    ),
    "laptop": Config(
        problem=Problem(n_images=1_000), network=MLP(width=64), probe_every=10_000, probes=5,
        n_targets=2, seeds=5, traps=True, calibration=True,
    ),
    # do fresh losses come nearer to the printed ones with more images?
    "laptop_more_images": Config(
        variants=(), calibration=True, calibration_images=10_000, calibration_sets=("mnist_test",),
        seeds=5, first_seed=10,
    ),
    "gpu": Config(probes=20, n_targets=3, seeds=5, calibration=True),
    "paper": Config(
        problem=Problem(dataset="mnist_train", n_images=ALL_IMAGES), calibration=True,
        calibration_images=50_000, calibration_sets=("mnist_train", "cifar10_train"),
    ),
}  # fmt: skip

TRAPS: Mapping[str, Mapping[str, Any]] = {
    "narrow": {"network.width": 16},
    "sgd": {"optimizer": Optimizer("sgd", 1e-2)},
}
"""A network too small and an optimizer too slow for the probe: even fresh they hardly fit."""

CALIBRATION: Mapping[str, Mapping[str, Any]] = {
    "1e-3, batch 32": {"optimizer.learning_rate": 1e-3, "probe_batch_size": 32},
    "3e-4, batch 32": {"optimizer.learning_rate": 3e-4, "probe_batch_size": 32},
    "1e-4, batch 32": {"optimizer.learning_rate": 1e-4, "probe_batch_size": 32},
    "1e-3, batch 128": {"optimizer.learning_rate": 1e-3, "probe_batch_size": 128},
    "3e-4, batch 32, 1165 images": {
        "optimizer.learning_rate": 3e-4,
        "probe_batch_size": 32,
        "problem.n_images": 1_165,
    },
}
"""Adam's learning rate, the probe's minibatch and the number of images: the paper states none.

The last has a quarter of the others' images, to see in which direction their number matters.
"""

PAPER_SIZE = (MLP(), CNN())
"""A.2's networks."""


def fresh_arm(dataset: str, architecture: str, setting: str) -> str:
    """Return the name of the arm that probes fresh networks under a setting of `CALIBRATION`."""
    return f"fresh-{dataset}-{architecture}-{setting.replace(', ', '-').replace(' ', '_')}"


def arms(config: Config) -> dict[str, dict[str, Any]]:
    """Return the changes to ``config`` that define each arm, by name."""
    found: dict[str, dict[str, Any]] = {}
    for variant in config.variants:
        found[variant] = {"problem.variant": variant}
        found[f"{variant}-layer_norm"] = found[variant] | {"network.layer_norm": True}
    if config.traps:
        first = {"problem.variant": config.variants[0]}
        found |= {name: first | dict(changes) for name, changes in TRAPS.items()}
    if config.calibration:
        fresh = {"probes": 0, "problem.n_images": config.calibration_images, "n_targets": 1}
        for dataset in config.calibration_sets:
            for network in PAPER_SIZE:
                for name, changes in CALIBRATION.items():
                    found[fresh_arm(dataset, network.kind, name)] = {
                        **fresh, "problem.dataset": dataset, "network": network, **changes,
                    }  # fmt: skip
    return found


SWEPT = {
    "variant": "problem.variant", "dataset": "problem.dataset", "architecture": "network.kind",
    "layer_norm": "network.layer_norm", "learning_rate": "optimizer.learning_rate",
    "probe_batch_size": "probe_batch_size",
}  # fmt: skip
"""Columns of the table besides arm and seed, with the paths of their fields."""
