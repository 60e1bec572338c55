"""Output heads: how a network's outputs encode the value of each action, and how they learn it.

A head decodes outputs to values and has the loss from which they learn. `SquaredError` and `Huber`
are for networks with one output per action, `TwoHot` for networks that predict a distribution over
fixed values for each action (Lyle et al. 2023, §6.2). All methods are batched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from plasticity.shapes import Array, Float, Int


class Losses(NamedTuple):
    """The losses of a batch of transitions, one entry each."""

    loss: Float[Array, " batch"]  # what is minimised
    squared: Float[Array, " batch"]  # squared errors of the values, comparable between heads


@runtime_checkable
class Head(Protocol):
    """What an agent needs from a head.

    >>> from plasticity.networks import heads
    >>> head: heads.Head = heads.TwoHot((-1.0, 0.0, 1.0))
    >>> isinstance(head, heads.Head), head.bins
    (True, 3)
    """

    @property
    def bins(self) -> int:
        """How many outputs there are for each action."""

    def shaped(self, found: Float[Array, "batch _"]) -> Array:
        """Return outputs per action: (batch, actions), with a last axis for any bins."""

    def decode(self, outputs: Array) -> Float[Array, "batch actions"]:
        """Return the values that shaped outputs stand for."""

    def encode(self, values: Array) -> Array:
        """Return what shaped outputs should be for these values: the inverse of `decode`."""

    def losses(
        self, outputs: Array, actions: Int[Array, " batch"], targets: Float[Array, " batch"]
    ) -> Losses:
        """Return the losses of these actions' outputs against targets for their values."""


@dataclass(frozen=True)
class SquaredError:
    """Regression: an output is a value, learned by its squared error (Eq. 1).

    >>> import jax.numpy as jnp
    >>> from plasticity.networks.heads import SquaredError
    >>> values = jnp.array([[1.0, 2.0]])  # of two actions, of which the first was taken
    >>> SquaredError().losses(values, jnp.array([0]), jnp.array([4.0])).loss.tolist()
    [9.0]
    """

    bins: int = 1

    def shaped(self, found: Float[Array, "batch _"]) -> Array:
        """Return the outputs as they are."""
        return found

    def decode(self, outputs: Array) -> Float[Array, "batch actions"]:
        """Return the outputs as they are."""
        return outputs

    def encode(self, values: Array) -> Array:
        """Return the values as they are."""
        return values

    def losses(
        self, outputs: Array, actions: Int[Array, " batch"], targets: Float[Array, " batch"]
    ) -> Losses:
        """Return the squared errors as both fields."""
        squared = _squared_errors(outputs, actions, targets)
        return Losses(squared, squared)


@dataclass(frozen=True)
class Huber(SquaredError):
    """Regression in which an error beyond ``bound`` pulls no harder than one of ``bound``.

    Huber's loss: half the square of an error, and linear beyond the bound. dqn_zoo states the bound
    for the gradient of a mean over 32: 1/32.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks.heads import Huber
    >>> values = jnp.array([[1.0, 2.0]])  # of two actions, of which the first was taken
    >>> found = Huber(bound=1.0).losses(values, jnp.array([0]), jnp.array([4.0]))
    >>> found.loss.tolist(), found.squared.tolist()
    ([2.5], [9.0])
    """

    bound: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a bound that is not positive."""
        if not self.bound > 0:
            raise ValueError(f"error_bound = {self.bound}: must be above 0")

    def losses(
        self, outputs: Array, actions: Int[Array, " batch"], targets: Float[Array, " batch"]
    ) -> Losses:
        """Return Huber's loss and the squared errors."""
        taken = jnp.take_along_axis(outputs, actions[:, None], axis=1)[:, 0]
        error = targets - taken
        return Losses(optax.huber_loss(error, delta=self.bound), error**2)


