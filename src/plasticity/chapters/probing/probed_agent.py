"""An agent that is trained in a classification MDP and probed along the way (§5.1, A.2).

The experiments on measuring, falsification, interventions and scaling share this: every
``probe_every`` optimizer steps training pauses, a copy of the network fits random targets, and the
network's statistics are taken. Experiments differ in their arms and in how they use the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from plasticity import configuration
from plasticity.agents import dqn, mdp_agent, mdp_task
from plasticity.agents.mdp_task import Images, ImageTask
from plasticity.chapters.probing import tables
from plasticity.chapters.probing.by_key import ByKey
from plasticity.measure import curvature, gradients, inner_products, probe, snapshot
from plasticity.networks import architectures
from plasticity.runs import checkpoints
from plasticity.runs.experiment import Arms, Experiment
from plasticity.runs.results import Run
from plasticity.shapes import Array, Float, Int
from plasticity.worlds import classification_mdp, image_sets
from plasticity.worlds.classification_mdp import MDP


@dataclass(frozen=True)
class Config(mdp_agent.AgentConfig):
    """Settings of one agent and of its probes."""

    # probe (A.2, §5.1: every 5,000 steps, 10 targets, 2,000 steps)
    probe_every: int = 5_000  # optimizer steps
    probes: int = 200  # in addition to the one before training; B.1: 1 M optimizer steps
    n_targets: int = 10
    probe_steps: int = 2_000
    probe_batch_size: int = 32  # inputs; not in the paper
    probe_state: Literal["fresh", "carried"] = "fresh"  # of the optimizer; the paper allows both
    # the loss that probes a two-hot network: Eq. (4), or the cross-entropy from which it learns
    probe_loss: Literal["squared", "own"] = "squared"
    keep_parameters: bool = False  # put the first seed's into the bank, at every probe
    # curvature of the proxy loss (§4.2): its sharpness is logged in training and at every probe
    sharpness_every: int = 1_000  # optimizer steps
    sharpness_order: int = 8  # products with the Hessian
    proxy_examples: int = 128  # images of the proxy loss, and k of C_k

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        configuration.require_positive(
            self, "probe_every", "n_targets", "probe_steps", "probe_batch_size",
            "sharpness_every", "sharpness_order", "proxy_examples",
        )  # fmt: skip
        configuration.require(
            self.probe_every % self.sharpness_every == 0,
            f"probe_every = {self.probe_every}: must be a multiple of sharpness_every = "
            f"{self.sharpness_every}",
        )
        configuration.require(
            self.proxy_examples <= self.problem.n_images,
            f"proxy_examples = {self.proxy_examples}: there are n_images = {self.problem.n_images}",
        )
        configuration.require(self.probes >= 0, f"probes = {self.probes}: must not be below 0")
        configuration.require(
            self.probe_steps % probe.WINDOW == 0,
            f"probe_steps = {self.probe_steps}: must be a multiple of {probe.WINDOW}",
        )
        configuration.require(
            self.probe_loss == "squared" or self.probe_state == "fresh",
            "probe_loss = 'own': needs probe_state = 'fresh'",
        )


class World(NamedTuple):
    """What training reads and never changes, for all arms of a run."""

    images: ByKey  # of (images, height, width, channels), standardised, by `image_key`
    labels: ByKey  # of (images,), the true ones, by `image_key`
    targets: ByKey  # of (targets, images, actions), by `network_key`


class State(NamedTuple):
    """Everything that a chunk passes on to the next."""

    agent: dqn.State
    mdp: MDP
    probe_key: Array  # the same at every probe: equal minibatches, so that probes are paired
    proxy_key: Array  # the same at every measurement of curvature: equal examples and directions
    chunk: Int[Array, ""]


def experiment(
    module: str,
    config: type[Config],
    studies: Mapping[str, Config],
    arms: Callable[[Any], Arms],
    swept: Mapping[str, str],
    claims: Mapping[str, Callable[[Run], Any]],
) -> Experiment:
    """Return the experiment that trains and probes these arms.

    ``swept`` maps columns of the table, besides arm and seed, to the paths of their fields. The
    other arguments are as in `Experiment`.
    """
    return Experiment(
        module, config, studies, arms=arms, load=partial(load_arms, arms), shapes=shapes,
        start=start, advance=advance, chunks=chunks, flops=flops,
        summarize=partial(tables.tidy, arms, swept), claims=claims,
    )  # fmt: skip


def load_arms(
    arms: Callable[[Any], Arms], config: mdp_agent.AgentConfig
) -> tuple[World, dict[str, object]]:
    """Return the images and targets of all arms, and where the images come from."""
    return load(configuration.replaced(config, changes) for changes in arms(config).values())


def load(configs: Iterable[mdp_agent.AgentConfig]) -> tuple[World, dict[str, object]]:
    """Return the images and probe targets that these arms need, and where the images come from.

    Targets are drawn here, once and on the host, for the reason that
    `plasticity.measure.probe.targets` gives; agents that are not probed need none.
    """
    images: dict[Any, Any] = {}
    labels: dict[Any, Any] = {}
    targets: dict[Any, Any] = {}
    sources: dict[str, dict[str, Any]] = {}
    for config in configs:
        name = mdp_agent.image_key(config)
        if name not in images:
            found = image_sets.load(config.problem.dataset, config.problem.n_images)
            shape = found.pixels.shape
            images[name] = jnp.asarray(image_sets.standardise(found.pixels).reshape(shape))
            labels[name] = jnp.asarray(found.labels, jnp.int32)
            sources["-".join(map(str, name))] = found.source
        key = mdp_agent.network_key(config)
        if isinstance(config, Config) and key not in targets:
            targets[key] = jnp.asarray(draw_targets(config, np.asarray(images[name])))
    # Of several subsets of one data set, the largest counts.
    ordered = sorted(sources.values(), key=lambda source: int(source["records"]))
    several = list({source["dataset"]: source for source in ordered}.values())
    source = {
        "dataset": " and ".join(sorted({str(s["dataset"]) for s in several})),
        "records": sum(s["records"] for s in several),
        "full_set": sum(s["full_set"] for s in several),
        "origin": " and ".join(sorted({str(s["origin"]) for s in several})),
        "sets": sources,
        "images": checkpoints.digest((images, labels)),
    }
    return World(ByKey(images), ByKey(labels), ByKey(targets)), source


def shapes(config: mdp_agent.AgentConfig) -> World:
    """Return the shapes and types of what `load` gives this arm, without loading anything."""

    def array(*shape: int, kind: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, kind)  # type: ignore[no-untyped-call]

    key = mdp_agent.image_key(config)
    images = {key: array(key.n_images, *image_sets.shape(config.problem.dataset))}
    labels = {key: array(key.n_images, kind=jnp.int32)}
    targets = {}
    if isinstance(config, Config):
        drawn = array(config.n_targets, key.n_images, classification_mdp.STATES)
        targets[mdp_agent.network_key(config)] = drawn
    return World(ByKey(images), ByKey(labels), ByKey(targets))


def draw_targets(config: Config, images: np.ndarray) -> np.ndarray:
    """Return the run's probe targets, (targets, images, actions); equal for all seeds and arms."""
    return probe.targets(
        mdp_agent.agent(config).values,
        lambda key: mdp_agent.initialise(config, images.shape[1:], key),
        images,
        jax.random.key(0),
        config.n_targets,
    )


