"""The command line: thin words over `plasticity.runs.driver` and `plasticity.runs.results`.

``run`` imports neither plotting nor notebook packages: a GPU node needs only the package's core
dependencies, and its data in ``PLASTICITY_DATA``.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from plasticity import chapters, configuration, devices
from plasticity.chapters import claims
from plasticity.chapters.probing import probed_agent
from plasticity.runs import (
    checkpoints,
    cost,
    driver,
    files,
    freshness,
    jobs,
    progress,
    reproduction,
    results,
)
from plasticity.runs.experiment import Experiment, find
from plasticity.runs.units import UnitsFailed
from plasticity.worlds.image_files import DataError

KNOWN_ERRORS = (
    configuration.ConfigError, DataError, UnitsFailed,
    checkpoints.CheckpointError, files.ResultsError, FileNotFoundError,
)  # fmt: skip
"""Errors whose message says what to do: shown without a traceback."""


class NotebookFailed(RuntimeError):
    """A notebook that did not run to its end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 1 for a failed run, 2 for bad arguments."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (configuration.ConfigError, KeyError) as error:
        print(f"plasticity: {error.args[0]}", file=sys.stderr)  # a KeyError quotes its own words
        return 2
    except (*KNOWN_ERRORS, NotebookFailed) as error:
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
    return find(f"plasticity.chapters.{name}")


def all_experiments() -> dict[str, Experiment]:
    """Return every experiment by its name."""
    return {name: experiment(name) for name in experiment_names()}


def _run(options: argparse.Namespace) -> None:
    module, config = _resolve(options)
    finished = driver.run(
        module, config, options.study, fresh=options.fresh, workers=options.workers
    )
    print(f"{results.folder(options.name, finished.label)}: {finished.describe()}")
    for verdict in claims.judge(finished, module.claims):
        print(verdict)


def _units(options: argparse.Namespace) -> None:
    module, config = _resolve(options)
    folder, left = jobs.unfinished(module, config, options.study)
    units = [{"arm": unit.arm, "seed": unit.seeds[0]} for unit in left]
    print(json.dumps({"folder": str(folder), "units": units}))


def _unit(options: argparse.Namespace) -> None:
    module, config = _resolve(options)
    jobs.run_unit(module, config, options.study, options.arm, options.seed)


def _prove(options: argparse.Namespace) -> None:
    module = experiment(options.name)
    run = freshness.prove(module, options.study)
    arms = run.provenance["proofs"][-1]["arms"]
    print(
        f"{results.folder(run.experiment, run.label)}: the same programs in all {arms} arms, and "
        "the same table of what they record"
    )


def _reproduce(options: argparse.Namespace) -> None:
    module = experiment(options.name)
    configuration.resolve(module.studies, options.study.partition("-")[0])  # names them if not
    found = reproduction.reproduce(
        module, options.study, fresh=options.fresh, workers=options.workers
    )
    print(f"{results.folder(found.run.experiment, found.run.label)}: {found}")


def _resolve(options: argparse.Namespace) -> tuple[Experiment, Any]:
    module = experiment(options.name)
    overrides = {} if options.seeds is None else {"seeds": options.seeds}
    config = configuration.resolve(module.studies, options.study, options.set, **overrides)
    for changes in module.arms(config).values():  # an arm may be out of range where its base is not
        type(config)(**{**vars(config), **changes})
    return module, config


def _cost_of(options: argparse.Namespace) -> None:
    module, config = _resolve(options)
    measure = cost.measure_on_a_core if devices.is_cpu() else cost.measure
    rate = measure(module, config, options.seconds)
    shares = cost.estimate(module, config, rate)
    print(cost.describe(options.name, options.study, config, rate, shares))


def _list(options: argparse.Namespace) -> None:
    for name in experiment_names():
        module = experiment(name)
        found = {run.label: run for run in results.recorded(name)}
        print(f"{name}: {module.question}")
        for study, config in module.studies.items():
            print(f"  {study:8} {_cost(module, config, found):42} {_record(module, study, found)}")


