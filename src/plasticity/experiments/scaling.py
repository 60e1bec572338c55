"""Does a wider network keep its plasticity? (Lyle et al. 2023, §6.1, Fig. 5.)

MLPs and CNNs of a base width times 1 to 16 are trained with three periods of the target network and
probed before and after. A curve is the plasticity lost against width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from plasticity import configuration, data, mdp_agent, probed_agent, statistics
from plasticity.claims import Condition, Verdict, decide
from plasticity.probed_agent import State, World
from plasticity.results import Records, Run
from plasticity.statistics import Interval


@dataclass(frozen=True)
class Config(probed_agent.Config):
    """Settings of the sweep; those of one agent are inherited."""

    datasets: tuple[data.Dataset, ...] = ("mnist_5k", "cifar10_train")
    architectures: tuple[mdp_agent.Architecture, ...] = ("mlp", "cnn")
    periods: tuple[int, ...] = (1, 100, 1_000)  # optimizer steps between two target updates
    base_width: int = 16  # of the MLP (A.2), and channels of the CNN (not in the paper)
    multiples: tuple[int, ...] = (1, 2, 4, 8, 12, 16)  # of the base width
    widest_cnn: int = 16  # the largest multiple of the CNN
    # With a target network of one step values explode at .99: the paper does not give its own.
    discount: float = 0.9
    exploding: bool = False  # also the MLP on the first data set at period 1 and this discount:
    exploding_discount: float = 0.99

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        configuration.require_positive(self, "base_width", "widest_cnn")
        for name in ("datasets", "architectures", "periods", "multiples"):
            values = getattr(self, name)
            configuration.require(len(values) > 0, f"{name}: needs at least one")
        for name in ("periods", "multiples"):
            values = getattr(self, name)
            configuration.require(min(values) > 0, f"{name} = {values}: each must be above 0")


PROFILES: Mapping[str, Config] = {
    "quick": Config(
        datasets=("mnist_5k",), architectures=("mlp",), periods=(500,), base_width=32,
        multiples=(1, 4), n_images=500, probe_every=4_000, probes=1, n_targets=2,
        probe_steps=800, discount=0.99, seeds=3,
    ),
    "laptop": Config(
        widest_cnn=4, n_images=1_000, probe_every=10_000, probes=1, n_targets=2, seeds=3,
        exploding=True,
    ),
    "gpu": Config(probe_every=50_000, probes=2, n_targets=3, seeds=5, exploding=True),
    "paper": Config(datasets=("mnist_train", "cifar10_train")),
}  # fmt: skip


def arms(config: Config) -> dict[str, dict[str, Any]]:
    """Return the changes to ``config`` that define each arm: data set, network, period, multiple.

    A CNN of multiple m has m times the base width of channels and four times that of units in its
    fully connected layers, A.2's ratio.
    """
    found: dict[str, dict[str, Any]] = {}
    for architecture in config.architectures:
        for dataset in config.datasets:
            for period in config.periods:
                for multiple in config.multiples:
                    if architecture == "cnn" and multiple > config.widest_cnn:
                        continue
                    width = config.base_width * multiple
                    found[f"{dataset}-{architecture}-{period}-{multiple}"] = {
                        "dataset": dataset, "architecture": architecture, "target_period": period,
                        "mlp_width": width, "channels": width, "cnn_width": 4 * width,
                    }  # fmt: skip
    if config.exploding:
        for multiple in config.multiples:
            width = config.base_width * multiple
            found[f"exploding-{multiple}"] = {
                "dataset": config.datasets[0], "architecture": config.architectures[0],
                "target_period": 1, "discount": config.exploding_discount,
                "mlp_width": width, "channels": width, "cnn_width": 4 * width,
            }  # fmt: skip
    return found


def load(config: Config) -> tuple[World, dict[str, object]]:
    """Return the images and targets of all arms, and where the images come from."""
    return probed_agent.load(replace(config, **changes) for changes in arms(config).values())


def shapes(config: Config) -> World:
    """Return the shapes and types of what `load` gives one arm, without loading anything."""
    return probed_agent.shapes(config)


def chunks(config: Config) -> int:
    """Return how many times `advance` is called."""
    return probed_agent.chunks(config)


def flops(config: Config) -> float:
    """Return the floating-point operations of one seed of one arm, to estimate its cost."""
    return probed_agent.flops(config)


def start(config: Config, world: World, key: jax.Array) -> State:
    """Return an agent before its first step."""
    return probed_agent.start(config, world, key)


def advance(config: Config, world: World, state: State) -> tuple[State, dict[str, jax.Array]]:
    """Train until the next probe, probe, and take statistics."""
    return probed_agent.advance(config, world, state)


SWEPT = ("dataset", "architecture", "target_period", "discount", "mlp_width", "channels")
"""Columns of the table beside arm and seed."""


def summarize(config: Config, records: Records) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return the table and the arrays of `probed_agent.tidy`."""
    return probed_agent.tidy(config, arms(config), SWEPT, records)


CURVE = ("dataset", "architecture", "target_period", "discount")
"""What a curve of Fig. 5 is."""


