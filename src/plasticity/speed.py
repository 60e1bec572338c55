"""The recorded benchmark of `benchmarks/training_speed.py`, as tables and sentences."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from plasticity.results import ResultsError

NAMES = {
    "scan": "ours: one jitted scan",
    "python_loop": "ours: a jitted step in a Python loop",
    "torch_eager_default": "PyTorch eager, default Adam",
    "torch_eager_fused": "PyTorch eager, fused Adam",
    "torch_compile_default": "torch.compile, default Adam",
    "torch_compile_fused": "torch.compile, fused Adam",
    "torch_compile_all": "torch.compile, Adam compiled too",
    "jax_dot": "the products alone, jnp.dot",
    "torch_mm": "the products alone, torch.mm",
    "one_process": "one after the other, all cores",
    "pinned_processes": "one process pinned to each core",
    "vmap": "two seeds batched with vmap, all cores",
}

OURS = {"training": "scan", "gemm": "scan", "seeds": "pinned_processes"}
"""Whose rate stands above the others' in the ratios of each table: what the driver uses."""


HEADINGS = {
    "training": "steps/s | ours is faster by",
    "gemm": "GFLOP/s | our step reaches",
    "seeds": "steps/s in all | pinned processes are faster by",
}


def read(folder: Path | None = None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the recorded rates, and what `training_speed.json` says of machine, date and checks.

    Columns: table, contender, batch_size, width, round, steps_per_second. Looked for in
    ``benchmarks`` in the working directory and above it, if no folder is named. Raises
    FileNotFoundError if nothing is recorded, `ResultsError` if the files do not belong together.
    """
    here = Path.cwd()
    folders = [folder] if folder else [path / "benchmarks" for path in (here, *here.parents)]
    found = [path for path in folders if (path / "training_speed.json").is_file()]
    if not found:
        raise FileNotFoundError("no recorded benchmark: `make bench` records one")
    machine = json.loads((found[0] / "training_speed.json").read_text(encoding="utf-8"))
    table = found[0] / "training_speed.csv"
    if hashlib.sha256(table.read_bytes()).hexdigest() != machine["sha256"]:
        raise ResultsError(f"{table} is not what the benchmark wrote: run `make bench` again")
    return pd.read_csv(table), machine


def ratios(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return, for each contender of table ``name``, its median rate and ours divided by it.

    Columns: batch_size, width, contender, steps_per_second, ratio (median over rounds of the ratio
    within a round), low, high (the smallest and the largest of them).
    """
    case = ["batch_size", "width", "round"]
    ours = table[table.contender == OURS[name]].set_index(case).steps_per_second.rename("ours")
    rows = table[table.table == name].join(ours, on=case)
    rows = rows.assign(ratio=rows.ours / rows.steps_per_second)
    groups = rows.groupby(["batch_size", "width", "contender"], sort=False)
    return groups.agg(
        steps_per_second=("steps_per_second", "median"),
        ratio=("ratio", "median"),
        low=("ratio", "min"),
        high=("ratio", "max"),
    ).reset_index()


def step_flops(width: int, batch_size: int) -> int:
    """Return the floating-point operations of a step's matrix products, 2 m n k each.

    Forward, gradient of the weights and, but for the first layer, gradient of the inputs.
    """
    return 2 * batch_size * (2 * 784 * width + 3 * width * width + 3 * width * 10)


def as_markdown(table: pd.DataFrame, name: str) -> str:
    """Return the rates and ratios of table ``name`` as a Markdown table."""
    lines = [
        f"| batch | contender | {HEADINGS[name]} | smallest, largest |",
        "|--:|---|--:|--:|--:|",
    ]
    for row in ratios(table, name).to_dict("records"):
        rate, form = row["steps_per_second"], "{:.2f} ×"
        if name == "gemm":
            rate, form = rate * step_flops(row["width"], row["batch_size"]) / 1e9, "{:.0%}"
        ratio, low, high = (form.format(row[column]) for column in ("ratio", "low", "high"))
        cells = f"{row['batch_size']} | {NAMES[row['contender']]} | {rate:,.1f}"
        lines.append(f"| {cells} | **{ratio}** | {low}, {high} |")
    return "\n".join(lines)


def findings(table: pd.DataFrame) -> str:
    """Return what the ratios say, one Markdown bullet a matter."""
    lines = []
    gemm = ratios(table, "gemm").set_index("contender")
    for batch, rows in ratios(table, "training").groupby("batch_size"):
        ratio = rows.set_index("contender").ratio
        share = gemm[gemm.batch_size == batch].ratio["jax_dot"]
        line = f"- Batch {batch}: our step reaches {share:.0%} of the machine's rate"
        peers = ratio[ratio.index.str.startswith("torch")]
        if not peers.empty:
            line += f"; {ratio['torch_eager_default']:.2f} times PyTorch eager with its default "
            line += (
                f"Adam; {peers.min():.2f} times the fastest PyTorch, {NAMES[str(peers.idxmin())]}"
            )
        lines.append(line + ".")
    for row in ratios(table, "seeds").query("contender != @OURS['seeds']").to_dict("records"):
        line = (
            f"- Width {row['width']}, batch {row['batch_size']}, several seeds: pinned processes "
        )
        lines.append(f"{line}take {row['ratio']:.2f} times the steps of {NAMES[row['contender']]}.")
    return "\n".join(lines)


def describe(machine: dict[str, Any]) -> str:
    """Return machine, date, versions and how it was measured, as Markdown."""
    device, packages, settings = machine["device"], machine["packages"], machine["settings"]
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("jax", "torch") if name in packages
    )
    commit = (machine["commit"] or "unknown")[:8]
    changed = ", with uncommitted changes" if machine["uncommitted_source"] else ""
    text = (
        f"Measured {machine['finished'][:10]} on {device['kind']}, {device['cores']} cores, "
        f"{device['system']}, Python {machine['python']}, {versions}; commit "
        f"{commit}{changed}. {settings['rounds']} rounds, turns of at least "
        f"{settings['seconds']:g} s; those at rest took {machine['idle_cpu_share']:.2%} of a core."
    )
    failed = [
        f" {NAMES[name]} did not run: {reason}." for name, reason in machine["failed"].items()
    ]
    return text + "".join(failed)
