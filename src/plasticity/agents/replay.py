"""A replay buffer as a ring of pure functions.

It stores any pytree of fixed shapes. The agents store observations as indices of images, 16 bytes
per transition, so that a hundred agents with their buffers fit on one device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from plasticity.shapes import Array, Float, Int


class Buffer(NamedTuple):
    """The last ``capacity`` items, oldest overwritten first."""

    items: Any  # each leaf with a leading axis (capacity, ...)
    added: Int[Array, ""]  # how many were ever added

    @property
    def capacity(self) -> int:
        """How many items fit."""
        return int(jax.tree.leaves(self.items)[0].shape[0])

    @property
    def size(self) -> Int[Array, ""]:
        """How many items it holds."""
        return jnp.minimum(self.added, self.capacity)


def create(capacity: int, item: Any) -> Buffer:
    """Return an empty buffer for items of the shapes and types of ``item``.

    Raises ValueError unless the capacity is positive.

    >>> from plasticity.agents import replay
    >>> buffer = replay.create(100, {"observation": 0, "reward": 0.0})
    >>> buffer.capacity, int(buffer.size)
    (100, 0)
    """
    if capacity < 1:
        raise ValueError(f"capacity = {capacity}: must be above 0")
    items = jax.tree.map(lambda x: jnp.zeros((capacity, *jnp.shape(x)), jnp.result_type(x)), item)
    return Buffer(items, jnp.zeros((), jnp.int32))


def add(buffer: Buffer, item: Any) -> Buffer:
    """Return the buffer with ``item`` added, in place of the oldest item if it is full.

    >>> from plasticity.agents import replay
    >>> buffer = replay.create(2, {"reward": 0.0})
    >>> for reward in (1.0, 2.0, 3.0):
    ...     buffer = replay.add(buffer, {"reward": reward})
    >>> buffer.items["reward"].tolist(), int(buffer.size)
    ([3.0, 2.0], 2)
    """
    slot = buffer.added % buffer.capacity
    items = jax.tree.map(lambda leaf, x: leaf.at[slot].set(x), buffer.items, item)
    return Buffer(items, buffer.added + 1)


def sample(buffer: Buffer, uniform: Float[Array, " batch"]) -> Any:
    """Return a batch, drawn with replacement by numbers in [0, 1).

    Taking numbers and not a key lets a training loop draw them for many steps at once.

    Raises ValueError for a batch larger than the buffer's capacity and, outside jit, for an empty
    buffer. Inside jit the size is unknown: the caller must not sample from an empty one.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import replay
    >>> buffer = replay.create(2, {"reward": 0.0})
    >>> for reward in (1.0, 2.0):
    ...     buffer = replay.add(buffer, {"reward": reward})
    >>> replay.sample(buffer, jnp.array([0.1, 0.9]))["reward"].tolist()
    [1.0, 2.0]
    """
    if uniform.shape[0] > buffer.capacity:
        raise ValueError(
            f"a batch of {uniform.shape[0]} from a buffer for {buffer.capacity}: raise its capacity"
        )
    if not isinstance(buffer.added, jax.core.Tracer) and int(buffer.added) == 0:
        raise ValueError("the buffer is empty: add something first")
    chosen = jnp.minimum((uniform * buffer.size).astype(jnp.int32), buffer.size - 1)
    return jax.tree.map(lambda leaf: leaf[chosen], buffer.items)
