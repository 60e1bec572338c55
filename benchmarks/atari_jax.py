"""Our ways to step Atari games and to train on them: `dqn.train` as the experiment calls it.

`plasticity.agents.atari_agent` makes the agents, so that the code timed is the code run.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from atari_task import CHECK_PERIOD, STACK, Case, Settings, World, batch_type
from task import CHECK_STEPS, in_double

from plasticity import learner as learning
from plasticity.agents import atari_agent, dqn, frame_replay, q_learning
from plasticity.agents.atari_task import GameTask, frames_last
from plasticity.agents.settings import GameDQN
from plasticity.worlds import atari, atari_callback

SEED = 0


def config_of(case: Case) -> atari_agent.AgentConfig:
    """Return the settings of the experiment's agents at the size of the case.

    Agents are timed as in most of a run, after exploration has fallen to its end.
    """
    algorithm = GameDQN(epsilon_start=GameDQN().epsilon)
    if case.batch_size:
        algorithm = replace(
            algorithm, batch_size=case.batch_size, capacity=case.capacity, warmup=case.filled
        )
    screens = atari.Preprocessing(size=case.size, stack=STACK)
    return atari_agent.AgentConfig(game=case.game, preprocessing=screens, algorithm=algorithm)


def without_no_ops(config: atari_agent.AgentConfig) -> atari_agent.AgentConfig:
    """Return settings under which episodes begin at once, like the peers' in checks."""
    return replace(config, preprocessing=replace(config.preprocessing, no_ops=0))


def frames_of(case: Case) -> int:
    """Return how many frames an environment plays in a block."""
    return case.updates * config_of(case).algorithm.learn_period


def initialise(config: atari_agent.AgentConfig, actions: int) -> Any:
    """Return fresh parameters."""
    size, stack = config.preprocessing.size, config.preprocessing.stack
    shape = (1, size, size, stack)
    network = config.network.module(actions)
    return network.init(jax.random.key(SEED), jnp.zeros(shape, jnp.uint8))


