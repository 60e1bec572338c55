"""The ring against a list that forgets."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plasticity.agents import replay
from plasticity.agents.replay import Buffer


class Item(NamedTuple):
    """Something of several shapes and types."""

    number: Any
    vector: Any


def item(k: int) -> Item:
    return Item(jnp.asarray(k, jnp.int32), jnp.asarray([k, 10.0 * k]))


add = jax.jit(replay.add)
sample = jax.jit(replay.sample)


def filled(capacity: int, added: int) -> Buffer:
    buffer = replay.create(capacity, item(0))
    for k in range(added):
        buffer = add(buffer, item(k))
    return buffer


def test_a_new_buffer_is_empty_and_has_the_shapes_and_types_of_its_items() -> None:
    buffer = replay.create(5, item(3))
    assert buffer.capacity == 5
    assert int(buffer.size) == 0
    assert jax.tree.map(lambda x: (x.shape, x.dtype.name), buffer.items) == (
        ((5,), "int32"), ((5, 2), "float32"),
    )  # fmt: skip


@given(st.sampled_from([1, 3, 4]), st.integers(1, 11), st.lists(st.floats(0, 1, width=32)))
@settings(deadline=None, max_examples=50)
def test_it_is_a_list_that_forgets(capacity: int, added: int, numbers: list[float]) -> None:
    buffer = filled(capacity, added)
    slots = [-1] * capacity
    for k in range(added):
        slots[k % capacity] = k
    size = min(added, capacity)
    assert int(buffer.size) == size
    assert sorted(slots[:size]) == list(range(added - size, added))
    np.testing.assert_array_equal(buffer.items.number[:size], slots[:size])
    np.testing.assert_array_equal(buffer.items.vector[:size, 1], 10 * np.array(slots[:size]))
    # Always a batch of one, the only shape that fits every capacity.
    for number in np.array([*numbers[:3], 0.0, 1 - 2**-24], np.float32):
        drawn = sample(buffer, jnp.array([number]))
        expected = slots[min(int(number * np.float32(size)), size - 1)]
        assert drawn.number.tolist() == [expected]
        assert drawn.vector.tolist() == [[expected, 10.0 * expected]]


@pytest.mark.parametrize("added", [3, 4, 7])
def test_samples_are_uniform_over_what_it_holds(added: int) -> None:
    buffer, draws = filled(4, added), 2_000
    numbers = jax.random.uniform(jax.random.key(0), (draws, 2))
    drawn = np.asarray(jax.vmap(replay.sample, (None, 0))(buffer, numbers).number)
    held = np.arange(max(added - 4, 0), added)
    # A batch is drawn with replacement: pairs are as likely as their members are together.
    counts = [np.sum((drawn == [[a, b]]).all(axis=1)) for a in held for b in held]
    assert sum(counts) == draws
    assert stats.chisquare(counts).pvalue > 1e-3


def test_it_runs_inside_of_a_scan_and_in_a_batch() -> None:
    def run(first: jax.Array) -> Buffer:
        def step(buffer: Buffer, k: jax.Array) -> tuple[Buffer, None]:
            return replay.add(buffer, Item(k, jnp.stack([k, 10 * k]).astype(jnp.float32))), None

        return jax.lax.scan(step, replay.create(4, item(0)), first + jnp.arange(6))[0]

    several = jax.jit(jax.vmap(run))(jnp.array([0, 100]))
    np.testing.assert_array_equal(several.items.number, [[4, 5, 2, 3], [104, 105, 102, 103]])
    np.testing.assert_array_equal(several.added, [6, 6])
    alone = filled(4, 6)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), several, alone)


def test_adding_does_not_change_the_buffer_that_was() -> None:
    buffer = filled(4, 2)
    replay.add(buffer, item(9))
    assert int(buffer.added) == 2
    np.testing.assert_array_equal(buffer.items.number, [0, 1, 0, 0])


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_must_be_positive(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity = {capacity}: must be above 0"):
        replay.create(capacity, item(0))


def test_a_batch_larger_than_the_buffer_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 5 from a buffer for 4"):
        replay.sample(filled(4, 9), jnp.zeros(5))


def test_an_empty_buffer_has_nothing_to_sample() -> None:
    with pytest.raises(ValueError, match="the buffer is empty"):
        replay.sample(replay.create(4, item(0)), jnp.zeros(1))