def _cost(module: Any, config: Any, found: dict[str, results.Run]) -> str:
    """Write what a study costs: measured if it is recorded, else scaled from one that is."""
    work = cost.operations(module, config)
    for label in (*[p for p, c in module.studies.items() if c == config], *found):
        if label in found:
            run = found[label]
            recorded = configuration.from_dict(module.Config, run.config)
            seconds = run.provenance["compute_seconds"] * work / cost.operations(module, recorded)
            kind = "measured" if recorded == config else f"estimated from {label}"
            cores = "core-" if run.provenance["device"]["platform"] == "cpu" else ""
            return f"{progress.duration(seconds)} of {cores}time ({kind})"
    return f"{work:.1e} floating-point operations"


def _record(module: Experiment, study: str, found: dict[str, results.Run]) -> str:
    if study not in found:
        return "not recorded"
    provenance = found[study].provenance
    age = "" if freshness.is_fresh(provenance, module) else ", older than the code"
    return f"recorded {provenance['finished'][:10]} on {provenance['device']['kind']}{age}"


def _status(options: argparse.Namespace) -> None:
    if options.name is not None:
        experiment(options.name)  # names them if it is none
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
    texts = []
    for work in progress.unfinished(name, label):
        module = experiment(work.parent.parent.name)
        try:
            arms = progress.arms(module, work)
            texts.append(progress.line(module, work, arms))
        except (FileNotFoundError, checkpoints.CheckpointError):
            if not checkpoints.in_use(work) and work.exists():
                raise
            continue  # it has finished a moment ago, and is being tidied away
        if name is not None:
            texts.append(progress.table(arms, width, height))
    return "\n".join(texts)


