"""Our ways to train and probe agents: `dqn.train` and `probe.fit_all` as the experiments call them.

`plasticity.chapters.probing.probed_agent` makes the agents, so that the code timed is the code run.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from agent_task import CHECK_PERIOD, PROBE_CHECK_STEPS, Case, Settings, World
from task import CHECK_STEPS, in_double

from plasticity import devices, programs
from plasticity import learner as learning
from plasticity.agents import dqn, mdp_agent, optimizers, q_learning, replay
from plasticity.agents.mdp_task import ImageTask, Transition
from plasticity.agents.settings import DQN, Problem
from plasticity.chapters.probing import probed_agent
from plasticity.learner import Learner
from plasticity.measure import probe
from plasticity.networks.settings import CNN, MLP
from plasticity.worlds import classification_mdp

SEED = 0


def config_of(case: Case) -> probed_agent.Config:
    """Return the settings of the experiments' true-label agents at the size of the case."""
    network = MLP(width=case.width)
    if case.network == "cnn":
        network = CNN(width=case.width, channels=case.channels)
    warmup = max(case.batch_size, min(1_000, case.n_images))
    return probed_agent.Config(
        problem=Problem(n_images=case.n_images), network=network,
        algorithm=DQN(batch_size=case.batch_size, warmup=warmup),
        probe_batch_size=case.batch_size, proxy_examples=min(128, case.n_images),
        n_targets=max(case.targets, 1),
    )  # fmt: skip


