"""What every chapter and the pages around them say about runs and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from plasticity import configuration
from plasticity.runs import fingerprint, freshness, origin, results
from plasticity.runs.experiment import Experiment
from plasticity.runs.results import Run
from plasticity.statistics import Interval

_NAMES = {
    "mnist_5k": "MNIST", "mnist_train": "MNIST", "mnist_test": "MNIST",
    "cifar10_train": "CIFAR-10", "cifar10_test": "CIFAR-10", "mlp": "MLP", "cnn": "CNN",
    "resnet": "ResNet", "vit": "ViT", "two_hot": "two-hot",
    "true_label": "true-label", "random_label": "random-label", "sparse_reward": "sparse-reward",
}  # fmt: skip


def readable(*names: str) -> str:
    """Return how figures and tables write the code's names, such as ``true_label, mnist_5k``."""
    return " · ".join(_NAMES.get(name, name.replace("_", " ")) for name in names)


def provenance(run: Run) -> str:
    """Return a note that says from which run the numbers near it come."""
    p = run.provenance
    return (
        f":::{{admonition}} Where these numbers come from\n:class: provenance\n"
        f"`{run.experiment}`, study `{run.study}`, seeds {_seeds(p['seeds'])}, "
        f"{_data(run)} (from {p['data']['origin']}). "
        f"{_took(run)} on {_device(run)}{_sittings(p)}, "
        f"finished {p['finished'][:16].replace('T', ' ')} UTC, {origin.told(p)}. "
        f"Python {p['python']}, {_packages(p)}.{_settings(p)}{_amended(run)}{_proved(run)}\n:::"
    )


def _packages(provenance: Mapping[str, Any]) -> str:
    found = provenance["packages"]
    return ", ".join(f"{name} {version or 'unknown'}" for name, version in found.items())


def _settings(provenance: Mapping[str, Any]) -> str:
    """Return a sentence on the settings of JAX that were not its own, if any were noted."""
    found = provenance.get("jax_settings", {}).items()
    listed = ", ".join(f"`{name}={value}`" for name, value in found)
    return f" Set: {listed}." if listed else ""


def _data(run: Run) -> str:
    """Return of how many records of which sets a run is, with all the sizes of subsets it drew."""
    data = run.provenance["data"]
    if "sets" not in data:
        counts = f"{data['records']:,} of {data['full_set']:,}"
        return f"{counts} {data.get('what', 'images')} of `{data['dataset']}`"
    sizes: dict[str, list[int]] = {}
    full = {one["dataset"]: one["full_set"] for one in data["sets"].values()}
    for one in data["sets"].values():
        sizes.setdefault(one["dataset"], []).append(one["records"])
    return ", ".join(
        f"{' or '.join(f'{n:,}' for n in sorted(found))} of {full[name]:,} images of `{name}`"
        for name, found in sorted(sizes.items())
    )


def _sittings(provenance: Mapping[str, Any]) -> str:
    """Return in how many sittings a run was made, if there were several."""
    count = len(provenance.get("sittings", ()))
    return f" in {count} sittings since {provenance['began'][:10]}" if count > 1 else ""


def _amended(run: Run) -> str:
    """Return a sentence if the provenance was amended after the run: `run.json` says how."""
    return " Amended since: see `run.json`." if run.provenance.get("amended") else ""


def _proved(run: Run) -> str:
    """Return a sentence on the newest proof, if any, that changed code gives the same run."""
    if not run.provenance.get("proofs"):
        return ""
    newest = run.provenance["proofs"][-1]
    by = f"{origin.told(newest)} on {newest['date'][:10]}"
    if newest["by"] == "programs":
        return f" Its programs, those of all {newest['arms']} arms, are the same at {by}."
    return (
        f" Reproduced by {by}: {newest['numbers']:,} numbers "
        f"of seed {_seeds(newest['seeds'])}, every one equal to the bit."
    )


GROUPS = {
    "problem", "network", "networks", "output", "outputs", "optimizer", "algorithm", "preprocessing"
}  # fmt: skip
"""Groups of settings; sentences omit them before a setting's name."""


def named(path: str) -> str:
    """Return how a sentence calls a setting: ``networks.mlp.width`` is the MLP width."""
    group, *rest = path.split(".")
    parts = rest if rest and group in GROUPS else [group, *rest]
    return " ".join(_NAMES.get(part, part.replace("_", " ")) for part in parts)


def table(frame: pd.DataFrame) -> str:
    """Return a DataFrame as a Markdown table, without its index."""
    return frame.to_markdown(index=False, disable_numparse=True)


MANY = 8
"""If there are more values than this, they are counted and not named."""


