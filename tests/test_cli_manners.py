"""The manners of the command line: soon, for strangers, for programs, into any kind of stream."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import toy

import plasticity
from plasticity import cli, configuration
from plasticity.commands import streams
from plasticity.runs import checkpoints, driver, files, folders, results

PYTHON = [sys.executable, "-m", "plasticity"]


def start(*words: str, stdout: Any = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [*PYTHON, *words], stdout=stdout, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip


INSTABILITY = ("optimizer_instability", "--study")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--help"], 0, "begin with:"),
        (["run", "--help"], 0, "run an experiment, or resume it"),
        (["--version"], 0, "plasticity "),
        (["list"], 0, "scaling: Does a wider network keep its plasticity?"),
        (["list", "--json"], 0, '"question"'),
        (["status"], 0, "finished"),
        (["rnu"], 2, "invalid choice: 'rnu'"),
        (["run", "optimizer_instabilty", "--study", "quick"], 2, "unknown experiment"),
        (["run", *INSTABILITY, "quikc"], 2, "unknown study 'quikc'"),
        (["run", *INSTABILITY, "quick", "--set", "widht=3"], 2, "unknown field 'widht'"),
        (["cost", "scaling", "--study", "quick", "--set", "network.widht=3"], 2, "'widht'"),
        (["units", *INSTABILITY, "quick", "--set", "width"], 2, "write it as field=value"),
        (["prove", *INSTABILITY, "quikc"], 2, "unknown study 'quikc'"),
        (["reproduce", *INSTABILITY, "quikc-0badc0de"], 2, "unknown study 'quikc'"),
        (["notebook", *INSTABILITY, "quikc"], 2, "unknown study 'quikc'"),
        (["probe", "falsification/lpatop"], 2, "unknown study 'lpatop'"),
        (["status", "optimizer_instabilty"], 2, "unknown experiment"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_lists_and_typos_are_answered_at_once(
    words: list[str], status: int, said: str
) -> None:
    """In processor time, so that a busy machine does not count; JAX alone takes more than this."""
    process = start(*words)
    assert process.stdout and process.stderr
    told = process.stdout.read() + process.stderr.read()
    _, exit_status, spent = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(exit_status)
    process.stdout.close()
    process.stderr.close()
    assert (process.returncode, said in told) == (status, True), told
    assert spent.ru_utime + spent.ru_stime < 0.5
    assert "Traceback" not in told


def test_a_stranger_is_told_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == shown
    beginning, _, rest = shown.partition("begin with:\n")
    assert "Understanding Plasticity in" in beginning and "options:" not in beginning
    examples = re.findall(r"^  plasticity (.*?)(?:   .*)?$", rest, re.MULTILINE)
    assert [words.split()[0] for words in examples] == ["list", "run", "status"]
    for words in examples:
        options = cli._parser().parse_args(words.split())
        if words.startswith("run"):
            cli._resolve(options)
    assert "`make book`" in rest and "book/rerun.md" in rest
    assert max(map(len, shown.splitlines())) <= 100


def test_every_command_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    for name, (_, summary, _) in cli.COMMANDS.items():
        assert cli.main([name, "--help"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"plasticity {name}: {summary}." in said


def test_the_version_is_that_of_the_package_and_of_what_computes() -> None:
    code = (
        "import sys\nfrom plasticity import cli\n"
        "assert cli.main(['--version']) == 0\nassert 'jax' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    versions = [f"{package} {metadata.version(package)}" for package in ("jax", "jaxlib")]
    python = "Python " + ".".join(map(str, sys.version_info[:3]))
    own = f"plasticity {plasticity.__version__}"
    assert said.stdout == f"{own} ({', '.join([python, *versions])})\n"


@pytest.fixture
def only_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line know one experiment, the toy."""

    def find(name: str) -> Any:
        if name != "toy":
            raise configuration.ConfigError(f"unknown experiment {name!r}: choose from toy")
        return toy.EXPERIMENT

    monkeypatch.setattr(cli, "experiment_names", lambda: ["toy"])
    monkeypatch.setattr(cli, "experiment", find)


