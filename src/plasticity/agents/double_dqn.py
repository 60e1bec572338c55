"""Double DQN on Atari games (Lyle et al. 2023, A.3; Van Hasselt et al. 2016).

The order of things is that of dqn_zoo (Quan & Ostrovski 2020): an action is chosen, then, every
``learn_period`` frames, a batch is learned from, and only then the action is taken. Here it is
taken while the batch is learned from: emulators and device do not wait for each other, and nothing
is stale. The whole is one jitted scan that calls the emulators, `plasticity.worlds.atari_callback`.
On a CPU that plays two fifths more frames a second than a loop on the host that dispatches each
part without waiting; overlapping itself makes no difference there, for nine tenths are learning.

Durations are in frames of the game, as in dqn_zoo and in the paper: an agent that acts every fourth
frame (``frame_skip``) and learns every 16 frames learns once in four steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from plasticity import learner as learning
from plasticity.agents import frame_replay, q_learning
from plasticity.agents.q_learning import QLearning
from plasticity.cure import Seen
from plasticity.learner import Learner
from plasticity.networks.heads import Head, Huber
from plasticity.shapes import Array, Bool, Float, Int, Key, UInt8
from plasticity.worlds.atari_callback import Emulators, Step, Ticket

Observation = UInt8[Array, "batch height width frames"]


def rmsprop(
    learning_rate: float = 0.00025, decay: float = 0.95, epsilon: float = 0.01 / 32**2
) -> optax.GradientTransformation:
    """Return dqn_zoo's optimizer: RMSProp, centred. Raises ValueError unless all are above 0.

    >>> from plasticity.agents import double_dqn
    >>> optimizer = double_dqn.rmsprop(learning_rate=1e-4)
    """
    if not min(learning_rate, decay, epsilon) > 0:
        raise ValueError(
            f"learning_rate = {learning_rate}, decay = {decay}, optimizer_epsilon = {epsilon}: "
            "each must be above 0"
        )
    return optax.rmsprop(learning_rate, decay=decay, eps=epsilon, centered=True)


RMSPROP, HUBER = rmsprop(), Huber()
"""What dqn_zoo learns by."""


@dataclass(frozen=True, kw_only=True)
class Agent(QLearning):
    """A `QLearning` agent and how it trains on games: dqn_zoo's ``double_q`` but for two numbers.

    A.3's are the capacity of the replay buffer, 1,000,000 in dqn_zoo, and the last ``epsilon``,
    there 0.01. The ``warmup`` is a twentieth of the capacity in both.

    >>> from plasticity.agents import double_dqn
    >>> double_dqn.Agent(apply=lambda params, x: x @ params, epsilon=0.01).learn_period
    16
    """

    optimizer: optax.GradientTransformation = RMSPROP
    head: Head = HUBER
    double: bool = True
    frame_skip: int = 4  # frames: how long an action lasts
    learn_period: int = 16  # frames
    target_period: int = 120_000  # frames
    capacity: int = 100_000  # transitions; A.3
    warmup: int = 5_000  # transitions before the first update
    epsilon_start: float = 1.0  # probability of a random action until the warm-up is over
    epsilon: float = 0.1  # the same in the end; A.3
    epsilon_frames: int = 4_000_000  # frames over which it falls, linearly

    def __post_init__(self) -> None:
        """Raise ValueError for settings with which no agent can learn."""
        super().__post_init__()
        for name in ("epsilon_start", "epsilon"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must lie in [0, 1]")
        for name in ("frame_skip", "learn_period", "target_period", "epsilon_frames"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        if self.learn_period % self.frame_skip or self.target_period % self.learn_period:
            raise ValueError(
                f"target_period = {self.target_period}, learn_period = {self.learn_period}, "
                f"frame_skip = {self.frame_skip}: each must be a multiple of the next"
            )
        if not 1 <= self.warmup <= self.capacity:
            raise ValueError(
                f"warmup = {self.warmup}, capacity = {self.capacity}: the warm-up needs at least "
                "one transition and must fit into the buffer"
            )

    def exploration(self, steps: Int[Array, ""]) -> Float[Array, ""]:
        """Return the probability of a random action after ``steps`` actions."""
        share = (steps - self.warmup) * (self.frame_skip / self.epsilon_frames)
        return self.epsilon_start + (self.epsilon - self.epsilon_start) * jnp.clip(share, 0, 1)


class Tally(NamedTuple):
    """Scores of the games played."""

    score: Float[Array, ""]  # of the episode that is going on, so far
    total: Float[Array, ""]  # of the episodes that ended, together
    episodes: Int[Array, ""]  # how many ended


class State(NamedTuple):
    """Everything of an agent that changes, but for its emulators."""

    learner: Learner
    target_params: Any
    buffer: frame_replay.Buffer
    tally: Tally
    steps: Int[Array, ""]  # actions taken
    key: Key[Array, ""]

    @property
    def params(self) -> Any:
        """The network's parameters."""
        return self.learner.params


