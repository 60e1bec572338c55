"""Inner products of per-example gradients, layer by layer, without holding the gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from plasticity import devices
from plasticity.measure import contract, gradients
from plasticity.measure.gradients import Covariance
from plasticity.networks import convolution
from plasticity.shapes import Array, Float

ExampleLoss = Callable[[Any, Any], Float[Array, " examples"]]
"""(what the network returns for a batch, targets) → the loss of each example."""

HELD = 2**26
"""Gradient entries that are held at once: 256 MiB of float32."""


def covariance(
    network: nn.Module, params: Any, inputs: Array, example_loss: ExampleLoss, targets: Any
) -> Covariance:
    """Return C_k (Eq. 3) of a linen network, layer by layer; arguments and errors as of `gram`.

    Cosines do not depend on the sizes of the gradients. Their inner products, which `gram` returns,
    vanish in float32 from gradients of 1e-20 on, as a classifier's are that has memorised its
    labels. So each example's loss is first brought to a derivative of one at the output.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from plasticity.measure import inner_products
    >>> network, x, y = nn.Dense(1), jnp.eye(2), 1e-25 * jnp.ones((2, 1))
    >>> params = network.init(jax.random.key(0), x)
    >>> found = inner_products.covariance(
    ...     network, params, x, lambda made, y: (made * y).sum(axis=1), y
    ... )
    >>> found.cosines.round(2).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    made = network.apply(params, inputs)
    slopes = jax.grad(lambda made: jnp.sum(example_loss(made, targets)))(made)
    flat = [jnp.abs(slope).reshape(len(inputs), -1) for slope in jax.tree.leaves(slopes)]
    size = jnp.max(jnp.concatenate(flat, axis=1), axis=1)
    unit = jnp.where((size >= np.finfo(size.dtype).tiny) & jnp.isfinite(size), size, 1)

    def in_units(made: Any, given: tuple[Any, Array]) -> Float[Array, " examples"]:
        targets, unit = given
        losses: Array = example_loss(made, targets) / unit
        return losses

    found = gradients.covariance(gram(network, params, inputs, in_units, (targets, unit)))
    return found._replace(norms=found.norms * unit)


def gram(
    network: nn.Module, params: Any, inputs: Array, example_loss: ExampleLoss, targets: Any
) -> Float[Array, "k k"]:
    """Return the inner products of the gradients of each example's loss, layer by layer.

    ``example_loss`` takes what ``network.apply(params, inputs)`` returns and ``targets``. Examples
    must not see each other: no batch normalisation. Layers of kinds other than `flax.linen.Dense`,
    `Conv`, `LayerNorm` and `GroupNorm`, and layers that are used more than once, are computed from
    per-example gradients, leaf by leaf: that holds k gradients of the largest such leaf. Raises
    ValueError for an empty batch, for ``params`` that are not the network's variables, or if there
    is not one loss per example. Small gradients vanish: see `covariance`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from plasticity.measure import inner_products
    >>> network, x, y = nn.Dense(1), jnp.eye(2), jnp.ones((2, 1))
    >>> params = network.init(jax.random.key(0), x)
    >>> inner_products.gram(network, params, x, lambda made, y: (made * y).sum(axis=1), y).tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """
    examples = inputs.shape[0]
    if examples < 1:
        raise ValueError("there are no examples")
    if not isinstance(params, Mapping) or contract.COLLECTION not in params:
        raise ValueError(
            f"params is {contract.kind(params)}: a linen network's variables have a collection "
            f"{contract.COLLECTION!r}; other networks have `pl.gradient_covariance`"
        )
    layers = _plain_layers(network, params, inputs)

    def total(offsets: dict[Path, Array]) -> tuple[Float[Array, ""], dict[Path, Array]]:
        seen: dict[Path, Array] = {}
        with nn.intercept_methods(_listen(layers, offsets, seen)):
            losses = example_loss(network.apply(params, inputs), targets)
        if losses.shape != (examples,):
            raise ValueError(f"losses of shape {losses.shape} for {examples} examples")
        return jnp.sum(losses), seen

    zeros = {path: jnp.zeros(layer.shape, layer.dtype) for path, layer in layers.items()}
    # The derivative by an offset on a layer's output is the gradient at that output. The sum over
    # examples keeps each example's gradient apart: examples do not see each other.
    deltas, seen = jax.grad(total, has_aux=True)(zeros)
    parts = [_of_layer(layer.module, seen[path], deltas[path]) for path, layer in layers.items()]
    parts += [
        _of_leaf(network, params, path, inputs, example_loss, targets)
        for path in _leaves(params)
        if path[:-1] not in layers
    ]
    return sum(parts, jnp.zeros(()))


Path = tuple[str, ...]


class _Layer(NamedTuple):
    module: nn.Module
    shape: tuple[int, ...]  # of its output
    dtype: Any


