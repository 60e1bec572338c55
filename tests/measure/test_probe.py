"""The probe: targets that are the same everywhere, fits that are plain loops, true words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hurried import compiled
from scipy import stats

from plasticity import devices, programs
from plasticity.measure import probe, random_functions
from plasticity.measure.probe import Result

EPS = float(np.finfo(np.float32).eps)
KEY = jax.random.key(0)
N, PIXELS = 60, 4
INPUTS = np.random.default_rng(0).normal(size=(N, PIXELS)).astype(np.float32)

static = ("apply", "objective", "optimizer", "steps", "batch_size")
fit = compiled(probe.fit, static_argnames=static)


def init(key: jax.Array) -> dict[str, jax.Array]:
    """A hidden layer of sixteen; float32 like flax's draws."""
    first, second = jax.random.split(key)
    return {
        "w": jax.random.normal(first, (PIXELS, 16), jnp.float32) / 2,
        "b": jnp.zeros(16, jnp.float32),
        "v": jax.random.normal(second, (16, 3), jnp.float32) / 4,
        "c": jnp.zeros(3, jnp.float32),
    }


def apply(params: Any, x: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(x @ params["w"] + params["b"][None])
    return hidden @ params["v"] + params["c"][None]


@pytest.fixture(scope="module")
def params() -> dict[str, jax.Array]:
    return jax.jit(init)(jax.random.key(5))


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """Two targets of three outputs."""
    return random_functions.draw(apply, init, INPUTS, KEY, 2)


# Targets.


def test_targets_are_the_formula_in_float64(drawn: np.ndarray) -> None:
    assert drawn.shape == (2, N, 3)
    assert drawn.dtype == np.float32
    draw = programs.jit(init, "less")  # with more or less effort the last bit may be another
    for key, target in zip(jax.random.split(KEY, 2), drawn, strict=True):
        omega = jax.tree.map(lambda w: np.asarray(w, np.float64), draw(key))
        hidden = np.maximum(INPUTS.astype(np.float64) @ omega["w"] + omega["b"], 0)
        expected = np.sin(1e5 * (hidden @ omega["v"] + omega["c"]))
        # f errs by a few eps of float64, the phase by 1e5 times that; then float32 rounds
        np.testing.assert_allclose(target, expected, atol=1e-6)


def test_targets_are_equal_in_bits_from_call_to_call(drawn: np.ndarray) -> None:
    np.testing.assert_array_equal(random_functions.draw(apply, init, INPUTS, KEY, 2), drawn)
    other = random_functions.draw(apply, init, INPUTS, jax.random.key(1), 2)
    assert abs(np.corrcoef(other.ravel(), drawn.ravel())[0, 1]) < 5 / np.sqrt(drawn.size)
    assert abs(np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1]) < 5 / np.sqrt(drawn[0].size)


@pytest.mark.parametrize("part", [1, 7, N, N + 1])
def test_targets_do_not_depend_on_the_parts_they_are_computed_in(
    part: int, drawn: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_functions, "PART", part)
    np.testing.assert_allclose(random_functions.draw(apply, init, INPUTS, KEY, 2), drawn, atol=1e-6)


