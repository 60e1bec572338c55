"""Deep Q-learning in a classification MDP: the agent that the paper probes (§5.1, A.2).

Acting, the environment, replay and learning are one jitted scan. The target network is frozen
between two copies, so its values are computed once for every image, a table that the steps of the
period look up: fewer rows than computing them batch by batch, and the target network is no part of
the inner loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from plasticity import learner as learning
from plasticity.agents import q_learning, replay
from plasticity.agents.q_learning import QLearning
from plasticity.cure import Seen
from plasticity.learner import Learner
from plasticity.shapes import Array, Bool, Float, Int, Key
from plasticity.worlds import classification_mdp
from plasticity.worlds.classification_mdp import MDP

Images = Float[Array, "images *pixels"]


@dataclass(frozen=True, kw_only=True)
class Agent(QLearning):
    """A `QLearning` agent and how it trains in a classification MDP.

    >>> import jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.adam(1e-3), target_period=100,
    ...     epsilon=0.1, warmup=50, capacity=1_000)
    >>> agent.values(jnp.zeros((3, 10)), jnp.ones((2, 3))).shape
    (2, 10)
    """

    target_period: int  # optimizer steps between two copies of the network to its target
    epsilon: float  # probability of a random action
    warmup: int  # random transitions before the first optimizer step
    capacity: int  # transitions in the replay buffer

    def __post_init__(self) -> None:
        """Raise ValueError for settings with which no agent can learn."""
        super().__post_init__()
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon = {self.epsilon}: must lie in [0, 1]")
        if self.target_period < 1:
            raise ValueError(f"target_period = {self.target_period}: must be above 0")
        if not self.batch_size <= self.warmup <= self.capacity:
            raise ValueError(
                f"batch_size = {self.batch_size}, warmup = {self.warmup}, capacity = "
                f"{self.capacity}: a batch must fit into the warm-up, and that into the buffer"
            )


class Transition(NamedTuple):
    """What the buffer stores; observations are indices of images."""

    observation: Int[Array, "*batch"]
    action: Int[Array, "*batch"]
    reward: Float[Array, "*batch"]
    following: Int[Array, "*batch"]  # the observation after it


class State(NamedTuple):
    """Everything of an agent that changes."""

    learner: Learner
    target_params: Any
    buffer: replay.Buffer
    environment: classification_mdp.State
    key: Key[Array, ""]
    event_key: Key[Array, ""]  # drawn at the last target update, for the cure's events

    @property
    def params(self) -> Any:
        """The network's parameters."""
        return self.learner.params


class Metrics(NamedTuple):
    """What is seen from inside of training; one entry a stretch between two looks at the target."""

    td_loss: Float[Array, " stretches"]  # mean over the steps of the squared error of values
    td_loss_max: Float[Array, " stretches"]  # largest of a single batch
    reward: Float[Array, " stretches"]  # mean a transition


def start(agent: Agent, mdp: MDP, params: Any, key: Key[Array, ""]) -> State:
    """Return an agent before its first optimizer step, its buffer holding random transitions.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), batch_size=1,
    ...     target_period=2, epsilon=0.1, warmup=4, capacity=8)
    >>> start = jax.jit(dqn.start, static_argnums=0)
    >>> state = start(agent, mdp, jnp.zeros((3, 10)), jax.random.key(1))
    >>> int(state.buffer.size), int(state.learner.steps)
    (4, 0)
    """
    reset_key, walk_key, key = jax.random.split(key, 3)
    actions = mdp.reward.shape[1]

    def walk(environment: classification_mdp.State, key: Key[Array, ""]) -> Any:
        act_key, step_key = jax.random.split(key)
        action = jax.random.randint(act_key, (), 0, actions)
        return _interact(mdp, environment, action, step_key)

    environment = classification_mdp.reset(reset_key, mdp)
    environment, seen = jax.lax.scan(walk, environment, jax.random.split(walk_key, agent.warmup))
    buffer = replay.create(agent.capacity, jax.tree.map(lambda x: x[0], seen))
    items = jax.tree.map(lambda leaf, x: leaf.at[: agent.warmup].set(x), buffer.items, seen)
    buffer = replay.Buffer(items, jnp.asarray(agent.warmup, jnp.int32))
    # Keys 0 and 1 of this one are those of the first update of the target.
    learner = learning.start(agent.optimizer, params, agent.cure, jax.random.fold_in(key, 2))
    # A copy: training donates its state, and one array cannot be given away twice.
    target_params = jax.tree.map(jnp.copy, params)
    event_key = jnp.copy(key)  # each target update draws another
    return State(learner, target_params, buffer, environment, key, event_key)