def make_world(case: Case) -> World:
    """Return fresh parameters, if the case learns, and the settings."""
    config, params = config_of(case), []
    if case.batch_size:
        actions = atari_agent.emulators(config).actions
        params = [np.array(leaf) for leaf in jax.tree.leaves(initialise(config, actions))]
    optimizer, algorithm = config.optimizer, config.algorithm
    settings = Settings(
        algorithm.discount, algorithm.epsilon, config.preprocessing.frame_skip,
        algorithm.learn_period, algorithm.target_period, algorithm.error_bound,
        optimizer.learning_rate, optimizer.decay, optimizer.epsilon,
    )  # fmt: skip
    return World(params, np.array(settings, float))


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Let jax keep float64."""
    with jax.enable_x64(True), warnings.catch_warnings():
        # The replay buffer casts actions, which are wider by default here, to the type it stores.
        warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
        yield


def given(case: Case, world: World) -> np.ndarray:
    """Return what a check takes: actions, or minibatches drawn as ours draw them.

    Minibatches are recorded while `dqn.train` samples its buffer.
    """
    if not case.batch_size:
        actions = atari_agent.emulators(config_of(case)).actions
        shape = (CHECK_STEPS, case.environments)
        return np.random.default_rng(SEED).integers(0, actions, shape)
    heard: list[tuple[np.ndarray, ...]] = []
    original = frame_replay.sample

    def listening(buffer: frame_replay.Buffer, uniform: Any) -> frame_replay.Batch:
        batch = original(buffer, uniform)
        jax.debug.callback(lambda *seen: heard.append(seen), *batch, ordered=True)
        return batch

    with double_precision():
        agent = Agents(case, in_double(world))
        with mock.patch.object(frame_replay, "sample", listening):
            agent.check(np.zeros(CHECK_STEPS))
            jax.effects_barrier()
    batches = np.zeros(len(heard), batch_type(case))
    for batch, seen in zip(batches, heard, strict=True):
        for name, array in zip(frame_replay.Batch._fields, seen, strict=True):
            batch[name] = array
    return batches


# Stepping.


class Hosted:
    """Random actions in `atari.Environments`, one call after another; stacks by NumPy."""

    def __init__(self, case: Case, world: World) -> None:
        self.case, self.config = case, config_of(case)
        self.stacks = np.zeros((case.environments, STACK, case.size, case.size), np.uint8)
        self.games = self.begun(self.config)
        calls = frames_of(case) // self.config.preprocessing.frame_skip
        self.actions = draw(calls, case.environments, self.games.actions)

    def begun(self, config: atari_agent.AgentConfig) -> atari.Environments:
        games = atari.Environments(config.game, self.case.environments, config.preprocessing)
        self.see(games.reset(range(self.case.environments)))
        return games

    def see(self, seen: atari.Step) -> None:
        self.stacks[:, :-1] = self.stacks[:, 1:]
        self.stacks[seen.first, :-1] = 0
        self.stacks[:, -1] = seen.frame

    def reset(self) -> None:
        """Nothing to do: the game goes on."""

    def block(self) -> int:
        for actions in self.actions:
            self.see(self.games.step(actions))
        return frames_of(self.case) * self.case.environments

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """Return stacks, rewards and ends of episodes that begin without no-ops."""
        games, found = self.begun(without_no_ops(self.config)), []
        for actions in given:
            seen = games.step(actions)
            self.see(seen)
            found.append((self.stacks.copy(), seen.reward, seen.last))
        return [np.stack(part).astype(np.float32) for part in zip(*found, strict=True)]


def draw(calls: int, environments: int, actions: int) -> np.ndarray:
    """Return random actions."""
    return np.random.default_rng(SEED).integers(0, actions, (calls, environments), np.int32)


class Jitted:
    """The same through `atari_callback`, one scan per `block`; it keeps ``stack`` frames."""

    def __init__(self, case: Case, world: World, stack: int = STACK) -> None:
        self.case, self.stack = case, stack
        self.run = jax.jit(self.play, static_argnums=(0, 1))
        self.begin(config_of(case))
        calls = frames_of(case) // self.config.preprocessing.frame_skip
        self.actions = jnp.asarray(draw(calls, case.environments, self.games.actions))

    def begin(self, config: atari_agent.AgentConfig) -> None:
        self.config = config
        self.games = atari_agent.emulators(config, self.case.environments, "stepping")
        self.ticket, seen = self.games.reset(jnp.arange(self.case.environments))
        before = jnp.zeros((len(seen.frame), self.stack, *seen.frame.shape[1:]), jnp.uint8)
        self.stacks = pushed(before, seen)

    @staticmethod
    def play(games: atari_callback.Emulators, keep: bool, begun: Any, actions: Any) -> Any:
        """Take the actions; with ``keep`` also return what is seen at each step."""

        def step(carry: Any, action: Any) -> Any:
            ticket, seen = games.step(carry[0], action)
            stacks = pushed(carry[1], seen)
            return (ticket, stacks), (stacks, seen.reward, seen.last) if keep else None

        return jax.lax.scan(step, begun, actions)

    def reset(self) -> None:
        """Restart: only a few emulators are kept alive, and these may have been dropped."""
        self.begin(self.config)

    def block(self) -> int:
        begun = (self.ticket, self.stacks)
        (self.ticket, self.stacks), _ = self.run(self.games, False, begun, self.actions)
        jax.block_until_ready(self.stacks)
        return frames_of(self.case) * self.case.environments

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        self.begin(without_no_ops(self.config))
        actions = jnp.asarray(given.astype(np.int32))
        _, found = self.run(self.games, True, (self.ticket, self.stacks), actions)
        return [np.asarray(part, np.float32) for part in found]


def pushed(stacks: Any, seen: atari_callback.Step) -> Any:
    """Return the stacks with a new frame each; stacks of a new episode begin with zeros."""
    before = jnp.where(seen.first[:, None, None, None], 0, stacks[:, 1:])
    return jnp.concatenate([before, seen.frame[:, None]], axis=1)


# Learning.


class Learner:
    """An agent and its parameters."""

    def __init__(self, case: Case, world: World) -> None:
        self.case, self.config = case, config_of(case)
        self.games = atari_agent.emulators(self.config)
        self.task = GameTask(self.games)
        self.agent = atari_agent.agent(self.config, self.games.actions)
        params = initialise(self.config, self.games.actions)
        self.params = jax.tree.structure(params).unflatten(map(jnp.asarray, world.params))

    def fresh(self) -> tuple[learning.Learner, Any]:
        """Return a learner before its first step, and the target's parameters: copies to donate."""
        params, target = (jax.tree.map(jnp.copy, self.params) for _ in range(2))
        return learning.start(self.agent.optimizer, params), target


