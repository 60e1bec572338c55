"""The programs of `plasticity.chapters.probing.probed_agent`, each compiled once per network.

What differs between arms that share a network (labels, rates, the problem) is an argument.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from plasticity.agents import dqn, mdp_agent, mdp_task
from plasticity.agents.mdp_agent import Design
from plasticity.agents.mdp_task import Images, ImageTask
from plasticity.agents.settings import DQN, Rates
from plasticity.learner import is_finite
from plasticity.measure import curvature, gradients, inner_products, probe, snapshot
from plasticity.networks import architectures
from plasticity.programs import program
from plasticity.shapes import Array, Bool, Float, Int
from plasticity.worlds import classification_mdp
from plasticity.worlds.classification_mdp import MDP


@program(static=("count",), effort="least")
def split(key: Array, count: int) -> tuple[Array, ...]:
    """Return ``count`` keys."""
    return tuple(jax.random.split(key, count))


@program(static=("variant",), effort="less")
def make(variant: classification_mdp.Variant, labels: Int[Array, " images"], key: Array) -> MDP:
    """Return the problem, `plasticity.worlds.classification_mdp.make`."""
    return classification_mdp.make(variant, labels, key)


@program(static=("algorithm",), effort="least")
def warm_up(algorithm: DQN, task: ImageTask, key: Array) -> mdp_task.Experience:
    """Return the random transitions with which an agent starts, `plasticity.agents.dqn.warm_up`."""
    found: mdp_task.Experience = dqn.warm_up(without_network(algorithm), task, key)
    return found


@program(static=("design",), effort="less")
def begin(
    design: Design, images: Images, init_key: Array, experience: mdp_task.Experience, key: Array
) -> dqn.State:
    """Return the agent with that experience, its network freshly drawn."""
    params = mdp_agent.initialise(design, images.shape[1:], init_key)
    return dqn.begun(mdp_agent.agent(design, images.shape[1:]), params, experience, key)


def without_network(algorithm: DQN) -> dqn.Agent:
    """Return an agent for its numbers only: its network is any."""
    return mdp_agent.agent(Design(algorithm=algorithm))


@program(static=("algorithm", "actions", "steps"), effort="least")
def draws(
    algorithm: DQN, actions: int, key: Array, before: Int[Array, ""], steps: int
) -> dqn.Draws:
    """Return the random numbers of a stretch of training, `plasticity.agents.dqn.draws`."""
    return dqn.draws(without_network(algorithm), actions, key, before, steps)


@program(static=("design", "steps"), donate=("state",))
def train_at_once(
    design: Design, steps: int, rates: Rates, task: ImageTask, state: dqn.State
) -> tuple[dqn.State, dqn.Metrics]:
    """Train an agent without events, `plasticity.agents.dqn.train`."""
    return dqn.train(mdp_agent.agent(design, rates=rates), task, state, steps)


@program(static=("design",), donate=("state",))
def train_stretch(
    design: Design, rates: Rates, task: ImageTask, state: dqn.State, drawn: dqn.Draws
) -> tuple[dqn.State, dqn.Metrics]:
    """Train to the next target update, `plasticity.agents.dqn.train_stretch`."""
    return dqn.train_stretch(mdp_agent.agent(design, rates=rates), task, state, drawn)


@program(static=("design",), donate=("state",), effort="less")
def intervene(design: Design, task: ImageTask, state: dqn.State) -> dqn.State:
    """Let an event happen if it is due, `plasticity.agents.dqn.intervene`."""
    return dqn.intervene(mdp_agent.agent(design, task.images.shape[1:]), task, state)


@program(effort="least")
def tally(seen: dqn.Metrics) -> dict[str, Array]:
    """Return what is recorded of training, from what each of its stretches reports."""
    return {
        "td_loss": jnp.mean(seen["td_loss"]),
        "td_loss_max": jnp.max(seen["td_loss_max"]),
        "reward": jnp.mean(seen["reward"]),
    }


@program(static=("design",), effort="least")
def perform(
    design: Design, task: ImageTask, params: Any, optimal: Bool[Array, "states actions"]
) -> tuple[dict[str, Array], tuple[Array, ...]]:
    """Return how well the agent does its task, and its hidden activations on all images."""
    learner = mdp_agent.agent(design)
    output, hidden = mdp_agent.forward(design, params, task.images)
    return {
        "accuracy": mdp_task.greedy_accuracy(learner, task, params, optimal),
        "mean_value": jnp.mean(jnp.max(learner.read(output), axis=1)),
        "diverged": 1.0 - is_finite(params),
    }, hidden


@program(effort="least")
def of_features(hidden: tuple[Array, ...]) -> dict[str, Array]:
    """Return the statistics of hidden activations: the same program for layers of equal shapes."""
    return snapshot.of_activations(hidden)


@program(effort="least")
def of_kernels(kernels: list[Array]) -> dict[str, Array]:
    """Return the statistics of weights: the same program for kernels of equal shapes."""
    return snapshot.of_weights(kernels)


@program(static=("examples", "outputs"), effort="less")
def proxy_batch(
    examples: int, outputs: int, images: Images, key: Array
) -> tuple[tuple[Images, Array], Array]:
    """Return images and directions of the proxy loss, and a key for `sharpness`."""
    pick_key, direction_key, vector_key = jax.random.split(key, 3)
    chosen = jax.random.permutation(pick_key, images.shape[0])[:examples]
    return (images[chosen], jax.random.normal(direction_key, (examples, outputs))), vector_key


@program(static=("design", "order"), effort="less")
def sharpness(
    design: Design, order: int, params: Any, batch: tuple[Images, Array], key: Array
) -> Float[Array, ""]:
    """Return λ₁ of the proxy loss's Hessian (§4.2)."""
    loss = curvature.proxy_loss(lambda params, x: mdp_agent.forward(design, params, x).output)
    # Variables beside the parameters count with a curvature of zero, as they did when runs were
    # recorded; ξ makes the eigenvalues near one.
    return curvature.largest_eigenvalue(loss, params, batch, key, order, trainable=True, scale=1.0)


