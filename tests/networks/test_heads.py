"""Heads by numbers worked out by hand, two-hot encoding by its identities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plasticity.networks import heads
from plasticity.networks.heads import Head, Huber, SquaredError, TwoHot

EPS = float(np.finfo(np.float32).eps)
ATOMS = jnp.array([-1.0, 0.0, 0.5, 2.0])

two_hot = jax.jit(heads.two_hot)
decode = jax.jit(heads.decode)
two_hot_loss = jax.jit(heads.two_hot_loss)
unhurried = settings(deadline=None, max_examples=100)

# Few lengths: each is compiled anew.
supports = (
    st.sampled_from([2, 3, 11])
    .flatmap(lambda n: hnp.arrays(np.float32, n, elements=st.floats(-100, 100, width=32)))
    .map(np.sort)
)


def logits_of(distribution: np.ndarray) -> jax.Array:
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(np.asarray(distribution)))


# The squared error.


def test_the_regression_loss_and_its_gradient() -> None:
    q, target = jnp.array([1.0, -2.0, 5.0]), jnp.float32(3.0)
    value, gradient = jax.value_and_grad(heads.regression_loss)(q, jnp.array(1), target)
    assert float(value) == 25.0
    np.testing.assert_array_equal(gradient, [0, 2 * (-2 - 3), 0])


# Two-hot distributions.


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (-1.0, [1, 0, 0, 0]),
        (-0.25, [0.25, 0.75, 0, 0]),
        (0.0, [0, 1, 0, 0]),
        (0.125, [0, 0.75, 0.25, 0]),
        (0.5, [0, 0, 1, 0]),
        (1.25, [0, 0, 0.5, 0.5]),
        (2.0, [0, 0, 0, 1]),
        (7.0, [0, 0, 0, 1]),
        (-7.0, [1, 0, 0, 0]),
        (np.inf, [0, 0, 0, 1]),
        (-np.inf, [1, 0, 0, 0]),
    ],
)
def test_two_hot_by_hand(x: float, expected: list[float]) -> None:
    np.testing.assert_array_equal(two_hot(jnp.float32(x), ATOMS), expected)


def test_a_value_that_is_not_a_number_has_no_distribution() -> None:
    assert np.isnan(two_hot(jnp.float32(np.nan), ATOMS)).any()


@given(supports, st.floats(-150, 150, width=32))
@unhurried
def test_two_hot_and_back(support: np.ndarray, x: float) -> None:
    """A distribution with at most two atoms, neighbours, whose mean is the value."""
    # Values closer than that have weights that rounding decides.
    assume(np.diff(support).min() > 1e-3)
    found = np.asarray(two_hot(jnp.float32(x), jnp.asarray(support)))
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(), 1, atol=2 * EPS)
    hot = np.flatnonzero(found)
    assert 1 <= len(hot) <= 2
    assert hot[-1] - hot[0] == len(hot) - 1
    nearest = np.clip(x, support[0], support[-1])
    back = decode(logits_of(found), jnp.asarray(support))
    # softmax and the sum round a few times, at the size of the largest value
    np.testing.assert_allclose(back, nearest, atol=20 * EPS * max(1, np.abs(support).max()))


@given(hnp.arrays(np.float32, (2, 3, 11), elements=st.floats(-50, 50, width=32)))
@unhurried
def test_decoding_is_the_mean_of_the_softmax(logits: np.ndarray) -> None:
    support = np.linspace(-3, 3, 11)
    weights = np.exp(logits.astype(np.float64))
    expected = (weights * support[None, None]).sum(-1) / weights.sum(-1)
    found = decode(jnp.asarray(logits), jnp.asarray(support, jnp.float32))
    assert found.shape == (2, 3)
    np.testing.assert_allclose(found, expected, atol=50 * 3 * EPS)  # exp(x) errs by |x| eps


def test_the_two_hot_loss_by_hand() -> None:
    logits = jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]))
    found = heads.two_hot_loss(logits, jnp.array(0), jnp.float32(1.25), ATOMS)
    np.testing.assert_allclose(found, -0.5 * np.log(0.3) - 0.5 * np.log(0.4), rtol=10 * EPS)
    gradient = jax.grad(heads.two_hot_loss)(logits, jnp.array(0), jnp.float32(1.25), ATOMS)
    # The gradient of a cross-entropy: softmax minus target, for the action taken alone.
    expected = [[0.1, 0.2, 0.3 - 0.5, 0.4 - 0.5], [0, 0, 0, 0]]
    np.testing.assert_allclose(gradient, expected, atol=10 * EPS)


@given(
    hnp.arrays(np.float32, (1, 4), elements=st.floats(-20, 20, width=32)),
    st.floats(-2, 3, width=32),
)
@unhurried
def test_no_distribution_has_a_smaller_loss_than_the_target_itself(
    logits: np.ndarray, target: float
) -> None:
    goal = np.asarray(two_hot(jnp.float32(target), ATOMS), np.float64)
    entropy = -sum(p * np.log(p) for p in goal if p > 0)
    found = two_hot_loss(jnp.asarray(logits), jnp.array(0), jnp.float32(target), ATOMS)
    assert float(found) >= entropy - 100 * EPS
    # A finite stand-in for log 0: the loss multiplies it by a zero.
    best = jnp.maximum(logits_of(goal), -100)[None].astype(jnp.float32)
    attained = two_hot_loss(best, jnp.array(0), jnp.float32(target), ATOMS)
    np.testing.assert_allclose(attained, entropy, atol=100 * EPS)


# Heads.

VALUES = jnp.array([[-1.0, -0.25, 1.25], [0.5, 2.0, 0.125]])
TWO_HOT = TwoHot((-1.0, 0.0, 0.5, 2.0))
each_head = pytest.mark.parametrize(
    "head", [SquaredError(), Huber(bound=0.5), TWO_HOT], ids=lambda head: type(head).__name__
)


@each_head
def test_a_head_is_one_and_can_be_a_static_argument(head: Head) -> None:
    assert isinstance(head, Head)
    assert hash(head) == hash(type(head)(**vars(head)))
    assert head.bins == (4 if isinstance(head, TwoHot) else 1)
    assert not isinstance(object(), Head)


@pytest.mark.parametrize("head", [SquaredError(), Huber()])
def test_an_output_of_a_regression_is_a_value(head: Head) -> None:
    for same in (head.shaped, head.decode, head.encode):
        np.testing.assert_array_equal(same(VALUES), VALUES)


def test_two_hot_outputs_of_an_action_lie_together() -> None:
    found = TWO_HOT.shaped(jnp.arange(24.0).reshape(2, 12))
    assert found.shape == (2, 3, 4)
    np.testing.assert_array_equal(found[1, 2], [20, 21, 22, 23])


def test_encoding_is_the_inverse_of_decoding_within_the_support() -> None:
    """What outputs should be: of two-hot heads the distribution, whose logarithms are logits."""
    outside = VALUES.at[0, 0].set(-7.0).at[1, 1].set(9.0)
    for values in (VALUES, outside):
        found = TWO_HOT.encode(values)
        assert found.shape == (2, 3, 4)
        np.testing.assert_array_equal(np.sum(found, axis=-1), np.ones((2, 3)))
        np.testing.assert_allclose(TWO_HOT.decode(logits_of(found)), VALUES, atol=4 * EPS)
    np.testing.assert_array_equal(TWO_HOT.encode(VALUES)[0, 2], [0, 0, 0.5, 0.5])


def test_a_regressions_losses_by_hand() -> None:
    """Of the action taken alone: the errors are 0.25, -3 and 2."""
    outputs = jnp.array([[1.0, 9.0], [7.0, 2.0], [0.0, -9.0]])
    actions, targets = jnp.array([0, 1, 0]), jnp.array([1.25, -1.0, 2.0])
    squared = [0.0625, 9.0, 4.0]
    for head, expected in (
        (SquaredError(), squared),
        (Huber(), [0.03125, 2.5, 1.5]),  # half the square up to 1, from there on a line
        (Huber(bound=2.5), [0.03125, 0.5 * 2.5**2 + 0.5 * 2.5, 2.0]),
    ):
        found = head.losses(outputs, actions, targets)
        np.testing.assert_array_equal(found.loss, np.float32(expected))
        np.testing.assert_array_equal(found.squared, np.float32(squared))

    def pull(head: Head) -> jax.Array:
        return jax.grad(lambda x: head.losses(x, actions, targets).loss.sum())(outputs)

    np.testing.assert_array_equal(pull(SquaredError()), [[-0.5, 0], [0, 6], [-4, 0]])
    np.testing.assert_array_equal(pull(Huber()), [[-0.25, 0], [0, 1], [-1, 0]])  # no more than 1


def test_two_hot_losses_by_hand() -> None:
    taken = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]], np.float32)
    other = np.array([0.25, 0.25, 0.25, 0.25], np.float32)
    outputs = logits_of(np.stack([np.stack([taken[0], other]), np.stack([other, taken[1]])]))
    found = TWO_HOT.losses(outputs, jnp.array([0, 1]), jnp.array([1.25, -0.25]))
    # half of each of the last two atoms; a quarter of the first and three of the second
    expected = [-0.5 * np.log(0.3 * 0.4), -0.25 * np.log(0.7) - 0.75 * np.log(0.1)]
    np.testing.assert_allclose(found.loss, expected, rtol=10 * EPS)
    means = np.array([-0.1 + 0.15 + 0.8, -0.7 + 0.05 + 0.2])
    np.testing.assert_allclose(found.squared, (means - [1.25, -0.25]) ** 2, rtol=20 * EPS)


@pytest.mark.parametrize("support", [(), (1.0,), (0.0, 1.0, 1.0), (1.0, 0.0), (0.0, float("nan"))])
def test_what_is_no_support_is_refused(support: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"support = .*: needs two or more ascending values"):
        TwoHot(support)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_errors_need_a_bound_above_nothing(bound: float) -> None:
    with pytest.raises(ValueError, match=f"error_bound = {bound}: must be above 0"):
        Huber(bound=bound)
