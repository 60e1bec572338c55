r"""How much can this network still learn? The probe of Lyle et al. (2023, §2.2 and §3.1).

From a copy of the parameters, an optimizer fits functions that are as good as random. The loss that
it reaches in a fixed number of steps is compared with the best constant's (Eqs. 4 and 5):

.. math:: \mathcal{P}(\theta) = b - \mathbb{E}_{\ell}[\ell(\theta^*)]

Any network will do that keeps to `plasticity.measure.contract`: ``apply(params, x)`` maps
parameters and inputs (batch, ...) to predictions (batch, ...), `optax` supplies the optimizer. In
short::

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

from plasticity import devices
from plasticity import learner as learning
from plasticity.cure import NONE
from plasticity.learner import Learner
from plasticity.measure import contract, random_functions
from plasticity.measure.contract import Frame, Held, Output
from plasticity.shapes import Array, Float, Key

Apply = Callable[[Any, Any], Array]
"""(parameters, inputs (batch, ...)) → predictions (batch, ...)."""

Objective = Callable[[Any, Any, Array], tuple[Float[Array, ""], Float[Array, ""]]]
"""(parameters, inputs, goals) → what a fit minimises, and the mean squared error of predictions."""

STEPS = 2_000
"""Optimizer steps of a probe (A.2)."""

TARGETS = 10
"""How many random functions a probe fits (A.2)."""

WINDOW = 50
"""Steps over which a point of the learning curve averages."""


DIVERGING = 2.0
"""A fit that ends with more than so many times the loss of a constant went away from its target."""


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
        if loss > DIVERGING * base:
            return words + (
                f"It ends {loss / base:.2g} times as far off as a constant: these fits diverge. "
                "Try a smaller learning rate, or inputs of a size near one."
            )
        if loss >= base:
            return words + "It learned nothing that a constant does not know."
        share = self.plasticity / base
        ceiling = " It is close to the ceiling of this probe." if share > 0.95 else ""
        return words + f"It learned {share:.0%} of what there was to learn.{ceiling}"


def measure(
    apply: Callable[[Any, Any], Any],
    init: Callable[[Array], Any],
    params: Any,
    inputs: ArrayLike | Any,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    *,
    trainable: Any = None,
    output: Output | None = None,
    objective: Objective | None = None,
    opt_state: Any = None,
    n_targets: int = TARGETS,
    steps: int = STEPS,
    batch_size: int = 512,
) -> Result:
    """Probe a network.

    Args:
        apply: the network, (params, inputs) → predictions. Any shape of prediction will do; an
            action-value network is probed on all of its outputs at once.
        init: draws fresh parameters from a key: the distribution of ω₀, "the same as θ₀".
        params: the parameters to probe, any pytree. They are not changed.
        inputs: X, (n, ...): the inputs that the network is trained on, an array or a pytree of
            arrays.
        optimizer: "identical to that used by the network on its primary learning objective".
        key: draws the target functions and the minibatches. Probes with equal keys, networks and
            inputs fit the same targets in the same order, so that they can be compared in pairs.
        trainable: which parameters the probe trains, as `plasticity.measure.contract` says; None:
            all arrays of floating-point numbers, and of flax variables those in "params".
        output: picks the predictions from what ``apply`` returns, if that is not one array.
        objective: what the fits minimise; None: the squared error of ``apply``'s predictions,
            Eq. (4). `squared_error` makes one of the network as learning sees it, say with dropout.
        opt_state: the optimizer's state to start from, for the parameters that are trained; a fresh
            one if None.
        n_targets, steps, batch_size: the size of the probe. Minibatches are drawn with
            replacement; the paper does not give their size.

    Raises ValueError for a network, parameters or inputs outside of the contract, sizes that are
    not positive, an ``opt_state`` from another optimizer or network, and, as
    `plasticity.measure.random_functions.draw` does, for targets that say nothing. Warns if targets
    vary too little, or if the fits diverge on inputs that are far from size one.

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
    examples, _ = contract.inputs(inputs)
    trained, others, frame = contract.divide(params, trainable)
    _check_fit(trained, optimizer, opt_state, steps, batch_size)
    target_key, fit_key = jax.random.split(key)
    drawn = random_functions.draw(apply, init, examples, target_key, n_targets, output=output)
    statics = ("apply", "output", "objective", "frame", "optimizer", "steps", "batch_size")
    found = jax.jit(_fit_divided, static_argnames=statics)(
        Held(apply), Held(output), Held(objective), frame, trained, others,
        jax.tree.map(lambda leaf: jnp.asarray(leaf.copy()), examples), jnp.asarray(drawn),
        optimizer, fit_key, opt_state, steps, batch_size,
    )  # fmt: skip
    loss, curve, noise = (np.asarray(part, np.float64) for part in found)
    result = Result(loss, random_functions.baseline(drawn), curve, noise)
    if not np.mean(loss) <= DIVERGING * np.mean(result.baseline):
        _warn_of_scale(examples)
    return result


def _fit_divided(
    apply: Held, output: Held, objective: Held, frame: Frame, trained: Any,
    others: tuple[Array, ...], inputs: Any, targets: Array,
    optimizer: optax.GradientTransformation, key: Array, opt_state: Any, steps: int,
    batch_size: int,
) -> Fits:  # fmt: skip
    """Do as `fit_all` does, with parameters of which not all are trained."""

    def predict(trained: Any, x: Any) -> Array:
        made = apply.value(contract.together(trained, others, frame), x)
        return contract.predictions(made, output.value)

    def descend(trained: Any, x: Any, goals: Array) -> tuple[Array, Array]:
        found: tuple[Array, Array] = objective.value(
            contract.together(trained, others, frame), x, goals
        )
        return found

    return fit_all(
        predict, trained, inputs, targets, optimizer, key,
        objective=None if objective.value is None else descend, opt_state=opt_state, steps=steps,
        batch_size=batch_size,
    )  # fmt: skip


def _warn_of_scale(examples: Any) -> None:
    floats = [leaf.astype(float) for leaf in jax.tree.leaves(examples) if leaf.ndim > 1]
    sizes = [np.sqrt(np.mean(leaf**2)) for leaf in floats]
    if sizes and not 0.1 < max(sizes) < 10:
        warnings.warn(
            f"the fits diverge, and the inputs' root mean square is {max(sizes):.3g}: networks "
            "start as if it were about one. If the network is not trained on such inputs, "
            "standardise them first",
            stacklevel=3,
        )


def fit(
    apply: Apply,
    params: Any,
    inputs: Any,
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
        chosen = jax.tree.map(lambda leaf: leaf[batch], inputs)
        return descend(params, chosen, shifted[batch])

    def step(learner: Learner, batch: Array) -> tuple[Learner, Float[Array, ""]]:
        learner, taken = learning.step(optimizer, NONE, loss, learner, batch)
        return learner, taken.aux

    count = target.shape[0]
    # of one type: with 64 bits other batches would be drawn
    batches = jax.random.randint(key, (steps, batch_size), 0, count, jnp.int32)
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
        params: Any, inputs: Any, goals: Array
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
                "that the network was trained with, for the parameters that are trained, or None "
                "for a fresh one"
            )


def fit_all(
    apply: Apply,
    params: Any,
    inputs: Any,
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
