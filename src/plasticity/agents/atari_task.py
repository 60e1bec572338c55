"""Atari games as a task of `plasticity.agents.dqn` (Lyle et al. 2023, A.3).

An action is sent to the emulators before a batch is learned from, and its outcome is received
afterwards: emulators and device do not wait for each other, and nothing is stale. The whole is one
jitted scan that calls the emulators (`plasticity.worlds.atari_callback`). When last measured on a
CPU it played two fifths more frames per second than a host loop that dispatches each part without
waiting. The overlap itself made no difference there, because nine tenths of the time is learning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from plasticity.agents import frame_replay, q_learning
from plasticity.agents.dqn import Agent
from plasticity.learner import Taken
from plasticity.shapes import Array, Bool, Float, Int, Key, UInt8
from plasticity.worlds.atari_callback import Emulators, Step, Ticket

Observation = UInt8[Array, "batch height width frames"]


class Tally(NamedTuple):
    """Scores of the games played."""

    score: Float[Array, ""]  # of the current episode, so far
    total: Float[Array, ""]  # sum over the episodes that ended
    episodes: Int[Array, ""]  # how many ended


class Experience(NamedTuple):
    """Everything in the task that changes, except the emulators."""

    buffer: frame_replay.Buffer
    tally: Tally
    action: Int[Array, ""]  # the last one, whose outcome `GameTask.settle` receives
    ticket: Ticket


@dataclass(frozen=True)
class GameTask:
    """A game with a replay buffer of its frames: a `plasticity.agents.dqn.Task`.

    >>> from plasticity.agents import atari_task
    >>> from plasticity.worlds import atari, atari_callback
    >>> games = atari_callback.Emulators("pong", 1, atari.Preprocessing())
    >>> atari_task.GameTask(games).actions  # needs ale_py
    6
    """

    games: Emulators  # a single one

    @property
    def actions(self) -> int:
        """How many actions there are to choose from."""
        return self.games.actions

    def begin(
        self, agent: Agent, reset_key: Key[Array, ""], walk_key: Key[Array, ""]
    ) -> Experience:
        """Return what is known after ``agent.warmup`` random actions."""
        ticket, seen = self.games.reset(
            jax.random.randint(reset_key, (1,), 0, 2**31 - 1, jnp.int32)
        )
        size, stack = self.games.preprocessing.size, self.games.preprocessing.stack
        buffer = frame_replay.create(agent.capacity, 1, size, size, stack)
        none = jnp.zeros((), jnp.int32)
        # Copies: a jitted call that donates its state cannot give one array away twice.
        tally = Tally(jnp.zeros(()), jnp.zeros(()), jnp.copy(none))
        begun = _remember(Experience(buffer, tally, none, ticket), seen)

        def walk(experience: Experience, action: Int[Array, ""]) -> tuple[Experience, None]:
            ticket, seen = self.games.step(experience.ticket, action[None])
            return _remember(experience._replace(ticket=ticket, action=action), seen), None

        actions = jax.random.randint(walk_key, (agent.warmup,), 0, self.actions, jnp.int32)
        found: Experience = jax.lax.scan(walk, begun, actions)[0]
        return found

    def observe(self, experience: Experience) -> Observation:
        """Return the last frames, (1, height, width, frames)."""
        return frames_last(frame_replay.observe(experience.buffer))

    def act(
        self, experience: Experience, action: Int[Array, ""], key: Key[Array, ""]
    ) -> Experience:
        """Send an action to the emulator, which draws its own random numbers."""
        ticket = self.games.send(experience.ticket, action[None])
        return experience._replace(ticket=ticket, action=action)

    def settle(self, experience: Experience, after: Array | None = None) -> Experience:
        """Wait for the outcome of the action, once ``after`` is computed, and remember it."""
        ticket, seen = self.games.receive(experience.ticket, after)
        return _remember(experience._replace(ticket=ticket), seen)

    def sample(self, experience: Experience, uniform: Float[Array, " batch"]) -> frame_replay.Batch:
        """Draw transitions from the buffer by numbers in [0, 1)."""
        return frame_replay.sample(experience.buffer, uniform)

    def batch(self, drawn: frame_replay.Batch) -> q_learning.Batch:
        """Return transitions with observations as the network takes them."""
        return q_learning.Batch(
            frames_last(drawn.observation), drawn.action, drawn.reward,
            frames_last(drawn.following), drawn.discount,
        )  # fmt: skip

    def bootstrap(
        self, agent: Agent, target_params: Any, batches: int
    ) -> Callable[[frame_replay.Batch], Float[Array, "batch actions"]]:
        """Return a function from drawn transitions to the target network's values after them."""
        return lambda drawn: agent.values(target_params, frames_last(drawn.following))

    def report(self, experience: Experience, taken: Taken) -> dict[str, Float[Array, ""]]:
        """Return the norm of the gradient, and the mean over the batch of the largest value."""
        return {"gradient_norm": optax.tree.norm(taken.gradient), "value": taken.aux.value}


