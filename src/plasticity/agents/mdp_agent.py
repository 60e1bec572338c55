"""An agent for the classification MDPs, built from settings: problem, network, optimizer, cures.

`plasticity.agents.dqn` trains it on `plasticity.agents.mdp_task`, and
`plasticity.chapters.probing.probed_agent` measures it (A.2, §6.2). Where the paper is silent a
field's comment says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from plasticity import configuration
from plasticity.agents import dqn
from plasticity.agents.mdp_task import Images
from plasticity.agents.settings import DQN, Optimizer, Problem, Rates
from plasticity.cure import NONE, Cure, combined
from plasticity.cures.settings import Event, Patient
from plasticity.networks import architectures, heads, state, trace
from plasticity.networks.settings import MLP, Network, Output, Regression
from plasticity.shapes import Array
from plasticity.worlds import classification_mdp, image_sets


@dataclass(frozen=True)
class Design:
    """What an agent is made of, whatever its problem.

    >>> from plasticity.agents.mdp_agent import Design
    >>> Design().network.kind
    'mlp'
    """

    network: Network = MLP()
    output: Output = Regression()
    optimizer: Optimizer = Optimizer()
    algorithm: DQN = DQN()
    cures: tuple[Event, ...] = ()  # what happens after each target update, in this order


@dataclass(frozen=True)
class AgentConfig(Design):
    """Settings of one agent.

    >>> from plasticity.agents.mdp_agent import AgentConfig
    >>> from plasticity.networks.settings import CNN
    >>> config = AgentConfig(network=CNN(channels=16, layer_norm=True))
    >>> config.problem.variant, config.optimizer.learning_rate
    ('true_label', 0.001)
    """

    problem: Problem = Problem()
    seeds: int = 10
    first_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        configuration.check(self)
        configuration.require_positive(self, "seeds")
        configuration.require(
            self.first_seed >= 0, f"first_seed = {self.first_seed}: must not be below 0"
        )
        try:
            agent(self)
        except ValueError as error:
            raise configuration.ConfigError(str(error)) from None


def design(config: Design, cured: bool = False) -> Design:
    """Return what programs depend on: the settings less rates, and less events unless ``cured``.

    Agents with equal designs share compiled programs.

    >>> from plasticity.agents import mdp_agent
    >>> from plasticity.agents.settings import Optimizer, Problem
    >>> slow = mdp_agent.AgentConfig(
    ...     problem=Problem("random_label"), optimizer=Optimizer("adam", 1e-4))
    >>> mdp_agent.design(slow) == mdp_agent.design(mdp_agent.AgentConfig())
    True
    """
    cures = config.cures if cured else ()
    return Design(config.network, config.output, config.optimizer.form, config.algorithm, cures)


def network(config: Design, learning: bool = False) -> nn.Module:
    """Return the network, with ``learning`` as the loss sees it: only learning has a ViT's dropout.

    >>> from plasticity.agents import mdp_agent
    >>> mdp_agent.network(mdp_agent.AgentConfig()).widths
    (512, 512)
    """
    return config.network.module(n_outputs(config), learning)


def n_outputs(config: Design) -> int:
    """Return how many numbers the network gives for an image.

    >>> from plasticity.agents import mdp_agent
    >>> from plasticity.networks.settings import TwoHot
    >>> mdp_agent.n_outputs(mdp_agent.AgentConfig(output=TwoHot(bins=51)))  # ten actions
    510
    """
    return classification_mdp.STATES * config.output.head().bins


def forward(
    config: Design, params: Any, images: Images, learning: bool = False
) -> architectures.Forward:
    """Return the outputs and hidden activations for a batch of images.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.agents import mdp_agent
    >>> from plasticity.networks.settings import MLP
    >>> config = mdp_agent.AgentConfig(network=MLP(width=8))
    >>> params = mdp_agent.initialise(config, (4, 2, 1), jax.random.key(0))
    >>> found = mdp_agent.forward(config, params, jnp.ones((5, 4, 2, 1)))
    >>> found.output.shape, [layer.shape for layer in found.hidden]
    ((5, 10), [(5, 8), (5, 8)])
    """
    module = network(config, learning)
    found: architectures.Forward = module.apply(params, config.network.inputs(images))  # type: ignore[assignment]
    return found


def initialise(config: Design, shape: tuple[int, ...], key: Array) -> Any:
    """Return fresh parameters for images of ``shape`` (h, w, c).

    >>> import jax
    >>> from plasticity.agents import mdp_agent
    >>> from plasticity.networks.settings import MLP
    >>> config = mdp_agent.AgentConfig(network=MLP(width=8))
    >>> params = mdp_agent.initialise(config, (4, 2, 1), jax.random.key(0))
    >>> params["params"]["Dense_2"]["kernel"].shape
    (8, 10)
    """
    return network(config).init(key, config.network.inputs(jnp.zeros((1, *shape))))


def agent(
    config: Design, shape: tuple[int, ...] | None = None, rates: Rates | None = None
) -> dqn.Agent:
    """Return the agent of ``config``; with its cures if the images' ``shape`` (h, w, c) is known.

    ``rates`` replace the optimizer's own.

    >>> from plasticity.agents import mdp_agent
    >>> from plasticity.cures.settings import ResetOptimizer
    >>> config = mdp_agent.AgentConfig(cures=(ResetOptimizer(),))
    >>> agent = mdp_agent.agent(config, shape=(28, 28, 1))
    >>> agent.target_period, agent.cure.name
    (1000, 'reset_optimizer')
    """
    settings = config.algorithm
    return dqn.Agent(
        apply=lambda params, images: forward(config, params, images).output,
        hidden=lambda params, images: forward(config, params, images).hidden,
        learning=learning(config), head=config.output.head(), optimizer=optimizer(config, rates),
        cure=NONE if shape is None else cure(config, shape),
        discount=settings.discount, target_period=settings.target_period,
        batch_size=settings.batch_size, epsilon=settings.epsilon, double=settings.double,
        warmup=settings.warmup, capacity=settings.capacity,
    )  # fmt: skip


def learning(config: Design) -> Callable[[Any, Array], Array] | None:
    """Return the network's outputs as the loss sees them, with dropout; None if it has no dropout.

    >>> from plasticity.agents import mdp_agent
    >>> from plasticity.networks.settings import MLP, ViT
    >>> configs = [mdp_agent.AgentConfig(network=network) for network in (MLP(), ViT())]
    >>> [mdp_agent.learning(config) is None for config in configs]
    [True, False]
    """
    if network(config) == network(config, learning=True):
        return None
    return lambda params, images: forward(config, params, images, learning=True).output


def optimizer(config: Design, rates: Rates | None = None) -> optax.GradientTransformation:
    """Return the optimizer, for learning and for the probe alike.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import mdp_agent
    >>> from plasticity.agents.settings import Optimizer
    >>> config = mdp_agent.AgentConfig(optimizer=Optimizer("sgd", learning_rate=0.5))
    >>> optimizer = mdp_agent.optimizer(config)
    >>> update, _ = optimizer.update(jnp.array([1.0]), optimizer.init(jnp.zeros(1)))
    >>> update.tolist()
    [-0.5]
    """
    found = config.optimizer.transformation(rates)
    return state.advancing(found) if config.network.stateful else found


def cure(config: Design, shape: tuple[int, ...]) -> Cure:
    """Return what happens after each target update to a network for images of ``shape`` (h, w, c).

    >>> from plasticity.agents import mdp_agent
    >>> from plasticity.cures.settings import ResetLastLayer
    >>> found = mdp_agent.cure(mdp_agent.AgentConfig(cures=(ResetLastLayer(),)), (28, 28, 1))
    >>> found.name, found.every
    ('reset_layer', 1000)
    """
    if not config.cures:
        return NONE

    def init(key: Array) -> Any:
        return initialise(config, shape, key)

    image = config.network.inputs(jnp.zeros((1, *shape)))
    fresh = jax.eval_shape(init, jax.random.key(0))
    last = trace.last_layer(network(config), fresh, image)
    patient = Patient(init, last, optimizer(config), config.algorithm.target_period)
    return combined(*(one.cure(patient) for one in config.cures))


class ImageKey(NamedTuple):
    """The images that an agent sees."""

    dataset: str
    n_images: int


class NetworkKey(NamedTuple):
    """What determines a network's probe targets: images, module (with all its fields) and head."""

    images: ImageKey
    network: nn.Module
    head: heads.Head


