"""Our ways to train, all by `optimizer_instability.train` itself, and a step's bare products."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from task import CHECK_STEPS
from training_task import Case, World

from plasticity import learner as learning
from plasticity.agents import optimizers
from plasticity.chapters.optimizer_instability import run as optimizer_instability
from plasticity.chapters.optimizer_instability.run import Config, train
from plasticity.learner import Learner
from plasticity.worlds import image_sets

SEED = 0

start = jax.jit(optimizer_instability.start, static_argnums=0)


def config_of(case: Case) -> Config:
    """Return Fig. 1's configuration, default Adam, at the size of the case."""
    return Config(n_images=case.n_images, width=case.width, batch_size=case.batch_size)


def make_world(case: Case) -> World:
    """Return standardised MNIST digits with random labels, and Fig. 1's initial parameters."""
    config = config_of(case)
    world, _ = optimizer_instability.load(config)
    key = jax.random.key(SEED)
    params = start(config, world, key).params
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    labels = image_sets.random_labels(key, case.n_images)
    adam = np.array([config.learning_rate, config.b1, config.b2, config.eps])
    return World(np.asarray(world.inputs), np.asarray(labels), leaves, adam)


def double_precision() -> AbstractContextManager[Any]:
    """Return a context in which jax keeps float64."""
    return jax.enable_x64(True)


def given(case: Case, world: World) -> np.ndarray:
    """Return the minibatches, (steps, batch), that `train` draws in a check."""
    with double_precision():  # it changes what is drawn
        shape = (CHECK_STEPS, case.batch_size)
        return np.asarray(jax.random.randint(jax.random.key(SEED), shape, 0, case.n_images))


class Scan:
    """`train` compiled as the driver does: static settings, data as arguments, donated learner."""

    seeds = 1

    def __init__(self, case: Case, world: World) -> None:
        self.case, self.config = case, config_of(case)
        self.inputs, self.labels = jnp.asarray(world.inputs), jnp.asarray(world.labels)
        self.leaves = [jnp.asarray(leaf) for leaf in world.params]
        self.run = self.compiled()
        self.reset()

    def compiled(self) -> Callable[..., Any]:
        return jax.jit(train, static_argnums=(0, 5), donate_argnums=3)

    def reset(self) -> None:
        world = optimizer_instability.World(self.inputs, self.labels)
        params = start(self.config, world, jax.random.key(SEED)).params
        # Copies, because training donates its learner.
        params = jax.tree.structure(params).unflatten(map(jnp.copy, self.leaves))
        adam = optimizers.adam(self.config.learning_rate, self.config.adam)
        self.learner, self.blocks = learning.start(adam, params), 0
        jax.block_until_ready(self.learner)

    def advance(self, steps: int, key: Any) -> None:
        self.learner, _ = self.run(self.config, self.inputs, self.labels, self.learner, key, steps)
        jax.block_until_ready(self.learner)

    def block(self) -> int:
        self.blocks += 1
        self.advance(self.case.block, jax.random.key(self.blocks))
        return self.seeds * self.case.block

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """See `Task`; the key draws exactly the minibatches of `given`."""
        self.reset()
        self.advance(len(given), jax.random.key(SEED))
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self.learner.params)]


class PythonLoop(Scan):
    """The same, one jitted step at a time from Python; the host waits at the end of a block."""

    def compiled(self) -> Callable[..., Any]:
        def step(
            config: Config, inputs: Any, labels: Any, learner: Learner, key: Any
        ) -> tuple[Learner, Any]:
            key, now = jax.random.split(key)
            return train(config, inputs, labels, learner, now, 1)[0], key

        return jax.jit(step, static_argnums=0, donate_argnums=(3, 4))

    def reset(self) -> None:
        super().reset()
        self.key = jax.random.key(SEED)

    def block(self) -> int:
        data = (self.config, self.inputs, self.labels)
        for _ in range(self.case.block):
            self.learner, self.key = self.run(*data, self.learner, self.key)
        jax.block_until_ready(self.learner)
        return self.case.block


class Vmap(Scan):
    """Two seeds batched in one process, each with its own labels and minibatches."""

    seeds = 2

    def compiled(self) -> Callable[..., Any]:
        def both(
            config: Config, inputs: Any, labels: Any, learners: Learner, key: Any, steps: int
        ) -> tuple[Learner, Any]:
            def one(labels: Any, learner: Learner, key: Any) -> tuple[Learner, Any]:
                return train(config, inputs, labels, learner, key, steps)

            keys = jax.random.split(key, self.seeds)
            return jax.vmap(one)(jnp.stack([labels, labels[::-1]]), learners, keys)

        return jax.jit(both, static_argnums=(0, 5), donate_argnums=3)

    def reset(self) -> None:
        super().reset()
        self.learner = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.seeds), self.learner)


class Dot:
    """The eight matrix products of a step, in a step's order, and nothing between them.

    That is the gradient of the network without biases, ReLUs and softmax; the first layer's
    inputs need no gradient.
    """

    def __init__(self, case: Case, world: World) -> None:
        self.case = case
        self.arrays = [jnp.asarray(world.inputs[: case.batch_size])]
        self.arrays += [jnp.asarray(kernel) for kernel in world.params[1::2]]
        # As in training, the results go into memory that is already allocated.
        self.run = jax.jit(self.products, donate_argnums=4, keep_unused=True)
        self.reset()

    @staticmethod
    def products(x: Any, w1: Any, w2: Any, w3: Any, previous: Any) -> tuple[Any, Any, Any]:
        h1 = jnp.dot(x, w1)
        h2 = jnp.dot(h1, w2)
        d3 = jnp.dot(h2, w3)
        d2 = jnp.dot(d3, w3.T)
        d1 = jnp.dot(d2, w2.T)
        return jnp.dot(x.T, d1), jnp.dot(h1.T, d2), jnp.dot(h2.T, d3)

    def reset(self) -> None:
        self.results = tuple(jnp.zeros_like(kernel) for kernel in self.arrays[1:])

    def block(self) -> int:
        for _ in range(self.case.block):
            self.results = self.run(*self.arrays, self.results)
        jax.block_until_ready(self.results)
        return self.case.block

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """Return the three weight gradients."""
        self.results = self.run(*self.arrays, self.results)
        return [np.asarray(product) for product in self.results]
