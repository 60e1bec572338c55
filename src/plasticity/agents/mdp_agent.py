"""An agent of the classification MDPs by its settings: network, output, optimizer, interventions.

What `plasticity.agents.dqn` trains and `plasticity.chapters.probing.probed_agent` measures, from
one dataclass (A.2, §6.2). Where the paper is silent a field's comment says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from plasticity import configuration
from plasticity.agents import dqn, optimizers
from plasticity.cure import NONE, Cure
from plasticity.cures import resets
from plasticity.networks import architectures, heads, resnet, state, trace, vit
from plasticity.shapes import Array
from plasticity.worlds import classification_mdp, image_files

Architecture = Literal["mlp", "cnn", "resnet", "vit"]

Encoding = Literal["regression", "two_hot"]

EventName = Literal["none", "reset_last_layer", "shrink_and_perturb", "reset_optimizer"]


@dataclass(frozen=True)
class AgentConfig:
    """Settings of one agent; where the paper is silent the comment says so.

    >>> from plasticity.agents.mdp_agent import AgentConfig
    >>> config = AgentConfig(variant="random_label", architecture="cnn", layer_norm=True)
    >>> config.optimizer, config.learning_rate
    ('adam', 0.001)
    """

    # problem (§3.2)
    variant: classification_mdp.Variant = "true_label"
    dataset: image_files.Dataset = "mnist_5k"
    n_images: int = 5_000  # not in the paper for the MDPs
    # network (A.2)
    architecture: Architecture = "mlp"
    mlp_width: int = 512  # units of each hidden layer of the MLP
    cnn_width: int = 256  # units of each fully connected hidden layer of the CNN
    channels: int = 64  # of each convolution
    stride: int = 2  # of each convolution; not in the paper
    padding: Literal["SAME", "VALID"] = "SAME"  # not in the paper
    resnet_width: int = 64  # channels of the first stage of the ResNet-18; He et al. (2016)
    vit_width: int = 256  # model dimension of the ViT
    vit_feed_forward: int = 1_024  # units of its feed-forward layer
    vit_heads: int = 4  # of its attention; not in the paper
    layer_norm: bool = False
    spectral_norm: bool = False  # of the first linear layer
    # output (§6.2): a value for each action, or a distribution over `bins` values
    encoding: Encoding = "regression"
    bins: int = 221  # not in the paper
    # The first and the last of the bins' values, not in the paper. A fresh network's value is their
    # middle, which had better be 0: what it bootstraps from is wrong by it otherwise.
    value_low: float = -110.0
    value_high: float = 110.0  # with a discount of .99 no return is above 100
    # what happens after each target update, and what the optimizer does beside (§6.2, B.1)
    event: EventName = "none"
    shrink: float = 0.5  # of shrink-and-perturb: "a small scalar"; not in the paper
    perturb: float = 1.0  # "equal to the weights of a randomly initialized network"
    weight_decay: float = 0.0  # added to the gradient, times the parameters
    # agent: the paper gives the target period (§5.1: 1,000) and none of the others
    optimizer: optimizers.OptimizerName = "adam"
    learning_rate: float = 1e-3
    batch_size: int = 32  # transitions, drawn with replacement
    discount: float = 0.99
    target_period: int = 1_000  # optimizer steps
    epsilon: float = 0.1  # probability of a random action
    double: bool = False  # double Q-learning
    warmup: int = 1_000  # random transitions before the first optimizer step
    capacity: int = 10_000  # transitions in the replay buffer
    # seeds
    seeds: int = 10
    first_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        configuration.check(self)
        configuration.require_positive(
            self, "n_images", "mlp_width", "cnn_width", "channels", "stride", "resnet_width",
            "vit_width", "vit_feed_forward", "vit_heads", "bins", "learning_rate", "target_period",
            "batch_size", "seeds",
        )  # fmt: skip
        for name in ("weight_decay", "shrink", "perturb"):
            value = getattr(self, name)
            configuration.require(value >= 0, f"{name} = {value}: must not be below 0")
        configuration.require(
            self.vit_width % self.vit_heads == 0,
            f"vit_width = {self.vit_width}: must be a multiple of vit_heads = {self.vit_heads}",
        )
        configuration.require(
            self.first_seed >= 0, f"first_seed = {self.first_seed}: must not be below 0"
        )
        try:
            agent(self)
        except ValueError as error:
            raise configuration.ConfigError(str(error)) from None


def network(config: AgentConfig, learning: bool = False) -> nn.Module:
    """Return A.2's network with an output for each action, or one for each of its bins.

    ``learning`` returns it as the loss sees it: a ViT's dropout is for learning alone.

    >>> from plasticity.agents import mdp_agent
    >>> mdp_agent.network(mdp_agent.AgentConfig(mlp_width=64)).widths
    (64, 64)
    """
    norms: dict[str, Any] = {
        "layer_norm": config.layer_norm, "spectral_norm": config.spectral_norm
    }  # fmt: skip
    outputs = n_outputs(config)
    if config.architecture == "mlp":
        return architectures.MLP((config.mlp_width,) * 2, outputs, **norms)
    if config.architecture == "cnn":
        return architectures.CNN(
            outputs, channels=(config.channels,) * 2, strides=(config.stride,) * 2,
            padding=config.padding, widths=(config.cnn_width,) * 2, **norms,
        )  # fmt: skip
    if config.architecture == "resnet":
        return resnet.ResNet18(
            outputs, config.resnet_width, groups=math.gcd(32, config.resnet_width), **norms
        )
    return vit.ViT(
        outputs, width=config.vit_width, feed_forward=config.vit_feed_forward,
        heads=config.vit_heads, training=learning, **norms,
    )  # fmt: skip


def n_outputs(config: AgentConfig) -> int:
    """Return how many numbers the network gives for an image.

    >>> from plasticity.agents import mdp_agent
    >>> config = mdp_agent.AgentConfig(encoding="two_hot", bins=51)
    >>> mdp_agent.n_outputs(config)  # ten actions
    510
    """
    return classification_mdp.STATES * (config.bins if config.encoding == "two_hot" else 1)


def forward(
    config: AgentConfig, params: Any, images: dqn.Images, learning: bool = False
) -> architectures.Forward:
    """Return the outputs and hidden activations of a batch of images.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.agents import mdp_agent
    >>> config = mdp_agent.AgentConfig(mlp_width=8)
    >>> params = mdp_agent.initialise(config, (4, 2, 1), jax.random.key(0))
    >>> found = mdp_agent.forward(config, params, jnp.ones((5, 4, 2, 1)))
    >>> found.output.shape, [layer.shape for layer in found.hidden]
    ((5, 10), [(5, 8), (5, 8)])
    """
    found: architectures.Forward = network(config, learning).apply(params, inputs(config, images))  # type: ignore[assignment]
    return found


def inputs(config: AgentConfig, images: dqn.Images) -> Array:
    """Return images as the network takes them: an MLP's are flat.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import mdp_agent
    >>> mdp_agent.inputs(mdp_agent.AgentConfig(architecture="mlp"), jnp.ones((2, 4, 4, 1))).shape
    (2, 16)
    """
    return images.reshape(images.shape[0], -1) if config.architecture == "mlp" else images


def initialise(config: AgentConfig, shape: tuple[int, ...], key: Array) -> Any:
    """Return fresh parameters for images of ``shape`` (h, w, c).

    >>> import jax
    >>> from plasticity.agents import mdp_agent
    >>> config = mdp_agent.AgentConfig(mlp_width=8)
    >>> params = mdp_agent.initialise(config, (4, 2, 1), jax.random.key(0))
    >>> params["params"]["Dense_2"]["kernel"].shape
    (8, 10)
    """
    return network(config).init(key, inputs(config, jnp.zeros((1, *shape))))


def agent(config: AgentConfig, shape: tuple[int, ...] | None = None) -> dqn.Agent:
    """Return the agent of ``config``; with its cure if the images' ``shape`` (h, w, c) is known.

    >>> from plasticity.agents import mdp_agent
    >>> config = mdp_agent.AgentConfig(mlp_width=8, event="reset_optimizer")
    >>> agent = mdp_agent.agent(config, shape=(28, 28, 1))
    >>> agent.target_period, agent.cure.name
    (1000, 'reset_optimizer')
    """
    return dqn.Agent(
        apply=lambda params, images: forward(config, params, images).output,
        hidden=lambda params, images: forward(config, params, images).hidden,
        optimizer=optimizer(config),
        discount=config.discount, target_period=config.target_period,
        batch_size=config.batch_size, epsilon=config.epsilon, double=config.double,
        warmup=config.warmup, capacity=config.capacity, head=head(config),
        learning=learning(config), cure=NONE if shape is None else cure(config, shape),
    )  # fmt: skip


def learning(config: AgentConfig) -> Callable[[Any, Array], Array] | None:
    """Return the network's outputs as the loss sees them, where that differs: with dropout.

    >>> from plasticity.agents import mdp_agent
    >>> configs = [mdp_agent.AgentConfig(architecture=name) for name in ("mlp", "vit")]
    >>> [mdp_agent.learning(config) is None for config in configs]
    [True, False]
    """
    if config.architecture != "vit":
        return None
    return lambda params, images: forward(config, params, images, learning=True).output


def head(config: AgentConfig) -> heads.Head:
    """Return what the network's outputs say of values.

    >>> from plasticity.agents import mdp_agent
    >>> mdp_agent.head(mdp_agent.AgentConfig(encoding="two_hot", bins=3))
    TwoHot(support=(-110.0, 0.0, 110.0))
    """
    if config.encoding == "regression":
        return heads.SquaredError()
    values = np.linspace(config.value_low, config.value_high, config.bins)
    return heads.TwoHot(tuple(values.tolist()))


def optimizer(config: AgentConfig) -> optax.GradientTransformation:
    """Return the optimizer, of learning and of the probe alike.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import mdp_agent
    >>> optimizer = mdp_agent.optimizer(mdp_agent.AgentConfig(optimizer="sgd", learning_rate=0.5))
    >>> update, _ = optimizer.update(jnp.array([1.0]), optimizer.init(jnp.zeros(1)))
    >>> update.tolist()
    [-0.5]
    """
    found = optimizers.of_name(config.optimizer, config.learning_rate)
    if config.weight_decay:  # §6.2's ℓ₂ penalty: part of the gradient
        found = optax.chain(optax.add_decayed_weights(config.weight_decay), found)
    stateful = config.spectral_norm or config.architecture == "vit"
    return state.advancing(found) if stateful else found


def cure(config: AgentConfig, shape: tuple[int, ...]) -> Cure:
    """Return what happens after each target update to networks on images of ``shape`` (h, w, c).

    >>> from plasticity.agents import mdp_agent
    >>> config = mdp_agent.AgentConfig(mlp_width=8, event="reset_last_layer", target_period=500)
    >>> found = mdp_agent.cure(config, (28, 28, 1))
    >>> found.name, found.every
    ('reset_layer', 500)
    """
    every = config.target_period

    def init(key: Array) -> Any:
        return initialise(config, shape, key)

    if config.event == "reset_last_layer":
        image = inputs(config, jnp.zeros((1, *shape)))
        fresh = jax.eval_shape(init, jax.random.key(0))
        last = trace.last_layer(network(config), fresh, image)
        return resets.reset_layer(init, optimizer(config), last, every)
    if config.event == "shrink_and_perturb":
        return resets.shrink_and_perturb(init, config.shrink, config.perturb, every)
    if config.event == "reset_optimizer":
        return resets.reset_optimizer(optimizer(config), every)
    return NONE


class ImageKey(NamedTuple):
    """What images an agent sees."""

    dataset: str
    n_images: int


class NetworkKey(NamedTuple):
    """What decides a network's probe targets: its images, the module with every field, its head."""

    images: ImageKey
    network: nn.Module
    head: heads.Head


