"""What the Atari chapter's figures and tables say of a made-up run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from plasticity.chapters import printed
from plasticity.chapters.atari_layer_norm import figures as atari_layer_norm_figures
from plasticity.chapters.atari_layer_norm import words as atari_layer_norm_words
from plasticity.chapters.style import Figure
from plasticity.runs.results import Run
from plasticity.statistics import UNKNOWN, Interval

DATA = {"records": 2, "full_set": 57, "dataset": "Atari", "what": "games"}
PROVENANCE = {"study": "quick", "data": DATA, "device": {"kind": "none"}, "seeds": [0, 1]}
GAMES = ("freeway", "pong")
SEEDS = (3, 5)


def arm(game: str, norm: bool) -> str:
    return f"{game}-layer_norm" if norm else game


@pytest.fixture(scope="module")
def run() -> Run:
    """Two games, two variants, two seeds, three measurements; C_k has two blocks, out of order."""
    rng = np.random.default_rng(0)
    rows, arrays = [], {}
    blocks = np.arange(8) % 2
    for game in GAMES:
        for norm in (False, True):
            for seed in SEEDS:
                for step in (0, 1_000, 2_000_000):
                    found = {"score": step * (1 + norm), "collinearity": 0.5}
                    found["training_score"] = -step if step else np.nan  # no episode has ended yet
                    for metric, value in found.items():
                        rows.append((arm(game, norm), game, norm, seed, step, metric, value))
            cosines = np.where(blocks[:, None] == blocks[None], 1, -0.5)
            arrays[f"cosines/{arm(game, norm)}"] = np.tile(cosines, (2, 2, 1, 1)).astype(np.float16)
            nodes = np.sort(rng.uniform(-1, 1, (2, 3, 1, 5)))
            nodes[..., -1] = 50.0 if norm else 4.0
            arrays[f"nodes/{arm(game, norm)}"] = nodes
            arrays[f"weights/{arm(game, norm)}"] = np.full((2, 3, 1, 5), 0.2)
            screens = rng.integers(0, 256, (2, 1, 4, 6, 6), np.uint8)
            arrays[f"screens/{arm(game, norm)}"] = screens
    columns = ["arm", "game", "layer_norm", "seed", "step", "metric", "value"]
    return Run("atari_layer_norm", "quick", pd.DataFrame(rows, columns=columns), arrays, PROVENANCE)


def agents() -> pd.DataFrame:
    return pd.DataFrame(
        [(game, norm, seed, 10.0 * seed) for game in GAMES for norm in (False, True)
         for seed in SEEDS],
        columns=["game", "layer_norm", "seed", "score"],
    )  # fmt: skip


def written(figure: Figure) -> str:
    """Return all texts of a figure."""
    figure.draw_without_rendering()
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    for axes in figure.axes:
        texts += [axes.get_title("left"), axes.get_xlabel(), axes.get_ylabel()]
        texts += [label.get_text() for label in axes.get_xticklabels() + axes.get_yticklabels()]
        legend = axes.get_legend()
        texts += [text.get_text() for text in legend.get_texts()] if legend else []
    return "\n".join(texts)


def test_screens_are_those_of_the_first_seed_in_the_order_of_time(run: Run) -> None:
    figure = atari_layer_norm_figures.screens(run)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert len(shown) == 4 * 4
    for k, name in enumerate(run.table.arm.unique()):
        for picture, expected in zip(
            shown[4 * k : 4 * k + 4], run.arrays[f"screens/{name}"][0, 0], strict=True
        ):
            np.testing.assert_array_equal(picture, expected)
    assert "freeway, without layer normalisation" in written(figure)


def test_every_bar_of_the_paper_and_ours_at_their_games() -> None:
    bars = printed.atari_improvements()
    ours = pd.DataFrame({"game": ["freeway", "pong"], "improvement": [0.25, np.nan]})
    run = Run("atari_layer_norm", "quick", pd.DataFrame(), {}, PROVENANCE)
    (axes,) = atari_layer_norm_figures.improvements(run, ours, bars).axes
    np.testing.assert_array_equal(
        [patch.get_width() for patch in axes.patches], bars.improvement_percent
    )
    points = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "D"
              and len(line.get_xydata())]  # fmt: skip
    assert len(points) == 1, "a game without a number has no mark"
    row = list(bars.game).index("freeway")
    np.testing.assert_allclose(points[0], (25.0, row))
    assert axes.get_yticklabels()[row].get_text() == "freeway"


def test_curves_have_a_column_a_game_and_a_line_a_variant(run: Run) -> None:
    figure = atari_layer_norm_figures.curves(run)
    assert len(figure.axes) == 6
    top, learning = figure.axes[0], figure.axes[2]
    assert learning.get_ylim() == (-2_199_900, 199_900 - 1_000), "what is missing sets no limits"
    means = [line.get_ydata() for line in top.lines if line.get_marker() in ("o", "s")]
    np.testing.assert_array_equal(means, [[0, 1_000, 2_000_000], [0, 2_000, 4_000_000]])
    assert top.get_ylim() == (-400_000, 4_400_000), "of agents, not of intervals"
    words = written(figure)
    for said in ("score in evaluation", "score while learning", "mean |cosine|", "2 M"):
        assert said in words


def test_covariances_stand_in_blocks_with_their_scores(run: Run) -> None:
    figure = atari_layer_norm_figures.covariances(run, agents(), "freeway")
    maps = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(maps) == 4
    for shown in maps:
        same = np.asarray(shown) == 1
        assert same[:4, :4].all() and same[4:, 4:].all() and not same[:4, 4:].any()
    words = written(figure)
    assert "seed 3: score 30" in words and "seed 5: score 50" in words


def test_relations_have_a_mark_an_agent_and_a_line_a_pair(run: Run) -> None:
    table = agents().assign(normalised=0.5, collinearity=0.3, sharpness=[2.0, 4, 8, 16] * 2)
    collinear, sharp = atari_layer_norm_figures.relations(run, table).axes
    for axes, metric in ((collinear, "collinearity"), (sharp, "sharpness")):
        marks = {
            line.get_marker(): line.get_ydata() for line in axes.lines if line.get_marker() in "so"
        }
        for norm, marker in ((False, "s"), (True, "o")):
            np.testing.assert_array_equal(marks[marker], table[metric][table.layer_norm == norm])
        pairs = [line.get_ydata() for line in axes.lines if line.get_marker() == "None"]
        assert len(pairs) == 4
    np.testing.assert_array_equal(pairs, [[2, 8], [4, 16]] * 2)
    assert sharp.get_yscale() == "log" and collinear.get_ylim()[0] == 0


def test_spectra_have_the_largest_eigenvalue_as_their_unit(run: Run) -> None:
    figure = atari_layer_norm_figures.spectra(run, "pong")
    without, with_norm = figure.axes
    for axes in figure.axes:
        assert len(axes.lines) == 2
        for line in axes.lines:
            x, y = line.get_data()
            peaks = x[1:-1][(y[1:-1] > y[:-2]) & (y[1:-1] > y[2:])]
            assert np.abs(peaks - 1).min() < 0.01
    assert "seed 3: largest 4" in written(figure)
    assert with_norm.get_legend().get_texts()[0].get_text() == "seed 3: largest 50"
    assert without.get_title("left") == "without layer normalisation"


def test_tables_in_words() -> None:
    table = atari_layer_norm_words.improvement_table(
        pd.DataFrame(
            {
                "game": ["space_invaders", "pong"],
                "without": [Interval(1_234.5, 1_000.0, 1_500.0, 3), UNKNOWN._replace(estimate=-20)],
                "with_norm": [Interval(2_000.0, 1_900.0, 2_100.0, 3), UNKNOWN],
                "improvement": [0.126, np.nan],
                "paper": [1.0, -0.03],
            }
        )
    )
    assert table.iloc[0].tolist() == [
        "space invaders", "1,234.5 [1,000.0, 1,500.0]", "2,000.0 [1,900.0, 2,100.0]", "+12.6 %",
        "+100.0 %",
    ]  # fmt: skip
    assert table.iloc[1].tolist()[1::2] == ["-20.0", "–"] and table.iloc[1, 4] == "-3.0 %"
    rows = agents().assign(
        normalised=-0.001, learned=[True, False] * 4, collinearity=0.456, sharpness=12.3456,
        td_loss=0.0123,
    )  # fmt: skip
    first = atari_layer_norm_words.agent_table(rows).iloc[0].tolist()
    assert first == ["freeway", "without", 3, "30.0", "0.00", "yes", "0.46", "12.3", "0.012"]
    said = atari_layer_norm_words.games_needed(
        {"more improve": 20, "more than 60 % improve": 39}, 1
    )
    assert "20 to see that more improve and 39 to see" in said and "played 1." in said


def test_days_on_a_device_are_those_of_its_fastest_layout() -> None:
    rates = pd.DataFrame(
        {"processes": [1, 4, 4], "agents": [1, 16, 16], "frames_per_second": [1e3, 2e4, 3e4]}
    )
    machine = {"device": {"kind": "some GPU", "cores": 16}}
    frames = 86_400 * 25_000  # a day of it
    assert atari_layer_norm_words.days_on_device(rates, machine, frames, agents=3) == (
        "On one some GPU with 16 cores, where agents play and learn from 25,000 frames a second in "
        "all at best, 3 agents of 2,160,000,000 frames would take 3 days, measurements left out."
    )
