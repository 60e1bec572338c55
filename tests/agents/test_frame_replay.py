"""The ring of frames against a list of transitions that hold their stacks."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from plasticity.agents import frame_replay

STACK, SIZE = 3, (2, 3)
add = jax.jit(frame_replay.add, donate_argnums=0)
sample = jax.jit(frame_replay.sample)
observe = jax.jit(frame_replay.observe)


class Reference:
    """Stacks as lists of frames, one deque a copy; transitions in a deque that forgets."""

    def __init__(self, capacity: int, n: int) -> None:
        self.stacks: list[Any] = [None] * n
        self.transitions: deque[Any] = deque(maxlen=capacity)

    def add(self, frame: Any, action: Any, reward: Any, discount: Any, first: Any) -> None:
        for i, begins in enumerate(first):
            if begins:
                self.stacks[i] = [np.zeros(SIZE, np.uint8)] * (STACK - 1) + [frame[i]]
                continue
            seen, self.stacks[i] = self.stacks[i], [*self.stacks[i][1:], frame[i]]
            self.transitions.append(
                (seen, action[i], reward[i], discount[i], self.stacks[i])  # in the order of copies
            )


def play(capacity: int, n: int, calls: int, length: float, seed: int = 0) -> Any:
    """Yield the buffer and the reference after each call, of episodes of random lengths."""
    rng = np.random.default_rng(seed)
    buffer = frame_replay.create(capacity, n, *SIZE, stack=STACK)
    reference = Reference(capacity, n)
    first = np.ones(n, bool)
    for _ in range(calls):
        item = (
            rng.integers(1, 256, (n, *SIZE), np.uint8),
            rng.integers(0, 18, n, np.int32),
            rng.normal(size=n).astype(np.float32),
            (rng.random(n) < 0.7).astype(np.float32),
            first,
        )
        buffer = add(buffer, *item)
        reference.add(*item)
        yield buffer, reference
        first = ~first & (rng.random(n) < 1 / length)


def held(buffer: frame_replay.Buffer) -> frame_replay.Batch:
    """Return everything that the buffer holds, oldest first."""
    size = int(buffer.size)
    numbers = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    # Always one shape, for one compilation.
    padded = np.zeros(buffer.capacity, np.float32)
    padded[:size] = numbers
    batch: Any = sample(buffer, padded)
    return frame_replay.Batch(*(leaf[:size] for leaf in batch))


def assert_equal(batch: frame_replay.Batch, expected: list[Any]) -> None:
    found = (batch.observation, batch.action, batch.reward, batch.discount, batch.following)
    for leaf, values in zip(found, zip(*expected, strict=True), strict=True):
        np.testing.assert_array_equal(leaf, np.array(values))


@pytest.mark.parametrize(("capacity", "n"), [(40, 1), (41, 3)])
def test_it_holds_the_last_transitions_over_ends_of_episodes_and_many_rounds(
    capacity: int, n: int
) -> None:
    # Where a few short episodes follow each other, it holds some fewer than its capacity.
    for call, (buffer, reference) in enumerate(play(capacity, n, 6 * capacity // n, 30.0)):
        stacks = np.array(reference.stacks)
        np.testing.assert_array_equal(observe(buffer), stacks)
        if reference.transitions and call % 7 == 0:
            kept = list(reference.transitions)[-int(buffer.size) :]
            assert_equal(held(buffer), kept)
            assert len(kept) >= min(len(reference.transitions), capacity - 8)
    assert int(buffer.added) > 3 * capacity


def test_long_episodes_fill_it_to_its_capacity() -> None:
    *_, (buffer, reference) = play(40, 1, 300, 40.0)
    assert int(buffer.size) == len(reference.transitions) == 40


@pytest.mark.parametrize("n", [1, 3])
def test_short_episodes_leave_room_for_fewer_but_never_for_wrong_ones(n: int) -> None:
    sizes = []
    for call, (buffer, reference) in enumerate(play(41, n, 200, 1.5)):
        if call % 5 == 4:
            kept = list(reference.transitions)[-int(buffer.size) :]
            assert_equal(held(buffer), kept)
        sizes.append(int(buffer.size))
    assert 15 < min(sizes[100:]) < max(sizes[100:]) < 41


def test_frames_from_before_the_episode_are_zero() -> None:
    buffer = frame_replay.create(8, 1, *SIZE, stack=STACK)
    frames = [np.full((1, *SIZE), k, np.uint8) for k in range(1, 6)]
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    for frame, first in zip(frames, [True, False, False, True, False], strict=True):
        action = np.array([frame.max()], np.int32)
        buffer = add(buffer, frame, action, zero, one, np.array([first]))
    batch = held(buffer)
    assert batch.action.tolist() == [2, 3, 5]
    assert batch.observation[..., 0, 0].tolist() == [[0, 0, 1], [0, 1, 2], [0, 0, 4]]
    assert batch.following[..., 0, 0].tolist() == [[0, 1, 2], [1, 2, 3], [0, 4, 5]]


def test_screens_are_the_newest_frames_in_the_order_asked_for() -> None:
    lags = jnp.array([7, 2, 0])
    calls = list(range(1, 31))  # more than there are rows
    buffer = frame_replay.create(8, 2, *SIZE, stack=STACK)
    for call in calls:
        frame = jnp.full((2, *SIZE), call, jnp.uint8).at[1].add(100)
        none = jnp.zeros(2, jnp.int32)
        first = jnp.full(2, call % 5 == 1)  # a screen may be of the episode before
        buffer = add(buffer, frame, none, none.astype(float), none.astype(float), first)
        found = frame_replay.screens(buffer, lags)
        assert found.shape == (2, 3, *SIZE) and found.dtype == np.uint8
        for lag, shown in zip(lags.tolist(), found[0], strict=True):
            assert (shown == (call - lag if call > lag else 0)).all(), (call, lag)
        np.testing.assert_array_equal(found[1], np.where(found[0] > 0, found[0] + 100, 0))


def test_samples_are_uniform_over_what_it_holds() -> None:
    *_, (buffer, _) = play(10, 1, 60, 10.0)
    numbers = jax.random.uniform(jax.random.key(0), (2_000,))
    drawn = np.asarray(sample(buffer, numbers).reward)
    everything = held(buffer).reward
    counts = [np.sum(drawn == reward) for reward in everything]
    assert sum(counts) == 2_000 and len(counts) > 5
    assert stats.chisquare(counts).pvalue > 1e-3


def test_the_largest_number_below_one_draws_the_newest() -> None:
    *_, (buffer, reference) = play(41, 3, 50, 30.0)
    batch = sample(buffer, jnp.array([0.0, 1 - 2**-24]))
    kept = list(reference.transitions)[-int(buffer.size) :]
    assert_equal(batch, [kept[0], kept[-1]])


def test_a_hundred_thousand_transitions_take_less_than_a_gibibyte() -> None:
    buffer = jax.eval_shape(partial(frame_replay.create, 100_000, 1))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(buffer))
    assert 100_000 * 84 * 84 < size < 0.76e9 < 2**30
    assert buffer.capacity == 100_000


def test_a_donated_buffer_is_updated_in_place() -> None:
    buffer = frame_replay.create(5_000, 1)
    item = (
        np.ones((1, 84, 84), np.uint8), np.zeros(1, np.int32), np.zeros(1, np.float32),
        np.ones(1, np.float32), np.array([False]),
    )  # fmt: skip
    compiled = jax.jit(frame_replay.add, donate_argnums=0).lower(buffer, *item).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    assert analysis.alias_size_in_bytes > 5_000 * 84 * 84
    assert analysis.temp_size_in_bytes < 84 * 84 * 4


def test_it_runs_inside_of_a_scan_and_in_a_batch() -> None:
    *_, (alone, _) = play(12, 1, 30, 8.0, seed=1)
    rng = np.random.default_rng(1)

    def run(shift: jax.Array) -> frame_replay.Buffer:
        buffer = frame_replay.create(12, 1, *SIZE, stack=STACK)
        return jax.lax.scan(
            lambda buffer, item: (frame_replay.add(buffer, item[0] + shift, *item[1:]), None),
            buffer, items,
        )[0]  # fmt: skip

    items, first = [], np.ones(1, bool)
    for _ in range(30):
        items.append((
            rng.integers(1, 256, (1, *SIZE), np.uint8), rng.integers(0, 18, 1, np.int32),
            rng.normal(size=1).astype(np.float32), (rng.random(1) < 0.7).astype(np.float32), first,
        ))  # fmt: skip
        first = ~first & (rng.random(1) < 1 / 8.0)
    items = jax.tree.map(lambda *x: jnp.stack(x), *items)
    several = jax.jit(jax.vmap(run))(jnp.array([0, 1], jnp.uint8))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), several, alone)
    np.testing.assert_array_equal(several.frames[1], several.frames[0] + np.uint8(1))


def test_arguments_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="stack = 0: must be above 0"):
        frame_replay.create(10, 1, stack=0)
    with pytest.raises(ValueError, match="capacity = 3: 4 environments need one each"):
        frame_replay.create(3, 4)
    with pytest.raises(ValueError, match="the buffer is empty"):
        frame_replay.sample(frame_replay.create(3, 1), jnp.zeros(1))
