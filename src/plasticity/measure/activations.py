"""What the layers of a JAX network compute, found without the network's help.

A layer is a matrix product or convolution of parameters with something that is not made of
parameters alone. That something is the activations of the layer before it: after the nonlinearity,
and after any normalisation, pooling or dropout. So a network needs no hook and may be written in
any framework: linen, NNX, Equinox, Haiku or plain functions. Layers within `jax.lax.scan`,
loops and conditions are not seen; a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from plasticity import jaxprs
from plasticity.shapes import Array, Float

LAYERS = ("dot_general", "conv_general_dilated")
"""The operations that layers are made of."""


def of_layers(
    apply: Callable[[Any, Any], Any], params: Any, x: Any
) -> tuple[Float[Array, "batch _"], ...]:
    """Return what each layer but the first reads for a batch, flattened, in order; jittable.

    Products of activations with each other, as in attention, are no layers. An input that several
    layers share, as the queries and keys of attention do, is returned once. Raises ValueError for a
    network without hidden layers.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from plasticity.measure import activations, units
    >>> network = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(1)])
    >>> params = network.init(jax.random.key(0), jnp.ones((8, 2)))
    >>> hidden = activations.of_layers(network.apply, params, jnp.ones((8, 2)))
    >>> [layer.shape for layer in hidden], float(units.dead_units(hidden[0]))
    ([(8, 4)], 0.5)
    """
    n = len(jax.tree.leaves(x)[0])
    more = jax.eval_shape(
        lambda x: jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), x), x
    )
    found = []
    shapes = jax.eval_shape(lambda params, x: _read(apply, params, x), params, more)
    for signal, longer in zip(_read(apply, params, x), shapes, strict=True):
        # One more example makes the axis of examples longer, wherever vmap put that axis.
        grown = [k for k, m in enumerate(longer.shape) if m != signal.shape[k]]
        if len(grown) == 1 and signal.shape[grown[0]] == n:
            found.append(jnp.moveaxis(signal, grown[0], 0).reshape(n, -1))
    if not found:
        raise ValueError("the network has no hidden layer: nothing that a second layer reads")
    return tuple(found)


def _read(apply: Callable[[Any, Any], Any], params: Any, x: Any) -> list[Array]:
    """Return what each layer but the first reads, in the shape in which it is read."""
    closed = jax.make_jaxpr(apply)(params, x)
    n_params = len(jax.tree.leaves(params))
    inputs = [*jax.tree.leaves(params), *jax.tree.leaves(x)]
    known = [_Known(value, k < n_params, False) for k, value in enumerate(inputs)]
    reader = _Reader()
    reader.read(closed.jaxpr, closed.consts, known)
    if reader.hidden:
        warnings.warn(
            f"layers within {', '.join(sorted(reader.hidden))} are not seen: let the network "
            "return its activations with its predictions",
            stacklevel=4,
        )
    return reader.kept


def _is_program(value: Any) -> bool:
    return isinstance(value, jaxprs.PROGRAMS)


def _has_layers(program: Any) -> bool:
    """Return whether an operation's parameter is a program in which there are matrix products."""
    if not _is_program(program):
        return False
    eqns = getattr(program, "jaxpr", program).eqns
    return any(
        eqn.primitive.name in LAYERS
        or any(map(_has_layers, jax.tree.leaves(eqn.params, is_leaf=_is_program)))
        for eqn in eqns
    )


class _Known:
    """An intermediate value: whether it depends on parameters alone, and whether on any layer."""

    def __init__(self, value: Any, of_params: bool, of_layers: bool) -> None:
        self.value, self.of_params, self.of_layers = value, of_params, of_layers


class _Reader:
    """Evaluates a traced network, and keeps what its layers read."""

    def __init__(self) -> None:
        self.kept: list[Array] = []
        self.hidden: set[str] = set()  # operations with layers of their own

    def read(self, program: Any, consts: Sequence[Any], inputs: Sequence[_Known]) -> list[_Known]:
        """Evaluate a program and return its outputs."""
        known: dict[Any, _Known] = dict(zip(program.invars, inputs, strict=True))
        known |= {v: _Known(c, True, False) for v, c in zip(program.constvars, consts, strict=True)}

        def look(atom: Any) -> _Known:
            return _Known(atom.val, True, False) if hasattr(atom, "val") else known[atom]

        for eqn in program.eqns:
            read = [look(atom) for atom in eqn.invars]
            known |= zip(eqn.outvars, self.evaluate(eqn, read), strict=True)
        return [look(atom) for atom in program.outvars]

    def evaluate(self, eqn: Any, read: Sequence[_Known]) -> list[_Known]:
        """Evaluate one operation; if it is a layer, keep what it reads."""
        if (inner := jaxprs.called(eqn)) is not None:
            consts = getattr(inner, "consts", ())
            return self.read(getattr(inner, "jaxpr", inner), consts, read)
        if any(map(_has_layers, jax.tree.leaves(eqn.params, is_leaf=_is_program))):
            self.hidden.add(eqn.primitive.name)
        is_layer = eqn.primitive.name in LAYERS and read[0].of_params != read[1].of_params
        if is_layer:
            (signal,) = (known for known in read[:2] if not known.of_params)
            self.keep(signal)
        made = eqn.primitive.bind(*(known.value for known in read), **eqn.params)
        outputs = made if eqn.primitive.multiple_results else [made]
        of_params = all(known.of_params for known in read)
        behind = is_layer or any(known.of_layers for known in read)
        return [_Known(value, of_params, behind) for value in outputs]

    def keep(self, signal: _Known) -> None:
        """Keep an activation that layers made, once."""
        if signal.of_layers and not any(signal.value is value for value in self.kept):
            self.kept.append(signal.value)
