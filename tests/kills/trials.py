"""A trial: a run is killed, once or several times, then resumed to its end, and compared."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

from plasticity.runs import plan

from .scenes import SCENES, Outcome, Place, Scene, Unexpected, outcome, problems, resolved
from .ways import Kill, Missed, Usual, Way, any_time, at, in_a_chunk, one

CALLS = 3
"""How often a command is given to end a run that was killed."""

SPACING = (0.0, 0.0, 0.4)
"""Seconds between two checkpoints, one of these drawn for each call."""

WORKER = one("plasticity.runs.child", "a worker", "the same command retries these")
DRIVER = one("plasticity.cli run", "the driver")
JOB = one("plasticity.cli unit", "a job")
KERNEL = one("ipykernel_launcher", "papermill's kernel", "failed; see")


class Planned(NamedTuple):
    """A kind of kill."""

    count: int  # of a hundred
    scene: str
    words: str
    way: Way


PLAN = [
    Planned(8, "run", "at any time", any_time),
    Planned(5, "run", "in a chunk", in_a_chunk),
    Planned(5, "run", "one process", WORKER),
    Planned(4, "run", "one process", DRIVER),
    Planned(5, "run", "in a write", at("write", "bytes")),
    Planned(4, "run", "before a rename", at("rename", "before")),
    Planned(4, "run", "after a rename", at("rename", "after")),
    Planned(3, "run", "before a removal", at("remove", "before")),
    Planned(4, "run, supervised", "at any time", any_time),
    Planned(3, "run, supervised", "in a chunk", in_a_chunk),
    Planned(4, "run, supervised", "in a write", at("write", "bytes")),
    Planned(3, "run, supervised", "before a rename", at("rename", "before")),
    Planned(3, "run, supervised", "after a rename", at("rename", "after")),
    Planned(2, "run over an older run", "at any time", any_time),
    Planned(4, "run over an older run", "after a rename",
            at("rename", "after", name="results.csv")),
    Planned(3, "run in one process", "in a write", at("write", "bytes")),
    Planned(3, "run in one process", "before a rename", at("rename", "before")),
    Planned(3, "run in one process", "before a removal", at("remove", "before")),
    Planned(3, "units at once", "at any time", any_time),
    Planned(2, "units at once", "one process", JOB),
    Planned(2, "units at once", "in a write", at("write", "bytes")),
    Planned(3, "sitting and merge", "at any time", any_time),
    Planned(2, "sitting and merge", "one process", DRIVER),
    Planned(2, "sitting and merge", "in a write",
            at("write", "bytes", name="/.sitting", under="out")),
    Planned(3, "sitting and merge", "after a rename",
            at("rename", "after", name="results|arrays|run", under="home")),
    Planned(5, "notebook", "one process", KERNEL),
    Planned(2, "notebook", "one process", one("plasticity.cli notebook", "papermill")),
    Planned(2, "notebook", "at any time", any_time),
    Planned(2, "snakemake", "at any time", any_time),
    Planned(1, "snakemake", "one process", one("-m snakemake", "snakemake")),
    Planned(1, "snakemake", "one process", JOB),
]  # fmt: skip
"""A hundred kills."""

NEEDS = {"notebook": "papermill", "snakemake": "snakemake"}
"""Scene → the package without which it cannot be."""


class Row(NamedTuple):
    """A kill and what came of it."""

    run: int  # several kills may be of one run
    command: str
    way: str
    moment: str
    killed: str
    seconds: float  # from the start of the command that was killed
    calls: int  # until the run was recorded, after its last kill
    equal: bool
    problem: str


class Laboratory:
    """Where trials are made: a folder with compiled programs, and what undisturbed runs left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.usual: dict[str, Usual] = {}
        self.expected: dict[tuple[str, str], Outcome] = {}

    def place(self, scene: Scene, cold: bool = False) -> Place:
        """Return a new place. In a ``cold`` one everything is compiled anew."""
        own = self.folder / "compiled" / scene.run
        own.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.folder)) / "place"
        return Place(folder, scene, compiled=None if cold else own)

    def learn(self, scene: Scene) -> Usual:
        """Let a scene's command run undisturbed; keep what it left, and what it compiled."""
        place = self.place(scene)
        place.start()
        if status := place.wait():
            raise Unexpected(f"undisturbed, {scene.name} ends with {status}:\n{place.said()}")
        seconds = place.ended - place.began
        shutil.copytree(
            place.folder / "compiled", self.folder / "compiled" / scene.run, dirs_exist_ok=True
        )
        key = scene.run, scene.execution
        found = outcome(place)
        if told := problems(place, self.expected.setdefault(key, found)):
            raise Unexpected(f"undisturbed, {scene.name}: {'; '.join(told)}")
        experiment, config = resolved(place.settings)
        parts = plan.units_of(experiment, config, batched=False)
        chunks = sum(experiment.chunks(experiment.arm(config, unit.arm)) for unit in parts)
        events = {event: place.counted(event) for event in ("write", "rename", "remove")}
        self.usual[scene.name] = Usual(seconds, chunks, events)
        shutil.rmtree(place.folder.parent)
        return self.usual[scene.name]

    def trial(
        self, number: int, plans: Sequence[Planned], random: Random, cold: bool = False
    ) -> list[Row]:
        """Kill a run in these ways of one scene, one after another; resume it, and compare.

        A way whose moment never came ends the killing and has no row. What was found wrong is in
        the rows, and then the place stays.
        """
        scene = SCENES[plans[0].scene]
        place = self.place(scene, cold)
        kills: list[tuple[str, Kill]] = []
        calls, told = 0, []
        try:
            for planned in plans:
                place.seconds = random.choice(SPACING)
                try:
                    kill = planned.way(place, self.usual[scene.name], random)
                    kills.append((planned.words, kill))
                except Missed:
                    place.stop()
                    break
            if not kills:
                return []
            place.seconds = random.choice(SPACING)
            calls = finish(place)
            told = problems(place, self.expected[scene.run, scene.execution])
        except Unexpected as error:
            told = [str(error)]
        finally:
            place.stop()
            if not told:
                shutil.rmtree(place.folder.parent)
        problem = "; ".join(told).replace(str(place.folder), "")[:1_000]
        return [
            Row(
                number, scene.name, words, kill.moment, kill.killed, round(kill.seconds, 2), calls,
                not told, problem,
            )
            for words, kill in kills
        ]  # fmt: skip


def finish(place: Place) -> int:
    """Give the command until the run is recorded; return how many times it took.

    Raises `Unexpected`, with what it printed, if that is not enough.
    """
    for call in range(1, CALLS + 1):
        place.start()
        if place.wait() == 0 and place.recorded():
            return call
    raise Unexpected(f"{CALLS} calls did not resume it:\n{place.said()}")


@contextmanager
def laboratory() -> Iterator[Laboratory]:
    """Yield a laboratory in a temporary folder, which stays if there is something to look at."""
    folder = Path(tempfile.mkdtemp(prefix="kills_"))
    yield Laboratory(folder)
    shutil.rmtree(folder / "compiled", ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()
