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
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity import chapters, configuration
from plasticity.commands import listing, status, streams, values, version
from plasticity.errors import Told

if TYPE_CHECKING:
    from plasticity.runs.experiment import Experiment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    It is 0, 1 for a failed run, 2 for bad arguments, 70 for a fault of this program, 75 if the time
    of ``--minutes`` is up, 130 if stopped, 141 if nobody reads on.
    """
    streams.escape()
    try:
        code = _answer(sys.argv[1:] if arguments is None else arguments)
        streams.flush()
        return code
    except Exception as error:
        if streams.lost(error):
            return streams.give_up(error)
        traceback.print_exc()
        why = "did not foresee this: please report it, with the lines above"
        print(f"{version.told()} {why}", file=sys.stderr)
        return 70  # EX_SOFTWARE of sysexits.h


def _answer(arguments: Sequence[str]) -> int:
    """Do what a command line asks for; return the exit status. Raises what nobody has foreseen."""
    began = time.monotonic()
    try:
        options = _parser().parse_args(arguments or ["--help"])
        options.began = began
        options.command(options)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0) if arguments else 2
    except Told as error:
        print(f"plasticity: {error}", file=sys.stderr)
        return error.status
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
    chosen = _recorded(options.name, options.study)
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
    chosen = _recorded(options.name, options.study)
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
    chosen = _experiment(options.name, options.study, options.set)
    config = configuration.resolve(chosen.studies, options.study, options.set, seeds=options.seeds)
    arms, last = chosen.arms(config), config.first_seed + config.seeds - 1
    configuration.require(bool(arms), f"{options.name}: with these settings it has no arm to run")
    configuration.require(
        last < values.SEEDS, f"seed {last}: must be below {values.SEEDS}, for JAX keeps 32 bits"
    )
    for arm in arms:  # an arm may be out of range though its base is not
        chosen.arm(config, arm)
    return chosen, config


def _experiment(name: str, study: str, assignments: Sequence[str] = ()) -> Experiment:
    """Return an experiment; unknown studies and fields are refused before it is imported."""
    if name in experiment_names():
        from plasticity.chapters import catalogue

        catalogue.refuse(name, study, assignments)
    return experiment(name)


def _recorded(name: str, label: str) -> Experiment:
    """Return the experiment of a recorded run; an unknown study is refused before it is imported.

    A run may have been recorded under a study that is no more.
    """
    from plasticity.runs import folders

    if label in folders.labels(name):
        return experiment(name)
    return _experiment(name, label.partition("-")[0])


def _cost_of(options: argparse.Namespace) -> None:
    chosen, config = _resolve(options)
    from plasticity import devices
    from plasticity.runs import cost

    measure = cost.measure_on_a_core if devices.is_cpu() else cost.measure
    seconds = cost.SECONDS if options.seconds is None else options.seconds
    rate = measure(chosen, config, seconds)
    shares = cost.estimate(chosen, config, rate)
    print(cost.describe(options.name, options.study, config, rate, shares))


def _notebook(options: argparse.Namespace) -> None:
    chosen = _experiment(options.name, options.study)
    from plasticity.runs import notebooks

    print(notebooks.execute(chosen, options.study, options.seed))


def _probe(options: argparse.Namespace) -> None:
    """Probe the networks that a recorded run kept, under its own settings or under others."""
    name, _, label = options.run.strip("/").removeprefix("papermill_runs/").partition("/")
    label = label or "laptop"
    chosen = _recorded(name, label)
    from plasticity.chapters.probing import bank
    from plasticity.runs import results

    run = results.load(name, label)
    for told in bank.reprobe_run(chosen, run, options.set, options.arm):
        print(told)


# What `argparse` takes for one argument of a command: names, and settings.
Word = tuple[tuple[str, ...], dict[str, Any]]

STUDY: dict[str, Any] = {"required": True, "metavar": "STUDY"}
SET: dict[str, Any] = {
    "type": values.setting, "action": "append", "default": [], "metavar": "FIELD=VALUE"
}  # fmt: skip
JSON: Word = (("--json",), {"action": "store_true", "help": "print it as JSON: book/rerun.md"})
SETTINGS: list[Word] = [
    (("name",), {"help": "the experiment"}),
    (("--study",), STUDY | {"help": "such as quick, laptop, gpu or paper: `plasticity list`"}),
    (("--seeds",), {"type": values.count, "help": "how many seeds, instead of the study's"}),
    (("--set",), SET | {"help": "change a setting; the run then gets a folder of its own"}),
]  # fmt: skip
"""The arguments that name a run, as `_resolve` reads them."""

RECORDED: list[Word] = [
    (("name",), {"help": "the experiment"}),
    (("--study",), STUDY | {"help": "a recorded study, or the name of the run's folder"}),
]
WORKERS: Word = (
    ("--workers",),
    {"type": values.workers, "help": "processes on a CPU (default: one for every core); 0: none"},
)  # fmt: skip

MINUTES: Word = (
    ("--minutes",),
    {"type": values.amount, "metavar": "M",
     "help": "stop before this time is up, with exit status 75; the same command goes on"},
)  # fmt: skip

COMMANDS: dict[str, tuple[Any, str, list[Word]]] = {
    "list": (listing.show, "experiments, studies, what is recorded", [
        (("--long",), {"action": "store_true", "help": "also what each study costs, and which runs "
                       "are older than the code; this takes some seconds"}),
        JSON,
    ]),
    "status": (status.show, "progress of running and finished runs", [
        (("name",), {"nargs": "?", "help": "an experiment, with a table of its arms"}),
        (("--study",), {"help": "a study, or the name of the run's folder"}),
        (("--watch",), {"action": "store_true", "help": "print it anew until nothing is running"}),
        JSON,
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
        (("--seed",), {"type": values.seed, "required": True, "help": "its seed"}),
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
        (("minutes",), {"type": values.amount, "metavar": "MINUTES", "help": "its time"}),
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
        (("--seconds",), {"type": values.amount, "help": "for about how long to time it"}),
    ]),
    "notebook": (_notebook, "execute an experiment's chapter by papermill", [
        (("name",), {"help": "the experiment"}),
        (("--study",), STUDY | {"help": "such as quick, laptop, gpu or paper"}),
        (("--seed",), {"type": values.seed, "help": "the first seed, if not the study's own"}),
    ]),
    "probe": (_probe, "probe the networks that a recorded run kept", [
        (("run",), {"metavar": "RUN", "help": "for example falsification/laptop"}),
        (("--arm",), {"help": "one of its arms, instead of all that it kept"}),
        (("--set",), SET | {"help": "change a setting, such as probe_steps or probe_batch_size"}),
    ]),
}  # fmt: skip
"""Each command: its function, its help text and its own arguments."""


HELP = """\
Run the experiments of an executable companion to Lyle et al. (2023), "Understanding Plasticity in
Neural Networks": why do networks lose the ability to learn, and what preserves it?

begin with:
  plasticity list                                      what can be run, and what is recorded
  plasticity run optimizer_instability --study quick   about a minute on a laptop, and resumable
  plasticity status                                    how far it is

The book that shows the runs: `make book` in a checkout builds it; open _build/html/index.html.
Its page book/rerun.md says how to run everything again.
"""
"""What someone reads who meets the command for the first time."""


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="plasticity", description=HELP, formatter_class=plain)
    parser.add_argument("--version", action=version.Show, nargs=0, help="print versions and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, (function, summary, words) in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=f"plasticity {name}: {summary}."
        )
        command.set_defaults(command=function, find=experiment, names=experiment_names)
        for flags, settings in words:
            command.add_argument(*flags, **settings)
    return parser


if __name__ == "__main__":
    sys.exit(main())