class Agents(Learner):
    """`dqn.train` compiled as the driver does: static settings, donated state.

    One agent, or several batched with vmap. Their buffers are filled by random play, once.
    """

    def __init__(self, case: Case, world: World, agents: int = 1) -> None:
        super().__init__(case, world)
        self.agents = agents
        self.run = jax.jit(self.train, static_argnums=(0, 2), donate_argnums=1)
        with jax.enable_x64(False):  # so that the game is the same, whatever the parameters are
            seeds = jnp.arange(SEED, SEED + agents)
            begin = self.begin if agents > 1 else lambda seeds: self.begin(seeds[0])
            self.state = jax.jit(self.over_agents(begin))(seeds)
        self.reset()

    def over_agents(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function if self.agents == 1 else jax.vmap(function)

    def begin(self, seed: Any) -> tuple[dqn.State, atari_callback.State]:
        """Return an agent without networks, after random actions."""
        state = dqn.start(self.agent, self.task, {}, jax.random.key(seed))
        return state, self.games.state(state.experience.ticket)

    def train(self, agent: dqn.Agent, states: Any, steps: int) -> Any:
        def one(state: dqn.State, emulators: atari_callback.State) -> Any:
            ticket = self.games.resume(emulators)
            experience = state.experience._replace(ticket=ticket)
            state, _ = dqn.train(agent, self.task, state._replace(experience=experience), steps)
            return state, self.games.state(state.experience.ticket)

        return self.over_agents(one)(*states)

    def advance(self, agent: dqn.Agent, steps: int) -> None:
        self.state = self.run(agent, self.state, steps)
        jax.block_until_ready(self.state)

    def reset(self) -> None:
        """Restart learning; the game goes on, and the buffer stays."""
        each = [self.fresh() for _ in range(self.agents)]
        networks = each[0]
        if self.agents > 1:
            networks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        learner, target = networks
        state, emulators = self.state
        state = state._replace(learner=learner, target_params=target)
        self.state = jax.block_until_ready((state, emulators))

    def block(self) -> int:
        self.advance(self.agent, self.case.updates)
        return self.agents * frames_of(self.case)

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """See `Task`; the first agent draws exactly the minibatches of `given`."""
        self.advance(replace(self.agent, target_period=CHECK_PERIOD), len(given))
        params = self.state[0].params
        if self.agents > 1:
            params = jax.tree.map(lambda leaf: leaf[0], params)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


class Updates(Learner):
    """The bare update: minibatches are given, and no agent acts."""

    def __init__(self, case: Case, world: World) -> None:
        super().__init__(case, world)
        self.run = jax.jit(self.updates, static_argnums=0, donate_argnums=1)
        self.batches = as_batches(random_batches(case, self.games.actions))
        self.reset()

    def updates(
        self, agent: dqn.Agent, learner: learning.Learner, target: Any, batches: Any
    ) -> learning.Learner:
        def step(learner: Any, drawn: frame_replay.Batch) -> tuple[Any, None]:
            batch = self.task.batch(drawn)
            q_t = agent.values(target, batch.following)
            return q_learning.learn(agent, learner, batch, q_t)[0], None

        return jax.lax.scan(step, learner, batches)[0]

    def reset(self) -> None:
        self.learner, self.target = self.fresh()

    def take(self, batches: frame_replay.Batch) -> None:
        self.learner = self.run(self.agent, self.learner, self.target, batches)
        jax.block_until_ready(self.learner)

    def block(self) -> int:
        self.take(self.batches)
        return self.case.updates

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        self.reset()
        for part in np.split(given, len(given) // CHECK_PERIOD):
            self.take(as_batches(part))
            self.target = jax.tree.map(jnp.copy, self.learner.params)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self.learner.params)]


def random_batches(case: Case, actions: int) -> np.ndarray:
    """Return minibatches of noise, as many as there are updates in a block."""
    count = np.random.default_rng(SEED)
    batches = np.zeros(case.updates, batch_type(case))
    batches["frames"] = count.integers(0, 256, batches["frames"].shape, np.uint8)
    batches["action"] = count.integers(0, actions, batches["action"].shape)
    batches["reward"] = count.integers(0, 2, batches["reward"].shape)
    batches["discount"] = 1
    return batches


