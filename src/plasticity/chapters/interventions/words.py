"""Tables and sentences of the chapter on interventions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from plasticity import configuration
from plasticity.chapters.interventions.contrasts import comparable
from plasticity.chapters.interventions.run import INTERVENTIONS, Config
from plasticity.chapters.printed import interventions
from plasticity.chapters.report import readable, short
from plasticity.runs.results import Run
from plasticity.statistics import UNKNOWN, Interval, mean_interval, paired_difference

FIGURES = {"mnist": (9, 11, 13, 15), "cifar10": (6, 8, 10, 12, 16)}
"""The paper's figures by the data set that they are of: change, levels, task and TD loss."""


def counterparts(runs: Iterable[Run]) -> str:
    """Return which of the paper's figures these runs have a counterpart of, and for what.

    What counts are runs with every intervention and both outputs; the paper has four networks, and
    does not say on which problem.
    """
    have: dict[str, dict[str, set[str]]] = {source: {} for source in FIGURES}
    for run in filter(comparable, runs):
        config = configuration.from_dict(Config, run.config)
        whole = set(config.interventions) == set(INTERVENTIONS) and len(config.outputs) > 1
        for dataset in config.datasets if whole else ():
            for network in config.networks:
                problems = have[dataset.partition("_")[0]].setdefault(network.kind, set())
                problems |= set(config.variants)
    said = []
    for source, figures in FIGURES.items():
        of = []
        for kind, problems in have[source].items():
            on = " and the ".join(sorted(map(readable, problems)))
            of.append(f"the {readable(kind)} on the {on} problem")
        listed = ", ".join(map(str, figures[:-1]))
        name = {"mnist": "MNIST", "cifar10": "CIFAR-10"}[source]
        said.append(f"Figures {listed} and {figures[-1]} ({name}): {'; '.join(of) or 'none'}")
    return f"**Which of the paper's figures have a counterpart here.** {'. '.join(said)}."


def cells_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return `contrasts.cells` in words, with the paper's changes.

    A cell in which agents diverged says how many; "–" marks what was not measured or not printed.
    """
    printed = [
        f"{mean:z.2f} ± {spread:.2f}" if np.isfinite(mean) else "–"
        for mean, spread in zip(cells.paper_change, cells.paper_spread, strict=True)
    ]
    return pd.DataFrame(
        {
            "intervention": cells.intervention.map(readable),
            "output": cells.encoding.map(readable),
            "network": cells.architecture.map(readable),
            "data": cells.dataset.map(readable),
            "reward": cells.variant.map(readable),
            "initial": cells.initial.map(_known),
            "final": cells.final.map(_known),
            "change": cells.change.map(_known),
            "the paper's change": printed,
            "task: share of images right": cells.accuracy.map(_known),
            "diverged": cells.diverged.map(lambda agents: str(agents) if agents else ""),
        }
    )


def _known(found: Interval) -> str:
    """Write an interval, only the estimate if there is one seed, or a dash."""
    if not np.isfinite(found.estimate):
        return "–"
    return short(found) if np.isfinite(found.low) else f"{found.estimate:.2f}"


def against_none_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `contrasts.against_none` in words; Adam's ε is a column if there are several."""
    epsilons = {"Adam's ε": rows.eps.map("{:g}".format)} if rows.eps.nunique() > 1 else {}
    return pd.DataFrame(
        {
            "network": rows.architecture.map(readable),
            "reward": rows.variant.map(readable),
            **epsilons,
            "lost without it": rows.lost.map(_known),
            "with": rows.intervention.map(readable),
            "that much more is lost": rows.change.map(_known),
            "task: share of images right": rows.accuracy.map(_known),
            "more than without it": rows.task.map(_known),
        }
    )


def power_table(power: pd.DataFrame) -> pd.DataFrame:
    """Return `contrasts.power` in words: what could have been seen.

    Less loss is better. A difference that is not clear of zero may still exist if it is smaller
    than what this many seeds would have shown in four of five repetitions.
    """
    return pd.DataFrame(
        {
            "contrast": [_contrast(*row) for row in power[_NAMES].to_numpy()],
            "difference in plasticity lost": power.difference.map(short),
            "shown with 80 % power from": power.detectable.map("{:.2f}".format),
            "it is": [
                _verdict(found, detectable)
                for found, detectable in zip(power.difference, power.detectable, strict=True)
            ],
        }
    )


