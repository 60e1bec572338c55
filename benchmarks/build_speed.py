"""How long the book takes to build and to test, at an earlier commit and now.

    python benchmarks/build_speed.py [--output FOLDER] [--work FOLDER]
                                     [--repository FOLDER] [--before COMMIT] [--after COMMIT]

Both commits take turns, round by round, each in a fresh clone with a .venv of its own. Before the
first round each is set up once, so that downloads are not timed. What is measured is kept in the
work folder: after an interruption the same command goes on with the next clone. Writes
build_speed.csv (one step of a turn per row) and build_speed.json; the book's page Speed shows both.
It takes hours, so `make bench` runs it only if it is named: ``make bench BENCH=build_speed``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import speed
from rounds import beginning, record, say

from plasticity.runs.files import write_atomically

HERE = Path(__file__).parent
ROUNDS = 2
BEFORE = "d3d20b0"
"""A commit at which every build executed every chapter, one after the other."""

CHAPTER = "book/optimizer_instability.ipynb"
"""The chapter whose prose is edited."""

STEPS = {
    "set up": (".venv from downloaded packages", ("make", ".venv/.installed")),
    "book": ("`make book`", ("make", "book")),
    "test": ("`make test`", ("make", "test")),
    "edited": ("`make book` after an edit of one chapter's prose", ("make", "book")),
}
"""Step → how the table calls it, and its command; in the order in which a clone takes them."""

ALL_OF_CI = ("book", "test")
"""The steps of `.ci/run`, which removes _build first: a fresh clone has none."""

OUTER = ("JAX_", "JUPYTER_", "IPYTHONDIR", "MAKE", "MFLAGS", "MPL", "PLASTICITY_", "PYTHON",
         "VIRTUAL_ENV", "XLA_")  # fmt: skip
"""Beginnings of names of variables that a clone must not inherit: it finds its own values."""


class StepFailed(RuntimeError):
    """A command did not end well in a clone."""


def main() -> None:
    """Measure, record, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    scratch = Path(tempfile.gettempdir()) / "build_speed"
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--work", type=Path, default=scratch, help="folder for clones and logs")
    parser.add_argument("--repository", type=Path, default=HERE.parent, help="what is cloned")
    parser.add_argument("--before", default=BEFORE, help="the earlier commit")
    parser.add_argument("--after", default="HEAD", help="the later commit")
    options = parser.parse_args()
    try:
        commits = {
            name: commit(options.repository, getattr(options, name)) for name in ("before", "after")
        }
        options.work.mkdir(parents=True, exist_ok=True)
        turns = Turns(options.work / "turns.json", commits)
        measure(options.repository, options.work, turns)
    except StepFailed as error:
        parser.exit(1, f"error: {error}\n")
    settings = {
        "rounds": ROUNDS, "commits": commits, "chapter": CHAPTER,
        "commands": {step: " ".join(command) for step, (_, command) in STEPS.items()},
    }  # fmt: skip
    record(options.output, "build_speed", turns.rows, turns.begun, {"settings": settings})
    turns.path.unlink()
    print(as_table(options.output))


class Turns:
    """What has been measured of two commits, kept in a file."""

    def __init__(self, path: Path, commits: dict[str, str]) -> None:
        """Read what an interrupted run of these commits has measured, if there is any."""
        self.path, self.commits = path, commits
        self.begun = beginning()
        self.rows: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["commits"] == commits:
                self.begun, self.rows = kept["begun"], kept["rows"]
                say(f"going on after {len(self.rows)} steps of an interrupted run")
            else:
                say(f"{path} is of other commits (--before, --after): beginning anew")

    def has(self, number: int, name: str) -> bool:
        """Return whether a clone was measured to its end."""
        return any((row["round"], row["checkout"]) == (number, name) for row in self.rows)

    def add(self, number: int, name: str, seconds: dict[str, float]) -> None:
        """Keep what a clone took for each step."""
        self.rows += [
            {"checkout": name, "round": number, "step": step, "seconds": round(took, 3)}
            for step, took in seconds.items()
        ]
        kept = {"commits": self.commits, "begun": self.begun, "rows": self.rows}
        write_atomically(self.path, json.dumps(kept).encode())


def measure(repository: Path, work: Path, turns: Turns) -> None:
    """Measure what is missing. Raises `StepFailed` if a command fails."""
    if not turns.rows:
        for name, sha in turns.commits.items():
            with clone(repository, sha, work / name) as folder:
                say(f"{name}, {sha[:8]}: packages are there after {step(folder, 'set up'):.0f} s")
    for number in range(ROUNDS):
        for name, sha in turns.commits.items():
            if turns.has(number, name):
                continue
            with clone(repository, sha, work / name) as folder:
                seconds = {}
                for one in STEPS:
                    if one == "edited":
                        if name == "before":
                            continue  # every build executed every chapter
                        edit_prose(folder / CHAPTER)
                    seconds[one] = step(folder, one)
                    say(f"round {number + 1} of {ROUNDS}, {name}: {one}, {seconds[one]:.0f} s")
            turns.add(number, name, seconds)


