"""Default Adam kills units when the task changes abruptly (Lyle et al. 2023, §4.1, A.1, Fig. 1).

A network memorises random labels of MNIST digits. After a fixed budget the labels are redrawn, and
training goes on from the current parameters and optimizer state. The paper contrasts default Adam
with a tuned setting that differs in two constants. Here the two are also changed one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from plasticity import configuration
from plasticity import learner as learning
from plasticity.agents import optimizers, supervised
from plasticity.learner import Learner, Taken
from plasticity.measure import snapshot, units
from plasticity.networks import architectures
from plasticity.programs import program
from plasticity.runs.results import Records
from plasticity.shapes import Array, Float, Int
from plasticity.worlds import image_files, image_sets

LabelDraw = Literal["uniform", "permuted"]


@dataclass(frozen=True)
class Config:
    """Settings of one run; where the paper is silent the comment says so."""

    # data (A.1: "a subset of 5000 MNIST images")
    dataset: image_files.Dataset = "mnist_5k"
    n_images: int = 5_000
    label_draw: LabelDraw = "uniform"  # A.1 allows both readings
    # network (A.1: two hidden layers of width 1024)
    width: int = 1_024  # units per hidden layer
    # training (A.1 gives the learning rate; batch size and budget are not in the paper)
    batch_size: int = 512  # images, drawn with replacement
    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-9
    eps_root: float = 0.0  # the paper's ε̄
    steps_per_period: int = 1_000  # optimizer steps between two draws of labels
    periods: int = 90  # Fig. 1's axis ends at 90,000 steps
    # measurement
    accuracy_sample: int = 4_096  # images (A.1)
    window: int = 100  # optimizer steps traced on each side of a switch
    # what is compared
    sensitivity: bool = False  # also vary width, budget, batch and ε̄ around the tuned optimizer
    slower: tuple[float, ...] = ()  # also default Adam with these learning rates
    seeds: int = 5
    first_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        configuration.check(self)
        configuration.require_positive(
            self, "n_images", "width", "batch_size", "learning_rate", "eps", "steps_per_period",
            "periods", "accuracy_sample", "window", "seeds",
        )  # fmt: skip
        for name in ("b1", "b2"):
            value = getattr(self, name)
            configuration.require(0 <= value < 1, f"{name} = {value}: must lie in [0, 1)")
        configuration.require(
            self.eps_root >= 0, f"eps_root = {self.eps_root}: must not be below 0"
        )
        configuration.require(self.first_seed >= 0, "first_seed: must not be below 0")
        configuration.require(
            2 * self.window <= self.steps_per_period,
            f"window = {self.window}: two windows must fit into steps_per_period = "
            f"{self.steps_per_period}",
        )

    @property
    def adam(self) -> optimizers.AdamSettings:
        """The four constants of Eq. (6)."""
        return optimizers.AdamSettings(self.b1, self.b2, self.eps, self.eps_root)


STUDIES: Mapping[str, Config] = {
    "quick": Config(
        n_images=500, width=128, batch_size=64, steps_per_period=500, periods=12, seeds=3
    ),
    "laptop": Config(
        n_images=1_000, width=256, batch_size=128, steps_per_period=500, periods=40,
        sensitivity=True,
    ),
    # default Adam with updates as long as tuned Adam's, a while after a switch and at its peak
    "laptop_slower": Config(
        n_images=1_000, width=256, batch_size=128, steps_per_period=500, periods=40,
        slower=(2e-4, 7e-5), first_seed=5,
    ),
    "gpu": Config(),
    "paper": Config(sensitivity=True, seeds=10),
}  # fmt: skip

MAIN_ARMS = {
    "default": optimizers.DEFAULT_ADAM,
    "b2_only": optimizers.DEFAULT_ADAM._replace(b2=optimizers.TUNED_ADAM.b2),
    "eps_root_only": optimizers.DEFAULT_ADAM._replace(eps_root=optimizers.TUNED_ADAM.eps_root),
    "tuned": optimizers.TUNED_ADAM,
}
"""The 2 x 2 of the constants in which the paper's two optimizers differ."""


