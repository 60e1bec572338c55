"""Where one compiled program ends and the next begins.

Compiling takes longer than many a run. So what an experiment does is cut into parts, each a
`program`: compiled by itself, once, for all who call it with equal static arguments::

    @program(static=("steps",), donate=("state",))
    def learn(steps, rate, state): ...

    def advance(rate, state):
        def piece(state, _):
            return learn(100, rate, state)

        return scan(piece, state, length=10)

Traced as a whole (`jax.jit`, `jax.make_jaxpr`), ``advance`` is one program as if nothing had been
said: parts are inlined, and `scan` and `cond` are those of `jax.lax`. Within `apart` the host runs
the same ``advance``: it calls the parts one after another, in a loop and with a condition of its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, Literal, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from plasticity import devices

P = ParamSpec("P")
R = TypeVar("R")

_APART = ContextVar("_APART", default=False)

Effort = Literal["full", "less", "least"]

OPTIONS: Mapping[Effort, dict[str, Any] | None] = {
    "full": None,
    "less": {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False},
    "least": {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": False,
        "xla_llvm_disable_expensive_passes": True,
    },
}
"""How well a program is compiled on a CPU. The more often it runs, the more effort is worth it.

With less, compiling takes half as long, and random draws are the same to the bit (a test says so).
With the least it takes a fifth, and sums may be rounded otherwise: for what is only looked at.
"""


@contextmanager
def apart() -> Iterator[None]:
    """Within it each `program` is compiled by itself, and the host runs `scan` and `cond`.

    >>> import jax.numpy as jnp
    >>> from plasticity import programs
    >>> with programs.apart():
    ...     programs.scan(lambda x, _: (x + 1, x), jnp.zeros(()), length=3)[1].tolist()
    [0.0, 1.0, 2.0]
    """
    with _set(True):
        yield


@contextmanager
def _set(value: bool) -> Iterator[None]:
    token = _APART.set(value)
    try:
        yield
    finally:
        _APART.reset(token)


def program(
    static: Sequence[str] = (), donate: Sequence[str] = (), effort: Effort = "full"
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: within `apart` the function is jitted, elsewhere it is as it was.

    Args:
        static: names of arguments that are no arrays. Calls with equal ones share a program.
        donate: names of arguments whose memory the results may take.
        effort: how well it is compiled, see `OPTIONS`.

    >>> import jax.numpy as jnp
    >>> from plasticity import programs
    >>> @programs.program(static=("power",))
    ... def total(power, x):
    ...     return jnp.sum(x**power)
    >>> with programs.apart():
    ...     float(total(2, jnp.array([1.0, 2.0])))
    5.0
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def whole(*args: P.args, **kwargs: P.kwargs) -> R:
            with _set(False):  # what it calls is part of it
                return function(*args, **kwargs)

        @cache  # not before it is called: by then the kind of device is known
        def compiled() -> Callable[..., R]:
            return jit(whole, effort, static_argnames=static, donate_argnames=donate)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return compiled()(*args, **kwargs) if _APART.get() else function(*args, **kwargs)

        return call

    return decorate


def jit(function: Callable[P, R], effort: Effort, **named: Any) -> Callable[P, R]:
    """Return `jax.jit` of a function, compiled with this effort; ``named`` are jax's arguments.

    >>> import jax.numpy as jnp
    >>> from plasticity import programs
    >>> float(programs.jit(jnp.sum, "least")(jnp.ones(3)))
    3.0
    """
    options = OPTIONS[effort] if devices.is_cpu() else None
    return jax.jit(function, compiler_options=options, **named)


def scan(body: Callable[[Any, None], tuple[Any, Any]], carry: Any, length: int) -> tuple[Any, Any]:
    """Return what `jax.lax.scan` does without inputs; within `apart` the host loops.

    >>> import jax.numpy as jnp
    >>> from plasticity import programs
    >>> end, seen = programs.scan(lambda x, _: (2 * x, x), jnp.ones(()), length=3)
    >>> float(end), seen.tolist()
    (8.0, [1.0, 2.0, 4.0])
    """
    if not _APART.get():
        return jax.lax.scan(body, carry, length=length)
    seen = []
    for _ in range(length):
        carry, found = body(carry, None)
        seen.append(found)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *seen)


def cond(predicate: Any, yes: Callable[..., Any], no: Callable[..., Any], *operands: Any) -> Any:
    """Return what `jax.lax.cond` does; within `apart` the host decides, and must be able to.

    >>> from plasticity import programs
    >>> with programs.apart():
    ...     programs.cond(True, lambda x: x + 1, lambda x: x, 1)
    2
    """
    if not _APART.get():
        return jax.lax.cond(predicate, yes, no, *operands)
    return (yes if predicate else no)(*operands)


def each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Return ``function`` of each of several pytrees of equal shapes.

    In one program they are stacked and mapped over, so that ``function`` is compiled once; within
    `apart`, on a CPU, it is called for one after another.

    >>> import jax.numpy as jnp
    >>> from plasticity import programs
    >>> [float(x) for x in programs.each(jnp.sum, [jnp.ones(2), jnp.zeros(2)])]
    [2.0, 0.0]
    """
    if _APART.get() and devices.is_cpu():
        return [function(item) for item in items]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)
    found = devices.map_lanes(function, stacked)
    return [jax.tree.map(lambda leaf, k=k: leaf[k], found) for k in range(len(items))]