def start(config: Config, world: World, key: Array) -> State:
    """Return an agent before its first step; equal keys start equal in every arm."""
    init_key, mdp_key, agent_key, probe_key, proxy_key = jax.random.split(key, 5)
    name = mdp_agent.image_key(config)
    mdp = classification_mdp.make(config.problem.variant, world.labels[name], mdp_key)
    params = mdp_agent.initialise(config, world.images[name].shape[1:], init_key)
    task = ImageTask(mdp, world.images[name])
    state = dqn.start(mdp_agent.agent(config), task, params, agent_key)
    return State(state, mdp, probe_key, proxy_key, jnp.zeros((), jnp.int32))


def chunks(config: Config) -> int:
    """Return how often `advance` is called: once per probe, including the one before training."""
    return config.probes + 1


def advance(config: Config, world: World, state: State) -> tuple[State, dict[str, Array]]:
    """Train until the next probe (the first call does not train), probe, and take statistics.

    A probe that falls on a target update sees the network before the event that follows it. The
    record holds scalars, the fits' ``loss`` (targets,), their mean ``curve`` and ``noise``
    (windows,), ``sharpness_trace`` (every `Config.sharpness_every` steps), and with
    ``config.keep_parameters`` the parameters as ``params/<path>``.
    """
    images = world.images[mdp_agent.image_key(config)]
    learner = mdp_agent.agent(config, images.shape[1:])
    batch, vector_key = proxy_batch(config, images, state.proxy_key)
    pieces = config.probe_every // config.sharpness_every

    def piece(state: dqn.State, _: None) -> tuple[dqn.State, tuple[dqn.Metrics, Array]]:
        state, seen = dqn.train(learner, task, state, config.sharpness_every)
        return state, (seen, sharpness(config, state.params, batch, vector_key))

    def train(state: dqn.State) -> tuple[dqn.State, dict[str, Array]]:
        state, (seen, sharp) = jax.lax.scan(piece, state, length=pieces)
        return state, {
            "td_loss": jnp.mean(seen["td_loss"]),
            "td_loss_max": jnp.max(seen["td_loss_max"]),
            "reward": jnp.mean(seen["reward"]),
            "sharpness_trace": sharp,
        }

    def wait(state: dqn.State) -> tuple[dqn.State, dict[str, Array]]:
        unknown = dict.fromkeys(("td_loss", "td_loss_max", "reward"), jnp.asarray(jnp.nan))
        return state, unknown | {"sharpness_trace": jnp.full((pieces,), jnp.nan)}

    task = ImageTask(state.mdp, images)
    if config.probes:
        trained, record = jax.lax.cond(state.chunk == 0, wait, train, state.agent)
    else:  # a fresh network, and nothing to train
        trained, record = wait(state.agent)
    record |= measure(config, task, trained)
    record |= landscape(config, task, trained, batch, vector_key)
    record |= probe_record(config, world, trained, state.probe_key)
    if config.keep_parameters:
        record |= {f"params/{name}": leaf for name, leaf in named_leaves(trained.params).items()}
    return state._replace(agent=trained, chunk=state.chunk + 1), record