def arms(config: Config) -> dict[str, dict[str, Any]]:
    """Return the changes to ``config`` that define each arm, by name."""
    main = {name: settings._asdict() for name, settings in MAIN_ARMS.items()}
    for rate in config.slower:
        main[f"default_{rate:g}"] = main["default"] | {"learning_rate": rate}
    if not config.sensitivity:
        return main
    tuned = main["tuned"]
    return main | {
        "width_half": tuned | {"width": config.width // 2},
        "width_double": tuned | {"width": config.width * 2},
        # half the budget, the same number of steps: is time counted in steps or in switches?
        "budget_half": tuned
        | {"steps_per_period": config.steps_per_period // 2, "periods": config.periods * 2},
        "budget_double": tuned | {"steps_per_period": config.steps_per_period * 2},
        "batch_quarter": tuned | {"batch_size": config.batch_size // 4},
        "batch_double": tuned | {"batch_size": config.batch_size * 2},
        "eps_root_tenfold": tuned | {"eps_root": 10 * optimizers.TUNED_ADAM.eps_root},
    }


class World(NamedTuple):
    """What training reads and never changes."""

    inputs: Float[Array, "images pixels"]  # standardised
    labels: Int[Array, " images"]  # the true ones


class State(NamedTuple):
    """Everything that a period passes on to the next."""

    learner: Learner
    key: Array

    @property
    def params(self) -> Any:
        """The network's parameters."""
        return self.learner.params


def load(config: Config) -> tuple[World, dict[str, object]]:
    """Return the standardised images with their labels, and where they come from."""
    images = image_sets.load(config.dataset, config.n_images)
    world = World(
        jnp.asarray(image_sets.standardise(images.pixels)), jnp.asarray(images.labels, jnp.int32)
    )
    return world, images.source


def shapes(config: Config) -> World:
    """Return the shapes and types of what `load` gives, without loading anything."""
    pixels = (config.n_images, math.prod(image_sets.shape(config.dataset)))
    found: World = jax.eval_shape(
        lambda: World(jnp.zeros(pixels), jnp.zeros(config.n_images, jnp.int32))
    )
    return found


def shares(config: Config) -> Config:
    """Return what arms have in common that share their programs: all but ε̄."""
    return replace(config, eps_root=0.0)


def chunks(config: Config) -> int:
    """Return how many times `advance` is called: once per label period."""
    return config.periods


def flops(config: Config) -> float:
    """Return the floating-point operations of one seed of one arm, to estimate its cost."""
    weights = 784 * config.width + config.width**2 + config.width * 10
    return 6.0 * weights * config.batch_size * config.steps_per_period * config.periods


def network(width: int) -> architectures.MLP:
    """Return A.1's network: two hidden ReLU layers, ten logits."""
    return architectures.MLP(widths=(width, width), outputs=10)


def forward(width: int, params: Any, inputs: Float[Array, "batch pixels"]) -> architectures.Forward:
    """Return the logits and hidden activations of a batch."""
    return cast(architectures.Forward, network(width).apply(params, inputs))


def start(config: Config, world: World, key: Array) -> State:
    """Return fresh parameters and a fresh optimizer state; equal keys start equal in every arm."""
    return begin(config.width, world.inputs, key)


@program(static=("width",), effort="less")
def begin(width: int, inputs: Float[Array, "images pixels"], key: Array) -> State:
    """Return the start of a run; Adam's constants do not matter yet."""
    init_key, run_key = jax.random.split(key)
    params = network(width).init(init_key, inputs[:1])
    return State(learning.start(optimizers.adam(1.0, optimizers.DEFAULT_ADAM), params), run_key)


def advance(
    config: Config, world: World, state: State, chunk: Int[Array, ""] | int
) -> tuple[State, dict[str, Array]]:
    """Train for one label period; return the new state and what was measured.

    The record holds scalars at the end of the period (accuracy, loss, dead units per layer, weight
    norm, displacement of the parameters over the period) and traces over the first and the last
    ``config.window`` steps, shape (2 * window,).
    """
    labels, *keys, sample_key = draw(config.label_draw, world.labels, state.key, chunk)
    plain = config.steps_per_period - 2 * config.window
    # The traces cost a few reductions per step: only the steps around a switch pay for them.
    data = (world.inputs, labels)
    learner, after = train(config, *data, state.learner, keys[0], config.window, traced=True)
    learner, _ = train(config, *data, learner, keys[1], plain)
    learner, before = train(config, *data, learner, keys[2], config.window, traced=True)
    record = evaluate(config.width, config.accuracy_sample, *data, learner.params, sample_key)
    traces = {name: (after[name], before[name]) for name in after}
    record |= join(state.params, learner.params, traces)
    return State(learner, state.key), record


@program(static=("label_draw",), effort="less")
def draw(
    label_draw: LabelDraw, labels: Int[Array, " images"], key: Array, chunk: Int[Array, ""] | int
) -> tuple[Any, ...]:
    """Return the labels of a period, three keys for its batches and one for its evaluation."""
    labels_key, *keys = jax.random.split(jax.random.fold_in(key, chunk), 5)
    return draw_labels(label_draw, labels_key, labels), *keys


@program(effort="least")
def join(before: Any, after: Any, traces: Mapping[str, tuple[Array, Array]]) -> dict[str, Array]:
    """Return how far the parameters moved in a period, and the two parts of each trace as one."""
    moved = jax.tree.map(jnp.subtract, after, before)
    joined = {name: jnp.concatenate(parts) for name, parts in traces.items()}
    return {"displacement": optax.tree.norm(moved), **joined}


def draw_labels(
    label_draw: LabelDraw, key: Array, true_labels: Int[Array, " images"]
) -> Int[Array, " images"]:
    """Return fresh random labels, independent uniform ones or a permutation of the true ones."""
    if label_draw == "uniform":
        return image_sets.random_labels(key, true_labels.shape[0])
    return image_sets.permuted_labels(key, true_labels)


def train(
    config: Config,
    inputs: Float[Array, "images pixels"],
    labels: Int[Array, " images"],
    learner: Learner,
    key: Array,
    steps: int,
    traced: bool = False,
) -> tuple[Learner, dict[str, Float[Array, " steps"]]]:
    """Take ``steps`` optimizer steps on minibatches; with ``traced`` also record each of them.

    A trace holds the loss, the norm of the gradient, the norm of the update and the root mean
    square of m̂ / √v̂ (see `plasticity.agents.optimizers.moment_ratio`).
    """
    how = Steps(
        config.width, config.batch_size, config.learning_rate, config.b1, config.b2, config.eps,
        steps, traced,
    )  # fmt: skip
    return take(how, config.eps_root, inputs, labels, learner, key)


class Steps(NamedTuple):
    """What the program of some steps depends on: of Adam's constants all but ε̄.

    Constants that a program is given give other bits than its own: 1 - b₁ is then in float32.
    """

    width: int
    batch_size: int
    learning_rate: float
    b1: float
    b2: float
    eps: float
    steps: int
    traced: bool


@program(static=("how",))
def take(
    how: Steps,
    eps_root: Float[Array, ""] | float,
    inputs: Float[Array, "images pixels"],
    labels: Int[Array, " images"],
    learner: Learner,
    key: Array,
) -> tuple[Learner, dict[str, Float[Array, " steps"]]]:
    """Take some optimizer steps, as `train` says."""
    adam = optimizers.AdamSettings(how.b1, how.b2, how.eps, cast(float, eps_root))
    optimizer = optimizers.adam(how.learning_rate, adam)
    batches = jax.random.randint(key, (how.steps, how.batch_size), 0, inputs.shape[0], jnp.int32)

    def loss(params: Any, batch: Int[Array, " batch"]) -> tuple[Float[Array, ""], None]:
        logits = forward(how.width, params, inputs[batch]).output
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch])
        return jnp.mean(each), None

    def watch(taken: Taken, learner: Learner) -> dict[str, Array]:
        if not how.traced:
            return {}
        return {
            "step_loss": taken.loss,
            "gradient_norm": optax.tree.norm(taken.gradient),
            "update_norm": optax.tree.norm(taken.update),
            "moment_ratio": optimizers.moment_ratio(learner.opt_state, adam),
        }

    return supervised.train(optimizer, loss, learner, batches, watch=watch)


@program(static=("width", "sample_size"), effort="least")
def evaluate(
    width: int,
    sample_size: int,
    inputs: Float[Array, "images pixels"],
    labels: Int[Array, " images"],
    params: Any,
    key: Array,
) -> dict[str, Array]:
    """Return accuracy and loss on up to ``sample_size`` images, dead units, the weight norm."""
    logits, hidden = forward(width, params, inputs)
    sample = jax.random.permutation(key, inputs.shape[0])[:sample_size]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits[sample], labels[sample])
    dead = jnp.stack([units.never_positive(layer) for layer in hidden])
    return {
        "accuracy": jnp.mean(jnp.argmax(logits[sample], axis=1) == labels[sample]),
        "loss": jnp.mean(losses),
        "dead_units": jnp.mean(dead),  # both layers have the same width
        "dead_units_layer_1": dead[0],
        "dead_units_layer_2": dead[1],
        "weight_norm": snapshot.weight_norm(params),
    }


