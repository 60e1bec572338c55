"""Targets by numbers worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from plasticity.agents import losses

unhurried = settings(deadline=None, max_examples=100)


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
