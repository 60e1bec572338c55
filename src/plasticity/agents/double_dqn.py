"""Double DQN on Atari games (Lyle et al. 2023, A.3; Van Hasselt et al. 2016).

The order of things is that of dqn_zoo (Quan & Ostrovski 2020): an action is chosen, then, every
``learn_period`` frames, a batch is learned from, and only then the action is taken. Here it is
taken while the batch is learned from: emulators and device do not wait for each other, and nothing
is stale. The whole is one jitted scan that calls the emulators, `plasticity.worlds.atari_callback`.
On a CPU that plays two fifths more frames a second than a loop on the host that dispatches each
part and does not wait for it; overlapping itself makes no difference there, for nine tenths are
learning.

Durations are in frames of the game, as in dqn_zoo and in the paper: an agent that acts every fourth
frame (``frame_skip``) and learns every 16 frames learns once in four steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from plasticity.agents import frame_replay, losses
from plasticity.shapes import Array, Bool, Float, Int, Key, UInt8
from plasticity.worlds.atari_callback import Emulators, Step, Ticket

Observation = UInt8[Array, "batch height width frames"]


@dataclass(frozen=True)
class Agent:
    """What of an agent never changes: dqn_zoo's ``double_q`` with the two numbers of A.3.

    Those are the capacity of the replay buffer, 1,000,000 in dqn_zoo, and the last ``epsilon``,
    there 0.01. The ``warmup`` is a twentieth of the capacity in both.
    """

    apply: Callable[[Any, Array], Array]  # (params, observations) → values, (batch, actions)
    frame_skip: int = 4  # frames: how long an action lasts
    discount: float = 0.99  # γ, of an action
    batch_size: int = 32  # transitions
    learn_period: int = 16  # frames
    target_period: int = 120_000  # frames
    capacity: int = 100_000  # transitions; A.3
    warmup: int = 5_000  # transitions before the first update
    epsilon_start: float = 1.0  # probability of a random action until the warm-up is over
    epsilon: float = 0.1  # the same in the end; A.3
    epsilon_frames: int = 4_000_000  # frames over which it falls, linearly
    # centred RMSProp
    learning_rate: float = 0.00025
    decay: float = 0.95
    optimizer_epsilon: float = 0.01 / 32**2
    # Temporal-difference errors beyond this pull no more than it does (Huber's loss). dqn_zoo says
    # it by the gradient of a mean over 32: 1/32.
    error_bound: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for settings with which no agent can learn."""
        if not 0 <= self.discount < 1:
            raise ValueError(f"discount = {self.discount}: must lie in [0, 1)")
        for name in ("epsilon_start", "epsilon"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must lie in [0, 1]")
        for name in ("frame_skip", "batch_size", "learn_period", "target_period", "epsilon_frames",
                     "learning_rate", "optimizer_epsilon", "error_bound"):  # fmt: skip
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

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Centred RMSProp."""
        return optax.rmsprop(
            self.learning_rate, decay=self.decay, eps=self.optimizer_epsilon, centered=True
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

    params: Any
    target_params: Any
    opt_state: Any
    buffer: frame_replay.Buffer
    tally: Tally
    steps: Int[Array, ""]  # actions taken
    key: Key[Array, ""]


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
    """Return an agent that has seen the first frame of its first episode.

    ``stack`` is how many frames an observation has.
    """
    environments, height, width = seen.frame.shape
    buffer = frame_replay.create(agent.capacity, environments, height, width, stack)
    none = jnp.zeros(environments, jnp.int32)
    # Copies: a jitted call that donates its state cannot give one array away twice.
    return State(
        params,
        jax.tree.map(jnp.copy, params),
        agent.optimizer.init(params),
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
    """Return the actions of the highest value for stacks as `frame_replay` has them."""
    values = agent.apply(params, frames_last(frames))
    return jnp.argmax(values, axis=1).astype(jnp.int32)


def frames_last(frames: frame_replay.Frames) -> Observation:
    """Return stacks as the network takes them: frames are its channels."""
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
    begun = (state.params, state.target_params, state.opt_state, batch)

    def update(params: Any, target_params: Any, opt_state: Any, batch: Any) -> Any:
        return learn(agent, params, target_params, opt_state, batch)

    def wait(params: Any, target_params: Any, opt_state: Any, batch: Any) -> Any:
        return params, opt_state, Learned(*map(jnp.asarray, NOTHING))

    params, opt_state, learned = jax.lax.cond(is_ready(agent, state), update, wait, *begun)
    return state._replace(params=params, opt_state=opt_state), learned


def is_ready(agent: Agent, state: State) -> Bool[Array, ""]:
    """Return whether the buffer holds enough to learn from."""
    return state.buffer.size >= agent.warmup


def learn(
    agent: Agent, params: Any, target_params: Any, opt_state: Any, batch: frame_replay.Batch
) -> tuple[Any, Any, Learned]:
    """Take one step of the optimizer on the loss of double Q-learning."""
    goals = targets(agent, params, target_params, batch)

    def loss(params: Any) -> tuple[Array, tuple[Array, Array]]:
        values = agent.apply(params, frames_last(batch.observation))
        error = errors(values, (batch.action, goals))
        return jnp.mean(huber(agent, error)), (jnp.mean(error**2), jnp.mean(values.max(axis=1)))

    (_, (squared, value)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    step, opt_state = agent.optimizer.update(gradient, opt_state, params)
    learned = Learned(jnp.ones(()), squared, squared, optax.tree.norm(gradient), value)
    return optax.apply_updates(params, step), opt_state, learned


# The actions taken, and the targets of their values.
Goals = tuple[Int[Array, " batch"], Float[Array, " batch"]]


def targets(
    agent: Agent, params: Any, target_params: Any, batch: frame_replay.Batch
) -> Float[Array, " batch"]:
    """Return the targets of double Q-learning; they have no gradient."""
    following = frames_last(batch.following)
    q_t, selector = (agent.apply(p, following) for p in (target_params, params))
    discount = agent.discount * batch.discount
    return jax.vmap(losses.double_q_target)(batch.reward, discount, q_t, selector)


def errors(values: Float[Array, "batch actions"], goals: Goals) -> Float[Array, " batch"]:
    """Return by how much the values of the actions taken are below their targets."""
    actions, target = goals
    taken = jnp.take_along_axis(values, actions[:, None], axis=1)[:, 0]
    return target - taken


def huber(agent: Agent, error: Float[Array, " batch"]) -> Float[Array, " batch"]:
    """Return the loss of each transition: half the square of its error, beyond a bound linear."""
    found: Array = optax.huber_loss(error, delta=agent.error_bound)
    return found


# Evaluation.


class Episodes(NamedTuple):
    """One episode of each copy of a game."""

    score: Float[Array, " n"]
    steps: Int[Array, " n"]  # actions


def evaluate(
    agent: Agent, games: Emulators, params: Any, key: Key[Array, ""], epsilon: float, stack: int
) -> Episodes:
    """Play one episode in each copy by the ε-greedy policy; the copies begin anew."""
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
