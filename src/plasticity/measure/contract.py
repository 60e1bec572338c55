"""What a network may be: the contract of all functions that measure one.

Parameters
    Any pytree: flax variables, NNX states, Equinox modules, dictionaries. Trained are its arrays of
    floating-point numbers; of flax variables those in the collection "params" alone, of an NNX
    state those that are an ``nnx.Param``, as in any training loop. ``trainable=`` says otherwise: a
    pytree of booleans, in which one boolean may stand for a whole branch, or a function of the
    parameters that returns such a pytree, as optax's masks are. All other leaves reach the network
    as they are: counters, keys of random numbers, running statistics, and what is no array, such as
    the activation function of an Equinox module.
Inputs
    An array, or a pytree of arrays, with one leading axis of examples in common. Integers stay
    integers: the indices of an embedding, the bytes of an image.
Outputs
    One array of floating-point numbers, (examples, ...). Where a network returns more, a tuple or a
    dictionary, ``output=`` picks the array: ``output=lambda made: made["logits"]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from plasticity.shapes import Array

Output = Callable[[Any], Array]
"""What a network returns → its predictions."""

COLLECTION = "params"
"""The collection of flax variables that is trained."""


def is_array(leaf: Any) -> bool:
    """Return whether a leaf is an array, of this or of numpy's kind.

    >>> import numpy as np
    >>> from plasticity.measure import contract
    >>> contract.is_array(np.ones(2)), contract.is_array(1.0)
    (True, False)
    """
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def is_floating(leaf: Any) -> bool:
    """Return whether a leaf is an array of floating-point numbers.

    >>> import numpy as np
    >>> from plasticity.measure import contract
    >>> contract.is_floating(np.ones(2)), contract.is_floating(np.arange(2))
    (True, False)
    """
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


class Held:
    """Anything as a static argument of a program: compared by its value, or else by identity."""

    def __init__(self, value: Any) -> None:
        """Hold a value, which may have no hash."""
        self.value = value
        try:
            self.hash: int | None = hash(value)
        except TypeError:
            self.hash = None

    def __hash__(self) -> int:
        """Hash the value, or its identity."""
        return id(self.value) if self.hash is None else self.hash

    def __eq__(self, other: object) -> bool:
        """Compare the values, or their identities."""
        if not isinstance(other, Held):
            return NotImplemented
        if self.hash is None or other.hash is None:
            return self.value is other.value
        return self.value is other.value or bool(self.value == other.value)


@dataclass(frozen=True)
class Frame:
    """The structure of parameters, with the leaves that are no arrays in their places."""

    structure: Any
    leaves: tuple[Held, ...]  # TRAINED and OTHER where an array stands


TRAINED, OTHER = Held("trained"), Held("other")


class Divided(NamedTuple):
    """Parameters in three parts: `together` makes them whole again."""

    trained: Any  # the structure of the parameters, None where a leaf is not trained
    others: tuple[Any, ...]  # arrays that are not trained
    frame: Frame  # the rest; a static argument


def divide(params: Any, trainable: Any = None) -> Divided:
    """Divide parameters into what is trained, other arrays, and the rest.

    ``trainable`` is None, a pytree of booleans that is a prefix of the parameters, or a function of
    the parameters that returns one; False keeps a branch as it is, True trains its arrays of
    floating-point numbers. Raises ValueError if nothing is trained, if a parameter is complex, or
    if ``trainable`` does not fit.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import contract
    >>> variables = {"params": {"w": jnp.ones(2)}, "batch_stats": {"mean": jnp.zeros(2)}}
    >>> contract.divide(variables).trained["batch_stats"]
    {'mean': None}
    >>> contract.divide(variables, trainable=True).others
    ()
    """
    leaves, structure = jax.tree.flatten(params)
    masked = _masked(params, trainable)
    chosen = [wanted and is_floating(leaf) for wanted, leaf in zip(masked, leaves, strict=True)]
    if any(is_array(leaf) and jnp.iscomplexobj(leaf) for leaf in leaves):
        raise ValueError("there are complex parameters: split them into real and imaginary parts")
    if not any(chosen) and any(map(is_floating, leaves)) and trainable is not None:
        raise ValueError("trainable leaves no parameters that are trained")
    if not any(chosen):
        found = ", ".join(map(kind, leaves[:5])) or "nothing"
        raise ValueError(
            "there are no parameters that are trained, that is no arrays of floating-point numbers"
            f" (there is {found}): pass the parameters that are trained, or say trainable="
        )
    trained = [leaf if one else None for one, leaf in zip(chosen, leaves, strict=True)]
    others = [leaf for one, leaf in zip(chosen, leaves, strict=True) if is_array(leaf) and not one]
    rest = [
        TRAINED if one else OTHER if is_array(leaf) else Held(leaf)
        for one, leaf in zip(chosen, leaves, strict=True)
    ]
    whole = params if all(chosen) else jax.tree.unflatten(structure, trained)
    return Divided(whole, tuple(others), Frame(structure, tuple(rest)))


def _masked(params: Any, trainable: Any) -> list[bool]:
    """Return for each leaf whether it may be trained."""
    if trainable is None and isinstance(params, Mapping) and COLLECTION in params:
        paths = [path for path, _ in jax.tree.flatten_with_path(params)[0]]
        return [getattr(path[0], "key", None) == COLLECTION for path in paths]
    if trainable is None:
        variables = jax.tree.map(_of_variable, params, is_leaf=_is_variable)
        return jax.tree.leaves(variables)
    if callable(trainable) and not _is_mask(trainable):
        trainable = trainable(params)

    def spread(one: Any, branch: Any) -> Any:
        if not _is_boolean(one):
            raise ValueError(f"trainable: {' '.join(repr(one).split())} is no boolean")
        return jax.tree.map(lambda leaf: bool(one), branch)

    try:
        return jax.tree.leaves(jax.tree.map(spread, trainable, params))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"trainable does not fit the parameters, of which it must be a prefix: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _is_boolean(one: Any) -> bool:
    if is_array(one):
        return bool(one.dtype == bool) and one.ndim == 0
    return isinstance(one, bool)


def _is_mask(trainable: Any) -> bool:
    """Return whether it is a pytree of booleans, as an Equinox module may be, which is callable."""
    leaves = jax.tree.leaves(trainable)
    return bool(leaves) and all(map(_is_boolean, leaves))


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def _of_variable(node: Any) -> Any:
    kept = not _is_variable(node) or isinstance(node, nnx.Param)
    return jax.tree.map(lambda leaf: kept, node)


def together(trained: Any, others: tuple[Any, ...], frame: Frame) -> Any:
    """Return the parameters that `divide` divided, with other values if ``trained`` has others.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import contract
    >>> divided = contract.divide({"w": jnp.ones(()), "steps": jnp.array(3), "f": abs})
    >>> contract.together(divided.trained, divided.others, divided.frame)["f"](-2)
    2
    """
    learned, kept = iter(jax.tree.leaves(trained)), iter(others)
    leaves = [
        next(learned) if one is TRAINED else next(kept) if one is OTHER else one.value
        for one in frame.leaves
    ]
    return jax.tree.unflatten(frame.structure, leaves)


def predictions(made: Any, output: Any = None) -> Array:
    """Return a network's predictions from what it returned; ``output`` is an `Output` or None.

    Raises ValueError if that is not one array of floating-point numbers.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import contract
    >>> contract.predictions((jnp.ones(2), "more"), output=lambda made: made[0]).tolist()
    [1.0, 1.0]
    """
    if output is not None and not callable(output):
        raise ValueError(f"output= is {kind(output)}: it must be a function that picks an array")
    found = made if output is None else output(made)
    if not is_array(found):
        raise ValueError(
            f"the network returns {kind(found)}: output= must pick its predictions, one array, "
            "such as output=lambda made: made[0]"
        )
    if not is_floating(found):
        raise ValueError(f"the network's predictions are {kind(found)}: they need a gradient")
    return jnp.asarray(found)


def inputs(given: Any, what: str = "inputs") -> tuple[Any, int]:
    """Return a network's inputs as numpy arrays in their structure, and how many examples they are.

    Nested lists of numbers are one array. Raises ValueError, calling them ``what``, if there is no
    example, if leading axes differ, or for values that are not finite or no numbers.

    >>> from plasticity.measure import contract
    >>> contract.inputs([[1, 2], [3, 4], [5, 6]])[1]
    3
    """
    leaves = jax.tree.leaves(given)
    plain = not any(map(is_array, leaves)) and not isinstance(given, Mapping)
    arrays = np.asarray(given) if plain else jax.tree.map(np.asarray, given)
    shapes = [leaf.shape for leaf in jax.tree.leaves(arrays)]
    if len(shapes) == 0 or not all(shape and shape[0] for shape in shapes):
        found = shapes[0] if len(shapes) == 1 else shapes
        raise ValueError(f"{what} of shape {found}: need at least one")
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"{what} of shapes {shapes}: each needs the same number of examples on its first axis"
        )
    for leaf in jax.tree.leaves(arrays):
        if leaf.dtype == object or leaf.dtype.kind in "USmM":
            raise ValueError(f"{what} of type {leaf.dtype}: they must be numbers")
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not (finite := np.isfinite(leaf)).all():
            raise ValueError(f"{np.sum(~finite)} of the {what}' values are not finite")
    return arrays, int(shapes[0][0])


def kind(found: Any) -> str:
    """Return the words for a value in an error.

    >>> from plasticity.measure import contract
    >>> contract.kind((1, 2))
    'a tuple of 2'
    """
    if is_array(found):
        return f"an array of {found.dtype}"
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of {len(found)}"
    if isinstance(found, Mapping):
        return f"a mapping of {', '.join(map(str, found))}"
    return f"a {type(found).__name__}"
