"""One update by hand in float64, the whole loop against a plain one, evaluation against replay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity import learner as learning
from plasticity.agents import double_dqn, frame_replay
from plasticity.agents.double_dqn import Agent, Learned, State
from plasticity.networks.heads import Huber
from plasticity.worlds import atari, atari_callback

KEY = jax.random.key(0)
SHORT = atari.Preprocessing(size=20, episode_frames=60, stack=2)  # episodes of 15 steps
GAMES = atari_callback.Emulators("pong", 1, SHORT)
SEED = np.array([5], np.int32)


def linear(params: Any, x: jax.Array) -> jax.Array:
    """Values that are linear in the pixels."""
    return x.reshape(len(x), -1).astype(params["w"].dtype) / 255 @ params["w"] + params["b"][None]


def drawn(actions: int, pixels: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(pixels, actions)), "b": rng.normal(size=actions)}


# One update.


def batch_of(size: int, rng: np.random.Generator) -> frame_replay.Batch:
    return frame_replay.Batch(
        jnp.asarray(rng.integers(0, 256, (size, 3, 4, 4)), jnp.uint8),
        jnp.asarray(rng.integers(0, 3, size), jnp.int32),
        jnp.asarray(rng.choice([-1.0, 0.0, 1.0], size)),
        jnp.asarray(rng.choice([0.0, 1.0], size)),
    )


@pytest.mark.usefixtures("double")
def test_updates_are_those_of_a_reference_in_double_precision() -> None:
    agent, rng = Agent(apply=linear), np.random.default_rng(0)
    params, target = (jax.tree.map(jnp.asarray, drawn(3, 32, seed)) for seed in (0, 1))
    learner = learning.start(agent.optimizer, params)
    w = {name: np.asarray(leaf) for name, leaf in params.items()}
    first = {name: np.zeros_like(leaf) for name, leaf in w.items()}
    second = {name: np.zeros_like(leaf) for name, leaf in w.items()}
    clipped = 0
    for _ in range(3):
        batch = batch_of(32, rng)
        learner, learned = double_dqn.learn(agent, learner, target, batch)
        # frames are channels: (batch, height, width, frames), then flat
        frames = np.asarray(batch.frames, np.float64).transpose(0, 2, 3, 1) / 255
        x, y = frames[..., :-1].reshape(32, -1), frames[..., 1:].reshape(32, -1)
        rows = np.arange(32)
        best = np.argmax(y @ w["w"] + w["b"], axis=1)
        bootstrap = (y @ np.asarray(target["w"]) + np.asarray(target["b"]))[rows, best]
        goal = np.asarray(batch.reward) + 0.99 * np.asarray(batch.discount) * bootstrap
        values = x @ w["w"] + w["b"]
        error = goal - values[rows, batch.action]
        # dqn_zoo: the gradient of mean(error² / 2) by each error, clipped to ± 1/32
        pull = np.clip(error / 32, -1 / 32, 1 / 32)
        clipped += np.sum(np.abs(error) > 1)
        by_value = np.zeros_like(values)
        by_value[rows, batch.action] = -pull
        gradient = {"w": x.T @ by_value, "b": by_value.sum(axis=0)}
        for name, g in gradient.items():
            first[name] = 0.95 * first[name] + 0.05 * g
            second[name] = 0.95 * second[name] + 0.05 * g**2
            spread = second[name] - first[name] ** 2 + 0.01 / 32**2
            w[name] = w[name] - 0.00025 * g / np.sqrt(spread)
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        np.testing.assert_allclose(learned.td_loss, np.mean(error**2), rtol=1e-12)
        np.testing.assert_allclose(learned.gradient_norm, norm, rtol=1e-12)
        np.testing.assert_allclose(learned.value, values.max(axis=1).mean(), rtol=1e-12)
        for name, leaf in learner.params.items():
            np.testing.assert_allclose(leaf, w[name], rtol=0, atol=1e-13)
    assert int(learner.steps) == 3
    assert 10 < clipped < 86  # errors on both sides of the bound


def test_sums_over_updates_keep_the_largest_error() -> None:
    one, two = Learned(*map(jnp.asarray, (1.0, 3.0, 3.0, 2.0, 1.0))), Learned(
        *map(jnp.asarray, (1.0, 1.0, 1.0, 5.0, 4.0))
    )  # fmt: skip
    assert [float(x) for x in one.and_then(two)] == [2, 4, 3, 7, 5]


def test_exploration_falls_on_a_line_after_the_warm_up() -> None:
    agent = Agent(
        apply=linear, warmup=100, epsilon_start=1.0, epsilon=0.1, epsilon_frames=4_000
    )  # fmt: skip
    found = [float(agent.exploration(jnp.asarray(steps))) for steps in (0, 100, 600, 1_100, 9_999)]
    np.testing.assert_allclose(found, [1.0, 1.0, 0.55, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discount": 1.0}, "discount = 1.0"),
        ({"batch_size": 0}, "batch_size = 0: must be above 0"),
        ({"epsilon": 1.5}, "epsilon = 1.5"),
        ({"learn_period": 6}, "each must be a multiple"),
        ({"target_period": 24}, "each must be a multiple"),
        ({"warmup": 200_000}, "must fit into the buffer"),
    ],
)
def test_settings_with_which_no_agent_can_learn(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Agent(apply=linear, **change)


@pytest.mark.parametrize("name", ["learning_rate", "decay", "epsilon"])
def test_numbers_with_which_nothing_moves_are_refused(name: str) -> None:
    shown = "optimizer_epsilon" if name == "epsilon" else name
    with pytest.raises(ValueError, match=rf"{shown} = 0.0.*: each must be above 0"):
        double_dqn.rmsprop(**{name: 0.0})


def test_what_is_not_said_is_as_in_dqn_zoo() -> None:
    """But for what the reference in double precision says already."""
    agent = Agent(apply=linear)
    assert agent.head == Huber(bound=1.0) and agent.double
    assert (agent.learn_period, agent.target_period, agent.warmup) == (16, 120_000, 5_000)


# The whole loop.

LOOP = Agent(
    apply=linear, optimizer=double_dqn.rmsprop(0.05), batch_size=4, learn_period=16,
    target_period=96, capacity=40, warmup=12, epsilon_start=0.8, epsilon=0.3, epsilon_frames=100,
)  # fmt: skip


@jax.jit
def begun(key: jax.Array) -> tuple[State, Any]:
    ticket, seen = GAMES.reset(jnp.asarray(SEED))
    params = jax.tree.map(jnp.float32, drawn(GAMES.actions, 20 * 20 * 2))
    return double_dqn.start(LOOP, params, key, seen, SHORT.stack), GAMES.state(ticket)


@jax.jit
def trained(state: State, emulators: Any, stretches: int) -> Any:
    """Train for stretches of two cycles."""
    ticket = GAMES.resume(emulators)
    state, ticket, learned = double_dqn.train(LOOP, GAMES, state, ticket, 32, stretches)
    return state, GAMES.state(ticket), learned


def reference(key: jax.Array, stretches: int) -> dict[str, Any]:
    """Play and learn step by step, in the order of dqn_zoo, with the emulators by hand."""
    games = atari.Environments("pong", 1, SHORT)
    seen = games.reset(SEED.tolist())
    target = jax.tree.map(jnp.float32, drawn(games.actions, 20 * 20 * 2))
    learner = learning.start(LOOP.optimizer, target)
    stack = [np.zeros((20, 20), np.uint8), seen.frame[0]]
    transitions: list[Any] = []
    total, episodes, score, steps, losses = 0.0, 0, 0.0, 0, []
    for _ in range(stretches):
        key, now = jax.random.split(key)
        explore_key, action_key, sample_key = jax.random.split(now, 3)
        explore = np.asarray(jax.random.uniform(explore_key, (2, 4))).ravel()
        random = np.asarray(jax.random.randint(action_key, (2, 4), 0, games.actions)).ravel()
        uniform = np.asarray(jax.random.uniform(sample_key, (2, 4)))
        for k in range(8):
            values = linear(learner.params, jnp.asarray(np.stack(stack, axis=-1))[None])
            epsilon = float(LOOP.exploration(jnp.asarray(steps)))
            action = int(random[k] if explore[k] < epsilon else jnp.argmax(values[0]))
            if k % 4 == 0 and len(transitions) >= LOOP.warmup:
                kept = transitions[-LOOP.capacity :]
                batch = [kept[int(u * len(kept))] for u in uniform[k // 4]]
                arrays = map(jnp.asarray, map(np.stack, zip(*batch, strict=True)))
                learner, learned = double_dqn.learn(
                    LOOP, learner, target, frame_replay.Batch(*arrays)
                )
                losses.append(float(learned.td_loss))
            seen = games.step(np.array([action]))
            steps += 1
            if seen.first[0]:
                stack = [np.zeros((20, 20), np.uint8), seen.frame[0]]
            else:
                frames = np.stack([*stack, seen.frame[0]])
                outcome = (seen.reward[0], seen.discount[0])
                transitions.append((frames, np.int32(action), *outcome))
                stack = [stack[1], seen.frame[0]]
            score += float(seen.score[0])
            if seen.last[0]:
                total, episodes, score = total + score, episodes + 1, 0.0
        if steps * 4 % LOOP.target_period == 0:
            target = learner.params
    return {
        "params": learner.params, "target": target, "losses": losses, "total": total,
        "episodes": episodes, "score": score, "state": games.state(), "steps": steps,
    }  # fmt: skip


def test_the_loop_is_that_of_dqn_zoo() -> None:
    state, emulators = begun(KEY)
    key = state.key
    state, emulators, learned = trained(state, emulators, 8)
    expected = reference(key, 8)
    assert len(expected["losses"]) == int(learned.updates) == int(state.learner.steps) > 8
    np.testing.assert_allclose(learned.td_loss, np.sum(expected["losses"]), rtol=1e-4)
    np.testing.assert_allclose(learned.td_loss_max, np.max(expected["losses"]), rtol=1e-4)
    # both were copied at 96 frames and 192, not at the end: 256
    for name, leaf in state.params.items():
        np.testing.assert_allclose(leaf, expected["params"][name], rtol=1e-4, atol=1e-5)
        copied = state.target_params[name]
        np.testing.assert_allclose(copied, expected["target"][name], rtol=1e-4, atol=1e-5)
        assert not np.allclose(copied, leaf, atol=1e-5)
    assert int(state.steps) == expected["steps"] == 64
    assert int(state.tally.episodes) == expected["episodes"] == 4
    assert float(state.tally.total) == expected["total"]
    assert float(state.tally.score) == expected["score"]
    assert all(map(np.array_equal, emulators, expected["state"]))


def test_pieces_are_the_whole_to_the_bit() -> None:
    whole = trained(*begun(KEY), 6)
    piece = trained(*begun(KEY), 2)
    atari_callback._environments.cache_clear()  # another process
    rest = trained(*piece[:2], 4)
    for a, b in zip(jax.tree.leaves(whole[:2]), jax.tree.leaves(rest[:2]), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_nothing_copies_the_replay_buffer() -> None:
    """Three quarters of a gigabyte in every cycle would take longer than learning."""
    donating = jax.jit(trained.__wrapped__, donate_argnums=(0, 1))
    text = donating.lower(*jax.eval_shape(begun, KEY), 2).compile().as_text()
    rows = begun(KEY)[0].buffer.frames.shape[0]
    frames = f"u8[{rows},1,20,20]"
    assert f"{frames}{{3,2,1,0}} fusion" in text  # it is written to in place
    assert not [line for line in text.splitlines() if f"= {frames}" in line and " copy(" in line]


def test_a_stretch_must_end_at_every_target_update() -> None:
    state, _ = begun(KEY)
    for stretch in (0, 8, 64):
        with pytest.raises(ValueError, match=f"stretch = {stretch}"):
            double_dqn.train(LOOP, GAMES, state, jnp.zeros((), jnp.int32), stretch, 1)


# Evaluation.


@pytest.mark.parametrize("action", [2, 3])
def test_an_evaluation_is_an_episode_of_each_copy(action: int) -> None:
    """A network that always prefers one action, against the emulators by hand."""
    stage = atari_callback.Emulators("pong", 2, replace(SHORT, episode_frames=300), "evaluation")
    params = {"w": jnp.zeros((800, 6)), "b": jnp.zeros(6).at[action].set(1.0)}
    play = jax.jit(lambda params: double_dqn.evaluate(LOOP, stage, params, KEY, 0.0, 2))
    found = play(params)
    games = atari.Environments("pong", 2, stage.preprocessing)
    seed_key, _ = jax.random.split(KEY)
    games.reset(jax.random.randint(seed_key, (2,), 0, 2**31 - 1).tolist())
    scores, over = np.zeros(2), np.zeros(2, bool)
    for _ in range(75):
        seen = games.step(np.full(2, action))
        scores += np.where(over, 0, seen.score)
        over |= seen.last
    assert over.all()
    np.testing.assert_array_equal(found.score, scores)
    np.testing.assert_array_equal(found.steps, [75, 75])
    assert scores.min() < 0