def as_batches(batches: np.ndarray) -> frame_replay.Batch:
    """Return minibatches as `frame_replay.sample` draws them, with one more axis in front."""
    return frame_replay.Batch(*(jnp.asarray(batches[name]) for name in frame_replay.Batch._fields))


# What a whole agent does, part by part; a rate counts the frames that need this much of the part.


class Learning(Updates):
    """The updates of a block."""

    def block(self) -> int:
        super().block()
        return frames_of(self.case)


class Acting(Learner):
    """The choices of actions in a block, from what the buffer held at successive times."""

    def __init__(self, case: Case, world: World) -> None:
        super().__init__(case, world)
        self.buffer = full_buffer(self.config)
        self.choose = jax.jit(self.choices)

    def choices(self, params: Any, buffer: frame_replay.Buffer) -> Any:
        def choose(total: Any, ago: Any) -> tuple[Any, None]:
            frames = frame_replay.observe(buffer._replace(calls=buffer.calls - ago))
            values = self.agent.values(params, frames_last(frames))
            return total + jnp.argmax(values, axis=1).astype(jnp.int32), None

        calls = jnp.arange(frames_of(self.case) // self.config.preprocessing.frame_skip)
        return jax.lax.scan(choose, jnp.zeros(1, jnp.int32), calls)[0]

    def reset(self) -> None:
        """Nothing to do: nothing is learned."""

    def block(self) -> int:
        jax.block_until_ready(self.choose(self.params, self.buffer))
        return frames_of(self.case)


class Replay:
    """The buffer's part of a block: minibatches drawn, frames and transitions stored."""

    def __init__(self, case: Case, world: World) -> None:
        self.case, self.config = case, config_of(case)
        self.buffer = full_buffer(self.config)
        self.use = jax.jit(self.uses, donate_argnums=0)
        shape = (case.updates, case.batch_size)
        self.uniform = jnp.asarray(np.random.default_rng(SEED).random(shape, np.float32))

    def uses(self, buffer: frame_replay.Buffer, uniform: Any) -> Any:
        def cycle(carry: Any, uniform: Any) -> tuple[Any, None]:
            buffer, batch = carry[0], frame_replay.sample(carry[0], uniform)
            frame_skip = self.config.preprocessing.frame_skip
            for k in range(self.config.algorithm.actions_per_step(frame_skip)):
                # Made from what was drawn, so that drawing comes first, as in a whole agent.
                one = tuple(leaf[k % len(leaf)][None] for leaf in batch[1:])
                frame = batch.frames[k % len(batch.frames), -1][None]
                buffer = frame_replay.add(buffer, frame, *one, jnp.zeros(1, bool))
            return (buffer, batch), None

        # The last minibatch is carried along, so that XLA cannot skip gathering its frames.
        begun = (buffer, frame_replay.sample(buffer, uniform[0]))
        return jax.lax.scan(cycle, begun, uniform)[0]

    def reset(self) -> None:
        """Nothing to do: the buffer stays full."""

    def block(self) -> int:
        self.buffer, batch = self.use(self.buffer, self.uniform)
        jax.block_until_ready(batch)
        return frames_of(self.case)


def full_buffer(config: atari_agent.AgentConfig) -> frame_replay.Buffer:
    """Return the full buffer of an agent that has played for long, filled with noise."""
    size, capacity = config.preprocessing.size, config.algorithm.capacity

    def put(buffer: frame_replay.Buffer, call: Any) -> tuple[frame_replay.Buffer, None]:
        key, none = jax.random.fold_in(jax.random.key(SEED), call), jnp.zeros(1)
        frame = jax.random.bits(key, (1, size, size), jnp.uint8)
        action = none.astype(jnp.int32)
        return frame_replay.add(buffer, frame, action, none, none + 1, (call == 0)[None]), None

    def fill() -> frame_replay.Buffer:
        empty = frame_replay.create(capacity, 1, size, size, config.preprocessing.stack)
        return jax.lax.scan(put, empty, jnp.arange(capacity + 1))[0]

    return jax.block_until_ready(jax.jit(fill)())