def train(
    agent: Agent, mdp: MDP, images: Images, state: State, steps: int
) -> tuple[State, Metrics]:
    """Take ``steps`` optimizer steps, one environment step with each, and copy the target.

    Every ``agent.target_period`` steps of the agent's life the target network becomes a copy of the
    network. Before the step after its own period the cure's event may intervene, for example reset
    a layer: training that ends there ends before the event, so that what is measured then is the
    network that was trained. Raises ValueError unless there is at least one step and an image for
    each label.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), batch_size=1,
    ...     target_period=2, epsilon=0.1, warmup=4, capacity=8)
    >>> start = jax.jit(dqn.start, static_argnums=0)
    >>> state = start(agent, mdp, jnp.zeros((3, 10)), jax.random.key(1))
    >>> state, metrics = dqn.train(agent, mdp, jnp.ones((10, 3)), state, steps=4)
    >>> int(state.learner.steps), metrics.td_loss.shape  # an entry a target period
    (4, (2,))
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: must be above 0")
    if images.shape[0] != mdp.label.shape[0]:
        raise ValueError(f"{images.shape[0]} images, but {mdp.label.shape[0]} labels")
    # The longest stretch that ends at every target update and event, whatever was before.
    stretch = math.gcd(agent.target_period, steps, agent.cure.every)

    def advance(state: State, _: None) -> tuple[State, Metrics]:
        state = _intervene(agent, images, state)
        state, metrics = _stretch(agent, mdp, images, state, stretch)
        due = state.learner.steps % agent.target_period == 0
        return _if_due(stretch == agent.target_period, due, _update_target, state), metrics

    return jax.lax.scan(advance, state, length=steps // stretch)


def _intervene(agent: Agent, images: Images, state: State) -> State:
    """Let the cure's event happen if it is due, on a batch of what the buffer holds."""
    if agent.cure.event is None:
        return state
    key = state.event_key
    if agent.cure.every % agent.target_period:  # there may be several between two of these keys
        key = jax.random.fold_in(jax.random.fold_in(key, 3), state.learner.steps)

    def seen(learner: Learner) -> Seen:
        # Apart from what cures make of their key: a split of it is its folds with 0, 1, ...
        own_key = jax.random.fold_in(key, 2**31 - 1)
        uniform = jax.random.uniform(own_key, (agent.batch_size,))
        inputs = images[replay.sample(state.buffer, uniform).observation]
        return Seen(inputs, agent.activations(learner.params, inputs))

    return state._replace(learner=learning.intervene(agent.cure, key, state.learner, seen))


def _update_target(state: State) -> State:
    # A key for an event, happen or not: agents that differ in it share their other numbers.
    key, event_key = jax.random.split(state.key)
    return state._replace(target_params=state.params, key=key, event_key=event_key)


def _if_due(
    always: bool, due: Bool[Array, ""], update: Callable[[State], State], state: State
) -> State:
    """Update if it is due; a stretch as long as the period always ends at an update."""
    return update(state) if always else jax.lax.cond(due, update, lambda s: s, state)


def _stretch(
    agent: Agent, mdp: MDP, images: Images, state: State, steps: int
) -> tuple[State, Metrics]:
    """Act and learn for ``steps`` steps with a fixed target network."""
    key, now = jax.random.split(state.key)
    explore_key, choose_key, step_key, sample_key = jax.random.split(now, 4)
    # Drawn at once: many small draws inside the scan would cost as much as a small network.
    draws = (
        jax.random.uniform(explore_key, (steps,)) < agent.epsilon,
        jax.random.randint(choose_key, (steps,), 0, mdp.reward.shape[1]),
        jax.random.split(step_key, steps),
        jax.random.uniform(sample_key, (steps, agent.batch_size)),
    )
    bootstrap = _bootstrap(agent, images, state.target_params, steps)

    def step(carry: Any, draw: Any) -> tuple[Any, tuple[Array, Array]]:
        learner, buffer, environment = carry
        explore, random_action, step_key, uniform = draw
        seen = images[environment.observation][None]
        greedy = jnp.argmax(agent.values(learner.params, seen)[0]).astype(jnp.int32)
        action = jnp.where(explore, random_action, greedy)
        environment, transition = _interact(mdp, environment, action, step_key)
        buffer = replay.add(buffer, transition)
        chosen = replay.sample(buffer, uniform)
        batch, q_t = _with_images(images, chosen), bootstrap(chosen.following)
        learner, taken = q_learning.learn(agent, learner, batch, q_t)
        return (learner, buffer, environment), (taken.aux.squared, transition.reward)

    carry = (state.learner, state.buffer, state.environment)
    (learner, buffer, environment), (error, reward) = jax.lax.scan(step, carry, draws)
    metrics = Metrics(jnp.mean(error), jnp.max(error), jnp.mean(reward))
    state = state._replace(learner=learner, buffer=buffer, environment=environment, key=key)
    return state, metrics


