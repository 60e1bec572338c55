"""Programs give the same compiled apart and as a whole; how well they are compiled changes no draw.

Nothing but the time that compiling takes may depend on where one program ends and the next begins.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import hurried
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity import devices, programs
from plasticity.agents import mdp_agent
from plasticity.agents.mdp_agent import Design
from plasticity.agents.mdp_task import ImageTask
from plasticity.agents.settings import DQN, Optimizer
from plasticity.chapters.curvature_evolution import run as curvature_evolution
from plasticity.chapters.optimizer_instability import run as optimizer_instability
from plasticity.chapters.probing import parts
from plasticity.cures.settings import ResetOptimizer, ShrinkAndPerturb
from plasticity.networks.settings import CNN, MLP, ResNet18, TwoHot, ViT
from plasticity.programs import program
from plasticity.runs import checkpoints
from plasticity.worlds import classification_mdp

State = dict[str, jax.Array]


def begun() -> State:
    return {"x": jnp.arange(3.0), "n": jnp.zeros((), jnp.int32)}


@pytest.fixture
def traced() -> list[str]:
    """What was traced or, outside of programs, run: the names of functions in turn."""
    return []


@pytest.fixture
def advance(traced: list[str]) -> Callable[[float, State, Any], tuple[State, jax.Array]]:
    """Three pieces, of which each learns and, if it is even, forgets; none in chunk 0."""

    @program(static=("steps",), donate=("state",))
    def learn(steps: int, rate: float, state: State) -> State:
        traced.append("learn")

        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            traced.append("step")
            return halved(x) + rate, None

        x, _ = programs.scan(step, state["x"], steps)
        return {"x": x, "n": state["n"] + 1}

    @program()
    def halved(x: jax.Array) -> jax.Array:
        traced.append("halved")
        return programs.cond(x[0] > 4, lambda x: x / 4, lambda x: x / 2, x)

    @program(donate=("state",))
    def forget(state: State) -> State:
        traced.append("forget")
        return programs.cond(
            state["n"] % 2 == 0, lambda state: state | {"x": state["x"] * 0}, lambda s: s, state
        )

    def advance(rate: float, state: State, chunk: Any) -> tuple[State, jax.Array]:
        def piece(state: State, _: None) -> tuple[State, jax.Array]:
            traced.append("piece")
            state = learn(5, rate, forget(state))
            return state, state["x"].sum()

        def wait(state: State) -> tuple[State, jax.Array]:
            return state, jnp.full((3,), jnp.nan)

        return programs.cond(chunk == 0, wait, lambda s: programs.scan(piece, s, 3), state)

    return advance


def test_apart_and_as_a_whole_the_same_is_computed(advance: Any) -> None:
    wholes = advance, jax.jit(advance)
    for chunk in (0, 1):
        with programs.apart():
            state, seen = advance(0.5, begun(), chunk)
        for whole in wholes:
            expected, trace = whole(0.5, begun(), chunk)
            np.testing.assert_array_equal(seen, trace)
            jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert int(state["n"]) == 3 and seen[0] == seen[2] != seen[1]  # between them it forgot


def test_the_host_runs_what_is_outside_of_programs_and_nothing_within(
    advance: Any, traced: list[str]
) -> None:
    """A loop in a program stays in it, and so does a program that it calls."""
    with programs.apart():
        advance(0.5, begun(), 1)
        assert traced == ["piece", "forget", "learn", "step", "halved", "piece", "piece"]
        traced.clear()
        advance(0.25, begun(), 2)  # a number that is not static is an argument
        assert traced == ["piece"] * 3


def test_as_a_whole_there_is_one_program(advance: Any) -> None:
    whole = jax.jit(advance)
    state = begun()
    with hurried.compilations() as count:
        whole(0.5, state, 1)
    assert count == {"advance": 1}
    operations = {str(eqn.primitive) for eqn in jax.make_jaxpr(advance)(0.5, state, 1).eqns}
    assert "cond" in operations and "jit" not in operations and "pjit" not in operations


def test_equal_static_arguments_share_a_program() -> None:
    @program(static=("power", "word"))
    def raised(power: int, word: str, x: Any, rate: Any) -> Any:
        return rate * x**power

    x = jnp.arange(3.0)
    with programs.apart(), hurried.compilations() as count:
        for power, word, rate in ((2, "a", 1.5), (2, "a", 3.5), (2, "a", jnp.float32(4.5))):
            np.testing.assert_allclose(raised(power, word, x, rate), rate * x**power)
        assert count["raised"] == 2  # a number of Python, and an array of one
        raised(2, "a", 2 * x, 0.5)
        assert count["raised"] == 2
        raised(3, "a", x, 0.5)
        raised(2, "b", x, 0.5)
        raised(2, "a", jnp.arange(4.0), 0.5)
        assert count["raised"] == 5
    raised(7, "a", x, 0.5)  # not apart
    assert count["raised"] == 5


def test_nothing_is_donated_on_an_accelerator() -> None:
    """XLA for CUDA may return what was donated instead of a result that is returned twice."""
    with devices.as_if("gpu"):
        twice = programs.jit(lambda x: (x + 1, x + 1), "full", donate_argnums=0)
        x = jnp.ones(3)
        twice(x)
        assert x.tolist() == [1.0, 1.0, 1.0]


def test_the_memory_of_what_is_donated_is_taken_apart_and_nowhere_else() -> None:
    @program(donate=("state",))
    def step(kept: jax.Array, state: jax.Array) -> jax.Array:
        return state + kept

    kept, state = jnp.ones(4), jnp.ones(4)
    step(kept, state)
    assert not state.is_deleted()
    with programs.apart():
        step(kept, state)
    assert state.is_deleted() and not kept.is_deleted()


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("way", ["apart", "within a program", "whole"])
def test_each_gives_what_one_call_each_gives(
    way: str, cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [{"a": jnp.arange(2.0) + k, "b": jnp.array(k)} for k in range(3)]
    shapes = []

    @program()
    def one(item: Any) -> Any:
        shapes.append(item["a"].shape)
        return item["a"] * item["b"], item["a"].sum()

    all_of_them = program()(lambda items: programs.each(one, items))
    run = all_of_them if way == "within a program" else lambda items: programs.each(one, items)
    expected = [one(item) for item in items]
    shapes.clear()
    monkeypatch.setattr(devices, "is_cpu", lambda: cpu)
    if way == "whole":
        found = run(items)
    else:
        with programs.apart():
            found = run(items)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert shapes == [(2,)]  # compiled once


def test_after_an_error_parts_are_no_longer_apart() -> None:
    @program()
    def broken() -> None:
        raise ArithmeticError

    with programs.apart():
        for _ in range(2):
            with pytest.raises(ArithmeticError):
                broken()
            found = programs.scan(lambda x, _: (float(x) + 1, x), 0.0, 2)  # still the host
            assert found[0] == 2.0
    with pytest.raises(ArithmeticError), programs.apart():
        broken()
    assert jax.jit(lambda x: programs.scan(lambda x, _: (x + 1, x), x, 2)[0])(0.0) == 2.0


# Effort.


@pytest.mark.parametrize("effort", ["full", "less", "least"])
def test_effort_is_saved_on_a_cpu_and_nowhere_else(
    effort: programs.Effort, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    supported = programs.supported(programs.OPTIONS[effort])
    monkeypatch.setattr(jax, "jit", lambda function, **named: given.update(named) or function)
    for cpu in (True, False):
        monkeypatch.setattr(devices, "is_cpu", lambda cpu=cpu: cpu)
        programs.jit(sum, effort, static_argnums=0)
        expected = supported if cpu else None
        assert given == {"compiler_options": expected, "static_argnums": 0}


def test_the_less_effort_the_less_is_left_to_the_compiler() -> None:
    levels = [programs.OPTIONS[effort] for effort in ("full", "less", "least")]
    assert [options.get("xla_backend_optimization_level", 3) for options in levels] == [3, 1, 0]


DEFAULT = {
    "xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True,
    "xla_llvm_disable_expensive_passes": False,
}  # fmt: skip
"""What XLA does unless it is told otherwise, as `make unit` tells it for all that tests compile."""


def settings_of(chosen: Callable[..., Any]) -> programs.Program:
    """Return what `programs.program` made of a function."""
    made: programs.Program = inspect.getclosurevars(chosen).nonlocals["made"]
    return made


BITS_KEPT = jax.__version__.startswith(("0.10.", "0.11."))
"""Whether this is a version of JAX with which runs were recorded. With others less effort may round
otherwise: no bits rest on them."""


def result(chosen: Any, effort: programs.Effort, *given: Any) -> Any:
    """Return what a program gives if it is compiled with this effort."""
    options = DEFAULT | dict(programs.OPTIONS[effort])
    static = settings_of(chosen).static
    run = jax.jit(
        chosen.__wrapped__, static_argnames=static, compiler_options=programs.supported(options)
    )
    return run(*given)


def check(chosen: Callable[..., Any], *given: Any) -> None:
    """Compare a program's bits with those of all effort: recorded runs rest on them."""
    effort = settings_of(chosen).effort
    assert effort != "full"
    found, whole = (result(chosen, level, *given) for level in (effort, "full"))
    if BITS_KEPT:
        assert checkpoints.digest(found) == checkpoints.digest(whole)
    else:
        jax.tree.map(close, found, whole)


