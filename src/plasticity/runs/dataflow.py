"""What jitted functions compute, as hashes that ignore names, places and orders.

Each value in a traced program gets a hash of the operation that makes it, the operation's settings
and its operands' hashes, down to the inputs. So code may move, be split into functions, rename what
it likes, or carry its state in another order or with unused parts, and results keep their hashes.
With one operation less, another constant or two operands swapped they do not.

The values that a loop carries depend on themselves. Their hashes are refined, like states when
automata are compared. Each starts as the hash of its initial value; then, `ROUNDS` times, it
becomes the hash of the initial value and of what the loop's body makes of it.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from plasticity import jaxprs

ROUNDS = 2
"""Refinements of the values that a loop carries.

The first tells apart values that are updated by different rules, such as Adam's two moments, which
both begin as zeros. The second tells apart values that are updated from the wrong one of these.
"""

Program = Any
"""A ``Jaxpr`` or ``ClosedJaxpr`` of `jax.extend.core`."""


class Quantity(NamedTuple):
    """A value that a program would compute, without computing it."""

    hash: str  # of its dataflow
    shape: tuple[int, ...]
    dtype: str


def recorded(
    start: Callable[..., Any],
    advance: Callable[..., Any],
    world: Any,
    of_callback: Callable[[Any], str],
) -> dict[str, Quantity]:
    """Return each quantity that ``advance`` records, by its name.

    Quantities are functions of the world and the random key: ``state = start(world, key)``, then
    ``state, record = advance(world, state)`` as often as there are chunks. Nothing is computed.

    Args:
        start, advance: those of an experiment, without the configuration.
        world: what training reads; shapes and types will do.
        of_callback: returns the hash of a function that a program calls on the host.

    Raises ValueError if two arrays of ``world`` that a quantity reads have the same shape and type:
    their hashes would be equal.
    """
    flow = _Dataflow(of_callback)
    key = jax.eval_shape(lambda: jax.random.key(0))
    started, state = jax.make_jaxpr(start, return_shape=True)(world, key)
    stepped, (_, record) = jax.make_jaxpr(advance, return_shape=True)(world, state)
    read = [_hash("world", leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(world)]
    used = _inputs_used(started)[: len(read)], _inputs_used(stepped)[: len(read)]
    alike = [name for name, *uses in zip(read, *used, strict=True) if any(uses)]
    if len(set(alike)) < len(alike):
        raise ValueError("two arrays of the world that are read have one shape and type")
    begun = flow.outputs(started, [*read, _hash("key")])
    labels = flow.refined(stepped, read, begun, [])
    made = flow.outputs(stepped, [*read, *labels])[len(begun) :]
    names = sorted(record)  # as jax orders the leaves of a dict
    return {
        name: Quantity(hashed, record[name].shape, str(record[name].dtype))
        for name, hashed in zip(names, made, strict=True)
    }


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _inputs_used(program: Program) -> list[bool]:
    """Return for each input whether any operation reads it."""
    inner = program.jaxpr
    read = {id(atom) for eqn in inner.eqns for atom in eqn.invars}
    return [id(variable) in read for variable in inner.invars]


class _Sum(NamedTuple):
    """An integer to which a constant is added."""

    base: str
    constant: np.ndarray
    settings: str  # of the operation that adds


class _Dataflow:
    """Hashes values; caches the text of each operation's settings, which loops revisit."""

    def __init__(self, of_callback: Callable[[Any], str]) -> None:
        self.of_callback = of_callback
        self.settings: dict[int, tuple[Any, str]] = {}  # holds the operation: its id stays unique
        self.sums: dict[str, _Sum] = {}  # by the hash of the result

    def outputs(self, program: Program, inputs: Sequence[str]) -> list[str]:
        """Return the hashes of a program's outputs, from those of its inputs."""
        inner: Any = getattr(program, "jaxpr", program)
        constants = [_constant(array) for array in getattr(program, "consts", ())]
        known = dict(zip([*inner.constvars, *inner.invars], [*constants, *inputs], strict=True))

        def read(atom: Any) -> str:
            if hasattr(atom, "val"):  # a literal
                return _literal(np.asarray(atom.val, atom.aval.dtype))
            return str(known[atom])

        for eqn in inner.eqns:
            made = self.equation(eqn, [read(atom) for atom in eqn.invars])
            known |= zip(eqn.outvars, made, strict=True)
        return [read(atom) for atom in inner.outvars]

    def equation(self, eqn: Any, operands: list[str]) -> list[str]:
        """Return the hashes of what one operation makes."""
        name, params = eqn.primitive.name, eqn.params
        if (inner := jaxprs.called(eqn)) is not None:
            return self.outputs(inner, operands)
        if name == "cond":
            return self.branches(params["branches"], operands)
        if name == "scan":
            return self.scan(params, operands)
        if name == "while":
            return self.loop(params, operands)
        if id(eqn) not in self.settings:
            self.settings[id(eqn)] = eqn, self.written(params)
        text = self.settings[id(eqn)][1]
        if name == "add" and hasattr(eqn.invars[1], "val") and _is_integer(eqn.invars[1].aval):
            literal = np.asarray(eqn.invars[1].val, eqn.invars[1].aval.dtype)
            return [self.sum(_Sum(operands[0], literal, text))]
        whole = _hash(name, text, operands)
        return [_hash(whole, k) for k in range(len(eqn.outvars))]

    def sum(self, found: _Sum) -> str:
        """Return the hash of an integer plus a constant, and remember the two terms."""
        made = _hash(_hash("add", found.settings, [found.base, _literal(found.constant)]), 0)
        self.sums[made] = found
        return made

    def branches(self, branches: Sequence[Program], operands: list[str]) -> list[str]:
        """Hash a conditional: outputs equal in every branch do not depend on the condition."""
        each = [self.outputs(branch, operands[1:]) for branch in branches]
        return [
            ways[0] if len(set(ways)) == 1 else _hash("cond", operands[0], ways)
            for ways in zip(*each, strict=True)
        ]

    def scan(self, params: Mapping[str, Any], operands: list[str]) -> list[str]:
        """Hash a loop of known length. Integers that only count become what they count up to."""
        consts, carried = _sizes(params)
        fixed, starts = operands[:consts], operands[consts : consts + carried]
        slices = [_hash("slice", operand) for operand in operands[consts + carried :]]
        body, how = params["jaxpr"], (params["length"], params["reverse"])
        labels = self.refined(body, fixed, starts, slices)
        made = self.outputs(body, [*fixed, *labels, *slices])
        ends = []
        for start, label, after in zip(starts, labels, made, strict=False):
            counted = self.sums.get(after)
            if counted is not None and counted.base == label:
                total = counted.constant * np.asarray(params["length"], counted.constant.dtype)
                ends.append(self.sum(_Sum(start, total, counted.settings)))
            else:
                ends.append(_hash("scan", how, label))
        return ends + [_hash("stacked", how, y) for y in made[carried:]]

    def loop(self, params: Mapping[str, Any], operands: list[str]) -> list[str]:
        """Hash a loop that goes on as long as a condition holds."""
        tests, fixed = params["cond_nconsts"], params["body_nconsts"]
        starts = operands[tests + fixed :]
        labels = self.refined(params["body_jaxpr"], operands[tests : tests + fixed], starts, [])
        (going_on,) = self.outputs(params["cond_jaxpr"], [*operands[:tests], *labels])
        return [_hash("while", going_on, label) for label in labels]

    def refined(
        self, body: Program, fixed: list[str], starts: list[str], slices: list[str]
    ) -> list[str]:
        """Return the hashes of carried values, as the body sees them."""
        labels = [_hash("carried", start) for start in starts]
        for _ in range(ROUNDS):
            made = self.outputs(body, [*fixed, *labels, *slices])
            labels = [
                label if label == after else _hash("carried", start, after)
                for start, label, after in zip(starts, labels, made, strict=False)
            ]
        return labels

    def written(self, value: Any) -> str:
        """Write the settings of an operation so that equal ones are equal in every process."""
        if isinstance(value, Mapping):
            return ",".join(f"{k}={self.written(value[k])}" for k in sorted(value, key=str))
        if isinstance(value, jaxprs.PROGRAMS):
            inner: Any = getattr(value, "jaxpr", value)
            inputs = [_hash("input", k) for k in range(len(inner.invars))]
            return _hash("program", self.outputs(value, inputs))
        if isinstance(value, tuple | list):
            return f"({','.join(map(self.written, value))})"
        if isinstance(value, np.ndarray | jax.Array):
            return _constant(value)
        if isinstance(value, np.dtype):
            return str(value)
        if isinstance(value, type):
            return value.__name__
        if callable(value) and not isinstance(value, enum.Enum):
            return self.of_callback(value)
        text = repr(value)
        if " at 0x" in text:
            raise NotImplementedError(f"a setting of a primitive without a stable text: {text}")
        return text


def _sizes(scan: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many operands of a scan stay as they are, and how many it carries along."""
    if "num_consts" in scan:  # before jax 0.11
        return scan["num_consts"], scan["num_carry"]
    fixed, carried, _ = scan["ft_in"].unpack()
    return len(fixed.vals), len(carried.vals)


def _is_integer(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, jnp.integer))


def _constant(array: Any) -> str:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.asarray(array)
    if array.ndim == 0:
        return _literal(array)
    content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return _hash("constant", str(array.dtype), array.shape, content)


def _literal(array: np.ndarray) -> str:
    return _hash("literal", str(array.dtype), array.tolist())
