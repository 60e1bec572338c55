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
own. `plasticity.lanes` runs many such calls in step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, Literal, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from plasticity import devices

P = ParamSpec("P")
R = TypeVar("R")

Effort = Literal["full", "less", "least"]

OPTIONS: Mapping[Effort, dict[str, Any]] = {
    # Without it a loop copies whole arrays of which it changes an entry, such as a replay buffer.
    "full": {"xla_cpu_copy_insertion_use_region_analysis": True},
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


@dataclass(frozen=True, eq=False)
class Program:
    """A function that is compiled by itself, and how."""

    function: Callable[..., Any]
    static: tuple[str, ...]
    donate: tuple[str, ...]
    effort: Effort

    def whole(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the function does; the programs that it calls are part of it."""
        with called_by(None):
            return self.function(*args, **kwargs)


Caller = Callable[[Program, tuple[Any, ...], Mapping[str, Any]], Any]
"""(program, its arguments) → what it returns."""

_CALLER: ContextVar[Caller | None] = ContextVar("_CALLER", default=None)


@contextmanager
def called_by(caller: Caller | None) -> Iterator[None]:
    """Within it ``caller`` runs each `program`, or with None each is an ordinary function.

    >>> from plasticity import programs
    >>> @programs.program()
    ... def twice(x):
    ...     return 2 * x
    >>> with programs.called_by(lambda program, args, kwargs: f"twice of {args[0]}"):
    ...     twice(3)
    'twice of 3'
    """
    token = _CALLER.set(caller)
    try:
        yield
    finally:
        _CALLER.reset(token)


@contextmanager
def apart() -> Iterator[None]:
    """Within it each `program` is compiled by itself, and the host runs `scan` and `cond`.

    >>> import jax.numpy as jnp
    >>> from plasticity import programs
    >>> with programs.apart():
    ...     programs.scan(lambda x, _: (x + 1, x), jnp.zeros(()), length=3)[1].tolist()
    [0.0, 1.0, 2.0]
    """
    with called_by(lambda program, args, kwargs: compiled(program)(*args, **kwargs)):
        yield


def program(
    static: Sequence[str] = (), donate: Sequence[str] = (), effort: Effort = "full"
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: within `apart` the function is jitted, elsewhere it is as it was.

    Args:
        static: names of arguments that are no arrays. Calls with equal ones share a program.
        donate: names of arguments whose memory the results may take, on a CPU.
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
        made = Program(function, tuple(static), tuple(donate), effort)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            caller = _CALLER.get()
            found: R = function(*args, **kwargs) if caller is None else caller(made, args, kwargs)
            return found

        return call

    return decorate


@cache  # not before it is called: by then the kind of device is known
def compiled(program: Program) -> Callable[..., Any]:
    """Return the jitted function of a program.

    >>> import jax.numpy as jnp
    >>> from plasticity import programs
    >>> twice = programs.Program(lambda x: 2 * x, static=(), donate=(), effort="full")
    >>> float(programs.compiled(twice)(jnp.ones(())))
    2.0
    """

    @wraps(program.function)
    def whole(*args: Any, **kwargs: Any) -> Any:
        return program.whole(*args, **kwargs)

    return jit(
        whole, program.effort, static_argnames=program.static, donate_argnames=program.donate
    )


def jit(function: Callable[P, R], effort: Effort, **named: Any) -> Callable[P, R]:
    """Return `jax.jit` of a function, compiled with this effort; ``named`` are jax's arguments.

    On an accelerator nothing is donated. Where a program returns an array twice, XLA for CUDA may
    fill one of the two with what was donated in its place (jax-ml/jax#39625). A target network that
    becomes a copy of the network is such an array, and with jax 0.11 on an H100 agents lost all
    that they had learned there, in silence. ``plasticity check`` is to find such faults.

    >>> import jax.numpy as jnp
    >>> from plasticity import programs
    >>> float(programs.jit(jnp.sum, "least")(jnp.ones(3)))
    3.0
    """
    if devices.is_cpu():
        return jax.jit(function, compiler_options=supported(OPTIONS[effort]), **named)
    kept = {name: value for name, value in named.items() if not name.startswith("donate")}
    return jax.jit(function, compiler_options=None, **kept)


def supported(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those compiler options that this version of XLA has: they come and go.

    >>> from plasticity import programs
    >>> programs.supported({"xla_backend_optimization_level": 1, "xla_never_heard_of": True})
    {'xla_backend_optimization_level': 1}
    """
    return {name: value for name, value in options.items() if _is_supported(name, value)}


@cache
def _is_supported(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True


def scan(body: Callable[[Any, None], tuple[Any, Any]], carry: Any, length: int) -> tuple[Any, Any]:
    """Return what `jax.lax.scan` does without inputs; within `apart` the host loops.

    >>> import jax.numpy as jnp
    >>> from plasticity import programs
    >>> end, seen = programs.scan(lambda x, _: (2 * x, x), jnp.ones(()), length=3)
    >>> float(end), seen.tolist()
    (8.0, [1.0, 2.0, 4.0])
    """
    if _CALLER.get() is None:
        return jax.lax.scan(body, carry, length=length)
    seen = []
    for _ in range(length):
        carry, found = body(carry, None)
        seen.append(found)
    return carry, _stacked(seen)


def cond(predicate: Any, yes: Callable[..., Any], no: Callable[..., Any], *operands: Any) -> Any:
    """Return what `jax.lax.cond` does; within `apart` the host decides, and must be able to.

    >>> from plasticity import programs
    >>> with programs.apart():
    ...     programs.cond(True, lambda x: x + 1, lambda x: x, 1)
    2
    """
    if _CALLER.get() is None:
        return jax.lax.cond(predicate, yes, no, *operands)
    return (yes if predicate else no)(*operands)


def each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Return ``function`` of each of several pytrees of equal shapes.

    In one program they are stacked and mapped over, so that ``function`` is compiled once; within
    `apart` it is called for one after another.

    >>> import jax.numpy as jnp
    >>> from plasticity import programs
    >>> [float(x) for x in programs.each(jnp.sum, [jnp.ones(2), jnp.zeros(2)])]
    [2.0, 0.0]
    """
    if _CALLER.get() is not None:
        return [function(item) for item in items]
    found = devices.map_lanes(function, _stacked(items))
    return [jax.tree.map(lambda leaf, k=k: leaf[k], found) for k in range(len(items))]


@program(effort="least")
def _stacked(items: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)
