"""A replay buffer for stacked frames that stores every frame once.

An Atari agent observes its last few frames, and a transition holds two observations: stored as they
are, each frame would be kept eight times. Here each call stores one frame per environment, and
`sample` gathers the stacks; 100,000 transitions of 84 × 84 take 0.75 GB. An agent acts on frames
from the buffer too: `observe`.

Pure functions, as in `plasticity.agents.replay`; jit them with the buffer donated, or each `add`
copies it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from plasticity.shapes import Array, Bool, Float, Int, UInt8

Frames = UInt8[Array, "batch frames height width"]


class Transitions(NamedTuple):
    """Rings over the transitions: where the frames are, and what was done and earned."""

    call: Int[Array, "*batch"]  # when the frame that followed was added
    environment: Int[Array, "*batch"]  # which one it belongs to
    age: Int[
        Array, "*batch"
    ]  # steps from the episode's first frame to it, at most the stack's length
    action: Int[Array, "*batch"]
    reward: Float[Array, "*batch"]
    discount: Float[Array, "*batch"]


class Buffer(NamedTuple):
    """The last ``capacity`` transitions of all environments together."""

    frames: UInt8[Array, "rows environments height width"]  # a ring: one row per call
    lags: Int[Array, " stack"]  # how many calls ago an observation's frames are, oldest first
    calls: Int[Array, ""]  # rows ever added
    ages: Int[Array, " environments"]  # of the newest frames, counted as in Transitions
    transitions: Transitions
    added: Int[Array, ""]  # transitions ever added
    oldest: Int[Array, ""]  # how many of those are gone

    @property
    def capacity(self) -> int:
        """How many transitions fit."""
        return int(self.transitions.call.shape[0])

    @property
    def size(self) -> Int[Array, ""]:
        """How many transitions it holds."""
        return self.added - self.oldest


class Batch(NamedTuple):
    """Transitions; frames from before the episode are zero.

    A stack has the axes (batch, frame, height, width), oldest frame first. Convolutions want frames
    last, as channels, but moving them takes ten times as long as the rest of `sample` on a CPU. Do
    it in the jitted function that convolves, where it is not a separate step.
    """

    frames: Frames  # an observation and the frame after it
    action: Int[Array, " batch"]
    reward: Float[Array, " batch"]
    discount: Float[Array, " batch"]

    @property
    def observation(self) -> Frames:
        """The stack that the agent saw."""
        return self.frames[:, :-1]

    @property
    def following(self) -> Frames:
        """The stack after it."""
        return self.frames[:, 1:]


def create(
    capacity: int, environments: int, height: int = 84, width: int = 84, stack: int = 4
) -> Buffer:
    """Return an empty buffer for ``capacity`` transitions from all environments together.

    An episode has one frame more than it has transitions. The buffer allows a sixteenth more rows
    for that: if episodes end more often than every 16 steps, it holds fewer transitions.

    Raises ValueError unless all numbers are positive and each environment has a place.

    >>> from plasticity.agents import frame_replay
    >>> buffer = frame_replay.create(capacity=100, environments=2, height=36, width=36)
    >>> buffer.capacity, int(buffer.size), frame_replay.observe(buffer).shape
    (100, 0, (2, 4, 36, 36))
    """
    for name, value in (("environments", environments), ("height", height), ("width", width),
                        ("stack", stack)):  # fmt: skip
        if value < 1:
            raise ValueError(f"{name} = {value}: must be above 0")
    if capacity < environments:
        raise ValueError(f"capacity = {capacity}: {environments} environments need one each")
    share = -(-capacity // environments)
    rows = share + stack + share // 16 + 1
    zero = jnp.zeros((), jnp.int32)
    number, real = jnp.zeros(capacity, jnp.int32), jnp.zeros(capacity, jnp.float32)
    return Buffer(
        frames=jnp.zeros((rows, environments, height, width), jnp.uint8),
        lags=jnp.arange(stack - 1, -1, -1, dtype=jnp.int32),
        calls=zero,
        ages=jnp.zeros(environments, jnp.int32),
        # Copies: a donated buffer cannot donate one array twice.
        transitions=jax.tree.map(
            jnp.copy, Transitions(number, number, number, number, real, real)
        ),
        added=jnp.copy(zero),
        oldest=jnp.copy(zero),
    )  # fmt: skip


def add(
    buffer: Buffer,
    frame: UInt8[Array, "environments height width"],
    action: Int[Array, " environments"],
    reward: Float[Array, " environments"],
    discount: Float[Array, " environments"],
    first: Bool[Array, " environments"],
) -> Buffer:
    """Return the buffer with a new frame of each environment, and the transition that led to it.

    ``first`` marks frames that begin an episode. No transition leads to those, whatever the action,
    reward and discount. The very first call must mark every environment.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.agents import frame_replay
    >>> buffer, one = frame_replay.create(8, environments=1, height=1, width=1), jnp.ones(1)
    >>> add = jax.jit(frame_replay.add, donate_argnums=0)
    >>> for pixel in (7, 8, 9):
    ...     frame = jnp.full((1, 1, 1), pixel, jnp.uint8)
    ...     buffer = add(buffer, frame, jnp.array([0]), one, one, first=jnp.array([pixel == 7]))
    >>> int(buffer.size), frame_replay.observe(buffer).ravel().tolist()
    (2, [0, 7, 8, 9])
    """
    rows, capacity, stack = buffer.frames.shape[0], buffer.capacity, buffer.lags.shape[0]
    environments = jnp.arange(len(first), dtype=jnp.int32)
    frames = jax.lax.dynamic_update_index_in_dim(buffer.frames, frame, buffer.calls % rows, 0)
    ages = jnp.where(first, 0, jnp.minimum(buffer.ages + 1, stack))
    number = buffer.added + jnp.cumsum(~first, dtype=jnp.int32)
    slot = jnp.where(first, capacity, (number - 1) % capacity)  # no such slot: dropped
    call = jnp.broadcast_to(buffer.calls, first.shape)
    transitions = jax.tree.map(
        lambda ring, x: ring.at[slot].set(x, mode="drop"),
        buffer.transitions,
        Transitions(call, environments, ages, action, reward, discount),
    )
    added, calls = number[-1], buffer.calls + 1
    # Transitions are gone if they were overwritten, or if their frames' row was: the latter share
    # one call, so they are at most one per environment.
    oldest = jnp.maximum(buffer.oldest, added - capacity)
    suspect = oldest + environments
    lost = transitions.call[suspect % capacity] - stack < calls - rows
    oldest = oldest + jnp.sum(lost & (suspect < added), dtype=jnp.int32)
    return Buffer(frames, buffer.lags, calls, ages, transitions, added, oldest)


def sample(buffer: Buffer, uniform: Float[Array, " batch"]) -> Batch:
    """Return a batch, drawn with replacement by numbers in [0, 1).

    Outside jit, raises ValueError for an empty buffer. Inside jit the size is unknown: the caller
    must not sample from an empty one.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.agents import frame_replay
    >>> buffer, one = frame_replay.create(8, environments=1, height=1, width=1), jnp.ones(1)
    >>> add = jax.jit(frame_replay.add, donate_argnums=0)
    >>> for pixel in (7, 8):
    ...     frame = jnp.full((1, 1, 1), pixel, jnp.uint8)
    ...     buffer = add(buffer, frame, jnp.array([0]), one, one, first=jnp.array([pixel == 7]))
    >>> batch = frame_replay.sample(buffer, uniform=jnp.array([0.5]))
    >>> batch.observation.ravel().tolist(), batch.following.ravel().tolist()
    ([0, 0, 0, 7], [0, 0, 7, 8])
    """
    size = buffer.size
    if not isinstance(size, jax.core.Tracer) and int(size) == 0:
        raise ValueError("the buffer is empty: add something first")
    chosen = buffer.oldest + jnp.minimum((uniform * size).astype(jnp.int32), size - 1)
    drawn = jax.tree.map(lambda ring: ring[chosen % buffer.capacity], buffer.transitions)
    lags = jnp.arange(buffer.lags.shape[0], -1, -1, dtype=jnp.int32)
    frames = _stacks(buffer, drawn.call, drawn.environment, drawn.age, lags)
    return Batch(frames, drawn.action, drawn.reward, drawn.discount)


def observe(buffer: Buffer) -> Frames:
    """Return each environment's current stack, shape (environments, stack, height, width).

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.agents import frame_replay
    >>> buffer, one = frame_replay.create(8, environments=1, height=1, width=1), jnp.ones(1)
    >>> add = jax.jit(frame_replay.add, donate_argnums=0)
    >>> frame = jnp.full((1, 1, 1), 7, jnp.uint8)
    >>> buffer = add(buffer, frame, jnp.array([0]), one, one, first=jnp.array([True]))
    >>> frame_replay.observe(buffer).ravel().tolist()
    [0, 0, 0, 7]
    """
    environments = jnp.arange(buffer.ages.shape[0], dtype=jnp.int32)
    calls = jnp.broadcast_to(buffer.calls - 1, environments.shape)
    return _stacks(buffer, calls, environments, buffer.ages, buffer.lags)


def screens(
    buffer: Buffer, lags: Int[Array, " screens"]
) -> UInt8[Array, "environments screens height width"]:
    """Return each environment's frames from so many calls ago, whichever episode they belong to.

    Frames from before the first call are zero.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.agents import frame_replay
    >>> buffer, one = frame_replay.create(8, environments=1, height=1, width=1), jnp.ones(1)
    >>> add = jax.jit(frame_replay.add, donate_argnums=0)
    >>> for pixel in (7, 8):
    ...     frame = jnp.full((1, 1, 1), pixel, jnp.uint8)
    ...     buffer = add(buffer, frame, jnp.array([0]), one, one, first=jnp.array([True]))
    >>> frame_replay.screens(buffer, jnp.array([0, 1])).ravel().tolist()  # the newest first
    [8, 7]
    """
    found = buffer.frames[(buffer.calls - 1 - lags) % buffer.frames.shape[0]]
    there = lags < jnp.minimum(buffer.calls, buffer.frames.shape[0])
    return jnp.where(there[:, None, None, None], found, 0).swapaxes(0, 1)


def _stacks(
    buffer: Buffer,
    call: Int[Array, " batch"],
    environment: Int[Array, " batch"],
    age: Int[Array, " batch"],
    lags: Int[Array, " frames"],
) -> Frames:
    """Gather the frames ``lags`` calls before ``call``; those from before the episode are zero."""
    rows = (call[:, None] - lags[None, :]) % buffer.frames.shape[0]
    found = buffer.frames[rows, environment[:, None]]
    inside = lags[None, :] <= age[:, None]
    return jnp.where(inside[:, :, None, None], found, 0)
