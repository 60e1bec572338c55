"""The benchmarks measure what they say, and tables say what was measured. No test is timed."""

from __future__ import annotations

import ast
import importlib
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import beside
import jax
import numpy as np
import optax
import pandas as pd
import pytest

from plasticity.runs import files, origin

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # where they import from
import comparisons
import findings
import speed

BENCHMARKS = ("training_speed", "agent_speed", "curvature_speed", "atari_speed")


@pytest.fixture
def benchmark_module() -> Callable[[str], ModuleType]:
    """Import a file of benchmarks/ by its name: some need packages that may not be there."""
    return importlib.import_module


def task_of(name: str, case: Any, world: Any) -> Any:
    """Return a contender's work on a case."""
    return comparisons.ENTRIES[name].task(case, world)


@pytest.mark.parametrize("name", ["torch_eager_default", "torch_eager_fused"])
def test_peers_compute_the_same(benchmark_module: Any, tmp_path: Path, name: str) -> None:
    """Twenty steps from equal parameters on equal minibatches; another ε would be noticed."""
    pytest.importorskip("torch", reason="PyTorch is not installed (make bench installs it)")
    task, ours, theirs = map(benchmark_module, ("task", "training_jax", "training_torch"))
    case = ours.Case(width=32, batch_size=16, n_images=64, block=1)
    task.write_world(tmp_path / "world.npz", ours.make_world(case))
    world = task.in_double(task.read_world(tmp_path / "world.npz", ours.World))
    indices = ours.given(case, world)
    with ours.double_precision():
        a = ours.Scan(case, world).check(indices)
    with theirs.double_precision():
        b = task_of(name, case, world).check(indices)
        larger = world._replace(adam=world.adam * [1, 1, 1, 10])
        c = task_of(name, case, larger).check(indices)
    assert {leaf.dtype for leaf in a + b} == {np.dtype(np.float64)}
    assert task.distance(a, b, world.params) <= task.TOLERANCE
    assert task.distance(a, c, world.params) > task.TOLERANCE


def test_python_loop_and_vmap_train_too(benchmark_module: Any) -> None:
    """They step on other minibatches: their loss on all images must fall as the scan's does."""
    ours = benchmark_module("training_jax")
    case = ours.Case(width=32, batch_size=16, n_images=32, block=100)
    world = ours.make_world(case)
    for kind in (ours.Scan, ours.PythonLoop, ours.Vmap):
        contender = kind(case, world)
        assert contender.block() == case.block * contender.seeds
        params = contender.learner.params
        if contender.seeds > 1:  # the second seed has its labels in reverse
            params = jax.tree.map(lambda leaf: leaf[0], params)
        logits = ours.optimizer_instability.forward(case.width, params, contender.inputs).output
        assert (np.argmax(np.asarray(logits), axis=1) == world.labels).mean() > 0.9, kind


def test_products_alone_are_the_gradient_of_the_linear_network(benchmark_module: Any) -> None:
    task, ours = map(benchmark_module, ("task", "training_jax"))
    case = ours.Case(width=16, batch_size=8, n_images=64, block=1)
    world = ours.make_world(case)
    kernels = [leaf.astype(np.float64) for leaf in world.params[1::2]]
    x = world.inputs[:8].astype(np.float64)

    def half_square(*kernels: Any) -> Any:  # its gradient at the output is the output
        return 0.5 * jax.numpy.sum((x @ kernels[0] @ kernels[1] @ kernels[2]) ** 2)

    with jax.enable_x64(True):
        expected = jax.grad(half_square, argnums=(0, 1, 2))(*kernels)
    found = ours.Dot(case, world).check(np.zeros(0))
    # each entry is a sum of at most 784 products, through five products in a row
    bound = 5 * np.sqrt(784) * np.finfo(np.float32).eps
    assert task.distance([np.asarray(leaf) for leaf in expected], found) < bound


@pytest.fixture(params=["mlp", "cnn"], scope="module")
def agents(request: pytest.FixtureRequest) -> Any:
    """The second benchmark's modules, a small case, its world in float64, a check's minibatches."""
    task, ours = map(importlib.import_module, ("task", "agent_jax"))
    case = ours.Case(request.param, 16, 4, 8, 64, steps=20, block=3)
    world = task.in_double(ours.make_world(case))
    return task, ours, case, world, ours.given(case, world)


def test_a_check_trains_on_what_the_agents_draw(agents: Any) -> None:
    """The minibatches are transitions of the problem; the update on them is that of `train`."""
    task, ours, case, world, given = agents
    observation, action, reward, following = given.transpose(1, 0, 2)
    assert given.shape == (task.CHECK_STEPS, 4, case.batch_size)
    assert ((world.labels[observation.astype(int)] == action) == (reward == 1)).all()
    assert set(np.unique(reward)) == {0, 1}
    assert following.min() >= 0 and following.max() < case.n_images
    with ours.double_precision():
        whole = task_of("agent_all", case, world).check(given)
        both = task_of("agent_vmap", case, world).check(given)
        bare = task_of("cnn_update_all", case, world).check(given)
        native = task_of("cnn_update_native", case, world).check(given)
        others = given.copy()
        others[:, 2] = 0  # nobody was ever rewarded
        unpaid = task_of("cnn_update_all", case, world).check(others)
    for same in (both, bare, native):
        assert {leaf.dtype for leaf in same} == {np.dtype(np.float64)}
        assert task.distance(whole, same, world.params) <= task.TOLERANCE
    assert task.distance(whole, unpaid, world.params) > task.TOLERANCE


@pytest.mark.parametrize(
    "name", ["torch_agent_all", "torch_update_fused_pinned", "torch_cnn_update_last_all"]
)
def test_agents_in_pytorch_compute_the_same(agents: Any, benchmark_module: Any, name: str) -> None:
    """Whole and bare, by MLP and CNN; another ε, or no target copy, would be noticed."""
    pytest.importorskip("torch", reason="PyTorch is not installed (make bench installs it)")
    task, ours, case, world, given = agents
    theirs = benchmark_module("agent_torch")
    with ours.double_precision():
        a = task_of("agent_all", case, world).check(given)
    with theirs.double_precision():
        b = task_of(name, case, world).check(given)
        larger = world._replace(adam=world.adam * [1, 1, 1, 10])
        c = task_of(name, case, larger).check(given)
        lazy = task_of(name, case, world)
        copy, lazy.copy_target = lazy.copy_target, lambda: None
        copy()
        d = lazy.check(given)
    assert [leaf.shape for leaf in a] == [leaf.shape for leaf in b]
    assert task.distance(a, b, world.params) <= task.TOLERANCE
    assert task.distance(a, c, world.params) > task.TOLERANCE
    assert task.distance(a, d, world.params) > task.TOLERANCE


