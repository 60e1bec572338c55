r"""How much can this network still learn? The probe of Lyle et al. (2023, §2.2 and §3.1).

From a copy of the parameters, an optimizer fits functions that are as good as random. The loss that
it reaches in a fixed number of steps is compared with the best constant's (Eqs. 4 and 5):

.. math:: \mathcal{P}(\theta) = b - \mathbb{E}_{\ell}[\ell(\theta^*)]

Any network will do: ``apply(params, x)`` maps parameters and inputs (batch, ...) to predictions
(batch, ...), `optax` supplies the optimizer. In short::

    result = probe.measure(apply, init, params, inputs, optax.adam(1e-3), jax.random.key(0))
    print(result)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from plasticity import devices, programs
from plasticity import learner as learning
from plasticity.cure import NONE
from plasticity.learner import Learner
from plasticity.shapes import Array, Float, Key

Apply = Callable[[Any, Array], Array]
"""(parameters, inputs (batch, ...)) → predictions (batch, ...)."""

Objective = Callable[[Any, Array, Array], tuple[Float[Array, ""], Float[Array, ""]]]
"""(parameters, inputs, goals) → what a fit minimises, and the mean squared error of predictions."""

FREQUENCY = 1e5
"""The factor inside the sine of g(x) = a + sin(10⁵ f(x; ω₀)) (§3.1)."""

STEPS = 2_000
"""Optimizer steps of a probe (A.2)."""

TARGETS = 10
"""How many random functions a probe fits (A.2)."""

WINDOW = 50
"""Steps over which a point of the learning curve averages."""


PART = 500
"""Inputs per batch when targets are computed."""


class Fits(NamedTuple):
    """How the fits to each target function went."""

    loss: Float[Array, " targets"]  # mean squared error over all inputs at the end
    curve: Float[Array, "targets windows"]  # minibatch loss, averaged over windows of steps
    noise: Float[Array, "targets windows"]  # its standard deviation within each window


class Result(NamedTuple):
    """The answer of a probe; print it to read it in words."""

    loss: np.ndarray  # (targets,) mean squared error over all inputs at the end
    baseline: np.ndarray  # (targets,) loss of the best constant: the variance of the target
    curve: np.ndarray  # (targets, windows) learning curve: see `Fits`
    noise: np.ndarray  # (targets, windows)

    @property
    def plasticity(self) -> float:
        """Eq. (5): the mean over targets of baseline minus loss. Larger means it learns more."""
        return float(np.mean(self.baseline - self.loss))

    def __str__(self) -> str:
        """Say it in words."""
        diverged = int(np.sum(~np.isfinite(self.loss)))
        if diverged:
            what = (
                "cannot learn at all" if diverged == self.loss.size else "does not learn reliably"
            )
            return (
                f"The probe diverged on {diverged} of {self.loss.size} targets: from these "
                f"parameters this optimizer {what}."
            )
        base, loss = self.baseline.mean(), self.loss.mean()
        scatter = (
            "one target"
            if self.loss.size == 1
            else f"mean of {self.loss.size} targets, whose losses lie between "
            f"{self.loss.min():.3f} and {self.loss.max():.3f}"
        )
        words = (
            f"Plasticity {self.plasticity:.3f}: the network gets to a loss of {loss:.3f} on random "
            f"targets, where a constant has {base:.3f} ({scatter}). "
        )
        if loss >= base:
            return words + "It learned nothing that a constant does not know."
        share = self.plasticity / base
        ceiling = " It is close to the ceiling of this probe." if share > 0.95 else ""
        return words + f"It learned {share:.0%} of what there was to learn.{ceiling}"


def measure(
    apply: Apply,
    init: Callable[[Array], Any],
    params: Any,
    inputs: ArrayLike,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    *,
    objective: Objective | None = None,
    opt_state: Any = None,
    n_targets: int = TARGETS,
    steps: int = STEPS,
    batch_size: int = 512,
) -> Result:
    """Probe a network.

    Args:
        apply: the network. Any shape of prediction will do; an action-value network is probed on
            all of its outputs at once.
        init: draws fresh parameters from a key: the distribution of ω₀, "the same as θ₀".
        params: the parameters to probe. They are not changed.
        inputs: X, (n, ...): the inputs that the network is trained on.
        optimizer: "identical to that used by the network on its primary learning objective".
        key: draws the target functions and the minibatches. Probes with equal keys, networks and
            inputs fit the same targets in the same order, so that they can be compared in pairs.
        objective: what the fits minimise; None: the squared error of ``apply``'s predictions,
            Eq. (4). `squared_error` makes one of the network as learning sees it, say with dropout.
        opt_state: the optimizer's state to start from; a fresh one if None.
        n_targets, steps, batch_size: the size of the probe. Minibatches are drawn with
            replacement; the paper does not give their size.

    Raises ValueError for inputs that are empty or not finite, sizes that are not positive, or an
    ``opt_state`` from another optimizer or network.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import plasticity as pl
    >>> from flax import linen as nn
    >>> network = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(1)])
    >>> x, key = jnp.eye(4), jax.random.key(0)
    >>> params = network.init(key, x)
    >>> result = pl.probe(
    ...     network.apply, lambda key: network.init(key, x), params, x, optax.adam(0.01), key,
    ...     n_targets=2, steps=100, batch_size=4,
    ... )
    >>> print(result)
    Plasticity 0.2...: the network gets to a loss of 0.0... on random targets, where a constant
    has 0.29... It learned 8...% of what there was to learn.
    """
    _check_fit(params, optimizer, opt_state, steps, batch_size)
    target_key, fit_key = jax.random.split(key)
    drawn = targets(apply, init, inputs, target_key, n_targets)
    statics = ("apply", "objective", "optimizer", "steps", "batch_size")
    run = jax.jit(fit_all, static_argnames=statics)
    found = run(
        apply=apply, params=params, inputs=jnp.asarray(inputs), targets=jnp.asarray(drawn),
        optimizer=optimizer, key=fit_key, objective=objective, opt_state=opt_state, steps=steps,
        batch_size=batch_size,
    )  # fmt: skip
    loss, curve, noise = (np.asarray(part, np.float64) for part in found)
    return Result(loss, baseline(drawn), curve, noise)


def targets(
    apply: Apply, init: Callable[[Array], Any], inputs: ArrayLike, key: Key[Array, ""], n: int
) -> np.ndarray:
    """Return sin(10⁵ f(x; ω₀)) for ``n`` random networks ω₀: float32 (n, inputs, ...).

    The offset a of §3.1 is not included: it depends on the network probed, and `fit` adds it.

    The sine turns a relative error of 1e-5 in f into noise, so this one computation must neither be
    in float32 nor change with the device: ω₀ is drawn and f computed once, on the host in float64,
    and the values are stored. Raises ValueError for inputs that are empty or not finite, and warns
    if the network insists on a narrower type.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from plasticity.measure import probe
    >>> def init(key):
    ...     return jax.random.normal(key, (4,))
    >>> drawn = probe.targets(lambda w, x: x @ w, init, jnp.eye(4), jax.random.key(0), n=3)
    >>> drawn.shape, bool((abs(drawn) <= 1).all())
    ((3, 4), True)
    """
    values = np.asarray(inputs)
    if values.ndim < 1 or len(values) == 0:
        raise ValueError(f"inputs of shape {values.shape}: need at least one")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.sum(~np.isfinite(values))} of the inputs' values are not finite")
    if n < 1:
        raise ValueError(f"{n} targets: need at least one")
    drawn = []
    exact = jax.default_matmul_precision("highest")  # a lower default would apply to float64 too
    with jax.default_device(_host()), jax.enable_x64(True), exact:
        draw, predict = programs.jit(init, "less"), jax.jit(apply)
        for target_key in jax.random.split(jax.device_put(key, _host()), n):
            omega = jax.tree.map(_in_double, draw(target_key))
            # In parts: otherwise a convolution's patches in float64 fill the memory.
            parts = [
                np.asarray(predict(omega, jnp.asarray(values[k : k + PART], jnp.float64)))
                for k in range(0, len(values), PART)
            ]
            if any(part.ndim < 1 for part in parts):
                raise ValueError(f"{len(values)} inputs gave predictions of shape ()")
            drawn.append(np.concatenate(parts))
            if not np.isfinite(drawn[-1]).all():
                raise ValueError("a network fresh from init gives predictions that are not finite")
    if drawn[0].dtype != np.float64:
        warnings.warn(
            f"the network computes in {drawn[0].dtype} whatever its inputs are: its targets are "
            "valid, but another device would draw others",
            stacklevel=2,
        )
    if len(drawn[0]) != len(values):
        raise ValueError(f"{len(values)} inputs gave predictions of shape {drawn[0].shape}")
    return np.sin(FREQUENCY * np.stack(drawn).astype(np.float64)).astype(np.float32)


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
    >>> from plasticity.measure import probe
    >>> probe.baseline(np.array([[1.0, -1.0], [0.5, 0.5]])).tolist()  # two targets, two inputs
    [1.0, 0.0]
    """
    variances = np.var(targets.astype(np.float64), axis=1)
    return np.asarray(variances.reshape(len(targets), -1).mean(axis=1))


