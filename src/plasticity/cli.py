"""Run the experiments of the companion, resume them, prove and reproduce what is recorded.

Each command imports what it needs when it is called, so that help and typos are answered at once.
``run`` needs neither plotting nor notebook packages: a GPU node gets by with the package's core
dependencies, and its data in ``PLASTICITY_DATA``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity import chapters, configuration
from plasticity.errors import Told

if TYPE_CHECKING:
    from plasticity.runs.experiment import Experiment
    from plasticity.runs.results import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    It is 0, 1 for a failed run, 2 for bad arguments, 75 if the time of ``--minutes`` is up, 130 if
    stopped.
    """
    options = _parser().parse_args(arguments)
    options.began = time.monotonic()
    try:
        options.command(options)
    except KeyError as error:
        print(f"plasticity: {error.args[0]}", file=sys.stderr)  # a KeyError quotes its own words
        return 2
    except Told as error:
        print(f"plasticity: {error}", file=sys.stderr)
        return error.status
    except FileNotFoundError as error:
        print(f"plasticity: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("plasticity: stopped; the same command resumes", file=sys.stderr)
        return 130
    return 0


def experiment_names() -> list[str]:
    """Return the experiments: the folders of `plasticity.chapters` that have something to run."""
    return sorted(path.parent.name for path in Path(chapters.__path__[0]).glob("*/run.py"))


def experiment(name: str) -> Experiment:
    """Return an experiment by its name. Raises `configuration.ConfigError` for an unknown name."""
    if name not in experiment_names():
        raise configuration.ConfigError(
            f"unknown experiment {name!r}: choose from {', '.join(experiment_names())}"
        )
    from plasticity.runs.experiment import find

    return find(f"plasticity.chapters.{name}")


def all_experiments() -> dict[str, Experiment]:
    """Return every experiment by its name."""
    return {name: experiment(name) for name in experiment_names()}


def _run(options: argparse.Namespace) -> None:
    chosen, config = _resolve(options)
    from plasticity.chapters import claims
    from plasticity.runs import driver, results

    finished = driver.run(
        chosen, config, options.study,
        fresh=options.fresh, workers=options.workers, minutes=_minutes(options),
    )  # fmt: skip
    print(f"{results.folder(options.name, finished.label)}: {finished.describe()}")
    if changed := driver.rounded_otherwise(finished):
        print(f"It was recorded under settings that may round otherwise: {changed}")
    for verdict in claims.judge(finished, chosen.claims):
        print(verdict)


def _minutes(options: argparse.Namespace) -> float | None:
    """Return how much of ``--minutes`` is left: importing has taken some of it."""
    if options.minutes is None:
        return None
    configuration.require(options.minutes > 0, f"minutes = {options.minutes}: must be above 0")
    used: float = time.monotonic() - options.began
    return max(1e-9, float(options.minutes) - used / 60)


def _units(options: argparse.Namespace) -> None:
    chosen, config = _resolve(options)
    from plasticity.runs import jobs

    folder, left = jobs.unfinished(chosen, config, options.study)
    units = [{"arm": unit.arm, "seed": unit.seeds[0]} for unit in left]
    print(json.dumps({"folder": str(folder), "units": units}))


def _unit(options: argparse.Namespace) -> None:
    chosen, config = _resolve(options)
    from plasticity.runs import jobs

    jobs.run_unit(
        chosen, config, options.study, options.arm, options.seed, minutes=_minutes(options)
    )


def _prove(options: argparse.Namespace) -> None:
    chosen = experiment(options.name)
    from plasticity.runs import freshness, results

    run = freshness.prove(chosen, options.study)
    folder, proofs = results.folder(run.experiment, run.label), run.provenance.get("proofs")
    if not proofs:
        print(f"{folder}: this code made it; its programs are stored, for later code")
        return
    print(
        f"{folder}: the same programs in all {proofs[-1]['arms']} arms, and the same table of what "
        "they record"
    )


def _reproduce(options: argparse.Namespace) -> None:
    chosen = experiment(options.name)
    from plasticity.runs import reproduction, results

    configuration.resolve(chosen.studies, options.study.partition("-")[0])  # refuses unknown ones
    found = reproduction.reproduce(
        chosen, options.study,
        fresh=options.fresh, workers=options.workers, minutes=_minutes(options),
    )  # fmt: skip
    print(f"{results.folder(found.run.experiment, found.run.label)}: {found}")


def _sitting(options: argparse.Namespace) -> None:
    from plasticity.runs import sitting

    left = sitting.work_off(sitting.read_queue(options.queue), options.minutes, options.out)
    for path in left.parts:
        print(f"{path}: {path.stat().st_size:,} bytes")
    for unit in left.behind:
        print(f"{unit} is too large to travel, and was left behind")


def _merge(options: argparse.Namespace) -> None:
    from plasticity.runs import sitting

    for told in sitting.merge(options.out):
        print(told)


def _check(options: argparse.Namespace) -> None:
    from plasticity import devices

    if devices.is_cpu():
        print("plasticity check: this is a CPU; there is no other device to compare with it")
        return
    from plasticity.chapters.probing import device_check

    for name, distance in device_check.require().items():
        print(f"{name}: apart by {distance:.2g} of the way that training moves the parameters")


def _resolve(options: argparse.Namespace) -> tuple[Experiment, Any]:
    chosen = experiment(options.name)
    overrides = {} if options.seeds is None else {"seeds": options.seeds}
    config = configuration.resolve(chosen.studies, options.study, options.set, **overrides)
    for arm in chosen.arms(config):  # an arm may be out of range though its base is not
        chosen.arm(config, arm)
    return chosen, config


def _cost_of(options: argparse.Namespace) -> None:
    chosen, config = _resolve(options)
    from plasticity import devices
    from plasticity.runs import cost

    measure = cost.measure_on_a_core if devices.is_cpu() else cost.measure
    seconds = cost.SECONDS if options.seconds is None else options.seconds
    rate = measure(chosen, config, seconds)
    shares = cost.estimate(chosen, config, rate)
    print(cost.describe(options.name, options.study, config, rate, shares))


def _list(options: argparse.Namespace) -> None:
    from plasticity.runs import fingerprint, results

    for name, chosen in all_experiments().items():
        found = {run.label: run for run in results.recorded(name)}
        digest = fingerprint.code_digest(chosen) if found else ""
        print(f"{name}: {chosen.question}")
        for study, config in chosen.studies.items():
            cost = _cost(chosen, config, found)
            print(f"  {study:15} {cost:42} {_record(study, found, digest)}")


def _cost(chosen: Experiment, config: Any, found: dict[str, Run]) -> str:
    """Write what a study costs: measured if it is recorded, else scaled from one that was."""
    from plasticity.runs import cost, progress

    work = cost.operations(chosen, config)
    for label in (*[p for p, c in chosen.studies.items() if c == config], *found):
        if label in found:
            run = found[label]
            recorded = configuration.from_dict(chosen.Config, run.config)
            seconds = run.provenance["compute_seconds"] * work / cost.operations(chosen, recorded)
            kind = "measured" if recorded == config else f"estimated from {label}"
            cores = "core-" if run.provenance["device"]["platform"] == "cpu" else ""
            return f"{progress.duration(seconds)} of {cores}time ({kind})"
    return f"{work:.1e} floating-point operations"


def _record(study: str, found: dict[str, Run], digest: str) -> str:
    from plasticity.runs import freshness

    if study not in found:
        return "not recorded"
    provenance = found[study].provenance
    age = "" if freshness.proof(provenance, digest) else ", older than the code"
    return f"recorded {provenance['finished'][:10]} on {provenance['device']['kind']}{age}"


def _status(options: argparse.Namespace) -> None:
    if options.name is not None:
        experiment(options.name)  # if unknown, raises and names the known ones
    from functools import partial

    from plasticity.runs import checkpoints, progress, results

    which = (options.name, options.study)
    if options.watch:
        progress.watch(
            partial(_unfinished, *which),
            lambda: any(map(checkpoints.in_use, progress.unfinished(*which))),
        )
    told = list(filter(None, [_unfinished(*which, progress.screen()[0])]))
    for name in [options.name] if options.name else experiment_names():
        for run in results.recorded(name):
            if progress.has_label(run.label, options.study):
                seconds = progress.duration(run.provenance["compute_seconds"])
                told.append(f"{name} {run.label}: finished {run.provenance['finished']}, {seconds}")
    what = " of ".join(filter(None, ("nothing", " ".join(filter(None, which)))))
    print("\n".join(told) or f"{what} in {results.root()}: `plasticity list` shows what can be run")


def _unfinished(name: str | None, label: str | None, width: int, height: int | None = None) -> str:
    """Write a line for each unfinished run, and with a ``name`` a table of its arms."""
    from plasticity.runs import checkpoints, progress

    texts = []
    for work in progress.unfinished(name, label):
        chosen = experiment(work.parent.parent.name)
        try:
            arms = progress.arms(chosen, work)
            texts.append(progress.line(chosen, work, arms))
        except (FileNotFoundError, checkpoints.CheckpointError):
            if not checkpoints.in_use(work) and work.exists():
                raise
            continue  # it finished a moment ago, and is being tidied away
        except configuration.ConfigError:
            label = work.parent.name
            texts.append(
                f"{chosen.name}/{label} was begun with settings that the code no longer has, and "
                f"cannot go on: `plasticity run {chosen.name} --study {label} --fresh` begins again"
            )
            continue
        if name is not None:
            texts.append(progress.table(arms, width, height))
    return "\n".join(texts)


def _notebook(options: argparse.Namespace) -> None:
    chosen = experiment(options.name)
    from plasticity.runs import notebooks

    print(notebooks.execute(chosen, options.study, options.seed))


def _probe(options: argparse.Namespace) -> None:
    """Probe the networks that a recorded run kept, under its own settings or under others."""
    name, _, label = options.run.strip("/").removeprefix("papermill_runs/").partition("/")
    chosen = experiment(name)
    from plasticity.chapters.probing import bank
    from plasticity.runs import results

    run = results.load(name, label or "laptop")
    for told in bank.reprobe_run(chosen, run, options.set, options.arm):
        print(told)


# What `argparse` takes for one argument of a command: names, and settings.
Word = tuple[tuple[str, ...], dict[str, Any]]

STUDY: dict[str, Any] = {"required": True, "metavar": "STUDY"}
SETTINGS: list[Word] = [
    (("name",), {"help": "the experiment"}),
    (("--study",), STUDY | {"help": "such as quick, laptop, gpu or paper: `plasticity list`"}),
    (("--seeds",), {"type": int, "help": "how many seeds, instead of the study's"}),
    (("--set",), {"action": "append", "default": [], "metavar": "FIELD=VALUE",
                  "help": "change a setting; the run then gets a folder of its own"}),
]  # fmt: skip
"""The arguments that name a run, as `_resolve` reads them."""

RECORDED: list[Word] = [
    (("name",), {"help": "the experiment"}),
    (("--study",), STUDY | {"help": "a recorded study, or the name of the run's folder"}),
]
WORKERS: Word = (
    ("--workers",), {"type": int, "help": "processes on a CPU (default: one for every core)"}
)  # fmt: skip

MINUTES: Word = (
    ("--minutes",),
    {"type": float, "metavar": "M",
     "help": "stop before this time is up, with exit status 75; the same command goes on"},
)  # fmt: skip

COMMANDS: dict[str, tuple[Any, str, list[Word]]] = {
    "list": (_list, "experiments, studies, cost, what is recorded", []),
    "status": (_status, "progress of running and finished runs", [
        (("name",), {"nargs": "?", "help": "an experiment, with a table of its arms"}),
        (("--study",), {"help": "a study, or the name of the run's folder"}),
        (("--watch",), {"action": "store_true", "help": "print it anew until nothing is running"}),
    ]),
    "run": (_run, "run an experiment, or resume it", [
        *SETTINGS,
        (("--fresh",), {"action": "store_true", "help": "discard an unfinished or older run"}),
        WORKERS,
        MINUTES,
    ]),
    "units": (_units, "which units (an arm on a seed) a run has left, as JSON", SETTINGS),
    "unit": (_unit, "run one unit of a run, beside others", [
        *SETTINGS,
        (("--arm",), {"required": True, "help": "its arm"}),
        (("--seed",), {"type": int, "required": True, "help": "its seed"}),
        MINUTES,
    ]),
    "prove": (_prove, "prove without running anything that the code's programs are a run's",
              RECORDED),
    "reproduce": (_reproduce, "prove with one seed that the code still gives a run's bits", [
        *RECORDED,
        (("--fresh",), {"action": "store_true", "help": "discard an unfinished reproduction"}),
        WORKERS,
        MINUTES,
    ]),
    "sitting": (_sitting, "work off a queue of runs for some minutes, and leave files to merge", [
        (("minutes",), {"type": float, "metavar": "MINUTES", "help": "its time"}),
        (("out",), {"type": Path, "metavar": "OUT", "help": "the folder for its files"}),
        (("--queue",), {"type": Path, "required": True, "metavar": "FILE",
                        "help": "on each line what would follow `plasticity run`"}),
    ]),
    "merge": (_merge, "take home what a sitting left", [
        (("out",), {"type": Path, "metavar": "OUT", "help": "the folder with its files"}),
    ]),
    "check": (_check, "ask an accelerator whether it trains agents as a CPU does", []),
    "cost": (_cost_of, "what a run would cost, from this machine's speed", [
        *SETTINGS,
        (("--seconds",), {"type": float, "help": "for about how long to time it"}),
    ]),
    "notebook": (_notebook, "execute an experiment's chapter by papermill", [
        (("name",), {"help": "the experiment"}),
        (("--study",), STUDY | {"help": "such as quick, laptop, gpu or paper"}),
        (("--seed",), {"type": int, "help": "the first seed, if not the study's own"}),
    ]),
    "probe": (_probe, "probe the networks that a recorded run kept", [
        (("run",), {"metavar": "RUN", "help": "for example falsification/laptop"}),
        (("--arm",), {"help": "one of its arms, instead of all that it kept"}),
        (("--set",), {"action": "append", "default": [], "metavar": "FIELD=VALUE",
                      "help": "change a setting, such as probe_steps or probe_batch_size"}),
    ]),
}  # fmt: skip
"""Each command: its function, its help text and its own arguments."""


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="plasticity", description=description)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (function, summary, words) in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        command.set_defaults(command=function)
        for flags, settings in words:
            command.add_argument(*flags, **settings)
    return parser


if __name__ == "__main__":
    sys.exit(main())
