"""Adam against Eq. (6) written out, and the moments' ratio against its closed form."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plasticity import optimizers
from plasticity.optimizers import DEFAULT_ADAM, TUNED_ADAM, AdamSettings

BOTH = pytest.mark.parametrize("settings", [DEFAULT_ADAM, TUNED_ADAM])


def test_the_settings_are_those_of_a1() -> None:
    assert tuple(DEFAULT_ADAM) == (0.9, 0.999, 1e-9, 0.0)
    assert tuple(TUNED_ADAM) == (0.9, 0.9, 1e-9, 1e-3)


@BOTH
def test_adam_is_equation_6(settings: AdamSettings) -> None:
    gradients = np.random.default_rng(0).normal(size=(20, 3))
    optimizer, params = optimizers.adam(0.01, settings), jnp.zeros(3)
    state = optimizer.init(params)
    m = v = np.zeros(3)
    for t, gradient in enumerate(gradients, start=1):
        update, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, params)
        m = settings.b1 * m + (1 - settings.b1) * gradient
        v = settings.b2 * v + (1 - settings.b2) * gradient**2
        m_hat, v_hat = m / (1 - settings.b1**t), v / (1 - settings.b2**t)
        expected = -0.01 * m_hat / (np.sqrt(v_hat + settings.eps_root) + settings.eps)
        # 1 - b2**t loses three digits in float32 at t = 1
        np.testing.assert_allclose(update, expected, rtol=2e-4, atol=1e-8)
        found = optimizers.moment_ratio(state, settings)
        np.testing.assert_allclose(found, np.sqrt(np.mean(m_hat**2 / v_hat)), rtol=2e-4)


def test_the_ratio_leaves_out_what_never_had_a_gradient() -> None:
    optimizer, params = optimizers.adam(0.01, DEFAULT_ADAM), {"a": jnp.zeros(2), "b": jnp.zeros(9)}
    gradient = {"a": jnp.array([1.0, -2.0]), "b": jnp.zeros(9)}
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(optimizers.moment_ratio(state, DEFAULT_ADAM), 1.0, rtol=1e-4)
    assert optimizers.moment_ratio(optimizer.init(params), DEFAULT_ADAM) == 0.0


def test_the_ratio_needs_an_adam_state_but_finds_it_in_a_chain() -> None:
    params = jnp.zeros(2)
    with pytest.raises(KeyError, match="no Adam moments"):
        optimizers.moment_ratio(optax.sgd(0.1).init(params), DEFAULT_ADAM)
    chain = optax.chain(optax.clip(1.0), optimizers.adam(0.1, DEFAULT_ADAM))
    assert optimizers.moment_ratio(chain.init(params), DEFAULT_ADAM) == 0.0


@BOTH
def test_the_closed_form_is_what_adam_does_after_a_jump(settings: AdamSettings) -> None:
    no_floor = settings._replace(eps_root=0.0)
    optimizer, params = optimizers.adam(1.0, no_floor), jnp.zeros(1)
    state = optimizer.init(params)
    for _ in range(20_000):  # until bias correction has worn off; the gradient all but vanished
        _, state = optimizer.update(jnp.full(1, 1e-12), state, params)
    steps = np.arange(1, 60)
    found = []
    for _ in steps:
        _, state = optimizer.update(jnp.ones(1), state, params)
        found.append(float(optimizers.moment_ratio(state, no_floor)))
    expected = optimizers.ratio_after_jump(jnp.asarray(steps, jnp.float32), no_floor)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_default_adam_can_move_six_learning_rates_at_once_and_b2_equal_b1_never_one() -> None:
    steps = jnp.arange(1.0, 1000.0)
    default = optimizers.ratio_after_jump(steps, DEFAULT_ADAM)
    assert 6.5 < default.max() < 6.6
    assert steps[default.argmax()] == 12
    assert optimizers.ratio_after_jump(steps, TUNED_ADAM).max() <= 1.0