@pytest.mark.parametrize(
    "context",
    [
        lambda: jax.disable_jit(),
        lambda: jax.enable_x64(True),
        lambda: jax.default_matmul_precision("bfloat16"),
        lambda: jax.default_matmul_precision("tensorfloat32"),
        lambda: jax.default_matmul_precision("BF16_BF16_F32"),
    ],
    ids=["no jit", "x64", "bfloat16", "tensorfloat32", "BF16_BF16_F32"],
)
def test_targets_do_not_depend_on_settings_of_jax(context: Callable[[], Any]) -> None:
    def init(key: jax.Array) -> dict[str, jax.Array]:
        """Weights that are sums of few powers of two, which nothing rounds."""
        shapes = {"w": (PIXELS, 16), "b": (16,), "v": (16, 3), "c": (3,)}
        keys = dict(zip(shapes, jax.random.split(key, 4), strict=True))
        return {
            name: jax.random.randint(keys[name], shape, -64, 65, jnp.int32) / jnp.float32(128)
            for name, shape in shapes.items()
        }

    expected = random_functions.draw(apply, init, INPUTS, KEY, 2)
    with context():
        found = random_functions.draw(apply, init, INPUTS, KEY, 2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not jax.config.jax_enable_x64


# Large enough for XLA to split its products among threads.
ELSEWHERE = """
import os, sys
import jax, jax.numpy as jnp, numpy as np
from plasticity.measure import random_functions

def init(key):
    first, second = jax.random.split(key)
    w = jax.random.normal(first, (64, 256), jnp.float32) / 8
    return w, jax.random.normal(second, (256, 2), jnp.float32) / 16

def apply(params, x):
    return jax.nn.relu(x @ params[0]) @ params[1]

inputs = np.random.default_rng(0).normal(size=(600, 64))
for k, flags in enumerate(sys.argv[2:]):
    if process := os.fork():  # it has imported all, and XLA has not read its flags
        assert os.waitpid(process, 0)[1] == 0
    else:
        os.environ["XLA_FLAGS"] = flags
        drawn = random_functions.draw(apply, init, inputs, jax.random.key(0), 1)
        np.save(f"{sys.argv[1]}/{k}.npy", drawn)
        os._exit(0)
"""


def elsewhere(folder: Path, *flags: str) -> list[np.ndarray]:
    """Draw the same targets in other processes, each with these flags of XLA and no others."""
    arguments = [sys.executable, "-c", ELSEWHERE, str(folder), *flags]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    subprocess.run(arguments, env=environment, check=True, capture_output=True, timeout=240)
    return [np.asarray(np.load(folder / f"{k}.npy")) for k in range(len(flags))]


def test_targets_depend_on_no_thread_and_hardly_on_the_processor(tmp_path: Path) -> None:
    # ω₀ is drawn in float32 by networks like flax's. An instruction set without fused products, or
    # a compiler that does not optimise, rounds its last bit otherwise, which the sine shows, but as
    # the same function.
    others = ("--xla_cpu_max_isa=SSE4_2", "--xla_backend_optimization_level=0")
    plain, single, *found = elsewhere(tmp_path, "", "--xla_cpu_multi_thread_eigen=false", *others)
    np.testing.assert_allclose(single, plain, atol=1e-6)
    for flags, drawn in zip(others, found, strict=True):
        assert np.corrcoef(drawn.ravel(), plain.ravel())[0, 1] > 0.99, flags


def test_the_trap_is_real(drawn: np.ndarray) -> None:
    """What targets would be in the arithmetic of a GPU's matrix products, and in float32."""

    def shortened(params: Any, x: jax.Array) -> jax.Array:
        short = partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=10)
        hidden = jax.nn.relu(short(x) @ short(params["w"]))
        return short(hidden) @ short(params["v"])

    def in_float32(compute: Callable[..., jax.Array]) -> np.ndarray:
        keys = jax.random.split(KEY, 2)
        found = [compute(jax.jit(init)(key), jnp.asarray(INPUTS)) for key in keys]
        return np.sin(1e5 * np.asarray(found, np.float64))

    assert abs(np.corrcoef(in_float32(shortened).ravel(), drawn.ravel())[0, 1]) < 0.3
    # Sixteen terms in float32 are wrong in the third digit already, more terms in the first.
    assert np.abs(in_float32(apply) - drawn).max() > 1e-3


def test_phases_are_uniform() -> None:
    """A sine of a uniform phase follows the arcsine law, of variance one half."""
    inputs = np.random.default_rng(1).normal(size=(2_000, PIXELS))
    found = random_functions.draw(lambda p, x: apply(p, x)[:, 0], init, inputs, KEY, 3)
    for target in found:
        # the variance of sin² is 1/8: five deviations of its mean
        np.testing.assert_allclose(np.mean(target**2), 0.5, atol=5 * np.sqrt(1 / 8 / 2_000))
        assert stats.kstest(target, stats.arcsine(loc=-1, scale=2).cdf).pvalue > 1e-3


