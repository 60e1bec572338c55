"""The sentences and tables with numbers that the book shows, as Markdown written from runs.

No number of ours is typed into prose: a cell displays what one of these functions returns. Tables
are pandas DataFrames, which a notebook renders; sentences are text.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np
import pandas as pd

from plasticity import claims, fingerprint, results
from plasticity.claims import Verdict
from plasticity.results import Run
from plasticity.statistics import mean_interval, paired_difference


def provenance(run: Run) -> str:
    """Return a note that says which run the numbers beside it come from."""
    p = run.provenance
    commit = f"commit `{p['commit'][:10]}`" if p["commit"] else "no commit"
    changed = " with uncommitted changes" if p["uncommitted_source"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in p["packages"].items())
    return (
        f":::{{admonition}} Where these numbers come from\n:class: provenance\n"
        f"`{run.experiment}`, profile `{run.profile}`, seeds {_seeds(p['seeds'])}, "
        f"{p['data']['records']:,} of the {p['data']['full_set']:,} images of "
        f"`{p['data']['dataset']}` (from {p['data']['origin']}). "
        f"{_minutes(p['compute_seconds'])} of core time on {_device(run)}, "
        f"finished {p['finished'][:16].replace('T', ' ')} UTC, {commit}{changed}. "
        f"Python {p['python']}, {packages}.\n:::"
    )


def scale(run: Run, paper: object) -> str:
    """Return a sentence with every whole number in which a run differs from the paper's profile."""
    changed = [
        f"{name.replace('_', ' ')} {value:,} instead of {getattr(paper, name):,}"
        for name, value in run.config.items()
        if isinstance(value, int) and not isinstance(value, bool) and value != getattr(paper, name)
    ]
    if not changed:
        return "This run has the settings of the `paper` profile."
    return f"**Scaled down** from the `paper` profile: {', '.join(changed)}."


def table(frame: pd.DataFrame) -> str:
    """Return a DataFrame as a Markdown table, without its index."""
    return frame.to_markdown(index=False, disable_numparse=True)


def in_words(verdicts: Sequence[Verdict]) -> str:
    """Return how many claims have which verdict, in a sentence."""
    counts = Counter(verdict.status for verdict in verdicts)
    parts = [f"{counts[s]} {s}" for s in ("supported", "contradicted", "inconclusive", "not run")]
    return f"Of {len(verdicts)} claims: {', '.join(parts)}."


def judged(experiments: Mapping[str, ModuleType]) -> list[Verdict]:
    """Return the verdicts of each experiment's best recorded run, of those that have one."""
    found = []
    for name, module in experiments.items():
        with contextlib.suppress(FileNotFoundError):
            found += claims.judge(results.best(name), module.CLAIMS)
    return found


def falsifiers() -> pd.DataFrame:
    """Return, for each claim of the ledger, what is measured and what would speak against it."""
    rows = [(c.id, c.measure, c.falsified_if) for c in claims.LEDGER.values()]
    return pd.DataFrame(rows, columns=["claim", "measured", "contradicted if"])


def run_table(experiments: Mapping[str, ModuleType]) -> pd.DataFrame:
    """Return one row a recorded run: what it is, where and when it ran, whether it is fresh."""
    rows = []
    for name, module in experiments.items():
        for run in results.recorded(name):
            p = run.provenance
            fresh = p["code"] == fingerprint.code_digest(module)
            rows.append(
                {
                    "experiment": run.experiment,
                    "run": run.label,
                    "seeds": len(p["seeds"]),
                    "images": f"{p['data']['records']:,} of {p['data']['full_set']:,}",
                    "core time": _minutes(p["compute_seconds"]),
                    "device": _device(run),
                    "finished": p["finished"][:10],
                    "commit": (p["commit"] or "none")[:10],
                    "code": "as it ran" if fresh else "changed since",
                }
            )
    return pd.DataFrame(rows)


def machine() -> pd.DataFrame:
    """Return what this process computes with: device, Python, packages, commit."""
    found = results.environment()
    device = found["device"]
    rows = {
        "device": f"{device['kind']}, {device['cores']} cores, {device['system']}",
        "Python": found["python"],
        "packages": ", ".join(f"{k} {v}" for k, v in found["packages"].items()),
        "commit": found["commit"] or "none",
    }
    return pd.DataFrame(rows.items(), columns=["what", "which"])


