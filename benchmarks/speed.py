"""The recorded benchmarks of `benchmarks/`: the files, ratios, and a table for each comparison."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
from comparisons import APART_AT_MOST, NAMES, RISE_AT_MOST, TABLES, Aim, Work

from plasticity.runs.files import ResultsError
from plasticity.runs.origin import told

HERE = Path(__file__).parent


def read(
    folder: Path = HERE, benchmark: str = "training_speed"
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the recorded rates, and what the JSON file says about machine, date and checks.

    Columns: table, contender, those of the case (batch_size and width or network), round,
    steps_per_second. Raises FileNotFoundError if nothing is recorded in ``folder``, `ResultsError`
    if the files do not belong together.
    """
    if not (folder / f"{benchmark}.json").is_file():
        raise FileNotFoundError(f"no recorded {benchmark}: `make bench` records one")
    machine = json.loads((folder / f"{benchmark}.json").read_text(encoding="utf-8"))
    table = folder / f"{benchmark}.csv"
    if hashlib.sha256(table.read_bytes()).hexdigest() != machine["sha256"]:
        raise ResultsError(f"{table} is not what the benchmark wrote: run `make bench` again")
    return pd.read_csv(table), machine


def ratios(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return, for each contender of table ``name``, its median rate and ours divided by it.

    Columns: those of the case, contender, steps_per_second, ratio (median over rounds of the ratio
    within a round), low, high (the smallest and the largest ratio).
    """
    measured = ("table", "contender", "round", "steps_per_second")
    case = [str(column) for column in table if column not in measured]
    turn = [*case, "round"]
    ours = table[table.contender == TABLES[name].ours].set_index(turn)
    rows = table[table.table == name].join(ours.steps_per_second.rename("ours"), turn)
    rows = rows.assign(ratio=rows.ours / rows.steps_per_second)
    return (
        rows.groupby([*case, "contender"], sort=False)
        .agg(
            steps_per_second=("steps_per_second", "median"),
            ratio=("ratio", "median"),
            low=("ratio", "min"),
            high=("ratio", "max"),
        )
        .reset_index()
    )


def rows_of(table: pd.DataFrame, case: Aim | Work) -> pd.DataFrame:
    """Return what was measured of an aim's case, or of a kind of work."""
    rows = table[(table.table == case.table) & (table.batch_size == case.batch_size)]
    for column in ("network", "width"):
        if (wanted := getattr(case, column)) and not rows.empty:
            rows = rows[rows[column] == wanted]
    return rows


def step_flops(width: int, batch_size: int) -> int:
    """Return the floating-point operations of a step's matrix products, 2 m n k each.

    Forward, gradient of the weights and, except in the first layer, gradient of the inputs.
    """
    return 2 * batch_size * (2 * 784 * width + 3 * width * width + 3 * width * 10)


def as_markdown(table: pd.DataFrame, name: str) -> str:
    """Return the rates and ratios of table ``name`` as a Markdown table.

    A sentence says so if the benchmark was recorded before it had this table.
    """
    form, rows = TABLES[name].form, ratios(table, name)
    if rows.empty:
        return f"Not yet recorded: `make bench BENCH={TABLES[name].benchmark}` records it."
    shown_if_several = ("network", "dataset", "width")
    several = [key for key in shown_if_several if key in rows and rows[key].nunique() > 1]
    heads = [*several, TABLES[name].size, "contender", TABLES[name].heading, "smallest, largest"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(several) + "|--:|---|--:|--:|--:|"]
    for row in rows.to_dict("records"):
        rate = row["steps_per_second"]
        if name == "gemm":
            rate *= step_flops(row["width"], row["batch_size"]) / 1e9
        shown = f"{1 / rate:.3g}" if TABLES[name].seconds else f"{rate:,.1f}"
        ratio, low, high = (form.format(row[column]) for column in ("ratio", "low", "high"))
        cells = [*(row[key] for key in several), row["batch_size"], NAMES[row["contender"]], shown]
        lines.append(f"| {' | '.join(map(str, cells))} | **{ratio}** | {low}, {high} |")
    return "\n".join(lines)


def accuracies(machine: dict[str, Any]) -> str:
    """Return how far off each contender's density is in single precision, as a Markdown table."""
    found = machine["accuracy"]
    heads = ["smallest eigenvalue", "largest", "first moment", "root of the second"]
    lines = [f"| contender | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    for name, errors in found["errors"].items():
        cells = " | ".join(f"{error:.1e}" for error in errors.values())
        lines.append(f"| {NAMES.get(name, name)} | {cells} |")
    return "\n".join(lines)


def compiling(machine: dict[str, Any], name: str) -> str:
    """Return the extra seconds that the first block of each contender in a table took.

    These are for compiling and whatever else is done once. As a Markdown table.
    """
    found = {
        entry.name: machine["compile_seconds"][entry.name]
        for entry in TABLES[name].entries
        if entry.name in machine["compile_seconds"]
    }
    cases = list(next(iter(found.values())))
    lines = [f"| s, once | {' | '.join(cases)} |", "|---|" + "--:|" * len(cases)]
    for contender, seconds in found.items():
        cells = " | ".join(f"{seconds[case]:.1f}" for case in cases)
        lines.append(f"| {NAMES[contender]} | {cells} |")
    return "\n".join(lines)


def memories(machine: dict[str, Any]) -> str:
    """Return what memory the Gram matrices took, and how far apart they are, as Markdown."""
    heads = "| network | ours, GiB | by example, GiB | cosines apart by at most |"
    lines = [heads, "|---|--:|--:|--:|"]
    for name, found in machine["memory"].items():
        rises = " | ".join(f"{found['gib'][way]:.2f}" for way in ("gram", "gram_vmap"))
        lines.append(f"| {name} | {rises} | {found['cosines_apart']:.1e} |")
    rise = max(found["gib"]["gram"] for found in machine["memory"].values())
    apart = max(found["cosines_apart"] for found in machine["memory"].values())
    for value, most, unit in ((rise, RISE_AT_MOST, " GiB"), (apart, APART_AT_MOST, " apart")):
        kept = "kept" if value <= most else "**not kept**"
        lines.append(f"\nAt most {most:g}{unit} was the aim: {kept}.")
    return "\n".join(lines)


NOTES = {"accuracy": accuracies, "memory": memories}
"""How to show a benchmark's results other than rates, by their name in the JSON file."""


def on_device(table: pd.DataFrame) -> str:
    """Return what ``benchmarks/atari_device.py`` recorded, medians over turns, as Markdown.

    Columns are in frames/s, with the smallest and the largest.
    """
    heads = ["agents", "processes", "whole agents", "emulators alone", "calls alone", "GPU at work"]
    lines = [f"| {' | '.join(heads)} |", "|--:" * len(heads) + "|"]
    for _, turns in table.groupby(["processes", "agents"], sort=False):
        processes, agents = turns.processes.iloc[0], turns.agents.iloc[0]
        cells = [f"{processes * agents}", f"{processes}"]
        for column in ("frames_per_second", "emulators_per_second", "calls_per_second"):
            rate = turns[column]
            cells.append(f"{rate.median():,.0f} [{rate.min():,.0f}, {rate.max():,.0f}]")
        busy = "unknown" if turns.busy.isna().any() else f"{turns.busy.median():.0%}"
        lines.append(f"| {' | '.join(cells)} | {busy} |")
    return "\n".join(lines)


def describe_device(machine: dict[str, Any]) -> str:
    """Return machine, date, versions and settings of ``benchmarks/atari_device.py``."""
    settings = machine["settings"]
    failed = "".join(f" {what} did not run: {why}." for what, why in machine["failed"].items())
    return (
        f"{where(machine)} {settings['turns']} turns of at least {settings['seconds']:g} s, "
        f"buffers of {settings['case']['capacity']:,} transitions.{failed}"
    )


def describe(machine: dict[str, Any]) -> str:
    """Return machine, date, versions and how it was measured, as Markdown."""
    settings = machine["settings"]
    text = (
        f"{where(machine)} {settings['rounds']} rounds, turns of at least "
        f"{settings['seconds']:g} s; those at rest took {machine['idle_cpu_share']:.2%} of a core."
    )
    if "extrapolation" in settings:
        text += f" {settings['extrapolation']}"
    failed = [
        f" {NAMES[name]} did not run: {reason}." for name, reason in machine["failed"].items()
    ]
    return text + "".join(failed)


def where(machine: dict[str, Any]) -> str:
    """Return when, on what and by which code a benchmark was measured, in a sentence."""
    device, packages = machine["device"], machine["packages"]
    versions = ", ".join(
        f"{name} {packages[name]}"
        for name in ("jax", "torch", "rejax", "PyHessian", "matfree", "gymnasium", "ale-py")
        if name in packages
    )
    return (
        f"Measured {machine['finished'][:10]} on {device['kind']}, {device['cores']} cores, "
        f"{device['system']}, Python {machine['python']}, {versions}; {told(machine, mark='')}."
    )
