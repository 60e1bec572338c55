"""Which layers a flax network has and which feeds which, found by listening to one pass.

A cure that acts on single units needs to know where a unit is among the parameters: the column of
the kernel that computes it, its bias, and the rows of the kernels that read it. `wirings` finds
that for flax's linen networks; for any other, write each hidden layer's `Wiring` by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from plasticity.shapes import Array, Float

# Names of modules from the outermost inwards, as in the tree of parameters. No docstring: Sphinx
# would link to the source of `tuple`.
Path = tuple[str, ...]


@dataclass(frozen=True)
class Wiring:
    """Where the units of one hidden layer are among the parameters.

    Paths lead to leaves, such as ``params/Dense_0/kernel``: see `leaf_paths`. Units lie on the last
    axis of ``incoming`` and on the last but one of each ``outgoing`` kernel. In a dense layer that
    reads a flattened map, a unit (channel) has one row per position: every ``units``-th row, in the
    order in which height, width, channels are flattened.

    >>> from plasticity.networks.trace import Wiring
    >>> kernels = ("params/Dense_0/kernel", "params/Dense_1/kernel")
    >>> Wiring(kernels[0], "params/Dense_0/bias", outgoing=kernels[1:], units=8).outgoing
    ('params/Dense_1/kernel',)
    """

    incoming: str
    bias: str | None
    outgoing: tuple[str, ...]
    units: int


class _Call(NamedTuple):
    """One call of a layer that has a kernel."""

    seen: Any  # its input
    made: Any  # its output


def last_layer(network: nn.Module, variables: Any, inputs: Array) -> Path:
    """Return the path of the layer that is computed last, among layers with a kernel.

    Nothing is computed. Raises ValueError if no layer has one.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks import architectures, trace
    >>> network, x = architectures.MLP((8, 4), outputs=2), jnp.ones((5, 3))
    >>> trace.last_layer(network, network.init(jax.random.key(0), x), x)
    ('Dense_2',)
    """
    calls: list[Path] = []
    with nn.intercept_methods(_listen(lambda path, call: calls.append(path))):
        jax.eval_shape(network.apply, variables, inputs)
    if not calls:
        raise ValueError(f"no layer of {type(network).__name__} has a kernel")
    return calls[-1]


def _listen(
    heard: Callable[[Path, _Call], Any], instead: dict[Path, Any] | None = None
) -> Callable[..., Any]:
    """Return an interceptor that reports each call of a layer with a kernel to ``heard``.

    A layer that is in ``instead`` returns the value there instead of what it computes.
    """

    def listen(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not module.has_variable("params", "kernel"):
            return proceed(*args, **kwargs)
        made = proceed(*args, **kwargs) if instead is None else instead[module.path]
        heard(module.path, _Call(args[0], made))
        return made

    return listen


def wirings(network: nn.Module, variables: Any, inputs: Array) -> tuple[Wiring, ...]:
    """Return the wiring of each hidden layer, in the order in which they are computed.

    For networks whose layers with kernels feed each other through nonlinearities, normalisation,
    pooling and flattening. Nothing is computed. Raises ValueError, naming the layer, if it is used
    twice, if something is added to its units on the way (a residual network), or if its units are
    reordered or joined with others (concatenation, attention).

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks import architectures, trace
    >>> network, x = architectures.MLP((8, 4), outputs=2), jnp.ones((5, 3))
    >>> first, second = trace.wirings(network, network.init(jax.random.key(0), x), x)
    >>> first.incoming, first.outgoing, first.units
    ('params/Dense_0/kernel', ('params/Dense_1/kernel',), 8)
    """
    shapes: dict[Path, Any] = {}
    with nn.intercept_methods(_listen(lambda path, call: _add(shapes, path, call.made))):
        jax.eval_shape(network.apply, variables, inputs)
    feeds = _feeds(network, variables, inputs, shapes)
    found = []
    for path, made in shapes.items():
        readers = [reader for reader, sources in feeds.items() if path in sources]
        if not readers:  # an output layer
            continue
        units = made.shape[-1]
        for reader in readers:
            if len(feeds[reader]) > 1:
                raise ValueError(
                    f"layer {'/'.join(reader)} reads a sum or mixture of "
                    f"{', '.join('/'.join(source) for source in sorted(feeds[reader]))}: "
                    "units of such layers cannot be told apart"
                )
            fan_in = _layer(variables, reader)["kernel"].shape[-2]
            flat = made.ndim == 2  # no positions: each unit is read once
            if fan_in % units or (flat and fan_in != units):
                raise ValueError(
                    f"layer {'/'.join(reader)} reads {fan_in} features of the {units} units of "
                    f"{'/'.join(path)}: they may be grouped, repeated or left out"
                )
        bias = _name(path, "bias") if "bias" in _layer(variables, path) else None
        outgoing = tuple(_name(reader, "kernel") for reader in readers)
        found.append(Wiring(_name(path, "kernel"), bias, outgoing, units))
    return tuple(found)


def unit_activations(
    network: nn.Module, wiring: tuple[Wiring, ...]
) -> Callable[[Any, Array], tuple[Float[Array, "_ _"], ...]]:
    """Return ``hidden(params, x)``: each layer's units as the next layer reads them, (rows, units).

    A row is an example or, for a convolutional layer, an example at a position.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.networks import architectures, trace
    >>> network, x = architectures.MLP((8, 4), outputs=2), jnp.ones((5, 3))
    >>> params = network.init(jax.random.key(0), x)
    >>> hidden = trace.unit_activations(network, trace.wirings(network, params, x))
    >>> [layer.shape for layer in hidden(params, x)]
    [(5, 8), (5, 4)]
    """
    readers = {layer.outgoing[0]: k for k, layer in enumerate(wiring)}

    def hidden(params: Any, x: Array) -> tuple[Array, ...]:
        seen: dict[int, Array] = {}

        def heard(path: Path, call: _Call) -> None:
            k = readers.get(_name(path, "kernel"))
            if k is not None:
                seen[k] = call.seen.reshape(-1, wiring[k].units)

        with nn.intercept_methods(_listen(heard)):
            network.apply(params, x)
        return tuple(seen[k] for k in range(len(wiring)))

    return hidden


def leaf_paths(tree: Any) -> dict[str, Array]:
    """Return the leaves of any pytree by path, such as ``params/Dense_0/kernel``.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks.trace import leaf_paths
    >>> list(leaf_paths({"params": {"Dense_0": {"kernel": jnp.ones((3, 8))}}}))
    ['params/Dense_0/kernel']
    """
    flat, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _add(shapes: dict[Path, Any], path: Path, made: Any) -> None:
    if path in shapes:
        raise ValueError(f"layer {'/'.join(path)} is used twice: its units have two sets of rows")
    shapes[path] = made


def _name(path: Path, leaf: str) -> str:
    return "/".join(("params", *path, leaf))


def _layer(variables: Any, path: Path) -> Any:
    layer = variables["params"]
    for part in path:
        layer = layer[part]
    return layer


INPUTS: Path = ("the inputs",)
"""Stands for the network's inputs where a layer's path is expected."""

MIXING = {
    "concatenate", "dot_general", "transpose", "gather", "rev", "sort", "conv_general_dilated"
}  # fmt: skip
"""Operations between two layers that may move units to other places."""


def _feeds(
    network: nn.Module, variables: Any, inputs: Array, shapes: dict[Path, Any]
) -> dict[Path, set[Path]]:
    """Return for each layer the layers whose outputs reach it without passing through another.

    They include `INPUTS` where the network's own inputs reach it, with or without other layers.
    Outputs are cut: each layer returns an input of the traced function instead of what it computes.
    """
    order = list(shapes)

    def seen(made: list[Any], variables: Any, inputs: Any) -> list[Any]:
        heard: dict[Path, Any] = {}
        cut = dict(zip(order, made, strict=True))
        with nn.intercept_methods(_listen(lambda path, call: heard.update({path: call.seen}), cut)):
            network.apply(variables, inputs)
        return [heard[path] for path in order]

    made = [shapes[path] for path in order]
    traced = jax.make_jaxpr(seen)(made, variables, inputs).jaxpr
    sources: dict[Any, set[Path]] = {v: {p} for v, p in zip(traced.invars, order, strict=False)}
    given = len(jax.tree.leaves(inputs))
    sources |= {v: {INPUTS} for v in traced.invars[len(traced.invars) - given :]}
    for eqn in traced.eqns:
        read: set[Path] = set()
        for atom in eqn.invars:
            read |= set() if hasattr(atom, "val") else sources.get(atom, set())
        mixes = {name for name in _primitives(eqn) if name in MIXING}
        result: Any = eqn.outvars[0].aval
        if read - {INPUTS} and mixes and math.prod(result.shape) > 0:
            raise ValueError(
                f"the units of {', '.join('/'.join(path) for path in sorted(read))} pass through "
                f"{', '.join(sorted(mixes))} on the way to the next layer: where they are there is "
                "not known"
            )
        sources |= {variable: read for variable in eqn.outvars}
    return {
        path: sources.get(atom, set()) for path, atom in zip(order, traced.outvars, strict=True)
    }


def _primitives(eqn: Any) -> set[str]:
    """Return the names of an operation and of all operations inside it."""
    found = {eqn.primitive.name}
    for value in eqn.params.values():
        inner = getattr(value, "jaxpr", value)
        for other in getattr(inner, "eqns", ()):
            found |= _primitives(other)
    return found
