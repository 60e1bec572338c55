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
import numpy as np
import optax

from plasticity.agents import losses, replay
from plasticity.networks import heads
from plasticity.shapes import Array, Bool, Float, Int, Key
from plasticity.worlds import classification_mdp
from plasticity.worlds.classification_mdp import MDP

Images = Float[Array, "images *pixels"]


@dataclass(frozen=True)
class Agent:
    """What of an agent never changes."""

    apply: Callable[[Any, Array], Array]  # (params, images) → (batch, actions) or with bins: below
    optimizer: optax.GradientTransformation
    discount: float  # γ
    target_period: int  # optimizer steps between two copies of the network to its target
    batch_size: int  # transitions
    epsilon: float  # probability of a random action
    warmup: int  # random transitions before the first optimizer step
    capacity: int  # transitions in the replay buffer
    double: bool = False  # double Q-learning: the online network chooses the target's action
    # Two-hot outputs: the values of the bins. ``apply`` then returns actions · bins logits.
    support: tuple[float, ...] = ()
    # The network as the loss sees it, for example with dropout; None: as everybody sees it.
    learning: Callable[[Any, Array], Array] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for settings with which no agent can learn."""
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount = {self.discount}: must lie in [0, 1)")
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon = {self.epsilon}: must lie in [0, 1]")
        for name in ("target_period", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        if not self.batch_size <= self.warmup <= self.capacity:
            raise ValueError(
                f"batch_size = {self.batch_size}, warmup = {self.warmup}, capacity = "
                f"{self.capacity}: a batch must fit into the warm-up, and that into the buffer"
            )
        if self.support and not (len(self.support) > 1 and np.all(np.diff(self.support) > 0)):
            raise ValueError(f"support = {self.support}: needs two or more ascending values")

    def outputs(self, params: Any, images: Images) -> Array:
        """Return what the loss is made of: values (batch, actions) or logits with bins last."""
        return self._shaped((self.learning or self.apply)(params, images))

    def values(self, params: Any, images: Images) -> Float[Array, "batch actions"]:
        """Return the action values Q(s, ·)."""
        return self.read(self.apply(params, images))

    def read(self, found: Float[Array, "batch _"]) -> Float[Array, "batch actions"]:
        """Return the action values that an output of the network stands for."""
        shaped = self._shaped(found)
        return heads.decode(shaped, jnp.asarray(self.support)) if self.support else shaped

    def _shaped(self, found: Array) -> Array:
        return found.reshape(len(found), -1, len(self.support)) if self.support else found


class Transition(NamedTuple):
    """What the buffer stores; observations are indices of images."""

    observation: Int[Array, "*batch"]
    action: Int[Array, "*batch"]
    reward: Float[Array, "*batch"]
    following: Int[Array, "*batch"]  # the observation after it


class State(NamedTuple):
    """Everything of an agent that changes."""

    params: Any
    target_params: Any
    opt_state: Any
    buffer: replay.Buffer
    environment: classification_mdp.State
    steps: Int[Array, ""]  # optimizer steps taken
    key: Key[Array, ""]
    event_key: Key[Array, ""]  # for the event that follows the last target update


class Metrics(NamedTuple):
    """What is seen from inside of training; one entry a stretch between two looks at the target."""

    td_loss: Float[Array, " stretches"]  # mean over the steps of the squared error of values
    td_loss_max: Float[Array, " stretches"]  # largest of a single batch
    reward: Float[Array, " stretches"]  # mean a transition


Event = Callable[[Key[Array, ""], State], State]
"""An intervention: called between a target update and the next step. See `train`."""


def start(agent: Agent, mdp: MDP, params: Any, key: Key[Array, ""]) -> State:
    """Return an agent before its first optimizer step, its buffer holding random transitions."""
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
    steps = jnp.zeros((), jnp.int32)
    # A copy: training donates its state, and one array cannot be given away twice.
    target_params = jax.tree.map(jnp.copy, params)
    opt_state = agent.optimizer.init(params)
    event_key = jnp.copy(key)  # not used: each target update draws another
    return State(params, target_params, opt_state, buffer, environment, steps, key, event_key)


def train(
    agent: Agent, mdp: MDP, images: Images, state: State, steps: int, event: Event | None = None
) -> tuple[State, Metrics]:
    """Take ``steps`` optimizer steps, one environment step with each, and copy the target.

    Every ``agent.target_period`` steps of the agent's life the target network becomes a copy of the
    network. Before the step after that ``event(key, state)`` may intervene, for example reset a
    layer: training that ends at a target update ends before the event, so that what is measured
    then is the network that was trained. Raises ValueError unless there is at least one step and an
    image for each label.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: must be above 0")
    if images.shape[0] != mdp.label.shape[0]:
        raise ValueError(f"{images.shape[0]} images, but {mdp.label.shape[0]} labels")
    # The longest stretch that ends at every target update, whatever steps were taken before.
    stretch = math.gcd(agent.target_period, steps)

    def advance(state: State, _: None) -> tuple[State, Metrics]:
        if event is not None:
            due = (state.steps > 0) & (state.steps % agent.target_period == 0)
            state = jax.lax.cond(due, lambda s: event(s.event_key, s), lambda s: s, state)
        state, metrics = _stretch(agent, mdp, images, state, stretch)
        due = state.steps % agent.target_period == 0
        return _if_due(stretch == agent.target_period, due, _update_target, state), metrics

    return jax.lax.scan(advance, state, length=steps // stretch)


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
        params, opt_state, buffer, environment = carry
        explore, random_action, step_key, uniform = draw
        seen = images[environment.observation][None]
        greedy = jnp.argmax(agent.values(params, seen)[0]).astype(jnp.int32)
        action = jnp.where(explore, random_action, greedy)
        environment, transition = _interact(mdp, environment, action, step_key)
        buffer = replay.add(buffer, transition)
        batch = replay.sample(buffer, uniform)
        targets = _targets(agent, images, params, batch, bootstrap)
        params, opt_state, loss = learn(
            agent, params, opt_state, images[batch.observation], batch.action, targets
        )
        return (params, opt_state, buffer, environment), (loss, transition.reward)

    carry = (state.params, state.opt_state, state.buffer, state.environment)
    carry, (loss, reward) = jax.lax.scan(step, carry, draws)
    params, opt_state, buffer, environment = carry
    metrics = Metrics(jnp.mean(loss), jnp.max(loss), jnp.mean(reward))
    state = state._replace(
        params=params, opt_state=opt_state, buffer=buffer, environment=environment,
        steps=state.steps + steps, key=key,
    )  # fmt: skip
    return state, metrics


def _bootstrap(
    agent: Agent, images: Images, target_params: Any, steps: int
) -> Callable[[Int[Array, " batch"]], Float[Array, "batch actions"]]:
    """Return the target network's values of images by index, by the form that computes less."""
    if images.shape[0] > steps * agent.batch_size:
        return lambda chosen: agent.values(target_params, images[chosen])
    table = agent.values(target_params, images)
    return lambda chosen: table[chosen]


def _targets(
    agent: Agent,
    images: Images,
    params: Any,
    batch: Transition,
    bootstrap: Callable[[Int[Array, " batch"]], Float[Array, "batch actions"]],
) -> Float[Array, " batch"]:
    """Return the regression targets of a batch."""
    q_t = bootstrap(batch.following)
    if agent.double:
        selector = agent.values(params, images[batch.following])
        return jax.vmap(losses.double_q_target, (0, None, 0, 0))(
            batch.reward, agent.discount, q_t, selector
        )
    return jax.vmap(losses.q_target, (0, None, 0))(batch.reward, agent.discount, q_t)


def learn(
    agent: Agent,
    params: Any,
    opt_state: Any,
    images: Images,
    actions: Int[Array, " batch"],
    targets: Float[Array, " batch"],
) -> tuple[Any, Any, Float[Array, ""]]:
    """Take one optimizer step on the temporal-difference loss of Eq. (1).

    Also return the mean squared error of the values, which for regression is that loss. A two-hot
    output descends its cross-entropy, which could not be compared.
    """
    loss = _loss(agent, images, actions, targets)
    (_, error), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    update, opt_state = agent.optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, update), opt_state, error


