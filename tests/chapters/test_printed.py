"""What was published, against what the tables must satisfy."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from plasticity.chapters import printed
from plasticity.worlds import atari


def test_scores_are_of_57_games_in_which_people_beat_chance() -> None:
    scores = atari.scores()
    assert list(scores) == ["game", "random", "human", "ale_id"]
    assert scores.game.nunique() == len(scores) == 57
    assert (scores.human > scores.random).all()
    camel = scores.game.str.replace("_", " ").str.title().str.replace(" ", "")
    assert (scores.ale_id == "ALE/" + camel + "-v5").all()
    pong = scores.set_index("game").loc["pong"]
    assert (pong.random, pong.human) == (-20.7, 14.6)


def test_improvements_are_the_bars_of_figure_7() -> None:
    bars = printed.atari_improvements()
    assert set(bars.game) == set(atari.scores().game)
    values = bars.improvement_percent
    assert values.is_monotonic_increasing
    assert ((values > 0).sum(), (values == 0).sum(), (values < 0).sum()) == (45, 2, 10)
    np.testing.assert_allclose([values.median(), values.mean()], [22.2, 34.7], atol=0.05)


def test_the_wheel_ships_every_table(repository: Path) -> None:
    source = repository / "src" / "plasticity"
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["plasticity"]
    for path in source.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            name = path.relative_to(source).as_posix()
            assert any(fnmatch(name, pattern) for pattern in patterns), name
