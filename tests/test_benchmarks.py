"""The benchmark measures what it says, and its tables say what it measured. No test is timed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

from plasticity import results, speed


@pytest.fixture
def benchmark_module(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a file of benchmarks/ by its name, as the benchmark's own processes do."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("name", ["torch_eager_default", "torch_eager_fused"])
def test_peers_compute_the_same(benchmark_module: Any, tmp_path: Path, name: str) -> None:
    """Twenty steps from equal parameters on equal minibatches; another ε would be noticed."""
    pytest.importorskip("torch", reason="PyTorch is not installed (make bench installs it)")
    task, ours, theirs = map(benchmark_module, ("task", "jax_contenders", "torch_contenders"))
    case = task.Case(width=32, batch_size=16, n_images=64, block=1)
    task.write_world(tmp_path / "world.npz", ours.make_world(case))
    world = task.in_double(task.read_world(tmp_path / "world.npz"))
    indices = ours.check_indices(case)
    with ours.double_precision():
        a = ours.Scan(case, world).check(indices)
    with theirs.double_precision():
        b = theirs.TASKS[name](case, world).check(indices)
        larger = world._replace(adam=world.adam * [1, 1, 1, 10])
        c = theirs.TASKS[name](case, larger).check(indices)
    assert {leaf.dtype for leaf in a + b} == {np.dtype(np.float64)}
    assert task.distance(a, b, world.params) <= task.TOLERANCE
    assert task.distance(a, c, world.params) > task.TOLERANCE


def test_python_loop_and_vmap_train_too(benchmark_module: Any) -> None:
    """They step on other minibatches: their loss on all images must fall as the scan's does."""
    task, ours = map(benchmark_module, ("task", "jax_contenders"))
    case = task.Case(width=32, batch_size=16, n_images=32, block=100)
    world = ours.make_world(case)
    for kind in (ours.Scan, ours.PythonLoop, ours.Vmap):
        contender = kind(case, world)
        assert contender.block() == case.block * contender.seeds
        params = contender.state.params
        if contender.seeds > 1:  # the second seed has its labels in reverse
            params = jax.tree.map(lambda leaf: leaf[0], params)
        logits = ours.optimizer_instability.forward(
            contender.config, params, contender.inputs
        ).output
        assert (np.argmax(np.asarray(logits), axis=1) == world.labels).mean() > 0.9, kind


def test_products_alone_are_the_gradient_of_the_linear_network(benchmark_module: Any) -> None:
    task, ours = map(benchmark_module, ("task", "jax_contenders"))
    case = task.Case(width=16, batch_size=8, n_images=64, block=1)
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
    text = speed.findings(TOY)
    assert "75% of the machine's rate; 2.00 times PyTorch eager with its default Adam" in text
    assert "1.25 times the fastest PyTorch, PyTorch eager, fused Adam." in text
    assert "pinned processes take 1.60 times the steps of one after the other" in text


@pytest.mark.slow
def test_runs_from_end_to_end_at_toy_size(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / "training_speed.py"), "--toy"]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table, machine = speed.read(tmp_path)
    assert speed.findings(table) in done.stdout
    ours = {"scan", "jax_dot", "one_process", "pinned_processes"}
    assert ours <= set(table.contender) <= set(speed.NAMES)
    assert all("torch" in reason for reason in machine["failed"].values())
    assert (table.steps_per_second > 0).all()
    (tmp_path / "training_speed.csv").write_text("table,contender\n")
    with pytest.raises(results.ResultsError, match="make bench"):
        speed.read(tmp_path)


def test_nothing_recorded_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="make bench"):
        speed.read()


def test_recorded_benchmark_is_complete(repository: Path) -> None:
    table, machine = speed.read(repository / "benchmarks")
    counts = table.groupby(["table", "batch_size", "contender"])["round"].nunique()
    rounds = machine["settings"]["rounds"]
    assert rounds >= 5 and (counts == rounds).all()
    assert {128, 512} == set(table[table.table == "training"].batch_size)
    assert set(table.contender) | set(machine["failed"]) == set(speed.NAMES)
    assert {"scan", "python_loop", "torch_eager_default", "torch_eager_fused"} <= set(
        table.contender
    )
    assert machine["idle_cpu_share"] < 0.01, "contenders at rest disturbed the others"
    checked = {"torch_eager_default", "torch_eager_fused", "torch_mm"}
    assert checked <= set(machine["distances"])
    for away in machine["distances"].values():
        assert max(away.values()) <= machine["tolerance"]
    assert machine["packages"]["torch"] and machine["finished"] and machine["commit"]
