"""Evaluates a run of *interventions*: cells next to the paper's, contrasts, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd

from plasticity import configuration, statistics
from plasticity.chapters.claims import LEDGER, Condition, Side, Verdict, decide
from plasticity.chapters.interventions.run import CELL, SWEPT, Config
from plasticity.chapters.printed import interventions
from plasticity.chapters.probing import tables
from plasticity.runs.results import Run
from plasticity.statistics import Interval


@lru_cache(maxsize=4)  # every contrast begins with it
def agents(run: Run) -> pd.DataFrame:
    """Return one row per agent: its cell, every metric at the last probe, and what it lost.

    Besides the columns of `tables.at_end` there are ``log_td_loss``, the logarithm of the largest
    TD loss of a single batch in all of training, and ``ever_diverged``: the parameters diverged at
    any probe, or the last probe did. In a search ``intervention`` is the learning rate, in which
    its arms differ: these agents do not serve to compare interventions. The same run gives the same
    table again: copy what is to be changed.
    """
    table = tables.at_end(run.table, ["arm", *SWEPT, "seed"])
    if run.config.get("search"):
        table["intervention"] = table.learning_rate.map("{:g}".format)
    by_agent = run.table.groupby(["arm", "seed", "metric"]).value.max().unstack()
    index = pd.MultiIndex.from_frame(table[["arm", "seed"]])
    table["log_td_loss"] = np.log(by_agent.td_loss_max.reindex(index).to_numpy())
    diverged = by_agent.diverged.reindex(index).to_numpy() > 0
    table["ever_diverged"] = diverged | ~np.isfinite(table.plasticity_loss)
    return table


METRICS = {
    "initial_loss": "initial", "probe_loss": "final", "plasticity_loss": "change"
}  # fmt: skip
"""Columns of `agents` by the names of the paper's heat maps, Figs. 6 and 8 to 11."""


def cells(run: Run) -> pd.DataFrame:
    """Return each arm's probe losses and task with the paper's printed cell, one row per arm.

    Columns: `CELL`, intervals ``initial``, ``final``, ``change``, ``accuracy``, ``diverged`` (how
    many agents), and ``paper_initial``, ``paper_final``, ``paper_change`` with the change's
    ``paper_spread``, NaN where the paper prints no cell. The paper does not say which reward it
    shows: both of ours are paired with the same cell.
    """
    rows = []
    for names, group in agents(run).groupby(list(CELL), sort=False):
        whole = group[~group.ever_diverged]
        intervals = {
            name: _mean(whole[column])
            for column, name in {**METRICS, "accuracy": "accuracy"}.items()
        }
        diverged = int(group.ever_diverged.sum())
        rows.append({**dict(zip(CELL, names, strict=True)), **intervals, "diverged": diverged})
    return _beside_the_paper(pd.DataFrame(rows))


def _mean(values: pd.Series[float]) -> Interval:
    return statistics.mean_interval(values) if len(values) else statistics.UNKNOWN


def _beside_the_paper(table: pd.DataFrame) -> pd.DataFrame:
    printed = interventions()
    printed = printed[(printed.figure != 6) & (printed.panel != "regression")]
    keys = ["dataset", "encoding", "intervention", "architecture"]
    wide = printed.pivot_table(index=keys, columns="quantity", values=["mean", "spread"])
    theirs = wide["mean"].add_prefix("paper_")
    theirs["paper_spread"] = wide["spread", "change"]
    return (
        table.assign(source=table.dataset.str.partition("_")[0])
        .merge(
            theirs.reset_index().rename(columns={"dataset": "source"}),
            how="left",
            on=["source", *keys[1:]],
        )
        .drop(columns="source")
    )


# Contrasts: an intervention against none, paired by seed.