def _plain_layers(network: nn.Module, params: Any, inputs: Array) -> dict[Path, _Layer]:
    """Return the layers that `_of_layer` knows and that are called once, by their path."""
    layers: dict[Path, _Layer] = {}
    calls: dict[Path, int] = {}

    def listen(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
        found = proceed(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__":
            calls[module.path] = calls.get(module.path, 0) + 1
            if args and _is_plain(module, args[0], inputs.shape[0]):
                layers[module.path] = _Layer(
                    module.clone(parent=None, name=None), found.shape, found.dtype
                )
        return found

    with nn.intercept_methods(listen):
        jax.eval_shape(network.apply, params, inputs)
    return {path: layer for path, layer in layers.items() if calls[path] == 1}


def _is_plain(module: Any, x: Array, examples: int) -> bool:
    if jnp.ndim(x) < 2 or x.shape[0] != examples:
        return False
    kind = type(module)  # no subclasses: what they do is not known
    if kind is nn.Dense:
        return True
    if kind is nn.LayerNorm:
        return bool(module.feature_axes == -1)
    if kind is nn.GroupNorm:
        return True
    if kind is nn.Conv:
        grouped = module.feature_group_count != 1 or module.mask is not None
        dilations = (module.input_dilation, module.kernel_dilation)
        dilated = any(dilation not in (None, 1, (1, 1), [1, 1]) for dilation in dilations)
        named = module.padding in ("SAME", "VALID")
        return x.ndim == 4 and len(module.kernel_size) == 2 and named and not (grouped or dilated)
    return False


def _listen(
    layers: dict[Path, _Layer], offsets: dict[Path, Array], seen: dict[Path, Array]
) -> Callable[..., Any]:
    """Return an interceptor that notes each layer's input and adds to its output."""

    def listen(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
        found = proceed(*args, **kwargs)
        path = context.module.path
        if context.method_name == "__call__" and path in layers:
            seen[path] = args[0]
            found = found + offsets[path]
        return found

    return listen


def _of_layer(module: Any, x: Array, delta: Array) -> Float[Array, "k k"]:
    """Return the inner products of one layer's gradients, from its inputs and output gradients."""
    k, kind = x.shape[0], type(module)
    with jax.default_matmul_precision("highest"):
        if kind in (nn.LayerNorm, nn.GroupNorm):
            plain = module.clone(use_scale=False, use_bias=False)
            pieces = []
            if module.use_scale:
                pieces.append((plain.apply({}, x) * delta).reshape(k, -1, x.shape[-1]).sum(axis=1))
            if module.use_bias:
                pieces.append(delta.reshape(k, -1, x.shape[-1]).sum(axis=1))
            return sum((piece @ piece.T for piece in pieces), jnp.zeros((k, k), x.dtype))
        if kind is nn.Dense and x.ndim == 2:
            product: Array = (x @ x.T + module.use_bias) * (delta @ delta.T)
            return product
        spread = delta.reshape(k, -1, delta.shape[-1])  # positions as one axis
        if kind is nn.Dense:
            width, positions = x.shape[-1], x.reshape(k, -1, x.shape[-1])
            return _of_kernels(lambda h: h.T, positions, spread, width, module.use_bias)
        width = math.prod(module.kernel_size) * x.shape[-1]
        return _of_kernels(_patches(module), x, spread, width, module.use_bias)


def _patches(module: Any) -> Callable[[Array], Array]:
    """Return a function from an image to what the kernel sees of it, (entries, rows, columns)."""
    strides = np.broadcast_to(module.strides or 1, 2).tolist()

    def patches(image: Float[Array, "height width channels"]) -> Array:
        seen = convolution.patches(image[None], module.kernel_size, strides, module.padding)
        return seen[:, 0]

    return patches


def _of_kernels(
    seen: Callable[[Array], Array],
    x: Array,
    delta: Float[Array, "k positions out"],
    width: int,
    use_bias: bool,
) -> Float[Array, "k k"]:
    """Return the inner products of the kernels seen(x) delta, one (width, out) per example.

    A bias is one more row of the kernel, for an input that is always one.
    """
    k, _, out = delta.shape
    columns = max(1, HELD // (k * (width + use_bias)))

    def kernel(x: Array, delta: Float[Array, "positions out"]) -> Array:
        rows = seen(x).reshape(width, -1)
        if use_bias:
            rows = jnp.concatenate([rows, jnp.ones_like(rows[:1])])
        return rows @ delta

    total = jnp.zeros((k, k), delta.dtype)
    for begin in range(0, out, columns):
        kernels = devices.map_lanes(kernel, x, delta[..., begin : begin + columns])
        flat = kernels.reshape(k, -1)
        total = total + flat @ flat.T
    return total


def _leaves(params: Any) -> dict[Path, Array]:
    """Return the trained parameters by their path, without the name of their collection."""
    flat, _ = jax.tree.flatten_with_path(params["params"])
    return {tuple(step.key for step in path): leaf for path, leaf in flat}


def _of_leaf(
    network: nn.Module, params: Any, path: Path, inputs: Array, example_loss: ExampleLoss,
    targets: Any,
) -> Float[Array, "k k"]:  # fmt: skip
    """Return the inner products of one leaf's gradients, from per-example gradients."""
    flat, structure = jax.tree.flatten(params["params"])
    place = list(_leaves(params)).index(path)

    def loss(leaf: Array, x: Array, target: Any) -> Float[Array, ""]:
        leaves = [*flat[:place], leaf, *flat[place + 1 :]]
        changed = {**params, "params": jax.tree.unflatten(structure, leaves)}
        alone = jax.tree.map(lambda leaf: leaf[None], target)
        return example_loss(network.apply(changed, x[None]), alone)[0]

    gradients = devices.map_lanes(
        lambda x, target: jax.grad(loss)(flat[place], x, target), inputs, targets
    )
    rows: Array = gradients.reshape(inputs.shape[0], -1)
    with jax.default_matmul_precision("highest"):
        return rows @ rows.T
