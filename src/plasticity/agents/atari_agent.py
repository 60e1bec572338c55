"""An agent that plays an Atari game by its settings: preprocessing, network, double DQN (A.3).

What `plasticity.agents.double_dqn` trains, from one dataclass.

A short run, which needs ale_py::

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.agents import atari_agent, double_dqn
    >>> config = atari_agent.AgentConfig(game="pong", warmup=100, capacity=1_000)
    >>> games = atari_agent.emulators(config)
    >>> agent = atari_agent.agent(config, games.actions)  # doctest: +SKIP
    >>> frames = jnp.zeros((1, config.size, config.size, config.stack), jnp.uint8)
    >>> network = atari_agent.network(config, games.actions)  # doctest: +SKIP
    >>> params = network.init(jax.random.key(0), frames)  # doctest: +SKIP
    >>> ticket, seen = games.reset(jnp.array([0]))  # a seed  # doctest: +SKIP
    >>> key = jax.random.key(1)
    >>> state = double_dqn.start(agent, params, key, seen, config.stack)  # doctest: +SKIP
    >>> state, ticket, learned = double_dqn.train(  # ten times 160 frames  # doctest: +SKIP
    ...     agent, games, state, ticket, 160, 10)
    >>> int(state.steps), int(learned.updates)  # doctest: +SKIP
    (400, 75)
"""

from __future__ import annotations

from dataclasses import dataclass

from plasticity import configuration
from plasticity.agents import double_dqn
from plasticity.networks import architectures
from plasticity.networks.heads import Huber
from plasticity.worlds import atari, atari_callback


@dataclass(frozen=True)
class AgentConfig:
    """Settings of one agent: those of dqn_zoo's ``double_q`` where A.3 has no others.

    >>> from plasticity.agents.atari_agent import AgentConfig
    >>> config = AgentConfig(game="pong", layer_norm=True)
    >>> config.capacity, config.epsilon
    (100000, 0.1)
    """

    game: str = "freeway"
    layer_norm: bool = False
    # preprocessing: `plasticity.worlds.atari.Preprocessing`
    no_ops: int = 30  # frames
    frame_skip: int = 4  # frames an action lasts
    size: int = 84  # pixels
    stack: int = 4  # frames in an observation
    reward_bound: float = 1.0
    life_loss_zeroes_discount: bool = True
    sticky: float = 0.0  # probability that a frame repeats the last action
    episode_frames: int = 108_000
    full_actions: bool = False
    # agent: `plasticity.agents.double_dqn.Agent`
    discount: float = 0.99
    batch_size: int = 32  # transitions
    learn_period: int = 16  # frames; "once every 4 environment steps"
    target_period: int = 120_000  # frames
    capacity: int = 100_000  # transitions; A.3, against 1,000,000 in dqn_zoo
    warmup: int = 5_000  # transitions before the first update: a twentieth of the capacity
    epsilon_start: float = 1.0
    epsilon: float = 0.1  # A.3, against 0.01 in dqn_zoo
    epsilon_frames: int = 4_000_000  # frames over which it falls
    learning_rate: float = 0.00025
    decay: float = 0.95  # of RMSProp's moments
    optimizer_epsilon: float = 0.01 / 32**2
    error_bound: float = 1.0  # of temporal-difference errors
    shared_bias: bool = True  # one for all actions

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        configuration.check(self)
        configuration.require(
            self.game in atari.GAMES, f"game = {self.game!r}: choose from {', '.join(atari.GAMES)}"
        )
        configuration.require(
            self.size >= 36, f"size = {self.size}: the network needs 36 pixels or more"
        )
        try:
            preprocessing(self)
            agent(self, outputs=1)
        except ValueError as error:
            raise configuration.ConfigError(str(error)) from None
        frames = warmup_frames(self)
        configuration.require(
            frames % self.learn_period == 0,
            f"warmup * frame_skip = {frames}: must be a multiple of {self.learn_period}",
        )


def preprocessing(config: AgentConfig) -> atari.Preprocessing:
    """Return what lies between the emulator and the agent.

    >>> from plasticity.agents import atari_agent
    >>> found = atari_agent.preprocessing(atari_agent.AgentConfig(sticky=0.25))
    >>> found.sticky, found.frame_skip, found.size
    (0.25, 4, 84)
    """
    return atari.Preprocessing(
        no_ops=config.no_ops, frame_skip=config.frame_skip, size=config.size, stack=config.stack,
        reward_bound=config.reward_bound,
        life_loss_zeroes_discount=config.life_loss_zeroes_discount, sticky=config.sticky,
        episode_frames=config.episode_frames, full_actions=config.full_actions,
    )  # fmt: skip


def emulators(
    config: AgentConfig, copies: int = 1, purpose: str = "training"
) -> atari_callback.Emulators:
    """Return the emulators of an agent: see `plasticity.worlds.atari_callback.Emulators`.

    >>> from plasticity.agents import atari_agent
    >>> games = atari_agent.emulators(atari_agent.AgentConfig(game="pong"), copies=2)
    >>> games.game, games.n  # playing needs ale_py
    ('pong', 2)
    """
    return atari_callback.Emulators(config.game, copies, preprocessing(config), purpose)


def network(config: AgentConfig, outputs: int) -> architectures.NatureCNN:
    """Return the agent's network.

    >>> from plasticity.agents import atari_agent
    >>> found = atari_agent.network(atari_agent.AgentConfig(layer_norm=True), outputs=6)
    >>> found.outputs, found.layer_norm, found.shared_bias
    (6, True, True)
    """
    return architectures.NatureCNN(outputs, config.layer_norm, config.shared_bias)


def agent(config: AgentConfig, outputs: int) -> double_dqn.Agent:
    """Return the agent of ``config`` for a game of so many actions.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.agents import atari_agent
    >>> config, frames = atari_agent.AgentConfig(game="pong"), jnp.zeros((1, 84, 84, 4), jnp.uint8)
    >>> network = atari_agent.network(config, outputs=6)
    >>> params = jax.eval_shape(network.init, jax.random.key(0), frames)
    >>> jax.eval_shape(atari_agent.agent(config, outputs=6).values, params, frames).shape
    (1, 6)
    """
    model = network(config, outputs)
    return double_dqn.Agent(
        apply=architectures.predictions(model), hidden=architectures.activations(model),
        optimizer=double_dqn.rmsprop(
            config.learning_rate, config.decay, config.optimizer_epsilon
        ),
        head=Huber(bound=config.error_bound),
        frame_skip=config.frame_skip, discount=config.discount, batch_size=config.batch_size,
        learn_period=config.learn_period, target_period=config.target_period,
        capacity=config.capacity, warmup=config.warmup, epsilon_start=config.epsilon_start,
        epsilon=config.epsilon, epsilon_frames=config.epsilon_frames,
    )  # fmt: skip


def warmup_frames(config: AgentConfig) -> int:
    """Return for how many frames nothing is learned.

    >>> from plasticity.agents import atari_agent
    >>> atari_agent.warmup_frames(atari_agent.AgentConfig(warmup=1_000))
    4000
    """
    return config.warmup * config.frame_skip


def multiplications(config: AgentConfig) -> float:
    """Return how many multiplications a forward pass takes for one observation.

    >>> from plasticity.agents import atari_agent
    >>> f"{atari_agent.multiplications(atari_agent.AgentConfig()):,.0f}"
    '9,342,976'
    """
    total, side, depth = 0.0, config.size, config.stack
    for channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        side = (side - kernel) // stride + 1
        total += side**2 * channels * kernel**2 * depth
        depth = channels
    return total + 512 * side**2 * depth