TRACES = ("step_loss", "gradient_norm", "update_norm", "moment_ratio")
"""What `advance` records step by step."""

SWEPT = ("b2", "eps_root", "width", "batch_size", "steps_per_period")
"""The settings in which arms differ: columns of the table."""


def summarize(config: Config, records: Records) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return tidy rows (arm, swept settings, seed, step, metric, value) and the main arms' traces.

    Besides what `advance` measured, each switch of labels gets ``update_spike`` (claim
    adam-mechanism): the largest update norm in the window after it over the median in the window
    before it. ``ratio_peak`` is the same for m̂ / √v̂. Arrays are named ``metric/arm``, shape
    (seeds, periods, 2 * window): first the window after the switch, then the one before the next.
    """
    frames: list[pd.DataFrame] = []
    traces: dict[str, list[np.ndarray]] = {}
    for (arm, seed), record in records.items():
        arm_config = replace(config, **arms(config)[arm])
        steps = arm_config.steps_per_period * np.arange(1, arm_config.periods + 1)
        values = {name: array for name, array in record.items() if name not in TRACES}
        frame = pd.DataFrame({"step": steps, **values}).melt("step", var_name="metric")
        spikes = pd.DataFrame(
            {
                "step": steps[:-1],
                "update_spike": _spike(record["update_norm"], config.window),
                "ratio_peak": _spike(record["moment_ratio"], config.window),
            }
        ).melt("step", var_name="metric")
        swept = {name: getattr(arm_config, name) for name in SWEPT}
        frames.append(pd.concat([frame, spikes]).assign(arm=arm, seed=seed, **swept))
        if arm in MAIN_ARMS:
            for name in TRACES:
                traces.setdefault(f"{name}/{arm}", []).append(record[name])
    columns = ["arm", *SWEPT, "seed", "step", "metric", "value"]
    table = pd.concat(frames, ignore_index=True)[columns]
    return table, {name: np.stack(arrays) for name, arrays in traces.items()}


def _spike(trace: np.ndarray, window: int) -> np.ndarray:
    """Return the largest value after each switch over the median before it, shape (periods - 1,).

    A network with all units dead gets no updates at all: 0 / 0 is NaN, and stays NaN.
    """
    after, before = trace[1:, :window].max(axis=1), np.median(trace[:-1, window:], axis=1)
    spike: np.ndarray = np.full_like(after, np.nan)
    np.divide(after, before, out=spike, where=before > 0)
    return spike