def not_run(experiments: Mapping[str, Experiment]) -> pd.DataFrame:
    """Return what no recorded run covers, one row per experiment and study, and how to run it.

    Only studies from quick to the paper's count as coverage: others, such as ``smoke``, may be too
    small to learn anything. Columns: experiment, study, what the study has that no recorded run of
    the experiment has (networks, data sets and whatever else a run sweeps), and the command.
    """
    rows = []
    for name, module in experiments.items():
        recorded = results.recorded(name)
        runs = [run for run in recorded if run.label in results.FIDELITY]
        for study, config in module.studies.items():
            if study == "quick" or study in {run.label for run in recorded}:
                continue
            rows.append(
                {
                    "experiment": name,
                    "study": study,
                    "beyond what is recorded": _beyond(config, [run.config for run in runs]),
                    "command": f"`plasticity run {name} --study {study}`",
                }
            )
    return pd.DataFrame(rows)


def _beyond(config: object, recorded: Sequence[Mapping[str, Any]]) -> str:
    """Write the values of each swept field of ``config`` that no recorded configuration has.

    Objects, such as networks, are written by their kinds.
    """
    parts = []
    for name, values in configuration.to_dict(config).items():
        if isinstance(values, list):
            known = {_kind(value) for other in recorded for value in other.get(name, ())}
            new = [str(kind) for kind in map(_kind, values) if kind not in known]
            if new:
                said = ", ".join(new) if len(new) <= MANY else f"{len(new)} more"
                parts.append(f"{named(name)}: {said}")
    return "; ".join(parts) or _at_its_size(config, recorded) or "size and length alone"


def _at_its_size(config: object, recorded: Sequence[Mapping[str, Any]]) -> str:
    """Return what ``config`` has beyond the first recorded run; nothing if sizes differ as well.

    That is what it turns on, and seeds.
    """
    if not recorded:
        return ""
    first = configuration.flat(recorded[0])
    changed = {
        path: value
        for path, value in configuration.flat(configuration.to_dict(config)).items()
        if isinstance(value, int) and value != first.get(path, value)
    }
    on = [named(path) for path, value in changed.items() if value is True]
    seeds = ["more seeds"] if changed.pop("seeds", 0) > first.get("seeds", 0) else []
    return "" if len(changed) > len(on) else ", ".join(on + seeds)


def _kind(stored: Any) -> Any:
    return stored["kind"] if isinstance(stored, dict) else stored


def run_table(experiments: Mapping[str, Experiment]) -> pd.DataFrame:
    """Return one row per recorded run: what it is, where and when it ran, whether it is fresh."""
    rows = []
    for name, module in experiments.items():
        for run in results.recorded(name):
            p = run.provenance
            rows.append(
                {
                    "experiment": run.experiment,
                    "run": run.label,
                    "seeds": len(p["seeds"]),
                    "data": _data(run),
                    "time": _took(run),
                    "device": _device(run),
                    "finished": p["finished"][:10],
                    "commit": origin.told(p, mark="").removeprefix("commit ")
                    + (" (amended)" if p.get("amended") else ""),
                    "code": _freshness(run, module),
                }
            )
    return pd.DataFrame(rows)


PROOFS = {
    "digest": "as it ran", "programs": "the same programs", "reproduction": "reproduced to the bit",
    None: "changed since",
}  # fmt: skip
"""What a table says about the code, by kind of proof: see `plasticity.runs.freshness.proof`."""


def _freshness(run: Run, experiment: Experiment) -> str:
    return PROOFS[freshness.proof(run.provenance, fingerprint.code_digest(experiment))]


def machine() -> pd.DataFrame:
    """Return what this process computes with: device, Python, packages, commit."""
    found = origin.environment()
    device = found["device"]
    rows = {
        "device": f"{device['kind']}, {_cores(device)}, {device['system']}",
        "Python": found["python"],
        "packages": _packages(found),
        "commit": origin.told(found, mark="").removeprefix("commit "),
        "settings of JAX": ", ".join(f"{k} = {v}" for k, v in found["jax_settings"].items())
        or "its own",
    }
    return pd.DataFrame(rows.items(), columns=["what", "which"])


def cost(run: Run) -> str:
    """Return a sentence that says what the recorded run cost."""
    if run.provenance["device"]["platform"] == "cpu":
        took = (
            f"{_minutes(run.provenance['compute_seconds'])} of time on one core, or that divided "
            "by the cores of your machine"
        )
    else:
        took = _took(run)
    return f"**The cost.** The run recorded here ({run.describe()}) took {took}."


def _seeds(seeds: Sequence[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"


def _device(run: Run) -> str:
    device = run.provenance["device"]
    return f"{device['kind']} ({_cores(device)})" if device["platform"] == "cpu" else device["kind"]


def _cores(device: Mapping[str, Any]) -> str:
    return f"{device['cores'] or 'unknown'} cores"


def _took(run: Run) -> str:
    """Return how long a run took: its core time, or where an accelerator computes, its hours."""
    p = run.provenance
    if p["device"]["platform"] == "cpu":
        return f"{_minutes(p['compute_seconds'])} of core time"
    began, finished = (datetime.fromisoformat(p[name]) for name in ("began", "finished"))
    return f"{_minutes((finished - began).total_seconds())} from start to finish"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def short(interval: Interval) -> str:
    """Write an interval without the number of seeds, which is in the table's caption."""
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
