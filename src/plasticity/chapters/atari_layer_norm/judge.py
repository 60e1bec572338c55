"""Evaluates a run of double DQN on Atari games: scores of agents, bars of games, verdicts.

The run is one of `plasticity.chapters.atari_layer_norm.run` (§6.3, Figs. 7 and 19 to 22).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from plasticity import power, statistics
from plasticity.chapters import printed
from plasticity.chapters.claims import Condition, Judge, Verdict, decide
from plasticity.runs.results import Run
from plasticity.statistics import Interval
from plasticity.worlds import atari

LATE = 0.2
"""The last share of the measurements, over which an agent's score is averaged."""

LEARNED = 0.1
"""An agent learned if its human-normalised score is above this, evaluated and while it learned: a
single evaluation with hardly a random action can be luck."""

STRONG = 0.6
"""A rank correlation of this size is strong."""


def agents(run: Run) -> pd.DataFrame:
    """Return one row per agent: its score and every other metric, averaged over the end.

    The end is the last `LATE` of the measurements. Columns besides metrics: game, layer_norm, seed,
    ``normalised`` (the human-normalised score of evaluation), ``learned`` (see `LEARNED`).
    """
    steps = np.sort(run.table.step.unique())
    late = run.table[run.table.step >= steps[-max(1, round(LATE * len(steps)))]]
    keys = ["game", "layer_norm", "seed"]
    table = late.pivot_table(index=keys, columns="metric", values="value", sort=False)
    table = table.reset_index().merge(atari.scores(), on="game")
    table["normalised"] = statistics.human_normalised(table.score, table.random, table.human)
    # no column if no agent has finished an episode while it learned
    training = table.get("training_score", pd.Series(np.nan, index=table.index))
    while_learning = statistics.human_normalised(training, table.random, table.human)
    table["learned"] = np.minimum(table.normalised, while_learning) > LEARNED
    found: pd.DataFrame = table.drop(columns=["random", "human", "ale_id"])
    return found


def improvements(run: Run) -> pd.DataFrame:
    """Return what layer normalisation adds in each game, with the bars of Fig. 7; one row per game.

    Columns: game, intervals ``without`` and ``with_norm`` of the score over seeds, ``improvement``
    (of the means, as a fraction: `plasticity.statistics.human_normalised_improvement`) and
    ``paper``, the paper's improvement.
    """
    found, rows = agents(run), []
    bars = printed.atari_improvements().set_index("game").improvement_percent / 100
    players = atari.scores().set_index("game")
    for game, group in found.groupby("game", sort=False):
        without, with_norm = (
            statistics.mean_interval(group.score[group.layer_norm == norm])
            for norm in (False, True)
        )
        player = players.loc[str(game)]
        improvement = statistics.human_normalised_improvement(
            with_norm.estimate, without.estimate, player["random"], player["human"]
        )
        rows.append(
            {
                "game": game,
                "without": without,
                "with_norm": with_norm,
                "improvement": float(improvement),
                "paper": bars[str(game)],
            }
        )
    return pd.DataFrame(rows)


def games_needed() -> dict[str, int]:
    """Return how many games it takes to see the paper's effect with 80 % power, for each test.

    Assumes that as large a share of games improves as in Fig. 7 (45 of the 55 that are not equal).
    The tests tell it from one half, as the sign test does, and from the ledger's 60 %.
    """
    bars = printed.atari_improvements().improvement_percent
    share = float((bars > 0).sum() / (bars != 0).sum())
    return {
        "more games improve than not": power.trials_needed(share),
        "more than 60 % improve": power.trials_needed(share, 0.6),
    }


def judge_layer_norm(run: Run) -> list[Verdict]:
    """Judge atari-layer-norm: more than 60 % of games improve."""
    found = statistics.sign_test(improvements(run).improvement)
    what = f"share of games that improve (sign test: p = {found.p_value:.2g})"
    return [decide("atari-layer-norm", Condition(what, found.share, ">", 0.6))]


def judge_collinear(run: Run) -> list[Verdict]:
    """Judge atari-collinear-gradients by the mean absolute cosine of C_k.

    Do learners and others overlap, game by game? And on average: the difference of the means, and
    the rank correlation with the score. Undecided without two agents on either side.
    """
    table = agents(run)
    gaps = [
        _least_gap(game, group)
        for game, group in table.groupby("game", sort=False)
        if group.learned.nunique() > 1
    ] or [Condition(GAP, statistics.UNKNOWN, ">", 0.0, "in no game some learned and some did not")]
    within = table.collinearity - table.groupby("game").collinearity.transform("mean")
    learners, others = within[table.learned], within[~table.learned]
    correlation = statistics.spearman_interval(
        table.collinearity, table.normalised, groups=table.game
    )
    average = decide(
        "atari-collinear-gradients",
        Condition(
            "mean |cosine|, agents that did not learn minus those that did", _gap(others, learners),
            ">", 0.0,
        ),
        Condition(
            "rank correlation of mean |cosine| and human-normalised score", correlation, "<", 0.0
        ),
        part="on average",
    )  # fmt: skip
    return [decide("atari-collinear-gradients", *gaps, part="no overlap"), average]


GAP = "least mean |cosine| of agents that did not learn, minus the largest of those that did"


def _least_gap(game: object, group: pd.DataFrame) -> Condition:
    """Return that no agent of a game that learned has gradients as collinear as one that did not.

    A count of what was seen, and no interval: one pair that overlaps speaks against the claim.
    """
    learners, others = group.collinearity[group.learned], group.collinearity[~group.learned]
    gap = float(others.min() - learners.max())
    return Condition(f"{GAP} ({game})", Interval(gap, gap, gap, len(group)), ">", 0.0)


def _gap(a: pd.Series[float], b: pd.Series[float]) -> Interval:
    """Return the difference of two means with Welch's interval; unknown if one has no spread."""
    n = len(a) + len(b)
    if min(len(a), len(b)) < 2:
        return statistics.UNKNOWN._replace(n=n)
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(statistics.CONFIDENCE)
    return Interval(float(a.mean() - b.mean()), float(low), float(high), n)


def judge_hessian(run: Run) -> list[Verdict]:
    """Judge atari-hessian-unrelated: λ₁ and the score have no strong rank correlation.

    Where no agent learns, scores are those of chance, and nothing could go with them. So this
    counts only if in half of the games or more an agent learned.
    """
    table = agents(run)
    games = table.groupby("game").learned.any()
    empty = "" if games.mean() >= 0.5 else f"no agent learned in {(~games).sum()} of {len(games)}"
    found = statistics.spearman_interval(table.sharpness, table.normalised, groups=table.game)
    what = "rank correlation of λ₁ and human-normalised score"
    return [
        decide(
            "atari-hessian-unrelated",
            Condition(what, found, ">", -STRONG, empty),
            Condition(what, found, "<", STRONG, empty),
        )
    ]


CLAIMS: Mapping[str, Judge] = {
    "atari-layer-norm": judge_layer_norm,
    "atari-collinear-gradients": judge_collinear,
    "atari-hessian-unrelated": judge_hessian,
}
"""Each claim in the ledger that a run on Atari games decides, with its judge."""
