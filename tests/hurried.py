"""How tests compile toys: most of their time is compiling, which need not be thorough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from plasticity import programs

P = ParamSpec("P")
R = TypeVar("R")

OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

UNFUSED = programs.supported(OPTIONS | {"xla_cpu_use_fusion_emitters": False})

compiled = partial(jax.jit, compiler_options=OPTIONS)


def apart(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function as the driver runs it: its programs are those of all tests of a file.

    It is given copies, for a program may take the memory of what it is given.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with programs.apart():
            return function(*copies(args), **kwargs)

    return call


def copies(tree: Any) -> Any:
    """Return the tree with every array copied."""
    return jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, tree)


@contextmanager
def compilations() -> Iterator[Counter[str]]:
    """Count how often a program of each name is compiled meanwhile."""
    found: Counter[str] = Counter()

    def listen(event: str, seconds: float, **named: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found[named["fun_name"].removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