def close(found: jax.Array, whole: jax.Array) -> None:
    """Compare two arrays to rounding, keys of random numbers to the bit."""
    if jnp.issubdtype(found.dtype, jax.dtypes.prng_key):
        found, whole = map(jax.random.key_data, (found, whole))
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


KEY, SECOND = jax.random.split(jax.random.key(7))
LABELS = jnp.arange(40, dtype=jnp.int32) % 10
IMAGES = jax.random.normal(KEY, (40, 28, 28, 1))
SMALL = DQN(batch_size=8, warmup=30, capacity=50)
MLP_8 = MLP(width=8)


@pytest.fixture(scope="module")
def task() -> ImageTask:
    """Forty pictures of noise, with rewards at random."""
    return ImageTask(classification_mdp.make("random_label", LABELS, KEY), IMAGES)


@pytest.mark.parametrize(
    "design",
    [
        Design(MLP_8, algorithm=SMALL, cures=(ShrinkAndPerturb(), ResetOptimizer())),
        Design(CNN(channels=2, width=4, layer_norm=True), algorithm=SMALL),
        Design(ViT(width=8, feed_forward=8, heads=2), algorithm=SMALL),
        pytest.param(Design(ResNet18(width=4), algorithm=SMALL), marks=pytest.mark.slow),
    ],
    ids=["mlp", "cnn", "vit", "resnet"],
)  # fmt: skip
@pytest.mark.usefixtures("shallow")
def test_an_agent_begins_with_the_bits_of_all_effort(design: Design, task: ImageTask) -> None:
    experience = parts.warm_up(SMALL, task, KEY)
    check(parts.begin, design, IMAGES, KEY, experience, SECOND)


