"""Adam against Eq. (6) written out, and the moments' ratio against its closed form."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hurried import compilations, compiled

from plasticity.agents import optimizers
from plasticity.agents.optimizers import DEFAULT_ADAM, TUNED_ADAM, AdamSettings
from plasticity.agents.settings import Optimizer

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
    # until bias correction has worn off; the gradient all but vanished
    state = jax.lax.fori_loop(
        0, 20_000, lambda _, state: optimizer.update(jnp.full(1, 1e-12), state, params)[1],
        optimizer.init(params),
    )  # fmt: skip
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


# Rates that a program is given.


def lowest(optimizer: optax.GradientTransformation) -> jax.Array:
    """Return where six steps down a bowl lead."""
    params = jnp.array([1.0, -2.0, 0.5])
    state = optimizer.init(params)
    for _ in range(6):
        update, state = optimizer.update(params * jnp.array([1.0, 3.0, 0.1]), state, params)
        params = optax.apply_updates(params, update)
    return params


@pytest.mark.parametrize("decays", [(0.0, 0.0), (0.1, 1e-3)], ids=["plain", "decayed"])
@pytest.mark.parametrize("name", ["adam", "rmsprop", "sgd"])
def test_a_program_that_is_given_its_rates_does_what_one_of_constants_does(
    name: optimizers.OptimizerName, decays: tuple[float, float]
) -> None:
    settings = [Optimizer(name, 0.01 * (k + 1), decay) for k, decay in enumerate(decays)]
    (form,) = {chosen.form for chosen in settings}
    with compilations() as count:
        given = compiled(lambda rates: lowest(form.transformation(rates)))
        found = [given(chosen.rates) for chosen in settings]
        assert count["<lambda>"] == 1
    constant = [compiled(partial(lowest, chosen.transformation()))() for chosen in settings]
    np.testing.assert_allclose(found, constant, rtol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3


# The random walk beside an optimizer.


def test_the_walk_goes_as_far_at_every_step_in_other_directions() -> None:
    rng = np.random.default_rng(0)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(40, 30)), jnp.float32),
        "bias": jnp.zeros((30,)),
    }
    plain = optimizers.of_name("adam", 1e-2)
    beside = optimizers.with_random_walk(plain, jax.random.key(0))
    state, alone = beside.init(params), plain.init(params)
    assert float(optax.tree.norm(state.whole)) == float(optax.tree.norm(state.per_tensor)) == 0.0
    cosines, lengths = [], []
    for k in range(5):
        gradient = {
            name: jnp.asarray(k * rng.normal(size=leaf.shape), jnp.float32)
            for name, leaf in params.items()
        }
        before = state
        step, state = beside.update(gradient, state, params)
        expected, alone = plain.update(gradient, alone, params)
        for ours, theirs in zip(jax.tree.leaves(step), jax.tree.leaves(expected), strict=True):
            assert ours.tobytes() == theirs.tobytes()  # the optimizer is not disturbed
        whole = jax.tree.map(jnp.subtract, state.whole, before.whole)
        single = jax.tree.map(jnp.subtract, state.per_tensor, before.per_tensor)
        length = float(optax.tree.norm(step))
        assert float(optax.tree.norm(whole)) == pytest.approx(length, rel=1e-5, abs=1e-9)
        for name, part in single.items():
            wanted = float(jnp.linalg.norm(step[name]))
            assert float(jnp.linalg.norm(part)) == pytest.approx(wanted, rel=1e-5, abs=1e-9)
        lengths.append(length)
        if length:
            along = float(optax.tree.vdot(whole, step)) / length**2
            cosines.append(along)
            # a Gaussian direction in 1,230 dimensions: five deviations
            assert abs(along) < 5 / 1_230**0.5
        params = optax.apply_updates(params, step)
    assert len(set(cosines)) == len(cosines) == 4
    # steps are independent: the squares of their lengths add up, nearly
    total = float(optax.tree.norm(state.whole)) ** 2
    assert 0.7 < total / sum(length**2 for length in lengths) < 1.3


def test_the_walk_depends_on_its_key_alone() -> None:
    params, gradient = {"w": jnp.ones((50,))}, {"w": jnp.ones((50,))}
    found = []
    for seed in (0, 0, 1):
        walk = optimizers.with_random_walk(optax.sgd(0.1), jax.random.key(seed))
        state = walk.init(params)
        for _ in range(3):
            _, state = walk.update(gradient, state, params)
        found.append(np.asarray(state.whole["w"]))
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).all()
