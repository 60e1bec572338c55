"""An agent that plays an Atari game by its settings: preprocessing, network, double DQN (A.3).

What `plasticity.agents.double_dqn` trains, from one dataclass.
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
    """Settings of one agent: those of dqn_zoo's ``double_q`` where A.3 has no others."""

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
    """Return what lies between the emulator and the agent."""
    return atari.Preprocessing(
        no_ops=config.no_ops, frame_skip=config.frame_skip, size=config.size, stack=config.stack,
        reward_bound=config.reward_bound,
        life_loss_zeroes_discount=config.life_loss_zeroes_discount, sticky=config.sticky,
        episode_frames=config.episode_frames, full_actions=config.full_actions,
    )  # fmt: skip


def emulators(
    config: AgentConfig, copies: int = 1, purpose: str = "training"
) -> atari_callback.Emulators:
    """Return the emulators of an agent: see `plasticity.worlds.atari_callback.Emulators`."""
    return atari_callback.Emulators(config.game, copies, preprocessing(config), purpose)


def network(config: AgentConfig, outputs: int) -> architectures.NatureCNN:
    """Return the agent's network."""
    return architectures.NatureCNN(outputs, config.layer_norm, config.shared_bias)


def agent(config: AgentConfig, outputs: int) -> double_dqn.Agent:
    """Return the agent of ``config`` for a game of so many actions."""
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
    """Return for how many frames nothing is learned."""
    return config.warmup * config.frame_skip


def multiplications(config: AgentConfig) -> float:
    """Return how many multiplications a forward pass takes for one observation."""
    total, side, depth = 0.0, config.size, config.stack
    for channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        side = (side - kernel) // stride + 1
        total += side**2 * channels * kernel**2 * depth
        depth = channels
    return total + 512 * side**2 * depth
