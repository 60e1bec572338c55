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

from plasticity import configuration, programs
from plasticity.agents import dqn, mdp_agent
from plasticity.agents.mdp_agent import Design, ImageKey
from plasticity.agents.mdp_task import Images, ImageTask
from plasticity.chapters.probing import parts, tables
from plasticity.chapters.probing.by_key import ByKey
from plasticity.measure import probe, random_functions, snapshot
from plasticity.runs import checkpoints
from plasticity.runs.experiment import Arms, Experiment
from plasticity.runs.results import Run
from plasticity.shapes import Array, Int
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


ALL_IMAGES = 60_000
"""More than any data set has: §3.2's observation space is the whole of it."""


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
        start=start, advance=advance, chunks=chunks, flops=flops, shares=shares,
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
    `plasticity.measure.random_functions.draw` gives; agents that are not probed need none.
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
    return random_functions.draw(
        mdp_agent.agent(config).values,
        lambda key: mdp_agent.initialise(config, images.shape[1:], key),
        images,
        jax.random.key(0),
        config.n_targets,
    )


def start(config: Config, world: World, key: Array) -> State:
    """Return an agent before its first step; equal keys start equal in every arm."""
    init_key, mdp_key, agent_key, probe_key, proxy_key = parts.split(key, 5)
    name = mdp_agent.image_key(config)
    images = world.images[name]
    mdp = parts.make(config.problem.variant, world.labels[name], mdp_key)
    experience = parts.warm_up(config.algorithm, ImageTask(mdp, images), agent_key)
    design = mdp_agent.design(config, cured=keeps_state(config, images.shape[1:]))
    state = parts.begin(design, images, init_key, experience, agent_key)
    return State(state, mdp, probe_key, proxy_key)


def shares(config: Config) -> tuple[Design, ImageKey]:
    """Return what arms have in common that share their programs."""
    return mdp_agent.design(config), mdp_agent.image_key(config)


def chunks(config: Config) -> int:
    """Return how often `advance` is called: once per probe, including the one before training."""
    return config.probes + 1


def advance(
    config: Config, world: World, state: State, chunk: Int[Array, ""] | int
) -> tuple[State, dict[str, Array]]:
    """Train until the next probe (chunk 0 does not train), probe, and take statistics.

    A probe that falls on a target update sees the network before the event that follows it. The
    record holds scalars, the fits' ``loss`` (targets,), their mean ``curve`` and ``noise``
    (windows,), ``sharpness_trace`` (every `Config.sharpness_every` steps), and with
    ``config.keep_parameters`` the parameters as ``params/<path>``.
    """
    images = world.images[mdp_agent.image_key(config)]
    design, task = mdp_agent.design(config), ImageTask(state.mdp, images)
    outputs = mdp_agent.n_outputs(config)
    batch, vector_key = parts.proxy_batch(config.proxy_examples, outputs, images, state.proxy_key)
    pieces = config.probe_every // config.sharpness_every

    def sharp(params: Any) -> Array:
        return parts.sharpness(design, config.sharpness_order, params, batch, vector_key)

    def piece(agent: dqn.State, _: None) -> tuple[dqn.State, tuple[dqn.Metrics, Array]]:
        agent, seen = train(config, task, agent, config.sharpness_every)
        return agent, (seen, sharp(agent.params))

    def learn(agent: dqn.State) -> tuple[dqn.State, dict[str, Array]]:
        agent, (seen, trace) = programs.scan(piece, agent, length=pieces)
        return agent, parts.tally(seen) | {"sharpness_trace": trace}

    def wait(agent: dqn.State) -> tuple[dqn.State, dict[str, Array]]:
        unknown = dict.fromkeys(("td_loss", "td_loss_max", "reward"), jnp.asarray(jnp.nan))
        return agent, unknown | {"sharpness_trace": jnp.full((pieces,), jnp.nan)}

    if config.probes:
        trained, record = programs.cond(chunk == 0, wait, learn, state.agent)
    else:  # a fresh network, and nothing to train
        trained, record = wait(state.agent)
    record |= measure(config, task, trained, batch)
    record |= {"sharpness": sharp(trained.params)}
    record |= probe_record(config, world, trained, state.probe_key)
    if config.keep_parameters:
        record |= {f"params/{name}": leaf for name, leaf in named_leaves(trained.params).items()}
    return state._replace(agent=trained), record


STRETCH = 100
"""Steps from which on a stretch of training is a program of its own, called by the host."""


def train(
    config: Config, task: ImageTask, state: dqn.State, steps: int
) -> tuple[dqn.State, dqn.Metrics]:
    """Do what `plasticity.agents.dqn.train` does, in programs that agents share.

    Agents that differ only in events train by one program, and an event is another. Where
    there are no events, short stretches are not worth a call each: they stay inside one program.
    """
    plain, rates = mdp_agent.design(config), config.optimizer.rates
    stretch = dqn.stretch_steps(mdp_agent.agent(config), steps)  # events fall on target updates
    if stretch < STRETCH and not config.cures:
        return parts.train_at_once(plain, steps, rates, task, state)

    def advance(state: dqn.State, _: None) -> tuple[dqn.State, dqn.Metrics]:
        if config.cures:
            state = parts.intervene(mdp_agent.design(config, cured=True), task, state)
        drawn = parts.draws(config.algorithm, task.actions, state.key, state.learner.steps, stretch)
        return parts.train_stretch(plain, rates, task, state, drawn)

    return programs.scan(advance, state, length=steps // stretch)


def measure(
    config: Config, task: ImageTask, state: dqn.State, batch: tuple[Images, Array]
) -> dict[str, Array]:
    """Return how well the agent does its task, its network's statistics, and its gradients'."""
    design, params = mdp_agent.design(config), state.params
    optimal = classification_mdp.optimal_actions(config.problem.variant, config.algorithm.discount)
    performance, hidden = parts.perform(design, task, params, jnp.asarray(optimal))
    return {
        **performance,
        **parts.of_features(hidden),
        **parts.of_kernels(snapshot.kernels(params)),
        "gradient_norm": parts.gradient_norm(design, task, state),
        **parts.interference(parts.products(design, params, batch)),
    }


def keeps_state(config: Config, shape: tuple[int, ...]) -> bool:
    """Return whether the agent's cure has a state of its own, with which the agent starts."""
    return bool(config.cures) and mdp_agent.cure(config, shape).init is not None


def named_leaves(params: Any) -> dict[str, Array]:
    """Return the leaves of ``params`` by path, such as ``params/Dense_0/kernel``."""
    flat, _ = jax.tree.flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def probe_record(config: Config, world: World, state: dqn.State, key: Array) -> dict[str, Array]:
    """Probe the agent's network with the agent's own optimizer (§3.1)."""
    return parts.fit(
        mdp_agent.design(config), fitting(config), config.optimizer.rates, state,
        world.images[mdp_agent.image_key(config)], world.targets[mdp_agent.network_key(config)],
        key,
    )  # fmt: skip


def fitting(config: Config) -> parts.Fitting:
    """Return how this arm's probes fit."""
    return parts.Fitting(
        config.probe_state, config.probe_loss, config.probe_steps, config.probe_batch_size
    )


def flops(config: Config) -> float:
    """Return the floating-point operations of one seed of one arm, to estimate its cost."""
    training = config.probes * config.probe_every * config.algorithm.batch_size
    probing = chunks(config) * config.n_targets * config.probe_steps * config.probe_batch_size
    return 6.0 * mdp_agent.multiplications(config) * (training + probing)