def test_a_network_that_forces_float32_is_told_so(drawn: np.ndarray) -> None:
    def narrow(params: Any, x: jax.Array) -> jax.Array:
        return apply(params, x).astype(jnp.float32)

    with pytest.warns(UserWarning, match=r"computes in float32 .* another device would draw"):
        found = random_functions.draw(narrow, init, INPUTS, KEY, 2)
    assert found.shape == drawn.shape


def test_integers_in_the_parameters_stay_integers() -> None:
    def with_counter(key: jax.Array) -> Any:
        return init(key) | {"count": jnp.asarray(3, jnp.int32)}

    def checked(params: Any, x: jax.Array) -> jax.Array:
        assert params["count"].dtype == jnp.int32
        assert params["w"].dtype == x.dtype == jnp.float64
        return apply(params, x)

    assert random_functions.draw(checked, with_counter, INPUTS, KEY, 1).shape == (1, N, 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((0, PIXELS)), r"shape \(0, 4\): need at least one"),
        (3.0, r"shape \(\): need at least one"),
        (np.where(np.arange(PIXELS) == 1, np.nan, INPUTS), "60 of the inputs' values are not fin"),
        (np.where(INPUTS.max() == INPUTS, np.inf, INPUTS), "1 of the inputs' values are not fin"),
    ],
)
def test_inputs_that_cannot_be_are_refused(inputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_functions.draw(apply, init, inputs, KEY, 1)
    with pytest.raises(ValueError, match=message):
        probe.measure(apply, init, {}, inputs, optax.sgd(0.1), KEY)


def test_a_probe_needs_a_target() -> None:
    with pytest.raises(ValueError, match="0 targets: need at least one"):
        random_functions.draw(apply, init, INPUTS, KEY, 0)


def test_a_network_that_is_no_function_of_single_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"60 inputs gave predictions of shape \(3,\)"):
        random_functions.draw(lambda p, x: apply(p, x).mean(axis=0), init, INPUTS, KEY, 1)


def test_a_network_that_gives_one_number_for_all_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"60 inputs gave predictions of shape \(\)"):
        random_functions.draw(lambda p, x: apply(p, x).mean(), init, INPUTS, KEY, 1)


def test_a_start_that_gives_no_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        random_functions.draw(lambda p, x: apply(p, x) / jnp.zeros(()), init, INPUTS, KEY, 1)


def test_the_baseline_is_the_loss_of_the_best_constant(drawn: np.ndarray) -> None:
    """For each output its own; no other constant is better."""
    found = random_functions.baseline(drawn)
    assert found.shape == (2,)
    for target, ours in zip(drawn.astype(np.float64), found, strict=True):
        best = [np.polyfit(np.zeros(N), column, 0)[0] for column in target.T]
        np.testing.assert_allclose(ours, np.mean((target - best) ** 2), rtol=1e-12)
        for shift in (-0.01, 0.01):
            assert np.mean((target - best - shift) ** 2) > ours
    np.testing.assert_allclose(
        random_functions.baseline(drawn[..., 0]), drawn[..., 0].var(axis=1), rtol=1e-6
    )
    assert random_functions.baseline(np.full((1, 5), 0.7, np.float32)) == 0.0


# Fits.