@pytest.fixture
def recorded(runs: Path, only_toy: None, capsys: pytest.CaptureFixture[str]) -> results.Run:
    """The toy's quick study."""
    run = driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0)
    capsys.readouterr()
    return run


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Return the JSON that a command prints."""
    assert cli.main(list(words)) == 0
    return json.loads(capsys.readouterr().out)


SUMMARY = {"finished", "device", "platform", "compute_seconds"}


def test_the_list_for_programs_has_the_keys_that_the_book_names(
    recorded: results.Run, runs: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = printed(capsys, "list", "--json")
    assert told.keys() == {"runs", "experiments"} and told["runs"] == str(runs)
    (one,) = told["experiments"]
    assert one.keys() == {"name", "question", "studies"}
    assert (one["name"], one["question"]) == ("toy", toy.EXPERIMENT.question)
    quick, laptop = one["studies"]
    assert laptop == {"name": "laptop", "recorded": None}
    assert quick["recorded"].keys() == {"folder"} | SUMMARY
    assert quick["recorded"]["folder"] == str(runs / "toy" / "quick")
    assert quick["recorded"]["finished"] == recorded.provenance["finished"]
    (one,) = printed(capsys, "list", "--long", "--json")["experiments"]
    quick, laptop = one["studies"]
    costs = {"operations", "cost_seconds", "cost_platform", "cost_from"}
    assert quick.keys() == laptop.keys() == {"name", "recorded"} | costs
    assert quick["recorded"].keys() == {"folder", "fresh"} | SUMMARY
    assert quick["recorded"]["fresh"] is True
    assert (quick["cost_from"], laptop["cost_from"]) == ("itself", "quick")
    # twice as many chunks
    assert laptop["cost_seconds"] == pytest.approx(2 * recorded.provenance["compute_seconds"])
    assert laptop["operations"] == 2 * quick["operations"]
    page = (repository / "book" / "rerun.md").read_text(encoding="utf-8")
    keys = {*told, *one, *quick, *quick["recorded"], "problem"}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_the_status_for_programs_has_the_keys_that_the_book_names(
    recorded: results.Run, runs: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy.Config(seeds=1, chunks=4)
    work = results.folder("toy", "laptop") / "unfinished"
    header = {"config": configuration.to_dict(config), "execution": {"batched": False}}
    checkpoints.open_header(work, header)
    folder = checkpoints.UnitFolder(work, "narrow", (0,))
    folder.save(3, {"x": np.ones(1)}, [{"y": np.ones(1)}] * 3, checkpoints.Spent(90.0, 60.0))
    checkpoints.UnitFolder(work, "wide", (0,)).fail("told to fail")
    told = printed(capsys, "status", "--json")
    assert told.keys() == {"runs", "unfinished", "finished"}
    (done,) = told["finished"]
    assert done.keys() == {"experiment", "label", "folder"} | SUMMARY
    (one,) = told["unfinished"]
    assert one.keys() == {
        "experiment", "label", "folder", "reproduction", "running", "chunks_done", "chunks",
        "computing_seconds_left", "compiling_seconds_left", "arms",
    }  # fmt: skip
    assert (one["label"], one["chunks_done"], one["chunks"]) == ("laptop", 3, 8)
    assert (one["running"], one["reproduction"]) == (False, False)
    # 3 chunks took 30 s and 5 are left; the other arm has a network of its own
    assert (one["computing_seconds_left"], one["compiling_seconds_left"]) == (50.0, 60.0)
    narrow, wide = one["arms"]
    assert narrow == {
        "name": "narrow", "state": "waiting", "seeds_done": 0, "seeds": 1, "chunks_done": 3,
        "chunks": 4, "seconds": 90.0, "failures": [],
    }  # fmt: skip
    assert (wide["state"], wide["failures"]) == ("failed", ["seed 0: told to fail"])
    page = (repository / "book" / "rerun.md").read_text(encoding="utf-8")
    keys = {*told, *done, *one, *narrow, "problem"}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []
    assert printed(capsys, "status", "toy", "--study", "quick", "--json")["unfinished"] == []


@pytest.mark.parametrize(
    "content",
    [
        None, b"", b'{"half of', b"\xff\xfe", b"[1]", b"3", b'{"no": "hashes"}',
        b'{"study": "quick", "config": {}, "seeds": [], "data": {}, "device": [], "sha256": {}}',
    ],
)  # fmt: skip
def test_one_damaged_run_does_not_hide_the_others(
    content: bytes | None,
    recorded: results.Run,
    runs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = runs / "toy" / "laptop" / "run.json"
    damaged.parent.mkdir()
    if content is None:
        damaged.mkdir()  # a folder where the file should be
    else:
        damaged.write_bytes(content)
    for words in (["list"], ["list", "--long"], ["status"]):
        assert cli.main(words) == 0
        out = capsys.readouterr().out
        assert re.search(rf"laptop.* damaged: .*{damaged}", out), out
        assert re.search(r"quick.* (recorded|finished) 20", out), out
    one = printed(capsys, "list", "--json")["experiments"][0]["studies"][1]
    assert str(damaged) in one["recorded"]["problem"]
    laptop, quick = printed(capsys, "status", "--json")["finished"]
    assert laptop.keys() == {"experiment", "label", "folder", "problem"}
    assert "problem" not in quick
    for words in (["prove"], ["reproduce", "--workers", "0"], ["run", "--workers", "0"]):
        assert cli.main([*words, "toy", "--study", "laptop"]) == 1
        assert f"delete {damaged.parent}" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["code", "compute_seconds", "data", "device", "seeds"])
def test_what_a_run_lacks_is_named_by_who_asks_for_it(
    key: str, recorded: results.Run, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs / "toy" / "quick" / "run.json"
    stored = json.loads(path.read_text())
    del stored[key]
    path.write_text(json.dumps(stored))
    told = []
    run = ("toy", "--study", "quick")
    commands = (["list", "--long"], ["status"], ["prove", *run], ["run", *run, "--workers", "0"])
    for words in commands:
        status = cli.main(words)
        shown = capsys.readouterr()
        assert status in (0, 1), shown.err
        told.append(f"{path} is not a run's provenance (" in shown.out + shown.err)
    assert any(told)


@pytest.mark.parametrize("name", ["results.csv", "arrays.npz"])
def test_the_long_list_reads_what_the_short_one_believes(
    name: str, recorded: results.Run, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "toy" / "quick" / name).write_bytes(b"half of it")
    assert cli.main(["list"]) == 0
    assert "damaged" not in capsys.readouterr().out
    assert cli.main(["list", "--long"]) == 0
    assert f"damaged: {runs / 'toy' / 'quick' / name}" in capsys.readouterr().out
    (runs / "toy" / "quick" / name).unlink()
    (runs / "toy" / "quick" / name).mkdir()
    assert cli.main(["run", "toy", "--study", "quick"]) == 1
    assert f"cannot read {runs / 'toy' / 'quick' / name}" in capsys.readouterr().err


@pytest.mark.parametrize("header", ["{}", '{"config": 3}', '{"half of', '{"config": {}}'])
def test_one_damaged_header_does_not_hide_the_others(
    header: str, recorded: results.Run, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("toy", "of_another_time"):
        work = runs / name / "laptop" / "unfinished"
        work.mkdir(parents=True)
        (work / "header.json").write_text(header)
    assert cli.main(["status"]) == 0
    other, damaged, finished = capsys.readouterr().out.splitlines()
    assert other.startswith("of_another_time/laptop cannot go on: unknown experiment")
    assert re.match(r"toy/laptop cannot go on: .*header.json is damaged .*--fresh", damaged)
    assert finished.startswith("toy quick: finished")
    problems = [one["problem"] for one in printed(capsys, "status", "--json")["unfinished"]]
    assert problems == [other, damaged]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "toy", "--study", "quick", "--seeds", "0"], "--seeds: 0: must be 1 or more"),
        (["run", "toy", "--study", "quick", "--seeds", "1e2"], "--seeds: '1e2': expected a whole"),
        (["run", "toy", "--study", "quick", "--workers", "-1"], "--workers: -1: must be 0 or more"),
        (["reproduce", "toy", "--study", "quick", "--workers", "-1"], "--workers: -1"),
        *[
            ([*command, "--minutes", minutes], f"--minutes: {minutes}: must be above 0 and finite")
            for minutes in ("nan", "inf", "-1", "0")
            for command in (
                ["run", "toy", "--study", "quick"],
                ["unit", "toy", "--study", "quick", "--arm", "wide", "--seed", "0"],
                ["reproduce", "toy", "--study", "quick"],
            )
        ],
        (["run", "toy", "--study", "quick", "--minutes", "soon"], "'soon': expected a number"),
        (["sitting", "nan", "out", "--queue", "q"], "MINUTES: nan: must be above 0 and finite"),
        (["cost", "toy", "--study", "quick", "--seconds", "0"], "--seconds: 0: must be above 0"),
        (["cost", "toy", "--study", "quick", "--seconds", "nan"], "--seconds: nan: must be"),
        (["unit", "toy", "--study", "quick", "--arm", "wide", "--seed", "-1"], "--seed: -1: must"),
        (["notebook", "toy", "--study", "quick", "--seed", "-1"], "--seed: -1: must be 0 or more"),
        (["notebook", "toy", "--study", "quick", "--seed", str(2**32)], "for JAX keeps 32 bits"),
        (["run", "toy", "--study", "quick", "--set", f"first_seed={2**32}"], "JAX keeps 32 bits"),
        (["run", "toy", "--study", "quick", "--set", "chunks"], "--set: 'chunks': write it as"),
        (["status", "--watch", "--json"], "--watch is for people and --json for programs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused_before_any_work(
    words: list[str],
    message: str,
    runs: Path,
    only_toy: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err
    assert not runs.exists()


SEEDS = (7, 2**31 - 1, 2**32 - 1, 2**32 + 7)


def test_seeds_beyond_what_is_accepted_would_be_others_again() -> None:
    """So that two of them would have the same bits under two names."""
    data = {seed: jax.random.key_data(jax.random.key(seed)).tolist() for seed in SEEDS}
    assert data[2**32 + 7] == data[7]
    assert data[2**32 - 1] != data[2**31 - 1]


def test_a_grid_of_nothing_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "measuring_plasticity", "--study", "quick", "--set", "variants="]
    assert cli.main(words) == 2
    assert "with these settings it has no arm to run" in capsys.readouterr().err


# Streams.


@pytest.fixture
def no_reader() -> Iterator[int]:
    """The end of a pipe whose other end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("attempt", range(5))
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_leaves_ends_it_without_a_word(
    no_reader: int, attempt: int, unbuffered: str
) -> None:
    """Whether the first line or the last meets the closed pipe; argparse hides it of its own."""
    for words in (["list"], ["status"], ["list", "--json"], ["--help"]):
        process = start(*words, stdout=no_reader, PYTHONUNBUFFERED=unbuffered)
        _, errors = process.communicate(timeout=60)
        status = 0 if unbuffered and words == ["--help"] else streams.BROKEN_PIPE
        assert (process.returncode, errors) == (status, ""), words


