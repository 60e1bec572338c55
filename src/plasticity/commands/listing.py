"""``plasticity list``: the experiments, their studies, and what is recorded of each.

It reads the chapters' sources and the runs' ``run.json``. With ``--long`` it imports the chapters,
which takes seconds, and adds what studies cost and which runs are older than the code.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from plasticity import configuration
from plasticity.chapters import catalogue
from plasticity.errors import Told
from plasticity.runs import folders

if TYPE_CHECKING:
    from plasticity.runs.experiment import Experiment
    from plasticity.runs.results import Run

Row = dict[str, Any]
"""What is known of a study, as JSON has it: book/rerun.md names the keys."""


def show(options: argparse.Namespace) -> None:
    """Print the experiments, as lines or as JSON."""
    look = _look_long if options.long else _look
    found = [look(name, options.find) for name in options.names()]
    if options.json:
        told = {
            "runs": str(folders.root().absolute()),
            "experiments": found,
        }
        print(json.dumps(told, indent=1))
        return
    for line in _lines(found):
        print(line)
    if not options.long:
        print("`plasticity list --long` adds what each costs, and what is older than the code")


def _lines(found: Sequence[Row]) -> Iterator[str]:
    rows = [row for one in found for row in one["studies"]]
    names = max((len(row["name"]) for row in rows), default=0)
    costs = max((len(_cost(row)) for row in rows), default=0)
    for one in found:
        yield f"{one['name']}: {one['question']}"
        for row in one["studies"]:
            columns = (f"{row['name']:{names}}", f"{_cost(row):{costs}}", _record(row))
            yield "  " + "  ".join(filter(None, columns))


def _record(row: Row) -> str:
    recorded = row["recorded"]
    if recorded is None:
        return "not recorded"
    if "problem" in recorded:
        return f"damaged: {recorded['problem']}"
    told = f"recorded {recorded['finished'][:10]} on {recorded['device']}"
    if "fresh" in recorded:
        return told if recorded["fresh"] else f"{told}, older than the code"
    return f"{told}, {folders.took(recorded['compute_seconds'], recorded['platform'])}"


def _cost(row: Row) -> str:
    """Write what a study costs: measured if it is recorded, else scaled from one that was."""
    if "operations" not in row:  # it was not asked for
        return ""
    if row["cost_seconds"] is None:
        return f"{row['operations']:.1e} floating-point operations"
    kind = "measured" if row["cost_from"] == "itself" else f"estimated from {row['cost_from']}"
    return f"{folders.took(row['cost_seconds'], row['cost_platform'])} ({kind})"


def _look(name: str, find: Callable[[str], Experiment]) -> Row:
    """Return what sources and ``run.json`` say of an experiment."""
    studies, question = catalogue.studies(name), catalogue.question(name)
    if studies is None:
        studies, question = list(find(name).studies), find(name).question
    found = set(folders.labels(name))
    rows = [
        {"name": study, "recorded": _recorded(name, study) if study in found else None}
        for study in studies
    ]
    return {"name": name, "question": question, "studies": rows}


def _recorded(name: str, study: str) -> Row:
    place = {"folder": str(folders.folder(name, study).absolute())}
    try:
        told = folders.summary(name, study)
    except Told as error:
        return place | {"problem": str(error)}
    return place | told._asdict()


def _look_long(name: str, find: Callable[[str], Experiment]) -> Row:
    """Return what else the code itself says of an experiment, and whether its runs are whole."""
    from plasticity.runs import fingerprint, freshness, results

    chosen, runs, rows = find(name), dict[str, Any](), []
    for label in folders.labels(name):
        try:
            runs[label] = results.load(name, label)
        except Told as error:
            runs[label] = error
    whole = {label: run for label, run in runs.items() if isinstance(run, results.Run)}
    digest = fingerprint.code_digest(chosen) if whole else ""
    for study, config in chosen.studies.items():
        recorded = _recorded(name, study) if study in runs else None
        if study in whole:
            fresh = freshness.proof(whole[study].provenance, digest) is not None
            recorded = (recorded or {}) | {"fresh": fresh}
        elif study in runs:
            recorded = (recorded or {}) | {"problem": str(runs[study])}
        rows.append({"name": study, "recorded": recorded, **_costs(chosen, config, whole)})
    return {"name": name, "question": chosen.question, "studies": rows}


def _costs(chosen: Experiment, config: Any, whole: dict[str, Run]) -> Row:
    """Return what a study costs, with what tells it: a run of these settings, or of others."""
    from plasticity.runs import cost

    work = cost.operations(chosen, config)
    for label in (*[p for p, c in chosen.studies.items() if c == config], *whole):
        if label not in whole:
            continue
        try:
            told = folders.summary(chosen.name, label)
            recorded = configuration.from_dict(chosen.Config, whole[label].config)
        except Told:  # damaged, or with fields since removed
            continue
        return {
            "operations": work,
            "cost_seconds": told.compute_seconds * work / cost.operations(chosen, recorded),
            "cost_platform": told.platform,
            "cost_from": "itself" if recorded == config else label,
        }
    return {"operations": work, "cost_seconds": None, "cost_platform": None, "cost_from": None}