def commit(repository: Path, name: str) -> str:
    """Return the full hash of a commit. Raises `StepFailed` if the repository does not have it."""
    wanted = ["rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    command = ["git", "-C", str(repository), *wanted]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise StepFailed(f"{repository} has no commit {name}: fetch its whole history")
    return found.stdout.strip()


@contextlib.contextmanager
def clone(repository: Path, sha: str, folder: Path) -> Iterator[Path]:
    """Yield a fresh clone at a commit, and remove it unless something fails in it."""
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        ["clone", "--quiet", "--no-checkout", str(repository.resolve()), str(folder)],
        ["-C", str(folder), "checkout", "--quiet", "--detach", sha],
    ):
        done = subprocess.run(["git", *command], capture_output=True, text=True)
        if done.returncode:
            raise StepFailed(f"cannot clone {repository}: {done.stderr.strip()}")
    yield folder
    shutil.rmtree(folder)


def step(folder: Path, name: str) -> float:
    """Return the seconds of wall time that a step takes in a clone.

    Raises `StepFailed`, with the end of its output, if its command fails.
    """
    log, command = folder.with_suffix(".log"), STEPS[name][1]
    with open(log, "wb") as output:
        began = perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=surroundings(), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        took = perf_counter() - began
    if done.returncode:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise StepFailed(
            f"{' '.join(command)} ended with {done.returncode} in {folder}; {log} has all of its "
            f"output. When it is mended, the same command goes on from here.\n{end}"
        )
    return took


def surroundings() -> dict[str, str]:
    """Return the environment of whoever has just cloned: none of this .venv or of an outer make."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OUTER)}
    own = str(HERE.parent / ".venv")
    folders = kept.get("PATH", os.defpath).split(os.pathsep)
    return {**kept, "PATH": os.pathsep.join(f for f in folders if not f.startswith(own))}


def edit_prose(path: Path) -> None:
    """Add a sentence to the first text of a chapter."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    text = next(cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    text["source"] = [*text["source"], "\n\nThis sentence is new."]
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# The table.

COLUMNS = {"before": "before", "now": "after"}
"""Head of a column → the checkout whose turns it shows."""

AIMS = {"book": 1 / 2, "test": 5 / 9, "ci": 5 / 9}
"""Step → the share of its time before that it was to take at most."""

EDITED_AIM = 1 / 10
"""The same for a build after an edit of prose, as a share of a whole build now."""


def as_table(folder: Path = HERE) -> str:
    """Return the minutes of each step before and now as a Markdown table, and where it was taken.

    As long as nothing is recorded in ``folder``, every cell says so.
    """
    try:
        table, machine = speed.read(folder, "build_speed")
    except FileNotFoundError:
        empty = ["not yet recorded"] * (len(COLUMNS) + 2)
        heads = [*COLUMNS, *SHARES]
        return _table(heads, [[words, *empty] for words in _words().values()])
    commits, found = machine["settings"]["commits"], shares(table)
    heads = [*(f"{name}, `{commits[key][:8]}`" for name, key in COLUMNS.items()), *SHARES]
    seconds = _seconds(table)
    rows = [
        [words, *(_minutes(seconds.loc[key, one]) for key in COLUMNS.values()), *_told(found, one)]
        for one, words in _words().items()
    ]
    device = machine["device"]
    return (
        f"{_table(heads, rows)}\n\n"
        f"The edit's share is that of the whole build now. "
        f"Measured {machine['finished'][:10]} on {device['kind']}, "
        f"{device['cores']} cores, {device['system']}; in bold the median of "
        f"{machine['settings']['rounds']} rounds."
    )


SHARES = ("now / before", "at most")
"""Heads of the columns with what is left of each step's time, and what was to be left."""


def shares(table: pd.DataFrame) -> dict[str, float]:
    """Return what is left of each step's time, and an edit's share of the whole build now.

    Medians of rounds are divided.
    """
    median = _seconds(table).groupby("checkout").median()
    found = {one: float(median.loc["after", one] / median.loc["before", one]) for one in AIMS}
    return {**found, "edited": float(median.loc["after", "edited"] / median.loc["after", "book"])}


def _seconds(table: pd.DataFrame) -> pd.DataFrame:
    """Return the seconds of each step (column) in each clone and round (row), and of all of CI."""
    seconds = table.pivot(index=["checkout", "round"], columns="step", values="seconds")
    return seconds.assign(ci=seconds[list(ALL_OF_CI)].sum(axis=1, skipna=False))


def _told(found: dict[str, float], one: str) -> list[str]:
    if one not in found:
        return ["–", "–"]
    return [f"{found[one]:.2f}", f"{AIMS.get(one, EDITED_AIM):.2f}"]


def _words() -> dict[str, str]:
    """Return how the table calls each step, and all of CI, in its order."""
    words = {name: words for name, (words, _) in STEPS.items()}
    edited = words.pop("edited")
    return {**words, "ci": "`.ci/run`, which is both", "edited": edited}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [["minutes", *heads], ["---", *["--:"] * len(heads)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _minutes(seconds: Any) -> str:
    """Return the median over rounds, and each round, in minutes; a dash if there is none."""
    rounds = (seconds / 60).dropna()
    if rounds.empty:
        return "–"
    each = ", ".join(f"{minutes:.1f}" for minutes in rounds)
    return f"**{rounds.median():.1f}** ({each})"


if __name__ == "__main__":
    main()
