r"""The functions that a probe fits: as good as random, and the same on every device (§3.1).

.. math:: g(x) = a + \sin(10^5 f(x; \omega_0))

for a network with fresh parameters ω₀. The offset a is left to `plasticity.measure.probe.fit`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from plasticity import programs
from plasticity.measure import contract
from plasticity.measure.contract import Frame, Held, Output
from plasticity.shapes import Array, Key

FREQUENCY = 1e5
"""The factor inside the sine of g(x) = a + sin(10⁵ f(x; ω₀)) (§3.1)."""

BASELINE = 0.5
"""The loss of the best constant on a sine of random phase."""

PART = 500
"""Inputs per batch when targets are computed."""

FEW = 50
"""From so many inputs on, the variance of a sine of random phase is one half within a fifth."""


def draw(
    apply: Callable[[Any, Any], Any],
    init: Callable[[Array], Any],
    inputs: ArrayLike | Any,
    key: Key[Array, ""],
    n: int,
    *,
    output: Output | None = None,
) -> np.ndarray:
    """Return sin(10⁵ f(x; ω₀)) for ``n`` random networks ω₀: float32 (n, inputs, ...).

    The offset a of §3.1 is not included: it depends on the network probed, and
    `plasticity.measure.probe.fit` adds it.

    The sine turns a relative error of 1e-5 in f into noise, so this one computation must neither be
    in float32 nor change with the device: ω₀ is drawn and f computed once, on the host in float64,
    and the values are stored. Floating-point inputs are float64 there, integers stay integers.

    Raises ValueError for inputs or predictions outside of `plasticity.measure.contract`, and for
    targets that say nothing: fresh networks that give all inputs one prediction, or are all the
    same. Warns if targets vary too little to be random functions, and if the network insists on a
    narrower type or cannot be computed in double precision.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from plasticity.measure import random_functions
    >>> def init(key):
    ...     return jax.random.normal(key, (4,))
    >>> drawn = random_functions.draw(lambda w, x: x @ w, init, jnp.eye(4), jax.random.key(0), n=3)
    >>> drawn.shape, bool((abs(drawn) <= 1).all())
    ((3, 4), True)
    """
    values, count = contract.inputs(inputs)
    if n < 1:
        raise ValueError(f"{n} targets: need at least one")
    exact = jax.default_matmul_precision("highest")  # a lower default would apply to float64 too
    with jax.default_device(_host()), exact:
        key = jax.device_put(key, _host())
        fresh = _fresh(Held(init))
        # Always without 64 bits, for the same ω₀ in every process. Besides, JAX remembers of a
        # numpy array in a closure, such as example inputs, how many bits it had when it was traced.
        with jax.enable_x64(False):
            omegas = [fresh.draw(one) for one in jax.random.split(key, n)]
            _require_another(omegas[0], fresh.draw(jax.random.fold_in(key, 1)))
        assert fresh.frame is not None, "drawing has traced init"
        evaluate = partial(_outputs, Held(apply), Held(output), fresh.frame, values, count)
        try:
            with jax.enable_x64(True):
                drawn = [evaluate(jax.tree.map(_in_double, omega)) for omega in omegas]
        except (TypeError, jax.errors.JaxRuntimeError) as error:  # such as a carry in float32
            drawn = _in_single(evaluate, omegas, error)
        finally:
            with jax.enable_x64(True):
                remembered = _remembers(evaluate, omegas[0], values)
            if remembered:
                jax.clear_caches()  # type: ignore[no-untyped-call]
    if drawn[0].dtype != np.float64:
        warnings.warn(
            f"the network computes in {drawn[0].dtype} whatever its inputs are: its targets are "
            "valid, but another device would draw others",
            stacklevel=2,
        )
    found = np.sin(FREQUENCY * np.stack(drawn).astype(np.float64)).astype(np.float32)
    _require_meaning(found)
    return found


class _Fresh:
    """Networks fresh from ``init``: arrays are drawn within a program, other leaves stay as are."""

    def __init__(self, init: Callable[[Array], Any]) -> None:
        self.frame: Frame | None = None

        def arrays(key: Array) -> list[Array]:
            leaves, structure = jax.tree.flatten(init(key))
            others = (contract.OTHER if contract.is_array(x) else Held(x) for x in leaves)
            self.frame = Frame(structure, tuple(others))
            return [leaf for leaf in leaves if contract.is_array(leaf)]

        self.draw = programs.jit(arrays, "less")


@lru_cache(maxsize=8)
def _fresh(init: Held) -> _Fresh:
    """Return `_Fresh`, the same for equal ``init``, so that it is compiled once."""
    return _Fresh(init.value)


def _outputs(
    apply: Held, output: Held, frame: Frame, values: Any, count: int, omega: list[Array]
) -> np.ndarray:
    """Return what a network fresh from ``init`` predicts for all inputs."""
    # In parts: otherwise a convolution's patches in float64 fill the memory.
    parts = [
        np.asarray(_predict(apply, output, frame, omega, part)) for part in _parts(values, count)
    ]
    if any(part.ndim < 1 for part in parts):
        raise ValueError(f"{count} inputs gave predictions of shape ()")
    found = np.concatenate(parts)
    if len(found) != count:
        raise ValueError(f"{count} inputs gave predictions of shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("a network fresh from init gives predictions that are not finite")
    return found


def _in_single(
    evaluate: Callable[[list[Array]], np.ndarray], omegas: Sequence[list[Array]], why: Exception
) -> list[np.ndarray]:
    """Return what networks predict that cannot be computed in double precision, with a warning."""
    with jax.enable_x64(False):
        drawn = [evaluate(omega) for omega in omegas]  # raises if it is not the precision
    warnings.warn(
        f"the network cannot be computed in double precision ({str(why).splitlines()[0]}): its "
        "targets are of single precision, valid, but another device would draw others",
        stacklevel=4,
    )
    return [found.astype(np.float64) for found in drawn]


def _remembers(evaluate: partial[np.ndarray], omega: list[Array], values: Any) -> bool:
    """Return whether JAX now remembers an array of ``apply``'s as one of 64 bits.

    It keeps, for a numpy array that a traced function holds, the precision of the first trace. The
    caller's own programs would then fail on that array.
    """
    apply, output, frame, _, count = evaluate.args
    try:
        omega = jax.tree.map(_in_double, omega)
        traced = _predict.trace(apply, output, frame, omega, next(_parts(values, count)))
    except (TypeError, ValueError):
        return True
    held = [const for const in traced.jaxpr.consts if not isinstance(const, jax.Array)]
    return any(getattr(const, "dtype", np.dtype(bool)).itemsize > 4 for const in held)


@partial(jax.jit, static_argnames=("apply", "output", "frame"))
def _predict(apply: Held, output: Held, frame: Frame, omega: list[Array], x: Any) -> Array:
    made = apply.value(contract.together((), tuple(omega), frame), x)
    return contract.predictions(made, output.value)


def _parts(values: Any, count: int) -> Iterator[Any]:
    """Yield the inputs in parts, in double precision where that is allowed."""
    for k in range(0, count, PART):
        part = jax.tree.map(lambda leaf, k=k: jnp.asarray(leaf[k : k + PART].copy()), values)
        yield jax.tree.map(_in_double, part) if jnp.zeros(()).dtype == jnp.float64 else part


def _require_another(omega: list[Array], other: list[Array]) -> None:
    if all(np.array_equal(one, two) for one, two in zip(omega, other, strict=True)):
        raise ValueError(
            "init gives the same network for every key, so that all targets would be one and the "
            "same: it must draw fresh parameters from the key that it gets"
        )


def _require_meaning(drawn: np.ndarray) -> None:
    """Raise ValueError for targets that are constant; warn of targets that hardly vary."""
    varies = baseline(drawn)
    if varies.min() == 0:
        raise ValueError(
            "a network fresh from init gives all inputs the same prediction, so that its target is "
            "a constant, from which nothing can be learned: is there but one input, are all inputs "
            "equal, or is the last layer initialised with zeros? Then pass an init that draws it"
        )
    if drawn.shape[1] >= FEW and varies.min() < BASELINE / 2:
        warnings.warn(
            f"the targets vary less than random ones do (variance {varies.min():.2g} instead of "
            f"{BASELINE:g}): a network fresh from init hardly tells some inputs apart, or not in "
            "all of its outputs",
            stacklevel=3,
        )


def _host() -> jax.Device:
    try:
        return jax.devices("cpu")[0]
    except RuntimeError as error:
        raise RuntimeError(
            "the probe's targets are computed on the host: let JAX have it, with JAX_PLATFORMS "
            "unset or, for example, cuda,cpu"
        ) from error


def _in_double(leaf: Any) -> Any:
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def baseline(targets: np.ndarray) -> np.ndarray:
    """Return b of Eq. (5) for each target: the loss of the best constant, about .5; (targets,).

    That is the variance over inputs, taken separately for each output where there are several.

    >>> import numpy as np
    >>> from plasticity.measure import random_functions
    >>> random_functions.baseline(np.array([[1.0, -1.0], [0.5, 0.5]])).tolist()
    [1.0, 0.0]
    """
    variances = np.var(targets.astype(np.float64), axis=1)
    return np.asarray(variances.reshape(len(targets), -1).mean(axis=1))
