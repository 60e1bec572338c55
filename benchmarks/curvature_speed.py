"""How fast curvature is measured: spectral densities, C_k, and λ₁ logged in training.

    python benchmarks/curvature_speed.py [--toy] [--output FOLDER]

Contenders take turns as `rounds` describes. Writes curvature_speed.csv (one rate per row) and
curvature_speed.json (machine, date, versions, settings, what was checked, the errors of densities,
the memory of Gram matrices); the book's page Speed shows both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import comparisons
import curvature_jax
import numpy as np
import rounds
from curvature_task import Case, Density
from rounds import HERE, Agreement, Benchmark, Group
from task import in_double, read_world

from plasticity.chapters.falsification import EXPERIMENT as falsification

AGREEMENTS = {
    "spectra": Agreement("spectrum", moved=False),
    "grams": Agreement("gram", moved=False),
    "logging": Agreement("logged_pinned", moved=True),
}

ORDER = 64
EXAMPLES = 512
NETWORKS = (
    Case("mlp", 512, 0, EXAMPLES, EXAMPLES, ORDER),
    Case("cnn", 512, 64, EXAMPLES, EXAMPLES, ORDER),
)
SMALL = Case("mlp", 16, 0, 64, 64, ORDER, dataset="noise")
"""Small enough to store its Hessian."""


def agents() -> tuple[Case, ...]:
    """Return the agents of the falsification chapter's laptop study; on CIFAR-10 if available."""
    laptop = falsification.studies["laptop"]
    return tuple(
        Case(
            network.kind, network.width, getattr(network, "channels", 0),
            laptop.algorithm.batch_size, laptop.problem.n_images, laptop.sharpness_order,
            laptop.sharpness_every, dataset,
        )
        for dataset in laptop.datasets
        if dataset == "mnist_5k" or os.environ.get("PLASTICITY_DATA")
        for network in laptop.networks
    )  # fmt: skip


class Sizes(NamedTuple):
    """How long to measure, and what."""

    networks: tuple[Case, ...] = NETWORKS
    agents: tuple[Case, ...] = agents()
    small: Case = SMALL
    memory: tuple[Case, ...] = (*NETWORKS, *(case._replace(layer_norm=True) for case in NETWORKS))
    rounds: int = 5
    seconds: float = 1.5  # per turn, at least
    contenders: tuple[str, ...] = tuple(comparisons.names("curvature_speed"))


TOY = Sizes(
    networks=(Case("mlp", 16, 0, 16, 16, 8), Case("cnn", 8, 4, 16, 16, 8)),
    agents=(Case("mlp", 16, 0, 8, 64, 4, 20),),
    small=SMALL._replace(width=4, order=16),
    memory=(Case("mlp", 16, 0, 16, 16, 8), Case("cnn", 8, 4, 16, 16, 8, layer_norm=True)),
    rounds=1,
    seconds=0.02,
)
"""Enough to see that all parts work together; most of its time goes into starting processes."""


def measure(toy: bool, folder: Path) -> tuple[Benchmark, dict[str, Any]]:
    """Return the benchmark, run, and its settings; see `rounds.main`."""
    return run(TOY if toy else Sizes(), folder)


def run(sizes: Sizes, folder: Path) -> tuple[Benchmark, dict[str, Any]]:
    """Return the benchmark of these sizes, run, and its settings."""
    benchmark = Benchmark(curvature_jax, AGREEMENTS, sizes.contenders, sizes.seconds, folder)
    # In float64 the full size would take longer than the measurement itself.
    few = [case._replace(batch_size=16, n_images=16, order=8) for case in sizes.networks]
    groups = (
        Group(("spectra",), sizes.networks, sizes.rounds, few),
        Group(("grams",), sizes.networks, sizes.rounds, few),
        Group(("logging",), sizes.agents, sizes.rounds),
    )
    for group in groups:
        benchmark.run(group)
    benchmark.notes["accuracy"] = accuracy(benchmark, sizes.small)
    benchmark.notes["memory"] = memory(benchmark, sizes.memory)
    return benchmark, {
        "rounds": sizes.rounds,
        "seconds": sizes.seconds,
        "cases": {group.tables[0]: [case._asdict() for case in group.cases] for group in groups},
        "checked": [case._asdict() for case in few],
        "pieces": curvature_jax.PIECES,
    }


def accuracy(benchmark: Benchmark, case: Case) -> dict[str, Any]:
    """Return the relative errors of densities in single precision against the dense Hessian.

    All start from one vector, for which both moments are exact. The error of Lanczos' method itself
    after this many steps is included too, from ours in float64.
    """
    world = read_world(benchmark.world(case), curvature_jax.World)
    given = curvature_jax.given(case, world)
    exact = curvature_jax.exact(case, world, given)
    found = benchmark.in_single("spectra", case)
    with curvature_jax.double_precision():
        found["ours in float64"] = curvature_jax.Spectra(case, in_double(world)).check(given)
    return {
        "case": case._asdict(),
        "parameters": curvature_jax.dimension(world),
        "exact": dict(zip(Density._fields, map(float, exact), strict=True)),
        "errors": {
            name: {
                field: float(abs(value - true) / abs(true))
                for field, value, true in zip(Density._fields, values, exact, strict=True)
            }
            for name, values in found.items()
        },
    }


def memory(benchmark: Benchmark, cases: Iterable[Case]) -> dict[str, Any]:
    """Return the memory that the Gram matrices take, each in a fresh process; compare cosines."""
    found = {}
    for case in cases:
        rises, cosines = {}, []
        for name in (entry.name for entry in comparisons.TABLES["grams"].entries):
            output = benchmark.folder / f"{name}.npy"
            command = [sys.executable, str(HERE / "curvature_memory.py"), json.dumps(case), name]
            done = subprocess.run(
                [*command, str(benchmark.world(case)), str(output)],
                env={**os.environ, "JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE, check=True,
            )  # fmt: skip
            rises[name] = round(json.loads(done.stdout)["rise"] / 2**30, 3)
            cosines.append(np.load(output))
        apart = float(np.abs(cosines[0] - cosines[1]).max())
        found[case.name] = {"gib": rises, "cosines_apart": apart}
        rounds.say(f"{case.name}: {rises} GiB, cosines {apart:.1e} apart")
    return found


if __name__ == "__main__":
    rounds.main(
        "curvature_speed", __doc__.partition("\n")[0], measure, ("torch", "PyHessian", "matfree")
    )
