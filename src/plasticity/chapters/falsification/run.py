"""Does a simple statistic of a network explain its plasticity? (Lyle et al., §5, Figs. 3 and 4).

A population of agents is trained in every problem, observation space and architecture, with several
optimizer settings and seeds. A statistic that causes the loss of plasticity has to go with it
everywhere. The paper correlates over all settings pooled; we also correlate within each. The
probe's learning curves say how plasticity is lost: by slower progress or by a higher plateau.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plasticity import configuration
from plasticity.agents.settings import DQN, Optimizer, Problem
from plasticity.chapters.probing import probed_agent
from plasticity.chapters.probing.probed_agent import ALL_IMAGES
from plasticity.networks.settings import CNN, MLP, Network
from plasticity.worlds import classification_mdp, image_files


def optimizer_setting(setting: str) -> Optimizer:
    """Return the optimizer that ``optimizer:learning rate`` stands for.

    Raises `configuration.ConfigError` if it cannot be read.
    """
    name, _, rate = setting.partition(":")
    try:
        return Optimizer(name, float(rate))  # type: ignore[arg-type]
    except ValueError:
        raise configuration.ConfigError(
            f"settings: {setting!r}: write optimizer:learning rate, for example adam:1e-3"
        ) from None


@dataclass(frozen=True)
class Config(probed_agent.Config):
    """Settings of the population; those of one agent are inherited."""

    # the population: every combination of these
    variants: tuple[classification_mdp.Variant, ...] = classification_mdp.VARIANTS
    datasets: tuple[image_files.Dataset, ...] = ("mnist_5k", "cifar10_train")
    networks: tuple[Network, ...] = (MLP(), CNN())
    settings: tuple[str, ...] = ("adam:1e-3", "rmsprop:2.5e-4")  # optimizer:learning rate
    sensitivity: bool = (
        False  # also vary what the paper leaves open, on the first observation space
    )

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        for name in ("variants", "datasets", "networks", "settings"):
            configuration.require(len(getattr(self, name)) > 0, f"{name}: needs at least one")
        for setting in self.settings:
            optimizer_setting(setting)


STUDIES: Mapping[str, Config] = {
    "quick": Config(
        datasets=("mnist_5k",), networks=(MLP(width=64),), problem=Problem(n_images=500),
        algorithm=DQN(target_period=500), probe_every=2_000, probes=2, n_targets=2,
        probe_steps=800, seeds=4,
    ),
    "laptop": Config(
        problem=Problem(n_images=1_000), networks=(MLP(width=64), CNN(channels=16, width=64)),
        probes=3, n_targets=2, seeds=6, sensitivity=True, keep_parameters=True,
    ),
    # Fig. 4's network to 100,000 steps, probed with as many targets as the paper's
    "laptop_fig_4": Config(
        variants=("true_label",), datasets=("cifar10_train",), settings=("adam:1e-3",),
        problem=Problem(n_images=1_000), networks=(CNN(channels=16, width=64),),
        probe_every=10_000, probes=10, seeds=6, first_seed=10,
    ),
    # enough agents within one optimizer setting to see a correlation of one half
    "night_population": Config(
        settings=("adam:1e-3",), problem=Problem(n_images=1_000),
        networks=(MLP(width=64), CNN(channels=16, width=64)), probes=3, n_targets=2, seeds=52,
        first_seed=10,
    ),
    "gpu": Config(problem=Problem(n_images=4_000), probes=20, n_targets=3, seeds=4),
    "paper": Config(
        datasets=("mnist_train", "cifar10_train"), seeds=6, problem=Problem(n_images=ALL_IMAGES)
    ),
}  # fmt: skip
"""The paper trains 128 agents; 12 strata with two settings and six seeds make 144."""

SENSITIVITY: Mapping[str, Mapping[str, Any]] = {
    "discount_0.9": {"algorithm.discount": 0.9},
    "target_period_100": {"algorithm.target_period": 100},
    "target_period_5000": {"algorithm.target_period": 5_000},
    "learning_rate_1e-4": {"optimizer.learning_rate": 1e-4},
    "batch_128": {"algorithm.batch_size": 128},
    "probe_batch_128": {"probe_batch_size": 128},
    "carried_state": {"probe_state": "carried"},
}
"""One change at a time to what the paper leaves open."""


def arms(config: Config) -> dict[str, dict[str, Any]]:
    """Return the changes to ``config`` that define each arm, by name.

    Arms of a stratum are named by `arm_name`. Arms of the sensitivity analysis are named
    ``variant-change``; each makes one change to the first data set, network and setting.
    """
    found: dict[str, dict[str, Any]] = {}
    for network in config.networks:
        for dataset in config.datasets:
            for variant in config.variants:
                for k, setting in enumerate(config.settings):
                    found[arm_name(variant, dataset, network.kind, setting)] = {
                        "problem.variant": variant, "problem.dataset": dataset,
                        "problem.n_images": min(
                            config.problem.n_images, image_files.published(dataset)
                        ),
                        "network": network, "optimizer": optimizer_setting(setting),
                        # the bank has one network per stratum
                        "keep_parameters": config.keep_parameters and k == 0,
                    }  # fmt: skip
    if config.sensitivity:
        for variant in config.variants:
            around: dict[str, Any] = {
                "problem.variant": variant, "problem.dataset": config.datasets[0],
                "network": config.networks[0], "keep_parameters": False,
                "optimizer": optimizer_setting(config.settings[0]),
            }  # fmt: skip
            found |= {
                f"{variant}-{name}": {**around, **change} for name, change in SENSITIVITY.items()
            }
    return found


def arm_name(variant: str, dataset: str, architecture: str, setting: str) -> str:
    """Return the name of an arm of a stratum."""
    return f"{variant}-{dataset}-{architecture}-{setting.replace(':', '_')}"


SWEPT = {
    "variant": "problem.variant", "dataset": "problem.dataset", "architecture": "network.kind",
    "optimizer": "optimizer.name", "learning_rate": "optimizer.learning_rate",
}  # fmt: skip
"""Columns of the table besides arm and seed, with the paths of their fields."""
