"""What preserves plasticity? Interventions on network and optimizer (§6.2, B.1; Figs. 6, 8 to 18).

Every intervention of the paper, under both outputs, on the agents of the other chapters. An agent
is probed just before its next event, so that what is measured is a network that was trained and not
one that was reset a moment ago; how it does its task stands beside what plasticity it kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from plasticity import configuration
from plasticity.agents import mdp_agent
from plasticity.chapters.probing import probed_agent
from plasticity.worlds import classification_mdp, image_files

INTERVENTIONS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "reset_last_layer": {"event": "reset_last_layer"},
    "layer_norm": {"layer_norm": True},
    "spectral_norm": {"spectral_norm": True},
    "weight_decay": {"weight_decay": 1e-5},
    "shrink_and_perturb": {"event": "shrink_and_perturb"},
    "reset_optimizer": {"event": "reset_optimizer"},
}
"""What each intervention of §6.2 and B.1 changes of an agent; the two-hot output is an encoding."""


@dataclass(frozen=True)
class Config(probed_agent.Config):
    """Settings of the grid; those of one agent are inherited."""

    # the grid: every combination
    variants: tuple[classification_mdp.Variant, ...] = ("true_label", "random_label")
    datasets: tuple[image_files.Dataset, ...] = ("mnist_5k", "cifar10_train")
    architectures: tuple[mdp_agent.Architecture, ...] = ("mlp", "cnn", "resnet", "vit")
    encodings: tuple[mdp_agent.Encoding, ...] = ("regression", "two_hot")
    interventions: tuple[str, ...] = tuple(INTERVENTIONS)
    # "significantly different optimizer hyperparameters from the regression parameterization"
    two_hot_learning_rate: float = 1e-3  # not in the paper
    # which of `INTERVENTIONS` an arm has; they are what changes the agent, and this names it
    intervention: str = "none"
    # instead of the grid: agents without intervention under these learning rates, both outputs
    search: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        configuration.require_positive(self, "two_hot_learning_rate")
        for name in ("variants", "datasets", "architectures", "encodings", "interventions"):
            configuration.require(len(getattr(self, name)) > 0, f"{name}: needs at least one")
        for name in self.interventions:
            configuration.require(
                name in INTERVENTIONS,
                f"interventions: {name!r} is none of {', '.join(INTERVENTIONS)}",
            )
        configuration.require(
            all(rate > 0 for rate in self.search),
            f"search = {self.search}: learning rates must be above 0",
        )


LAPTOP = Config(
    datasets=("mnist_5k",), architectures=("mlp", "cnn"), n_images=1_000, mlp_width=64,
    channels=16, cnn_width=64, probes=4, n_targets=2, bins=51, value_low=-25.0,
    value_high=25.0, seeds=5,
)  # fmt: skip

STUDIES: Mapping[str, Config] = {
    "quick": Config(
        variants=("true_label",), datasets=("mnist_5k",), architectures=("mlp",),
        interventions=("none", "layer_norm", "shrink_and_perturb"), n_images=500, mlp_width=64,
        target_period=500, probe_every=2_000, probes=2, n_targets=2, probe_steps=800,
        bins=51, value_low=-25.0, value_high=25.0, seeds=2,
    ),
    "laptop": LAPTOP,
    # CIFAR-10's images in place of MNIST's
    "laptop_cifar": replace(
        LAPTOP, variants=("true_label",), datasets=("cifar10_train",), architectures=("mlp",)
    ),
    # two-hot networks probed by the loss that they learn by
    "laptop_own_loss": replace(
        LAPTOP, architectures=("mlp",), encodings=("two_hot",), probe_loss="own"
    ),
    # "significantly different optimizer hyperparameters": which?
    "two_hot_search": replace(LAPTOP, encodings=("two_hot",), search=(1e-3, 3e-4, 1e-4), seeds=2),
    # every combination once, too small to learn anything: it shows that each of them runs
    "smoke": Config(
        variants=("true_label", "random_label", "sparse_reward"), n_images=100, mlp_width=8,
        cnn_width=8, channels=4, resnet_width=8, vit_width=16, vit_feed_forward=32, vit_heads=2,
        bins=11, batch_size=4, target_period=2, warmup=8, capacity=32, probe_every=4, probes=1,
        n_targets=1, probe_steps=50, probe_batch_size=4, sharpness_every=4, sharpness_order=2,
        proxy_examples=4, seeds=1,
    ),
    "gpu": Config(probes=20, n_targets=3, seeds=5),
    "paper": Config(datasets=("mnist_train", "cifar10_train")),
}  # fmt: skip
"""In 20 periods of the target no value gets above 20: quick and laptop have bins up to 25."""

CELL = ("variant", "dataset", "architecture", "encoding", "intervention")
"""What names an arm of the grid, in this order, joined by dashes; a column each in the table."""


def arm_name(*cell: str) -> str:
    """Return the name of the arm with these values of `CELL`."""
    return "-".join(cell)


def arms(config: Config) -> dict[str, dict[str, Any]]:
    """Return the changes to ``config`` that define each arm: `arm_name`, or the search's rates."""
    found: dict[str, dict[str, Any]] = {}
    for architecture in config.architectures:
        for dataset in config.datasets:
            for variant in config.variants:
                for encoding in config.encodings:
                    base: dict[str, Any] = {
                        "variant": variant, "dataset": dataset, "architecture": architecture,
                        "encoding": encoding,
                    }  # fmt: skip
                    for rate in config.search:
                        name = arm_name(variant, dataset, architecture, encoding, f"{rate:g}")
                        found[name] = base | {"learning_rate": rate}
                    if config.search:
                        continue
                    if encoding == "two_hot":
                        base["learning_rate"] = config.two_hot_learning_rate
                    for name in config.interventions:
                        arm = arm_name(variant, dataset, architecture, encoding, name)
                        found[arm] = base | {"intervention": name, **INTERVENTIONS[name]}
    return found


SWEPT = ("variant", "dataset", "architecture", "encoding", "intervention", "learning_rate")
"""Columns of the table beside arm and seed."""