_NAMES = ["architecture", "encoding", "intervention"]


def _contrast(architecture: str, encoding: str, intervention: str) -> str:
    if intervention == "none":
        return f"{readable(architecture)}: {readable(encoding)} output against regression"
    where = "" if encoding == "regression" else f", {readable(encoding)}"
    return f"{readable(architecture)}{where}: {readable(intervention)} against none"


def _verdict(found: Interval, detectable: float) -> str:
    if found.high < 0:
        return "better"
    if found.low > 0:
        return "worse"
    return f"not shown (an effect below {detectable:.2f} could be missed)"


def layer_norm_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """Return what the paper's own cells say about layer normalisation, with ours.

    One row per data set, network and output for which Figs. 8 and 9 print both cells. Less loss is
    better. Ours have one column per variant in ``cells``, "–" where it was not run.
    """
    printed = interventions()
    printed = printed[
        (printed.figure != 6) & (printed.panel != "regression") & (printed.quantity == "change")
    ]
    keys = ["dataset", "encoding", "architecture"]
    wide = printed.pivot_table(index=keys, columns="intervention", values="mean", sort=False)
    wide = wide[["none", "layer_norm"]].dropna().sort_index(ascending=[True, True, False])
    ours = cells.assign(dataset=cells.dataset.str.partition("_")[0])
    rows = []
    for names, theirs in zip(wide.index, wide.itertuples(index=False), strict=True):
        dataset, encoding, architecture = names
        row = {
            "data": {"mnist": "MNIST", "cifar10": "CIFAR-10"}[dataset],
            "output": readable(encoding),
            "network": readable(architecture),
            "the paper: none → layer norm": f"{theirs[0]:z.2f} → {theirs[1]:z.2f}",
            "there it is": _compared(theirs[1], theirs[0]),
        }
        same = ours[ours[keys].eq(pd.Series(names, keys)).all(axis=1)]
        for variant in cells.variant.unique():
            found = same[same.variant == variant].set_index("intervention").change
            both = {"none", "layer_norm"} <= set(found.index)
            row[f"ours, {readable(variant)}"] = (
                f"{_known(found['none'])} → {_known(found.layer_norm)}" if both else "–"
            )
        rows.append(row)
    return pd.DataFrame(rows)


def _compared(with_it: float, without: float) -> str:
    return "worse" if with_it > without else "better" if with_it < without else "equal"


