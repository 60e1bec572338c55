"""Numbers printed in the paper's figures, and published Atari scores, to compare with our own.

``paper_interventions.csv`` transcribes the heat-map cells of Figs. 6 and 8 to 11. They are what the
published PDF prints, not the authors' data; the paper does not say what their ± is.
``paper_atari_improvement.csv`` transcribes the bars of Fig. 7, pairing names and values by their
order. ``atari_scores.csv`` has the scores of a random and a human player from
``dqn_zoo/atari_data.py`` (google-deepmind/dqn_zoo, commit 45061f4, Apache-2.0), and Gymnasium's
names of the games.
"""

from __future__ import annotations

import importlib.resources

import pandas as pd


def interventions() -> pd.DataFrame:
    """Return the cells of Figs. 6 and 8 to 11, one per row.

    Columns: figure, dataset, encoding, intervention, architecture, quantity (change, initial or
    final probe loss), mean, spread, assigned, panel, row_label. "inferred" in ``assigned`` marks
    cells whose architecture is not printed.
    """
    # Not via `_read`: a recorded run's hash covers this function through the field `calibration`.
    source = importlib.resources.files("plasticity.chapters") / "paper_interventions.csv"
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


def atari_improvements() -> pd.DataFrame:
    """Return the bars of Fig. 7: what layer norm adds to double DQN over three seeds, 57 games.

    Columns: game, improvement_percent (100 times the measure of Wang et al. 2016, see
    `plasticity.statistics.human_normalised_improvement`). In the figure's order, ascending.
    """
    return _read("paper_atari_improvement.csv")


def _read(name: str) -> pd.DataFrame:
    source = importlib.resources.files("plasticity.chapters") / name
    with source.open(encoding="utf-8") as file:
        return pd.read_csv(file)
