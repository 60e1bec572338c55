"""Frames and rewards against gymnasium's own wrappers; checkpoints against unbroken play."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from functools import lru_cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import ale_py
import gymnasium
import jax
import numpy as np
import pytest
from ale_py import vector_env
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from scipy import sparse, stats

from plasticity.agents import frame_replay
from plasticity.worlds import atari

HAS_OPENCV = importlib.util.find_spec("cv2") is not None
add = jax.jit(frame_replay.add, donate_argnums=0)
SHORT = atari.Preprocessing(episode_frames=80)  # episodes of 20 steps


class Emulator(vector_env.AtariVectorEnv):
    """ALE's, remembering how many frames passed in the episode: after a reset, the no-ops."""

    frames: dict[int, int] = {}  # noqa: RUF012

    def reset(self, **arguments: Any) -> Any:
        result: Any = super().reset(**arguments)
        self.frames[id(self)] = int(result[-1]["episode_frame_number"][0])
        return result

    def recv(self) -> Any:
        result = super().recv()
        self.frames[id(self)] = int(result[-1]["episode_frame_number"][0])
        return result


@pytest.fixture
def frames_passed(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    monkeypatch.setattr(vector_env, "AtariVectorEnv", Emulator)
    Emulator.frames.clear()
    return Emulator.frames


@lru_cache
def overlaps(source: int, target: int) -> sparse.csr_array:
    """How much of each of ``source`` pixels lies in each of ``target`` longer ones, as weights."""
    ends, pixels = np.linspace(0, source, target + 1), np.arange(source)
    shared = np.minimum(ends[1:, None], pixels + 1) - np.maximum(ends[:-1, None], pixels)
    return sparse.csr_array(np.maximum(shared, 0) * target / source)


def by_area(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """Interpolation by area from its definition: the mean over what a pixel covers."""
    (height, width), (new_width, new_height) = image.shape, size
    columns = overlaps(width, new_width) @ image.T
    return np.rint(overlaps(height, new_height) @ columns.T)


@pytest.fixture
def opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV for gymnasium's wrapper, or as much of it as it takes."""
    if not HAS_OPENCV:
        monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(INTER_AREA=3, resize=by_area))


def by_gymnasium(ale_id: str) -> Any:
    gymnasium.register_envs(ale_py)
    emulator = gymnasium.make(
        ale_id, frameskip=1, repeat_action_probability=0.0, disable_env_checker=True
    )
    return FrameStackObservation(AtariPreprocessing(emulator), 4, padding_type="zero")


def begin(env: Any, no_ops: int) -> np.ndarray:
    """Reset gymnasium's environment so that it takes that many no-ops."""
    env.unwrapped.np_random = SimpleNamespace(integers=lambda low, high: no_ops)
    observation, _ = env.reset()
    return np.asarray(observation)


@pytest.mark.parametrize("game", ["pong", "breakout", "freeway", "seaquest"])
def test_frames_rewards_and_ends_are_gymnasiums(
    game: str, frames_passed: dict[int, int], opencv: None
) -> None:
    scores = atari.scores().set_index("game")
    reference = by_gymnasium(str(scores.ale_id[game]))
    games = atari.Environments(game, 1)
    assert games.actions == reference.action_space.n
    buffer = frame_replay.create(1, 1)
    rng = np.random.default_rng(0)
    seen, action, differing, ends = games.reset([1]), np.zeros(1, np.int64), 0, 0
    lives = 0
    for _ in range(300):
        item = (seen.frame, action.astype(np.int32), seen.reward, seen.discount, seen.first)
        buffer = add(buffer, *item)
        if seen.first[0]:
            (no_ops,) = frames_passed.values()
            assert 1 <= no_ops <= 30
            expected = begin(reference, no_ops)
        else:
            expected, reward, terminated, truncated, info = reference.step(int(action[0]))
            assert seen.score[0] == reward
            assert seen.reward[0] == np.sign(reward)
            assert seen.last[0] == terminated and not truncated
            assert seen.discount[0] == (not terminated and info["lives"] >= lives)
            ends += terminated
        lives = reference.unwrapped.ale.lives()
        # A final frame is a leftover where the game ended among the skipped ones.
        if not seen.last[0]:
            apart = np.abs(frame_replay.observe(buffer)[0].astype(int) - expected)
            assert apart.max() <= (0 if HAS_OPENCV else 1)  # OpenCV rounds sums of float32
            differing += np.count_nonzero(apart[-1])
        action = rng.integers(0, games.actions, 1)
        seen = games.step(action)
    assert differing < 300 * 84 * 84 * 0.001
    assert ends >= (game == "breakout")


def test_no_ops_are_uniform_from_one_to_thirty(frames_passed: dict[int, int]) -> None:
    games = atari.Environments("pong", 1, atari.Preprocessing(episode_frames=4))
    counts = np.zeros(32, int)
    seen = games.reset([0])
    for _ in range(300):
        if seen.first[0]:
            counts[list(frames_passed.values())] += 1
        seen = games.step([0])
    assert counts.sum() == 150
    assert counts[0] == counts[31] == 0 < min(counts[1], counts[30])
    assert stats.chisquare(counts[1:31]).pvalue > 1e-3


def test_without_no_ops_an_episode_starts_at_once(frames_passed: dict[int, int]) -> None:
    atari.Environments("pong", 1, atari.Preprocessing(no_ops=0)).reset([0])
    assert list(frames_passed.values()) == [0]


@pytest.mark.slow
def test_all_57_games_step() -> None:
    rng = np.random.default_rng(0)
    assert len(atari.GAMES) == 57
    for game in atari.GAMES:
        games = atari.Environments(game, 1)
        assert 3 <= games.actions <= 18
        seen = games.reset([0])
        assert seen.first.tolist() == [True]
        frames = [seen.frame]
        for _ in range(8):
            seen = games.step(rng.integers(0, games.actions, 1))
            frames.append(seen.frame)
            assert seen.frame.shape == (1, 84, 84) and seen.frame.dtype == np.uint8
        assert len(np.unique(np.array(frames))) > 2, f"{game} shows nothing"


def play(games: atari.Environments, calls: int, seed: int = 0) -> list[atari.Step]:
    rng = np.random.default_rng(seed)
    n = len(games.state().seed)
    choices = rng.integers(0, games.actions, (calls, 8))
    return [games.step(chosen[:n]) for chosen in choices]


def assert_same(first: list[atari.Step], second: list[atari.Step]) -> None:
    for a, b in zip(first, second, strict=True):
        for left, right in zip(a, b, strict=True):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)


