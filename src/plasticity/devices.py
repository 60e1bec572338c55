"""Which of several equivalent forms of a computation is the fastest on this kind of device.

Measured, not guessed (`benchmarks/`). What a function returns does not depend on the choice, up to
rounding; tests compare the forms with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax

_AS_IF: ContextVar[str | None] = ContextVar("_AS_IF", default=None)


def is_cpu() -> bool:
    """Return whether computations run on the CPU unless told otherwise.

    >>> from plasticity import devices
    >>> "lax.map" if devices.is_cpu() else "vmap"
    '...map'
    """
    return (_AS_IF.get() or jax.default_backend()) == "cpu"


@contextmanager
def as_if(platform: str) -> Iterator[None]:
    """Within it functions take the form that is the fastest on another kind of device.

    To look at what would run there, on a machine that has none.

    >>> from plasticity import devices
    >>> with devices.as_if("gpu"):
    ...     devices.is_cpu()
    False
    """
    token = _AS_IF.set(platform)
    try:
        yield
    finally:
        _AS_IF.reset(token)


def map_lanes(function: Callable[..., Any], *lanes: Any) -> Any:
    """Apply ``function`` to each slice along the leading axis of ``lanes``; stack what it returns.

    One at a time on a CPU, where batched small matrix products are slower than single ones; all at
    once (`jax.vmap`) on an accelerator. Raises ValueError if the leading axes differ.

    >>> import jax.numpy as jnp
    >>> from plasticity import devices
    >>> devices.map_lanes(jnp.vdot, jnp.ones((3, 2)), jnp.ones((3, 2))).tolist()
    [2.0, 2.0, 2.0]
    """
    counts = {leaf.shape[0] for leaf in jax.tree.leaves(lanes)}
    if len(counts) != 1:
        raise ValueError(f"the leading axes differ: {sorted(counts)}")
    if is_cpu():
        return jax.lax.map(lambda lane: function(*lane), lanes)
    return jax.vmap(function)(*lanes)