def _bootstrap(
    agent: Agent, images: Images, target_params: Any, steps: int
) -> Callable[[Int[Array, " batch"]], Float[Array, "batch actions"]]:
    """Return the target network's values of images by index, by the form that computes less."""
    if images.shape[0] > steps * agent.batch_size:
        return lambda chosen: agent.values(target_params, images[chosen])
    table = agent.values(target_params, images)
    return lambda chosen: table[chosen]


def _with_images(images: Images, chosen: Transition) -> q_learning.Batch:
    """Return transitions with the images that their indices stand for."""
    return q_learning.Batch(
        images[chosen.observation], chosen.action, chosen.reward, images[chosen.following]
    )


def gradient_norm(agent: Agent, images: Images, state: State) -> Float[Array, ""]:
    """Return the norm of the gradient of the loss over the last `warmup` transitions stored.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), batch_size=1,
    ...     target_period=2, epsilon=0.1, warmup=4, capacity=8)
    >>> start, norm = (jax.jit(f, static_argnums=0) for f in (dqn.start, dqn.gradient_norm))
    >>> state = start(agent, mdp, jnp.zeros((3, 10)), jax.random.key(1))
    >>> float(norm(agent, jnp.zeros((10, 3)), state))  # black images teach nothing
    0.0
    """
    newest = state.buffer.added - 1 - jnp.arange(agent.warmup)
    chosen = jax.tree.map(lambda leaf: leaf[newest % agent.capacity], state.buffer.items)
    table = agent.values(state.target_params, images)
    batch = _with_images(images, chosen)
    target = q_learning.targets(agent, state.params, batch, table[chosen.following])

    def loss(params: Any) -> Float[Array, ""]:
        return q_learning.loss(agent, params, batch, target)[0]

    norm: Array = optax.tree.norm(jax.grad(loss)(state.params))
    return norm


def _interact(
    mdp: MDP, environment: classification_mdp.State, action: Int[Array, ""], key: Key[Array, ""]
) -> tuple[classification_mdp.State, Transition]:
    following, reward = classification_mdp.step(key, environment, action, mdp)
    seen = Transition(environment.observation, action, reward, following.observation)
    return following, seen


def greedy_accuracy(
    agent: Agent, mdp: MDP, images: Images, params: Any, optimal: Bool[Array, "states actions"]
) -> Float[Array, ""]:
    """Return the share of images on which the greedy action is optimal.

    ``optimal`` is `plasticity.worlds.classification_mdp.optimal_actions`; in the true- and
    random-label problems this is the accuracy of a classifier. A diverged network has none.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> optimal = jnp.asarray(classification_mdp.optimal_actions("true_label", discount=0.99))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1),
    ...     target_period=100, epsilon=0.1, warmup=50, capacity=1_000)
    >>> float(dqn.greedy_accuracy(agent, mdp, jnp.eye(10), jnp.eye(10), optimal))
    1.0
    """
    values = agent.values(params, images)
    right = optimal[mdp.label, jnp.argmax(values, axis=1)]
    return jnp.mean(right & jnp.all(jnp.isfinite(values), axis=1))


def is_finite(params: Any) -> Bool[Array, ""]:
    """Return whether every parameter is a finite number; an agent that diverged has some not.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import dqn
    >>> bool(dqn.is_finite({"w": jnp.ones(2)})), bool(dqn.is_finite({"w": jnp.array([jnp.inf])}))
    (True, False)
    """
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))