def _loss(
    agent: Agent, images: Images, actions: Int[Array, " batch"], targets: Float[Array, " batch"]
) -> Callable[[Any], tuple[Float[Array, ""], Float[Array, ""]]]:
    """Return the loss of the parameters, and with it the mean squared error of the values."""

    def loss(params: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
        found = agent.outputs(params, images)
        if agent.support:
            support = jnp.asarray(agent.support)
            each = jax.vmap(losses.two_hot_loss, (0, 0, 0, None))
            cross_entropy = jnp.mean(each(found, actions, targets, support))
            return cross_entropy, _error(heads.decode(found, support), actions, targets)
        error = _error(found, actions, targets)
        return error, error

    return loss


def _error(values: Array, actions: Array, targets: Array) -> Float[Array, ""]:
    return jnp.mean(jax.vmap(losses.regression_loss)(values, actions, targets))


def gradient_norm(agent: Agent, images: Images, state: State) -> Float[Array, ""]:
    """Return the norm of the gradient of the loss over the last `warmup` transitions stored."""
    newest = state.buffer.added - 1 - jnp.arange(agent.warmup)
    batch = jax.tree.map(lambda leaf: leaf[newest % agent.capacity], state.buffer.items)
    table = agent.values(state.target_params, images)
    goals = _targets(agent, images, state.params, batch, lambda chosen: table[chosen])
    loss = _loss(agent, images[batch.observation], batch.action, goals)
    gradient, _ = jax.grad(loss, has_aux=True)(state.params)
    norm: Array = optax.tree.norm(gradient)
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
    """
    values = agent.values(params, images)
    right = optimal[mdp.label, jnp.argmax(values, axis=1)]
    return jnp.mean(right & jnp.all(jnp.isfinite(values), axis=1))


def is_finite(params: Any) -> Bool[Array, ""]:
    """Return whether every parameter is a finite number; an agent that diverged has some not."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))