def make_world(case: Case) -> World:
    """Return standardised MNIST digits, fresh parameters, and targets if the case is a probe."""
    config = config_of(case)
    found, _ = probed_agent.load([config])
    images = found.images[mdp_agent.image_key(config)]
    params = mdp_agent.initialise(config, images.shape[1:], jax.random.key(SEED))
    adam = (config.optimizer.learning_rate, *optimizers.DEFAULT_ADAM[:3])
    settings = [getattr(config.algorithm, name) for name in Settings._fields]
    return World(
        np.array(images),
        np.array(found.labels[mdp_agent.image_key(config)]),
        [np.array(leaf) for leaf in jax.tree.leaves(params)],
        np.array(adam),
        np.array(settings, float),
        np.array(found.targets[mdp_agent.network_key(config)]),
    )


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Let jax keep float64."""
    with jax.enable_x64(True), warnings.catch_warnings():
        # The replay buffer casts indices, which are wider by default here, to the type it stores.
        warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
        yield


def given(case: Case, world: World) -> np.ndarray:
    """Return the minibatches of a check, drawn as ours draw them.

    For training (steps, 4, batch): observation, action, reward and following, recorded while
    `dqn.train` samples its buffer. For a probe (targets, steps, batch): indices of inputs.
    """
    if case.targets:
        with double_precision():  # it changes what is drawn
            keys = jax.random.split(jax.random.key(SEED), case.targets)
            shape = (PROBE_CHECK_STEPS, case.batch_size)
            draw = partial(jax.random.randint, shape=shape, minval=0, maxval=case.n_images)
            return np.stack([draw(key) for key in keys])
    heard: list[np.ndarray] = []
    original = replay.sample

    def listening(buffer: replay.Buffer, uniform: Any) -> Any:
        batch = original(buffer, uniform)
        jax.debug.callback(lambda seen: heard.append(np.stack(seen)), batch, ordered=True)
        return batch

    with mock.patch.object(replay, "sample", listening), double_precision():
        Agents(case, in_double(world)).check(np.zeros(CHECK_STEPS))
        jax.effects_barrier()
    return np.stack(heard)


class Agents:
    """`dqn.train` compiled as the driver does: static settings, data as arguments, donated state.

    One agent, or several batched with vmap.
    """

    def __init__(self, case: Case, world: World, agents: int = 1) -> None:
        self.case, self.agents, self.config = case, agents, config_of(case)
        mdp = classification_mdp.make("true_label", jnp.asarray(world.labels), jax.random.key(SEED))
        self.task = ImageTask(mdp, jnp.asarray(world.images))
        params = mdp_agent.initialise(self.config, world.images.shape[1:], jax.random.key(SEED))
        leaves = map(jnp.asarray, world.params)
        self.params = jax.tree.structure(params).unflatten(leaves)
        self.agent = mdp_agent.agent(self.config)
        self.start = jax.jit(dqn.start, static_argnums=0)
        # As the driver compiles it.
        self.run = programs.jit(self.train, "full", static_argnums=(0, 3), donate_argnums=2)
        self.reset()

    def train(
        self, agent: dqn.Agent, task: ImageTask, states: dqn.State, steps: int
    ) -> tuple[dqn.State, Any]:
        if self.agents == 1:
            return dqn.train(agent, task, states, steps)
        return jax.vmap(lambda state: dqn.train(agent, task, state, steps))(states)

    def reset(self) -> None:
        with jax.enable_x64(False):  # indices are 32 bits wide, whatever the parameters are
            single = jax.tree.map(jnp.float32, self.params)
            states = [
                self.start(self.agent, self.task, single, jax.random.key(SEED + k))
                for k in range(self.agents)
            ]
        for k in range(self.agents):  # training donates its state: copies
            params, target = (jax.tree.map(jnp.copy, self.params) for _ in range(2))
            learner = learning.start(self.agent.optimizer, params)
            states[k] = states[k]._replace(learner=learner, target_params=target)
        self.state = states[0]
        if self.agents > 1:
            self.state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        jax.block_until_ready(self.state)

    def advance(self, agent: dqn.Agent, steps: int) -> None:
        self.state, _ = self.run(agent, self.task, self.state, steps)
        jax.block_until_ready(self.state)

    def block(self) -> int:
        self.advance(self.agent, self.case.steps)
        return self.agents * self.case.steps

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """See `Task`; the first agent draws exactly the minibatches of `given`."""
        self.reset()
        self.advance(replace(self.agent, target_period=CHECK_PERIOD), len(given))
        params = self.state.params
        if self.agents > 1:
            params = jax.tree.map(lambda leaf: leaf[0], params)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


class Periods(Agents):
    """One agent with a target period of ``multiple * case.steps``; a block takes 2 case.steps."""

    def __init__(self, case: Case, world: World, multiple: int) -> None:
        super().__init__(case, world)
        self.agent = replace(self.agent, target_period=multiple * case.steps)

    def block(self) -> int:
        self.advance(self.agent, 2 * self.case.steps)
        return 2 * self.case.steps


class Updates(Agents):
    """The bare update: minibatches are given, by index, and no agent acts.

    The target network's values are computed batch by batch, as its peers compute them.
    """

    def __init__(self, case: Case, world: World, native: bool = False) -> None:
        self.native = native  # XLA's own convolution
        super().__init__(case, world)
        self.update = programs.jit(self.updates, "full", static_argnums=0, donate_argnums=2)
        count = np.random.default_rng(SEED)
        shape = (case.block, case.batch_size)
        self.batches = Transition(
            jnp.asarray(count.integers(0, case.n_images, shape, np.int32)),
            jnp.asarray(count.integers(0, classification_mdp.STATES, shape, np.int32)),
            jnp.asarray(count.integers(0, 2, shape).astype(np.float32)),
            jnp.asarray(count.integers(0, case.n_images, shape, np.int32)),
        )

    @staticmethod
    def updates(
        agent: dqn.Agent, task: ImageTask, learner: Learner, target: Any, batches: Transition
    ) -> Learner:
        def step(learner: Learner, drawn: Transition) -> tuple[Learner, None]:
            batch = task.batch(drawn)
            q_t = agent.values(target, batch.following)
            return q_learning.learn(agent, learner, batch, q_t)[0], None

        return jax.lax.scan(step, learner, batches)[0]

    def take(self, batches: Transition) -> None:
        state = self.state
        on_cpu = mock.patch.object(devices, "is_cpu", return_value=False)
        with on_cpu if self.native else contextlib.nullcontext():
            learner = self.update(
                self.agent, self.task, state.learner, state.target_params, batches
            )
        self.state = state._replace(learner=learner)
        jax.block_until_ready(self.state)

    def block(self) -> int:
        self.take(self.batches)
        return self.case.block

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        self.reset()
        for part in np.split(given, len(given) // CHECK_PERIOD):
            observation, action, reward, following = part.transpose(1, 0, 2)
            indices = (jnp.asarray(x.astype(np.int32)) for x in (observation, action, following))
            seen, chosen, led = indices
            self.take(Transition(seen, chosen, jnp.asarray(reward), led))
            params = jax.tree.map(jnp.copy, self.state.params)
            self.state = self.state._replace(target_params=params)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self.state.params)]


class Learning(Updates):
    """A part of the update, the target's values given too: gradients and Adam, or gradients alone.

    Gradients alone are followed by plain gradient descent, for something has to depend on them.
    """

    def __init__(self, case: Case, world: World, adam: bool = True) -> None:
        super().__init__(case, world)
        if not adam:
            self.agent = replace(self.agent, optimizer=optax.sgd(1e-6))
            self.reset()

    @staticmethod
    def updates(
        agent: dqn.Agent, task: ImageTask, learner: Learner, target: Any, batches: Transition
    ) -> Learner:
        q_t = jnp.zeros((batches.action.shape[1], classification_mdp.STATES))

        def step(learner: Learner, drawn: Transition) -> tuple[Learner, None]:
            return q_learning.learn(agent, learner, task.batch(drawn), q_t)[0], None

        return jax.lax.scan(step, learner, batches)[0]


class Fits:
    """`probe.fit_all`; with ``batched`` in the form used on an accelerator, vmap."""

    def __init__(self, case: Case, world: World, batched: bool = False) -> None:
        self.case, self.batched, self.config = case, batched, config_of(case)
        self.inputs, self.targets = jnp.asarray(world.images), jnp.asarray(world.targets)
        params = mdp_agent.initialise(self.config, world.images.shape[1:], jax.random.key(SEED))
        leaves = map(jnp.asarray, world.params)
        self.params = jax.tree.structure(params).unflatten(leaves)
        self.optimizer = optimizers.of_name("adam", self.config.optimizer.learning_rate)
        sizes = ("apply", "optimizer", "steps", "batch_size")
        self.run = jax.jit(probe.fit_all, static_argnames=sizes)
        self.blocks = 0

    def reset(self) -> None:
        """Nothing to do: every fit starts from the parameters of the world."""

    def apply(self, params: Any, x: Any) -> Any:
        return mdp_agent.forward(self.config, params, x).output

    def fit(self, key: Any, steps: int) -> probe.Fits:
        batched = mock.patch.object(devices, "is_cpu", return_value=False)
        with batched if self.batched else contextlib.nullcontext():
            found = self.run(
                apply=self.apply, params=self.params, inputs=self.inputs, targets=self.targets,
                optimizer=self.optimizer, key=key, steps=steps, batch_size=self.case.batch_size,
            )  # fmt: skip
        jax.block_until_ready(found)
        return found

    def block(self) -> int:
        self.blocks += 1
        self.fit(jax.random.key(self.blocks), self.case.steps)
        return self.case.targets * self.case.steps

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """Return final losses, learning curves and their noise, of every target."""
        found = self.fit(jax.random.key(SEED), given.shape[1])
        return [np.asarray(part) for part in found]