def test_a_head_of_the_list_is_that(tmp_path: Path) -> None:
    command = f"{sys.executable} -m plasticity list | head -1"
    for _ in range(5):
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("atari_layer_norm: ") and done.stdout.count("\n") == 1
        assert done.stderr == ""


def test_a_worker_s_broken_pipe_is_not_taken_for_the_reader_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(options: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setitem(cli.COMMANDS, "check", (dies, "", []))
    assert cli.main(["check"]) == 70
    assert "BrokenPipeError" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_under_the_output_is_told() -> None:
    with open("/dev/full", "w") as full:
        process = start("list", stdout=full)
        _, errors = process.communicate(timeout=60)
    told = "plasticity: cannot write: No space left on device\n"
    assert (process.returncode, errors) == (1, told)


def test_streams_that_are_closed_from_the_start_are_left_alone() -> None:
    command = f"{sys.executable} -m plasticity list >&- 2>&-"
    assert subprocess.run(command, shell=True, check=False).returncode == 0


NO_UNICODE = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb"},
    {"PYTHONIOENCODING": "ascii", "TERM": "dumb"},
]


@pytest.mark.parametrize("environment", NO_UNICODE, ids=lambda value: " ".join(value))
@pytest.mark.parametrize(
    ("words", "status"),
    [(["list"], 0), (["status"], 0), (["--help"], 0), (["run", "§λ→∞", "--study", "·–"], 2)],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_nothing_is_too_much_for_a_terminal_without_unicode(
    words: list[str], status: int, environment: dict[str, str]
) -> None:
    process = start(*words, **environment)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == status and "Error" not in errors, errors
    assert (out + errors).isascii()
    assert words != ["list"] or "\\xa7" in out


def test_what_an_encoding_lacks_is_written_as_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    for errors in ("strict", "surrogateescape"):
        shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
        monkeypatch.setattr(sys, "stdout", shown)
        streams.escape()
        print("scale: 3.0 → 1.0", flush=True)
        assert shown.buffer.getvalue() == b"scale: 3.0 \\u2192 1.0\n"  # type: ignore[attr-defined]


# Errors.


@pytest.mark.parametrize(
    "error", [KeyError("width"), FileNotFoundError(2, "no file", "x"), ValueError()]
)
def test_a_fault_of_the_program_is_not_taken_for_a_bad_argument(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(options: object) -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "check", (fails, "", []))
    assert cli.main(["check"]) == 70
    told = capsys.readouterr().err
    assert "Traceback" in told and type(error).__name__ in told
    assert told.splitlines()[-1].startswith(f"plasticity {plasticity.__version__} (Python ")
    assert told.endswith("did not foresee this: please report it, with the lines above\n")


def test_an_arm_of_which_nothing_was_kept_is_a_bad_argument(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["probe", "falsification/laptop", "--arm", "wiide"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("plasticity: no parameters of 'wiide' were kept; there are ")


@pytest.mark.parametrize(
    ("setting", "message"),
    [("probe_state=carried", "holds no optimizer state"), ("network.width=8", "are not those of")],
)
def test_what_a_bank_cannot_be_probed_with_is_a_bad_argument(
    setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arm = "true_label-mnist_5k-mlp-adam_1e-3"
    words = ["probe", "falsification/laptop", "--arm", arm, "--set", setting]
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_errors_that_are_told_say_what_they_were_told() -> None:
    """Whatever else they are: a KeyError would quote its words."""
    assert str(results.UnknownArm("no 'a'")) == "no 'a'"
    assert str(files.NotRecorded("it is not there")) == "it is not there"
    assert isinstance(files.NotRecorded("x"), FileNotFoundError)


def test_a_folder_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.delenv("PLASTICITY_RUNS", raising=False)
    (tmp_path / "gone").rmdir()
    assert cli.main(["status"]) == 1
    assert "the working directory is gone" in capsys.readouterr().err
    monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path))
    assert folders.root() == tmp_path