class Learned(NamedTuple):
    """What updates saw: of one, or summed over several."""

    updates: Float[Array, ""]  # how many
    td_loss: Float[Array, ""]  # mean squared error of the values
    td_loss_max: Float[Array, ""]  # the same; of several updates the largest, no sum
    gradient_norm: Float[Array, ""]
    value: Float[Array, ""]  # mean over the batch of the largest action value

    def and_then(self, other: Learned) -> Learned:
        """Return the sums over both."""
        largest = jnp.maximum(self.td_loss_max, other.td_loss_max)
        sums: Learned = jax.tree.map(jnp.add, self, other)
        return sums._replace(td_loss_max=largest)


NOTHING = (0.0,) * len(Learned._fields)
"""What no update has seen."""


def start(agent: Agent, params: Any, key: Key[Array, ""], seen: Step, stack: int) -> State:
    """Return an agent at the first frame of its first episode; ``stack`` frames are an observation.

    >>> state = start(agent, params, key, seen, stack=4)  # needs ale_py  # doctest: +SKIP
    """
    environments, height, width = seen.frame.shape
    buffer = frame_replay.create(agent.capacity, environments, height, width, stack)
    none = jnp.zeros(environments, jnp.int32)
    # Copies: a jitted call that donates its state cannot give one array away twice.
    learner_key = jax.random.fold_in(key, 2)  # 0 and 1 are those of the first stretch
    return State(
        learning.start(agent.optimizer, params, agent.cure, learner_key),
        jax.tree.map(jnp.copy, params),
        frame_replay.add(buffer, seen.frame, none, seen.reward, seen.discount, seen.first),
        Tally(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32)),
        jnp.zeros((), jnp.int32),
        key,
    )


