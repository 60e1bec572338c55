"""What preserves plasticity? Interventions on network and optimizer (§6.2, B.1; Figs. 6, 8 to 18).

Every intervention of the paper, under both outputs, on the agents of the other chapters. An agent
is probed just before its next event, so that the network measured was trained and not just reset.
Its performance on the task is reported with the plasticity that it kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from plasticity import configuration
from plasticity.agents.settings import ADAM_EPS, DQN, Problem
from plasticity.chapters.probing import probed_agent
from plasticity.chapters.probing.probed_agent import ALL_IMAGES
from plasticity.cures.settings import ResetLastLayer, ResetOptimizer, ShrinkAndPerturb
from plasticity.networks.settings import (
    CNN,
    MLP,
    Network,
    Output,
    Regression,
    ResNet18,
    TwoHot,
    ViT,
)  # fmt: skip
from plasticity.worlds import classification_mdp, image_files

INTERVENTIONS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "reset_last_layer": {"cures": (ResetLastLayer(),)},
    "layer_norm": {"network.layer_norm": True},
    "spectral_norm": {"network.spectral_norm": True},
    "weight_decay": {"optimizer.weight_decay": 1e-5},
    "shrink_and_perturb": {"cures": (ShrinkAndPerturb(),)},
    "reset_optimizer": {"cures": (ResetOptimizer(),)},
}
"""What each intervention of §6.2 and B.1 changes in an agent; the two-hot output is one more."""


@dataclass(frozen=True)
class Config(probed_agent.Config):
    """Settings of the grid; those of one agent are inherited."""

    # the grid: every combination
    variants: tuple[classification_mdp.Variant, ...] = ("true_label", "random_label")
    datasets: tuple[image_files.Dataset, ...] = ("mnist_5k", "cifar10_train")
    networks: tuple[Network, ...] = (MLP(), CNN(), ResNet18(), ViT())
    outputs: tuple[Output, ...] = (Regression(), TwoHot())
    interventions: tuple[str, ...] = tuple(INTERVENTIONS)
    # "significantly different optimizer hyperparameters from the regression parameterization"
    two_hot_learning_rate: float = 1e-3  # not in the paper
    # which of `INTERVENTIONS` an arm has; only a name: the arm's other changes alter the agent
    intervention: str = "none"
    # ε of the agents' Adam, one grid for each; the paper gives none, and §4.1 makes it decisive
    adam_eps: tuple[float, ...] = (ADAM_EPS,)
    # instead of the grid: agents without intervention under these learning rates, both outputs
    search: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        configuration.require_positive(self, "two_hot_learning_rate")
        for name in ("variants", "datasets", "networks", "outputs", "interventions", "adam_eps"):
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


# In 20 target periods no value gets above 20.
FEW_BINS = TwoHot(bins=51, low=-25.0, high=25.0)

LAPTOP = Config(
    datasets=("mnist_5k",), networks=(MLP(width=64), CNN(channels=16, width=64)),
    outputs=(Regression(), FEW_BINS), problem=Problem(n_images=1_000), probes=4, n_targets=2,
    seeds=5,
)  # fmt: skip

STUDIES: Mapping[str, Config] = {
    "quick": Config(
        variants=("true_label",), datasets=("mnist_5k",), networks=(MLP(width=64),),
        outputs=(Regression(), FEW_BINS), problem=Problem(n_images=500),
        interventions=("none", "layer_norm", "shrink_and_perturb"),
        algorithm=DQN(target_period=500), probe_every=2_000, probes=2, n_targets=2,
        probe_steps=800, seeds=2,
    ),
    "laptop": LAPTOP,
    # CIFAR-10's images instead of MNIST's
    "laptop_cifar": replace(
        LAPTOP, variants=("true_label",), datasets=("cifar10_train",), networks=(MLP(width=64),)
    ),
    # two-hot networks probed by the loss that they learn by
    "laptop_own_loss": replace(
        LAPTOP, networks=(MLP(width=64),), outputs=(FEW_BINS,), probe_loss="own"
    ),
    # "significantly different optimizer hyperparameters": which?
    "two_hot_search": replace(LAPTOP, outputs=(FEW_BINS,), search=(1e-3, 3e-4, 1e-4), seeds=2),
    # the rest of Figs. 6, 8, 10, 12 and 16, with seeds of its own
    "laptop_cifar_grid": replace(LAPTOP, datasets=("cifar10_train",), first_seed=5),
    # is it Adam's ε that decides what weight decay does? Rainbow's is the largest
    "laptop_eps": replace(
        LAPTOP, outputs=(Regression(),), interventions=("none", "weight_decay"),
        adam_eps=(ADAM_EPS, 1e-5, 1.5e-4), first_seed=10,
    ),
    # A.2's target period, which leaves time to learn a last layer again
    "laptop_period_10000": replace(
        LAPTOP, outputs=(Regression(),),
        interventions=("none", "reset_last_layer", "shrink_and_perturb"),
        algorithm=DQN(target_period=10_000), probe_every=10_000, probes=10, first_seed=10,
    ),
    # does layer normalisation prevent the loss of plasticity, or delay it?
    "laptop_in_time": replace(
        LAPTOP, networks=(MLP(width=64),), outputs=(Regression(),),
        interventions=("none", "layer_norm"), probe_every=20_000, probes=10, first_seed=10,
    ),
    "night_in_time": replace(
        LAPTOP, networks=(MLP(),), outputs=(Regression(),), interventions=("none", "layer_norm"),
        problem=Problem(), probe_every=10_000, probes=10, first_seed=10,
    ),
    # every combination once, too small to learn anything: shows that each of them runs
    "smoke": Config(
        variants=("true_label", "random_label", "sparse_reward"), problem=Problem(n_images=100),
        networks=(
            MLP(width=8), CNN(channels=4, width=8), ResNet18(width=8),
            ViT(width=16, feed_forward=32, heads=2),
        ),
        outputs=(Regression(), TwoHot(bins=11)),
        algorithm=DQN(batch_size=4, target_period=2, warmup=8, capacity=32), probe_every=4,
        probes=1, n_targets=1, probe_steps=50, probe_batch_size=4, sharpness_every=4,
        sharpness_order=2, proxy_examples=4, seeds=1,
    ),
    "gpu": Config(probes=20, n_targets=3, seeds=5),
    # two parts of it, each meant for a sitting of its own
    "gpu_mlp": Config(
        datasets=("mnist_5k",), networks=(MLP(),), outputs=(Regression(),), probes=15,
        n_targets=3, seeds=5,
    ),
    "gpu_mlp_two_hot": Config(
        datasets=("mnist_5k",), networks=(MLP(),), outputs=(TwoHot(),), probes=15,
        n_targets=3, seeds=5,
    ),
    "paper": Config(
        datasets=("mnist_train", "cifar10_train"), problem=Problem(n_images=ALL_IMAGES)
    ),
}  # fmt: skip
CELL = ("variant", "dataset", "architecture", "encoding", "intervention")
"""What names an arm of the grid, in this order, joined by dashes; each is a column of the table."""


def arm_name(*cell: str) -> str:
    """Return the name of the arm with these values of `CELL`."""
    return "-".join(cell)


def arms(config: Config) -> dict[str, dict[str, Any]]:
    """Return the changes to ``config`` that define each arm: `arm_name`, or the search's rates.

    An arm whose Adam has another ε than A.1's ends in it.
    """
    found: dict[str, dict[str, Any]] = {}
    grid = itertools.product(
        config.networks, config.datasets, config.variants, config.outputs, config.adam_eps
    )
    for network, dataset, variant, output, eps in grid:
        cell = (variant, dataset, network.kind, output.kind)
        base: dict[str, Any] = {
            "problem.variant": variant, "problem.dataset": dataset, "network": network,
            "problem.n_images": min(config.problem.n_images, image_files.published(dataset)),
            "output": output, "optimizer.eps": eps,
        }  # fmt: skip
        suffix = () if eps == ADAM_EPS else (f"eps_{eps:g}",)
        if output.kind == "two_hot":
            base["optimizer.learning_rate"] = config.two_hot_learning_rate
        for rate in config.search:
            found[arm_name(*cell, f"{rate:g}", *suffix)] = base | {"optimizer.learning_rate": rate}
        for name in () if config.search else config.interventions:
            changes = {"intervention": name, **INTERVENTIONS[name]}
            found[arm_name(*cell, name, *suffix)] = base | changes
    return found


SWEPT = {
    "variant": "problem.variant", "dataset": "problem.dataset", "architecture": "network.kind",
    "encoding": "output.kind", "intervention": "intervention",
    "learning_rate": "optimizer.learning_rate", "eps": "optimizer.eps",
}  # fmt: skip
"""Columns of the table besides arm and seed, with the paths of their fields."""
