"""What a core allows an agent: the products of its updates, and the bytes that Adam moves, alone.

Neither trains anything. Each does as many operations, or moves as many bytes, as updates need, in
the form in which a core is fastest at that: large square products, and one long stream. An agent
does the one after the other, so that its updates take at least as long as both together.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from agent_task import Case, Settings, World

SIDE = 512
"""Of the square matrices that are multiplied: a core of today is at its best from 256 on."""

PRODUCTS, PASSES = 64, 256
"""Of a block: products of square matrices, and passes over the stream."""


def product_flops(case: Case, world: World) -> float:
    r"""Return the floating-point operations of the products that one step of an agent needs.

    A product of (m, k) and (k, n) takes 2 m k n. With K weights in all layers, of which F in the
    first, a batch of B, and N images between two target copies, which are P steps apart:

    .. math:: 2 K + (6 K - 2 F) B + 2 K \min(N / P, B)

    acting on one image; forward, gradient of the weights and, except in the first layer, gradient
    of the inputs; and the target's values, of all images once a period or batch by batch.
    """
    sizes = [leaf.size for leaf in world.params if leaf.ndim == 2]
    period = math.gcd(int(Settings(*world.settings).target_period), case.steps)
    table = min(len(world.images) / period, case.batch_size)
    rows = 1 + 3 * case.batch_size + table
    return float(2 * rows * sum(sizes) - 2 * case.batch_size * sizes[0])


def adam_bytes(world: World) -> int:
    """Return the bytes that a step of Adam moves at least: seven numbers of each parameter.

    It reads parameter, gradient, m and v, and writes parameter, m and v.
    """
    return sum(7 * leaf.size * leaf.itemsize for leaf in world.params)


class Rate:
    """Something that is repeated, and stands for a number of updates."""

    def __init__(self, case: Case, world: World) -> None:
        self.updates, self.work, self.start = self.prepare(case, world)
        self.run = jax.jit(self.work)
        self.reset()

    def prepare(self, case: Case, world: World) -> tuple[int, Any, Any]:
        """Return the updates that a block stands for, its function, and what that starts from."""
        raise NotImplementedError

    def reset(self) -> None:
        self.now = jax.block_until_ready(self.start)

    def block(self) -> int:
        self.now = jax.block_until_ready(self.run(self.now))
        return self.updates

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """Nothing is trained, so there is nothing to compare."""
        return []


class Products(Rate):
    """Products only, by an orthogonal matrix: numbers neither grow nor vanish."""

    def prepare(self, case: Case, world: World) -> tuple[int, Any, Any]:
        draw = np.random.default_rng(0).standard_normal((SIDE, SIDE))
        turn = jnp.asarray(np.linalg.qr(draw)[0], jnp.float32)

        def work(now: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, PRODUCTS, lambda _, now: now @ turn, now)

        return round(PRODUCTS * 2 * SIDE**3 / product_flops(case, world)), work, turn


class Traffic(Rate):
    """A stream through one array as large as parameters, gradient, m and v together."""

    def prepare(self, case: Case, world: World) -> tuple[int, Any, Any]:
        stream = jnp.ones(4 * sum(leaf.size for leaf in world.params), jnp.float32)

        def work(now: jax.Array) -> jax.Array:
            return jax.lax.fori_loop(0, PASSES, lambda _, now: 0.5 * now + 0.5, now)

        moved = PASSES * 2 * stream.nbytes  # each pass reads and writes it
        return round(moved / adam_bytes(world)), work, stream
