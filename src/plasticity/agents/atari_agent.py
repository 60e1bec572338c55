"""An agent that plays an Atari game, built from settings: preprocessing, network, double DQN (A.3).

`plasticity.agents.dqn` trains it on `plasticity.agents.atari_task`.
"""

from __future__ import annotations

from dataclasses import dataclass

from plasticity import configuration
from plasticity.agents import dqn
from plasticity.agents.settings import CentredRMSProp, GameDQN
from plasticity.networks import architectures
from plasticity.networks.heads import Huber
from plasticity.networks.settings import NatureCNN
from plasticity.worlds import atari, atari_callback
from plasticity.worlds.atari import Preprocessing


@dataclass(frozen=True)
class AgentConfig:
    """Settings of one agent.

    >>> from plasticity.agents.atari_agent import AgentConfig
    >>> from plasticity.networks.settings import NatureCNN
    >>> config = AgentConfig(game="pong", network=NatureCNN(layer_norm=True))
    >>> config.algorithm.capacity, config.preprocessing.size
    (100000, 84)
    """

    game: str = "freeway"
    preprocessing: Preprocessing = Preprocessing()
    network: NatureCNN = NatureCNN()
    optimizer: CentredRMSProp = CentredRMSProp()
    algorithm: GameDQN = GameDQN()

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        configuration.check(self)
        configuration.check(self.preprocessing)
        configuration.require(
            self.game in atari.GAMES, f"game = {self.game!r}: choose from {', '.join(atari.GAMES)}"
        )
        size = self.preprocessing.size
        configuration.require(size >= 36, f"size = {size}: the network needs 36 pixels or more")
        try:
            agent(self, outputs=1)
        except ValueError as error:
            raise configuration.ConfigError(str(error)) from None


def emulators(
    config: AgentConfig, copies: int = 1, purpose: str = "training"
) -> atari_callback.Emulators:
    """Return the emulators of an agent: see `plasticity.worlds.atari_callback.Emulators`.

    >>> from plasticity.agents import atari_agent
    >>> games = atari_agent.emulators(atari_agent.AgentConfig(game="pong"), copies=2)
    >>> games.game, games.n  # playing needs ale_py
    ('pong', 2)
    """
    return atari_callback.Emulators(config.game, copies, config.preprocessing, purpose)


def agent(config: AgentConfig, outputs: int) -> dqn.Agent:
    """Return the agent of ``config`` for a game with ``outputs`` actions.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.agents import atari_agent
    >>> config, frames = atari_agent.AgentConfig(game="pong"), jnp.zeros((1, 84, 84, 4), jnp.uint8)
    >>> params = jax.eval_shape(config.network.module(6).init, jax.random.key(0), frames)
    >>> jax.eval_shape(atari_agent.agent(config, outputs=6).values, params, frames).shape
    (1, 6)
    """
    model, settings = config.network.module(outputs), config.algorithm
    frame_skip = config.preprocessing.frame_skip
    return dqn.Agent(
        apply=architectures.predictions(model), hidden=architectures.activations(model),
        optimizer=config.optimizer.transformation(), head=Huber(bound=settings.error_bound),
        double=True, discount=settings.discount, batch_size=settings.batch_size,
        target_period=settings.target_period // settings.learn_period,
        actions_per_step=settings.actions_per_step(frame_skip),
        capacity=settings.capacity, warmup=settings.warmup,
        epsilon=settings.exploration(frame_skip),
    )  # fmt: skip


def warmup_frames(config: AgentConfig) -> int:
    """Return for how many frames nothing is learned.

    >>> from plasticity.agents import atari_agent
    >>> atari_agent.warmup_frames(atari_agent.AgentConfig())
    20000
    """
    return config.algorithm.warmup * config.preprocessing.frame_skip
