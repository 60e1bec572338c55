"""The recorded benchmarks of `benchmarks/`, as tables and sentences."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
from comparisons import (
    AIMS,
    APART_AT_MOST,
    COPIES_AT_MOST,
    FRAMES_AT_LEAST,
    LOGGING_AT_MOST,
    NAMES,
    RISE_AT_MOST,
    TABLES,
)

from plasticity.measure import probe
from plasticity.runs.files import ResultsError

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


def step_flops(width: int, batch_size: int) -> int:
    """Return the floating-point operations of a step's matrix products, 2 m n k each.

    Forward, gradient of the weights and, except in the first layer, gradient of the inputs.
    """
    return 2 * batch_size * (2 * 784 * width + 3 * width * width + 3 * width * 10)


def as_markdown(table: pd.DataFrame, name: str) -> str:
    """Return the rates and ratios of table ``name`` as a Markdown table."""
    form, rows = TABLES[name].form, ratios(table, name)
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


def findings(table: pd.DataFrame) -> str:
    """Return what the ratios of a benchmark say, one Markdown bullet per topic."""
    measured = set(table.table)
    lines: list[str] = []
    if "training" in measured:
        lines += _training(table)
    if "seeds" in measured:
        lines += _seeds(table)
    lines += _aims(table[table.table.isin({aim.table for aim in AIMS})])
    if "probes" in measured:
        lines += _whole_probe(table)
    for name, other in (("probes", "probe_vmap"), ("cnn_updates", "cnn_update_native")):
        lines += _other_form(table, name, other)
    lines += _bounds(table[table.table == "rejax_agents"])
    if "target_copies" in measured:
        lines += _copies(table)
    if "logging" in measured:
        lines += _logging(table)
    if "atari_parts" in measured:
        lines += _parts(table)
    return "\n".join(lines)


def _training(table: pd.DataFrame) -> list[str]:
    lines = []
    gemm = ratios(table, "gemm").set_index("contender")
    for batch, rows in ratios(table, "training").groupby("batch_size"):
        ratio = rows.set_index("contender").ratio
        share = gemm[gemm.batch_size == batch].ratio["jax_dot"]
        line = f"- Batch {batch}: our step reaches {share:.0%} of the machine's rate"
        peers = ratio[ratio.index.isin(TABLES["training"].peers)]
        if not peers.empty:
            line += f"; {ratio['torch_eager_default']:.2f} times PyTorch eager with its default "
            line += (
                f"Adam; {peers.min():.2f} times the fastest PyTorch, {NAMES[str(peers.idxmin())]}"
            )
        lines.append(line + ".")
    return lines


def _seeds(table: pd.DataFrame) -> list[str]:
    lines = []
    for row in ratios(table, "seeds").to_dict("records"):
        if row["contender"] != TABLES["seeds"].ours:
            lines.append(
                f"- Width {row['width']}, batch {row['batch_size']}, several seeds: pinned "
                f"processes take {row['ratio']:.2f} times the steps of {NAMES[row['contender']]}."
            )
    return lines


def _aims(table: pd.DataFrame) -> list[str]:
    lines = []
    for aim in AIMS:
        rows = table[(table.table == aim.table) & (table.batch_size == aim.batch_size)]
        for column in ("network", "width"):
            wanted = getattr(aim, column)
            if wanted and not rows.empty:
                rows = rows[rows[column] == wanted]
        if not set(aim.contenders) & set(rows.contender):
            continue
        ratio = ratios(rows, aim.table).set_index("contender").ratio
        ratio = ratio[ratio.index.isin(aim.contenders)]
        plain = ratio.get(aim.contenders[0], ratio.min())
        said = [f"{plain:.2f} times the {TABLES[aim.table].rate} of {aim.peers} as it comes"]
        if ratio.min() < plain:
            said.append(f"{ratio.min():.2f} times at its fastest ({NAMES[str(ratio.idxmin())]})")
        if ratio.min() >= aim.least:
            reached = "reached"
        elif plain >= aim.least:
            reached = "reached against the first, **missed** against the second"
        else:
            reached = "**missed**"
        size = TABLES[aim.table].size.capitalize()
        lines.append(
            f"- {size} {aim.batch_size}, {aim.ours}: {', '.join(said)}. The aim was "
            f"{aim.least:g}: {reached}."
        )
    return lines


def _whole_probe(table: pd.DataFrame) -> list[str]:
    rates = ratios(table, "probes").set_index("contender").steps_per_second
    seconds = probe.TARGETS * probe.STEPS / rates[TABLES["probes"].ours]
    return [
        f"- At this rate a whole probe, {probe.TARGETS} targets of {probe.STEPS:,} steps, takes "
        f"{seconds:.0f} s."
    ]


def _other_form(table: pd.DataFrame, name: str, other: str) -> list[str]:
    """Compare our form with the one that is not chosen on this device."""
    if other not in set(table.contender):
        return []
    ours = TABLES[name].ours.replace("pinned", "all")
    rates = table[table.table == name].pivot(index="round", columns="contender")
    ratio = (rates.steps_per_second[ours] / rates.steps_per_second[other]).median()
    return [f"- {NAMES[ours]}: {ratio:.2f} times the steps of {NAMES[other]}."]


def _bounds(table: pd.DataFrame) -> list[str]:
    """Say how near our agents come to what products and Adam's traffic allow, one after the other.

    A step takes at least the time of both: 1 / rate = 1 / products + 1 / traffic, in each round.
    """
    parts = ("agent_products_pinned", "agent_traffic_pinned")
    if not set(parts) <= set(table.contender):
        return []
    lines = []
    for width, rows in table.groupby("width", sort=False):
        rates = rows.pivot(index="round", columns="contender", values="steps_per_second")
        bound = 1 / sum(1 / rates[part] for part in parts)
        reached = rates[TABLES["rejax_agents"].ours] / bound
        share = (bound / rates[parts[0]]).median()
        lines.append(
            f"- Width {width}: the products of an update and the bytes that Adam moves, each at "
            f"the best rate of the cores, allow {bound.median():,.0f} updates/s at most, "
            f"{share:.0%} of that time for products. We reach {reached.median():.0%} "
            f"({reached.min():.0%} to {reached.max():.0%} over rounds)."
        )
    return lines


def _copies(table: pd.DataFrame) -> list[str]:
    found = ratios(table, "target_copies").set_index("contender")
    share = 1 - found.ratio

    def rounds(name: str) -> str:
        low, high = 1 - found.high[name], 1 - found.low[name]
        return f"{share[name]:.1%} ({low:.1%} to {high:.1%} over rounds)"

    line = f"- Copying the target network costs {rounds('no_copies')} of the time"
    if "one_table" in share:
        kept = "kept" if share["one_table"] <= COPIES_AT_MOST else "**not kept**"
        line += (
            f", and {rounds('one_table')} with the table of target values that is made anew "
            f"after every other copy. At most {COPIES_AT_MOST:.0%} was the aim: {kept}"
        )
    return [line + "."]


def _logging(table: pd.DataFrame) -> list[str]:
    found = ratios(table, "logging")
    lines = []
    for row in found[found.contender == "unlogged_pinned"].to_dict("records"):
        extra, least, most = (1 / row[name] - 1 for name in ("ratio", "high", "low"))
        kept = "kept" if extra < LOGGING_AT_MOST else "**not kept**"
        lines.append(
            f"- λ₁ every 1,000 steps, {row['network']} on {row['dataset']}: {extra:.1%} "
            f"({least:.1%} to {most:.1%} over rounds) more time. Less than {LOGGING_AT_MOST:.0%} "
            f"was the aim: {kept}."
        )
    return lines


def _parts(table: pd.DataFrame) -> list[str]:
    """Say where an agent's time goes, and which part bounds its rate."""
    found = ratios(table, "atari_parts").set_index("contender")
    parts = found.drop(TABLES["atari_parts"].ours)
    if parts.empty:
        return []
    taken = ", ".join(
        f"{NAMES[str(name)]} {1e6 / rate:,.1f}" for name, rate in parts.steps_per_second.items()
    )
    whole = found.steps_per_second[TABLES["atari_parts"].ours]
    slowest = str(parts.ratio.idxmax())
    return [
        f"- Microseconds of an Atari agent's frame on all cores: {taken}, and {1e6 / whole:,.1f} "
        f"for a whole agent, {parts.ratio.sum():.0%} of which the parts would take one after the "
        f"other. The slowest, {NAMES[slowest]}, allows "
        f"{parts.steps_per_second[slowest]:,.0f} frames/s, the whole agent reaches {whole:,.0f}."
    ]


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


