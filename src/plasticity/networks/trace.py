"""Which layers a flax network is made of, found by listening to one forward pass."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from plasticity.shapes import Array

# Names of modules from the outermost inwards, as in the tree of parameters. No docstring: Sphinx
# would link to the source of `tuple`.
Path = tuple[str, ...]


def last_layer(network: nn.Module, variables: Any, inputs: Array) -> Path:
    """Return the path of the layer that is computed last among those that have a kernel.

    Nothing is computed. Raises ValueError if no layer has one.
    """
    called: list[Path] = []

    def listen(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
        found = proceed(*args, **kwargs)
        if context.method_name == "__call__" and context.module.has_variable("params", "kernel"):
            called.append(context.module.path)
        return found

    with nn.intercept_methods(listen):
        jax.eval_shape(network.apply, variables, inputs)
    if not called:
        raise ValueError(f"no layer of {type(network).__name__} has a kernel")
    return called[-1]
