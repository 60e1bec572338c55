"""Tables of a run of *interventions*: agents, cells next to the paper's, contrasts between arms."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from plasticity import configuration, statistics
from plasticity.agents.settings import ADAM_EPS
from plasticity.chapters.interventions.run import CELL, SWEPT, Config
from plasticity.chapters.printed import interventions
from plasticity.chapters.probing import tables
from plasticity.power import detectable_difference
from plasticity.runs.results import Run
from plasticity.statistics import Interval

NONE = ("none", "regression")
"""Intervention and output of the arm that others are compared with."""


def comparable(run: Run) -> bool:
    """Return whether a run's agents answer the claims' question.

    A search has no interventions, and an own loss is not the loss of Eq. (4).
    """
    return not run.config.get("search") and run.config.get("probe_loss", "squared") == "squared"


@lru_cache(maxsize=8)  # every contrast begins with it
def agents(run: Run) -> pd.DataFrame:
    """Return one row per agent: its cell, every metric at the last probe, and what it lost.

    Besides the columns of `tables.at_end` there are ``log_td_loss``, the logarithm of the largest
    TD loss of a single batch in all of training, ``log_mean_td_loss``, of the mean between the last
    two probes, and ``ever_diverged``: the parameters diverged at
    any probe, or the last probe did. In a search ``intervention`` is the learning rate, in which
    its arms differ: these agents do not serve to compare interventions. ``eps`` is Adam's ε. The
    same run gives the same table again: copy what is to be changed.
    """
    rows = run.table if "eps" in run.table else run.table.assign(eps=ADAM_EPS)
    table = tables.at_end(rows, ["arm", *SWEPT, "seed"])
    if run.config.get("search"):
        table["intervention"] = table.learning_rate.map("{:g}".format)
    by_agent = run.table.groupby(["arm", "seed", "metric"]).value.max().unstack()
    index = pd.MultiIndex.from_frame(table[["arm", "seed"]])
    table["log_td_loss"] = np.log(by_agent.td_loss_max.reindex(index).to_numpy())
    with np.errstate(invalid="ignore"):
        table["log_mean_td_loss"] = np.log(table.get("td_loss", pd.Series(dtype=float)))
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


def hard(run: Run) -> str:
    """Return the variant that the paper calls hard, or the last one that the run has."""
    variants = run.config["variants"]
    return "random_label" if "random_label" in variants else str(variants[-1])


def contrast(
    run: Run,
    architecture: str,
    intervention: str,
    encoding: str = "regression",
    against: tuple[str, str] = ("none", "regression"),
    metric: str = "plasticity_loss",
    variant: str | None = None,
    eps: float | None = None,
) -> np.ndarray:
    """Return an arm's metric minus the arm ``against``'s, (seeds,), averaged over the grid.

    ``against`` is (intervention, encoding). Averaged over data sets and, unless one is given, over
    variants and Adam's ε; a seed with an agent that diverged in either arm is left out. Raises
    KeyError if the run has no such arms.
    """
    table = agents(run)
    chosen = table.architecture == architecture
    if variant is not None:
        chosen &= table.variant == variant
    if eps is not None:
        chosen &= table.eps == eps
    table = table[chosen]
    wide = table.assign(value=table[metric].where(~table.ever_diverged)).pivot(
        index="seed",
        columns=["intervention", "encoding", "dataset", "variant", "eps"],
        values="value",
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


def against_none(run: Run, encoding: str = "regression") -> pd.DataFrame:
    """Return what each intervention changes, one row per network, variant, Adam's ε and change.

    Columns: architecture, variant, eps, intervention, and as intervals over seeds ``lost`` (the
    plasticity that agents without intervention lose), ``change`` (how much more it is with it),
    ``accuracy`` (of agents with it) and ``task`` (how much more that is).
    """
    table, rows = agents(run), []
    table = table[(table.encoding == encoding) & ~table.ever_diverged]
    keys = ["architecture", "variant", "eps"]
    for (architecture, variant, eps), group in table.groupby(keys, sort=False):
        of = dict(tuple(group.groupby("intervention", sort=False)))
        which: dict[str, Any] = {"encoding": encoding, "against": ("none", encoding)}
        which |= {"variant": variant, "eps": eps}
        for name in of.keys() - {"none"} if "none" in of else ():
            differences = {
                column: contrast(run, str(architecture), str(name), metric=metric, **which)
                for column, metric in (("change", "plasticity_loss"), ("task", "accuracy"))
            }
            rows.append(
                {
                    "architecture": architecture, "variant": variant, "eps": eps,
                    "intervention": name, "lost": _mean(of["none"].plasticity_loss),
                    "accuracy": _mean(of[name].accuracy),
                    **{column: _mean(pd.Series(found)) for column, found in differences.items()},
                }
            )  # fmt: skip
    order = [*keys, "intervention"]
    return pd.DataFrame(rows).sort_values(order, ignore_index=True)


def power(run: Run) -> pd.DataFrame:
    """Return every contrast with "none", and the effect that this many seeds would have shown.

    Columns: architecture, encoding, intervention, ``difference`` in the change (an interval, paired
    by seed; two-hot arms against "none" under two-hot) and ``detectable``: see
    `plasticity.power.detectable_difference`.
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
                        "detectable": detectable_difference(values),
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