def agents(run: Run) -> pd.DataFrame:
    """Return one row an agent: `CURVE`, ``width``, every metric at the last probe, what it lost.

    ``width`` counts units of a hidden layer of the MLP or channels of the CNN. An agent whose probe
    has no finite loss has diverged.
    """
    table = probed_agent.at_end(run.table, ["arm", *SWEPT, "seed"])
    return table.assign(width=table.mlp_width.where(table.architecture == "mlp", table.channels))


class Fit(NamedTuple):
    """Plasticity lost against log₂ width, a straight line."""

    slope: Interval  # change a doubling of the width
    zero: Interval  # log₂ of the width at which the line reaches zero; infinite if it falls nowhere


def curves(run: Run) -> pd.DataFrame:
    """Return one row a curve: how what is lost goes with width.

    Columns: `CURVE`, ``widths``, ``spearman`` (an interval, over all agents of the curve, resampled
    inside widths), ``widest`` (the change there, an interval over seeds), ``initial`` (the loss of
    fresh networks at the widest), ``slope`` and ``zero`` of `Fit`, ``diverged`` (agents). Where
    these leave no agent, or no two widths for a line, the interval is infinite.
    """
    rows = []
    for names, group in agents(run).groupby(list(CURVE), sort=False):
        whole = group[np.isfinite(group.plasticity_loss)]
        last = whole[whole.width == group.width.max()]
        width, change = whole.width.to_numpy(float), whole.plasticity_loss.to_numpy()
        fit = Fit(statistics.UNKNOWN, statistics.UNKNOWN)
        if whole.width.nunique() > 1:
            fit = fit_line(width, change)
        rows.append(
            {
                **dict(zip(CURVE, names, strict=True)),
                "widths": group.width.nunique(),
                "spearman": statistics.spearman_interval(width, change, width)
                if len(whole)
                else statistics.UNKNOWN,
                "widest": _mean(last.plasticity_loss),
                "initial": _mean(last.initial_loss),
                **fit._asdict(),
                "diverged": len(group) - len(whole),
            }
        )
    return pd.DataFrame(rows)


def _mean(values: pd.Series[float]) -> Interval:
    return statistics.mean_interval(values) if len(values) else statistics.UNKNOWN


def fit_line(width: np.ndarray, change: np.ndarray, resamples: int = 2_000) -> Fit:
    """Fit change = a + b log₂ width by least squares; intervals resample agents inside widths.

    Where a resampled line does not fall it reaches zero nowhere: infinity.
    """
    x = np.log2(width)

    def line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centred = x - x.mean(axis=-1, keepdims=True)
        slope = (centred * y).sum(axis=-1) / (centred**2).sum(axis=-1)
        level = y.mean(axis=-1) - slope * x.mean(axis=-1)
        with np.errstate(divide="ignore"):
            return slope, np.where(slope < 0, -level / np.where(slope < 0, slope, -1), np.inf)

    chosen = statistics.resampled(width, resamples, np.random.default_rng(0))
    (slope,), (zero,) = line(x[None], change[None])
    slopes, zeros = line(x[chosen], change[chosen])
    low, high = np.quantile(slopes, [0.025, 0.975])
    nearest, farthest = np.quantile(zeros, [0.025, 0.975], method="inverted_cdf")
    return Fit(
        Interval(float(slope), float(low), float(high), len(x)),
        Interval(float(zero), float(nearest), float(farthest), len(x)),
    )


def main_curves(run: Run) -> pd.DataFrame:
    """Return `curves` without the one whose values explode."""
    found = curves(run)
    return pd.DataFrame(found[found.discount == run.config["discount"]]).reset_index(drop=True)


NOT_FALLING = 2
"""Of the paper's 12 curves so many may fail to fall; one more contradicts the claim."""


def judge_width(run: Run) -> Verdict:
    """Judge width-helps-not-cures: curves fall with width, and some are above zero at the widest.

    More than `NOT_FALLING` of them do not fall if the next after those that fall least does not.
    The loss is cured if the interval at the widest network reaches zero in every curve, so the
    highest of the curves decides.
    """
    found = main_curves(run)
    place = min(NOT_FALLING, len(found) - 1)
    return decide(
        "width-helps-not-cures",
        Condition(
            f"Spearman of width and change, {_ordinal(place)} of {len(found)} curves",
            _ranked(found.spearman, place), "<", 0.0,
        ),
        Condition(
            f"change at the widest, highest of {len(found)} curves",
            _ranked(found.widest, 0), ">", 0.0,
        ),
    )  # fmt: skip


def _ranked(found: Iterable[Interval], place: int) -> Interval:
    """Return the highest, second highest, ... of these quantities.

    It lies between the bounds of that rank. What is not known could be anywhere.
    """

    def pick(values: list[float]) -> float:
        known = sorted((x for x in values if not np.isnan(x)), reverse=True)
        return known[min(place, len(known) - 1)] if known else np.nan

    estimates, lows, highs, n = (list(column) for column in zip(*found, strict=True))
    return Interval(pick(estimates), pick(lows), pick(highs), int(min(n)))


def _ordinal(place: int) -> str:
    return ("least", "second least", "third least")[place] + " falling"


CLAIMS = {"width-helps-not-cures": judge_width}
"""Each claim of `plasticity.claims.LEDGER` that this experiment decides, with its judge."""
