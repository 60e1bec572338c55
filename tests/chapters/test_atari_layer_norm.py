"""Settings, an agent's life at toy size, measurements against slow ones."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hurried import apart, compiled

from plasticity import configuration
from plasticity.agents import atari_agent, atari_task, dqn, frame_replay
from plasticity.agents.settings import CentredRMSProp, GameDQN
from plasticity.chapters import printed
from plasticity.chapters.atari_layer_norm import EXPERIMENT
from plasticity.chapters.atari_layer_norm import judge as judging
from plasticity.chapters.atari_layer_norm import run as experiment
from plasticity.chapters.atari_layer_norm.run import Config, State
from plasticity.measure import gradients
from plasticity.networks.settings import NatureCNN
from plasticity.runs import checkpoints, driver, plan, results
from plasticity.worlds import atari, atari_callback
from plasticity.worlds.image_files import DataError

TINY = Config(
    games=("pong",), game="pong",
    preprocessing=atari.Preprocessing(size=36, stack=2, episode_frames=80),
    optimizer=CentredRMSProp(learning_rate=0.001),
    algorithm=GameDQN(
        learn_period=16, target_period=64, batch_size=8, capacity=60, warmup=24, epsilon_frames=100
    ),
    frames=128, chunk_frames=64, evaluation_episodes=2, covariance_examples=6, examples=4, order=3,
    seeds=1,
)  # fmt: skip
KEY = jax.random.key(0)
Life = list[tuple[State, dict[str, np.ndarray]]]

start, advance = apart(experiment.start), apart(experiment.advance)


@pytest.fixture(scope="module")
def life() -> Life:
    """The state after each of a tiny agent's chunks, and what was measured."""
    state, found = start(TINY, (), KEY), []
    for chunk in range(experiment.chunks(TINY)):
        state, record = advance(TINY, (), state, chunk)
        found.append((state, jax.device_get(record)))
    return found


# Arms and settings.


def test_there_is_a_pair_of_arms_for_each_of_the_57_games() -> None:
    arms = experiment.arms(experiment.STUDIES["paper"])
    assert len(arms) == 2 * 57
    for game in atari.GAMES:
        assert arms[game] == {"game": game, "network.layer_norm": False}
        assert arms[f"{game}-layer_norm"] == {"game": game, "network.layer_norm": True}
    assert not any(mark in name for name in arms for mark in ",=")


def test_the_paper_study_is_the_papers() -> None:
    config = experiment.STUDIES["paper"]
    assert (config.frames, config.seeds, len(config.games)) == (200_000_000, 3, 57)
    assert (config.algorithm.capacity, config.algorithm.epsilon) == (100_000, 0.1)
    assert config.algorithm.learn_period == 4 * config.preprocessing.frame_skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"game": "pang"}, "game = 'pang': choose from alien"),
        ({"games": ("pang",)}, "games: 'pang' is none of"),
        ({"games": ()}, "games: needs at least one"),
        ({"preprocessing.size": 30}, "size = 30: the network needs 36 pixels"),
        ({"algorithm.warmup": 7}, "batch_size = 8, warmup = 7"),
        ({"frames": 100}, "frames = 100: must be a multiple of chunk_frames = 64"),
        ({"chunk_frames": 40, "frames": 40}, "chunk_frames = 40: must be a multiple"),
        ({"evaluation_epsilon": -0.1}, "evaluation_epsilon"),
        ({"seeds": 0}, "seeds = 0"),
    ],
)
def test_settings_that_cannot_run_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(configuration.ConfigError, match=message):
        configuration.replaced(TINY, change)


def test_without_ale_py_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(DataError, match=r"pip install plasticity-companion\[atari\]"):
        experiment.load(TINY)


def test_operations_are_counted_from_kernels() -> None:
    # 400, 81 and 49 positions of kernels of 256 x 32, 512 x 64, 576 x 64; 3136 x 512 weights
    expected = 400 * 8192 + 81 * 32768 + 49 * 36864 + 3136 * 512
    assert NatureCNN().multiplications(size=84, stack=4) == expected
    short = experiment.STUDIES["laptop"]
    longer = replace(short, frames=2 * short.frames)
    ratio = experiment.flops(longer) / experiment.flops(short)
    assert 1.9 < ratio < 2  # but for the warm-up and the first measurement


