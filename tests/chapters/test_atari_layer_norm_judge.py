"""Scores, bars and verdicts of made-up runs on Atari games."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from plasticity import configuration
from plasticity.chapters.atari_layer_norm import judge as atari_layer_norm_judge
from plasticity.chapters.atari_layer_norm import run as atari_layer_norm
from plasticity.chapters.claims import Judge
from plasticity.runs.results import Run
from plasticity.worlds import atari


def made_up(scores: dict[tuple[str, bool, int], dict[str, float]], **changes: Any) -> Run:
    """Return a run of two measurements, the second with these metrics of each agent."""
    rows = []
    for (game, norm, seed), metrics in scores.items():
        for name, value in metrics.items():
            for step, late in ((0, 0.0), (1, value)):
                arm = atari_layer_norm.arm_name(game, norm)
                rows.append((arm, game, norm, seed, step, name, late))
    columns = ["arm", "game", "layer_norm", "seed", "step", "metric", "value"]
    config = configuration.to_dict(replace(atari_layer_norm.STUDIES["quick"], **changes))
    provenance = {"study": "quick", "config": config}
    return Run("atari_layer_norm", "quick", pd.DataFrame(rows, columns=columns), {}, provenance)


def agent(normalised: float, game: str, collinearity: float, sharpness: float) -> dict[str, float]:
    player = atari.scores().set_index("game").loc[game]
    score = player["random"] + normalised * (player["human"] - player["random"])
    scores = {"score": score, "training_score": score}
    return {**scores, "collinearity": collinearity, "sharpness": sharpness}


def pairs(games: tuple[str, ...], gains: list[float]) -> Run:
    """Return a run in which layer norm adds these human-normalised scores, two seeds a game."""
    return made_up(
        {
            (game, norm, seed): agent(0.5 + gain * norm, game, 0.5 + 0.01 * seed, 1.0 + seed)
            for game, gain in zip(games, gains, strict=True)
            for norm in (False, True)
            for seed in (0, 1)
        }
    )


def said(judge: Judge, run: Run) -> list[str]:
    """Return the status of each part."""
    return [verdict.status for verdict in judge(run)]


def test_improvements_are_those_that_were_put_in() -> None:
    table = atari_layer_norm_judge.improvements(pairs(("pong", "freeway"), [0.2, -0.1])).set_index(
        "game"
    )
    np.testing.assert_allclose(table.improvement, [0.2, -0.1], rtol=1e-6)
    np.testing.assert_allclose(table.paper, [-0.001, 0.407])
    np.testing.assert_allclose(table.with_norm["freeway"].estimate, 0.4 * 29.6, rtol=1e-6)


def test_many_games_decide_and_one_does_not() -> None:
    games = atari.GAMES[:40]
    gains = {"supported": [0.1] * 40, "contradicted": [-0.1] * 40, "inconclusive": [0.1, -0.1] * 20}
    for status, each in gains.items():
        assert said(atari_layer_norm_judge.judge_layer_norm, pairs(games, each)) == [status]
    assert said(atari_layer_norm_judge.judge_layer_norm, pairs(("pong",), [0.3])) == [
        "inconclusive"
    ]


def test_how_many_games_it_takes() -> None:
    assert list(atari_layer_norm_judge.games_needed().values()) == [20, 39]


def learners(collinear: bool, related: bool = False) -> Run:
    """Return eight agents of a game, half of which learned."""
    rng = np.random.default_rng(0)
    rows = {}
    for seed in range(8):
        score = 0.8 + 0.02 * seed if seed >= 4 else 0.01 * seed
        line = (0.2 if seed >= 4 else 0.8) - 0.01 * seed if collinear else 0.5 + 0.1 * (-1) ** seed
        rows["freeway", False, seed] = agent(
            score, "freeway", line, float(seed) if related else rng.uniform()
        )
    return made_up(rows)


def test_collinear_gradients_are_judged_between_learners_and_others() -> None:
    judge = atari_layer_norm_judge.judge_collinear
    assert said(judge, learners(True)) == ["supported", "supported"]
    assert said(judge, learners(False)) == ["contradicted", "inconclusive"]  # they overlap
    # all learned: nobody can tell
    assert said(judge, pairs(("pong",), [0.1])) == ["empty", "inconclusive"]


def test_a_lucky_evaluation_is_not_learning() -> None:
    """In Freeway always going up is worth more than twenty, to a network that never learned."""
    lucky = agent(0.8, "freeway", 0.5, 1.0) | {"training_score": 0.25}
    table = atari_layer_norm_judge.agents(made_up({("freeway", True, 0): lucky}))
    assert table.normalised.item() > 0.7 and not table.learned.item()


def test_an_agent_that_finished_no_episode_while_it_learned_has_not_learned() -> None:
    scores = agent(0.8, "freeway", 0.5, 1.0)
    del scores["training_score"]
    table = atari_layer_norm_judge.agents(made_up({("freeway", True, 0): scores}))
    assert not table.learned.item()


def test_a_relation_of_the_hessian_is_told_if_it_is_strong() -> None:
    judge = atari_layer_norm_judge.judge_hessian
    assert said(judge, learners(True, related=True)) == ["contradicted"]
    assert said(judge, learners(True)) == ["inconclusive"]


def test_claims_are_those_of_the_ledger() -> None:
    run = pairs(("pong",), [0.1])
    for name, judge in atari_layer_norm_judge.CLAIMS.items():
        for verdict in judge(run):
            assert verdict.claim.id == name
            assert verdict.claim.experiment == "atari_layer_norm"


def test_a_late_score_is_the_mean_over_the_last_fifth() -> None:
    run = made_up({("pong", False, 0): agent(0.0, "pong", 0.5, 1.0)})
    first = run.table[run.table.step == 0]
    table = pd.concat([first.assign(step=k, value=float(k)) for k in range(10)])
    (row,) = atari_layer_norm_judge.agents(replace(run, table=table)).to_dict("records")
    assert row["score"] == row["sharpness"] == 8.5
    np.testing.assert_allclose(row["normalised"], (8.5 + 20.7) / (14.6 + 20.7))
    assert row["learned"]