def linear(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["w"] + params["c"][None]


LINE = {
    "w": jnp.asarray(np.random.default_rng(3).normal(size=(PIXELS, 2)), jnp.float32),
    "c": jnp.array([3.0, -1.0]),
}
GOAL = jnp.asarray(np.random.default_rng(4).normal(size=(N, 2)), jnp.float32)


def warm(optimizer: optax.GradientTransformation) -> Any:
    """The state of an optimizer that has taken a step elsewhere."""
    return optimizer.update(jax.tree.map(jnp.ones_like, LINE), optimizer.init(LINE), LINE)[1]


SGD, MOMENTUM, ADAMW = optax.sgd(0.02), optax.sgd(0.02, momentum=0.9), optax.adamw(1e-2, eps=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "carried"),
    [(SGD, False), (MOMENTUM, True), (ADAMW, False), (ADAMW, True)],
    ids=["sgd", "momentum carried", "adamw", "adamw carried"],
)
def test_a_fit_is_a_plain_loop(optimizer: Any, carried: bool) -> None:
    opt_state = warm(optimizer) if carried else None
    found = fit(
        linear, LINE, INPUTS, GOAL, optimizer, KEY, opt_state=opt_state, steps=100, batch_size=8
    )
    w, c = (np.asarray(LINE[name], np.float64) for name in "wc")
    goal = GOAL + np.mean(INPUTS @ w + c)
    state, losses = opt_state if carried else optimizer.init(LINE), []
    advance = jax.jit(optimizer.update)
    for batch in np.asarray(jax.random.randint(KEY, (100, 8), 0, N)):
        x, error = INPUTS[batch], INPUTS[batch] @ w + c - goal[batch]
        losses.append(np.mean(error**2))
        gradient = {"w": 2 * x.T @ error / error.size, "c": 2 * error.sum(axis=0) / error.size}
        step, state = advance(
            jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), gradient), state,
            {"w": jnp.asarray(w, jnp.float32), "c": jnp.asarray(c, jnp.float32)},
        )  # fmt: skip
        w, c = w + np.asarray(step["w"]), c + np.asarray(step["c"])
    close = partial(np.testing.assert_allclose, rtol=300 * EPS, atol=300 * EPS)
    close(found.loss, np.mean((INPUTS @ w + c - goal) ** 2))
    windows = np.reshape(losses, (2, 50))
    close(found.curve, windows.mean(axis=1))
    close(found.noise, windows.std(axis=1))
    if carried:
        fresh = fit(linear, LINE, INPUTS, GOAL, optimizer, KEY, steps=100, batch_size=8)
        assert abs(fresh.curve[0] - found.curve[0]) > 1e-3


def test_a_fit_of_one_input_shrinks_its_error_by_a_constant_factor() -> None:
    """With f = w x the error, -target at the start, is multiplied by 1 - 2 η x² at each step."""
    x, rate, target = 0.5, 0.05, 0.8
    found = fit(
        lambda w, x: w * x[:, 0], jnp.float32(7.0), np.full((1, 1), x, np.float32),
        jnp.array([target]), optax.sgd(rate), KEY, steps=50, batch_size=3,
    )  # fmt: skip
    factor = (1 - 2 * rate * x**2) ** 2
    np.testing.assert_allclose(found.loss, target**2 * factor**50, rtol=1e-4)
    curve = target**2 * factor ** np.arange(50)
    np.testing.assert_allclose(found.curve, [curve.mean()], rtol=1e-4)
    np.testing.assert_allclose(found.noise, [curve.std()], rtol=1e-4)


def test_what_is_learned_with_is_the_networks_form_for_learning() -> None:
    """Half of f = w x is what the loss sees: its error is multiplied by 1 - η x² / 2 at each step.

    The target is shifted by the prediction of f itself, and f itself is what is measured at the
    end.
    """
    x, rate, target, w = 0.5, 0.8, 0.8, 7.0
    found = fit(
        lambda w, x: w * x[:, 0], jnp.float32(w), np.full((1, 1), x, np.float32),
        jnp.array([target]), optax.sgd(rate), KEY,
        objective=probe.squared_error(lambda w, x: w * x[:, 0] / 2), steps=50, batch_size=3,
    )  # fmt: skip
    goal = target + w * x
    errors = (w * x / 2 - goal) * (1 - rate * x**2 / 2) ** np.arange(51)
    np.testing.assert_allclose(found.curve, [np.mean(errors[:50] ** 2)], rtol=1e-4)
    np.testing.assert_allclose(found.loss, (2 * (errors[50] + goal) - goal) ** 2, rtol=1e-4)


