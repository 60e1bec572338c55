"""Deep Q-learning, whatever the environment and the buffer: values, targets, loss, one step.

The training loop is `plasticity.agents.dqn`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from plasticity import learner as learning
from plasticity.agents import losses
from plasticity.cure import NONE, Cure
from plasticity.learner import Learner, Taken
from plasticity.networks.heads import Head, SquaredError
from plasticity.shapes import Array, Float, Int

REGRESSION = SquaredError()
"""The head of Eq. (1)."""


@dataclass(frozen=True, kw_only=True)
class QLearning:
    """Settings of an agent that learns action values, apart from its training loop.

    >>> import jax.numpy as jnp, optax
    >>> from plasticity.agents.q_learning import QLearning
    >>> from plasticity.networks.heads import TwoHot
    >>> agent = QLearning(
    ...     apply=lambda params, x: x @ params, optimizer=optax.adam(1e-3), head=TwoHot((0.0, 1.0)))
    >>> agent.values(jnp.zeros((3, 4)), jnp.ones((1, 3))).tolist()  # two actions of two bins
    [[0.5, 0.5]]
    """

    # (params, observations) → outputs, (batch, actions) or (batch, actions · bins): see `head`
    apply: Callable[[Any, Array], Array]
    optimizer: optax.GradientTransformation
    discount: float = 0.99  # γ
    batch_size: int = 32  # transitions
    head: Head = REGRESSION  # what outputs say of values
    double: bool = False  # double Q-learning: the online network chooses the target's action
    # The network as the loss sees it, for example with dropout; None: the same as `apply`.
    learning: Callable[[Any, Array], Array] | None = None
    cure: Cure = NONE
    # (params, observations) → the activations of each hidden layer, for events that look at units
    hidden: Callable[[Any, Array], tuple[Array, ...]] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for settings with which no agent can learn."""
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount = {self.discount}: must lie in [0, 1)")
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size}: must be above 0")

    def outputs(self, params: Any, observations: Array) -> Array:
        """Return what the loss is computed from: outputs per action, with any bins last."""
        return self.head.shaped((self.learning or self.apply)(params, observations))

    def values(self, params: Any, observations: Array) -> Float[Array, "batch actions"]:
        """Return the action values Q(s, ·)."""
        return self.read(self.apply(params, observations))

    def read(self, found: Float[Array, "batch _"]) -> Float[Array, "batch actions"]:
        """Return the action values that an output of the network stands for."""
        return self.head.decode(self.head.shaped(found))

    def activations(self, params: Any, observations: Array) -> tuple[Array, ...]:
        """Return the activations of each hidden layer; empty without ``hidden``."""
        return () if self.hidden is None else self.hidden(params, observations)


class Batch(NamedTuple):
    """Transitions to learn from, with observations as the network takes them."""

    observation: Array
    action: Int[Array, " batch"]
    reward: Float[Array, " batch"]
    following: Array  # the observation after it
    ends: Float[Array, " batch"] | None = None  # 0 where nothing follows, else 1; None: always 1


class Errors(NamedTuple):
    """What the loss returns besides its value."""

    squared: Float[Array, ""]  # mean squared error of the values, which all heads share
    value: Float[Array, ""]  # mean over the batch of the largest action value


def learn(
    agent: QLearning, learner: Learner, batch: Batch, q_t: Float[Array, "batch actions"]
) -> tuple[Learner, Taken]:
    """Take one optimizer step on the temporal-difference loss of Eq. (1).

    ``q_t`` are the target network's values at ``batch.following``; ``Taken.aux`` is `Errors`.

    >>> import jax.numpy as jnp, optax
    >>> from plasticity import learner
    >>> from plasticity.agents import q_learning
    >>> agent = q_learning.QLearning(
    ...     apply=lambda params, x: x * params, optimizer=optax.sgd(0.25), discount=0.5)
    >>> x, begun = jnp.ones((1, 2)), learner.start(agent.optimizer, jnp.array(1.0))
    >>> batch = q_learning.Batch(x, action=jnp.array([0]), reward=jnp.array([1.0]), following=x)
    >>> after, taken = q_learning.learn(agent, begun, batch, q_t=jnp.array([[2.0, 4.0]]))
    >>> float(taken.loss), float(after.params)  # the target is 3
    (4.0, 2.0)
    """

    def objective(params: Any, batch: Batch) -> tuple[Float[Array, ""], Errors]:
        return loss(agent, params, batch, q_t)

    return learning.step(agent.optimizer, agent.cure, objective, learner, batch)


def loss(
    agent: QLearning, params: Any, batch: Batch, q_t: Float[Array, "batch actions"]
) -> tuple[Float[Array, ""], Errors]:
    """Return the temporal-difference loss of a batch, Eq. (1), and its `Errors`.

    ``q_t`` are the target network's values at ``batch.following``. No gradient flows through the
    target: at most, ``params`` choose which action is best.

    >>> import jax.numpy as jnp, optax
    >>> from plasticity.agents import q_learning
    >>> agent = q_learning.QLearning(
    ...     apply=lambda params, x: x * params, optimizer=optax.sgd(0.25), discount=0.5)
    >>> x = jnp.ones((1, 2))
    >>> batch = q_learning.Batch(x, action=jnp.array([0]), reward=jnp.array([1.0]), following=x)
    >>> value, errors = q_learning.loss(agent, jnp.array(1.0), batch, jnp.array([[2.0, 4.0]]))
    >>> float(value), float(errors.value)  # the target is 3
    (4.0, 1.0)
    """
    q_tm1 = agent.outputs(params, batch.observation)
    target = targets(agent, params, batch, q_t)
    found = agent.head.losses(q_tm1, batch.action, target)
    value = jnp.mean(agent.head.decode(q_tm1).max(axis=1))
    return jnp.mean(found.loss), Errors(jnp.mean(found.squared), value)


def targets(
    agent: QLearning, params: Any, batch: Batch, q_t: Float[Array, "batch actions"]
) -> Float[Array, " batch"]:
    """Return r + γ q_t(a), with a the best action by ``q_t`` or, if ``double``, by ``params``.

    >>> import jax.numpy as jnp, optax
    >>> from plasticity.agents import q_learning
    >>> agent = q_learning.QLearning(
    ...     apply=lambda params, x: x * params, optimizer=optax.sgd(0.25), discount=0.5)
    >>> x = jnp.ones((1, 2))
    >>> batch = q_learning.Batch(x, action=jnp.array([0]), reward=jnp.array([1.0]), following=x)
    >>> q_learning.targets(agent, jnp.array(1.0), batch, q_t=jnp.array([[2.0, 4.0]])).tolist()
    [3.0]
    """
    discount: Any = agent.discount if batch.ends is None else agent.discount * batch.ends
    over = None if batch.ends is None else 0
    if agent.double:
        selector = agent.values(params, batch.following)
        return jax.vmap(losses.double_q_target, (0, over, 0, 0))(
            batch.reward, discount, q_t, selector
        )
    return jax.vmap(losses.q_target, (0, over, 0))(batch.reward, discount, q_t)