def test_a_whole_agent_in_pytorch_acts_and_learns(benchmark_module: Any) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (make bench installs it)")
    ours = benchmark_module("agent_jax")
    case = ours.Case("mlp", 64, 0, 32, 64, steps=1, block=1_000)
    agent = task_of("torch_agent_all", case, ours.make_world(case))
    warmup = int(agent.settings.warmup)
    assert agent.ring.added == warmup and agent.ring.rewards[:warmup].mean() < 0.5
    assert agent.block() == 1_000
    assert agent.ring.added == warmup + 1_000
    ring = agent.ring
    # each observation is the one that followed the action before it
    np.testing.assert_array_equal(ring.observations[1:900], ring.following[:899])
    # γ = .99 and 1,000 steps: the policy is good long before the values are
    late = ring.rewards[warmup + 500 : warmup + 1_000].mean()
    assert late > 0.6, "90 % of the actions are greedy and the labels of 64 images easily learnt"
    target = agent.target.state_dict()
    for name, leaf in agent.model.state_dict().items():  # the period has just ended
        np.testing.assert_array_equal(leaf.numpy(), target[name].numpy())


@pytest.fixture
def alike(benchmark_module: Any) -> Any:
    """The modules of ours and of rejax, a small case, its world, a check's minibatches."""
    pytest.importorskip("rejax", reason="rejax is not installed (make bench installs it)",
                        exc_type=ImportError)  # fmt: skip
    task, ours, theirs = map(benchmark_module, ("task", "agent_jax", "agent_rejax"))
    case = ours.Case("mlp", 16, 0, 8, 64, steps=20, block=0)
    world = task.in_double(ours.make_world(case))
    return task, ours, theirs, case, world, ours.given(case, world)


