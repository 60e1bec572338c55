"""The emulators of `plasticity.worlds.atari`, used inside a jitted function.

::

    games = atari_callback.Emulators("pong", 1, atari.Preprocessing())
    ticket, seen = games.reset(seeds)
    ticket = games.send(ticket, actions)
    ...                                    # what is computed here runs while the emulators do
    ticket, seen = games.receive(ticket)

The emulators live on the host and are called back. A ``ticket`` orders the calls: each takes the
ticket of the one before, so that XLA can neither swap two calls nor drop one. Batching by
`jax.vmap` makes a single call for all lanes, with copies of the game for each.

Arrays describe an emulator's state completely: `Emulators.state` returns them, `Emulators.resume`
takes them. So a jitted function that starts with ``resume`` and ends with ``state`` is a function
of its arguments, although the emulators are not. `resume` costs nothing if the live emulators are
already in that state.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from plasticity.shapes import Array, Bool, Float, Int, UInt8
from plasticity.worlds import atari

Ticket = Int[Array, ""]


class Step(NamedTuple):
    """`plasticity.worlds.atari.Step` as jax arrays."""

    frame: UInt8[Array, "n height width"]
    score: Int[Array, " n"]
    reward: Float[Array, " n"]
    discount: Float[Array, " n"]
    first: Bool[Array, " n"]
    last: Bool[Array, " n"]


class State(NamedTuple):
    """`plasticity.worlds.atari.State` as jax arrays."""

    seed: Int[Array, " n"]
    seeded: Int[Array, " n"]
    calls: Int[Array, " n"]
    actions: UInt8[Array, "n calls"]


@dataclass(frozen=True)
class Emulators:
    """``n`` copies of a game; where calls are batched, ``n`` for each lane.

    ``purpose`` keeps apart equal emulators that are used at the same time, such as those for
    training and for evaluation.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.worlds import atari, atari_callback
    >>> games = atari_callback.Emulators("pong", n=2, preprocessing=atari.Preprocessing())
    >>> ticket, seen = jax.eval_shape(games.reset, jnp.array([0, 1]))  # shapes need no emulator
    >>> seen.frame.shape, seen.reward.shape
    ((2, 84, 84), (2,))
    >>> ticket, seen = jax.jit(games.reset)(jnp.array([0, 1]))  # needs ale_py  # doctest: +SKIP
    >>> ticket, seen = jax.jit(games.step)(ticket, jnp.array([0, 3]))  # doctest: +SKIP
    >>> seen.first.tolist(), seen.reward.tolist()  # doctest: +SKIP
    ([False, False], [0.0, 0.0])
    """

    game: str
    n: int
    preprocessing: atari.Preprocessing
    purpose: str = "training"

    @property
    def actions(self) -> int:
        """How many actions there are to choose from. Raises as `plasticity.worlds.atari` does."""
        return self._live(1).actions

    def reset(self, seeds: Int[Array, " n"]) -> tuple[Ticket, Step]:
        """Restart with one seed per copy."""

        def reset(seeds: np.ndarray) -> Any:
            games = self._live(len(seeds))
            return _tickets(seeds), _by_lane(games.reset(seeds.ravel().tolist()), seeds)

        found: tuple[Ticket, Step] = _call(reset, (_TICKET, self._seen()), seeds)
        return found

    def resume(self, state: State) -> Ticket:
        """Bring the emulators to ``state``."""

        def resume(*leaves: np.ndarray) -> Any:
            lanes = len(leaves[0])
            games = self._live(lanes)
            flat = (leaf.reshape(lanes * self.n, *leaf.shape[2:]) for leaf in leaves)
            seed, seeded, calls, actions = flat
            wanted = atari.State(seed.astype(np.int64), seeded, calls, actions)
            if not games.is_at(wanted):
                games.restore(wanted)
            return _tickets(leaves[0])

        found: Ticket = _call(resume, _TICKET, *state)
        return found

    def send(self, ticket: Ticket, actions: Int[Array, " n"]) -> Ticket:
        """Begin to take an action in each copy."""

        def send(ticket: np.ndarray, actions: np.ndarray) -> Any:
            self._live(len(actions)).send(actions.ravel())
            return ticket + 1

        found: Ticket = _call(send, _TICKET, ticket, actions)
        return found

    def receive(self, ticket: Ticket, after: Array | None = None) -> tuple[Ticket, Step]:
        """Wait for the outcome of the actions, once ``after``, any array, is computed.

        This tells XLA the order. It would drop an optimization barrier before deciding what to
        copy, and then copy arrays that one side reads and the other overwrites: a replay buffer.
        """

        def receive(ticket: np.ndarray, *after: np.ndarray) -> Any:
            return ticket + 1, _by_lane(self._live(len(ticket)).receive(), ticket)

        reason = () if after is None else (after,)
        found: tuple[Ticket, Step] = _call(receive, (_TICKET, self._seen()), ticket, *reason)
        return found

    def step(self, ticket: Ticket, actions: Int[Array, " n"]) -> tuple[Ticket, Step]:
        """Take an action in each copy: `send` and `receive` in one call."""

        def step(ticket: np.ndarray, actions: np.ndarray) -> Any:
            return ticket + 1, _by_lane(self._live(len(actions)).step(actions.ravel()), ticket)

        found: tuple[Ticket, Step] = _call(step, (_TICKET, self._seen()), ticket, actions)
        return found

    def state(self, ticket: Ticket) -> State:
        """Return what it takes to `resume` from here, also in another process."""

        def state(ticket: np.ndarray) -> Any:
            found = self._live(len(ticket)).state()
            small: list[Any] = [found.seed.astype(np.int32), *found[1:]]
            return State(*(leaf.reshape(len(ticket), self.n, *leaf.shape[1:]) for leaf in small))

        number = _shape((self.n,), np.int32)
        actions = _shape((self.n, atari.most_calls(self.preprocessing)), np.uint8)
        found: State = _call(state, State(number, number, number, actions), ticket)
        return found

    def _live(self, lanes: int) -> atari.Environments:
        return _environments(self.game, lanes * self.n, self.preprocessing, self.purpose)

    def _seen(self) -> Step:
        size, n = self.preprocessing.size, (self.n,)
        return Step(
            frame=_shape((*n, size, size), np.uint8),
            score=_shape(n, np.int32),
            reward=_shape(n, np.float32),
            discount=_shape(n, np.float32),
            first=_shape(n, np.bool_),
            last=_shape(n, np.bool_),
        )


def _shape(shape: tuple[int, ...], kind: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, kind)  # type: ignore[no-untyped-call]


_TICKET = _shape((), np.int32)


@lru_cache(maxsize=4)
def _environments(
    game: str, copies: int, preprocessing: atari.Preprocessing, purpose: str
) -> atari.Environments:
    """Return the live emulators: one object, so that each call continues from the last."""
    return atari.Environments(game, copies, preprocessing)


atexit.register(_environments.cache_clear)  # or ale_py complains that they were never closed


def _tickets(lanes: np.ndarray) -> np.ndarray:
    return np.zeros(len(lanes), np.int32)


def _by_lane(seen: atari.Step, lanes: np.ndarray) -> Step:
    """Return what all copies showed, with one row per lane."""
    leaves: list[Any] = [leaf.reshape(len(lanes), -1, *leaf.shape[1:]) for leaf in seen]
    return Step(*leaves)


def _call(function: Callable[..., Any], returned: Any, *arguments: Array) -> Any:
    """Call ``function`` on the host with a leading axis of lanes, one or all of a `jax.vmap`."""

    def on_host(*arguments: Any) -> Any:
        return function(*(np.asarray(x) for x in arguments))

    def lanes(count: int, *arguments: Array) -> Any:
        shapes = jax.tree.map(lambda x: _shape((count, *x.shape), x.dtype), returned)
        return io_callback(on_host, shapes, *arguments)

    @jax.custom_batching.custom_vmap
    def call(*arguments: Array) -> Any:
        found = lanes(1, *(x[None] for x in arguments))
        return jax.tree.map(lambda x: x[0], found)

    @call.def_vmap
    def _(count: int, batched: list[bool], *arguments: Array) -> Any:
        whole = [
            x if is_batched else jnp.broadcast_to(x, (count, *x.shape))
            for x, is_batched in zip(arguments, batched, strict=True)
        ]
        return lanes(count, *whole), jax.tree.map(lambda _: True, returned)

    return call(*arguments)
