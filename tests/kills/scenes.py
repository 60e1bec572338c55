"""Real runs that can be killed: commands, folders in which they run, and what they must leave."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from plasticity import cli, configuration
from plasticity.runs import checkpoints, files, results
from plasticity.runs.experiment import Experiment

ROOT = Path(__file__).parents[2]
HOOK = Path(__file__).parent / "hook"
PYTHON = shlex.quote(sys.executable)
PLASTICITY = f"{PYTHON} -m plasticity.cli"

SUPERVISED = (
    "optimizer_instability --study quick --seeds 1 --set n_images=200 --set width=64 "
    "--set batch_size=32 --set steps_per_period=40 --set window=10 --set periods=6 "
    "--set accuracy_sample=100"
)
AGENTS = (
    "curvature_evolution --study quick --seeds 2 --set problem.n_images=60 --set network.width=16 "
    "--set algorithm.warmup=100 --set algorithm.capacity=500 --set algorithm.target_period=20 "
    "--set examples=32 --set covariance_examples=16 --set order=8 --set updates=8"
)
RUNS = {"supervised": SUPERVISED, "agents": AGENTS}
"""What would follow `plasticity run`: networks, optimizers, agents with their replay buffers."""

PATIENCE = 300.0
"""Seconds after which a command counts as stuck."""


class Unexpected(Exception):
    """A command did not do what it should after a kill; the message has what it printed."""


class Scene(NamedTuple):
    """A command on one of the `RUNS`, to be given again and again until the run is recorded."""

    name: str
    command: Callable[[str], str]  # a shell's, from what would follow `plasticity run`
    run: str = "agents"
    execution: str = "workers"  # those with the same have the same bits
    recorded_in: str = "papermill_runs"
    prepare: Callable[[Place], object] = lambda place: None
    more: tuple[str, ...] = ()  # patterns of what is left beside the recorded run


@dataclass
class Place:
    """A folder for one run, and the calls of its command."""

    folder: Path
    scene: Scene
    compiled: Path | None = None  # programs to begin with, copied; by default it has none
    seconds: float = 0.0  # between two checkpoints
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    ended: float = 0.0
    logs: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the folder."""
        for name in ("papermill_runs", "home", "tmp"):
            (self.folder / name).mkdir(parents=True)
        if self.compiled is not None:
            shutil.copytree(self.compiled, self.folder / "compiled")
        self.scene.prepare(self)

    @property
    def settings(self) -> str:
        """What would follow `plasticity run`."""
        return RUNS[self.scene.run]

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return self.settings.partition(" ")[0]

    @property
    def runs(self) -> Path:
        """The folder of runs that the command is told to use."""
        return self.folder / "papermill_runs"

    def environment(self) -> dict[str, str]:
        """Return the variables of the command."""
        outer = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PLASTICITY_RUNS", "JAX_COMPILATION", "KILLS_", "PYTEST_"))
        }
        path = [str(HOOK), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {
            "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1",
            "JAX_PLATFORMS": "cpu", "PLASTICITY_RUNS": str(self.runs),
            "KILLS_PLACE": str(self.folder), "KILLS_SECONDS": str(self.seconds),
            "TMPDIR": str(self.folder / "tmp"), "XDG_CACHE_HOME": str(self.folder / "cache"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "tmp"), "IPYTHONDIR": str(self.folder / "tmp"),
        }  # fmt: skip
        if self.compiled is not None:
            own["JAX_COMPILATION_CACHE_DIR"] = str(self.folder / "compiled")
            own["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        return outer | own

    def start(self, **order: Any) -> None:
        """Give the command, in a process group of its own; ``order`` is for its hook."""
        for path in (*self.folder.glob("*.json"), *self.folder.glob("count.*")):
            path.unlink()
        (self.folder / "waited").unlink(missing_ok=True)
        if order:
            (self.folder / "order.json").write_text(json.dumps(order))
        self.logs.append(self.folder / f"call_{len(self.logs) + 1}.log")
        with open(self.logs[-1], "wb") as log:
            self.began = time.monotonic()
            self.process = subprocess.Popen(
                ["sh", "-c", self.scene.command(self.settings)],
                cwd=self.folder, env=self.environment(), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def wait(self) -> int:
        """Wait until the command ends, and return its status. Raises `Unexpected` if it goes on."""
        assert self.process is not None
        try:
            status = self.process.wait(PATIENCE)
            self.ended = time.monotonic()
            return status
        except subprocess.TimeoutExpired:
            raise Unexpected(f"{self.scene.name} did not end\n{self.said()}") from None

    def said(self) -> str:
        """Return what the last call printed."""
        return self.logs[-1].read_text(errors="replace")

    def told(self) -> dict[str, Any]:
        """Return what the hook left word of; empty if it has not carried out its order."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "told.json").read_text())
        except (FileNotFoundError, ValueError):  # or it is being written
            return {}
        return found

    def recorded(self) -> list[Path]:
        """Return the folders of finished runs."""
        at = self.folder / self.scene.recorded_in / self.experiment
        return [path.parent for path in at.glob("quick-*/run.json")]

    def chunks_done(self) -> int:
        """Return the chunks behind the newest states of all units."""
        units = {state.parent for state in self.runs.glob("*/*/unfinished/*/*/state_*")}
        return sum(max(checkpoints.states(unit), default=0) for unit in units)

    def processes(self, word: str = "") -> list[int]:
        """Return the processes that belong here, or those of Python with a ``word`` in the command.

        A shell's has the words of what it starts, too.
        """
        found = dict(_processes(str(self.folder)))
        if not word:
            return list(found)
        python = {pid: line for pid, line in found.items() if "python" in line.partition(" ")[0]}
        return [pid for pid, line in python.items() if word in line]

    def stop(self) -> None:
        """Kill all that is left here."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()

    def counted(self, event: str) -> int:
        """Return how many events of a kind the hook has counted in the last call."""
        path = self.folder / f"count.{event}"
        return path.stat().st_size if path.exists() else 0


def _processes(mark: str) -> Iterator[tuple[int, str]]:
    """Yield number and command line of each process with ``mark`` in its variables."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes():
                line = (path / "cmdline").read_bytes().replace(b"\0", b" ")
                if line and int(path.name) != os.getpid():  # without one it is dead already
                    yield int(path.name), line.decode(errors="replace")
        except (OSError, ValueError):  # it ended a moment ago, or is somebody else's
            continue


def resolved(settings: str) -> tuple[Experiment, Any]:
    """Return the experiment and the configuration of what would follow `plasticity run`."""
    return cli._resolve(cli._parser().parse_args(["run", *settings.split()]))


# The commands.


def run(settings: str) -> str:
    """Two workers."""
    return f"exec {PLASTICITY} run {settings} --workers 2"


def by_one(settings: str) -> str:
    """One worker, which costs less to start than two."""
    return f"exec {PLASTICITY} run {settings} --workers 1"


def here(settings: str) -> str:
    """All in one process, as on an accelerator."""
    return f"exec {PLASTICITY} run {settings} --workers 0"


def units(settings: str) -> str:
    """Each unit as a job, all at once, and then the run that collects what they did."""
    jobs = "".join(
        f'{PLASTICITY} unit {settings} --arm agent --seed {seed} & jobs="$jobs $!"\n'
        for seed in (0, 1)
    )
    wait = 'for job in $jobs; do wait "$job" || failed=1; done; [ -z "$failed" ] || exit 1'
    return f"{jobs}{wait}\nexec {PLASTICITY} run {settings}"


def sitting(settings: str) -> str:
    """A sitting on a machine, and what it left is taken home."""
    sit = f"{PLASTICITY} sitting 5 out --queue queue.txt"
    return f'{sit} && export PLASTICITY_RUNS="$PWD/home" && exec {PLASTICITY} merge out'


def notebook(settings: str) -> str:
    """A notebook that runs the experiment, executed by papermill."""
    return f"exec {PLASTICITY} notebook {settings.partition(' ')[0]} --study quick"


def snakemake(settings: str) -> str:
    """The workflow, as the book says: each unit a job, on two cores."""
    file = shlex.quote(str(ROOT / "papermill_runs" / "Snakefile"))
    how = "--nolock --keep-going --cores 2 --config"
    return f"exec {PYTHON} -m snakemake -s {file} {how} run={shlex.quote(settings)}"


def write_older_run(place: Place) -> None:
    """Record a run of older code with other numbers: it is to be recorded again, in its place."""
    experiment, config = resolved(place.settings)
    folder = place.runs / place.experiment / results.label(experiment.studies, "quick", config)
    contents = {
        "results.csv": b"arm,seed,step,metric,value\nagent,0,0,none,0\n",
        "arrays.npz": files.npz_bytes({}),
    }
    for name, content in contents.items():
        files.write_atomically(folder / name, content)
    document = {
        "experiment": place.experiment, "study": "quick", "code": "older", "began": "long ago",
        "config": configuration.to_dict(config),
        "sha256": {name: hashlib.sha256(x).hexdigest() for name, x in contents.items()},
    }  # fmt: skip
    files.write_atomically(folder / "run.json", json.dumps(document).encode())


def write_queue(place: Place) -> None:
    """Write the queue of a sitting."""
    (place.folder / "queue.txt").write_text(f"{place.settings} --workers 1\n")


CELLS = {
    "parameters": 'study: str = "quick"\nseed: int = -1',
    "": "from plasticity import configuration\n"
    "from plasticity.chapters.{name} import EXPERIMENT as experiment\n"
    "from plasticity.chapters.{name} import figures\n"
    "from plasticity.runs import driver\n\n"
    "config = configuration.resolve(experiment.studies, study, {changes}, seeds={seeds})\n"
    "run = driver.run(experiment, config, study, reuse=study != 'quick', workers=1)",
}
"""Tag → cell: what a chapter begins with. Its later cells, mostly figures, would take long."""


def write_notebook(place: Place) -> None:
    """Write the beginning of a chapter."""
    words = shlex.split(place.settings)
    filled = {
        "name": place.experiment,
        "changes": [word for word in words if "=" in word],
        "seeds": words[words.index("--seeds") + 1],
    }
    cells = [
        {
            "cell_type": "code", "id": f"cell-{k}", "execution_count": None, "outputs": [],
            "metadata": {"tags": [tag]} if tag else {},
            "source": source.format(**filled),
        }
        for k, (tag, source) in enumerate(CELLS.items())
    ]  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    document = {
        "nbformat": 4, "nbformat_minor": 5, "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
    }  # fmt: skip
    (place.folder / "book").mkdir()
    (place.folder / "book" / f"{place.experiment}.ipynb").write_text(json.dumps(document))


SCENES = {
    scene.name: scene
    for scene in (
        Scene("run", run),
        Scene("run, supervised", by_one, run="supervised"),
        Scene("run over an older run", by_one, prepare=write_older_run),
        Scene("run in one process", here, execution="one process"),
        Scene("units at once", units),
        Scene("sitting and merge", sitting, recorded_in="home", prepare=write_queue),
        Scene("notebook", notebook, prepare=write_notebook, more=("quick/executed.ipynb",)),
        Scene("snakemake", snakemake),
    )
}

# What they must leave.

MAY_DIFFER = ("began", "finished", "sittings", "compute_seconds", "compile_seconds")
"""What a run's provenance says about its own time."""


class Outcome(NamedTuple):
    """A recorded run: the bytes of its files, and what of its provenance is no time."""

    files: dict[str, bytes]
    provenance: dict[str, Any]


def outcome(place: Place) -> Outcome:
    """Return what was recorded. Raises ValueError unless it is one run."""
    (folder,) = place.recorded()
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json" and "unfinished" not in path.parts
    }
    provenance = json.loads((folder / "run.json").read_text())
    kept = {name: value for name, value in provenance.items() if name not in MAY_DIFFER}
    return Outcome(found, kept)


def problems(place: Place, expected: Outcome) -> list[str]:
    """Return what is not as after an undisturbed run, in words: nothing, if all is well."""
    found, told = outcome(place), []
    for name in sorted(found.files.keys() | expected.files.keys()):
        if name not in found.files:
            told.append(f"{name} is missing")
        elif name not in expected.files:
            told.append(f"{name} is left behind")
        elif found.files[name] != expected.files[name]:
            told.append(f"{name} has other bytes")
    for name in sorted(found.provenance.keys() | expected.provenance.keys()):
        if found.provenance.get(name) != expected.provenance.get(name):
            told.append(f"run.json has another {name}")
    at = place.folder / place.scene.recorded_in / place.experiment
    told += [f"{name} is missing" for name in place.scene.more if not (at / name).is_file()]
    return told + leftovers(place)


def leftovers(place: Place) -> list[str]:
    """Return what should not be there any more: files, locks that are held, processes."""
    paths = [
        path.relative_to(place.folder)
        for name in ("papermill_runs", "home", "out")
        for path in sorted((place.folder / name).rglob("*"))
    ]
    work = [path for path in paths if "unfinished" in path.parts[:-1]]
    left = {path for path in work if path.name != "lock" or path.parent.name != "unfinished"}
    left |= {path for path in paths if path.name.startswith(".")}
    told = [f"{path} is left behind" for path in sorted(left)]
    locks = [path for path in paths if path.name == "lock"]
    held = [path for path in locks if checkpoints.is_locked(place.folder / path.parent)]
    told += [f"{path} is held" for path in held]
    until = time.monotonic() + 10.0
    while (alive := place.processes()) and time.monotonic() < until:
        time.sleep(0.05)
    return told + ([f"{len(alive)} processes are still running"] if alive else [])