def image_key(config: AgentConfig) -> ImageKey:
    """Return the key of this arm's images; arms with the same images share it.

    >>> from plasticity.agents import mdp_agent
    >>> mdp_agent.image_key(mdp_agent.AgentConfig())
    ImageKey(dataset='mnist_5k', n_images=5000)
    """
    return ImageKey(config.problem.dataset, config.problem.n_images)


def network_key(config: AgentConfig) -> NetworkKey:
    """Return the key of this network's probe targets.

    >>> from plasticity.agents import mdp_agent
    >>> from plasticity.agents.settings import Optimizer
    >>> from plasticity.networks.settings import MLP
    >>> slow, fast, wide = (mdp_agent.network_key(mdp_agent.AgentConfig(**changes)) for changes in (
    ...     {"optimizer": Optimizer(learning_rate=1e-4)}, {}, {"network": MLP(width=1_024)}))
    >>> slow == fast, slow == wide
    (True, False)
    """
    return NetworkKey(image_key(config), network(config), config.output.head())


def multiplications(config: AgentConfig) -> float:
    """Return roughly how many multiplications a forward pass takes per image.

    >>> from plasticity.agents import mdp_agent
    >>> mdp_agent.multiplications(mdp_agent.AgentConfig())  # of 28 × 28 pixels
    668672.0
    """
    shape = image_sets.shape(config.problem.dataset)
    return config.network.multiplications(shape, n_outputs(config))