@pytest.mark.parametrize("name", ["rejax_agent_pinned", "rejax_agent_alike_pinned"])
def test_agents_in_rejax_compute_the_same(
    alike: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The network's sizes, batch, loss and Adam; another ε, or no target copy, would be noticed."""
    task, ours, theirs, case, world, given = alike
    with ours.double_precision():
        a = task_of("lone_agent_pinned", case, world).check(given)
    with theirs.double_precision():
        b = task_of(name, case, world).check(given)
        larger = world._replace(adam=world.adam * [1, 1, 1, 10])
        c = task_of(name, case, larger).check(given)
        monkeypatch.setattr(theirs, "CHECK_PERIOD", 1_000)
        d = task_of(name, case, world).check(given)
    assert [leaf.shape for leaf in a] == [leaf.shape for leaf in b]
    assert {leaf.dtype for leaf in a + b} == {np.dtype(np.float64)}
    assert task.distance(a, b, world.params) <= task.TOLERANCE
    assert task.distance(a, c, world.params) > task.TOLERANCE
    assert task.distance(a, d, world.params) > task.TOLERANCE


@pytest.mark.parametrize("name", ["rejax_agent_pinned", "rejax_agent_alike_pinned"])
def test_agents_in_rejax_act_and_learn_as_ours(alike: Any, name: str) -> None:
    """As many updates, as many transitions, targets of the same step, and about the same return."""
    _, ours, _, _, _, _ = alike
    case = ours.Case("mlp", 64, 0, 32, 64, steps=1_000, block=0)
    world = ours.make_world(case)
    a, b = (task_of(one, case, world) for one in ("lone_agent_pinned", name))
    for one in (a, b):
        one.reset()
        assert one.block() == one.block() == 1_000
    settings, algorithm = a.agent, b.algorithm
    assert algorithm.batch_size == settings.batch_size and algorithm.gamma == settings.discount
    assert algorithm.target_update_freq == settings.target_period == 1_000
    assert algorithm.buffer_size == settings.capacity and not algorithm.normalize_observations
    states = (a.state.learner.opt_state, b.state.q_ts.opt_state)
    updates = [int(optax.tree.get(state, "count")) for state in states]
    assert updates == [2_000, 2_000]
    first = settings.warmup  # rejax takes one step more before its first update
    stored = (int(a.state.experience.buffer.added), int(b.state.replay_buffer.index) - 1)
    assert stored == (first + 2_000, first + 2_000)
    rewards = (a.state.experience.buffer.items.reward, b.state.replay_buffer.data.reward)
    early, late = (
        [float(np.mean(each[at : at + length])) for each in rewards]
        for at, length in ((0, first), (first + 1_500, 500))
    )
    assert max(early) < 0.3 and min(late) > 0.5
    # Five seeds each end between .60 and .82, on average at .73 (ours) and at .74 and .72.
    assert abs(late[0] - late[1]) < 0.25
    assert jax.tree.structure(b.state.q_target_params) == jax.tree.structure(b.state.q_ts.params)


def test_the_bound_counts_products_and_bytes(benchmark_module: Any) -> None:
    ours, bound = map(benchmark_module, ("agent_jax", "agent_bound"))
    case = ours.Case("mlp", 2, 0, 8, 64, steps=1_000, block=0)
    world = ours.make_world(case)
    first, others = 784 * 2, 2 * 2 + 2 * 10
    learning = speed.step_flops(width=2, batch_size=8)
    # one image to act on, and 64 images through the target network every 1,000 steps
    assert bound.product_flops(case, world) == learning + 2 * 1.064 * (first + others)
    # a call so short that the target's values are computed batch by batch
    short = case._replace(steps=1)
    assert bound.product_flops(short, world) == learning + 2 * (1 + 8) * (first + others)
    assert bound.adam_bytes(world) == 28 * (first + others + 2 + 2 + 10)
    for name in ("agent_products_pinned", "agent_traffic_pinned"):
        part = task_of(name, case, world)
        assert part.block() == part.updates > 100
        np.testing.assert_allclose(np.abs(part.now).max(), np.abs(part.start).max(), rtol=0.5)


@pytest.fixture(scope="module")
def probes() -> Any:
    """As `agents`, for a probe."""
    task, ours = map(importlib.import_module, ("task", "agent_jax"))
    case = ours.Case("mlp", 16, 0, 8, 64, steps=50, block=0, targets=2)
    world = task.in_double(ours.make_world(case))
    return task, ours, case, world, ours.given(case, world)


def test_fits_by_map_and_by_vmap_are_the_same(probes: Any) -> None:
    task, ours, case, world, given = probes
    assert world.targets.shape == (2, 64, 10)
    with ours.double_precision():
        a = task_of("probe_all", case, world).check(given)
        b = task_of("probe_vmap", case, world).check(given)
    assert task.distance(a, b) <= task.TOLERANCE


@pytest.mark.parametrize("name", ["torch_probe_all", "torch_probe_fused_pinned"])
def test_fits_in_pytorch_are_the_same(probes: Any, benchmark_module: Any, name: str) -> None:
    """A probe of fifty steps; another ε, or other minibatches, would be noticed."""
    pytest.importorskip("torch", reason="PyTorch is not installed (make bench installs it)")
    task, ours, case, world, given = probes
    theirs = benchmark_module("agent_torch")
    with ours.double_precision():
        a = task_of("probe_all", case, world).check(given)
    with theirs.double_precision():
        b = task_of(name, case, world).check(given)
        larger = world._replace(adam=world.adam * [1, 1, 1, 1_000])
        c = task_of(name, case, larger).check(given)
        d = task_of(name, case, world).check(given[:, ::-1])
    assert [part.shape for part in a] == [part.shape for part in b] == [(2,), (2, 1), (2, 1)]
    assert task.distance(a, b) <= task.TOLERANCE
    assert task.distance(a, c) > task.TOLERANCE
    assert task.distance(a, d) > task.TOLERANCE


@pytest.fixture(params=["mlp", "cnn"], scope="module")
def curved(request: pytest.FixtureRequest) -> Any:
    """The third benchmark's modules, a small case, its world in float64, a start vector."""
    task, ours = map(importlib.import_module, ("task", "curvature_jax"))
    case = ours.Case(request.param, 8, 3, 12, 12, order=6)
    world = task.in_double(ours.make_world(case))
    return task, ours, case, world, ours.given(case, world)


def test_densities_in_jax_are_the_same(curved: Any) -> None:
    """From one start vector; and those of a block are of the same Hessian."""
    task, ours, case, world, given = curved
    with ours.double_precision():
        a, b = (task_of(name, case, world).check(given) for name in ("spectrum", "matfree"))
        blocks = task_of("spectrum", case, world), task_of("matfree", case, world)
        key = jax.random.key(1)
        found = [one.run(one.params, (one.inputs, one.targets), key) for one in blocks]
        nodes = [np.asarray(spectrum.nodes) for spectrum in found]
        assert [one.block() for one in blocks] == [1, 1]
    assert task.distance(a, b) <= task.TOLERANCE
    for each in nodes:  # the largest eigenvalue from any direction, the smallest not yet
        assert each.shape == (1, case.order) and each.dtype == np.float64
        assert task.distance(a[1:2], [each.max()]) < 0.05


@pytest.mark.parametrize("name", ["torch_lanczos", "torch_pyhessian"])
def test_densities_in_pytorch_are_the_same(curved: Any, benchmark_module: Any, name: str) -> None:
    """The same four numbers; another start vector would be noticed."""
    pytest.importorskip("torch", reason="PyTorch is not installed (make bench installs it)")
    if "pyhessian" in name:
        pytest.importorskip("pyhessian", reason="PyHessian is not installed")
    task, ours, case, world, given = curved
    theirs = benchmark_module("curvature_torch")
    tolerance = comparisons.ENTRIES[name].tolerance
    with ours.double_precision():
        a = task_of("spectrum", case, world).check(given)
    with theirs.double_precision():
        b = task_of(name, case, world).check(given)
        c = task_of(name, case, world).check(given[::-1])
        assert task_of(name, case, world).block() == 1
    assert task.distance(a, b) <= tolerance
    assert task.distance(a, c) > tolerance


def test_the_exact_density_is_that_of_the_dense_hessian(benchmark_module: Any) -> None:
    """As many products as parameters: nothing is left to estimate."""
    task, ours = map(benchmark_module, ("task", "curvature_jax"))
    case = ours.Case("mlp", 2, 0, 12, 12, 1, dataset="noise")
    world = ours.make_world(case)
    given = ours.given(case, world)
    assert ours.dimension(world) == given.size == 20 * 2 + 2 + 2 * 2 + 2 + 2 * 10 + 10
    exact = ours.exact(case, world, given)
    with ours.double_precision():
        whole = ours.Spectra(case._replace(order=given.size), task.in_double(world))
        assert task.distance(exact, whole.check(given)) <= task.TOLERANCE


def test_gram_matrices_are_the_same(curved: Any) -> None:
    task, ours, case, world, given = curved
    case = case._replace(layer_norm=case.network == "mlp")
    world = task.in_double(ours.make_world(case))
    with ours.double_precision():
        a, b = (task_of(name, case, world) for name in ("gram", "gram_vmap"))
        found = a.check(given)
        assert found[0].shape == (12, 12) and found[0].dtype == np.float64
        assert task.distance(found, b.check(given)) <= task.TOLERANCE
        b.prepare()  # compiled beforehand, as memory is measured
        assert task.distance(found, b.check(given)) <= task.TOLERANCE
        assert a.block() == 1


def test_logging_does_not_change_what_is_trained(benchmark_module: Any) -> None:
    """The same parameters with and without, and as many measurements as were promised."""
    task, ours = map(benchmark_module, ("task", "curvature_jax"))
    case = ours.Case("mlp", 8, 0, 8, 64, order=4, steps=10)
    world = ours.make_world(case)
    logged, plain = (task_of(f"{name}_pinned", case, world) for name in ("logged", "unlogged"))
    given = ours.given(case, world)
    a, b = logged.check(given), plain.check(given)
    rounding = len(given) * np.finfo(np.float32).eps ** 0.5
    assert task.distance(a, b, world.params) <= rounding
    assert task.distance(a, world.params) > rounding
    assert logged.block() == ours.PIECES * case.steps
    state = jax.tree.map(jax.numpy.copy, logged.state)  # it is donated
    _, found = logged.run(logged.agent, logged.task, state, 30)
    assert found.shape == (3,) and np.isfinite(found).all()
    assert plain.run(plain.agent, plain.task, plain.state, 30)[1] is None


def test_agents_of_the_benchmark_are_those_of_the_chapter(
    benchmark_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """λ₁ is logged in training at the laptop study of the falsification chapter."""
    speeds, ours = map(benchmark_module, ("curvature_speed", "curvature_jax"))
    monkeypatch.setenv("PLASTICITY_DATA", "somewhere")
    laptop = speeds.falsification.studies["laptop"]
    found = {(case.dataset, case.network): case for case in speeds.agents()}
    networks = {network.kind: network for network in laptop.networks}
    assert set(found) == {(d, n) for d in laptop.datasets for n in networks}
    for case in found.values():
        config = ours.config_of(case)
        assert config.network == networks[case.network]
        assert config.problem.n_images == laptop.problem.n_images
        for field in ("optimizer", "algorithm", "sharpness_order", "proxy_examples"):
            assert getattr(config, field) == getattr(laptop, field), field
        assert case.steps == laptop.sharpness_every
        assert laptop.probe_every / laptop.sharpness_every == ours.PIECES
    monkeypatch.delenv("PLASTICITY_DATA")
    assert {case.dataset for case in speeds.agents()} == {"mnist_5k"}  # what ships


def test_target_periods_make_the_tables_that_they_say(
    benchmark_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = benchmark_module("agent_jax")
    case = ours.Case("mlp", 16, 0, 8, 64, steps=20, block=0)
    world = ours.make_world(case)
    stretches: list[int] = []
    original = ours.ImageTask.bootstrap

    def listening(*arguments: Any) -> Any:
        stretches.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(ours.ImageTask, "bootstrap", listening)
    moved = {}
    for name in ("copies", "no_copies", "one_table"):
        contender = task_of(name, case, world)
        assert contender.block() == 40
        target = jax.tree.leaves(contender.state.target_params)
        fresh = zip(target, world.params, strict=True)
        moved[name] = any((np.asarray(leaf) != old).any() for leaf, old in fresh)
        assert stretches.pop() == (40 if name == "one_table" else 20)
    assert moved == {"copies": True, "no_copies": False, "one_table": False}


def test_worlds_keep_their_arrays(benchmark_module: Any, tmp_path: Path) -> None:
    task, sizes = map(benchmark_module, ("task", "agent_task"))
    draw = np.random.default_rng(0)
    params = [draw.random(k + 1, np.float32) for k in range(12)]  # more than ten: 10 after 9
    fields = [draw.random(3, np.float32) for _ in sizes.World._fields]
    world = sizes.World(*fields)._replace(params=params, labels=np.arange(3))
    task.write_world(tmp_path / "a name, with a comma.npz", world)
    again = task.read_world(tmp_path / "a name, with a comma.npz", sizes.World)
    assert [leaf.shape for leaf in again.params] == [(k + 1,) for k in range(12)]
    double = task.in_double(again)
    assert double.labels.dtype == world.labels.dtype and double.images.dtype == np.float64
    assert {leaf.dtype for leaf in double.params} == {np.dtype(np.float64)}


def test_step_flops_by_hand() -> None:
    # 784 x 2 x 10 units on one image: the products cost 2 m n k
    forward = 2 * (784 * 2 + 2 * 2 + 2 * 10)
    weights = forward
    inputs = 2 * (2 * 2 + 2 * 10)
    assert speed.step_flops(width=2, batch_size=1) == forward + weights + inputs
    assert speed.step_flops(width=2, batch_size=128) == 128 * speed.step_flops(2, 1)


TOY = pd.DataFrame(
    [
        ("training", "scan", 128, 1024, [10.0, 20.0, 30.0]),
        ("training", "torch_eager_default", 128, 1024, [5.0, 20.0, 10.0]),
        ("training", "torch_eager_fused", 128, 1024, [8.0, 16.0, 20.0]),
        ("gemm", "jax_dot", 128, 1024, [20.0, 25.0, 40.0]),
        ("seeds", "one_process", 128, 256, [10.0, 10.0, 10.0]),
        ("seeds", "pinned_processes", 128, 256, [15.0, 16.0, 17.0]),
    ],
    columns=["table", "contender", "batch_size", "width", "steps_per_second"],
).explode("steps_per_second", ignore_index=True)
TOY["steps_per_second"] = TOY.steps_per_second.astype(float)
TOY["round"] = [0, 1, 2] * 6


def test_ratios_are_taken_within_rounds() -> None:
    found = speed.ratios(TOY, "training").set_index("contender")
    # rounds: 10/5, 20/20, 30/10, not median over median, 20/10
    assert found.loc["torch_eager_default", ["ratio", "low", "high"]].tolist() == [2, 1, 3]
    assert found.loc["torch_eager_fused", ["ratio", "low", "high"]].tolist() == [1.25, 1.25, 1.5]
    assert found.loc["torch_eager_default", "steps_per_second"] == 10
    assert speed.ratios(TOY, "gemm").ratio.tolist() == [0.75]  # 1/2, 4/5, 3/4
    seeds = speed.ratios(TOY, "seeds").set_index("contender")
    assert seeds.ratio.to_dict() == {"one_process": 1.6, "pinned_processes": 1.0}


def test_tables_and_sentences_carry_the_ratios() -> None:
    assert "| 128 | PyTorch eager, default Adam | 10.0 | **2.00 ×** | 1.00 ×, 3.00 × |" in (
        speed.as_markdown(TOY, "training")
    )
    assert "| **75%** | 50%, 80% |" in speed.as_markdown(TOY, "gemm")
    machine, peer, seeds = findings.findings(TOY)
    assert machine == ("Training, batch 128", "its products alone", "75% of the machine's rate",
                       "–", "–")  # fmt: skip
    fastest = "2.00 × as it comes; 1.25 × at its fastest (PyTorch eager, fused Adam)"
    assert peer == ("Training, batch 128", "PyTorch", fastest, "–", "–")
    assert seeds.compared_with == "one after the other, all cores" and seeds.found == "1.60 ×"
    assert findings.as_table([seeds]).splitlines() == [
        "| work | compared with | found | aim | reached |",
        "|---|---|---|---|---|",
        "| Several seeds in pinned processes, width 256, batch 128 | "
        "one after the other, all cores | 1.60 × | – | – |",
    ]


def in_rounds(network: str, rows: list[tuple[str, str, int, list[float]]]) -> pd.DataFrame:
    """Return a benchmark's table: of each contender the steps a second of every round."""
    columns = ["table", "contender", "batch_size", "steps_per_second"]
    found = pd.DataFrame(rows, columns=columns).assign(network=network)
    found["round"] = [list(range(len(rates))) for rates in found.steps_per_second]
    found = found.explode(["steps_per_second", "round"], ignore_index=True)
    return found.astype({"steps_per_second": float, "round": int})


AGENT_TOY = in_rounds(
    "mlp",
    [
        ("agents", "agent_pinned", 32, [600.0, 500.0, 600.0]),
        ("agents", "torch_agent_all", 32, [200.0, 125.0, 150.0]),
        ("agents", "torch_agent_pinned", 32, [100.0, 100.0, 100.0]),
        ("agents", "torch_update_all", 32, [500.0, 400.0, 500.0]),
        ("probes", "probe_pinned", 32, [400.0, 500.0, 400.0]),
        ("probes", "probe_all", 32, [300.0, 300.0, 300.0]),
        ("probes", "probe_vmap", 32, [200.0, 150.0, 100.0]),
        ("target_copies", "copies", 32, [99.0, 99.0, 98.0]),
        ("target_copies", "no_copies", 32, [100.0, 99.0, 98.0]),
        ("target_copies", "one_table", 32, [110.0, 110.0, 98.0]),
    ],
)


def test_findings_say_which_aims_were_reached() -> None:
    whole, bare, probe, vmap, copies, table = findings.findings(AGENT_TOY)
    # rounds: 3, 4, 4 against all cores and 6, 5, 6 pinned; the fastest peer counts
    assert whole == ("Whole agents, batch 32", "a loop in CleanRL's style", "4.00 ×", "3 ×", "yes")
    # rounds: 1.2, 1.25, 1.2
    assert bare[2:] == ("1.20 ×", "1.5 ×", "**no**")
    quick = AGENT_TOY.assign(contender=AGENT_TOY.contender.replace("torch_agent_pinned", "x"))
    pinned = quick[quick.contender == "x"].assign(contender="torch_agent_pinned")
    pinned["steps_per_second"] *= 2.5  # rounds: 2.4, 2, 2.4
    whole, *_ = findings.findings(pd.concat([quick[quick.contender != "x"], pinned]))
    assert "4.00 × as it comes; 2.40 × at its fastest (PyTorch: whole agents" in whole.found
    assert whole[3:] == ("3 ×", "**only as it comes**")
    # ten targets of 2,000 steps at 400 steps a second
    assert probe.work == "A whole probe: 10 targets of 2,000 steps"
    assert probe.found == "50 s at this rate"
    # rounds: 1.5, 2, 3
    assert vmap[1:3] == ("two targets batched with vmap, all cores", "2.00 ×")
    # rounds: .99, 1, 1 and .9, .9, 1
    assert copies.found == "0.0% (0.0% to 1.0% over rounds) of the time"
    assert table.found == "10.0% (0.0% to 10.0% over rounds) of the time"
    assert table[3:] == ("at most 2%", "**no**")
    assert "**90.0%** | 90.0%, 100.0% |" in speed.as_markdown(AGENT_TOY, "target_copies")


def test_findings_say_how_near_the_bound_is() -> None:
    toy = in_rounds(
        "mlp",
        [
            ("rejax_agents", "lone_agent_pinned", 32, [600.0, 500.0, 600.0]),
            ("rejax_agents", "rejax_agent_pinned", 32, [300.0, 200.0, 250.0]),
            ("rejax_agents", "rejax_agent_alike_pinned", 32, [400.0, 500.0, 400.0]),
            ("rejax_agents", "agent_products_pinned", 32, [1_500.0, 1_500.0, 1_500.0]),
            ("rejax_agents", "agent_traffic_pinned", 32, [3_000.0, 3_000.0, 3_000.0]),
        ],
    )
    aim, bound = findings.findings(toy.assign(width=64))
    # rounds: 2, 2.5, 2.4 and 1.5, 1, 1.5
    assert aim[:2] == ("Whole agents of width 64, batch 32", "rejax")
    assert aim.found.startswith("2.40 × as it comes; 1.50 × at its fastest (rejax: whole agents")
    assert aim[3:] == ("2.5 ×", "**no**")
    # 1/1,500 and 1/3,000 s together: 1/1,000 s; rounds: .6, .5, .6
    assert bound.work == "Whole agents of width 64"
    assert bound.found.startswith("60% (50% to 60% over rounds) of the 1,000 updates/s")
    assert "67% of whose time" in bound.found
    aim, _ = findings.findings(toy.assign(width=512))
    assert aim[3:] == ("1.8 ×", "**only as it comes**")
    both = pd.concat([toy.assign(width=width) for width in (512, 64)])
    table = speed.as_markdown(both, "rejax_agents").splitlines()
    assert table[0].startswith("| width | batch | contender | updates/s in all |")
    assert {line.count("|") for line in table} == {7}


def test_findings_say_where_the_time_of_a_step_goes() -> None:
    """Rounds: 40%, 33% and 40% of the time for gradients; 60%, 50% and 60% with Adam."""
    toy = in_rounds(
        "mlp",
        [
            ("rejax_agents", "lone_agent_pinned", 32, [600.0, 500.0, 600.0]),
            ("rejax_agents", "agent_learning_pinned", 32, [1_000.0, 1_000.0, 1_000.0]),
            ("rejax_agents", "agent_gradients_pinned", 32, [1_500.0, 1_500.0, 1_500.0]),
        ],
    )
    assert findings.times_in_words(toy.assign(width=64)) == (
        "- A step of an agent of width 64: 40% its gradients, 20% Adam, 40% acting, problem, "
        "buffer and the target's values."
    )
    assert findings.times_in_words(toy[:3].assign(width=64)) == ""


CURVATURE_TOY = pd.DataFrame(
    [
        ("spectra", "spectrum", "mlp", "mnist_5k", 512, [0.4, 0.5, 0.4]),
        ("spectra", "matfree", "mlp", "mnist_5k", 512, [0.2, 0.25, 0.25]),
        ("spectra", "torch_pyhessian", "mlp", "mnist_5k", 512, [0.2, 0.2, 0.2]),
        ("spectra", "torch_lanczos", "mlp", "mnist_5k", 512, [0.32, 0.4, 0.32]),
        ("spectra", "spectrum", "cnn", "mnist_5k", 512, [0.1, 0.1, 0.1]),
        ("spectra", "torch_pyhessian", "cnn", "mnist_5k", 512, [0.02, 0.02, 0.02]),
        ("grams", "gram", "mlp", "mnist_5k", 512, [50.0, 50.0, 50.0]),
        ("grams", "gram_vmap", "mlp", "mnist_5k", 512, [0.8, 1.0, 0.5]),
        ("logging", "logged_pinned", "mlp", "mnist_5k", 32, [100.0, 95.0, 98.0]),
        ("logging", "unlogged_pinned", "mlp", "mnist_5k", 32, [105.0, 100.0, 100.0]),
        ("logging", "logged_pinned", "mlp", "cifar10_train", 32, [80.0, 80.0, 80.0]),
        ("logging", "unlogged_pinned", "mlp", "cifar10_train", 32, [100.0, 100.0, 100.0]),
    ],
    columns=["table", "contender", "network", "dataset", "batch_size", "steps_per_second"],
).explode("steps_per_second", ignore_index=True)
CURVATURE_TOY["steps_per_second"] = CURVATURE_TOY.steps_per_second.astype(float)
CURVATURE_TOY["round"] = [0, 1, 2] * 12


def test_findings_on_curvature() -> None:
    theirs, larger, oracle, gram, mnist, cifar = findings.findings(CURVATURE_TOY)
    # rounds: 2, 2.5, 2 against PyHessian, 1.25 each against what we would write
    assert theirs[:2] == ("The MLP's spectral density, batch 512", "PyHessian")
    assert theirs.found.startswith("2.00 × as it comes; 1.25 × at its fastest (PyTorch: Lanczos")
    assert theirs[3:] == ("1.4 ×", "**only as it comes**")
    assert larger.work.startswith("The CNN's") and larger[3:] == ("2.5 ×", "yes")
    # rounds: 2, 2, 1.6
    assert oracle[1:] == ("matfree", "2.00 ×", "1.5 ×", "yes")
    # rounds: 62.5, 50, 100
    assert gram[2:] == ("62.50 ×", "50 ×", "yes")
    # rounds: 5 %, 5.3 %, 2 %
    assert mnist.work == "λ₁ every 1,000 steps, mlp on mnist_5k"
    assert mnist[2:] == ("5.0% (2.0% to 5.3% over rounds) more time", "less than 10%", "yes")
    assert cifar.found.startswith("25.0%") and cifar.reached == "**no**"
    table = speed.as_markdown(CURVATURE_TOY, "spectra").splitlines()
    assert table[0].startswith("| network | batch | contender | s | ours is faster by |")
    assert table[4] == "| mlp | 512 | PyHessian | 5 | **2.00 ×** | 2.00 ×, 2.50 × |"
    assert {line.count("|") for line in table} == {7}
    assert "| cifar10_train | 32 | the same agents, nothing logged | 100.0 | **80.0%** |" in (
        speed.as_markdown(CURVATURE_TOY, "logging")
    )


ATARI_TOY = in_rounds(
    "nature",
    [
        ("atari_steps", "stepping_hosted", 1, [8_000.0, 9_000.0, 8_000.0]),
        ("atari_steps", "gymnasium_sync", 1, [5_000.0, 5_000.0, 5_000.0]),
        ("atari_steps", "stepping_hosted", 8, [12_000.0, 12_000.0, 12_000.0]),
        ("atari_steps", "gymnasium_sync", 8, [5_000.0, 6_000.0, 5_000.0]),
        ("atari_agents", "atari_agent_pinned", 32, [300.0, 330.0, 300.0]),
        ("atari_agents", "torch_atari_agent_all", 32, [200.0, 200.0, 200.0]),
        ("atari_agents", "torch_atari_agent_last_pinned", 32, [300.0, 300.0, 300.0]),
        ("atari_parts", "part_whole", 32, [250.0, 250.0, 250.0]),
        ("atari_parts", "part_acting", 32, [4_000.0, 5_000.0, 5_000.0]),
        ("atari_parts", "part_learning", 32, [400.0, 400.0, 500.0]),
    ],
)


def test_findings_on_atari() -> None:
    one, eight, agents, parts = findings.findings(ATARI_TOY)
    # rounds: 1.6, 1.8, 1.6 and 2.4, 2, 2.4
    assert one == ("Stepping alone, environments 1", "gymnasium", "1.60 ×", "2 ×", "**no**")
    assert eight[2:] == ("2.40 ×", "2 ×", "yes")
    assert agents.found.startswith("1.50 × as it comes; 1.00 × at its fastest")
    assert agents.reached == "**only as it comes**"
    # medians: 1/5,000, 1/400 and 1/250 s; rounds: 250/4,000, 5 %, 5 % and 250/400, 250/400, 50 %
    assert parts.found == (
        "4,000.0 µs, of which the parts would take 68%: acting alone 200.0, learning alone "
        "2,500.0. The slowest, learning alone, allows 400 frames/s, the whole agent reaches 250"
    )
    table = speed.as_markdown(ATARI_TOY, "atari_steps").splitlines()
    assert table[0].startswith("| environments | contender | frames/s |")
    assert "| 32 | learning alone | 400.0 | **62.5%** | 50.0%, 62.5% |" in (
        speed.as_markdown(ATARI_TOY, "atari_parts")
    )


def test_a_benchmark_names_the_commit_that_it_began_with(
    benchmark_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an hour later the checkout may be another."""
    rounds, commits = benchmark_module("rounds"), ["began", "later"]
    real = origin.environment()
    monkeypatch.setattr(rounds, "environment", lambda: {**real, "commit": commits[0]})
    monkeypatch.setattr(sys, "argv", ["curvature_speed.py", "--output", str(tmp_path)])
    document = {"idle_cpu_share": 0.0, "failed": {}}
    ran = SimpleNamespace(rows=CURVATURE_TOY.to_dict("records"), document=lambda: document)

    def measure(toy: bool, folder: Path) -> tuple[Any, dict[str, Any]]:
        del commits[0]
        return ran, {"rounds": 3, "seconds": 1.0}

    rounds.main("curvature_speed", "", measure)
    table, machine = speed.read(tmp_path, "curvature_speed")
    assert machine["commit"] == "began"
    pd.testing.assert_frame_equal(table, CURVATURE_TOY)


def test_notes_on_curvature() -> None:
    errors = {"smallest": 1e-7, "largest": 2e-6, "trace": 0.0, "frobenius": 3e-5}
    machine = {
        "accuracy": {"errors": {"torch_pyhessian": errors}},
        "compile_seconds": {"scan": {"a": 9.0}, "matfree": {"a": 2.25, "b": 0.0}},
        "memory": {
            "a": {"gib": {"gram": 0.25, "gram_vmap": 3}, "cosines_apart": 2e-6},
            "b": {"gib": {"gram": 0.5, "gram_vmap": 9}, "cosines_apart": 2e-5},
        },
    }
    assert "| PyHessian | 1.0e-07 | 2.0e-06 | 0.0e+00 | 3.0e-05 |" in speed.accuracies(machine)
    assert speed.compiling(machine, "spectra").splitlines() == [
        "| s, once | a | b |", "|---|--:|--:|", f"| {comparisons.NAMES['matfree']} | 2.2 | 0.0 |",
    ]  # fmt: skip
    text = speed.memories(machine)
    assert "| b | 0.50 | 9.00 | 2.0e-05 |" in text
    assert "At most 1 GiB was the aim: kept." in text
    assert "At most 1e-05 apart was the aim: **not kept**." in text


@pytest.fixture
def stepping(benchmark_module: Any) -> Any:
    """The fourth benchmark's modules, two copies of a game, their world, a check's actions."""
    task, ours = map(benchmark_module, ("task", "atari_jax"))
    case = ours.Case(2, 0, updates=2, size=36, game="breakout")
    world = ours.make_world(case)
    return task, ours, case, world, ours.given(case, world)


def test_stepping_by_hand_and_inside_a_scan_is_the_same(stepping: Any) -> None:
    task, ours, case, world, given = stepping
    assert given.shape == (task.CHECK_STEPS, 2)
    a = task_of("stepping_hosted", case, world).check(given)
    b = task_of("stepping_jitted", case, world).check(given)
    assert [part.shape for part in a] == [(20, 2, 4, 36, 36), (20, 2), (20, 2)]
    assert task.distance(a, b) == 0
    stacks = a[0]
    assert not stacks[0, :, 0].any() and stacks[0, :, -1].any()  # zeros before an episode begins
    np.testing.assert_array_equal(stacks[1:, :, :-1], stacks[:-1, :, 1:])
    for name in ("stepping_hosted", "stepping_jitted"):  # sixteen frames an update, two games
        player = task_of(name, case, world)
        assert player.block() == 2 * 16 * 2
        # Those of other cases and checks may take the place of emulators that rest.
        ours.atari_callback._environments.cache_clear()
        assert task.turn(player, seconds=0) > 0


def test_stepping_in_gymnasium_is_the_same(stepping: Any) -> None:
    """Frames, rewards, ends; other actions would be noticed."""
    pytest.importorskip("cv2", reason="OpenCV is not installed (make bench installs it)")
    task, _, case, world, given = stepping
    theirs = task_of("gymnasium_sync", case, world)
    a = task_of("stepping_hosted", case, world).check(given)
    assert task.distance(a, theirs.check(given)) <= task.TOLERANCE
    assert task.distance(a, theirs.check((given + 1) % 4)) > task.TOLERANCE
    assert theirs.block() == 2 * 16 * 2
    theirs.games.close()


@pytest.fixture(scope="module")
def players() -> Any:
    """A small agent in a game, its world in float64, minibatches, and what ours makes of them."""
    task, ours = map(importlib.import_module, ("task", "atari_jax"))
    case = ours.Case(1, 16, updates=5, capacity=200, filled=120, size=36, game="breakout")
    world = task.in_double(ours.make_world(case))
    given = ours.given(case, world)
    with ours.double_precision():
        found = task_of("atari_agent_all", case, world).check(given)
    return task, ours, case, world, given, found


@pytest.mark.slow
def test_a_check_learns_from_what_the_players_draw(players: Any) -> None:
    """The minibatches are transitions of the game; the bare update is that of `train`."""
    task, ours, case, world, given, whole = players
    assert given.shape == (task.CHECK_STEPS,) and given["frames"].any()
    assert set(np.unique(given["reward"])) == {0, 1}  # points are seldom, and lives are lost
    assert set(np.unique(given["discount"])) == {0, 1}
    endless = given.copy()
    endless["discount"] = 1
    with ours.double_precision():
        bare = task_of("atari_update_all", case, world)
        same, other = bare.check(given), bare.check(endless)
    assert {leaf.dtype for leaf in whole + same} == {np.dtype(np.float64)}
    assert task.distance(whole, same, world.params) <= task.TOLERANCE
    assert task.distance(whole, other, world.params) > task.TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch_atari_update_all", "torch_atari_update_last_all"])
def test_players_in_pytorch_learn_the_same(players: Any, benchmark_module: Any, name: str) -> None:
    """Another ε, or no target copy, would be noticed."""
    pytest.importorskip("torch", reason="PyTorch is not installed (make bench installs it)")
    pytest.importorskip("cv2", reason="OpenCV is not installed (make bench installs it)")
    task, _, case, world, given, a = players
    theirs = benchmark_module("atari_torch")
    epsilon = benchmark_module("atari_task").Settings._fields.index("optimizer_epsilon")
    settings = world.settings.copy()
    settings[epsilon] *= 10
    with theirs.double_precision():
        b = task_of(name, case, world).check(given)
        c = task_of(name, case, world._replace(settings=settings)).check(given)
        lazy = task_of(name, case, world)
        lazy.copy_target, copy = lambda: None, lazy.copy_target
        copy()
        d = lazy.check(given)
    assert [leaf.shape for leaf in a] == [leaf.shape for leaf in b]
    assert task.distance(a, b, world.params) <= task.TOLERANCE
    assert task.distance(a, c, world.params) > task.TOLERANCE
    assert task.distance(a, d, world.params) > task.TOLERANCE


def test_a_player_in_pytorch_acts_and_learns(benchmark_module: Any) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed (make bench installs it)")
    pytest.importorskip("cv2", reason="OpenCV is not installed (make bench installs it)")
    ours, theirs = map(benchmark_module, ("atari_jax", "atari_torch"))
    case = ours.Case(1, 4, updates=5, capacity=64, filled=40, size=36, game="breakout")
    world = ours.make_world(case)
    player = task_of("torch_atari_agent_all", case, world)
    assert player.ring.added == 40
    assert player.block() == 5 * 16
    assert player.ring.added == 60 and player.updates == 5
    assert any((a != b).any() for a, b in zip(player.model.read(), world.params, strict=True))
    stacks, discounts = player.ring.stacks[:60], player.ring.discounts[:60]
    inside = discounts[:-1] == 1
    assert 0 < np.sum(discounts == 0) < 10  # lives lost
    np.testing.assert_array_equal(stacks[1:, :-1][inside], stacks[:-1, 1:][inside])
    for _ in range(2):  # once around the ring
        player.block()
    after = theirs.Ring(3, np.zeros(1))
    for k in range(5):
        after.add(np.full(1, k), k, 0.0, 1.0, np.full(1, k + 1))
    seen, action, *_, following = after.sample(50, np.random.default_rng(0))
    assert set(seen[:, 0].tolist()) == {3, 4}  # of the third it is not known what followed
    assert (following == seen + 1).all() and (action == seen[:, 0]).all()
    player.games.close()


def test_every_contender_stands_in_one_table_and_has_its_code(repository: Path) -> None:
    every = [name for benchmark in BENCHMARKS for name in comparisons.names(benchmark)]
    assert sorted(every) == sorted(comparisons.NAMES)
    for entry in comparisons.ENTRIES.values():
        module, _, kind = entry.code.partition(".")
        tree = ast.parse((repository / "benchmarks" / f"{module}.py").read_text())
        assert kind in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def test_tables_name_their_own_contenders(benchmark_module: Any) -> None:
    for table in comparisons.TABLES.values():
        assert table.ours in comparisons.names(table.benchmark)
    for aim in comparisons.AIMS:
        entries = comparisons.TABLES[aim.table].entries
        assert set(aim.contenders) <= {entry.name for entry in entries}
    for benchmark in BENCHMARKS:
        for table, agreement in benchmark_module(benchmark).AGREEMENTS.items():
            checked = {entry.name for entry in comparisons.TABLES[table].entries if entry.checked}
            assert agreement.reference in checked
            assert comparisons.TABLES[table].benchmark == benchmark


def of_ours(names: Iterable[str]) -> list[str]:
    """The contenders among these that need no other package."""
    others = ("torch", "gymnasium", "rejax")
    return [name for name in names if not any(other in name for other in others)]


def in_process(command: list[str], folder: Path) -> str:
    """Run a benchmark's script here, its contenders in threads; return what it prints."""
    with pytest.MonkeyPatch.context() as patch, beside.threads(folder):
        patch.setattr(sys, "argv", command)
        return beside.printed(lambda: runpy.run_path(command[0], run_name="__main__"))


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_runs_from_end_to_end_at_toy_size(
    repository: Path, tmp_path: Path, benchmark_module: Any, benchmark: str
) -> None:
    """The first in processes, as all of them when they are timed; that takes longest by far."""
    script = str(repository / "benchmarks" / f"{benchmark}.py")
    command = [script, "--toy", "--output", str(tmp_path)]
    if benchmark == BENCHMARKS[0]:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        out = done.stdout
    else:
        out = in_process(command, tmp_path / "compiled")
    table, machine = speed.read(tmp_path, benchmark)
    assert findings.as_table(findings.findings(table)) in out
    expected = set(benchmark_module(benchmark).TOY.contenders)
    assert set(of_ours(expected)) <= set(table.contender) <= expected
    assert set(table.contender) | set(machine["failed"]) == expected
    peers = ("torch", "rejax", "opencv")
    assert all(any(peer in why for peer in peers) for why in machine["failed"].values())
    assert (table.steps_per_second > 0).all()
    (tmp_path / f"{benchmark}.csv").write_text("table,contender\n")
    with pytest.raises(files.ResultsError, match="make bench"):
        speed.read(tmp_path, benchmark)


def test_nothing_recorded_says_what_to_do(tmp_path: Path) -> None:
    for benchmark in BENCHMARKS:
        with pytest.raises(FileNotFoundError, match=f"no recorded {benchmark}: `make bench`"):
            speed.read(tmp_path, benchmark)


CHECKED = {
    "training_speed": ("torch_eager_default", "torch_eager_fused", "torch_mm"),
    "agent_speed": (
        "agent_vmap", "torch_agent_all", "torch_update_all", "torch_update_fused_pinned",
        "probe_vmap", "torch_probe_all", "torch_probe_fused_pinned", "cnn_update_native",
        "torch_cnn_update_all", "torch_cnn_update_last_all", "torch_cnn_agent_all",
        "rejax_agent_pinned", "rejax_agent_alike_pinned",
    ),
    "curvature_speed": (
        "matfree", "torch_pyhessian", "torch_lanczos", "gram_vmap", "unlogged_pinned",
    ),
    "atari_speed": (
        "stepping_jitted", "gymnasium_sync", "atari_agent_vmap", "torch_atari_agent_all",
        "atari_update_all", "torch_atari_update_all", "torch_atari_update_last_all",
    ),
}  # fmt: skip


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_recorded_benchmark_is_complete(repository: Path, benchmark: str) -> None:
    table, machine = speed.read(repository / "benchmarks", benchmark)
    counts = table.groupby(["table", "batch_size", "contender"])["round"].nunique()
    rounds = machine["settings"]["rounds"]
    assert rounds >= 5 and (counts >= rounds).all()
    for name, batches in (("training", {128, 512}), ("agents", {32, 512})):
        if comparisons.TABLES[name].benchmark == benchmark:
            assert batches == set(table[table.table == name].batch_size)
    assert set(table.contender) | set(machine["failed"]) == set(comparisons.names(benchmark))
    assert set(CHECKED[benchmark]) <= set(table.contender), "some could not take part"
    assert set(CHECKED[benchmark]) <= set(machine["distances"])
    assert machine["idle_cpu_share"] < 0.01, "contenders at rest disturbed the others"
    tolerances = machine.get("tolerances", {})
    for name, away in machine["distances"].items():
        tolerance = tolerances.get(name, machine["tolerance"])
        assert comparisons.ENTRIES[name].checked
        assert comparisons.ENTRIES[name].tolerance == pytest.approx(tolerance)
        assert max(away.values()) <= tolerance
    assert machine["packages"]["torch"] and machine["finished"] and machine["commit"]


@pytest.mark.slow
def test_the_cost_of_widths_is_measured_at_toy_size(repository: Path, tmp_path: Path) -> None:
    script = str(repository / "benchmarks" / "width_cost.py")
    in_process([script, "--toy", "--output", str(tmp_path)], tmp_path / "compiled")
    table, machine = speed.read(tmp_path, "width_cost")
    assert list(zip(table.architecture, table.width, strict=True)) == [
        ("mlp", 16), ("mlp", 32), ("cnn", 16), ("cnn", 32),
    ]  # fmt: skip
    assert (table.milliseconds > 0).all()
    memory = table.groupby("architecture").mebibytes
    assert (memory.last() > memory.first()).all()
    assert machine["settings"]["turns"] == 1


def test_a_part_of_a_step_is_with_adam_or_without(benchmark_module: Any) -> None:
    """Adam moves a parameter by nearly its rate, 1e-3; plain descent at 1e-6 by next to nothing."""
    ours = benchmark_module("agent_jax")
    case = ours.Case("mlp", 16, 0, 8, 64, steps=20, block=5)
    world = ours.make_world(case)
    moved = {}
    for name in ("agent_learning_pinned", "agent_gradients_pinned"):
        part = task_of(name, case, world)
        assert part.block() == 5
        after = [np.asarray(leaf) for leaf in jax.tree.leaves(part.state.params)]
        moved[name] = max(np.abs(a - b).max() for a, b in zip(after, world.params, strict=True))
    assert 1e-3 < moved["agent_learning_pinned"] < 5 * 1.1e-3
    assert 0 < moved["agent_gradients_pinned"] < 1e-4


@pytest.mark.slow
def test_several_agents_at_once_are_timed_at_toy_size(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("ale_py", reason="needs ale_py: pip install plasticity-companion[atari]")
    command = [sys.executable, str(repository / "benchmarks" / "atari_device.py"), "--toy"]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table, machine = speed.read(tmp_path, "atari_device")
    assert not machine["failed"]
    assert list(zip(table.processes, table.agents, strict=True)) == [(1, 2), (2, 2)]
    assert (table.filter(like="per_second") > 0).all(axis=None)
    assert "| 4 | 2 | " in speed.on_device(table)


def test_what_a_device_does_is_said_of_its_fastest_layout() -> None:
    table = pd.DataFrame(
        {
            "processes": [1, 1, 1, 4], "agents": [1, 1, 1, 16],
            "frames_per_second": [1000, 3000, 2000, 29_999],
            "emulators_per_second": [4000, 4000, 4000, 50_000],
            "calls_per_second": [9000, 9000, 9000, 99_000], "busy": [0.1, 0.1, 0.2, 0.75],
        }
    )  # fmt: skip
    one, many = speed.on_device(table).splitlines()[2:]
    assert one == (
        "| 1 | 1 | 2,000 [1,000, 3,000] | 4,000 [4,000, 4,000] | 9,000 [9,000, 9,000] | 10% |"
    )
    assert many.startswith("| 64 | 4 | 29,999 ") and many.endswith(" | 75% |")
    assert speed.on_device(table.assign(busy=np.nan)).endswith(" | unknown |")
    machine: dict[str, Any] = {"device": {"kind": "some GPU", "cores": 16}}
    assert findings.on_device(table, machine) == (
        "Atari agents, 4 processes of 16, on one some GPU with 16 cores",
        "–",
        "29,999 frames/s; the emulators alone reach 50,000, and the GPU is at work 75% of the time",
        "30,000 frames/s",
        "**no**",
    )
    faster = table.assign(frames_per_second=2 * table.frames_per_second)
    assert findings.on_device(faster, machine).reached == "yes"
    machine["device"]["system"] = "Linux"
    machine |= {
        "packages": {"jax": "1", "ale-py": "2"}, "python": "3", "commit": None,
        "finished": "2026-11-26T15:39", "uncommitted_source": True, "failed": {"9 agents": "no"},
        "settings": {"turns": 3, "seconds": 2.0, "case": {"capacity": 100_000}},
    }  # fmt: skip
    assert speed.describe_device(machine) == (
        "Measured 2026-11-26 on some GPU, 16 cores, Linux, Python 3, jax 1, ale-py 2; commit "
        "unknown with uncommitted changes. 3 turns of at least 2 s, buffers of 100,000 "
        "transitions. 9 agents did not run: no."
    )


def test_the_committed_record_of_a_device_is_of_a_gpu(repository: Path) -> None:
    table, machine = speed.read(repository / "benchmarks", "atari_device")
    settings = machine["settings"]
    layouts = [(n, agents) for agents, counts in settings["layouts"] for n in counts]
    assert list(table.groupby(["processes", "agents"], sort=False).groups) == layouts
    assert (table.groupby(["processes", "agents"]).size() == settings["turns"]).all()
    assert machine["device"]["platform"] == "gpu" and not machine["failed"] and machine["commit"]
