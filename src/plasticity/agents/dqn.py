"""Deep Q-learning: act, remember, learn, and now and then update the target (Mnih et al. 2015).

The loop is the same for every environment. A `Task` is an environment with its replay buffer:
`plasticity.agents.mdp_task` for the classification MDPs of §5.1, `plasticity.agents.atari_task`
for games. The whole is one jitted scan::

    task = mdp_task.ImageTask(mdp, images)
    state = dqn.start(agent, task, params, key)
    state, metrics = dqn.train(agent, task, state, steps=1_000)

Q-learning itself (values, targets and loss) is in `plasticity.agents.q_learning`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from plasticity import learner as learning
from plasticity.agents import q_learning
from plasticity.agents.q_learning import QLearning
from plasticity.cure import Seen
from plasticity.learner import Learner, Taken
from plasticity.shapes import Array, Bool, Float, Int, Key

Exploration = Callable[[Int[Array, "..."]], Float[Array, "..."]]
"""The number of actions since the warm-up → the probability of a random one."""

Experience = Any
"""A task's state, a pytree: where its environment is, and what its buffer holds."""


@dataclass(frozen=True, kw_only=True)
class Agent(QLearning):
    """A `QLearning` agent with the settings of its training loop.

    >>> import jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.adam(1e-3), target_period=100,
    ...     epsilon=0.1, warmup=50, capacity=1_000)
    >>> agent.values(jnp.zeros((3, 10)), jnp.ones((2, 3))).shape
    (2, 10)
    """

    target_period: int  # optimizer steps between two copies of the network to the target network
    epsilon: float | Exploration  # probability of a random action
    warmup: int  # random transitions before the first optimizer step
    capacity: int  # transitions in the replay buffer
    actions_per_step: int = 1  # actions for each optimizer step

    def __post_init__(self) -> None:
        """Raise ValueError for settings with which no agent can learn."""
        super().__post_init__()
        if not callable(self.epsilon) and not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon = {self.epsilon}: must lie in [0, 1]")
        for name in ("target_period", "actions_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        if not self.batch_size <= self.warmup <= self.capacity:
            raise ValueError(
                f"batch_size = {self.batch_size}, warmup = {self.warmup}, capacity = "
                f"{self.capacity}: a batch must fit into the warm-up, and that into the buffer"
            )

    def exploration(self, actions: Int[Array, ...]) -> float | Float[Array, ...]:
        """Return the probability of a random action, ``actions`` actions after the warm-up."""
        return self.epsilon(actions) if callable(self.epsilon) else self.epsilon


@runtime_checkable
class Task(Protocol):
    """An environment and its replay buffer: what a `dqn.Agent` can learn from."""

    @property
    def actions(self) -> int:
        """How many actions there are to choose from."""

    def begin(self, agent: Agent, reset_key: Any, walk_key: Any) -> Experience:
        """Return what is known after ``agent.warmup`` random transitions."""

    def observe(self, experience: Experience) -> Array:
        """Return what the network is shown now, with a batch axis of length 1."""

    def act(self, experience: Experience, action: Int[Array, ""], key: Any) -> Experience:
        """Take an action. Its outcome may arrive later: see `settle`."""

    def settle(self, experience: Experience, after: Array | None = None) -> Experience:
        """Wait for the outcome of the action, once ``after`` is computed, and remember it."""

    def sample(self, experience: Experience, uniform: Float[Array, " batch"]) -> Any:
        """Draw transitions from the buffer by numbers in [0, 1)."""

    def batch(self, drawn: Any) -> q_learning.Batch:
        """Return what was drawn in the form that the network takes."""

    def bootstrap(
        self, agent: Agent, target_params: Any, batches: int
    ) -> Callable[[Any], Float[Array, "batch actions"]]:
        """Return a function from drawn transitions to the target network's values after them.

        It is called for ``batches`` batches before the target changes.
        """

    def report(self, experience: Experience, taken: Taken) -> dict[str, Float[Array, ""]]:
        """Return further metrics of a step; their means are kept."""


class State(NamedTuple):
    """Everything in an agent that changes."""

    learner: Learner
    target_params: Any
    experience: Experience
    key: Key[Array, ""]
    event_key: Key[Array, ""]  # drawn at the last target update, for the cure's events

    @property
    def params(self) -> Any:
        """The network's parameters."""
        return self.learner.params


Metrics = dict[str, Float[Array, "*stretches"]]
"""What training reports, one entry per stretch of steps with a fixed target network.

``td_loss`` is the mean squared error of values, ``td_loss_max`` the largest in a single batch; the
rest are means of what `Task.report` returns.
"""


def start(agent: Agent, task: Task, params: Any, key: Key[Array, ""]) -> State:
    """Return an agent before its first optimizer step, its buffer holding random transitions.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn, mdp_task
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), batch_size=1,
    ...     target_period=2, epsilon=0.1, warmup=4, capacity=8)
    >>> task = mdp_task.ImageTask(mdp, images=jnp.ones((10, 3)))
    >>> state = dqn.start(agent, task, jnp.zeros((3, 10)), jax.random.key(1))
    >>> int(state.experience.buffer.size), int(state.learner.steps)
    (4, 0)
    """
    return begun(agent, params, warm_up(agent, task, key), key)


def warm_up(agent: Agent, task: Task, key: Key[Array, ""]) -> Experience:
    """Return what `start` with this key knows after its random transitions.

    No network takes part: only the numbers of ``agent`` count.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn, mdp_task
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), batch_size=1,
    ...     target_period=2, epsilon=0.1, warmup=4, capacity=8)
    >>> task = mdp_task.ImageTask(mdp, images=jnp.ones((10, 3)))
    >>> int(dqn.warm_up(agent, task, jax.random.key(1)).buffer.size)
    4
    """
    reset_key, walk_key, _ = jax.random.split(key, 3)
    return task.begin(agent, reset_key, walk_key)


def begun(agent: Agent, params: Any, experience: Experience, key: Key[Array, ""]) -> State:
    """Return what `start` does, with the experience that `warm_up` gave for the same key.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn, mdp_task
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), batch_size=1,
    ...     target_period=2, epsilon=0.1, warmup=4, capacity=8)
    >>> task = mdp_task.ImageTask(mdp, images=jnp.ones((10, 3)))
    >>> key, params = jax.random.key(1), jnp.zeros((3, 10))
    >>> state = dqn.begun(agent, params, dqn.warm_up(agent, task, key), key)
    >>> bool(state.key == dqn.start(agent, task, params, key).key)
    True
    """
    _, _, key = jax.random.split(key, 3)
    # Folds 0 and 1 of this key are taken by the first update of the target.
    learner = learning.start(agent.optimizer, params, agent.cure, jax.random.fold_in(key, 2))
    # A copy: training donates its state, and one array cannot be donated twice.
    target_params = jax.tree.map(jnp.copy, params)
    event_key = jnp.copy(key)  # each target update draws another
    return State(learner, target_params, experience, key, event_key)


def train(agent: Agent, task: Task, state: State, steps: int) -> tuple[State, Metrics]:
    """Take ``steps`` optimizer steps, with ``agent.actions_per_step`` actions each.

    Every ``agent.target_period`` steps of the agent's life the target network becomes a copy of the
    network. The cure's event, for example a reset of a layer, happens just before the step that
    follows its period: training that ends there ends before the event, and the network measured
    then is the one that was trained. Raises ValueError unless there is at least one step.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn, mdp_task
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), batch_size=1,
    ...     target_period=2, epsilon=0.1, warmup=4, capacity=8)
    >>> task = mdp_task.ImageTask(mdp, images=jnp.ones((10, 3)))
    >>> train = jax.jit(dqn.train, static_argnums=(0, 3))
    >>> state = dqn.start(agent, task, jnp.zeros((3, 10)), jax.random.key(1))
    >>> state, metrics = train(agent, task, state, 4)
    >>> int(state.learner.steps), metrics["td_loss"].shape  # an entry per target period
    (4, (2,))
    """
    stretch = stretch_steps(agent, steps)

    def advance(state: State, _: None) -> tuple[State, Metrics]:
        state = intervene(agent, task, state)
        return train_stretch(
            agent, task, state, draws(agent, task.actions, state.key, state.learner.steps, stretch)
        )

    return jax.lax.scan(advance, state, length=steps // stretch)


def stretch_steps(agent: Agent, steps: int) -> int:
    """Return the longest stretch that ends at each target update and event, whatever came before.

    Raises ValueError unless there is at least one step.

    >>> import optax
    >>> from plasticity.agents import dqn
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), target_period=20,
    ...     epsilon=0.1, warmup=50, capacity=100)
    >>> dqn.stretch_steps(agent, 50)
    10
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: must be above 0")
    return math.gcd(agent.target_period, steps, agent.cure.every)


class Draws(NamedTuple):
    """The random numbers of a stretch, one row per step, and the key that follows.

    All are drawn at once: many small draws inside the scan would cost as much as a small network.
    """

    first: Any  # whether a step's first action explores, a random action, a key
    others: Any  # the same for its further actions; None if there are none
    batch: Float[Array, "steps batch"]  # in [0, 1), each of which stands for a transition
    key: Key[Array, ""]


def draws(
    agent: Agent, actions: int, key: Key[Array, ""], before: Int[Array, ""], steps: int
) -> Draws:
    """Return the random numbers of ``steps`` steps, each action being one of ``actions``.

    ``key`` is `State.key`; ``before`` counts the steps taken before. No network takes part: only
    the numbers of ``agent`` count.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), batch_size=1,
    ...     target_period=2, epsilon=0.1, warmup=4, capacity=8)
    >>> drawn = dqn.draws(agent, 10, jax.random.key(1), jnp.array(0), steps=5)
    >>> drawn.batch.shape, drawn.others is None
    ((5, 1), True)
    """
    key, now = jax.random.split(key)
    *choice_keys, sample_key = jax.random.split(now, 4)
    taken = agent.actions_per_step * (before + jnp.arange(steps))
    first, others = _choices(agent, actions, choice_keys, taken), None
    if agent.actions_per_step > 1:
        later = taken[:, None] + jnp.arange(1, agent.actions_per_step)[None]
        others = _choices(agent, actions, jax.random.split(jax.random.fold_in(now, 4), 3), later)
    return Draws(first, others, jax.random.uniform(sample_key, (steps, agent.batch_size)), key)


def _choices(agent: Agent, actions: int, keys: Any, taken: Int[Array, ...]) -> Any:
    """Return whether to explore, random actions and keys; ``taken`` counts the earlier actions."""
    explore_key, choose_key, step_key = keys
    return (
        jax.random.uniform(explore_key, taken.shape) < agent.exploration(taken),
        jax.random.randint(choose_key, taken.shape, 0, actions, jnp.int32),
        jax.random.split(step_key, taken.shape),
    )


def train_stretch(agent: Agent, task: Task, state: State, drawn: Draws) -> tuple[State, Metrics]:
    """Take the steps of a stretch, then update the target network if that is due.

    `train` is `intervene`, `draws` for `stretch_steps` and this, again and again. Who compiles each
    by itself lets agents that differ in events, or in their network, share some of them. The
    metrics are scalars.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn, mdp_task
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), batch_size=1,
    ...     target_period=2, epsilon=0.1, warmup=4, capacity=8)
    >>> task = mdp_task.ImageTask(mdp, images=jnp.ones((10, 3)))
    >>> state = dqn.start(agent, task, jnp.zeros((3, 10)), jax.random.key(1))
    >>> drawn = dqn.draws(agent, task.actions, state.key, state.learner.steps, steps=2)
    >>> state, metrics = dqn.train_stretch(agent, task, state, drawn)
    >>> int(state.learner.steps), metrics["td_loss"].shape
    (2, ())
    """
    state, metrics = _stretch(agent, task, state, drawn)
    steps = drawn.batch.shape[0]
    due = steps == agent.target_period or state.learner.steps % agent.target_period == 0
    return _update_target(state, due), metrics


def intervene(agent: Agent, task: Task, state: State) -> State:
    """Let the cure's event happen if it is due, on a batch of what the buffer holds.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn, mdp_task
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), batch_size=1,
    ...     target_period=2, epsilon=0.1, warmup=4, capacity=8)
    >>> task = mdp_task.ImageTask(mdp, images=jnp.ones((10, 3)))
    >>> state = dqn.start(agent, task, jnp.zeros((3, 10)), jax.random.key(1))
    >>> dqn.intervene(agent, task, state) is state  # this agent has no cure
    True
    """
    if agent.cure.event is None:
        return state
    key = state.event_key
    if agent.cure.every % agent.target_period:  # several events may share one of these keys
        key = jax.random.fold_in(jax.random.fold_in(key, 3), state.learner.steps)
    # Distinct from what cures derive from their key: splitting a key is folding it with 0, 1, ...
    own_key = jax.random.fold_in(key, 2**31 - 1)
    uniform = jax.random.uniform(own_key, (agent.batch_size,))
    # Drawn even if no event happens: XLA may copy a whole buffer that a conditional takes.
    inputs = task.batch(task.sample(state.experience, uniform)).observation

    def seen(learner: Learner) -> Seen:
        return Seen(inputs, agent.activations(learner.params, inputs))

    return state._replace(learner=learning.intervene(agent.cure, key, state.learner, seen))


def _update_target(state: State, due: bool | Bool[Array, ""]) -> State:
    """Copy the network to the target if that is due, and draw the key of the next events."""
    now = (state.params, state.target_params, state.key, state.event_key)

    def copy(now: Any) -> Any:
        # Drawn even without an event: agents that differ only in events share all other draws.
        return now[0], *jax.random.split(now[2])

    found = copy(now) if due is True else jax.lax.cond(due, copy, lambda now: now[1:], now)
    target_params, key, event_key = found
    return state._replace(target_params=target_params, key=key, event_key=event_key)


def _stretch(agent: Agent, task: Task, state: State, drawn: Draws) -> tuple[State, Metrics]:
    """Act and learn with a fixed target network, a step for each row of what was drawn."""
    bootstrap = task.bootstrap(agent, state.target_params, drawn.batch.shape[0])

    def act(params: Any, experience: Experience, choice: Any) -> Experience:
        explore, random_action, key = choice
        values = agent.values(params, task.observe(experience))[0]
        greedy = jnp.argmax(values).astype(jnp.int32)
        return task.act(experience, jnp.where(explore, random_action, greedy), key)

    def step(carry: Any, draw: Any) -> tuple[Any, dict[str, Array]]:
        (learner, experience), (first, others, uniform) = carry, draw
        experience = act(learner.params, experience, first)
        seen = task.sample(experience, uniform)
        learner, taken = q_learning.learn(agent, learner, task.batch(seen), bootstrap(seen))
        # Wait for the outcome of the action only when nothing else is left to do.
        experience = task.settle(experience, after=taken.loss)
        if others is not None:
            experience, _ = jax.lax.scan(
                lambda now, choice: (task.settle(act(learner.params, now, choice)), None),
                experience, others,
            )  # fmt: skip
        report = task.report(experience, taken)
        return (learner, experience), {"td_loss": taken.aux.squared, **report}

    (learner, experience), seen = jax.lax.scan(step, (state.learner, state.experience), drawn[:3])
    metrics = {name: jnp.mean(values) for name, values in seen.items()}
    metrics["td_loss_max"] = jnp.max(seen["td_loss"])
    return state._replace(learner=learner, experience=experience, key=drawn.key), metrics
