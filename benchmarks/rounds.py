"""What all benchmarks share: contenders in separate processes, rounds, checks, the record.

Machines drift and neighbours come and go. So contenders take turns round by round, each in its own
process that rests while another works, and the results are medians of the ratios within a round.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any, NamedTuple

import comparisons
import findings
import numpy as np
import pandas as pd
import speed
from table import Entry
from task import TOLERANCE, Case, distance, read_world, write_world

from plasticity.runs import child
from plasticity.runs.files import write_atomically
from plasticity.runs.origin import environment, now

HERE = Path(__file__).parent


class Group(NamedTuple):
    """Contenders that take turns with each other."""

    tables: tuple[str, ...]  # of `comparisons.TABLES`: all their contenders take part
    cases: Sequence[Case]
    rounds: int
    checks: Sequence[Case] = ()  # on which contenders must agree, if not on the cases themselves


class Agreement(NamedTuple):
    """With which contender the others of a table must agree."""

    reference: str
    moved: bool  # results are parameters: differences are relative to how far these moved


class DifferentComputations(RuntimeError):
    """Two contenders that should compute the same do not."""


class Contender:
    """An entry at work: one process, or one pinned to each core with rates added up."""

    def __init__(self, table: str, entry: Entry, folder: Path) -> None:
        self.table, self.entry, self.name = table, entry, entry.name
        cores: list[int | None] = [None]
        if entry.pinned:
            cores = list(sorted(os.sched_getaffinity(0)))  # as `plasticity.runs.driver` does
        self.processes = [
            child.start(
                "contender:serve", None, core=core, log=folder / f"{self.name}_{core}.log",
                environment={"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}, path=[HERE],
            )
            for core in cores
        ]  # fmt: skip
        for process in self.processes:
            child.tell(process, {"do": "start", "contender": self.name})

    def ask(self, do: str, case: Case, **details: Any) -> dict[str, Any]:
        """Give one order to every process; return the sums of their answers, or what failed."""
        for process in self.processes:
            child.tell(process, {"do": do, "case": case, **details})
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return the sums of the answers to the last order, or what failed."""
        answers = [self._hear(process) for process in self.processes]
        for answer in answers:
            if "failed" in answer:
                return answer
        return {name: sum(answer[name] for answer in answers) for name in answers[0]}

    def check(self, case: Case, double: bool, **files: str) -> dict[str, Any]:
        """Let the first process do what is checked; the others would only repeat it."""
        order = {"do": "check", "case": case, "double": double, **files}
        child.tell(self.processes[0], order)
        return self._hear(self.processes[0])

    @staticmethod
    def _hear(process: subprocess.Popen[str]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = child.hear(process)
        except EOFError:
            return {"failed": "its process died"}
        return answer

    def close(self) -> None:
        """End the processes; nothing that they hold is worth keeping."""
        for process in self.processes:
            with process:
                process.kill()


class Benchmark:
    """Contenders, their measurements, and what went wrong.

    ``ours`` is the benchmark's module of contenders in JAX. It also has ``make_world(case)`` and
    ``given(case, world)``, the minibatches of a check.
    """

    def __init__(
        self,
        ours: ModuleType,
        agreements: Mapping[str, Agreement],
        contenders: Iterable[str],
        seconds: float,
        folder: Path,
    ) -> None:
        self.ours, self.agreements = ours, agreements
        self.contenders, self.seconds, self.folder = tuple(contenders), seconds, folder
        self.groups: list[Group] = []
        self.rows: list[dict[str, Any]] = []
        self.first_blocks: dict[tuple[str, str], tuple[float, int]] = {}
        self.compile_seconds: dict[str, dict[str, float]] = {}
        self.distances: dict[str, dict[str, float]] = {}
        self.failed: dict[str, str] = {}
        self.notes: dict[str, Any] = {}  # what else was found
        self.idle_seconds = self.turn_seconds = 0.0

    def run(self, group: Group) -> None:
        """Start the group's contenders, check that they agree, let them take turns; end them."""
        self.groups.append(group)
        with contextlib.ExitStack() as stack:
            contenders = []
            for table in group.tables:
                for entry in comparisons.TABLES[table].entries:
                    if entry.name in self.contenders:
                        contenders.append(Contender(table, entry, self.folder))
                        stack.callback(contenders[-1].close)
            contenders = [c for c in contenders if self.takes_part(c, c.answer())]
            for case in group.cases:
                contenders = [c for c in contenders if self.prepare(c, case)]
            for case in group.checks or group.cases:
                self.check(contenders, case)
            for number in range(group.rounds if contenders else 0):
                for case in group.cases:
                    # No contender comes first, or follows the same neighbour, every time.
                    first = number % len(contenders)
                    for contender in contenders[first:] + contenders[:first]:
                        self.turn(contender, case, number)
                say(f"{', '.join(group.tables)}: round {number + 1} of {group.rounds}")

    def world(self, case: Case) -> Path:
        """Return the file with what every contender starts from."""
        path = self.folder / f"world {case.name}.npz"
        if not path.exists():
            write_world(path, self.ours.make_world(case))
        return path

    def takes_part(self, contender: Contender, answer: Mapping[str, Any]) -> bool:
        """Return whether nothing failed; note the reason of a contender that cannot take part."""
        if "failed" in answer:
            self.failed[contender.name] = answer["failed"]
            say(f"{contender.name} does not take part: {answer['failed']}")
        return "failed" not in answer

    def prepare(self, contender: Contender, case: Case) -> bool:
        """Compile by running a first block; return whether the contender can take part."""
        answer = contender.ask("prepare", case, world=str(self.world(case)))
        if not self.takes_part(contender, answer):
            return False
        self.first_blocks[contender.name, case.name] = answer["seconds"], answer["steps"]
        say(f"{contender.name}, {case.name}: ready after {answer['seconds']:.1f} s")
        return True

    def check(self, contenders: Iterable[Contender], case: Case) -> None:
        """Raise `DifferentComputations` unless contenders of one table end with equal numbers."""
        world = read_world(self.world(case), self.ours.World)
        found: dict[str, list[np.ndarray]] = {}
        for contender in contenders:
            if contender.table not in self.agreements or not contender.entry.checked:
                continue
            reference, moved = self.agreements[contender.table]
            if not found:
                np.save(self.folder / "given.npy", self.ours.given(case, world))
            found[contender.name] = self.computed(contender, case)
            origin = world.params if moved else None
            away = distance(found[reference], found[contender.name], origin)
            self.distances.setdefault(contender.name, {})[case.name] = away
            tolerance = contender.entry.tolerance
            if not away <= tolerance:
                raise DifferentComputations(
                    f"{contender.name} and {reference} differ by {away:.1e} of what they computed "
                    f"({case.name}); rounding explains {tolerance:.1e}"
                )

    def computed(self, contender: Contender, case: Case, double: bool = True) -> list[np.ndarray]:
        """Return what a contender computes from the given minibatches."""
        given, out = self.folder / "given.npy", self.folder / "out.npz"
        files = {"world": str(self.world(case)), "given": str(given), "out": str(out)}
        answer = contender.check(case, double, **files)
        if "failed" in answer:
            raise RuntimeError(f"{contender.name}: {answer['failed']}")
        with np.load(out) as stored:
            return list(stored.values())

    def in_single(self, table: str, case: Case) -> dict[str, list[np.ndarray]]:
        """Return what each contender of a table computes in a check, in single precision."""
        world = read_world(self.world(case), self.ours.World)
        np.save(self.folder / "given.npy", self.ours.given(case, world))
        found = {}
        for entry in comparisons.TABLES[table].entries:
            if entry.name in self.contenders and entry.name not in self.failed:
                with contextlib.closing(Contender(table, entry, self.folder)) as one:
                    if self.takes_part(one, one.answer()):
                        found[entry.name] = self.computed(one, case, double=False)
        return found

    def turn(self, contender: Contender, case: Case, number: int) -> None:
        """Let one contender work while all others rest; note its rate."""
        began = perf_counter()
        answer = contender.ask("turn", case, seconds=self.seconds)
        if "failed" in answer:
            raise RuntimeError(f"{contender.name}: {answer['failed']}")
        self.turn_seconds += perf_counter() - began
        self.idle_seconds += answer["idle_cpu_seconds"]
        if number == 0:
            # Extra time of the very first block; rates and times of processes add up.
            seconds, steps = self.first_blocks[contender.name, case.name]
            beyond = seconds - len(contender.processes) * steps / answer["steps_per_second"]
            found = self.compile_seconds.setdefault(contender.name, {})
            found[case.name] = round(max(0.0, beyond), 2)
        row = {
            "table": contender.table,
            "contender": contender.name,
            **case.columns,
            "round": number,
            "steps_per_second": float(f"{answer['steps_per_second']:.6g}"),
        }
        self.rows.append(row)

    def document(self) -> dict[str, Any]:
        """Return what the JSON file says about contenders and turns."""
        return {
            "idle_cpu_share": round(self.idle_seconds / self.turn_seconds, 5),
            "compile_seconds": self.compile_seconds,
            "distances": self.distances,
            "tolerance": TOLERANCE,
            "tolerances": {
                entry.name: entry.tolerance
                for table in self.agreements
                for entry in comparisons.TABLES[table].entries
                if entry.tolerance != TOLERANCE
            },
            "failed": self.failed,
            **self.notes,
        }


def say(text: str) -> None:
    """Report progress to whoever waits."""
    print(text, file=sys.stderr, flush=True)


def beginning(peers: Iterable[str] = ()) -> dict[str, Any]:
    """Return machine, commit and versions, also of ``peers``, before anything is measured.

    Taken at the start, because a commit made during the run is not what ran.
    """
    machine = environment()
    for peer in peers:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            machine["packages"][peer] = importlib.metadata.version(peer)
    # The load: runnable processes, averaged over the last minute.
    return {**machine, "began": now(), "load_before": round(os.getloadavg()[0], 2)}


def record(
    folder: Path,
    name: str,
    rows: Iterable[Mapping[str, Any]],
    begun: Mapping[str, Any],
    found: Mapping[str, Any],
) -> None:
    """Write the rows to ``name``.csv and all else to ``name``.json, atomically, the table first.

    ``begun`` is what `beginning` returned, ``found`` what is specific to this benchmark.
    """
    table = pd.DataFrame(rows).to_csv(index=False).encode()
    machine = {
        **begun, "finished": now(), **found, "sha256": hashlib.sha256(table).hexdigest(),
    }  # fmt: skip
    text = json.dumps(machine, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / f"{name}.csv", table)
    write_atomically(folder / f"{name}.json", text.encode())


def main(
    name: str,
    description: str,
    measure: Callable[[bool, Path], tuple[Benchmark, dict[str, Any]]],
    peers: Iterable[str] = ("torch",),
) -> None:
    """Measure, record, print.

    ``measure(toy, folder)`` runs a benchmark with a folder for its files, and returns it with the
    settings to record. Writes ``name``.csv, one rate per row, and ``name``.json: machine, date,
    versions (also of the packages ``peers``), settings, what was checked.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--toy", action="store_true", help="tiny, one round: does it work at all?")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args()
    begun = beginning(peers)
    with tempfile.TemporaryDirectory() as folder:
        benchmark, settings = measure(options.toy, Path(folder))
    found = {"settings": settings, **benchmark.document()}
    record(options.output, name, benchmark.rows, begun, found)
    recorded, machine = speed.read(options.output, name)
    tables = [
        speed.as_markdown(recorded, key) for key in comparisons.TABLES if key in set(recorded.table)
    ]
    notes = [form(machine) for key, form in speed.NOTES.items() if key in machine]
    found_in_all = findings.as_table(findings.findings(recorded))
    print("\n\n".join([speed.describe(machine), *tables, *notes, found_in_all]))
