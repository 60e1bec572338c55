"""The classification MDPs as a task of `plasticity.agents.dqn`: what the paper probes (§5.1, A.2).

The buffer stores images by their index. The target network is frozen between two updates, so its
values are computed once per image, as a table that the steps until the next update look up. That
computes fewer rows than going batch by batch, and keeps the target network out of the inner loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from plasticity.agents import dqn, q_learning, replay
from plasticity.agents.dqn import Agent
from plasticity.learner import Taken
from plasticity.shapes import Array, Bool, Float, Int, Key
from plasticity.worlds import classification_mdp
from plasticity.worlds.classification_mdp import MDP

Images = Float[Array, "images *pixels"]


class Transition(NamedTuple):
    """What the buffer stores; observations are indices of images."""

    observation: Int[Array, "*batch"]
    action: Int[Array, "*batch"]
    reward: Float[Array, "*batch"]
    following: Int[Array, "*batch"]  # the observation after it


class Experience(NamedTuple):
    """Everything in the task that changes."""

    buffer: replay.Buffer
    environment: classification_mdp.State
    reward: Float[Array, ""]  # the last one


class ImageTask(NamedTuple):
    """A classification MDP with its images: a `plasticity.agents.dqn.Task`.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.agents import mdp_task
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> mdp_task.ImageTask(mdp, images=jnp.ones((10, 3))).actions
    10
    """

    mdp: MDP
    images: Images  # one per label of the MDP

    @property
    def actions(self) -> int:
        """How many actions there are to choose from."""
        return int(self.mdp.reward.shape[1])

    def begin(
        self, agent: Agent, reset_key: Key[Array, ""], walk_key: Key[Array, ""]
    ) -> Experience:
        """Return what is known after ``agent.warmup`` random transitions.

        Raises ValueError unless there is an image for each label.
        """
        if self.images.shape[0] != self.mdp.label.shape[0]:
            raise ValueError(f"{self.images.shape[0]} images, but {self.mdp.label.shape[0]} labels")

        def walk(environment: classification_mdp.State, key: Key[Array, ""]) -> Any:
            act_key, step_key = jax.random.split(key)
            action = jax.random.randint(act_key, (), 0, self.actions, jnp.int32)
            return self._interact(environment, action, step_key)

        begun = classification_mdp.reset(reset_key, self.mdp)
        environment, seen = jax.lax.scan(walk, begun, jax.random.split(walk_key, agent.warmup))
        buffer = replay.create(agent.capacity, jax.tree.map(lambda x: x[0], seen))
        items = jax.tree.map(lambda leaf, x: leaf.at[: agent.warmup].set(x), buffer.items, seen)
        buffer = replay.Buffer(items, jnp.asarray(agent.warmup, jnp.int32))
        return Experience(buffer, environment, jnp.zeros(()))

    def observe(self, experience: Experience) -> Images:
        """Return the current image, (1, ...)."""
        return self.images[experience.environment.observation][None]

    def act(
        self, experience: Experience, action: Int[Array, ""], key: Key[Array, ""]
    ) -> Experience:
        """Take an action and remember its outcome."""
        environment, transition = self._interact(experience.environment, action, key)
        buffer = replay.add(experience.buffer, transition)
        return Experience(buffer, environment, transition.reward)

    def settle(self, experience: Experience, after: Array | None = None) -> Experience:
        """Return the experience as it is: no outcome is outstanding."""
        return experience

    def sample(self, experience: Experience, uniform: Float[Array, " batch"]) -> Transition:
        """Draw transitions from the buffer by numbers in [0, 1)."""
        found: Transition = replay.sample(experience.buffer, uniform)
        return found

    def batch(self, drawn: Transition) -> q_learning.Batch:
        """Return transitions with the images that their indices stand for."""
        observation, action, reward, following = drawn
        return q_learning.Batch(self.images[observation], action, reward, self.images[following])

    def bootstrap(
        self, agent: Agent, target_params: Any, batches: int
    ) -> Callable[[Transition], Float[Array, "batch actions"]]:
        """Return the target network's values after transitions, in the form that computes less."""
        if self.images.shape[0] > batches * agent.batch_size:
            return lambda drawn: agent.values(target_params, self.images[drawn.following])
        table = agent.values(target_params, self.images)
        return lambda drawn: table[drawn.following]

    def report(self, experience: Experience, taken: Taken) -> dict[str, Float[Array, ""]]:
        """Return the reward of the step."""
        return {"reward": experience.reward}

    def _interact(
        self, environment: classification_mdp.State, action: Int[Array, ""], key: Key[Array, ""]
    ) -> tuple[classification_mdp.State, Transition]:
        following, reward = classification_mdp.step(key, environment, action, self.mdp)
        seen = Transition(environment.observation, action, reward, following.observation)
        return following, seen


def gradient_norm(agent: Agent, task: ImageTask, state: dqn.State) -> Float[Array, ""]:
    """Return the norm of the gradient of the loss over the last `warmup` transitions stored.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn, mdp_task
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1), batch_size=1,
    ...     target_period=2, epsilon=0.1, warmup=4, capacity=8)
    >>> task = mdp_task.ImageTask(mdp, images=jnp.zeros((10, 3)))  # black images teach nothing
    >>> start, norm = (jax.jit(f, static_argnums=0) for f in (dqn.start, mdp_task.gradient_norm))
    >>> state = start(agent, task, jnp.zeros((3, 10)), jax.random.key(1))
    >>> float(norm(agent, task, state))
    0.0
    """
    buffer = state.experience.buffer
    newest = buffer.added - 1 - jnp.arange(agent.warmup)
    drawn = jax.tree.map(lambda leaf: leaf[newest % agent.capacity], buffer.items)
    table = agent.values(state.target_params, task.images)
    batch = task.batch(drawn)

    def loss(params: Any) -> Float[Array, ""]:
        return q_learning.loss(agent, params, batch, table[drawn.following])[0]

    norm: Array = optax.tree.norm(jax.grad(loss)(state.params))
    return norm


def greedy_accuracy(
    agent: Agent, task: ImageTask, params: Any, optimal: Bool[Array, "states actions"]
) -> Float[Array, ""]:
    """Return the share of images on which the greedy action is optimal.

    ``optimal`` is `plasticity.worlds.classification_mdp.optimal_actions`; in the true- and
    random-label problems this is a classifier's accuracy. A diverged network counts as all wrong.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import dqn, mdp_task
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(10), jax.random.key(0))
    >>> optimal = jnp.asarray(classification_mdp.optimal_actions("true_label", discount=0.99))
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: x @ params, optimizer=optax.sgd(0.1),
    ...     target_period=100, epsilon=0.1, warmup=50, capacity=1_000)
    >>> task = mdp_task.ImageTask(mdp, images=jnp.eye(10))
    >>> float(mdp_task.greedy_accuracy(agent, task, jnp.eye(10), optimal))
    1.0
    """
    values = agent.values(params, task.images)
    right = optimal[task.mdp.label, jnp.argmax(values, axis=1)]
    return jnp.mean(right & jnp.all(jnp.isfinite(values), axis=1))