def which_constant(run: Run) -> pd.DataFrame:
    """Return what each of the tuned optimizer's two constants does, alone and beside the other.

    One row a contrast, paired over seeds: the difference in accuracy averaged over all periods.
    """
    accuracy = {
        arm: run.select(arm=arm, metric="accuracy").groupby("seed").value.mean().to_numpy()
        for arm in ("default", "b2_only", "eps_root_only", "tuned")
    }
    contrasts = {
        "ε̄: 0 → 10⁻³, at β₂ = .999": ("eps_root_only", "default"),
        "ε̄: 0 → 10⁻³, at β₂ = .9": ("tuned", "b2_only"),
        "β₂: .999 → .9, at ε̄ = 0": ("b2_only", "default"),
        "β₂: .999 → .9, at ε̄ = 10⁻³": ("tuned", "eps_root_only"),
    }
    return pd.DataFrame(
        {
            "change": contrasts.keys(),
            "gain in mean accuracy": [
                str(paired_difference(accuracy[a], accuracy[b])) for a, b in contrasts.values()
            ],
        }
    )


def mechanism(run: Run) -> pd.DataFrame:
    """Return, for each main arm, what happens at the first switch of labels, mean over seeds.

    ``m̂/√v̂ before`` and ``peak after`` are the root mean square over parameters: its median over
    the window before the switch and its largest value in the window after; ``update`` likewise.
    """
    window, rows = run.config["window"], []
    for arm in ("default", "b2_only", "eps_root_only", "tuned"):
        row = {"arm": arm}
        for name, trace in (("m̂/√v̂", "moment_ratio"), ("update norm", "update_norm")):
            array = run.arrays[f"{trace}/{arm}"]
            before = np.median(array[:, 0, window:], axis=1)
            peak = array[:, 1, :window].max(axis=1)
            row[f"{name} before"] = f"{before.mean():.3g}"
            row[f"{name} peak after"] = f"{peak.mean():.3g}"
            row[f"{name} jump"] = f"× {mean_interval(peak / before).estimate:.1f}"
        rows.append(row)
    return pd.DataFrame(rows)


CLOCKS = {
    "step": "optimizer steps",
    "switches": "switches",
    "memorised": "sets memorised",
    "distance": "distance moved",
}
"""Columns of `times_to_collapse` that count time, with their names."""


def lifetimes(times: pd.DataFrame) -> pd.DataFrame:
    """Return the median time to collapse of each arm by each clock, and how many collapsed.

    "≥" marks a median that is a network whose run ended before it collapsed.
    """
    rows = []
    for arm, group in times.groupby("arm", sort=False):
        row = {"arm": arm, "collapsed": f"{group.collapsed.sum()} of {len(group)}"}
        mark = "" if group.collapsed.mean() > 0.5 else "≥ "
        for clock, name in CLOCKS.items():
            low, high = group[clock].min(), group[clock].max()
            row[name] = f"{mark}{group[clock].median():,.0f} ({low:,.0f}–{high:,.0f})"
        rows.append(row)
    return pd.DataFrame(rows)


def steadiest_clock(times: pd.DataFrame) -> pd.DataFrame:
    """Return by how much each clock's median time to collapse differs between arms.

    A clock that set the time of collapse by itself would show one median for all. An arm in which
    half of the networks outlived their run counts with the time at its end, which is too short.
    """
    medians = times.groupby("arm")[list(CLOCKS)].median()
    return pd.DataFrame(
        {
            "clock": CLOCKS.values(),
            "shortest median": [f"{medians[c].min():,.0f} ({medians[c].idxmin()})" for c in CLOCKS],
            "longest median": [f"{medians[c].max():,.0f} ({medians[c].idxmax()})" for c in CLOCKS],
            "longest / shortest": [f"{medians[c].max() / medians[c].min():.1f}" for c in CLOCKS],
        }
    )


def windows(run: Run, threshold: float = 0.9) -> str:
    """Return until when each main arm memorised every set of labels, in a sentence an arm."""
    lines = []
    for arm in ("default", "tuned"):
        last = []
        for _, rows in run.select(arm=arm, metric="accuracy").groupby("seed"):
            failed = np.flatnonzero(rows.value.to_numpy() < threshold)
            last.append(rows.step.iloc[failed[0] - 1] if failed.size else rows.step.iloc[-1])
        lines.append(
            f"- **{arm} Adam** ended every label period above an accuracy of {threshold:g} until "
            f"step {np.median(last):,.0f} (median of {len(last)} seeds; "
            f"{min(last):,.0f} to {max(last):,.0f}) of {run.select(arm=arm).step.max():,.0f}."
        )
    return "\n".join(lines)


def cost(run: Run) -> str:
    """Return a sentence that says what the recorded run cost."""
    return (
        f"**The cost.** The run recorded here ({run.describe()}) took "
        f"{_minutes(run.provenance['compute_seconds'])} of time on one core, or that divided by "
        "the cores of your machine."
    )


def _seeds(seeds: Sequence[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"


def _device(run: Run) -> str:
    device = run.provenance["device"]
    return (
        f"{device['kind']} ({device['cores']} cores)"
        if device["platform"] == "cpu"
        else device["kind"]
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