@program(static=("design",), effort="least")
def gradient_norm(design: Design, task: ImageTask, state: dqn.State) -> Float[Array, ""]:
    """Return the norm of the gradient of the agent's own loss."""
    return mdp_task.gradient_norm(mdp_agent.agent(design), task, state)


@program(static=("design",), effort="least")
def products(design: Design, params: Any, batch: tuple[Images, Array]) -> Float[Array, "k k"]:
    """Return the inner products of the gradients of the proxy loss, image by image."""
    images, directions = batch
    return inner_products.gram(
        mdp_agent.network(design), params, design.network.inputs(images), proxy_losses, directions
    )


@program(effort="least")
def interference(gram: Float[Array, "k k"]) -> dict[str, Array]:
    """Return C_k in a few numbers."""
    found = gradients.summary(gradients.covariance(gram))
    return {
        "interference": found.negative_share,
        "collinearity": found.collinearity,
        "gradient_rank": found.rank,
    }


def proxy_losses(found: architectures.Forward, direction: Array) -> Float[Array, " examples"]:
    """Return the proxy loss of each example; their mean is `curvature.proxy_loss`."""
    moved = found.output - jax.lax.stop_gradient(found.output) + direction
    return jnp.mean(moved**2, axis=1)


class Fitting(NamedTuple):
    """How the probe fits: `probed_agent.Config`, each field without its ``probe_``."""

    state: Literal["fresh", "carried"]
    loss: Literal["squared", "own"]
    steps: int
    batch_size: int


@program(static=("design", "how"))
def fit(
    design: Design,
    how: Fitting,
    rates: Rates,
    state: dqn.State,
    images: Images,
    targets: Float[Array, "targets images actions"],
    key: Array,
) -> dict[str, Array]:
    """Return what the fits of `plasticity.measure.probe.fit_all` reached, and how."""
    learner = mdp_agent.agent(design, rates=rates)
    found = probe.fit_all(
        learner.values, state.params, images, targets, learner.optimizer, key,
        objective=objective(design, how.loss),
        opt_state=state.learner.opt_state if how.state == "carried" else None,
        steps=how.steps, batch_size=how.batch_size,
    )  # fmt: skip
    return {
        "loss": found.loss,
        "probe_loss": jnp.mean(found.loss),
        "curve": jnp.mean(found.curve, axis=0),
        "noise": jnp.mean(found.noise, axis=0),
    }


def objective(design: Design, loss: Literal["squared", "own"]) -> probe.Objective:
    """Return the loss that a probe minimises: squared error of values, or the network's own loss.

    The paper does not say which. For a two-hot network the gradient of Eq. (4) vanishes where the
    softmax saturates; the gradient of the cross-entropy to two-hot targets does not.
    """
    learner = mdp_agent.agent(design)

    def squared(
        params: Any, images: Array, goal: Float[Array, "batch actions"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        error = jnp.mean((learner.head.decode(learner.outputs(params, images)) - goal) ** 2)
        return error, error

    def own(
        params: Any, images: Array, goal: Float[Array, "batch actions"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        logits = learner.outputs(params, images)
        nats = -jnp.sum(learner.head.encode(goal) * jax.nn.log_softmax(logits), axis=-1)
        return jnp.mean(nats), jnp.mean((learner.head.decode(logits) - goal) ** 2)

    return own if loss == "own" and design.output.kind == "two_hot" else squared
