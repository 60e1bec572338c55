"""Layer normalisation in double DQN on Atari games (§6.3, A.3, B.3; Figs. 7 and 19 to 22).

Each game is played by two agents that differ only in the layer normalisation after each hidden
layer. At regular intervals they are evaluated, and their per-transition gradients (C_k), the
spectrum of their loss's Hessian and their units are measured. A run is evaluated in
`plasticity.chapters.atari_layer_norm.judge`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from plasticity import configuration
from plasticity.agents import atari_agent, atari_task, dqn, frame_replay, q_learning
from plasticity.agents.atari_task import GameTask
from plasticity.agents.settings import GameDQN
from plasticity.measure import curvature, gradients, inner_products, snapshot
from plasticity.networks import architectures
from plasticity.networks.settings import NatureCNN
from plasticity.programs import program
from plasticity.runs.results import Records
from plasticity.shapes import Array, Float, Int
from plasticity.worlds import atari, atari_callback
from plasticity.worlds.atari import Preprocessing
from plasticity.worlds.image_files import DataError

CHECKPOINT_SECONDS = 300.0
"""A replay buffer of the paper's size is 0.75 GB. A checkpoint of it takes two seconds of a core
and, as games repeat themselves, some tens of megabytes of disk."""


@dataclass(frozen=True)
class Config(atari_agent.AgentConfig):
    """Settings of the run and of what is measured; those of one agent are inherited."""

    games: tuple[str, ...] = atari.GAMES
    # length
    frames: int = 200_000_000  # A.3; in addition to the warm-up's
    chunk_frames: int = 1_000_000  # between two measurements
    # measurements
    evaluation_episodes: int = 10  # not in the paper
    evaluation_epsilon: float = 0.01  # as in dqn_zoo; not in the paper
    covariance_examples: int = 512  # transitions: k of C_k
    examples: int = 512  # transitions in the loss whose Hessian is measured
    order: int = 64  # Lanczos steps
    vectors: int = 1  # random start vectors of a spectral density
    # seeds
    seeds: int = 3  # A.3
    first_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        configuration.require_positive(
            self, "frames", "chunk_frames", "evaluation_episodes", "covariance_examples",
            "examples", "order", "vectors", "seeds",
        )  # fmt: skip
        configuration.require(len(self.games) > 0, "games: needs at least one")
        for game in self.games:
            configuration.require(
                game in atari.GAMES, f"games: {game!r} is none of {', '.join(atari.GAMES)}"
            )
        configuration.require(
            self.first_seed >= 0, f"first_seed = {self.first_seed}: must not be below 0"
        )
        configuration.require(
            0 <= self.evaluation_epsilon <= 1,
            f"evaluation_epsilon = {self.evaluation_epsilon}: must lie in [0, 1]",
        )
        for name, value, unit, part in (
            ("frames", self.frames, "chunk_frames", self.chunk_frames),
            ("chunk_frames", self.chunk_frames, "learn_period", self.algorithm.learn_period),
        ):
            configuration.require(
                value % part == 0, f"{name} = {value}: must be a multiple of {unit} = {part}"
            )


SPREAD = ("freeway", "enduro", "asterix", "breakout", "pong", "kangaroo")
"""Games from all parts of Fig. 7, named before any of them was played."""

SHORT = GameDQN(target_period=8_000, warmup=2_000, epsilon_frames=40_000)

STUDIES: Mapping[str, Config] = {
    "quick": Config(
        games=("freeway",), preprocessing=Preprocessing(episode_frames=2_000),
        algorithm=GameDQN(target_period=400, capacity=2_000, warmup=200, epsilon_frames=1_200),
        frames=2_400, chunk_frames=1_200, evaluation_episodes=1, covariance_examples=64,
        examples=32, order=8, seeds=1,
    ),
    "laptop": Config(
        games=("freeway", "krull"), algorithm=SHORT, frames=128_000, chunk_frames=32_000,
        evaluation_episodes=2, covariance_examples=256,
        examples=128, order=32, seeds=2,
    ),
    # the middle one of every three bars of Fig. 7, on smaller screens
    "laptop_19_games": Config(
        games=(
            "bowling", "atlantis", "amidar", "gravitar", "pitfall", "asteroids", "hero",
            "beam_rider", "breakout", "kung_fu_master", "crazy_climber", "boxing", "krull", "alien",
            "jamesbond", "time_pilot", "gopher", "video_pinball", "space_invaders",
        ),
        preprocessing=Preprocessing(size=44, episode_frames=18_000), algorithm=SHORT,
        frames=64_000, chunk_frames=32_000, evaluation_episodes=4, covariance_examples=256,
        examples=128, order=32, seeds=1,
    ),
    "gpu": Config(
        games=SPREAD, algorithm=GameDQN(target_period=32_000, epsilon_frames=400_000),
        frames=4_000_000, chunk_frames=400_000,
    ),
    "paper": Config(vectors=5),
}  # fmt: skip
"""In shorter runs the target is copied and ε falls faster, or nothing would happen in them."""


def arms(config: Config) -> dict[str, dict[str, Any]]:
    """Return the changes to ``config`` that define each arm: `arm_name` of every game."""
    return {
        arm_name(game, layer_norm): {"game": game, "network.layer_norm": layer_norm}
        for game in config.games
        for layer_norm in (False, True)
    }


def arm_name(game: str, layer_norm: bool) -> str:
    """Return the name of an arm."""
    return f"{game}-layer_norm" if layer_norm else game


class State(NamedTuple):
    """Everything that a chunk passes on to the next."""

    agent: dqn.State
    emulators: atari_callback.State
    measure_key: Array


def load(config: Config) -> tuple[tuple[()], dict[str, object]]:
    """Return an empty world, as there is nothing to load, and where the games come from.

    Raises `plasticity.worlds.image_files.DataError` without ale_py.
    """
    try:
        version = importlib.metadata.version("ale-py")
    except importlib.metadata.PackageNotFoundError:
        message = "the Atari games need ale_py: pip install plasticity-companion[atari]"
        raise DataError(message) from None
    return (), {
        "dataset": "Atari",
        "what": "games",
        "records": len(config.games),
        "full_set": len(atari.GAMES),
        "origin": f"ale_py {version}",
    }


def shapes(config: Config) -> tuple[()]:
    """Return an empty world: there is nothing to load."""
    return ()


def chunks(config: Config) -> int:
    """Return how often `advance` is called: once per measurement, including the first."""
    return config.frames // config.chunk_frames + 1


def start(config: Config, world: tuple[()], key: Array) -> State:
    """Return an agent after its warm-up; equal keys start equal in every arm."""
    experience, emulators, keys = warm_up(replace(config, network=NatureCNN()), key)
    init_key, agent_key, measure_key = keys
    return State(begin(config, experience, init_key, agent_key), emulators, measure_key)


@program(static=("config",))
def warm_up(
    config: Config, key: Array
) -> tuple[atari_task.Experience, atari_callback.State, tuple[Array, Array, Array]]:
    """Return the random transitions with which an agent starts, the emulators, and keys.

    No network takes part, so that all agents of a game share this program.
    """
    init_key, agent_key, measure_key = jax.random.split(key, 3)
    games = atari_agent.emulators(config)
    learner = atari_agent.agent(config, games.actions)
    experience = dqn.warm_up(learner, GameTask(games), agent_key)
    return experience, games.state(experience.ticket), (init_key, agent_key, measure_key)


@program(static=("config",), effort="less")
def begin(
    config: Config, experience: atari_task.Experience, init_key: Array, key: Array
) -> dqn.State:
    """Return the agent with that experience, its network freshly drawn."""
    actions = atari_agent.emulators(config).actions
    size, stack = config.preprocessing.size, config.preprocessing.stack
    frames = jnp.zeros((1, size, size, stack), jnp.uint8)
    params = config.network.module(actions).init(init_key, frames)
    return dqn.begun(atari_agent.agent(config, actions), params, experience, key)


def advance(
    config: Config, world: tuple[()], state: State, chunk: Int[Array, ""] | int
) -> tuple[State, dict[str, Array]]:
    """Play until the next measurement (chunk 0 does not train), and measure.

    The record holds scalars, ``cosines`` (C_k), and ``nodes`` and ``weights`` of the spectrum.
    """
    played, record, look_key = play(config, state, chunk)
    return played, record | look(config, played.agent, look_key)


@program(static=("config",), donate=("state",))
def play(
    config: Config, state: State, chunk: Int[Array, ""] | int
) -> tuple[State, dict[str, Array], Array]:
    """Train, then play to see how good the agent is; return a key for `look` besides.

    What calls back to emulators on the host is in here, and nothing else: such a program cannot be
    stored, and is compiled anew by each process.
    """
    games = atari_agent.emulators(config)
    learner = atari_agent.agent(config, games.actions)
    updates = config.chunk_frames // config.algorithm.learn_period

    def train(agent: dqn.State) -> tuple[dqn.State, dict[str, Array]]:
        tally = atari_task.Tally(
            agent.experience.tally.score, jnp.zeros(()), jnp.zeros((), jnp.int32)
        )
        agent = agent._replace(experience=agent.experience._replace(tally=tally))
        agent, seen = dqn.train(learner, GameTask(games), agent, updates)
        record = {name: jnp.mean(seen[name]) for name in ("td_loss", "gradient_norm", "value")}
        largest = jnp.max(seen["td_loss_max"])
        return agent, record | {"td_loss_max": largest, "updates": jnp.asarray(float(updates))}

    def wait(agent: dqn.State) -> tuple[dqn.State, dict[str, Array]]:
        names = ("td_loss", "gradient_norm", "value", "td_loss_max")
        return agent, dict.fromkeys(names, jnp.asarray(jnp.nan)) | {"updates": jnp.zeros(())}

    resumed = state.agent.experience._replace(ticket=games.resume(state.emulators))
    begun = state.agent._replace(experience=resumed)
    trained, record = jax.lax.cond(chunk == 0, wait, train, begun)
    key = jax.random.fold_in(state.measure_key, chunk)
    play_key, look_key = jax.random.split(key)
    stage = atari_agent.emulators(config, config.evaluation_episodes, "evaluation")
    played = atari_task.evaluate(
        learner, stage, trained.params, play_key, config.evaluation_epsilon
    )
    tally = trained.experience.tally
    record |= {
        "score": jnp.mean(played.score),
        "evaluation_steps": jnp.mean(played.steps.astype(jnp.float32)),
        "training_score": tally.total / tally.episodes,
        "training_episodes": tally.episodes.astype(jnp.float32),
        "epsilon": learner.exploration(learner.actions_per_step * trained.learner.steps),
    }
    emulators = games.state(trained.experience.ticket)
    return State(trained, emulators, state.measure_key), record, look_key


SCREENS = (80, 64, 48, 32, 16, 0)
"""How many steps back lie the frames that a run keeps of each agent, to be shown."""


# The actions taken, and the targets of their values.
Goals = tuple[Int[Array, " examples"], Float[Array, " examples"]]


@program(static=("config",), effort="less")
def look(config: Config, state: dqn.State, key: Array) -> dict[str, Array]:
    """Return C_k, the spectrum of the Hessian and the statistics of the network.

    The loss is the agent's own, on transitions drawn from its replay buffer with fixed targets.
    """
    pick_key, vector_key = jax.random.split(key)
    k = config.covariance_examples
    uniform = jax.random.uniform(pick_key, (max(k, config.examples),))
    task = GameTask(atari_agent.emulators(config))
    learner = atari_agent.agent(config, task.actions)
    batch = task.batch(task.sample(state.experience, uniform))
    q_t = learner.values(state.target_params, batch.following)
    targets = q_learning.targets(learner, state.params, batch, q_t)
    seen, goals = batch.observation, (batch.action, targets)

    def each(found: architectures.Forward, goals: Goals) -> Float[Array, " examples"]:
        return learner.head.losses(found.output, *goals).loss

    def loss(params: Any, batch: tuple[Array, Goals]) -> Float[Array, ""]:
        return jnp.mean(learner.head.losses(learner.apply(params, batch[0]), *batch[1]).loss)

    model = config.network.module(task.actions)
    first = jax.tree.map(lambda leaf: leaf[:k], (seen, goals))
    gram = inner_products.gram(model, state.params, first[0], each, first[1])
    found = gradients.covariance(gram)
    examples = jax.tree.map(lambda leaf: leaf[: config.examples], (seen, goals))
    operator = curvature.hessian(loss, state.params, examples, trainable=True)
    spectrum = curvature.spectrum(operator, vector_key, config.order, config.vectors, scale=1.0)
    forward: architectures.Forward = model.apply(state.params, first[0])  # type: ignore[assignment]
    return {
        "screens": frame_replay.screens(state.experience.buffer, jnp.asarray(SCREENS))[0],
        "cosines": found.cosines.astype(jnp.float16),
        "nodes": spectrum.nodes,
        "weights": spectrum.weights,
        "sharpness": jnp.max(spectrum.nodes),
        "smallest": jnp.min(spectrum.nodes),
        "trace": curvature.trace(spectrum, operator.dimension).value,
        **gradients.summary(found)._asdict(),
        **snapshot.of_network(forward.hidden, state.params),
    }


ARRAYS = ("screens", "cosines", "nodes", "weights")
"""The parts of a record that are not scalars: kept as arrays."""

KEPT: Mapping[str, list[int]] = {"screens": [-1], "cosines": [0, -1]}
"""The measurements at which these are kept; all others are kept at every measurement."""


def summarize(config: Config, records: Records) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return rows (arm, game, layer_norm, seed, step, metric, value) and arrays.

    A step is a frame. Arrays are ``nodes/<arm>`` and ``weights/<arm>`` (seeds, measurements,
    vectors, order), ``cosines/<arm>`` (seeds, 2, k, k): C_k after the warm-up and at the end, and
    ``screens/<arm>`` (seeds, 1, screens, height, width): what the agent saw last (`SCREENS`).
    """
    frames: list[pd.DataFrame] = []
    stacks: dict[str, list[np.ndarray]] = {}
    for (arm, seed), record in records.items():
        agent = configuration.replaced(config, arms(config)[arm])
        step = atari_agent.warmup_frames(config) + config.chunk_frames * np.arange(
            len(record["score"])
        )
        for name, values in record.items():
            if name in ARRAYS:
                kept = values[KEPT[name]] if name in KEPT else values
                stacks.setdefault(f"{name}/{arm}", []).append(kept)
            else:
                frame = pd.DataFrame({"step": step, "value": values.astype(np.float32)})
                frames.append(
                    frame.assign(
                        arm=arm, game=agent.game, layer_norm=agent.network.layer_norm, metric=name,
                        seed=seed,
                    )
                )  # fmt: skip
    columns = ["arm", "game", "layer_norm", "seed", "step", "metric", "value"]
    table = pd.concat(frames, ignore_index=True)[columns]
    return table, {name: np.stack(arrays) for name, arrays in stacks.items()}


