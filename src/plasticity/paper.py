"""Numbers printed in the paper's figures, to lay beside our own.

``paper_interventions.csv`` transcribes the heat-map cells of Figs. 6 and 8 to 11. They are what the
published PDF prints, not the authors' data; what their ± is, the paper does not say.
"""

from __future__ import annotations

import importlib.resources

import pandas as pd


def interventions() -> pd.DataFrame:
    """Return the cells of Figs. 6 and 8 to 11, one a row.

    Columns: figure, dataset, encoding, intervention, architecture, quantity (change, initial or
    final probe loss), mean, spread, assigned, panel, row_label. "inferred" in ``assigned`` marks
    cells whose architecture is not printed.
    """
    source = importlib.resources.files("plasticity") / "paper_interventions.csv"
    with source.open(encoding="utf-8") as file:
        return pd.read_csv(file)


def fresh_losses() -> pd.DataFrame:
    """Return the probe losses of fresh networks without intervention, Figs. 10 and 11.

    Columns: dataset (mnist or cifar10), architecture, loss; regression outputs.
    """
    cells = interventions()
    chosen = cells[
        (cells.quantity == "initial")
        & (cells.intervention == "none")
        & (cells.encoding == "regression")
        & (cells.panel == "combined")
    ]
    renamed = chosen.rename(columns={"mean": "loss"})
    return renamed[["dataset", "architecture", "loss"]].reset_index(drop=True)
