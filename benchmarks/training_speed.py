"""How fast Fig. 1's network trains: ours against PyTorch, against the machine, over several seeds.

    python benchmarks/training_speed.py [--toy] [--output FOLDER]

Contenders take turns as `rounds` describes. Writes training_speed.csv (one rate per row) and
training_speed.json (machine, date, versions, settings, what was checked); the book's page Speed
shows both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comparisons
import rounds
import training_jax
from rounds import Agreement, Benchmark, Group
from training_task import Case

AGREEMENTS = {
    "training": Agreement("scan", moved=True),
    "gemm": Agreement("jax_dot", moved=False),
}


@dataclass(frozen=True)
class Settings:
    """How long to measure, and what."""

    against_pytorch: tuple[Case, ...] = (Case(1_024, 128, 5_000, 25), Case(1_024, 512, 5_000, 10))
    several_seeds: tuple[Case, ...] = (Case(256, 128, 1_000, 100),)
    rounds: int = 7
    seconds: float = 2.5  # per turn, at least
    contenders: tuple[str, ...] = tuple(comparisons.names("training_speed"))


TOY = Settings(
    against_pytorch=(Case(16, 8, 64, 5),),
    several_seeds=(Case(8, 8, 64, 5),),
    rounds=1,
    seconds=0.02,
    contenders=("scan", "torch_eager_default", "jax_dot", "one_process", "pinned_processes"),
)
"""Enough to see that all parts work together; most of its time goes into starting processes."""


def measure(toy: bool, folder: Path) -> tuple[Benchmark, dict[str, Any]]:
    """Return the benchmark, run, and its settings; see `rounds.main`."""
    settings = TOY if toy else Settings()
    benchmark = Benchmark(training_jax, AGREEMENTS, settings.contenders, settings.seconds, folder)
    benchmark.run(Group(("training", "gemm"), settings.against_pytorch, settings.rounds))
    benchmark.run(Group(("seeds",), settings.several_seeds, settings.rounds))
    return benchmark, {
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "against_pytorch": [case._asdict() for case in settings.against_pytorch],
        "several_seeds": [case._asdict() for case in settings.several_seeds],
        "adam": training_jax.config_of(settings.against_pytorch[0]).adam._asdict(),
    }


if __name__ == "__main__":
    rounds.main("training_speed", __doc__.partition("\n")[0], measure)
