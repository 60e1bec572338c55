"""What compiling costs: how long it took, and a cache so that it is paid once."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import jax.monitoring

EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
"""What counts: tracing a function, lowering it, and compiling it or reading it from a cache."""


def seconds() -> float:
    """Return the time spent on compiling since this was first called.

    >>> import jax
    >>> from plasticity.runs import compiling
    >>> before = compiling.seconds()
    >>> _ = jax.jit(lambda x: x + 1)(1.0)
    >>> compiling.seconds() > before
    True
    """
    return _heard()[0]


def cached(folder: Path) -> dict[str, str]:
    """Return the environment of a process that keeps compiled programs in ``folder``.

    It is empty if the user has named another folder. Processes that share the folder need not
    compile what one of them has, and a run that is resumed need not compile again.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return {}
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder.absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


@cache
def _heard() -> list[float]:
    total = [0.0]

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event in EVENTS:
            total[0] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    return total
