"""Many runs in step: each program that they have in common runs once, batched, for all of them.

An accelerator has room for many small networks. Runs that differ in a seed, a number or an event
do the same most of the time, yet not all of the time. So each is left as it is, a function that
calls programs (`plasticity.programs`), and goes on in a thread of its own until it calls one. When
all of them wait, the calls of one program with equal static arguments are answered together: their
arrays are stacked, and the program is mapped over the stack::

    states = lanes.in_step([partial(start, arm, world, key) for arm, key in ...])
    states = lanes.in_step([partial(advance, arm, world, state) for arm, state in ...])

What a program returns stays stacked, and a run holds a `Lane` of it, which is sliced off only where
something else than a program asks for it. So a program that follows another costs no copy.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from plasticity import jax_settings, programs
from plasticity.programs import Program
from plasticity.shapes import Array

T = TypeVar("T")


class NoRoom(RuntimeError):
    """So many lanes do not fit into the device's memory; ``fitting`` of them would."""

    def __init__(self, lanes: int, fitting: int) -> None:
        """Say how many there are and how many would fit."""
        super().__init__(f"{lanes} lanes do not fit into the device's memory")
        self.fitting = fitting


class Lane:
    """One lane of a stack of arrays, not yet sliced off: `jax.numpy.asarray` does that, or numpy.

    >>> import jax.numpy as jnp
    >>> from plasticity import lanes
    >>> jnp.asarray(lanes.Lane(jnp.array([[1.0, 2.0], [3.0, 4.0]]), 1)).tolist()
    [3.0, 4.0]
    """

    def __init__(self, stack: jax.Array, index: int) -> None:
        """Name the lane; nothing is copied."""
        self.stack, self.index = stack, index

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the lane."""
        return self.stack.shape[1:]

    @property
    def dtype(self) -> Any:
        """The type of the lane's numbers."""
        return self.stack.dtype

    def __jax_array__(self) -> jax.Array:
        """Slice the lane off."""
        return self.stack[self.index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Slice the lane off on the host."""
        return np.array(np.asarray(self.stack)[self.index], dtype)


def spread(stacked: T, count: int) -> list[T]:
    """Return the lanes of a pytree of stacked arrays.

    >>> import jax.numpy as jnp
    >>> from plasticity import lanes
    >>> [float(jnp.asarray(lane["x"])) for lane in lanes.spread({"x": jnp.arange(2.0)}, 2)]
    [0.0, 1.0]
    """
    return [jax.tree.map(lambda stack, k=k: Lane(stack, k), stacked) for k in range(count)]


def gather(trees: Sequence[T]) -> T:
    """Return pytrees of equal structure and shapes as one of stacked arrays.

    Nothing is copied if they are all the lanes of a stack, in order. Raises ValueError if they
    differ in structure or shapes.

    >>> import jax.numpy as jnp
    >>> from plasticity import lanes
    >>> stacked = {"x": jnp.arange(2.0)}
    >>> lanes.gather(lanes.spread(stacked, 2))["x"] is stacked["x"]
    True
    """
    leaves, structures = zip(*map(jax.tree.flatten, trees), strict=True)
    if any(structure != structures[0] for structure in structures):
        raise ValueError(f"lanes of different structure: {sorted(set(map(str, structures)))}")
    found: T = jax.tree.unflatten(structures[0], map(_stack, zip(*leaves, strict=True)))
    return found


def _stack(leaves: Sequence[Any]) -> jax.Array:
    if not all(isinstance(leaf, Lane) for leaf in leaves):
        return jnp.stack([jnp.asarray(leaf) for leaf in leaves])
    stacks: list[jax.Array] = list({id(leaf.stack): leaf.stack for leaf in leaves}.values())
    order = [leaf.index for leaf in leaves]
    if len(stacks) == 1 and order == list(range(len(stacks[0]))):
        return stacks[0]
    # One copy from each stack, of the lanes that are wanted; then all in their order.
    places = [[k for k, leaf in enumerate(leaves) if leaf.stack is stack] for stack in stacks]
    parts = [
        stack[np.array([order[k] for k in where])]
        for stack, where in zip(stacks, places, strict=True)
    ]
    found: jax.Array = jnp.concatenate(parts)[np.argsort(np.concatenate(places))]
    return found


def in_step(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Return what each of several functions without arguments returns, run in step.

    Arrays that come from a program are each a `Lane`: see `gather`. A program of full effort
    (`plasticity.programs.OPTIONS`) waits for all runs to call one; others run as they come. Raises
    `NoRoom` if a program needs more memory than the device has, and whatever a function raises.

    >>> import jax.numpy as jnp
    >>> from plasticity import lanes, programs
    >>> @programs.program(static=("power",))
    ... def raised(power, x):
    ...     return x**power
    >>> found = lanes.in_step([lambda x=x: raised(2, jnp.array(x)) for x in (1.0, 2.0, 3.0)])
    >>> lanes.gather(found).tolist()
    [1.0, 4.0, 9.0]
    """
    return _Meeting(calls).results()


class _Call:
    """A call of a program by one lane, and its answer."""

    def __init__(self, program: Program, args: Any, kwargs: Mapping[str, Any]) -> None:
        bound = _signature(program).bind(*args, **kwargs)
        bound.apply_defaults()
        static = {name: bound.arguments.pop(name) for name in program.static}
        named = sorted(bound.arguments.items())
        self.leaves, structure = jax.tree.flatten(dict(named))
        donated = [name in program.donate for name, tree in named for _ in jax.tree.leaves(tree)]
        self.program = program
        # Calls with equal kinds can be answered together.
        shapes = tuple((np.shape(leaf), _dtype(leaf)) for leaf in self.leaves)
        self.kind = _Kind(program, tuple(static.items()), structure, tuple(donated)), shapes
        self.answered = threading.Event()
        self.answer: Any = None
        self.error: BaseException | None = None


class _Kind(NamedTuple):
    """What calls have in common that are answered together, but for their arrays' shapes."""

    program: Program
    static: tuple[tuple[str, Any], ...]
    structure: Any
    donated: tuple[bool, ...]  # for each array


@cache
def _signature(program: Program) -> inspect.Signature:
    return inspect.signature(program.function)


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else type(leaf)


class _Meeting:
    """Threads, one for each lane, that meet whenever all of them wait for a program's answer."""

    def __init__(self, calls: Sequence[Callable[[], Any]]) -> None:
        self.calls = calls
        self.found: list[Any] = [None] * len(calls)
        self.error: BaseException | None = None
        self.waiting: dict[int, _Call] = {}
        self.heavy = [0] * len(calls)  # how many programs of full effort each lane has called
        self.running = len(calls)
        self.changed = threading.Condition()

    def results(self) -> list[Any]:
        settings = jax_settings.inherited()
        for k in range(len(self.calls)):
            inherited = contextvars.copy_context()
            arguments = (self._run, k, settings)
            threading.Thread(target=inherited.run, args=arguments, daemon=True).start()
        try:
            while self._all_wait():
                self._answer(self._next())
        finally:
            with self.changed:  # after an error: let the others end too
                for call in self.waiting.values():
                    call.error = RuntimeError("another lane failed")
                    call.answered.set()
        if self.error:
            raise self.error
        return self.found

    def _run(self, lane: int, settings: Callable[[], AbstractContextManager[None]]) -> None:
        def caller(program: Program, args: Any, kwargs: Mapping[str, Any]) -> Any:
            call = _Call(program, args, kwargs)
            with self.changed:
                self.waiting[lane] = call
                self.running -= 1
                self.changed.notify_all()
            call.answered.wait()
            if call.error:
                raise call.error
            return call.answer

        try:
            with settings(), programs.called_by(caller):
                self.found[lane] = self.calls[lane]()
        except BaseException as error:
            self.error = self.error or error
        finally:
            with self.changed:
                self.running -= 1
                self.changed.notify_all()

    def _all_wait(self) -> bool:
        """Wait until no lane runs; return whether any waits for an answer."""
        with self.changed:
            self.changed.wait_for(lambda: not self.running)
        return bool(self.waiting) and self.error is None

    def _next(self) -> list[int]:
        """Return the lanes that are answered next: first those that wait for little.

        What costs much waits for the lanes that have other things to do before it.
        """
        groups: dict[Any, list[int]] = {}
        for lane in sorted(self.waiting):
            groups.setdefault(self.waiting[lane].kind, []).append(lane)

        def order(group: list[int]) -> tuple[bool, int, int]:
            full = self.waiting[group[0]].program.effort == "full"
            return full, min(self.heavy[lane] for lane in group), group[0]

        return min(groups.values(), key=order)

    def _answer(self, group: list[int]) -> None:
        calls = [self.waiting[lane] for lane in group]
        answers = _run(calls)
        with self.changed:
            for lane, call, answer in zip(group, calls, answers, strict=True):
                self.heavy[lane] += call.program.effort == "full"
                call.answer = answer
                del self.waiting[lane]
                self.running += 1
                call.answered.set()


def _run(calls: Sequence[_Call]) -> list[Any]:
    """Return the answers to calls of one kind."""
    kind, _ = calls[0].kind
    axes: list[int | None] = []
    values: list[Any] = []
    columns = zip(*(call.leaves for call in calls), strict=True)
    for gone, leaves in zip(kind.donated, columns, strict=True):
        # The world is the same array for all lanes.
        common = isinstance(leaves[0], jax.Array) and all(leaf is leaves[0] for leaf in leaves)
        shared = common and not gone
        axes.append(None if shared else 0)
        values.append(leaves[0] if shared else _stack(leaves))
    if 0 not in axes:
        answer = programs.compiled(kind.program)(
            **dict(kind.static), **jax.tree.unflatten(kind.structure, values)
        )
        return [answer for _ in calls]
    shapes = tuple(map(_shape, values))
    compiled, needed = _compiled(kind, tuple(axes), shapes, jax_settings.key())
    limit, used = _memory()
    if used + needed > limit:
        raise NoRoom(len(calls), max(1, int(len(calls) * limit / (used + needed))))
    return spread(compiled(*values), len(calls))


def _shape(x: Any) -> Any:
    return jax.ShapeDtypeStruct(  # type: ignore[no-untyped-call]
        x.shape, x.dtype, weak_type=getattr(x, "weak_type", False)
    )


@lru_cache(maxsize=64)
def _compiled(
    kind: _Kind, axes: tuple[int | None, ...], shapes: tuple[Any, ...], settings: object
) -> tuple[Callable[..., Any], int]:
    """Return a program mapped over lanes, and the bytes that it needs besides its arguments."""

    def one(*leaves: Array) -> Any:
        return kind.program.whole(**dict(kind.static), **jax.tree.unflatten(kind.structure, leaves))

    one.__name__ = kind.program.function.__name__
    donated = [k for k, gone in enumerate(kind.donated) if gone]
    batched = jax.vmap(one, in_axes=axes)
    mapped: Any = programs.jit(batched, kind.program.effort, donate_argnums=donated)
    compiled = mapped.lower(*shapes).compile()
    sizes = compiled.memory_analysis()
    needed = 0
    if sizes is not None:
        needed = sizes.temp_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return compiled, needed


def _memory() -> tuple[float, float]:
    """Return the bytes that the device has for arrays, and those in use; a CPU has no limit."""
    found = jax.local_devices()[0].memory_stats() or {}
    return found.get("bytes_limit", float("inf")), found.get("bytes_in_use", 0)
