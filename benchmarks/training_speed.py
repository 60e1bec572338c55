"""How fast Fig. 1's network trains: ours against PyTorch, against the machine, over several seeds.

    python benchmarks/training_speed.py [--toy] [--output FOLDER]

Machines drift and neighbours come and go, so contenders take turns round by round, each in a
process of its own that rests while another works, and what is reported are medians of the ratios
within a round. Writes training_speed.csv (one rate a row) and training_speed.json (machine, date,
versions, settings, what was checked); the book's page Speed shows both.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax_contenders
import numpy as np
import pandas as pd
from task import TOLERANCE, Case, distance, read_world, write_world

from plasticity import results, speed

HERE = Path(__file__).parent

Group = Mapping[str, tuple[str, ...]]
"""Contenders that take turns with each other, by the table that they stand in."""

AGAINST_PYTORCH: Group = {
    "training": (
        "scan",
        "python_loop",
        "torch_eager_default",
        "torch_eager_fused",
        "torch_compile_default",
        "torch_compile_fused",
        "torch_compile_all",
    ),
    "gemm": ("jax_dot", "torch_mm"),
}
SEVERAL_SEEDS: Group = {"seeds": ("one_process", "pinned_processes", "vmap")}

MUST_AGREE = {"training": "scan", "gemm": "jax_dot"}
"""Each table's reference: its other contenders must compute the same, but for `NO_CHECK`."""

NO_CHECK = ("python_loop",)  # `train` too, on other minibatches


@dataclass(frozen=True)
class Settings:
    """How long to measure, and what."""

    against_pytorch: tuple[Case, ...] = (Case(1_024, 128, 5_000, 25), Case(1_024, 512, 5_000, 10))
    several_seeds: tuple[Case, ...] = (Case(256, 128, 1_000, 100),)
    rounds: int = 7
    seconds: float = 2.5  # a turn, at least
    contenders: tuple[str, ...] = tuple(speed.NAMES)


TOY = Settings(
    against_pytorch=(Case(16, 8, 64, 5),),
    several_seeds=(Case(8, 8, 64, 5),),
    rounds=1,
    seconds=0.02,
    contenders=("scan", "torch_eager_default", "jax_dot", "one_process", "pinned_processes"),
)
"""Enough to see that all parts work together; most of its time goes into starting processes."""


class DifferentComputations(RuntimeError):
    """Two contenders that should compute the same do not."""


