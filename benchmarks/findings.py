"""What the recorded benchmarks say: a row per comparison, with its aim and whether that was met."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd
import speed
from comparisons import (
    AIMS,
    COPIES_AT_MOST,
    FRAMES_AT_LEAST,
    LOGGING_AT_MOST,
    NAMES,
    TABLES,
    Aim,
)

from plasticity.measure import probe


class Finding(NamedTuple):
    """A row; in Markdown."""

    work: str
    compared_with: str
    found: str
    aim: str = "–"  # set before anything was measured
    reached: str = "–"


def as_table(found: Iterable[Finding]) -> str:
    """Return findings as a Markdown table."""
    heads = [name.replace("_", " ") for name in Finding._fields]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in found)])


def findings(table: pd.DataFrame) -> list[Finding]:
    """Return what the ratios of a benchmark say."""
    measured = set(table.table)
    rows: list[Finding] = []
    if "training" in measured:
        rows += _training(table)
    if "seeds" in measured:
        rows += _seeds(table)
    rows += _aims(table)
    if "probes" in measured:
        rows += _whole_probe(table)
    for name, other in (("probes", "probe_vmap"), ("cnn_updates", "cnn_update_native")):
        rows += _other_form(table, name, other)
    rows += _bounds(table[table.table == "rejax_agents"])
    rows += _times(table[table.table == "rejax_agents"])
    if "target_copies" in measured:
        rows += _copies(table)
    if "logging" in measured:
        rows += _logging(table)
    if "atari_parts" in measured:
        rows += _parts(table)
    return rows


def _against(ratio: pd.Series[float], contenders: tuple[str, ...]) -> tuple[float, float, str]:
    """Return the ratio to a peer as it comes, the one to its fastest form, and both in words."""
    ratio = ratio[ratio.index.isin(contenders)]
    plain, least = ratio.get(contenders[0], ratio.min()), ratio.min()
    if least == plain:
        return plain, least, f"{plain:.2f} ×"
    fastest = NAMES[str(ratio.idxmin())]
    return plain, least, f"{plain:.2f} × as it comes; {least:.2f} × at its fastest ({fastest})"


def _training(table: pd.DataFrame) -> list[Finding]:
    rows = []
    gemm = speed.ratios(table, "gemm").set_index("contender")
    for batch, found in speed.ratios(table, "training").groupby("batch_size"):
        ratio = found.set_index("contender").ratio
        share = gemm[gemm.batch_size == batch].ratio["jax_dot"]
        work, peers = f"Training, batch {batch}", TABLES["training"].peers
        rows.append(Finding(work, "its products alone", f"{share:.0%} of the machine's rate"))
        if set(peers) & set(ratio.index):
            rows.append(Finding(work, "PyTorch", _against(ratio, peers)[-1]))
    return rows


def _seeds(table: pd.DataFrame) -> list[Finding]:
    return [
        Finding(
            f"Several seeds in pinned processes, width {row['width']}, batch {row['batch_size']}",
            NAMES[row["contender"]],
            f"{row['ratio']:.2f} ×",
        )
        for row in speed.ratios(table, "seeds").to_dict("records")
        if row["contender"] != TABLES["seeds"].ours
    ]


def _aims(table: pd.DataFrame) -> list[Finding]:
    rows = []
    for aim in AIMS:
        measured = speed.rows_of(table, aim)
        if not set(aim.contenders) & set(measured.contender):
            continue
        ratio = speed.ratios(measured, aim.table).set_index("contender").ratio
        plain, least, said = _against(ratio, aim.contenders)
        if least >= aim.least:
            reached = "yes"
        elif plain >= aim.least:
            reached = "**only as it comes**"
        else:
            reached = "**no**"
        rows.append(Finding(_case(aim), aim.peers, said, f"{aim.least:g} ×", reached))
    return rows


def _case(aim: Aim) -> str:
    ours = aim.ours[0].upper() + aim.ours[1:]
    return f"{ours}, {TABLES[aim.table].size} {aim.batch_size}"


def _kept(kept: bool) -> str:
    return "yes" if kept else "**no**"


def _whole_probe(table: pd.DataFrame) -> list[Finding]:
    rates = speed.ratios(table, "probes").set_index("contender").steps_per_second
    seconds = probe.TARGETS * probe.STEPS / rates[TABLES["probes"].ours]
    work = f"A whole probe: {probe.TARGETS} targets of {probe.STEPS:,} steps"
    return [Finding(work, "–", f"{seconds:.0f} s at this rate")]


def _other_form(table: pd.DataFrame, name: str, other: str) -> list[Finding]:
    """Compare our form with the one that is not chosen on this device."""
    if other not in set(table.contender):
        return []
    ours = TABLES[name].ours.replace("pinned", "all")
    rates = table[table.table == name].pivot(index="round", columns="contender")
    ratio = (rates.steps_per_second[ours] / rates.steps_per_second[other]).median()
    kind = {"probes": "Probe", "cnn_updates": "The CNN's updates"}[name]
    form, another = (NAMES[entry].removeprefix("ours: ") for entry in (ours, other))
    return [Finding(f"{kind}: {form}", another, f"{ratio:.2f} ×")]


def _bounds(table: pd.DataFrame) -> list[Finding]:
    """Say how near our agents come to what products and Adam's traffic allow, one after the other.

    A step takes at least the time of both: 1 / rate = 1 / products + 1 / traffic, in each round.
    """
    parts = ("agent_products_pinned", "agent_traffic_pinned")
    if not set(parts) <= set(table.contender):
        return []
    found = []
    for width, rows in table.groupby("width", sort=False):
        rates = rows.pivot(index="round", columns="contender", values="steps_per_second")
        bound = 1 / sum(1 / rates[part] for part in parts)
        reached = rates[TABLES["rejax_agents"].ours] / bound
        share = (bound / rates[parts[0]]).median()
        found.append(
            Finding(
                f"Whole agents of width {width}",
                "an update's products and the bytes that Adam moves, each at the cores' best rate",
                f"{reached.median():.0%} ({reached.min():.0%} to {reached.max():.0%} over rounds) "
                f"of the {bound.median():,.0f} updates/s that these allow, {share:.0%} of whose "
                "time is for products",
            )
        )
    return found


def _times(table: pd.DataFrame) -> list[Finding]:
    """Say where the time of a step goes.

    Gradients are timed alone, and gradients with Adam; the difference counts as Adam's. What the
    whole step takes beyond both is acting, the problem, the buffer and the target's values.
    """
    parts = ("agent_gradients_pinned", "agent_learning_pinned")
    if not set(parts) <= set(table.contender):
        return []
    found = []
    for width, rows in table.groupby("width", sort=False):
        rates = rows.pivot(index="round", columns="contender", values="steps_per_second")
        gradients, learning = (1 / rates[part] for part in parts)
        whole = 1 / rates[TABLES["rejax_agents"].ours]
        shares = {
            "its gradients": gradients / whole, "Adam": (learning - gradients) / whole,
            "acting, problem, buffer and the target's values": 1 - learning / whole,
        }  # fmt: skip
        said = ", ".join(f"{share.median():.0%} {what}" for what, share in shares.items())
        found.append(
            Finding(f"A step of an agent of width {width}", "its parts, each timed alone", said)
        )
    return found


def times_in_words(table: pd.DataFrame) -> str:
    """Return where the time of a step of our agents goes, as a Markdown list; "" if not timed."""
    rows = _times(table[table.table == "rejax_agents"])
    return "\n".join(f"- {row.work}: {row.found}." for row in rows)


def _copies(table: pd.DataFrame) -> list[Finding]:
    found = speed.ratios(table, "target_copies").set_index("contender")
    share = 1 - found.ratio

    def rounds(name: str) -> str:
        low, high = 1 - found.high[name], 1 - found.low[name]
        return f"{share[name]:.1%} ({low:.1%} to {high:.1%} over rounds) of the time"

    work, aim = "Copying the target network", f"at most {COPIES_AT_MOST:.0%}"
    rows = [Finding(work, NAMES["no_copies"], rounds("no_copies"))]
    if "one_table" in share:
        kept = _kept(share["one_table"] <= COPIES_AT_MOST)
        rows.append(Finding(work, NAMES["one_table"], rounds("one_table"), aim, kept))
    return rows


def _logging(table: pd.DataFrame) -> list[Finding]:
    found = speed.ratios(table, "logging")
    rows = []
    for row in found[found.contender == "unlogged_pinned"].to_dict("records"):
        extra, least, most = (1 / row[name] - 1 for name in ("ratio", "high", "low"))
        rows.append(
            Finding(
                f"λ₁ every 1,000 steps, {row['network']} on {row['dataset']}",
                NAMES["unlogged_pinned"],
                f"{extra:.1%} ({least:.1%} to {most:.1%} over rounds) more time",
                f"less than {LOGGING_AT_MOST:.0%}",
                _kept(extra < LOGGING_AT_MOST),
            )
        )
    return rows


def _parts(table: pd.DataFrame) -> list[Finding]:
    """Say where an agent's time goes, and which part bounds its rate."""
    found = speed.ratios(table, "atari_parts").set_index("contender")
    parts = found.drop(TABLES["atari_parts"].ours)
    if parts.empty:
        return []
    taken = ", ".join(
        f"{NAMES[str(name)]} {1e6 / rate:,.1f}" for name, rate in parts.steps_per_second.items()
    )
    whole = found.steps_per_second[TABLES["atari_parts"].ours]
    slowest = str(parts.ratio.idxmax())
    return [
        Finding(
            "A frame of an Atari agent on all cores",
            "its parts one after the other",
            f"{1e6 / whole:,.1f} µs, of which the parts would take {parts.ratio.sum():.0%}: "
            f"{taken}. The slowest, {NAMES[slowest]}, allows "
            f"{parts.steps_per_second[slowest]:,.0f} frames/s, the whole agent reaches "
            f"{whole:,.0f}",
        )
    ]


def on_device(table: pd.DataFrame, machine: dict[str, Any]) -> Finding:
    """Return what ``benchmarks/atari_device.py`` recorded of the fastest layout."""
    medians = table.groupby(["processes", "agents"], sort=False).median().reset_index()
    best = max(medians.to_dict("records"), key=lambda layout: layout["frames_per_second"])
    rate, device = best["frames_per_second"], machine["device"]
    found = f"{rate:,.0f} frames/s; the emulators alone reach {best['emulators_per_second']:,.0f}"
    if not pd.isna(best["busy"]):
        found += f", and the GPU is at work {best['busy']:.0%} of the time"
    return Finding(
        f"Atari agents, {best['processes']} processes of {best['agents']}, on one "
        f"{device['kind']} with {device['cores']} cores",
        "–",
        found,
        f"{FRAMES_AT_LEAST:,} frames/s",
        _kept(rate >= FRAMES_AT_LEAST),
    )
