"""Does a wider network keep its plasticity? (Lyle et al. 2023, §6.1, Fig. 5.)

MLPs and CNNs of 1 to 16 times a base width are trained with three periods of the target network and
probed before and after. A curve is the plasticity lost against width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from plasticity import configuration
from plasticity.agents.settings import DQN, Problem
from plasticity.chapters.probing import probed_agent
from plasticity.chapters.probing.probed_agent import ALL_IMAGES
from plasticity.networks.settings import CNN, MLP, Network
from plasticity.worlds import image_files


@dataclass(frozen=True)
class Config(probed_agent.Config):
    """Settings of the sweep; those of one agent are inherited."""

    datasets: tuple[image_files.Dataset, ...] = ("mnist_5k", "cifar10_train")
    architectures: tuple[Literal["mlp", "cnn"], ...] = ("mlp", "cnn")
    periods: tuple[int, ...] = (1, 100, 1_000)  # optimizer steps between two target updates
    base_width: int = 16  # of the MLP (A.2), and channels of the CNN (not in the paper)
    multiples: tuple[int, ...] = (1, 2, 4, 8, 12, 16)  # of the base width
    widest_cnn: int = 16  # the largest multiple of the CNN
    width: int = 16  # of an arm's network, for the table: it changes nothing by itself
    # With a target period of one step values explode at .99; the paper does not give its discount.
    algorithm: DQN = DQN(discount=0.9)
    exploding: bool = False  # also the MLP on the first data set at period 1 and this discount:
    exploding_discount: float = 0.99

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        configuration.require_positive(self, "base_width", "widest_cnn")
        for name in ("datasets", "architectures", "periods", "multiples"):
            values = getattr(self, name)
            configuration.require(len(values) > 0, f"{name}: needs at least one")
        for name in ("periods", "multiples"):
            values = getattr(self, name)
            configuration.require(min(values) > 0, f"{name} = {values}: each must be above 0")


STUDIES: Mapping[str, Config] = {
    "quick": Config(
        datasets=("mnist_5k",), architectures=("mlp",), periods=(500,), base_width=32,
        multiples=(1, 4), problem=Problem(n_images=500), algorithm=DQN(discount=0.99),
        probe_every=4_000, probes=1, n_targets=2, probe_steps=800, seeds=3,
    ),
    "laptop": Config(
        widest_cnn=4, problem=Problem(n_images=1_000), probe_every=10_000, probes=1, n_targets=2,
        seeds=3, exploding=True,
    ),
    "gpu": Config(probe_every=50_000, probes=2, n_targets=3, seeds=5, exploding=True),
    "paper": Config(
        datasets=("mnist_train", "cifar10_train"), problem=Problem(n_images=ALL_IMAGES)
    ),
}  # fmt: skip


def arms(config: Config) -> dict[str, dict[str, Any]]:
    """Return the changes to ``config`` that define each arm: data set, network, period, width."""
    found: dict[str, dict[str, Any]] = {}
    for architecture in config.architectures:
        for dataset in config.datasets:
            for period in config.periods:
                for multiple in config.multiples:
                    if architecture == "cnn" and multiple > config.widest_cnn:
                        continue
                    width = config.base_width * multiple
                    found[f"{dataset}-{architecture}-{period}-{multiple}"] = {
                        "problem.dataset": dataset, "algorithm.target_period": period,
                        "problem.n_images": min(
                            config.problem.n_images, image_files.published(dataset)
                        ),
                        "network": network(architecture, width), "width": width,
                    }  # fmt: skip
    if config.exploding:
        for multiple in config.multiples:
            width = config.base_width * multiple
            found[f"exploding-{multiple}"] = {
                "problem.dataset": config.datasets[0], "algorithm.target_period": 1,
                "algorithm.discount": config.exploding_discount,
                "network": network(config.architectures[0], width), "width": width,
            }  # fmt: skip
    return found


def network(architecture: str, width: int) -> Network:
    """Return an MLP with ``width`` units, or a CNN with ``width`` channels.

    The CNN's fully connected layers have four times as many units, A.2's ratio.
    """
    return MLP(width=width) if architecture == "mlp" else CNN(channels=width, width=4 * width)


SWEPT = {
    "dataset": "problem.dataset", "architecture": "network.kind",
    "target_period": "algorithm.target_period", "discount": "algorithm.discount",
    "mlp_width": "width", "channels": "width",  # one number, of an MLP or a CNN
}  # fmt: skip
"""Columns of the table besides arm and seed, with the paths of their fields."""