def flops(config: Config) -> float:
    """Return the floating-point operations of one seed of one arm, to estimate its cost."""
    screens, algorithm = config.preprocessing, config.algorithm
    forward = 2.0 * config.network.multiplications(screens.size, screens.stack)
    acting = (config.frames + atari_agent.warmup_frames(config)) / screens.frame_skip
    # Three forward passes, and a backward pass that costs two.
    learning = 5 * algorithm.batch_size * config.frames / algorithm.learn_period
    looking = 12 * config.order * config.vectors * config.examples + 8 * config.covariance_examples
    return forward * (acting + learning + chunks(config) * looking)


def sample(config: Config) -> Config:
    """Return settings for the same agents with short chunks, to be timed for costs.

    They have hardly any measurements, and learning begins with the second chunk.
    """
    algorithm = config.algorithm
    chunk = 256 * algorithm.learn_period
    return replace(
        config, algorithm=replace(algorithm, target_period=chunk, warmup=algorithm.batch_size),
        preprocessing=replace(config.preprocessing, episode_frames=400), chunk_frames=chunk,
        frames=100 * chunk, evaluation_episodes=1, covariance_examples=2, examples=2, order=1,
        vectors=1,
    )  # fmt: skip


def figures(config: Config) -> dict[str, tuple[list[str], int]]:
    """Return the arms, and the number of seeds, that each figure of the paper needs.

    Figs. 19 and 20 show three games each; the text does not say which, but all cost the same.
    """
    everything = list(arms(config))
    return {
        "Fig. 7": (everything, config.seeds),
        "Figs. 19, 20": (everything[:12], config.seeds),
        "Figs. 21, 22": (everything, 1),
    }
