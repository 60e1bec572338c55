"""``plasticity status``: how far unfinished runs are, and which are finished.

Of a finished run ``run.json`` is read and nothing else; JAX is imported only if one is unfinished.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from plasticity import configuration
from plasticity.errors import Told
from plasticity.runs import folders

if TYPE_CHECKING:
    from plasticity.runs import progress
    from plasticity.runs.experiment import Experiment


class Work(NamedTuple):
    """An unfinished run or reproduction: how far it is, or why it does not go on."""

    folder: Path
    line: str
    running: bool | None  # None: its locks cannot be read
    arms: list[progress.Arm] | None = None  # None: it does not go on
    left: progress.Remaining | None = None


def show(options: argparse.Namespace) -> None:
    """Print how far runs are: as lines, with a name as a table of its arms too, or as JSON.

    Raises `configuration.ConfigError` for an unknown name, and if JSON is to be watched.
    """
    both = options.watch and options.json
    configuration.require(not both, "--watch is for people and --json for programs: choose one")
    if options.name is not None and options.name not in options.names():
        options.find(options.name)  # raises, and names the known ones
    which = (options.name, options.study)
    if options.watch:
        _watch(options.find, *which)
    unfinished = list(_unfinished(options.find, *which))  # first: one may be finished meanwhile
    finished = list(_finished(options))
    if options.json:
        told = {
            "runs": str(folders.root().absolute()),
            "unfinished": [_as_json(work) for work in unfinished],
            "finished": finished,
        }
        print(json.dumps(told, indent=1))
        return
    lines = [*filter(None, [_written(unfinished, options.name is not None)])]
    for row in finished:
        what = row.get("problem") and f"damaged: {row['problem']}"
        when = what or f"finished {row['finished']}, {folders.duration(row['compute_seconds'])}"
        lines.append(f"{row['experiment']} {row['label']}: {when}")
    what = " of ".join(filter(None, ("nothing", " ".join(filter(None, which)))))
    print(
        "\n".join(lines) or f"{what} in {folders.root()}: `plasticity list` shows what can be run"
    )


def _finished(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what each recorded run says of itself."""
    for name in [options.name] if options.name else options.names():
        for label in folders.labels(name):
            if folders.has_label(label, options.study):
                place = str(folders.folder(name, label).absolute())
                row: dict[str, Any] = {"experiment": name, "label": label, "folder": place}
                try:
                    yield row | folders.summary(name, label)._asdict()
                except Told as error:
                    yield row | {"problem": str(error)}


def _unfinished(
    find: Callable[[str], Experiment], name: str | None, label: str | None
) -> Iterator[Work]:
    """Yield every unfinished run, and how far it is."""
    for folder in folders.unfinished(name, label):
        found = _look(find, folder)
        if found is not None:
            yield found


def _look(find: Callable[[str], Experiment], folder: Path) -> Work | None:
    """Return how far an unfinished run is; None if it was finished and tidied away meanwhile."""
    from plasticity.runs import checkpoints, progress

    name, label, running = folder.parent.parent.name, folder.parent.name, checkpoints.in_use(folder)
    try:
        chosen = find(name)
    except configuration.ConfigError as error:
        return Work(folder, f"{name}/{label} cannot go on: {error}", running)
    try:
        arms = progress.arms(chosen, folder)
        line = progress.line(chosen, folder, arms)
        return Work(folder, line, running, arms, progress.remaining(chosen, folder, arms))
    except (FileNotFoundError, checkpoints.CheckpointError) as error:
        if checkpoints.in_use(folder) or not folder.exists():
            return None
        return Work(folder, f"{name}/{label} cannot go on: {error}", running)
    except configuration.ConfigError:
        return Work(
            folder,
            f"{name}/{label} was begun with settings that the code no longer has, and cannot go "
            f"on: `plasticity run {name} --study {label} --fresh` begins again",
            running,
        )


def _written(
    works: Iterable[Work], tables: bool, width: int | None = None, height: int | None = None
) -> str:
    """Write a line for each unfinished run, and with ``tables`` a table of its arms."""
    texts = []
    for work in works:
        texts.append(work.line)
        if tables and work.arms is not None:
            from plasticity.runs import progress

            texts.append(progress.table(work.arms, width or progress.screen()[0], height))
    return "\n".join(texts)


def _watch(find: Callable[[str], Experiment], name: str | None, label: str | None) -> None:
    """Print it anew until nothing is running."""
    from plasticity.runs import checkpoints, progress

    def picture(width: int, height: int | None) -> str:
        return _written(_unfinished(find, name, label), name is not None, width, height)

    def going_on() -> bool:
        return any(map(checkpoints.in_use, folders.unfinished(name, label)))

    progress.watch(picture, going_on)


def _as_json(work: Work) -> dict[str, Any]:
    """Return an unfinished run as JSON has it: book/rerun.md names the keys."""
    row: dict[str, Any] = {
        "experiment": work.folder.parent.parent.name,
        "label": work.folder.parent.name,
        "folder": str(work.folder.absolute()),
        "reproduction": work.folder.name == "reproducing",
        "running": work.running,
    }
    if work.arms is None:
        return row | {"problem": work.line}
    arms = [
        {
            "name": arm.name, "state": arm.state, "seeds_done": arm.seeds_done, "seeds": arm.seeds,
            "chunks_done": arm.chunks_done, "chunks": arm.chunks, "seconds": arm.spent.seconds,
            "failures": list(arm.failures),
        }
        for arm in work.arms
    ]  # fmt: skip
    return row | {
        "chunks_done": sum(arm.chunks_done for arm in work.arms),
        "chunks": sum(arm.chunks for arm in work.arms),
        "computing_seconds_left": work.left and work.left.computing,
        "compiling_seconds_left": work.left and work.left.compiling,
        "arms": arms,
    }