def test_a_fit_descends_its_objective_and_records_the_error() -> None:
    """Of f = w x the objective is f itself: w falls by η x at each step, whatever the target."""

    def downhill(w: jax.Array, x: jax.Array, goals: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = w * x[:, 0]
        return jnp.mean(found), jnp.mean((found - goals) ** 2)

    x, rate, target, w = 0.5, 0.1, 0.8, 7.0
    found = fit(
        lambda w, x: w * x[:, 0], jnp.float32(w), np.full((1, 1), x, np.float32),
        jnp.array([target]), optax.sgd(rate), KEY, objective=downhill, steps=50, batch_size=3,
    )  # fmt: skip
    errors = (w - rate * x * np.arange(51)) * x - (target + w * x)
    np.testing.assert_allclose(found.curve, [np.mean(errors[:50] ** 2)], rtol=1e-4)
    np.testing.assert_allclose(found.noise, [np.std(errors[:50] ** 2)], rtol=1e-4)
    np.testing.assert_allclose(found.loss, errors[50] ** 2, rtol=1e-4)


def test_without_an_objective_it_is_the_squared_error_to_the_bit() -> None:
    given = (linear, LINE, INPUTS, GOAL, MOMENTUM, KEY)
    plain = fit(*given, steps=50, batch_size=8)
    said = fit(*given, objective=probe.squared_error(linear), steps=50, batch_size=8)
    assert [np.asarray(x).tobytes() for x in plain] == [np.asarray(x).tobytes() for x in said]


def test_targets_are_shifted_by_the_mean_prediction() -> None:
    found = fit(linear, LINE, INPUTS, GOAL, optax.sgd(0.0), KEY, steps=50, batch_size=8)
    predicted = np.asarray(linear(LINE, INPUTS), np.float64)
    assert abs(predicted.mean()) > 0.5
    expected = np.mean((predicted - (GOAL + predicted.mean())) ** 2)
    np.testing.assert_allclose(found.loss, expected, rtol=50 * EPS)
    # A network that already is its target up to a constant has nothing left to learn.
    line = linear(LINE, jnp.asarray(INPUTS))
    found = fit(linear, LINE, INPUTS, line - line.mean(), SGD, KEY, steps=50, batch_size=8)
    np.testing.assert_allclose(found.loss, 0, atol=1e-10)


@pytest.mark.parametrize("cpu", [True, False])
def test_each_target_is_fitted_by_itself(cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "is_cpu", lambda: cpu)
    goals = jnp.stack([GOAL, 2 * GOAL, -GOAL])
    found = jax.jit(partial(probe.fit_all, linear, optimizer=SGD, steps=100, batch_size=8))(
        LINE, INPUTS, goals, key=KEY
    )
    assert found.curve.shape == found.noise.shape == (3, 2)
    for k, key in enumerate(jax.random.split(KEY, 3)):
        one = fit(linear, LINE, INPUTS, goals[k], SGD, key, steps=100, batch_size=8)
        for ours, theirs in zip(found, one, strict=True):
            np.testing.assert_allclose(ours[k], theirs, rtol=300 * EPS)


def test_checkpoints_in_lanes_are_checkpoints_one_by_one() -> None:
    lines = [jax.tree.map(lambda w, k=k: w + k, LINE) for k in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *lines)
    states, inputs = jax.vmap(MOMENTUM.init)(stacked), jnp.asarray(INPUTS)

    def one(line: Any, opt_state: Any) -> probe.Fits:
        return probe.fit_all(
            linear, line, inputs, GOAL[None], MOMENTUM, KEY, opt_state=opt_state, steps=50,
            batch_size=8,
        )  # fmt: skip

    found = jax.jit(partial(devices.map_lanes, one))(stacked, states)
    assert found.loss.shape == (3, 1)
    for k, line in enumerate(lines):
        expected = jax.jit(one)(line, MOMENTUM.init(line))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours[k], theirs, rtol=300 * EPS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps = 0, batch_size = 8: steps must be a multiple of 50"),
        ({"steps": 49}, "must be a multiple of 50"),
        ({"steps": 120}, "must be a multiple of 50"),
        ({"steps": -50}, "must be a multiple of 50"),
        ({"batch_size": 0}, "a batch needs an input"),
        ({"target": GOAL[:, 0]}, r"predictions of shape \(60, 2\), targets \(60,\)"),
        ({"target": GOAL[:, :1]}, r"predictions of shape \(60, 2\), targets \(60, 1\)"),
    ],
)
def test_fits_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    settings = {"target": GOAL, "steps": 50, "batch_size": 8} | changes
    with pytest.raises(ValueError, match=message):
        probe.fit(linear, LINE, jnp.asarray(INPUTS), optimizer=SGD, key=KEY, **settings)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),  # its line search evaluates the loss
        optax.polyak_sgd(max_learning_rate=0.1),
        optax.chain(optax.sgd(0.02), optax.contrib.reduce_on_plateau(patience=5)),
    ],
    ids=["line search", "Polyak's step", "reduce on plateau"],
)
def test_optimizers_that_want_to_know_the_loss_get_it(optimizer: Any) -> None:
    found = fit(linear, LINE, INPUTS, GOAL, optimizer, KEY, steps=50, batch_size=N)
    still = fit(linear, LINE, INPUTS, GOAL, optax.sgd(0.0), KEY, steps=50, batch_size=N)
    assert found.loss < 0.9 * still.loss


