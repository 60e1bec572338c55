"""A loss as a function of one vector, which holds the parameters that are trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from plasticity.measure import contract
from plasticity.shapes import Array


def _raveled(params: Any, trainable: Any) -> tuple[Array, Callable[[Array], Any]]:
    """Return what is trained as a vector, and the function that makes parameters of such a one.

    Numbers of half precision are of single precision in the vector: no factorisation takes them.
    """
    trained, others, frame = contract.divide(params, trainable)
    kinds = [jnp.result_type(leaf) for leaf in jax.tree.leaves(trained)]
    flat, unravel = ravel_pytree(jax.tree.map(_at_least_single, trained))

    def whole(theta: Array) -> Any:
        leaves, structure = jax.tree.flatten(unravel(theta))
        cast = [leaf.astype(kind) for leaf, kind in zip(leaves, kinds, strict=True)]
        return contract.together(jax.tree.unflatten(structure, cast), others, frame)

    return flat, whole


def _at_least_single(leaf: Any) -> Array:
    """Return an array in float32 if it is in less."""
    return leaf.astype(jnp.float32) if jnp.result_type(leaf).itemsize < 4 else jnp.asarray(leaf)


def _examples(batch: Any) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"the batch's leaves have shapes {shapes}: each needs the same number of examples, at "
            "least one, on its leading axis"
        )
    return sizes.pop()


def _check_loss(
    value: Callable[[Array, Any], Array], flat: Array, batch: Any, chunk_size: int | None
) -> None:
    _check_scalar(value, flat, batch, "it must be the mean over the batch")
    leaves = [flat, *jax.tree.leaves(batch)]
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return
    whole = float(value(flat, batch))
    if not np.isfinite(whole):
        raise ValueError(f"the loss is {whole}: it has no curvature there")
    if chunk_size is not None:
        # and elsewhere: a sum of zeros is their mean
        step = jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)
        for theta in (flat, flat + 0.01 * (1 + jnp.abs(flat)) * step):
            _check_mean(partial(value, theta), flat[0], batch, chunk_size)


def _check_mean(value: Callable[[Any], Array], zero: Array, batch: Any, chunk_size: int) -> None:
    """Raise ValueError if a loss of the batch is not the mean of the losses of its chunks."""
    whole = float(value(batch))
    mean = float(_in_chunks(lambda _, part: value(part), batch, chunk_size)(zero))
    # exact but for rounding, of which half precision has three digits
    if abs(mean - whole) > 0.01 * max(abs(mean), abs(whole)):
        raise ValueError(
            f"the loss of the batch is {whole:.6g}, and the mean of the losses of its chunks is "
            f"{mean:.6g}: in chunks it must be a mean over the examples, not a sum, and examples "
            "must not see each other"
        )


def _check_scalar(
    value: Callable[[Array, Any], Array],
    flat: Array,
    batch: Any,
    rule: str = "it must be one number",
) -> None:
    found: Any = jax.eval_shape(value, flat, batch)
    if not hasattr(found, "shape"):
        raise ValueError(f"the loss is {contract.kind(found)}: it must be a number, without more")
    if found.shape != ():
        raise ValueError(f"the loss has shape {found.shape}: {rule}")
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(f"the loss is of type {found.dtype}: it needs a gradient")


def _in_chunks(
    of_part: Callable[[Array, Any], Array], batch: Any, size: int
) -> Callable[[Array], Array]:
    """Return the mean over all examples of a product, from parts that are means over a chunk."""
    if size < 1:
        raise ValueError(f"chunk_size = {size}: must be above 0")
    examples = _examples(batch)
    size = min(size, examples)
    whole = examples // size
    rest = examples - whole * size
    parts = jax.tree.map(lambda x: x[: whole * size].reshape(whole, size, *x.shape[1:]), batch)
    last = jax.tree.map(lambda x: x[whole * size :], batch)

    def product(vector: Array) -> Array:
        def add(total: Array, part: Any) -> tuple[Array, None]:
            return total + of_part(vector, part), None

        total, _ = jax.lax.scan(add, jnp.zeros_like(vector), parts)
        total = total * (size / examples)
        return total + of_part(vector, last) * (rest / examples) if rest else total

    return product
