"""Settings of problems, optimizers and algorithms, each a small frozen dataclass.

Where the paper is silent a field's comment says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from plasticity import configuration
from plasticity.agents import dqn, optimizers
from plasticity.shapes import Array, Float, Int
from plasticity.worlds import classification_mdp, image_files


@dataclass(frozen=True)
class Problem:
    """A classification MDP and its images (§3.2).

    >>> from plasticity.agents.settings import Problem
    >>> Problem(variant="random_label").dataset
    'mnist_5k'
    """

    variant: classification_mdp.Variant = "true_label"
    dataset: image_files.Dataset = "mnist_5k"
    n_images: int = 5_000  # not in the paper for the MDPs

    def __post_init__(self) -> None:
        """Refuse settings that define no problem."""
        configuration.check(self)
        configuration.require_positive(self, "n_images")


@dataclass(frozen=True)
class DQN:
    """Settings of Q-learning: of these the paper gives only the target period (§5.1).

    >>> from plasticity.agents.settings import DQN
    >>> DQN(target_period=100).batch_size
    32
    """

    batch_size: int = 32  # transitions, drawn with replacement
    discount: float = 0.99
    target_period: int = 1_000  # optimizer steps
    epsilon: float = 0.1  # probability of a random action
    double: bool = False  # double Q-learning
    warmup: int = 1_000  # random transitions before the first optimizer step
    capacity: int = 10_000  # transitions in the replay buffer

    def __post_init__(self) -> None:
        """Refuse other types; `plasticity.agents.dqn.Agent` refuses what cannot learn."""
        configuration.check(self)


ADAM_EPS = optimizers.DEFAULT_ADAM.eps


class Rates(NamedTuple):
    """The numbers of an `Optimizer`, or arrays of them."""

    learning_rate: Any
    weight_decay: Any


@dataclass(frozen=True)
class Optimizer:
    """Settings of an optimizer, for learning and for the probe alike.

    >>> from plasticity.agents.settings import Optimizer
    >>> Optimizer("sgd", learning_rate=1e-2).weight_decay
    0.0
    """

    name: optimizers.OptimizerName = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0  # §6.2's ℓ₂ penalty: this times the parameters joins the gradient
    eps: float = ADAM_EPS  # Adam's, outside the root; A.1's, for agents the paper gives none

    def __post_init__(self) -> None:
        """Refuse what cannot learn."""
        configuration.check(self)
        configuration.require_positive(self, "learning_rate", "eps")
        configuration.require(
            self.name == "adam" or self.eps == ADAM_EPS,
            f"eps = {self.eps}: it is Adam's, and name = {self.name!r}",
        )
        configuration.require(
            self.weight_decay >= 0, f"weight_decay = {self.weight_decay}: must not be below 0"
        )

    @property
    def rates(self) -> Rates:
        """The numbers that a compiled program can be given, so that it serves all of them."""
        return Rates(self.learning_rate, self.weight_decay)

    @property
    def form(self) -> Optimizer:
        """The settings that decide what is computed: equal if optimizers differ only in rates.

        >>> from plasticity.agents.settings import Optimizer
        >>> Optimizer(learning_rate=1e-3).form == Optimizer(learning_rate=1e-4).form
        True
        >>> Optimizer().form == Optimizer(weight_decay=1e-5).form  # one has no term to compute
        False
        """
        return Optimizer(self.name, 1.0, 1.0 if self.weight_decay else 0.0, self.eps)

    def transformation(self, rates: Rates | None = None) -> optax.GradientTransformation:
        """Return the optimizer, with other ``rates`` of the same `form` if any are given."""
        learning_rate, weight_decay = rates or self.rates
        found = optimizers.of_name(self.name, learning_rate, self.eps)
        if self.weight_decay:
            found = optax.chain(optax.add_decayed_weights(weight_decay), found)
        return found


@dataclass(frozen=True)
class CentredRMSProp:
    """Settings of dqn_zoo's optimizer for Atari games (Quan & Ostrovski 2020).

    >>> from plasticity.agents.settings import CentredRMSProp
    >>> CentredRMSProp(learning_rate=1e-4).decay
    0.95
    """

    learning_rate: float = 0.00025
    decay: float = 0.95  # of the moments
    epsilon: float = 0.01 / 32**2  # inside the root

    def __post_init__(self) -> None:
        """Refuse what cannot learn."""
        configuration.check(self)
        configuration.require_positive(self, "learning_rate", "decay", "epsilon")

    def transformation(self) -> optax.GradientTransformation:
        """Return the optimizer."""
        return optax.rmsprop(
            self.learning_rate, decay=self.decay, eps=self.epsilon, centered=True
        )  # fmt: skip


@dataclass(frozen=True)
class GameDQN:
    """Settings of double DQN on games: those of dqn_zoo's ``double_q`` unless A.3 gives others.

    Durations are in frames of the game, as in dqn_zoo and in the paper: an agent that acts every
    fourth frame and learns every 16 frames learns once in four actions.

    >>> from plasticity.agents.settings import GameDQN
    >>> GameDQN().actions_per_step(frame_skip=4)
    4
    """

    discount: float = 0.99
    batch_size: int = 32  # transitions
    learn_period: int = 16  # frames; "once every 4 environment steps"
    target_period: int = 120_000  # frames
    capacity: int = 100_000  # transitions; A.3, against 1,000,000 in dqn_zoo
    warmup: int = 5_000  # random actions before the first update: a twentieth of the capacity
    epsilon_start: float = 1.0  # probability of a random action after the warm-up
    epsilon: float = 0.1  # this probability in the end; A.3, against 0.01 in dqn_zoo
    epsilon_frames: int = 4_000_000  # frames over which it falls, linearly
    error_bound: float = 1.0  # bound on temporal-difference errors

    def __post_init__(self) -> None:
        """Refuse what cannot learn; `plasticity.agents.dqn.Agent` refuses the rest."""
        configuration.check(self)
        configuration.require_positive(
            self, "learn_period", "target_period", "epsilon_frames", "error_bound"
        )
        for name in ("epsilon_start", "epsilon"):
            value = getattr(self, name)
            configuration.require(0 <= value <= 1, f"{name} = {value}: must lie in [0, 1]")
        configuration.require(
            self.target_period % self.learn_period == 0,
            f"target_period = {self.target_period}: must be a multiple of learn_period = "
            f"{self.learn_period}",
        )

    def actions_per_step(self, frame_skip: int) -> int:
        """Return how many actions there are per update, if each lasts ``frame_skip`` frames."""
        configuration.require(
            self.learn_period % frame_skip == 0,
            f"learn_period = {self.learn_period}: must be a multiple of frame_skip = {frame_skip}",
        )
        return self.learn_period // frame_skip

    def exploration(self, frame_skip: int) -> dqn.Exploration:
        """Return the probability of a random action by the number of actions since the warm-up."""

        def epsilon(actions: Int[Array, ...]) -> Float[Array, ...]:
            share = jnp.clip(actions * (frame_skip / self.epsilon_frames), 0, 1)
            return self.epsilon_start + (self.epsilon - self.epsilon_start) * share

        return epsilon
