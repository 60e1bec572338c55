"""Tables and sentences of the chapter on measuring plasticity."""

from __future__ import annotations

import importlib.resources
import json
from importlib.resources.abc import Traversable

import numpy as np
import pandas as pd
from scipy import stats

from plasticity.chapters.report import readable, short
from plasticity.runs import origin
from plasticity.runs.results import Run


def calibration(table: pd.DataFrame) -> pd.DataFrame:
    """Return the calibration with one row per setting and one column per network."""
    cells = table.assign(
        cell=table.ours.map(short),
        network=[readable(*pair) for pair in zip(table.dataset, table.architecture, strict=True)],
    )
    wide = cells.pivot(index="setting", columns="network", values="cell")
    wide = wide.loc[list(dict.fromkeys(table.setting)), list(dict.fromkeys(cells.network))]
    printed = cells.drop_duplicates("network").set_index("network").printed
    wide.loc["**printed in the paper**"] = [f"**{printed[name]:.2f}**" for name in wide.columns]
    return wide.reset_index(names="setting")


def nearest(distances: pd.Series) -> str:
    """Return which setting comes nearest to the paper's four fresh losses, in a sentence."""
    first, others = distances.index[0], distances.iloc[1:]
    rest = "; ".join(f"{name}: {value:.2f}" for name, value in others.items())
    return (
        f"Nearest to the four printed losses is **{first}**, whose root mean square distance from "
        f"them is {distances.iloc[0]:.2f} (the others: {rest})."
    )


def plain_numpy() -> pd.DataFrame:
    """Return what ``tests/cross_check/record.py`` recorded: seed, step, metric, value."""
    with _recorded("cross_check.csv").open() as file:
        return pd.read_csv(file)


def cross_check(run: Run, arm: str = "true_label") -> pd.DataFrame:
    """Return the agents of ``arm`` beside those in plain numpy: means ± standard deviations.

    ``p`` is that of Welch's test for equal means, of λ₁ for those of its logarithm.
    """
    rows = []
    for (metric, step), ours in plain_numpy().groupby(["metric", "step"], sort=False):
        theirs = run.select(arm=arm, metric=metric, step=int(str(step))).value.to_numpy(float)
        here = ours.value.to_numpy(float)
        logs = metric == "sharpness"
        pair = (np.log(theirs), np.log(here)) if logs else (theirs, here)
        known = float(np.ptp(theirs)) + float(np.ptp(here)) > 0
        p = float(stats.ttest_ind(*pair, equal_var=False).pvalue) if known else np.nan
        rows.append((str(metric), int(str(step)), _spread(theirs), _spread(here), p))
    columns = ["quantity", "steps", "this package", "plain numpy", "p"]
    return pd.DataFrame(rows, columns=columns)


def cross_check_table(compared: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `cross_check` with its numbers written out."""
    names = {"sharpness": "λ₁ of the proxy loss"}
    return compared.assign(
        quantity=compared.quantity.map(lambda name: names.get(name, readable(name))),
        steps=compared.steps.map("{:,}".format),
        p=compared.p.map(lambda p: "–" if np.isnan(p) else f"{p:.2f}"),
    )


def cross_check_note() -> str:
    """Return where the agents in plain numpy were run, in a sentence."""
    found = json.loads(_recorded("cross_check.json").read_text(encoding="utf-8"))
    return (
        f"Agents in plain numpy: {plain_numpy().seed.nunique()} seeds, numpy {found['numpy']}, "
        f"{found['core_seconds'] / 60:.0f} minutes of one core of {found['device']['kind']}, "
        f"finished {found['finished'][:10]}, {origin.told(found)}."
    )


def _recorded(name: str) -> Traversable:
    return importlib.resources.files("plasticity.chapters") / name


def _spread(values: np.ndarray) -> str:
    digits = 0 if values.mean() > 10 else 3
    return f"{values.mean():,.{digits}f} ± {values.std(ddof=1):,.{digits}f}"