def fit(
    apply: Apply,
    params: Any,
    inputs: Float[Array, "inputs ..."],
    target: Float[Array, "inputs ..."],
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    *,
    objective: Objective | None = None,
    opt_state: Any = None,
    steps: int = STEPS,
    batch_size: int = 512,
) -> Fits:
    """Fit one target function from ``params``; jittable. The fields lack their leading axis.

    The target is shifted by a, the mean prediction of ``params`` over all inputs (§3.1). The fit
    minimises its ``objective``; a and the final loss are computed from ``apply``'s predictions.
    Raises ValueError if target and predictions differ in shape, a size is not positive, or
    ``opt_state`` comes from another optimizer or network.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from plasticity.measure import probe
    >>> x, y = jnp.eye(4), jnp.array([1.0, -1.0, 1.0, -1.0])
    >>> found = probe.fit(
    ...     lambda w, x: x @ w, jnp.zeros(4), x, y, optax.sgd(0.5), jax.random.key(0),
    ...     steps=100, batch_size=4,
    ... )
    >>> found.curve.shape, bool(found.loss < 0.01)
    ((2,), True)
    """
    _check_fit(params, optimizer, opt_state, steps, batch_size)
    predicted = apply(params, inputs)
    if predicted.shape != target.shape:
        raise ValueError(f"predictions of shape {predicted.shape}, targets {target.shape}")
    shifted = target + jnp.mean(predicted)
    descend = objective or squared_error(apply)

    def loss(params: Any, batch: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        return descend(params, inputs[batch], shifted[batch])

    def step(learner: Learner, batch: Array) -> tuple[Learner, Float[Array, ""]]:
        learner, taken = learning.step(optimizer, NONE, loss, learner, batch)
        return learner, taken.aux

    batches = jax.random.randint(key, (steps, batch_size), 0, inputs.shape[0], jnp.int32)
    begun = learning.start(optimizer, params, opt_state=opt_state)
    fitted, errors = jax.lax.scan(step, begun, batches)
    windows = errors.reshape(-1, WINDOW)
    final = jnp.mean((apply(fitted.params, inputs) - shifted) ** 2)
    return Fits(final, windows.mean(axis=1), windows.std(axis=1))


def squared_error(predict: Apply) -> Objective:
    """Return the objective of Eq. (4), the squared error of ``predict``'s predictions.

    >>> import jax.numpy as jnp
    >>> from plasticity.measure import probe
    >>> objective = probe.squared_error(lambda w, x: x @ w)
    >>> loss, error = objective(jnp.ones(2), jnp.eye(2), jnp.array([1.0, 3.0]))
    >>> float(loss), float(error)
    (2.0, 2.0)
    """

    def objective(
        params: Any, inputs: Array, goals: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        error = jnp.mean((predict(params, inputs) - goals) ** 2)
        return error, error

    return objective


def _check_fit(
    params: Any,
    optimizer: optax.GradientTransformation,
    opt_state: Any,
    steps: int,
    batch_size: int,
) -> None:
    if steps < WINDOW or steps % WINDOW or batch_size < 1:
        raise ValueError(
            f"steps = {steps}, batch_size = {batch_size}: steps must be a multiple of {WINDOW}, "
            "and a batch needs an input"
        )
    if opt_state is not None:
        expected = jax.eval_shape(optimizer.init, params)
        if jax.tree.map(jnp.shape, opt_state) != jax.tree.map(jnp.shape, expected):
            raise ValueError(
                "opt_state is not a state of this optimizer for these parameters: pass the one "
                "that the network was trained with, or None for a fresh one"
            )


def fit_all(
    apply: Apply,
    params: Any,
    inputs: Float[Array, "inputs ..."],
    targets: Float[Array, "targets inputs ..."],
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    *,
    objective: Objective | None = None,
    opt_state: Any = None,
    steps: int = STEPS,
    batch_size: int = 512,
) -> Fits:
    """Fit every target function from ``params``, each with minibatches of its own; jittable.

    To probe several checkpoints, stack their parameters and apply `plasticity.devices.map_lanes`
    to this function.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from plasticity.measure import probe
    >>> targets = jnp.array([[1.0, -1.0, 1.0, -1.0], [0.5, 0.5, -0.5, -0.5]])
    >>> found = probe.fit_all(
    ...     lambda w, x: x @ w, jnp.zeros(4), jnp.eye(4), targets, optax.sgd(0.5),
    ...     jax.random.key(0), steps=100, batch_size=4,
    ... )
    >>> found.curve.shape, bool((found.loss < 0.01).all())
    ((2, 2), True)
    """

    def one(target: Array, key: Array) -> Fits:
        return fit(
            apply, params, inputs, target, optimizer, key, objective=objective,
            opt_state=opt_state, steps=steps, batch_size=batch_size,
        )  # fmt: skip

    fits: Fits = devices.map_lanes(one, targets, jax.random.split(key, targets.shape[0]))
    return fits


BASELINE = 0.5
"""The loss of the best constant on a sine of random phase."""