@dataclass(frozen=True)
class TwoHot:
    """A distribution over fixed values, learned by cross-entropy to a two-hot target.

    ``support`` holds the values of the bins, ascending. Raises ValueError for fewer than two.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks.heads import TwoHot
    >>> head = TwoHot((-1.0, 0.0, 1.0))
    >>> head.encode(jnp.array([[0.25, -1.0]])).tolist()
    [[[0.0, 0.75, 0.25], [1.0, 0.0, 0.0]]]
    >>> head.decode(head.shaped(jnp.zeros((5, 6)))).shape  # six outputs are two actions
    (5, 2)
    """

    support: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse values that are no support."""
        if not (len(self.support) > 1 and np.all(np.diff(self.support) > 0)):
            raise ValueError(f"support = {self.support}: needs two or more ascending values")

    @property
    def bins(self) -> int:
        """How many values there are."""
        return len(self.support)

    def shaped(self, found: Float[Array, "batch _"]) -> Array:
        """Return the logits with bins last."""
        return found.reshape(len(found), -1, self.bins)

    def decode(self, outputs: Array) -> Float[Array, "batch actions"]:
        """Return the means of the distributions."""
        return decode(outputs, jnp.asarray(self.support))

    def encode(self, values: Array) -> Array:
        """Return two-hot distributions, (batch, actions, bins)."""
        over_actions = jax.vmap(two_hot, (0, None))
        found: Array = jax.vmap(over_actions, (0, None))(values, jnp.asarray(self.support))
        return found

    def losses(
        self, outputs: Array, actions: Int[Array, " batch"], targets: Float[Array, " batch"]
    ) -> Losses:
        """Return cross-entropies and the squared errors of the means, comparable between heads."""
        support = jnp.asarray(self.support)
        each = jax.vmap(two_hot_loss, (0, 0, 0, None))
        squared = _squared_errors(decode(outputs, support), actions, targets)
        return Losses(each(outputs, actions, targets, support), squared)


def _squared_errors(
    values: Float[Array, "batch actions"],
    actions: Int[Array, " batch"],
    targets: Float[Array, " batch"],
) -> Float[Array, " batch"]:
    found: Array = jax.vmap(regression_loss)(values, actions, targets)
    return found


# One transition.


def regression_loss(
    q_tm1: Float[Array, " actions"], a_tm1: Array, target: Float[Array, ""]
) -> Float[Array, ""]:
    """Return the squared temporal-difference error of Eq. (1).

    >>> import jax.numpy as jnp
    >>> from plasticity.networks import heads
    >>> float(heads.regression_loss(jnp.array([1.0, 2.0]), jnp.array(0), jnp.array(4.0)))
    9.0
    """
    return (q_tm1[a_tm1] - target) ** 2


def two_hot_loss(
    logits_tm1: Float[Array, "actions bins"],
    a_tm1: Array,
    target: Float[Array, ""],
    support: Float[Array, " bins"],
) -> Float[Array, ""]:
    """Return the cross-entropy from the two-hot target to the action's predicted distribution.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks import heads
    >>> logits, support = jnp.zeros((1, 2)), jnp.array([-1.0, 1.0])
    >>> loss = heads.two_hot_loss(logits, jnp.array(0), jnp.array(0.5), support)
    >>> round(float(loss), 3)  # log 2
    0.693
    """
    return -jnp.sum(two_hot(target, support) * jax.nn.log_softmax(logits_tm1[a_tm1]))


def two_hot(x: Float[Array, ""], support: Float[Array, " bins"]) -> Float[Array, " bins"]:
    """Return the distribution on ``support`` (ascending) with mean x and at most two atoms.

    A value outside the support is moved to its nearest end. Inverse of `decode`.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks import heads
    >>> heads.two_hot(jnp.array(0.25), jnp.array([-1.0, 0.0, 1.0])).tolist()
    [0.0, 0.75, 0.25]
    """
    x = jnp.clip(x, support[0], support[-1])
    above = jnp.clip(jnp.searchsorted(support, x, side="right"), 1, support.shape[0] - 1)
    low, high = support[above - 1], support[above]
    weight = (x - low) / (high - low)
    bins = support.shape[0]
    return (1 - weight) * jax.nn.one_hot(above - 1, bins) + weight * jax.nn.one_hot(above, bins)


def decode(
    logits: Float[Array, "*lead bins"], support: Float[Array, " bins"]
) -> Float[Array, "*lead"]:
    """Return the mean of the distribution softmax(logits) on ``support``.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks import heads
    >>> logits = jnp.log(jnp.array([0.125, 0.5, 0.375]))
    >>> round(float(heads.decode(logits, jnp.array([-1.0, 0.0, 1.0]))), 3)
    0.25
    """
    # At the highest precision: an accelerator would round the factors to its narrow format.
    return jnp.matmul(jax.nn.softmax(logits), support, precision="highest")