def probe_loss_table(squared: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Return what two-hot networks lose under either probe loss, one row per cell of ``own``.

    Both tables come from `contrasts.cells`, ``own`` from a run in which probes minimise the loss
    that the network learns by. The last rows are regression agents without intervention; their own
    loss is the squared error.
    """
    where = ["architecture", "dataset", "variant"]
    both = own.merge(squared, on=[*where, "encoding", "intervention"], suffixes=("", "_squared"))
    plain = squared[(squared.encoding == "regression") & (squared.intervention == "none")]
    plain = plain.merge(own[where].drop_duplicates(), on=where)
    plain = plain.assign(initial_squared=plain.initial, final_squared=plain.final)
    rows = pd.concat([both, plain], ignore_index=True)
    return pd.DataFrame(
        {
            "network": [readable(*names) for names in rows[where].to_numpy()],
            "output": rows.encoding.map(readable),
            "intervention": rows.intervention.map(readable),
            "probed by squared error": _from_to(rows.initial_squared, rows.final_squared),
            "probed by its own loss": _from_to(rows.initial, rows.final),
        }
    )


def _from_to(first: pd.Series[Any], last: pd.Series[Any]) -> list[str]:
    return [f"{_known(a)} → {_known(b)}" for a, b in zip(first, last, strict=True)]


def search_table(run: Run) -> pd.DataFrame:
    """Return what each learning rate of a search does, for agents without intervention.

    Probe losses and accuracies are means over the seeds that never diverged. The largest TD loss is
    for a single batch, over all of training and all those seeds. Raises ValueError for a run that
    is not a search.
    """
    if not run.config.get("search"):
        raise ValueError(f"{run.label} is no search: run with `search` set to learning rates")
    rows = []
    keys = ["architecture", "dataset", "variant", "encoding", "learning_rate"]
    for names, table in run.table.groupby(keys, sort=False):
        gone = table[table.metric == "diverged"].groupby("seed").value.max()
        lost = set(gone[gone > 0].index)
        kept = table[~table.seed.isin(lost)].sort_values("step")
        by = {metric: part.groupby("seed").value for metric, part in kept.groupby("metric")}
        *words, rate = map(str, names)
        architecture, dataset, variant, encoding = map(readable, words)
        row = {
            "learning rate": f"{float(rate):g}", "output": encoding, "network": architecture,
            "data": dataset, "reward": variant,
        }  # fmt: skip
        first, last, task = UNKNOWN, UNKNOWN, UNKNOWN
        change, largest = UNKNOWN, "–"
        if by:
            before, after = by["probe_loss"].first(), by["probe_loss"].last()
            first, last = mean_interval(before), mean_interval(after)
            change = paired_difference(after, before)
            task = mean_interval(by["accuracy"].last())
            largest = f"{by['td_loss_max'].max().max():.3g}"
        rows.append(
            row
            | {
                "task: share of images right": _known(task),
                "initial": _known(first),
                "final": _known(last),
                "change": _known(change),
                "largest TD loss": largest,
                "diverged": f"{len(lost)} of {len(gone)}",
            }
        )
    return pd.DataFrame(rows)


Front = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(good, bad) → which points no other beats, like `contrasts.pareto`."""


def in_time(run: Run, plain: str, other: str) -> pd.DataFrame:
    """Return how much plasticity two arms have lost at each probe, and their difference.

    The loss is the rise of the probe loss since before training; the difference is paired by seed.
    Agents that diverged are left out.
    """
    rows = run.table[run.table.metric == "probe_loss"]
    loss = rows.pivot(index=["arm", "seed"], columns="step", values="value")
    lost = loss.sub(loss[0], axis=0).drop(columns=0)
    found = []
    for step, column in lost.items():
        without, with_it = (column[arm].dropna() for arm in (plain, other))
        both = without.index.intersection(with_it.index)
        found.append(
            {
                "steps": f"{step:,}",
                "lost without": mean_interval(without),
                "lost with it": mean_interval(with_it),
                "less with it": paired_difference(without[both], with_it[both]),
            }
        )
    return pd.DataFrame(found)


def front_in_words(cells: pd.DataFrame, front: Front) -> str:
    """Return which interventions no other beats at task and plasticity, one sentence per panel.

    A Markdown list with the accuracy and final probe loss of each. ``front`` is `contrasts.pareto`.
    """
    said = []
    for names, table in cells.groupby(["architecture", "dataset", "variant"], sort=False):
        good, bad = (
            np.array([found.estimate for found in table[name]]) for name in ("accuracy", "final")
        )
        known = np.isfinite(good) & np.isfinite(bad)
        if not known.any():
            said.append(f"- **{readable(*map(str, names))}**: every agent diverged.")
            continue
        best = table[known][front(good[known], bad[known])]
        order = np.argsort([-found.estimate for found in best.accuracy])
        columns = ["intervention", "encoding", "accuracy", "final"]
        points = [
            f"{_point(intervention, encoding)} ({task.estimate:.2f} of images right, probe loss "
            f"{loss.estimate:.2f})"
            for intervention, encoding, task, loss in best[columns].iloc[order].to_numpy()
        ]
        said.append(f"- **{readable(*map(str, names))}**: no other beats {'; '.join(points)}.")
    return "\n".join(said)


def _point(intervention: str, encoding: str) -> str:
    name = "no intervention" if intervention == "none" else readable(intervention)
    return f"{name} with {readable(encoding)} output"