def device_findings(table: pd.DataFrame, machine: dict[str, Any]) -> str:
    """Return what `on_device` says of the fastest layout, as a Markdown bullet."""
    medians = table.groupby(["processes", "agents"], sort=False).median().reset_index()
    best = max(medians.to_dict("records"), key=lambda layout: layout["frames_per_second"])
    rate = best["frames_per_second"]
    reached = "reached" if rate >= FRAMES_AT_LEAST else "**missed**"
    line = (
        f"- On one {machine['device']['kind']} with {machine['device']['cores']} cores "
        f"{best['processes']} processes of {best['agents']} agents play and learn from "
        f"{rate:,.0f} frames/s in all. The aim was {FRAMES_AT_LEAST:,}: {reached}. The emulators "
        f"alone, on those cores, come to {best['emulators_per_second']:,.0f}"
    )
    if not pd.isna(best["busy"]):
        line += f", and the GPU is at work {best['busy']:.0%} of the time"
    return line + "."


def describe_device(machine: dict[str, Any]) -> str:
    """Return machine, date, versions and settings of ``benchmarks/atari_device.py``."""
    settings = machine["settings"]
    failed = "".join(f" {what} did not run: {why}." for what, why in machine["failed"].items())
    return (
        f"{_where(machine)} {settings['turns']} turns of at least {settings['seconds']:g} s, "
        f"buffers of {settings['case']['capacity']:,} transitions.{failed}"
    )


def describe(machine: dict[str, Any]) -> str:
    """Return machine, date, versions and how it was measured, as Markdown."""
    settings = machine["settings"]
    text = (
        f"{_where(machine)} {settings['rounds']} rounds, turns of at least "
        f"{settings['seconds']:g} s; those at rest took {machine['idle_cpu_share']:.2%} of a core."
    )
    if "extrapolation" in settings:
        text += f" {settings['extrapolation']}"
    failed = [
        f" {NAMES[name]} did not run: {reason}." for name, reason in machine["failed"].items()
    ]
    return text + "".join(failed)


def _where(machine: dict[str, Any]) -> str:
    """Return when, on what and by which code a benchmark was measured, in a sentence."""
    device, packages = machine["device"], machine["packages"]
    versions = ", ".join(
        f"{name} {packages[name]}"
        for name in ("jax", "torch", "rejax", "PyHessian", "matfree", "gymnasium", "ale-py")
        if name in packages
    )
    commit = (machine["commit"] or "unknown")[:8]
    changed = ", with uncommitted changes" if machine["uncommitted_source"] else ""
    return (
        f"Measured {machine['finished'][:10]} on {device['kind']}, {device['cores']} cores, "
        f"{device['system']}, Python {machine['python']}, {versions}; commit {commit}{changed}."
    )