def _remember(experience: Experience, seen: Step) -> Experience:
    """Store the outcome of the last action, and count its score."""
    buffer, tally, action, ticket = experience
    score = tally.score + seen.score[0]
    over = seen.last[0]
    tally = Tally(
        jnp.where(over, 0, score),
        tally.total + jnp.where(over, score, 0),
        tally.episodes + over,
    )
    buffer = frame_replay.add(
        buffer, seen.frame, action[None], seen.reward, seen.discount, seen.first
    )
    return Experience(buffer, tally, action, ticket)


def frames_last(frames: frame_replay.Frames) -> Observation:
    """Return stacks as the network takes them: frames are its channels.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import atari_task
    >>> atari_task.frames_last(jnp.zeros((2, 4, 84, 84), jnp.uint8)).shape
    (2, 84, 84, 4)
    """
    return frames.transpose(0, 2, 3, 1)


# Evaluation.


class Episodes(NamedTuple):
    """One episode of each copy of a game."""

    score: Float[Array, " n"]
    steps: Int[Array, " n"]  # actions


def evaluate(
    agent: Agent, games: Emulators, params: Any, key: Key[Array, ""], epsilon: float
) -> Episodes:
    """Play one episode in each copy by the ε-greedy policy; the copies are reset first.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import atari_task, dqn
    >>> from plasticity.worlds import atari, atari_callback
    >>> short = atari.Preprocessing(size=36, episode_frames=80)
    >>> games = atari_callback.Emulators("pong", 2, short, purpose="evaluation")
    >>> agent = dqn.Agent(
    ...     apply=lambda params, x: jnp.zeros((len(x), 6)) + params, optimizer=optax.sgd(0.1),
    ...     target_period=1, epsilon=0.1, warmup=32, capacity=32)
    >>> evaluate = jax.jit(atari_task.evaluate, static_argnums=(0, 1, 4))
    >>> evaluate(agent, games, 0.0, jax.random.key(0), 0.05).steps.tolist()  # needs ale_py
    [20, 20]
    """
    seed_key, key = jax.random.split(key)
    ticket, seen = games.reset(jax.random.randint(seed_key, (games.n,), 0, 2**31 - 1, jnp.int32))
    # Frames from before the episode are zero, as in the replay buffer.
    shape = (games.n, games.preprocessing.stack, *seen.frame.shape[1:])
    frames = jnp.zeros(shape, jnp.uint8)
    nothing = Episodes(jnp.zeros(games.n), jnp.zeros(games.n, jnp.int32))

    def pushed(frames: Array, frame: Array) -> Array:
        return jnp.concatenate([frames[:, 1:], frame[:, None]], axis=1)

    def going_on(carry: Any) -> Bool[Array, ""]:
        return ~jnp.all(carry[-1])

    def act(carry: Any) -> Any:
        ticket, frames, key, played, over = carry
        key, explore_key, action_key = jax.random.split(key, 3)
        explore = jax.random.uniform(explore_key, (games.n,)) < epsilon
        random_action = jax.random.randint(action_key, (games.n,), 0, games.actions, jnp.int32)
        greedy = jnp.argmax(agent.values(params, frames_last(frames)), axis=1).astype(jnp.int32)
        ticket, seen = games.step(ticket, jnp.where(explore, random_action, greedy))
        played = Episodes(
            played.score + jnp.where(over, 0, seen.score), played.steps + jnp.where(over, 0, 1)
        )
        return ticket, pushed(frames, seen.frame), key, played, over | seen.last

    begun = (ticket, pushed(frames, seen.frame), key, nothing, seen.last)
    found: Episodes = jax.lax.while_loop(going_on, act, begun)[3]
    return found