@pytest.mark.parametrize("study", experiment.STUDIES)
def test_a_sample_is_the_same_agent_in_short_chunks(study: str) -> None:
    config = experiment.STUDIES[study]
    sample = experiment.sample(config)
    assert sample.chunk_frames == 4_096
    for path in (
        "games", "network", "optimizer", "preprocessing.size", "preprocessing.stack",
        "preprocessing.frame_skip", "algorithm.batch_size", "algorithm.capacity",
        "algorithm.learn_period",
    ):  # fmt: skip
        assert attrgetter(path)(sample) == attrgetter(path)(config)
    needed = experiment.figures(config)
    assert needed["Fig. 7"] == (list(experiment.arms(config)), config.seeds)
    assert needed["Figs. 21, 22"][1] == 1


# The agent's life.


def test_the_first_chunk_looks_at_a_full_buffer_and_learns_nothing(life: Life) -> None:
    begun = start(TINY, (), KEY)
    state, record = life[0]
    assert record["updates"] == 0 and np.isnan(record["td_loss"]) and record["epsilon"] == 1
    assert int(state.agent.learner.steps) == 0
    warmup = TINY.algorithm.warmup
    assert warmup - 2 <= int(state.agent.experience.buffer.size) <= warmup  # two episodes begin
    for a, b in zip(
        jax.tree.leaves(begun.agent.params), jax.tree.leaves(state.agent.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_later_chunks_learn_and_copy_the_target(life: Life) -> None:
    for (state, record), (before, _) in zip(life[1:], life[:-1], strict=True):
        assert record["updates"] == 4
        assert record["td_loss"] > 0 and record["td_loss_max"] >= record["td_loss"]
        assert int(state.agent.learner.steps) - int(before.agent.learner.steps) == 4
        calls = state.agent.experience.buffer.calls - before.agent.experience.buffer.calls
        assert int(calls) == 16
        assert record["gradient_norm"] > 0 and record["score"] <= 0
        changed = jax.tree.map(
            lambda a, b: bool((a != b).any()), state.agent.params, before.agent.params
        )
        assert all(jax.tree.leaves(changed))
        for name in ("params", "target_params"):  # copied every 64 frames: at each measurement
            copied = jax.tree.leaves(getattr(state.agent, name))
            assert all(map(np.array_equal, copied, jax.tree.leaves(state.agent.params)))
    assert np.isclose(life[-1][1]["epsilon"], 0.1)  # 100 frames of exploration are over


def test_c_k_is_that_of_gradients_one_by_one(life: Life) -> None:
    state, record = life[-1]
    learner = atari_agent.agent(TINY, 6)
    _, look_key = jax.random.split(jax.random.fold_in(state.measure_key, 2))
    pick_key, _ = jax.random.split(look_key)

    def slowly(agent: dqn.State) -> gradients.Covariance:
        batch = frame_replay.sample(agent.experience.buffer, jax.random.uniform(pick_key, (6,)))
        now, then = map(atari_task.frames_last, (batch.observation, batch.following))
        best = learner.apply(agent.params, then).argmax(axis=1)
        ahead = learner.apply(agent.target_params, then)[jnp.arange(6), best]
        goals = batch.reward + TINY.algorithm.discount * batch.discount * ahead
        each = (now, batch.action, goals)

        def loss(params: Any, example: Any) -> jax.Array:
            x, action, goal = example
            error = goal - learner.apply(params, x[None])[0, action]
            return jnp.where(jnp.abs(error) <= 1, error**2 / 2, jnp.abs(error) - 0.5)

        gram = gradients.naive_gram(loss, agent.params, each)
        return gradients.covariance(gram)

    found = compiled(slowly)(state.agent)
    np.testing.assert_allclose(record["cosines"], found.cosines, atol=2e-3)  # stored in halves
    summary = gradients.summary(found)
    np.testing.assert_allclose(record["collinearity"], summary.collinearity, rtol=1e-3)


def test_the_spectrum_is_of_lanczos(life: Life) -> None:
    for _, record in life:
        assert record["nodes"].shape == (1, 3)
        np.testing.assert_allclose(record["weights"].sum(), 1, rtol=1e-5)
        assert record["sharpness"] == record["nodes"].max()
        assert record["smallest"] == record["nodes"].min()


def test_the_table_and_the_arrays(life: Life) -> None:
    record = {name: np.stack([r[name] for _, r in life]) for name in life[0][1]}
    table, arrays = experiment.summarize(
        TINY, {("pong", 0): record, ("pong-layer_norm", 0): record}
    )
    assert set(table.arm) == {"pong", "pong-layer_norm"}
    assert sorted(table.step.unique()) == [96, 160, 224]
    rows = table[(table.arm == "pong-layer_norm") & (table.metric == "score")]
    assert rows.layer_norm.all() and (rows.game == "pong").all()
    np.testing.assert_array_equal(rows.value, record["score"])
    assert arrays["cosines/pong"].shape == (1, 2, 6, 6)
    assert arrays["nodes/pong"].shape == (1, 3, 1, 3)
    assert arrays["screens/pong"].shape == (1, 1, len(experiment.SCREENS), 36, 36)
    np.testing.assert_array_equal(arrays["screens/pong"][0, 0], record["screens"][-1])
    provenance = {"study": "quick", "config": configuration.to_dict(TINY)}
    run = results.Run("atari_layer_norm", "quick", table, arrays, provenance)
    found = [verdict for judge in judging.CLAIMS.values() for verdict in judge(run)]
    assert [verdict.part for verdict in found] == ["", "no overlap", "on average", ""]
    assert {verdict.status for verdict in found} <= {"inconclusive", "empty"}


def test_the_screens_are_what_the_agent_saw_last(life: Life) -> None:
    state, record = life[-1]
    seen = frame_replay.observe(state.agent.experience.buffer)[0]  # (stack, height, width)
    np.testing.assert_array_equal(record["screens"][-1], seen[-1])
    # 57 frames were seen: of 80 and 64 steps ago there is nothing
    assert not record["screens"][:2].any() and record["screens"][2:].any(axis=(1, 2)).all()


@pytest.mark.slow
def test_killed_and_resumed_a_run_gives_the_bits_of_an_unbroken_one(runs: Path) -> None:
    """By the driver, through orbax, with emulators that have to be played back."""
    one = replace(EXPERIMENT, arms=lambda config: {"pong": experiment.arms(config)["pong"]})
    whole = driver.run(one, TINY, "quick", workers=0)
    ticks = iter(range(2))  # nothing, and the first chunk

    def stop_after(*arguments: object, **options: object) -> None:
        if next(ticks, None) is None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tqdm.std.tqdm.update", stop_after)
        with pytest.raises(KeyboardInterrupt):
            driver.run(one, TINY, "quick", workers=0, reuse=False, checkpoint_seconds=0.0)
    (work,) = runs.glob("atari_layer_norm/*/unfinished")
    (unit,) = plan.units_of(one, TINY, batched=False)
    assert 1 <= checkpoints.UnitFolder(work, *unit).chunks_done() < 3
    atari_callback._environments.cache_clear()
    again = driver.run(one, TINY, "quick", workers=0, reuse=False, checkpoint_seconds=0.0)
    pd.testing.assert_frame_equal(again.table, whole.table, check_exact=True)
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    assert "1 of 57 games (Atari)" in again.describe()


COMMITTED = [run for run in results.recorded("atari_layer_norm") if run.study != "quick"]


def test_the_analogue_plays_the_middle_of_every_three_bars() -> None:
    (run,) = (run for run in COMMITTED if run.label == "laptop_19_games")
    assert configuration.from_dict(Config, run.config) == EXPERIMENT.studies[run.study]
    assert run.config["games"] == list(printed.atari_improvements().game[1::3])
    small = {
        "games": tuple(run.config["games"]), "preprocessing.size": 44, "seeds": 1,
        "preprocessing.episode_frames": 18_000, "frames": 64_000, "evaluation_episodes": 4,
    }  # fmt: skip
    expected = configuration.replaced(experiment.STUDIES["laptop"], small)
    assert run.config == configuration.to_dict(expected)