def test_every_step_has_the_same_shapes_and_a_first_frame_follows_a_last() -> None:
    games = atari.Environments("breakout", 2, SHORT)
    steps = [games.reset([0, 1]), *play(games, 50)]
    kinds = {tuple((leaf.shape, leaf.dtype.name) for leaf in step) for step in steps}
    assert kinds == {(
        ((2, 84, 84), "uint8"), ((2,), "int32"), ((2,), "float32"), ((2,), "float32"),
        ((2,), "bool"), ((2,), "bool"),
    )}  # fmt: skip
    for before, after in pairwise(steps):
        np.testing.assert_array_equal(before.last, after.first)
    first = np.array([step.first[0] for step in steps])
    assert np.flatnonzero(first).tolist() == [0, 21, 42]


def test_truncation_leaves_a_future_and_a_lost_life_none() -> None:
    # In Breakout five balls are lost within these steps if nobody moves after the serve.
    def run(**choices: Any) -> Any:
        games = atari.Environments("breakout", 1, atari.Preprocessing(**choices))
        games.reset([0])
        steps = [games.step([1]) for _ in range(150)]
        return np.array([(s.discount[0], s.last[0]) for s in steps])

    discount, last = run().T
    (end,) = np.flatnonzero(last)
    assert discount[end] == 0 and np.sum(discount[: end + 1] == 0) == 5
    discount, last = run(life_loss_zeroes_discount=False).T
    np.testing.assert_array_equal(discount == 0, last == 1)
    assert np.flatnonzero(last).tolist() == [end]
    discount, last = run(episode_frames=40).T
    assert last.sum() > 10 and discount.all()


def test_rewards_are_clipped_and_scores_are_not() -> None:
    games = atari.Environments("space_invaders", 1, atari.Preprocessing(reward_bound=2.0))
    games.reset([0])
    steps = play(games, 150)
    score = np.array([step.score[0] for step in steps])
    reward = np.array([step.reward[0] for step in steps])
    assert score.max() > 2
    np.testing.assert_array_equal(reward, np.minimum(score, 2))


