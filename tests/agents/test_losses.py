"""Targets and losses by numbers worked out by hand, and two-hot encoding by its identities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plasticity.agents import losses
from plasticity.networks import heads

EPS = float(np.finfo(np.float32).eps)
ATOMS = jnp.array([-1.0, 0.0, 0.5, 2.0])

two_hot = jax.jit(heads.two_hot)
decode = jax.jit(heads.decode)
two_hot_loss = jax.jit(losses.two_hot_loss)
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


# Targets.


@pytest.mark.parametrize(
    ("r_t", "discount", "q_t", "expected"),
    [
        (1.0, 0.0, [7.0, -1.0, 3.0], 1.0),
        (1.0, 0.5, [7.0, -1.0, 3.0], 4.5),
        (-1.0, 0.25, [-8.0, -4.0, -6.0], -2.0),
        (0.0, 1.0, [2.0, 2.0, 2.0], 2.0),
    ],
)
def test_q_targets(r_t: float, discount: float, q_t: list[float], expected: float) -> None:
    found = losses.q_target(jnp.asarray(r_t), discount, jnp.asarray(q_t))
    assert float(found) == expected


@pytest.mark.parametrize(
    ("r_t", "discount", "q_t", "selector", "expected"),
    [
        (1.0, 0.5, [7.0, -1.0, 3.0], [0.0, 0.0, 1.0], 2.5),
        (1.0, 0.5, [7.0, -1.0, 3.0], [-3.0, -2.0, -9.0], 0.5),
        (1.0, 0.5, [7.0, -1.0, 3.0], [1.0, 1.0, 0.0], 4.5),  # the first of two that are equal
        (2.0, 0.0, [7.0, -1.0, 3.0], [0.0, 1.0, 0.0], 2.0),
    ],
)
def test_double_q_targets(
    r_t: float, discount: float, q_t: list[float], selector: list[float], expected: float
) -> None:
    found = losses.double_q_target(
        jnp.asarray(r_t), discount, jnp.asarray(q_t), jnp.asarray(selector)
    )
    assert float(found) == expected


values = hnp.arrays(np.float32, 10, elements=st.floats(-1e4, 1e4, width=32))


@given(values, st.floats(-10, 10, width=32), st.floats(0, 1, width=32))
@unhurried
def test_double_q_with_equal_networks_is_q(q_t: np.ndarray, r_t: float, discount: float) -> None:
    q, r = jnp.asarray(q_t), jnp.float32(r_t)
    assert float(losses.double_q_target(r, discount, q, q)) == float(
        losses.q_target(r, discount, q)
    )


def test_no_gradient_flows_through_a_target() -> None:
    r, q, selector = jnp.float32(1.0), jnp.array([1.0, 3.0]), jnp.array([2.0, 1.0])
    for gradient in (
        *jax.grad(losses.q_target, (0, 1, 2))(r, 0.9, q),
        *jax.grad(losses.double_q_target, (0, 1, 2, 3))(r, 0.9, q, selector),
    ):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


# The squared error.


def test_the_regression_loss_and_its_gradient() -> None:
    q, target = jnp.array([1.0, -2.0, 5.0]), jnp.float32(3.0)
    value, gradient = jax.value_and_grad(losses.regression_loss)(q, jnp.array(1), target)
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
    found = losses.two_hot_loss(logits, jnp.array(0), jnp.float32(1.25), ATOMS)
    np.testing.assert_allclose(found, -0.5 * np.log(0.3) - 0.5 * np.log(0.4), rtol=10 * EPS)
    gradient = jax.grad(losses.two_hot_loss)(logits, jnp.array(0), jnp.float32(1.25), ATOMS)
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
