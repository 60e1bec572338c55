"""Tables and sentences of the chapter on measuring plasticity."""

from __future__ import annotations

import pandas as pd

from plasticity.chapters.report import readable, short


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
