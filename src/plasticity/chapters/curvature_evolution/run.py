"""Gradient descent leads to where the loss is sharp, a random walk does not (§4.2, A.1, Fig. 2).

An agent learns by Q-learning with plain SGD. In parallel, a random walk starts from the same
parameters; each of its steps is as long as the agent's. At each measurement a proxy loss asks how
easily either network could move its predictions in random directions, by the spectrum of the loss's
Hessian and by whether its examples' gradients interfere. Convolutional agents with and without
layer normalisation show what it does to sharpness (Fig. 14).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from plasticity import configuration, programs
from plasticity.agents import dqn, mdp_agent, mdp_task, optimizers
from plasticity.agents.mdp_agent import Design
from plasticity.agents.mdp_task import ImageTask
from plasticity.agents.settings import DQN, Optimizer, Problem, Rates
from plasticity.chapters.probing import parts, probed_agent
from plasticity.chapters.probing.probed_agent import World
from plasticity.learner import is_finite
from plasticity.measure import curvature, gradients, inner_products
from plasticity.networks.settings import CNN, MLP
from plasticity.programs import program
from plasticity.runs.results import Records
from plasticity.shapes import Array, Bool, Int
from plasticity.worlds import classification_mdp
from plasticity.worlds.classification_mdp import MDP


@dataclass(frozen=True)
class Config(mdp_agent.AgentConfig):
    """Settings of the agent, its walks and the measurements."""

    # the agent of A.1: plain SGD, batches of 512, a target update every 5,000 steps
    optimizer: Optimizer = Optimizer("sgd")
    algorithm: DQN = DQN(batch_size=512, target_period=5_000)
    updates: int = 20  # target updates; a measurement at the start and after each of them
    # measurements
    examples: int = 512  # of the proxy loss; "a single large batch of transitions"
    order: int = 64  # Lanczos steps
    vectors: int = 1  # random start vectors of a spectral density
    covariance_examples: int = 512  # k of C_k (§4.2)
    walk_scales: tuple[float, ...] = (1.0, 10.0, 30.0, 100.0, 300.0)  # step length over the agent's
    # in addition to the agent of A.1
    adam_arm: bool = False  # also an agent trained by Adam, whose steps are longer
    layer_norm_arms: bool = False  # Fig. 14: also CNNs with and without layer normalisation:
    cnn: CNN = CNN()

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        configuration.require_positive(
            self, "updates", "examples", "order", "vectors", "covariance_examples"
        )
        for name in ("examples", "covariance_examples"):
            value = getattr(self, name)
            configuration.require(
                value <= self.problem.n_images,
                f"{name} = {value}: there are n_images = {self.problem.n_images}",
            )
        configuration.require(
            all(scale > 0 for scale in self.walk_scales),
            f"walk_scales = {self.walk_scales}: each must be above 0",
        )
        configuration.require(
            not self.walk_scales or 1.0 in self.walk_scales,
            f"walk_scales = {self.walk_scales}: 1, the walk of §4.2, must be among them, or none",
        )
        configuration.require(
            self.updates >= FIG_2,
            f"updates = {self.updates}: Fig. 2 looks after {FIG_2} target updates",
        )


FIG_2 = 5
"""Target updates after which Fig. 2 shows the spectrum."""

STUDIES: Mapping[str, Config] = {
    "quick": Config(
        problem=Problem(n_images=1_000), network=MLP(width=64), optimizer=Optimizer("sgd", 3e-3),
        algorithm=DQN(batch_size=64, target_period=250), updates=16, examples=256, order=16,
        covariance_examples=128, walk_scales=(1.0, 100.0), seeds=3,
    ),
    "laptop": Config(
        network=MLP(width=128), algorithm=DQN(batch_size=128, target_period=1_000), order=32,
        adam_arm=True, layer_norm_arms=True, cnn=CNN(channels=16, width=64),
    ),
    "gpu": Config(adam_arm=True, layer_norm_arms=True),
    "paper": Config(adam_arm=True, layer_norm_arms=True, vectors=5),
}  # fmt: skip


def arms(config: Config) -> dict[str, dict[str, Any]]:
    """Return the changes to ``config`` that define each arm, by name."""
    found: dict[str, dict[str, Any]] = {"agent": {}}
    if config.adam_arm:
        found["adam"] = {"optimizer.name": "adam", "walk_scales": (1.0,)}
    if config.layer_norm_arms:
        for variant in ("true_label", "random_label"):
            for layer_norm in (False, True):
                found[cnn_arm(variant, layer_norm)] = {
                    "problem.variant": variant,
                    "network": replace(config.cnn, layer_norm=layer_norm),
                    "optimizer.name": "adam", "algorithm.batch_size": 32,
                    "algorithm.target_period": 1_000, "order": min(config.order, 16),
                    "walk_scales": (),
                }  # fmt: skip
    return found


def cnn_arm(variant: str, layer_norm: bool) -> str:
    """Return the name of the arm of Fig. 14 with this problem and network."""
    return f"cnn-{variant}" + ("-layer_norm" if layer_norm else "")


class State(NamedTuple):
    """Everything that a chunk passes on to the next."""

    agent: dqn.State
    mdp: MDP
    origin: Any  # the parameters before training
    measure_key: Array  # the same at every measurement: equal examples, directions and vectors


def load(config: Config) -> tuple[World, dict[str, object]]:
    """Return the images of all arms, and where they come from."""
    return probed_agent.load_arms(arms, config)


def shapes(config: Config) -> World:
    """Return the shapes and types of what `load` gives one arm, without loading anything."""
    return probed_agent.shapes(config)


def chunks(config: Config) -> int:
    """Return how often `advance` is called: once per measurement, including the first."""
    return config.updates + 1


def agent(design: Design, walks: bool, key: Array, rates: Rates | None = None) -> dqn.Agent:
    """Return the agent, if asked with its walks; ``key`` draws their steps: only the start uses it.

    ``rates`` are those of `plasticity.agents.mdp_agent.agent`.
    """
    plain = mdp_agent.agent(design, rates=rates)
    if not walks:
        return plain
    return replace(plain, optimizer=optimizers.with_random_walk(plain.optimizer, key))


def start(config: Config, world: World, key: Array) -> State:
    """Return an agent before its first step; equal keys start equal in every arm."""
    init_key, mdp_key, agent_key, walk_key, measure_key = parts.split(key, 5)
    name = mdp_agent.image_key(config)
    mdp = parts.make(config.problem.variant, world.labels[name], mdp_key)
    task, keys = ImageTask(mdp, world.images[name]), (init_key, walk_key, agent_key)
    state, origin = begin(mdp_agent.design(config), bool(config.walk_scales), task, *keys)
    return State(state, mdp, origin, measure_key)


def advance(
    config: Config, world: World, state: State, chunk: Int[Array, ""] | int
) -> tuple[State, dict[str, Array]]:
    """Train until the next target update (chunk 0 does not train), and measure.

    The record holds, for each process of `processes`, scalars ``<process>/<metric>``, the
    spectrum's ``<process>/nodes`` and ``weights`` (vectors, order), and for the agent and its walk
    C_k as ``<process>/cosines`` (k, k).
    """
    images = world.images[mdp_agent.image_key(config)]
    design, task = mdp_agent.design(config), ImageTask(state.mdp, images)

    def learn(agent: dqn.State) -> dqn.State:
        rates = config.optimizer.rates
        return train(design, bool(config.walk_scales), rates, task, agent, state.measure_key)

    trained = programs.cond(chunk == 0, lambda agent: agent, learn, state.agent)
    optimal = classification_mdp.optimal_actions(config.problem.variant, config.algorithm.discount)
    record = evaluate(design, task, trained, jnp.asarray(optimal))
    watched = processes(config, state.origin, trained)
    sizes = Sizes(config.examples, config.covariance_examples, config.order, config.vectors)
    found = programs.each(
        lambda params: measure(design, sizes, images, params, state.origin, state.measure_key),
        list(watched.values()),
    )
    for name, values in zip(watched, found, strict=True):
        record |= {
            f"{name}/{metric}": value
            for metric, value in values.items()
            if metric != "cosines" or name in ("agent", "walk")
        }
    return state._replace(agent=trained), record


@program(static=("design", "walks"), effort="less")
def begin(
    design: Design, walks: bool, task: ImageTask, init_key: Array, walk_key: Array, agent_key: Array
) -> tuple[dqn.State, Any]:
    """Return the agent, and once more the parameters with which it begins."""
    params = mdp_agent.initialise(design, task.images.shape[1:], init_key)
    state = dqn.start(agent(design, walks, walk_key), task, params, agent_key)
    return state, jax.tree.map(jnp.copy, params)


@program(static=("design", "walks"), donate=("state",))
def train(
    design: Design, walks: bool, rates: Rates, task: ImageTask, state: dqn.State, key: Array
) -> dqn.State:
    """Train until the next target update."""
    learner = agent(design, walks, key, rates)
    return dqn.train(learner, task, state, design.algorithm.target_period)[0]


@program(static=("design",), effort="least")
def evaluate(
    design: Design, task: ImageTask, state: dqn.State, optimal: Bool[Array, "states actions"]
) -> dict[str, Array]:
    """Return how well the agent does its task."""
    learner = mdp_agent.agent(design)
    return {
        "accuracy": mdp_task.greedy_accuracy(learner, task, state.params, optimal),
        "diverged": 1.0 - is_finite(state.params),
    }


def processes(config: Config, origin: Any, state: dqn.State) -> dict[str, Any]:
    """Return the parameters of the agent and of each walk, by name.

    ``walk`` takes the agent's step norms over all parameters together, ``walk_per_tensor`` its step
    norms for each tensor, ``walk_x10`` ten times those of ``walk``.
    """
    found = {"agent": state.params}
    for scale in config.walk_scales:
        name = "walk" if scale == 1 else f"walk_x{scale:g}"
        found[name] = optax.tree.add_scale(origin, scale, state.learner.opt_state.whole)
    if config.walk_scales:
        found["walk_per_tensor"] = optax.tree.add(origin, state.learner.opt_state.per_tensor)
    return found


class Sizes(NamedTuple):
    """How much is measured: see the fields of `Config`."""

    examples: int
    covariance_examples: int
    order: int
    vectors: int


@program(static=("design", "sizes"), effort="less")
def measure(
    design: Design, sizes: Sizes, images: Array, params: Any, origin: Any, key: Array
) -> dict[str, Array]:
    """Return spectrum and gradient covariance of the proxy loss (§4.2), and the distance moved."""
    pick_key, direction_key, vector_key = jax.random.split(key, 3)
    chosen = jax.random.permutation(pick_key, images.shape[0])[
        : max(sizes.examples, sizes.covariance_examples)
    ]
    inputs = images[chosen]
    shape = (len(chosen), classification_mdp.STATES)
    directions = jax.random.normal(direction_key, shape)
    batch = (inputs[: sizes.examples], directions[: sizes.examples])
    proxy = curvature.proxy_loss(lambda params, x: mdp_agent.forward(design, params, x).output)
    operator = curvature.hessian(proxy, params, batch, trainable=True)
    spectrum = curvature.spectrum(operator, vector_key, sizes.order, sizes.vectors, scale=1.0)
    k = sizes.covariance_examples
    found = gradients.covariance(
        inner_products.gram(
            mdp_agent.network(design), params, design.network.inputs(inputs[:k]),
            parts.proxy_losses, directions[:k],
        )
    )  # fmt: skip
    summary = gradients.summary(found)
    return {
        "sharpness": jnp.max(spectrum.nodes),
        "smallest": jnp.min(spectrum.nodes),
        "trace": curvature.trace(spectrum, operator.dimension).value,
        "nodes": spectrum.nodes,
        "weights": spectrum.weights,
        "cosines": found.cosines.astype(jnp.float16),
        "distance": distance(params, origin),
        **summary._asdict(),
    }


def distance(params: Any, origin: Any) -> Array:
    """Return how far the parameters are from where they began, relative to their norm there."""
    moved = jax.tree.map(jnp.subtract, params, origin)
    far: Array = optax.tree.norm(moved) / optax.tree.norm(origin)
    return far


ARRAYS = ("nodes", "weights", "cosines")
"""The parts of a measurement that are not scalars: kept as arrays."""

SWEPT = {
    "variant": "problem.variant", "architecture": "network.kind",
    "layer_norm": "network.layer_norm", "optimizer": "optimizer.name",
}  # fmt: skip
"""Columns of the table besides arm, process and seed, with the paths of their fields."""


def summarize(config: Config, records: Records) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return rows (arm, process, swept settings, seed, step, metric, value) and arrays.

    Arrays are ``nodes/<arm>/<process>`` and ``weights/...`` (seeds, measurements, vectors, order),
    and ``cosines/agent/<process>`` (2, k, k): C_k of the first seed after the first target update
    and after the last.
    """
    frames: list[pd.DataFrame] = []
    stacks: dict[str, list[np.ndarray]] = {}
    pictures: dict[str, np.ndarray] = {}
    for (arm, seed), record in records.items():
        arm_config = configuration.replaced(config, arms(config)[arm])
        step = arm_config.algorithm.target_period * np.arange(len(record["accuracy"]))
        for name, values in record.items():
            process, _, metric = name.rpartition("/")
            if metric == "cosines":
                if arm == "agent" and seed == config.first_seed:
                    pictures[f"cosines/{arm}/{process}"] = values[[1, -1]]
            elif metric in ARRAYS:
                stacks.setdefault(f"{metric}/{arm}/{process}", []).append(values)
            else:
                frame = pd.DataFrame({"step": step, "value": values.astype(np.float32)})
                swept = {name: attrgetter(path)(arm_config) for name, path in SWEPT.items()}
                frames.append(
                    frame.assign(
                        arm=arm, process=process or "agent", metric=metric, seed=seed, **swept
                    )
                )
    columns = ["arm", "process", *SWEPT, "seed", "step", "metric", "value"]
    table = pd.concat(frames, ignore_index=True)[columns]
    return table, {name: np.stack(arrays) for name, arrays in stacks.items()} | pictures


def flops(config: Config) -> float:
    """Return the floating-point operations of one seed of one arm, to estimate its cost."""
    weights = mdp_agent.multiplications(config)
    training = config.updates * config.algorithm.target_period * config.algorithm.batch_size
    watched = chunks(config) * (1 + len(config.walk_scales) + bool(config.walk_scales))
    products = config.order * config.vectors * config.examples
    return 6.0 * weights * training + 18.0 * weights * watched * products
