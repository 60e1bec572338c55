"""No simple statistic of a network explains its plasticity (Lyle et al. 2023, §5, Figs. 3 and 4).

A population of agents is trained in every problem, observation space and architecture, with several
optimizer settings and seeds. A statistic that causes the loss of plasticity has to go with it
everywhere. The paper correlates over all settings pooled; here also within each of them. And the
learning curves of the probe say how plasticity is lost: by slower progress, or by a higher plateau.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plasticity import configuration
from plasticity.agents import mdp_agent, optimizers
from plasticity.chapters.probing import probed_agent
from plasticity.worlds import classification_mdp, image_files


def optimizer_setting(setting: str) -> dict[str, Any]:
    """Return the fields that ``optimizer:learning rate`` sets.

    Raises `configuration.ConfigError` if it cannot be read.
    """
    name, _, rate = setting.partition(":")
    try:
        learning_rate = float(rate)
        optimizers.of_name(name, learning_rate)  # type: ignore[arg-type]
    except ValueError:
        raise configuration.ConfigError(
            f"settings: {setting!r}: write optimizer:learning rate, for example adam:1e-3"
        ) from None
    return {"optimizer": name, "learning_rate": learning_rate}


@dataclass(frozen=True)
class Config(probed_agent.Config):
    """Settings of the population; those of one agent are inherited."""

    # what the population spans: every combination
    variants: tuple[classification_mdp.Variant, ...] = classification_mdp.VARIANTS
    datasets: tuple[image_files.Dataset, ...] = ("mnist_5k", "cifar10_train")
    architectures: tuple[mdp_agent.Architecture, ...] = ("mlp", "cnn")
    settings: tuple[str, ...] = ("adam:1e-3", "rmsprop:2.5e-4")  # optimizer:learning rate
    sensitivity: bool = (
        False  # also vary what the paper leaves open, on the first observation space
    )

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        for name in ("variants", "datasets", "architectures", "settings"):
            configuration.require(len(getattr(self, name)) > 0, f"{name}: needs at least one")
        for setting in self.settings:
            optimizer_setting(setting)


STUDIES: Mapping[str, Config] = {
    "quick": Config(
        datasets=("mnist_5k",), architectures=("mlp",), n_images=500, mlp_width=64,
        target_period=500, probe_every=2_000, probes=2, n_targets=2, probe_steps=800, seeds=4,
    ),
    "laptop": Config(
        n_images=1_000, mlp_width=64, channels=16, cnn_width=64, probes=3, n_targets=2, seeds=6,
        sensitivity=True, keep_parameters=True,
    ),
    "gpu": Config(n_images=4_000, probes=20, n_targets=3, seeds=4),
    "paper": Config(datasets=("mnist_train", "cifar10_train"), seeds=6),
}  # fmt: skip
"""The paper trains 128 agents; 12 strata of two settings and six seeds are 144."""

SENSITIVITY: Mapping[str, Mapping[str, Any]] = {
    "discount_0.9": {"discount": 0.9},
    "target_period_100": {"target_period": 100},
    "target_period_5000": {"target_period": 5_000},
    "learning_rate_1e-4": {"learning_rate": 1e-4},
    "batch_128": {"batch_size": 128},
    "probe_batch_128": {"probe_batch_size": 128},
    "carried_state": {"probe_state": "carried"},
}
"""One change at a time to what the paper leaves open."""


def arms(config: Config) -> dict[str, dict[str, Any]]:
    """Return the changes to ``config`` that define each arm, by name.

    A stratum's arms are named ``variant/dataset/architecture/setting`` with dashes; those of the
    sensitivity analysis ``variant-change``, around the first data set, architecture and setting.
    """
    found: dict[str, dict[str, Any]] = {}
    for architecture in config.architectures:
        for dataset in config.datasets:
            for variant in config.variants:
                base: dict[str, Any] = {
                    "variant": variant,
                    "dataset": dataset,
                    "architecture": architecture,
                }
                for k, setting in enumerate(config.settings):
                    found[f"{variant}-{dataset}-{architecture}-{setting.replace(':', '_')}"] = (
                        base
                        | optimizer_setting(setting)
                        # the bank has one network a stratum
                        | {"keep_parameters": config.keep_parameters and k == 0}
                    )
    if config.sensitivity:
        for variant in config.variants:
            around: dict[str, Any] = {
                "variant": variant, "dataset": config.datasets[0],
                "architecture": config.architectures[0], "keep_parameters": False,
                **optimizer_setting(config.settings[0]),
            }  # fmt: skip
            found |= {
                f"{variant}-{name}": {**around, **change} for name, change in SENSITIVITY.items()
            }
    return found


SWEPT = ("variant", "dataset", "architecture", "optimizer", "learning_rate")
"""Columns of the table beside arm and seed."""