def image_key(config: AgentConfig) -> ImageKey:
    """Return the key of the images of this arm, for all arms that share them.

    >>> from plasticity.agents import mdp_agent
    >>> mdp_agent.image_key(mdp_agent.AgentConfig(layer_norm=True))
    ImageKey(dataset='mnist_5k', n_images=5000)
    """
    return ImageKey(config.dataset, config.n_images)


def network_key(config: AgentConfig) -> NetworkKey:
    """Return the key of the targets that this network is probed with.

    >>> from plasticity.agents import mdp_agent
    >>> slow, fast, wide = (mdp_agent.network_key(config) for config in (
    ...     mdp_agent.AgentConfig(learning_rate=1e-4), mdp_agent.AgentConfig(learning_rate=1e-3),
    ...     mdp_agent.AgentConfig(mlp_width=1_024)))
    >>> slow == fast, slow == wide
    (True, False)
    """
    return NetworkKey(image_key(config), network(config), head(config))


def multiplications(config: AgentConfig) -> float:
    """Return about how many multiplications a forward pass takes for one image.

    Exact for the entries of an MLP's and a CNN's kernels; of a ResNet and a ViT what XLA counts.

    >>> from plasticity.agents import mdp_agent
    >>> mdp_agent.multiplications(mdp_agent.AgentConfig(mlp_width=512))  # of 28 × 28 pixels
    668672.0
    """
    pixels, depth = (32.0**2, 3) if config.dataset.startswith("cifar10") else (28.0**2, 1)
    actions = n_outputs(config)
    if config.architecture in ("resnet", "vit"):
        shape = (int(pixels**0.5), int(pixels**0.5), depth)
        return _counted(AgentConfig(**{name: getattr(config, name) for name in COUNTED}), shape)
    if config.architecture == "mlp":
        width = config.mlp_width
        weights = pixels * depth * width + width**2 + actions * width
    else:
        width, channels, area = config.cnn_width, config.channels, config.stride**2
        first, second = pixels / area, pixels / area**2  # positions of the two layers
        weights = first * 25 * depth * channels + second * 9 * channels**2
        weights += second * channels * width + width**2 + actions * width
    return weights


COUNTED = (
    "architecture", "resnet_width", "vit_width", "vit_feed_forward", "vit_heads", "layer_norm",
    "spectral_norm", "encoding", "bins",
)  # fmt: skip
"""The settings on which the multiplications of a ResNet or ViT depend, beside the images' shape."""


@cache
def _counted(config: AgentConfig, shape: tuple[int, ...]) -> float:
    """Return what XLA counts for an image; once a network, for a grid has hundreds of arms."""
    params = jax.eval_shape(lambda: initialise(config, shape, jax.random.key(0)))
    run = jax.jit(lambda params, x: forward(config, params, x).output)
    image = jax.eval_shape(lambda: jnp.zeros((1, *shape)))
    counted: Any = run.lower(params, image).cost_analysis()
    return float(counted["flops"]) / 2