# The whole probe.


@pytest.fixture(scope="module")
def measure() -> Callable[..., Result]:
    """One optimizer object and one function for all, so that one program is compiled."""
    adam = optax.adam(1e-2)

    def run(params: Any, key: jax.Array = KEY, **settings: Any) -> Result:
        sizes = {"n_targets": 2, "steps": 100, "batch_size": 16} | settings
        return probe.measure(apply, init, params, INPUTS, adam, key, **sizes)

    return run


def test_a_probe_is_its_parts(measure: Callable[..., Result], params: Any) -> None:
    before = jax.tree.map(np.array, params)
    found = measure(params)
    target_key, fit_key = jax.random.split(KEY)
    drawn = random_functions.draw(apply, init, INPUTS, target_key, 2)
    np.testing.assert_array_equal(found.baseline, random_functions.baseline(drawn))
    assert found.loss.shape == found.baseline.shape == (2,)
    assert found.curve.shape == found.noise.shape == (2, 2)
    for k, key in enumerate(jax.random.split(fit_key, 2)):
        one = fit(apply, params, INPUTS, drawn[k], optax.adam(1e-2), key, steps=100, batch_size=16)
        for ours, theirs in zip((found.loss, found.curve, found.noise), one, strict=True):
            np.testing.assert_allclose(ours[k], theirs, rtol=1e-3)  # Adam divides by a root
    assert found.plasticity == pytest.approx(np.mean(found.baseline) - np.mean(found.loss))
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_equal_keys_give_equal_bits_and_other_keys_other_ones(
    measure: Callable[..., Result], params: Any
) -> None:
    first, again, other = measure(params), measure(params), measure(params, jax.random.key(1))
    assert [part.tobytes() for part in first] == [part.tobytes() for part in again]
    assert not np.isin(first.loss, other.loss).any()
    assert not np.isin(first.baseline, other.baseline).any()


def test_a_probe_takes_the_networks_form_for_learning(params: Any) -> None:
    """A loss that passes no gradient leaves the network as it was."""

    def blind(params: Any, x: jax.Array) -> jax.Array:
        return apply(jax.lax.stop_gradient(params), x)

    sizes: dict[str, Any] = {"n_targets": 1, "steps": 50, "batch_size": 8}
    objective = probe.squared_error(blind)
    found = probe.measure(apply, init, params, INPUTS, SGD, KEY, objective=objective, **sizes)
    still = probe.measure(apply, init, params, INPUTS, optax.sgd(0.0), KEY, **sizes)
    np.testing.assert_allclose(found.loss, still.loss, rtol=50 * EPS)
    np.testing.assert_allclose(found.curve, still.curve, rtol=50 * EPS)


def test_a_carried_state_is_used(measure: Callable[..., Result], params: Any) -> None:
    adam = optax.adam(1e-2)
    fresh = measure(params)
    np.testing.assert_array_equal(fresh.loss, measure(params, opt_state=adam.init(params)).loss)
    seen = jax.tree.map(jnp.ones_like, params)
    _, state = adam.update(seen, adam.init(params))
    assert (np.abs(measure(params, opt_state=state).loss - fresh.loss) > 1e-4).all()