def named_leaves(params: Any) -> dict[str, Array]:
    """Return the leaves of ``params`` by path, such as ``params/Dense_0/kernel``."""
    flat, _ = jax.tree.flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def measure(config: Config, task: ImageTask, state: dqn.State) -> dict[str, Array]:
    """Return how well the agent does its task, and its network's statistics over all images."""
    learner = mdp_agent.agent(config)
    output, hidden = mdp_agent.forward(config, state.params, task.images)
    optimal = jnp.asarray(
        classification_mdp.optimal_actions(config.problem.variant, config.algorithm.discount)
    )
    return {
        "accuracy": mdp_task.greedy_accuracy(learner, task, state.params, optimal),
        "mean_value": jnp.mean(jnp.max(learner.read(output), axis=1)),
        "diverged": 1.0 - dqn.is_finite(state.params),
        **snapshot.of_network(hidden, state.params),
    }


def proxy_batch(config: Config, images: Images, key: Array) -> tuple[tuple[Images, Array], Array]:
    """Return images and directions of the proxy loss, and a key for `sharpness`."""
    pick_key, direction_key, vector_key = jax.random.split(key, 3)
    chosen = jax.random.permutation(pick_key, images.shape[0])[: config.proxy_examples]
    shape = (config.proxy_examples, mdp_agent.n_outputs(config))
    return (images[chosen], jax.random.normal(direction_key, shape)), vector_key


def sharpness(
    config: Config, params: Any, batch: tuple[Images, Array], key: Array
) -> Float[Array, ""]:
    """Return λ₁ of the proxy loss's Hessian (§4.2)."""
    loss = curvature.proxy_loss(lambda params, x: mdp_agent.forward(config, params, x).output)
    return curvature.largest_eigenvalue(loss, params, batch, key, config.sharpness_order)


def landscape(
    config: Config,
    task: ImageTask,
    state: dqn.State,
    batch: tuple[Images, Array],
    key: Array,
) -> dict[str, Array]:
    """Return sharpness and C_k of the proxy loss, and the norm of the agent's own gradient."""
    pictures, directions = batch
    gram = inner_products.gram(
        mdp_agent.network(config), state.params, config.network.inputs(pictures),
        proxy_losses, directions,
    )  # fmt: skip
    found = gradients.summary(gradients.covariance(gram))
    return {
        "sharpness": sharpness(config, state.params, batch, key),
        "gradient_norm": mdp_task.gradient_norm(mdp_agent.agent(config), task, state),
        "interference": found.negative_share,
        "collinearity": found.collinearity,
        "gradient_rank": found.rank,
    }


def proxy_losses(found: architectures.Forward, direction: Array) -> Float[Array, " examples"]:
    """Return the proxy loss of each example; their mean is `curvature.proxy_loss`."""
    moved = found.output - jax.lax.stop_gradient(found.output) + direction
    return jnp.mean(moved**2, axis=1)


def probe_record(config: Config, world: World, state: dqn.State, key: Array) -> dict[str, Array]:
    """Probe the agent's network with the agent's own optimizer (§3.1)."""
    learner = mdp_agent.agent(config)
    found = probe.fit_all(
        learner.values,
        state.params,
        world.images[mdp_agent.image_key(config)],
        world.targets[mdp_agent.network_key(config)],
        learner.optimizer,
        key,
        objective=objective(config),
        opt_state=state.learner.opt_state if config.probe_state == "carried" else None,
        steps=config.probe_steps,
        batch_size=config.probe_batch_size,
    )
    return {
        "loss": found.loss,
        "probe_loss": jnp.mean(found.loss),
        "curve": jnp.mean(found.curve, axis=0),
        "noise": jnp.mean(found.noise, axis=0),
    }


def objective(config: Config) -> probe.Objective:
    """Return the loss that a probe minimises: squared error of values, or the network's own loss.

    The paper does not say which. For a two-hot network the gradient of Eq. (4) vanishes where the
    softmax saturates; the gradient of the cross-entropy to two-hot targets does not.
    """
    learner = mdp_agent.agent(config)

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

    return own if config.probe_loss == "own" and config.output.kind == "two_hot" else squared


def flops(config: Config) -> float:
    """Return the floating-point operations of one seed of one arm, to estimate its cost."""
    training = config.probes * config.probe_every * config.algorithm.batch_size
    probing = chunks(config) * config.n_targets * config.probe_steps * config.probe_batch_size
    return 6.0 * mdp_agent.multiplications(config) * (training + probing)
