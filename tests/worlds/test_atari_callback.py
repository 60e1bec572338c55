"""Emulators called from jitted functions against the same emulators stepped by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity.worlds import atari, atari_callback

SHORT = atari.Preprocessing(size=24, episode_frames=40)  # episodes of ten steps
GAMES = atari_callback.Emulators("pong", 2, SHORT)
SEEDS = np.array([3, 7], np.int32)
STEPS = 12


@jax.jit
def start(seeds: jax.Array) -> Any:
    ticket, seen = GAMES.reset(seeds)
    return GAMES.state(ticket), seen


@jax.jit
def play(state: atari_callback.State, actions: jax.Array) -> Any:
    """Take actions (steps, copies), the first half of them in two calls, the rest in one."""

    def in_two(ticket: Any, action: jax.Array) -> Any:
        return GAMES.receive(GAMES.send(ticket, action))

    middle = len(actions) // 2
    ticket, first = jax.lax.scan(in_two, GAMES.resume(state), actions[:middle])
    ticket, second = jax.lax.scan(GAMES.step, ticket, actions[middle:])
    seen = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), first, second)
    return GAMES.state(ticket), seen


def by_hand(seeds: np.ndarray, actions: np.ndarray) -> tuple[atari.State, list[atari.Step]]:
    games = atari.Environments("pong", len(seeds), SHORT)
    seen = [games.reset(seeds.tolist())]
    seen += [games.step(action) for action in actions]
    return games.state(), seen


def drawn(seed: int, steps: int = STEPS) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, GAMES.actions, (steps, 2), np.int32)


def same(found: Any, expected: Any) -> bool:
    return all(map(np.array_equal, found, expected))


def test_what_is_seen_and_the_state_are_those_of_play_by_hand() -> None:
    actions = drawn(0)
    state, first = start(SEEDS)
    state, seen = play(state, actions)
    expected, steps = by_hand(SEEDS, actions)
    assert same(state, expected)
    assert same(first, steps[0])
    assert same(seen, map(np.stack, zip(*steps[1:], strict=True)))
    assert np.asarray(seen.last).any()  # into the next episode


def test_play_is_a_function_of_the_state_wherever_the_emulators_are() -> None:
    begun, _ = start(SEEDS)
    state, _ = play(begun, drawn(0))
    later, seen = play(state, drawn(1))
    play(later, drawn(2))
    again, seen_again = play(state, drawn(1))
    assert same(seen, seen_again)
    assert same(later, again)
    atari_callback._environments.cache_clear()  # another process
    again, seen_again = play(state, drawn(1))
    assert same(seen, seen_again)


def test_live_emulators_that_are_there_already_are_not_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, _ = start(SEEDS)
    monkeypatch.delattr(atari.Environments, "restore")
    play(state, drawn(0))


def test_lanes_are_copies_of_their_own() -> None:
    seeds = np.array([[3, 7], [11, 3]], np.int32)
    actions = np.stack([drawn(0), drawn(1)])
    states, first = jax.vmap(start)(seeds)
    states, seen = jax.vmap(play)(states, actions)
    for lane in range(2):
        expected, steps = by_hand(seeds[lane], actions[lane])
        assert same([leaf[lane] for leaf in states], expected)
        assert same([leaf[lane] for leaf in first], steps[0])
        assert same([leaf[lane] for leaf in seen], map(np.stack, zip(*steps[1:], strict=True)))


def test_emulators_of_another_purpose_are_others() -> None:
    state, _ = start(SEEDS)
    other = atari_callback.Emulators("pong", 2, SHORT, "evaluation")
    jax.block_until_ready(jax.jit(lambda seeds: other.reset(seeds)[1])(SEEDS + 1))
    assert GAMES._live(1).is_at(atari.State(*map(np.asarray, state)))


def test_an_unknown_game_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean pong"):
        _ = atari_callback.Emulators("pang", 1, SHORT).actions