def test_a_fresh_network_learns_and_a_dead_one_does_not(
    measure: Callable[..., Result], params: Any
) -> None:
    fresh = measure(params, steps=1_000)
    assert fresh.plasticity > 0.15
    assert "% of what there was to learn" in str(fresh)
    dead = params | {"b": jnp.full(16, -1e3)}
    found = measure(dead, steps=1_000)
    # All that is left is the output bias, which finds each output's mean up to the noise of the
    # minibatches: Adam's steps of 0.01 are as large as the distance that they keep.
    assert -0.02 < found.plasticity < 1e-6
    assert str(found).endswith("It learned nothing that a constant does not know.")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_network_that_diverged_says_so(
    bad: float, measure: Callable[..., Result], params: Any
) -> None:
    found = measure(params | {"v": params["v"].at[0, 0].set(bad)})
    assert np.isnan(found.plasticity)
    assert str(found).startswith("The probe diverged on 2 of 2 targets")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Module:
    """A network that holds its own parameters, as in Equinox."""

    slope: jax.Array
    offset: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ self.slope) + self.offset


def test_any_pytree_and_any_shape_of_prediction_will_do() -> None:
    def fresh(key: jax.Array) -> Module:
        return Module(jax.random.normal(key, (PIXELS,)), jnp.zeros(()))

    module = Module(jnp.ones(PIXELS), jnp.float32(0.5))
    found = probe.measure(
        lambda module, x: module(x), fresh, module, INPUTS, optax.sgd(0.01), KEY, n_targets=1,
        steps=50, batch_size=8,
    )  # fmt: skip
    assert found.loss.shape == found.baseline.shape == (1,)
    assert found.curve.shape == (1, 1)
    assert 0 < found.baseline[0] < 1
    assert abs(found.plasticity) < 1


@pytest.mark.parametrize(
    "opt_state",
    [optax.sgd(0.1).init(LINE), MOMENTUM.init({"w": LINE["w"]}), MOMENTUM.init(LINE | {"w": KEY})],
    ids=["optimizer", "network", "shapes"],
)
def test_the_state_of_something_else_is_refused(opt_state: Any) -> None:
    with pytest.raises(ValueError, match="opt_state is not a state of this optimizer for these"):
        probe.measure(
            linear, lambda key: LINE, LINE, INPUTS, MOMENTUM, KEY, opt_state=opt_state, steps=50
        )


# What a result says.


def result(loss: list[float], baseline: list[float]) -> Result:
    empty = np.zeros((len(loss), 1))
    return Result(np.array(loss), np.array(baseline), empty, empty)


def test_plasticity_is_equation_5() -> None:
    assert result([0.1, 0.4], [0.5, 0.6]).plasticity == pytest.approx(0.3)  # (0.4 + 0.2) / 2
    assert result([0.7], [0.5]).plasticity == pytest.approx(-0.2)  # not clipped
    assert np.isnan(result([np.nan, 0.1], [0.5, 0.5]).plasticity)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            result([0.1, 0.4], [0.5, 0.5]),
            "Plasticity 0.250: the network gets to a loss of 0.250 on random targets, where a "
            "constant has 0.500 (mean of 2 targets, whose losses lie between 0.100 and 0.400). "
            "It learned 50% of what there was to learn.",
        ),
        (
            result([0.01], [0.5]),
            "Plasticity 0.490: the network gets to a loss of 0.010 on random targets, where a "
            "constant has 0.500 (one target). "
            "It learned 98% of what there was to learn. It is close to the ceiling of this probe.",
        ),
        (
            result([0.75], [0.5]),
            "Plasticity -0.250: the network gets to a loss of 0.750 on random targets, where a "
            "constant has 0.500 (one target). "
            "It learned nothing that a constant does not know.",
        ),
        (
            result([0.1, np.inf, np.nan], [0.5] * 3),
            "The probe diverged on 2 of 3 targets: from these parameters this optimizer does not "
            "learn reliably.",
        ),
        (
            result([np.inf, np.nan], [0.5] * 2),
            "The probe diverged on 2 of 2 targets: from these parameters this optimizer cannot "
            "learn at all.",
        ),
        (result([0.0], [0.0]), "It learned nothing that a constant does not know."),
    ],
)
def test_a_result_reads_itself_aloud(found: Result, words: str) -> None:
    assert str(found).endswith(words)