def contrast(
    run: Run,
    architecture: str,
    intervention: str,
    encoding: str = "regression",
    against: tuple[str, str] = ("none", "regression"),
    metric: str = "plasticity_loss",
    variant: str | None = None,
) -> np.ndarray:
    """Return an arm's metric minus the arm ``against``'s, (seeds,), averaged over the grid.

    ``against`` is (intervention, encoding). Averaged over data sets and, if no ``variant`` is
    given, over variants; a seed with an agent that diverged in either arm is left out. Raises
    KeyError if the run has no such arms.
    """
    table = agents(run)
    chosen = table.architecture == architecture
    if variant is not None:
        chosen &= table.variant == variant
    table = table[chosen]
    wide = table.assign(value=table[metric].where(~table.ever_diverged)).pivot(
        index="seed", columns=["intervention", "encoding", "dataset", "variant"], values="value"
    )
    wide = wide.sort_index(axis=1)  # pandas warns when it looks up in an unsorted index
    difference = (wide[intervention, encoding] - wide[against]).dropna().to_numpy(float)
    return np.asarray(difference.mean(axis=1))


def contrasts(run: Run, **which: Any) -> dict[str, Interval]:
    """Return `contrast` for each architecture, as an interval; none if the run lacks the arms.

    Where too many agents diverged for a contrast, the interval is infinite.
    """
    found: dict[str, Interval] = {}
    for network in configuration.from_dict(Config, run.config).networks:
        try:
            values = contrast(run, network.kind, **which)
        except KeyError:
            continue
        interval = statistics.mean_interval(values) if values.size else statistics.UNKNOWN
        found[network.kind] = interval
    return found


def _second(found: Mapping[str, Interval], worst: bool) -> Interval:
    """Return the second-largest contrast, or the second-smallest.

    It lies between the second of the lower and the second of the upper bounds. An architecture
    about which nothing is known could be anywhere.
    """

    def pick(values: list[float]) -> float:
        known = sorted((x for x in values if not np.isnan(x)), reverse=worst)
        return known[min(1, len(known) - 1)] if known else np.nan

    estimates, lows, highs, n = (list(column) for column in zip(*found.values(), strict=True))
    return Interval(pick(estimates), pick(lows), pick(highs), int(min(n)))


def _verdict(claim_id: str, *conditions: Condition) -> Verdict:
    """Return the verdict, "not run" if the run has no arms that could decide."""
    return decide(claim_id, *conditions) if conditions else Verdict(LEDGER[claim_id], "not run")


@dataclass(frozen=True)
class Contrasted:
    """A judge: an intervention against none, in the change of the probe loss.

    Called with a run it returns its verdict. In every architecture the contrast must be below (or
    above) ``threshold``. With ``second``, only the second worst or best architecture counts: what
    holds "in two or more architectures" decides.
    """

    claim: str
    what: str
    which: Mapping[str, Any]  # arguments of `contrasts`
    side: Side = "<"
    threshold: float = 0.0
    second: Literal["worst", "best"] | None = None
    but: str | None = None  # an architecture that the claim does not cover

    def __call__(self, run: Run) -> Verdict:
        """Return what ``run`` says about the claim."""
        found = {name: x for name, x in contrasts(run, **self.which).items() if name != self.but}
        if self.second and found:
            value = _second(found, worst=self.second == "worst")
            found = {f", second {self.second} of {len(found)}": value}
        else:
            found = {f" ({name})": value for name, value in found.items()}
        conditions = (
            Condition(f"{self.what}{name}", value, self.side, self.threshold)
            for name, value in found.items()
        )
        return _verdict(self.claim, *conditions)


def judge_task(run: Run) -> Verdict:
    """Judge perturbing-hurts-task: accuracy on the hard (random-label) reward."""
    which = {"intervention": "shrink_and_perturb", "metric": "accuracy", "variant": hard(run)}
    return Contrasted(
        "perturbing-hurts-task", "hard accuracy, shrink and perturb minus none", which
    )(run)


def hard(run: Run) -> str:
    """Return the variant that the paper calls hard, or the last one that the run has."""
    variants = run.config["variants"]
    return "random_label" if "random_label" in variants else str(variants[-1])


