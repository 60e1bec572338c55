"""Our ways to take curvature: `plasticity.measure.curvature`, `plasticity.measure.inner_products`.

And their peers in JAX: matfree's Lanczos method, and per-example gradients by vmap.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import agent_jax
import jax
import jax.numpy as jnp
import numpy as np
from agent_jax import double_precision as double_precision
from curvature_task import OUTPUTS, Case, Density, World, density
from jax.flatten_util import ravel_pytree
from task import CHECK_STEPS, in_double

from plasticity import devices
from plasticity.agents import dqn, mdp_agent
from plasticity.agents.mdp_task import ImageTask
from plasticity.agents.settings import Problem
from plasticity.chapters.probing import parts, probed_agent
from plasticity.configuration import replaced
from plasticity.measure import curvature, inner_products, lanczos

SEED = 0
PIECES = 5
"""Measurements of λ₁ in one call, as between two probes of an experiment."""


def config_of(case: Case) -> probed_agent.Config:
    """Return the settings of the agent with this network."""
    return replaced(
        agent_jax.config_of(case),
        {"network.layer_norm": case.layer_norm, "sharpness_order": case.order},
    )


def make_world(case: Case) -> World:
    """Return standardised images, or noise, with normal targets, and fresh parameters."""
    config, draw = config_of(case), np.random.default_rng(SEED)
    if case.dataset == "noise":
        images = draw.standard_normal((case.n_images, 4, 5, 1), np.float32)
        labels = np.zeros(case.n_images, np.int32)
    else:
        problem = Problem(dataset=case.dataset, n_images=case.n_images)  # type: ignore[arg-type]
        plain = mdp_agent.AgentConfig(problem=problem)
        found, _ = probed_agent.load([plain])
        key = mdp_agent.image_key(plain)
        images, labels = np.array(found.images[key]), np.array(found.labels[key])
    params = mdp_agent.initialise(config, images.shape[1:], jax.random.key(SEED))
    targets = draw.standard_normal((case.n_images, OUTPUTS), np.float32)
    return World(images, labels, [np.array(leaf) for leaf in jax.tree.leaves(params)], targets)


def given(case: Case, world: World) -> np.ndarray:
    """Return what a check takes: a start vector of signs, or as many zeros as steps to train."""
    if case.steps:
        return np.zeros(CHECK_STEPS)
    signs: np.ndarray = np.random.default_rng(SEED).choice([-1.0, 1.0], dimension(world))
    return signs


def dimension(world: World) -> int:
    return sum(leaf.size for leaf in world.params)


class Network:
    """A network, its parameters and a batch, as arguments of compiled functions."""

    def __init__(self, case: Case, world: World) -> None:
        self.case, self.world, self.config = case, world, config_of(case)
        shape = world.images.shape[1:]
        params = mdp_agent.initialise(self.config, shape, jax.random.key(SEED))
        leaves = map(jnp.asarray, world.params)
        self.params = jax.tree.structure(params).unflatten(leaves)
        self.network = mdp_agent.network(self.config)
        self.inputs = self.config.network.inputs(jnp.asarray(world.images))
        self.targets = jnp.asarray(world.targets)
        self.blocks = 0

    def reset(self) -> None:
        """Nothing to do: nothing is trained."""

    def loss(self, params: Any, batch: tuple[Any, Any]) -> Any:
        inputs, targets = batch
        return jnp.mean((self.network.apply(params, inputs).output - targets) ** 2)


class Spectra(Network):
    """`curvature.spectrum` of `curvature.hessian`, compiled as one."""

    def __init__(self, case: Case, world: World) -> None:
        super().__init__(case, world)
        self.run, self.run_from = jax.jit(self.spectrum), jax.jit(self.from_start)

    def spectrum(self, params: Any, batch: Any, key: Any) -> curvature.Spectrum:
        operator = curvature.hessian(self.loss, params, batch)
        return curvature.spectrum(operator, key, self.case.order)

    def from_start(self, params: Any, batch: Any, start: Any) -> Any:
        found = lanczos.lanczos(curvature.hessian(self.loss, params, batch), start, self.case.order)
        return lanczos.ritz(found.diagonal, found.off_diagonal)

    def block(self) -> int:
        self.blocks += 1
        key = jax.random.key(self.blocks)
        jax.block_until_ready(self.run(self.params, (self.inputs, self.targets), key))
        return 1

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """Return `Density` from this start vector."""
        start = jnp.asarray(given, self.inputs.dtype)
        nodes, vectors = self.run_from(self.params, (self.inputs, self.targets), start)
        return list(density(np.asarray(nodes), np.asarray(vectors[0]) ** 2, len(given)))


def exact(case: Case, world: World, given: np.ndarray) -> list[np.ndarray]:
    """Return `Density` from the dense Hessian, in float64: what contenders estimate."""
    with double_precision():
        network = Network(case, in_double(world))
        flat, unravel = ravel_pytree(network.params)
        batch = (network.inputs, network.targets)
        dense = np.asarray(jax.hessian(lambda theta: network.loss(unravel(theta), batch))(flat))
    ends, moved = np.linalg.eigvalsh(dense)[[0, -1]], dense @ given
    return list(Density(*ends, given @ moved, np.linalg.norm(moved)))


class Matfree(Spectra):
    """matfree's Lanczos with full reorthogonalisation, on our product with the Hessian.

    matfree has no Hessians, so only Lanczos' method is compared, not the product.
    """

    def spectrum(self, params: Any, batch: Any, key: Any) -> curvature.Spectrum:
        start = jax.random.normal(key, (dimension(self.world),), self.inputs.dtype)
        nodes, vectors = self.from_start(params, batch, start)
        return curvature.Spectrum(nodes[None], vectors[:1] ** 2)

    def from_start(self, params: Any, batch: Any, start: Any) -> Any:
        from matfree import decomp

        product = curvature.hessian(self.loss, params, batch).product
        tridiagonal = decomp.tridiag_sym(self.case.order, reortho="full")(product, start).J_small
        return jnp.linalg.eigh(tridiagonal)


class Grams(Network):
    """`inner_products.gram`, layer by layer."""

    def __init__(self, case: Case, world: World) -> None:
        super().__init__(case, world)
        self.compiled = jax.jit(self.gram)

    @staticmethod
    def losses(found: Any, targets: Any) -> Any:
        return jnp.mean((found.output - targets) ** 2, axis=1)

    def gram(self, params: Any, inputs: Any, targets: Any) -> Any:
        return inner_products.gram(self.network, params, inputs, self.losses, targets)

    def prepare(self) -> None:
        """Compile, and run nothing."""
        self.compiled = self.compiled.lower(self.params, self.inputs, self.targets).compile()

    def run(self) -> Any:
        return jax.block_until_ready(self.compiled(self.params, self.inputs, self.targets))

    def block(self) -> int:
        self.run()
        return 1

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """Return the Gram matrix; ``given`` is not used."""
        return [np.asarray(self.run())]


class NaiveGrams(Grams):
    """Every example's gradient by vmap, all held at once, and then their products.

    Compiled as two functions, which is faster than one. ``native``: with XLA's own convolution.
    """

    def __init__(self, case: Case, world: World, native: bool = True) -> None:
        self.native = native
        super().__init__(case, world)
        self.compiled, self.products = jax.jit(self.gradients), jax.jit(self.of_leaves)

    def gradients(self, params: Any, inputs: Any, targets: Any) -> Any:
        def loss(params: Any, x: Any, target: Any) -> Any:
            return self.losses(self.network.apply(params, x[None]), target[None])[0]

        on_cpu = mock.patch.object(devices, "is_cpu", return_value=not self.native)
        with on_cpu:
            return jax.vmap(jax.grad(loss), (None, 0, 0))(params, inputs, targets)

    @staticmethod
    def of_leaves(gradients: Any) -> Any:
        flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(gradients)]
        return sum(leaf @ leaf.T for leaf in flat)

    def prepare(self) -> None:
        gradients = jax.eval_shape(self.compiled, self.params, self.inputs, self.targets)
        super().prepare()
        self.products = self.products.lower(gradients).compile()

    def run(self) -> Any:
        gradients = self.compiled(self.params, self.inputs, self.targets)
        return jax.block_until_ready(self.products(gradients))


class Logged(agent_jax.Agents):
    """An agent whose λ₁ is measured every ``case.steps`` steps, in one compiled call.

    With ``logged=False`` the same agent trains in the same pieces, and nothing is measured.
    """

    def __init__(self, case: Case, world: World, logged: bool = True) -> None:
        self.logged = logged
        super().__init__(case, world)  # type: ignore[arg-type]
        self.config = config_of(case)

    def train(
        self, agent: dqn.Agent, task: ImageTask, states: dqn.State, steps: int
    ) -> tuple[dqn.State, Any]:
        every = min(self.case.steps, steps)
        config, design = self.config, mdp_agent.design(self.config)
        outputs, begun = mdp_agent.n_outputs(design), jax.random.key(SEED)
        batch, key = parts.proxy_batch(config.proxy_examples, outputs, task.images, begun)

        def piece(state: dqn.State, _: None) -> tuple[dqn.State, Any]:
            state, _ = dqn.train(agent, task, state, every)
            if not self.logged:
                return state, None
            return state, parts.sharpness(design, config.sharpness_order, state.params, batch, key)

        return jax.lax.scan(piece, states, length=steps // every)

    def block(self) -> int:
        self.advance(self.agent, PIECES * self.case.steps)
        return PIECES * self.case.steps
