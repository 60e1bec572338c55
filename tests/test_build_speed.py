"""What `benchmarks/build_speed.py` times, in a made-up repository whose targets touch files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # where it imports from
import build_speed
import speed

MAKEFILE = """
.venv/.installed:
	@mkdir -p .venv && touch $@ && echo {name} set up >>{log}
book: .venv/.installed
	@echo {name} book `grep -c new book/*.ipynb` >>{log}
test: .venv/.installed
	@echo {name} test >>{log}
	@test -z "$$JAX_PLATFORMS$$XLA_FLAGS$$PLASTICITY_RUNS"
	@test -f {mended} || {{ echo "no, $$((6 * 7))"; exit 3; }}
"""


def git(folder: Path, *arguments: str) -> str:
    """Return what git says in a folder."""
    identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.invalid"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits: the tag old and what is checked out."""
    folder = tmp_path / "repository"
    chapter = folder / build_speed.CHAPTER
    chapter.parent.mkdir(parents=True)
    text = {"cell_type": "markdown", "metadata": {}, "source": ["# A chapter"]}
    chapter.write_text(json.dumps({"cells": [text], "metadata": {}, "nbformat": 4}))
    git(folder.parent, "init", "--quiet", str(folder))
    for name in ("old", "new"):
        makefile = MAKEFILE.format(name=name, log=tmp_path / "log", mended=tmp_path / "mended")
        (folder / "Makefile").write_text(makefile)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", name)
        git(folder, "tag", name)
    return folder


@pytest.fixture
def run(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The script on that repository, with other commits if they are given."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("MAKEFLAGS", "--dry-run")  # of an outer make

    def run(before: str = "old") -> None:
        folders = {"--output": tmp_path, "--work": tmp_path / "work", "--repository": repository}
        arguments = [str(part) for pair in folders.items() for part in pair]
        monkeypatch.setattr(sys, "argv", ["build_speed.py", *arguments, "--before", before])
        build_speed.main()

    return run


def test_both_commits_take_turns_in_fresh_clones(
    run: Callable[..., None], repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mended").touch()
    before = ["old set up", "old book 0", "old test"]
    now = ["new set up", "new book 0", "new test", "new book 1"]  # the sentence was added
    run()
    log = (tmp_path / "log").read_text().splitlines()
    assert log == ["old set up", "new set up", *2 * [*before, *now]]
    table, machine = speed.read(tmp_path, "build_speed")
    assert table.groupby(["checkout", "round"]).step.agg(list).to_dict() == {
        (name, number): steps
        for name, steps in (
            ("before", ["set up", "book", "test"]),
            ("after", ["set up", "book", "test", "edited"]),
        )
        for number in (0, 1)
    }
    assert (table.seconds > 0).all()
    commits = {key: git(repository, "rev-parse", name) for key, name in
               (("before", "old"), ("after", "new"))}  # fmt: skip
    assert machine["settings"]["commits"] == commits
    assert machine["settings"]["commands"]["test"] == "make test"
    assert machine["device"]["kind"] and machine["began"] <= machine["finished"]
    assert {path.suffix for path in (tmp_path / "work").iterdir()} == {".log"}
    said = capsys.readouterr()
    assert build_speed.as_table(tmp_path) in said.out
    assert "round 2 of 2, after: edited, 0 s" in said.err
    assert commits["before"][:8] in said.out and "not yet recorded" not in said.out


def test_it_goes_on_after_the_clones_that_are_measured(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        run()
    said = capsys.readouterr().err
    assert "make test ended with 2 in" in said and "no, 42" in said
    assert "the same command goes on from here" in said
    assert not (tmp_path / "build_speed.csv").exists()

    real, clones = build_speed.clone, []

    def interrupted(*arguments: object) -> object:
        clones.append(arguments)
        if len(clones) == 5:  # two that fill the cache, one round, one clone more
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    (tmp_path / "mended").touch()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build_speed, "clone", interrupted)
        run()
    (tmp_path / "log").write_text("")
    run()
    assert "going on after 7 steps" in capsys.readouterr().err
    assert (tmp_path / "log").read_text().count("set up") == 2  # the second round
    assert len(speed.read(tmp_path, "build_speed")[0]) == 14


def test_a_commit_that_is_not_there_is_named(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        run(before="0badc0de")
    assert "has no commit 0badc0de: fetch its whole history" in capsys.readouterr().err


def test_turns_of_other_commits_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, commits = tmp_path / "turns.json", {"before": "a", "after": "b"}
    build_speed.Turns(path, commits).add(0, "before", {"book": 1.0})
    assert build_speed.Turns(path, commits).has(0, "before")
    assert not build_speed.Turns(path, {**commits, "after": "c"}).rows
    assert "is of other commits" in capsys.readouterr().err


def test_the_table_has_the_minutes_of_every_round(tmp_path: Path) -> None:
    rows = [
        {"checkout": name, "round": number, "step": step, "seconds": 60.0 * minutes}
        for name, times in (("before", [1, 20, 30]), ("after", [1, 4, 5, 0.5]))
        for number in (0, 1)
        for step, minutes in zip(build_speed.STEPS, [t + number for t in times], strict=False)
    ]
    settings = {"rounds": 2, "commits": {"before": "a" * 40, "after": "b" * 40}}
    begun = {"device": {"kind": "a machine", "cores": 2, "system": "Linux"}}
    build_speed.record(tmp_path, "build_speed", rows, begun, {"settings": settings})
    lines = build_speed.as_table(tmp_path).splitlines()
    assert lines[0] == "| minutes | before, `aaaaaaaa` | now, `bbbbbbbb` | now / before | at most |"
    assert lines[2].endswith("| **1.5** (1.0, 2.0) | **1.5** (1.0, 2.0) | – | – |")
    assert lines[3] == "| `make book` | **20.5** (20.0, 21.0) | **4.5** (4.0, 5.0) | 0.22 | 0.50 |"
    assert lines[5].endswith("| **51.0** (50.0, 52.0) | **10.0** (9.0, 11.0) | 0.20 | 0.56 |")
    assert lines[6].endswith("| – | **1.0** (0.5, 1.5) | 0.22 | 0.10 |")
    assert lines[-1].endswith("on a machine, 2 cores, Linux; in bold the median of 2 rounds.")


def test_what_is_not_recorded_yet_is_said_so(tmp_path: Path) -> None:
    """The page shows the table all the same."""
    head, _, *rows = build_speed.as_table(tmp_path).splitlines()
    assert head == "| minutes | before | now | now / before | at most |"
    assert len(rows) == 5
    assert all(row.endswith(" | not yet recorded" * 4 + " |") for row in rows)