def judge_td_loss(run: Run) -> Verdict:
    """Judge td-loss-stability: layer norm and two-hot lower the largest TD loss of training.

    The squared error of values under either output (`plasticity.agents.q_learning.learn`).
    """
    compared = {
        "layer norm": contrasts(run, intervention="layer_norm", metric="log_td_loss"),
        "two-hot": contrasts(run, intervention="none", encoding="two_hot", metric="log_td_loss"),
    }
    conditions = [
        Condition(f"largest TD loss, {what} / none ({name})", value.map(np.exp), "<", 1.0)
        for what, found in compared.items()
        for name, value in found.items()
    ]
    return _verdict("td-loss-stability", *conditions)


def power(run: Run) -> pd.DataFrame:
    """Return every contrast with "none", and the effect that this many seeds would have shown.

    Columns: architecture, encoding, intervention, ``difference`` in the change (an interval, paired
    by seed; two-hot arms against "none" under two-hot) and ``detectable``: see
    `plasticity.statistics.detectable_difference`.
    """
    config, rows = configuration.from_dict(Config, run.config), []
    for encoding in (output.kind for output in config.outputs):
        for architecture in (network.kind for network in config.networks):
            for intervention in config.interventions:
                if intervention == "none" and encoding == "regression":
                    continue
                other = ("none", "regression" if intervention == "none" else encoding)
                values = contrast(run, architecture, intervention, encoding, other)
                if values.size < 2:
                    continue
                rows.append(
                    {
                        "architecture": architecture,
                        "encoding": encoding,
                        "intervention": intervention,
                        "difference": statistics.mean_interval(values),
                        "detectable": statistics.detectable_difference(values),
                    }
                )
    return pd.DataFrame(rows)


def own_loss_contrast(run: Run, own: Run, architecture: str) -> np.ndarray:
    """Return the change under two-hot, probed by its own loss, minus regression's, (seeds,).

    For agents without intervention: two-hot ones from ``own`` (`Config.probe_loss`), regression
    ones from ``run``. Paired by seed, averaged over the data sets and variants that both have.
    """
    lost = []
    for table, encoding in ((agents(own), "two_hot"), (agents(run), "regression")):
        chosen = (table.architecture == architecture) & (table.intervention == "none")
        rows = table[chosen & (table.encoding == encoding)]
        lost.append(rows.set_index(["seed", "dataset", "variant"]).plasticity_loss)
    return (lost[0] - lost[1]).dropna().groupby("seed").mean().to_numpy(float)


def pareto(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Return which points no other beats: at least as much good, at most as much bad, not equal."""
    as_good = (good[None] >= good[:, None]) & (bad[None] <= bad[:, None])
    better = (good[None] > good[:, None]) | (bad[None] < bad[:, None])
    return np.asarray(~(as_good & better).any(axis=1))


CLAIMS: dict[str, Callable[[Run], Verdict]] = {
    judge.claim: judge
    for judge in (
        Contrasted(  # contradicted if it is worse than none in two or more
            "two-hot-best", "change, two-hot minus regression",
            {"intervention": "none", "encoding": "two_hot"}, second="worst",
        ),
        Contrasted(  # contradicted if it is better than none in two or more
            "shrink-perturb-worst", "change, shrink and perturb minus none",
            {"intervention": "shrink_and_perturb"}, ">", second="best",
        ),
        Contrasted(  # under two-hot it does no harm
            "shrink-perturb-categorical", "two-hot, change, shrink and perturb minus none",
            {"intervention": "shrink_and_perturb", "encoding": "two_hot",
             "against": ("none", "two_hot")}, threshold=0.2,
        ),
        Contrasted(  # no interval can show that it does *nothing*; "supported" would mean: worse
            "weight-decay-nothing", "change, weight decay minus none",
            {"intervention": "weight_decay"}, ">", second="best",
        ),
        Contrasted(
            "reset-helps", "change, reset minus none", {"intervention": "reset_last_layer"},
            but="cnn",
        ),
        Contrasted(
            "layer-norm-helps", "change, layer norm minus none", {"intervention": "layer_norm"}
        ),
    )
} | {"perturbing-hurts-task": judge_task, "td-loss-stability": judge_td_loss}  # fmt: skip
"""Each claim of the ledger that this experiment decides, with its judge."""