def train(
    agent: Agent,
    games: Emulators,
    state: State,
    ticket: Ticket,
    stretch: int,
    stretches: int | Int[Array, ""],
) -> tuple[State, Ticket, Learned]:
    """Play and learn for ``stretches`` times ``stretch`` frames.

    Only the length of a stretch is compiled in. Raises ValueError unless it is a multiple of the
    learning period and divides the target period: the target is copied between stretches alone.

    >>> state, ticket, learned = train(agent, games, state, ticket, 160, 10)  # doctest: +SKIP
    """
    if stretch < 1 or stretch % agent.learn_period or agent.target_period % stretch:
        raise ValueError(
            f"stretch = {stretch}: must be a multiple of learn_period = {agent.learn_period} and "
            f"divide target_period = {agent.target_period}"
        )
    shape = (stretch // agent.learn_period, agent.learn_period // agent.frame_skip)

    def advance(_: Any, carry: Any) -> Any:
        state, ticket, learned = carry
        key, now = jax.random.split(state.key)
        explore_key, action_key, sample_key = jax.random.split(now, 3)
        # Drawn at once: small draws inside the scan cost more.
        draws = (
            jax.random.uniform(explore_key, shape),
            jax.random.randint(action_key, shape, 0, games.actions),
            jax.random.uniform(sample_key, (shape[0], agent.batch_size)),
        )
        carry, _ = jax.lax.scan(
            lambda carry, draw: (_cycle(agent, games, carry, draw), None),
            (state, ticket, learned),
            draws,
        )
        state, ticket, learned = carry
        due = state.steps % (agent.target_period // agent.frame_skip) == 0
        networks = (state.params, state.target_params)
        target = jax.lax.cond(due, lambda two: two[0], lambda two: two[1], networks)
        return state._replace(target_params=target, key=key), ticket, learned

    begun = (state, ticket, Learned(*map(jnp.asarray, NOTHING)))
    found: tuple[State, Ticket, Learned] = jax.lax.fori_loop(0, stretches, advance, begun)
    return found


def _cycle(agent: Agent, games: Emulators, carry: Any, draw: Any) -> Any:
    """Act, learn while the emulators are at it, and act until it is time to learn again."""
    state, ticket, learned = carry
    explore, random_action, uniform = draw

    action = _choose(agent, state, explore[0], random_action[0])
    ticket = games.send(ticket, action)
    state, now = _learn_if_ready(agent, state, uniform)
    # Wait for the emulators only when the device has nothing else to do.
    ticket, seen = games.receive(ticket, after=now.td_loss)
    state = _remember(state, action, seen)

    def act(carry: Any, draw: Any) -> tuple[Any, None]:
        state, ticket = carry
        action = _choose(agent, state, *draw)
        ticket, seen = games.step(ticket, action)
        return (_remember(state, action, seen), ticket), None

    if len(explore) > 1:
        rest = (explore[1:], random_action[1:])
        (state, ticket), _ = jax.lax.scan(act, (state, ticket), rest)
    return state, ticket, learned.and_then(now)


def _choose(
    agent: Agent, state: State, explore: Float[Array, ""], random_action: Int[Array, ""]
) -> Int[Array, " 1"]:
    """Return the ε-greedy action, given a number in [0, 1) and a random action."""
    greedy = greedy_actions(agent, state.params, frame_replay.observe(state.buffer))
    return jnp.where(explore < agent.exploration(state.steps), random_action, greedy)


def greedy_actions(agent: Agent, params: Any, frames: frame_replay.Frames) -> Int[Array, " batch"]:
    """Return the actions of the highest value for stacks as `frame_replay` has them.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import double_dqn
    >>> agent = double_dqn.Agent(apply=lambda params, x: x[:, 0, 0] * params)
    >>> double_dqn.greedy_actions(agent, 1.0, jnp.array([[[[3]], [[7]]]], jnp.uint8)).tolist()
    [1]
    """
    values = agent.apply(params, frames_last(frames))
    return jnp.argmax(values, axis=1).astype(jnp.int32)


def frames_last(frames: frame_replay.Frames) -> Observation:
    """Return stacks as the network takes them: frames are its channels.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import double_dqn
    >>> double_dqn.frames_last(jnp.zeros((2, 4, 84, 84), jnp.uint8)).shape
    (2, 84, 84, 4)
    """
    return frames.transpose(0, 2, 3, 1)


def _remember(state: State, action: Int[Array, " 1"], seen: Step) -> State:
    """Store what came of an action, and count its score."""
    score = state.tally.score + seen.score[0]
    over = seen.last[0]
    tally = Tally(
        jnp.where(over, 0, score),
        state.tally.total + jnp.where(over, score, 0),
        state.tally.episodes + over,
    )
    buffer = frame_replay.add(
        state.buffer, seen.frame, action, seen.reward, seen.discount, seen.first
    )
    return state._replace(buffer=buffer, tally=tally, steps=state.steps + 1)


def _learn_if_ready(
    agent: Agent, state: State, uniform: Float[Array, " batch"]
) -> tuple[State, Learned]:
    """Learn from a batch drawn by numbers in [0, 1), if the buffer holds the warm-up."""

    # Drawn in any case: XLA would copy a buffer that is an operand of a conditional, all of it.
    batch = frame_replay.sample(state.buffer, uniform)
    key = jax.random.fold_in(state.key, state.steps)

    def update(learner: Learner, target_params: Any, batch: Any) -> Any:
        learner, learned = learn(agent, learner, target_params, batch)

        def seen(learner: Learner) -> Seen:
            inputs = frames_last(batch.observation)
            return Seen(inputs, agent.activations(learner.params, inputs))

        return learning.intervene(agent.cure, key, learner, seen), learned

    def wait(learner: Learner, target_params: Any, batch: Any) -> Any:
        return learner, Learned(*map(jnp.asarray, NOTHING))

    ready = is_ready(agent, state)
    learner, learned = jax.lax.cond(ready, update, wait, state.learner, state.target_params, batch)
    return state._replace(learner=learner), learned


def is_ready(agent: Agent, state: State) -> Bool[Array, ""]:
    """Return whether the buffer holds enough to learn from.

    >>> bool(is_ready(agent, state))  # a state of `train`, which needs ale_py  # doctest: +SKIP
    """
    return state.buffer.size >= agent.warmup


def learn(
    agent: Agent, learner: Learner, target_params: Any, batch: frame_replay.Batch
) -> tuple[Learner, Learned]:
    """Take one optimizer step on the loss of double Q-learning.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity import learner
    >>> from plasticity.agents import double_dqn, frame_replay
    >>> agent, one = double_dqn.Agent(apply=lambda params, x: x[:, 0, 0] * params), jnp.ones(1)
    >>> batch = frame_replay.Batch(jnp.ones((1, 5, 1, 1), jnp.uint8), jnp.array([0]), one, one)
    >>> begun = learner.start(agent.optimizer, 1.0)
    >>> after, learned = jax.jit(double_dqn.learn, static_argnums=0)(agent, begun, 1.0, batch)
    >>> round(float(learned.td_loss), 4)
    0.9801
    """
    transitions = as_network(batch)
    q_t = agent.values(target_params, transitions.following)
    learner, taken = q_learning.learn(agent, learner, transitions, q_t)
    squared, value = taken.aux
    norm = optax.tree.norm(taken.gradient)
    return learner, Learned(jnp.ones(()), squared, squared, norm, value)


def as_network(batch: frame_replay.Batch) -> q_learning.Batch:
    """Return transitions with observations as the network takes them.

    >>> as_network(batch).following.shape  # a batch of `frame_replay.sample`  # doctest: +SKIP
    (32, 84, 84, 4)
    """
    return q_learning.Batch(
        frames_last(batch.observation), batch.action, batch.reward, frames_last(batch.following),
        batch.discount,
    )  # fmt: skip


# Evaluation.


class Episodes(NamedTuple):
    """One episode of each copy of a game."""

    score: Float[Array, " n"]
    steps: Int[Array, " n"]  # actions


def evaluate(
    agent: Agent, games: Emulators, params: Any, key: Key[Array, ""], epsilon: float, stack: int
) -> Episodes:
    """Play one episode in each copy by the ε-greedy policy; the copies begin anew.

    >>> found = evaluate(agent, games, params, key, 0.05, 4)  # needs ale_py  # doctest: +SKIP
    """
    seed_key, key = jax.random.split(key)
    ticket, seen = games.reset(jax.random.randint(seed_key, (games.n,), 0, 2**31 - 1))
    # Frames from before the episode are zero, as in the replay buffer.
    frames = jnp.zeros((games.n, stack, *seen.frame.shape[1:]), jnp.uint8)
    nothing = Episodes(jnp.zeros(games.n), jnp.zeros(games.n, jnp.int32))

    def pushed(frames: Array, frame: Array) -> Array:
        return jnp.concatenate([frames[:, 1:], frame[:, None]], axis=1)

    def going_on(carry: Any) -> Bool[Array, ""]:
        return ~jnp.all(carry[-1])

    def act(carry: Any) -> Any:
        ticket, frames, key, played, over = carry
        key, explore_key, action_key = jax.random.split(key, 3)
        explore = jax.random.uniform(explore_key, (games.n,)) < epsilon
        random_action = jax.random.randint(action_key, (games.n,), 0, games.actions)
        action = jnp.where(explore, random_action, greedy_actions(agent, params, frames))
        ticket, seen = games.step(ticket, action)
        played = Episodes(
            played.score + jnp.where(over, 0, seen.score), played.steps + jnp.where(over, 0, 1)
        )
        return ticket, pushed(frames, seen.frame), key, played, over | seen.last

    begun = (ticket, pushed(frames, seen.frame), key, nothing, seen.last)
    found: Episodes = jax.lax.while_loop(going_on, act, begun)[3]
    return found