def test_same_seed_same_frames_whatever_is_beside_it_and_another_seed_others() -> None:
    both, alone = (atari.Environments("breakout", n, SHORT) for n in (2, 1))
    two, one = [both.reset([4, 7])], [alone.reset([7])]
    rng = np.random.default_rng(0)
    for actions in rng.integers(0, 4, (60, 2)):
        two.append(both.step(actions))
        one.append(alone.step(actions[1:]))
    assert_same([atari.Step(*(leaf[1:] for leaf in step)) for step in two], one)
    assert any((step.frame[0] != step.frame[1]).any() for step in two)
    assert_same([alone.reset([7])], one[:1])


@pytest.mark.parametrize(("sticky", "at"), [(0.0, 0), (0.0, 20), (0.25, 21), (0.25, 70)])
def test_restored_it_plays_on_with_the_same_bits(
    sticky: float, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atari, "SEEDED", 30)  # so that it is seeded more than once
    choices = atari.Preprocessing(episode_frames=80, sticky=sticky)
    unbroken = atari.Environments("breakout", 2, choices)
    unbroken.reset([3, 9])
    steps = play(unbroken, at)
    state = unbroken.state()
    assert state.seeded.tolist() == ([2, 2] if at == 70 else [1, 1])
    resumed = atari.Environments("breakout", 2, choices)
    now = resumed.restore(state)
    if steps:
        assert_same([now], steps[-1:])
    assert_same(play(resumed, 60, seed=1), play(unbroken, 60, seed=1))
    for mine, theirs in zip(resumed.state(), unbroken.state(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_sticky_actions_change_what_happens() -> None:
    frames = []
    for sticky in (0.0, 0.25):
        games = atari.Environments("breakout", 1, atari.Preprocessing(sticky=sticky, no_ops=0))
        games.reset([0])
        frames.append(np.array([step.frame for step in play(games, 40)]))
    assert (frames[0] != frames[1]).any()


def test_the_state_has_room_for_the_longest_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atari, "SEEDED", 22)
    games = atari.Environments("pong", 1, SHORT)
    games.reset([0])
    longest = 0
    for _ in range(90):
        games.step([0])
        longest = max(longest, int(games.state().calls[0]))
    # Not over at 22 calls, so a whole episode and its first frame come on top.
    assert longest == 41 <= games.state().actions.shape[1] == 43
    default = atari.most_calls(atari.Preprocessing())
    assert default == 22 + 27_000 + 1


def test_unknown_games_are_answered_with_near_ones() -> None:
    with pytest.raises(ValueError, match="did you mean ms_pacman"):
        atari.Environments("Ms Pacman", 1)
    with pytest.raises(ValueError, match="did you mean pong"):
        atari.Environments("Pong", 1)
    assert not difflib.get_close_matches("chess", atari.GAMES)
    with pytest.raises(
        ValueError, match=r"none of the 57 games: see plasticity\.worlds\.atari\.GAMES"
    ):
        atari.Environments("chess", 1)


def test_without_ale_py_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install plasticity-companion\[atari\]"):
        atari.Environments("pong", 1)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"frame_skip": 0}, "frame_skip = 0: must be above 0"),
        ({"no_ops": -1}, "no_ops = -1: must not be negative"),
        ({"sticky": 1.0}, r"sticky = 1.0: must lie in \[0, 1\)"),
    ],
)
def test_settings_that_cannot_be(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        atari.Preprocessing(**choices)


def test_calls_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="n = 0: must be above 0"):
        atari.Environments("pong", 0)
    games = atari.Environments("pong", 2)
    for call in (lambda: games.step([0, 0]), games.state):
        with pytest.raises(RuntimeError, match="call reset, or restore"):
            call()
    for seeds in ([0], [0, -1]):
        with pytest.raises(ValueError, match="need 2, none negative"):
            games.reset(seeds)
    games.reset([0, 1])
    for actions in ([0], [0, 6], [-1, 0], [0.0, 1.0]):
        with pytest.raises(ValueError, match="need 2 integers from 0 to 5"):
            games.step(actions)
    with pytest.raises(ValueError, match="was it another configuration's"):
        atari.Environments("pong", 2, SHORT).restore(games.state())


def test_full_action_set() -> None:
    assert atari.Environments("pong", 1, atari.Preprocessing(full_actions=True)).actions == 18
