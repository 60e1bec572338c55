"""A mapping from any comparable keys to arrays, which jax treats as a tree of these arrays.

jax sorts the keys of a dictionary, and networks cannot be sorted; here keys are part of the tree's
structure, in the order of insertion.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import jax


@jax.tree_util.register_pytree_node_class
class ByKey(Mapping[Hashable, Any]):
    """Arrays by key: an immutable dictionary, and a pytree of its values."""

    def __init__(self, found: Mapping[Any, Any]) -> None:
        """Copy the mapping."""
        self._found = dict(found)

    def __getitem__(self, key: Hashable) -> Any:
        """Return the value of ``key``. Raises KeyError, naming the key, if there is none."""
        if key not in self._found:
            raise KeyError(f"nothing for {key}: there are {', '.join(map(str, self._found))}")
        return self._found[key]

    def __iter__(self) -> Iterator[Hashable]:
        """Iterate over the keys."""
        return iter(self._found)

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._found)

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Hashable, ...]]:
        """Return the values, and the keys as structure."""
        return tuple(self._found.values()), tuple(self._found)

    @classmethod
    def tree_unflatten(cls, keys: tuple[Hashable, ...], values: tuple[Any, ...]) -> ByKey:
        """Return the mapping with these values."""
        return cls(dict(zip(keys, values, strict=True)))