def test_other_agents_begin_with_the_bits_of_all_effort(task: ImageTask) -> None:
    check(optimizer_instability.begin, 16, IMAGES.reshape(40, -1), KEY)
    design = Design(MLP_8, TwoHot(bins=5), Optimizer("sgd"), SMALL)
    check(curvature_evolution.begin, design, True, task, KEY, SECOND, KEY)


@pytest.mark.parametrize("variant", classification_mdp.VARIANTS)
def test_a_problem_has_the_bits_of_all_effort(variant: classification_mdp.Variant) -> None:
    check(parts.make, variant, LABELS, KEY)


@pytest.mark.parametrize("label_draw", ["uniform", "permuted"])
def test_labels_have_the_bits_of_all_effort(label_draw: str) -> None:
    check(optimizer_instability.draw, label_draw, LABELS, KEY, 3)


def test_images_and_directions_have_the_bits_of_all_effort() -> None:
    check(parts.proxy_batch, 16, 10, IMAGES, KEY)


def test_keys_walks_and_choices_have_the_bits_of_all_effort(task: ImageTask) -> None:
    check(parts.split, KEY, 5)
    check(parts.warm_up, SMALL, task, KEY)
    check(parts.draws, SMALL, 10, KEY, jnp.array(70, jnp.int32), 25)


def test_targets_are_drawn_with_the_bits_of_all_effort() -> None:
    """On the host, in the midst of float64."""
    design = Design(MLP_8)
    init = program(effort="less")(partial(mdp_agent.initialise, design, (28, 28, 1)))
    with jax.enable_x64(True):
        check(init, KEY)


@pytest.mark.skipif(not BITS_KEPT, reason="no recorded run has the bits of this version of JAX")
def test_too_little_effort_would_be_noticed() -> None:
    """Normal numbers with the least: rounded otherwise."""
    hasty = program(effort="least")(lambda key: jax.random.normal(key, (1_000,)))
    with pytest.raises(AssertionError):
        check(hasty, KEY)
