"""Traced programs of JAX: which of their operations merely call another program."""

from __future__ import annotations

from typing import Any

from jax.extend import core

CALLS = (
    "jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_jvp_call",
    "custom_vjp_call", "custom_vmap_call",
)  # fmt: skip
"""Primitives that only call a program: its operations count as if they stood in their place."""


PROGRAMS = (core.Jaxpr, vars(core)["ClosedJaxpr"])
"""Types of a program without and with its constants. JAX 0.12 made them one."""


def called(eqn: Any) -> Any | None:
    """Return the ``ClosedJaxpr`` or ``Jaxpr`` that an operation calls; None if it is no call.

    >>> import jax
    >>> from plasticity.jaxprs import called
    >>> traced = jax.make_jaxpr(jax.jit(lambda x: x + 1))(1.0)
    >>> [str(inner.primitive) for inner in called(traced.eqns[0]).eqns]
    ['add']
    """
    if eqn.primitive.name not in CALLS:
        return None
    return next(value for value in eqn.params.values() if isinstance(value, PROGRAMS))