def _notebook(options: argparse.Namespace) -> None:
    module = experiment(options.name)
    config = configuration.resolve(module.studies, options.study, first_seed=options.seed)
    if importlib.util.find_spec("papermill") is None:
        raise NotebookFailed('papermill is not installed: pip install "plasticity[book]"')
    import papermill
    from nbclient.exceptions import DeadKernelError

    source = results.root().parent / "book" / f"{options.name}.ipynb"
    label = results.label(module.studies, options.study, config)
    target = results.folder(options.name, label) / "executed.ipynb"
    partial = target.with_name(".executing.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    parameters = {"study": options.study, "seed": options.seed}
    unknown = set(parameters) - set(papermill.inspect_notebook(str(source)))
    if unknown:  # papermill would only warn, and run the defaults
        raise NotebookFailed(f"{source} has no parameter {', '.join(sorted(unknown))}")
    try:
        papermill.execute_notebook(str(source), str(partial), parameters, cwd=str(source.parent))
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        raise NotebookFailed(f"{source} failed; see {partial}\n{error}") from error
    document = json.loads(partial.read_text(encoding="utf-8"))
    if not _ran_to_its_end(document):
        raise NotebookFailed(f"{source} did not run to its end; see {partial}")
    # papermill notes absolute paths, which mean nothing on another machine
    document["metadata"]["papermill"] |= {
        "input_path": f"book/{source.name}",
        "output_path": target.name,
    }
    files.write_atomically(target, (json.dumps(document, indent=1) + "\n").encode())
    partial.unlink()
    print(target)


def _ran_to_its_end(notebook: Mapping[str, Any]) -> bool:
    """Return whether papermill's own record says that every cell ran and none failed.

    It calls cells "completed" that a killed kernel never reached; only ``exception``, which is null
    until a cell starts, tells them apart.
    """
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return all(cell["metadata"]["papermill"]["exception"] is False for cell in cells)


def _probe(options: argparse.Namespace) -> None:
    """Probe the networks that a recorded run kept, under its own settings or under others."""
    name, _, label = options.run.strip("/").removeprefix("papermill_runs/").partition("/")
    module, run = experiment(name), results.load(name, label or "laptop")
    config = configuration.from_dict(module.Config, run.config)
    overrides = configuration.parse(type(config), options.set)
    arms = {arm: changes for arm, changes in module.arms(config).items() if arm in run.banks()}
    if options.arm is not None:
        run.bank(options.arm)  # names what there is, if not this
        arms = {options.arm: arms[options.arm]}
    if not arms:
        raise FileNotFoundError(f"{options.run} kept no parameters: nothing to probe")
    for arm, changes in arms.items():
        arm_config = dataclasses.replace(config, **{**changes, **overrides})
        world, _ = probed_agent.load([arm_config])
        found = probed_agent.reprobe(arm_config, world, run.bank(arm), config.first_seed)
        recorded = run.select(arm=arm, seed=config.first_seed, metric="probe_loss")
        print(f"{arm}, seed {config.first_seed}\n{'step':>10} {'recorded':>10} {'now':>10}")
        for step, was, now in zip(recorded.step, recorded.value, found["probe_loss"], strict=True):
            print(f"{step:10,} {was:10.4f} {now:10.4f}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="plasticity", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("list", help="experiments, studies, cost, what is recorded")
    command.set_defaults(command=_list)
    command = commands.add_parser("status", help="progress of running and finished runs")
    command.add_argument("name", nargs="?", help="an experiment, with a table of its arms")
    command.add_argument("--study", help="laptop, gpu or paper, or the name of the run's folder")
    command.add_argument(
        "--watch", action="store_true", help="print it anew until nothing is running"
    )
    command.set_defaults(command=_status)

    command = commands.add_parser("run", help="run an experiment, or resume it")
    _add_settings(command)
    command.add_argument("--fresh", action="store_true", help="discard an unfinished or older run")
    command.add_argument(
        "--workers", type=int, help="processes on a CPU (default: one for every core)"
    )
    command.set_defaults(command=_run)

    command = commands.add_parser(
        "units", help="which units (an arm on a seed) a run has left, as JSON"
    )
    _add_settings(command)
    command.set_defaults(command=_units)
    command = commands.add_parser("unit", help="run one unit of a run, beside others")
    _add_settings(command)
    command.add_argument("--arm", required=True, help="its arm")
    command.add_argument("--seed", type=int, required=True, help="its seed")
    command.set_defaults(command=_unit)

    command = commands.add_parser(
        "prove", help="prove without running anything that the code's programs are a run's"
    )
    command.add_argument("name", help="the experiment")
    command.add_argument(
        "--study", required=True, help="laptop, gpu or paper, or the name of the run's folder"
    )
    command.set_defaults(command=_prove)

    command = commands.add_parser(
        "reproduce", help="prove with one seed that the code still gives a recorded run's bits"
    )
    command.add_argument("name", help="the experiment")
    command.add_argument(
        "--study", required=True, help="laptop, gpu or paper, or the name of the run's folder"
    )
    command.add_argument("--fresh", action="store_true", help="discard an unfinished reproduction")
    command.add_argument(
        "--workers", type=int, help="processes on a CPU (default: one for every core)"
    )
    command.set_defaults(command=_reproduce)

    command = commands.add_parser("cost", help="what a run would cost, from this machine's speed")
    _add_settings(command)
    command.add_argument(
        "--seconds", type=float, default=cost.SECONDS, help="for about how long to time it"
    )
    command.set_defaults(command=_cost_of)

    command = commands.add_parser("notebook", help="execute an experiment's chapter by papermill")
    command.add_argument("name", help="the experiment")
    command.add_argument("--study", required=True, help="quick, laptop, gpu or paper")
    command.add_argument("--seed", type=int, default=0, help="the first seed")
    command.set_defaults(command=_notebook)

    command = commands.add_parser("probe", help="probe the networks that a recorded run kept")
    command.add_argument("run", metavar="RUN", help="for example falsification/laptop")
    command.add_argument("--arm", help="one of its arms, instead of all that it kept")
    command.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE",
        help="change a setting, such as probe_steps, n_targets or probe_batch_size",
    )  # fmt: skip
    command.set_defaults(command=_probe)
    return parser


def _add_settings(command: argparse.ArgumentParser) -> None:
    """Add the words that name a run, as `_resolve` reads them."""
    command.add_argument("name", help="the experiment")
    command.add_argument("--study", required=True, help="quick, laptop, gpu or paper")
    command.add_argument("--seeds", type=int, help="how many seeds, instead of the study's")
    command.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE",
        help="change a setting; the run then gets a folder of its own",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