class Contender:
    """A named contender: one process, or one pinned to each core, whose rates add up."""

    def __init__(self, table: str, name: str, folder: Path) -> None:
        self.table, self.name = table, name
        cores: list[int | None] = [None]
        if name == "pinned_processes":
            cores = list(sorted(os.sched_getaffinity(0)))  # as `plasticity.driver` does
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        }
        self.processes = []
        for core in cores:
            with open(folder / f"{name}_{core}.log", "w") as log:
                process = subprocess.Popen(
                    [sys.executable, str(HERE / "contender.py")],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                    env=environment,
                )  # fmt: skip
            self.processes.append(process)
            self._send(process, {"contender": name, "core": core})

    @staticmethod
    def _send(process: subprocess.Popen[str], message: Mapping[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()

    def ask(self, do: str, case: Case, **details: Any) -> dict[str, Any]:
        """Give one order to every process; return the sums of their answers, or what failed."""
        for process in self.processes:
            self._send(process, {"do": do, "case": case, **details})
        answers = []
        for process in self.processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            answers.append(json.loads(line) if line else {"failed": "its process died"})
        for answer in answers:
            if "failed" in answer:
                return answer
        return {name: sum(answer[name] for answer in answers) for name in answers[0]}

    def close(self) -> None:
        """End the processes; nothing that they hold is worth keeping."""
        for process in self.processes:
            with process:
                process.kill()


class Benchmark:
    """Contenders, what was measured of them, and what went wrong."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.rows: list[dict[str, Any]] = []
        self.compile_seconds: dict[str, dict[str, float]] = {}
        self.distances: dict[str, dict[str, float]] = {}
        self.failed: dict[str, str] = {}
        self.idle_seconds = self.turn_seconds = 0.0

    def run(self, group: Group, cases: Iterable[Case]) -> None:
        """Start the group's contenders, check that they agree, let them take turns; end them."""
        with contextlib.ExitStack() as stack:
            contenders = []
            for table, names in group.items():
                for name in names:
                    if name in self.settings.contenders:
                        contenders.append(Contender(table, name, self.folder))
                        stack.callback(contenders[-1].close)
            for case in cases:
                contenders = [c for c in contenders if self.prepare(c, case)]
                self.check(contenders, case)
            for number in range(self.settings.rounds):
                for case in cases:
                    # Nobody comes first, or after the same neighbour, every time.
                    first = number % len(contenders)
                    for contender in contenders[first:] + contenders[:first]:
                        self.turn(contender, case, number)
                say(f"round {number + 1} of {self.settings.rounds}")

    def world(self, case: Case) -> Path:
        """Return the file of what every contender starts from."""
        path = self.folder / f"world_{case.width}_{case.n_images}.npz"
        if not path.exists():
            write_world(path, jax_contenders.make_world(case))
        return path

    def prepare(self, contender: Contender, case: Case) -> bool:
        """Compile and warm up; note the reason of a contender that cannot take part."""
        answer = contender.ask("prepare", case, world=str(self.world(case)))
        if "failed" in answer:
            self.failed[contender.name] = answer["failed"]
            say(f"{contender.name} does not take part: {answer['failed']}")
            return False
        seconds = round(answer["compile_seconds"], 2)
        self.compile_seconds.setdefault(contender.name, {})[key(case)] = seconds
        say(f"{contender.name}, {key(case)}: ready, {seconds} s for compiling")
        return True

    def check(self, contenders: Iterable[Contender], case: Case) -> None:
        """Raise `DifferentComputations` unless contenders of one table end with equal numbers."""
        indices = self.folder / "indices.npy"
        np.save(indices, jax_contenders.check_indices(case))
        start = read_world(self.world(case)).params
        found: dict[str, list[np.ndarray]] = {}
        for contender in contenders:
            reference = MUST_AGREE.get(contender.table)
            if reference is None or contender.name in NO_CHECK:
                continue
            out = self.folder / "out.npz"
            files = {"world": str(self.world(case)), "indices": str(indices), "out": str(out)}
            answer = contender.ask("check", case, **files)
            if "failed" in answer:
                raise RuntimeError(f"{contender.name}: {answer['failed']}")
            with np.load(out) as stored:
                found[contender.name] = list(stored.values())
            origin = start if contender.table == "training" else None
            away = distance(found[reference], found[contender.name], origin)
            self.distances.setdefault(contender.name, {})[key(case)] = away
            if not away <= TOLERANCE:
                raise DifferentComputations(
                    f"{contender.name} and {reference} differ by {away:.1e} of what they computed "
                    f"({key(case)}); rounding explains {TOLERANCE:.1e}"
                )

    def turn(self, contender: Contender, case: Case, number: int) -> None:
        """Let one contender work, all others resting; note its rate."""
        began = time.perf_counter()
        answer = contender.ask("turn", case, seconds=self.settings.seconds)
        if "failed" in answer:
            raise RuntimeError(f"{contender.name}: {answer['failed']}")
        self.turn_seconds += time.perf_counter() - began
        self.idle_seconds += answer["idle_cpu_seconds"]
        row = {
            "table": contender.table,
            "contender": contender.name,
            "batch_size": case.batch_size,
            "width": case.width,
            "round": number,
            "steps_per_second": round(answer["steps_per_second"], 3),
        }
        self.rows.append(row)


def key(case: Case) -> str:
    """Return a case's name in the JSON file."""
    return f"width {case.width}, batch {case.batch_size}"


def say(text: str) -> None:
    """Tell whoever waits how far it has come."""
    print(text, file=sys.stderr, flush=True)


def record(benchmark: Benchmark, began: str, load: float, output: Path) -> None:
    """Write the table and where it comes from, each atomically and the table first."""
    settings = benchmark.settings
    table = pd.DataFrame(benchmark.rows).to_csv(index=False).encode()
    environment = results.environment()
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        environment["packages"]["torch"] = importlib.metadata.version("torch")
    machine = {
        **environment,
        "began": began,
        "finished": results.now(),
        "load_before": round(load, 2),  # runnable processes, average of the last minute
        "idle_cpu_share": round(benchmark.idle_seconds / benchmark.turn_seconds, 5),
        "settings": {
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "against_pytorch": [case._asdict() for case in settings.against_pytorch],
            "several_seeds": [case._asdict() for case in settings.several_seeds],
            "adam": jax_contenders.config_of(settings.against_pytorch[0]).adam._asdict(),
        },
        "compile_seconds": benchmark.compile_seconds,
        "distances": benchmark.distances,
        "tolerance": TOLERANCE,
        "failed": benchmark.failed,
        "sha256": hashlib.sha256(table).hexdigest(),
    }
    document = json.dumps(machine, indent=1, ensure_ascii=False) + "\n"
    results.write_atomically(output / "training_speed.csv", table)
    results.write_atomically(output / "training_speed.json", document.encode())


def main() -> None:
    """Measure, record, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="tiny, one round: does it work at all?")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args()
    began, load = results.now(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(TOY if options.toy else Settings(), Path(folder))
        benchmark.run(AGAINST_PYTORCH, benchmark.settings.against_pytorch)
        benchmark.run(SEVERAL_SEEDS, benchmark.settings.several_seeds)
    record(benchmark, began, load, options.output)
    table, machine = speed.read(options.output)
    tables = [speed.as_markdown(table, name) for name in speed.OURS]
    print("\n\n".join([speed.describe(machine), *tables, speed.findings(table)]))


if __name__ == "__main__":
    main()
