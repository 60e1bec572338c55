"""Today's code either gives a recorded run's bits, on one seed, or is told where it does not."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import toy

from plasticity import cli, configuration
from plasticity.runs import checkpoints, driver, files, freshness, reproduction, results
from plasticity.runs.experiment import Experiment


@pytest.fixture
def recorded(runs: Path) -> results.Run:
    """A run of two seeds at the quick study."""
    return driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0)


@pytest.fixture
def edited(recorded: results.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other code than what made the run, that computes the same."""
    monkeypatch.setattr("plasticity.runs.fingerprint.code_digest", lambda experiment: "generalised")


def reproduce(experiment: Experiment = toy.EXPERIMENT, **options: Any) -> reproduction.Reproduction:
    """Reproduce the recorded run in this process."""
    return reproduction.reproduce(experiment, "quick", workers=0, **options)


def test_other_code_with_the_same_bits_makes_the_run_fresh(
    recorded: results.Run, edited: None, runs: Path
) -> None:
    assert not freshness.is_fresh(recorded.provenance, toy.EXPERIMENT)
    found = reproduce()
    assert (found.seeds, found.rows, found.arrays) == ((0,), 2 * 6, 2)
    assert found.numbers == 2 * 6 + 2 * 6 * 64
    (entry,) = found.run.provenance["proofs"]
    assert set(entry) == {
        "by", "code", "commit", "uncommitted_source", "packages", "device", "jax_settings", "seeds",
        "numbers", "date",
    }  # fmt: skip
    assert (entry["code"], entry["seeds"], entry["numbers"]) == ("generalised", [0], found.numbers)
    assert freshness.is_fresh(found.run.provenance, toy.EXPERIMENT)
    assert {**found.run.provenance, "proofs": None} == {
        **recorded.provenance,
        "proofs": None,
    }
    assert [path.name for path in (runs / "toy" / "quick" / "reproducing").iterdir()] == ["lock"]
    again = driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0)  # not run: reused
    assert again.provenance == found.run.provenance
    assert len(reproduce().run.provenance["proofs"]) == 2


@pytest.mark.usefixtures("edited")
def test_a_changed_constant_is_found_and_nothing_is_written(
    recorded: results.Run, runs: Path
) -> None:
    written = (runs / "toy" / "quick" / "run.json").read_bytes()

    def later(config: toy.Config, world: jax.Array, state: Any, chunk: int) -> Any:
        state, record = toy.advance(config, world, state, chunk)
        return state, {**record, "mean": record["mean"] * (1 + 2.0**-23)}  # the last bit

    with pytest.raises(
        reproduction.NotReproduced,
        match=r"(?s)toy/quick: 1[0-2] numbers are not those recorded, of 780 compared\. The first: "
        r"arm narrow, seed 0, step 0, metric mean: [\d.]+ → [\d.]+\. Largest relative difference: "
        r"1\.\de-07\. Nothing was written.*`plasticity run toy --study quick --fresh`$",
    ):
        reproduce(dataclasses.replace(toy.EXPERIMENT, advance=later))
    assert (runs / "toy" / "quick" / "run.json").read_bytes() == written
    assert not freshness.is_fresh(results.load("toy", "quick").provenance, toy.EXPERIMENT)
    assert [path.name for path in (runs / "toy" / "quick" / "reproducing").iterdir()] == ["lock"]


@pytest.mark.usefixtures("edited")
def test_other_data_are_told_before_anything_runs(recorded: results.Run) -> None:
    def never(*arguments: object) -> Any:
        raise AssertionError("it ran")

    def load(config: toy.Config) -> Any:
        return toy.load(config)[0] + 1, {}

    with pytest.raises(reproduction.NotReproduced, match="toy/quick: the data differ"):
        reproduce(dataclasses.replace(toy.EXPERIMENT, load=load, start=never, advance=never))


@pytest.mark.usefixtures("edited")
def test_another_machine_is_named_if_numbers_differ(recorded: results.Run, runs: Path) -> None:
    def load(config: toy.Config) -> Any:
        return jax.numpy.zeros(config.size), {}

    amend(runs, lambda stored: stored["device"].update(kind="Abacus"))
    kind = recorded.provenance["device"]["kind"]
    with pytest.raises(
        reproduction.NotReproduced, match=rf"no fault of the code.*kind: 'Abacus' → '{kind}'"
    ):
        reproduce(dataclasses.replace(toy.EXPERIMENT, load=load))


def amend(runs: Path, change: Any) -> None:
    """Edit the provenance of the recorded run, as an older version might have written it."""
    path = runs / "toy" / "quick" / "run.json"
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))


def test_a_field_added_since_has_its_default(recorded: results.Run, runs: Path) -> None:
    amend(runs, lambda stored: stored["config"].pop("fail_arm"))
    found = reproduce().run
    assert "fail_arm" not in found.config
    assert (
        driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0).provenance == found.provenance
    )


def test_a_field_removed_since_is_named(recorded: results.Run, runs: Path) -> None:
    amend(runs, lambda stored: stored["config"].update(depth=3))
    with pytest.raises(configuration.ConfigError, match=r"has extra \{.depth.\}"):
        reproduce()
    assert "depth" not in driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=0).config


def test_a_damaged_run_is_not_compared(recorded: results.Run, runs: Path) -> None:
    path = runs / "toy" / "quick" / "results.csv"
    path.write_text(path.read_text().replace("narrow", "Narrow"))
    with pytest.raises(files.ResultsError, match=r"results\.csv is not what the run wrote"):
        reproduce()


def test_a_run_recorded_again_meanwhile_keeps_its_provenance(
    recorded: results.Run, runs: Path
) -> None:
    results.write("toy", "quick", recorded.table[:-1], recorded.arrays, recorded.provenance)
    with pytest.raises(files.ResultsError, match="recorded again meanwhile"):
        results.add_proof(recorded, {"code": "generalised"})
    assert "proofs" not in results.load("toy", "quick").provenance


def test_a_bank_is_compared_too(runs: Path) -> None:
    shift = 0.0

    def with_bank(config: toy.Config, records: results.Records) -> Any:
        table, arrays = toy.summarize(config, records)
        kept = records["wide", config.first_seed]["position"] + np.float32(shift)
        return table, arrays | {"bank/wide/a/position": kept}

    experiment = dataclasses.replace(toy.EXPERIMENT, summarize=with_bank)
    driver.run(experiment, toy.Config(), "quick", workers=0)
    found = reproduce(experiment)
    assert (found.arrays, found.numbers) == (3, 12 + 3 * 6 * 64)
    shift = 1.0
    with pytest.raises(reproduction.NotReproduced, match=r"array bank/wide/a/position at \(0, 0\)"):
        reproduce(experiment)


def test_interrupted_it_resumes(recorded: results.Run, runs: Path) -> None:
    steps = iter(range(8))

    def stop(*arguments: object, **options: object) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tqdm.std.tqdm.update", stop)
        with pytest.raises(KeyboardInterrupt):
            reproduce(checkpoint_seconds=0.0)
    work = runs / "toy" / "quick" / "reproducing"
    assert checkpoints.UnitFolder(work, "narrow", (0,)).chunks_done() == 6
    assert checkpoints.read_header(work)["config"]["seeds"] == 1
    resumed: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tqdm.std.tqdm.update", lambda bar, n: resumed.append(n))
        assert reproduce().rows == 12
    assert resumed[0] == 1  # the second unit from where it was stopped
    assert sum(resumed) == 6  # and the first, which was done, not at all


CHILD = """
import sys, toy
from plasticity.runs import reproduction
found = reproduction.reproduce(toy.EXPERIMENT, sys.argv[1], checkpoint_seconds=0.0)
print(found.numbers)
"""


@pytest.mark.slow
def test_killed_with_its_workers_it_resumes_to_the_same_bits(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    config = toy.Config(chunks=8, seconds_a_chunk=0.1)
    run = driver.run(toy.EXPERIMENT, config, "quick", workers=1)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    arguments = [sys.executable, "-c", CHILD, run.label]
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL)
    work = results.folder("toy", run.label) / "reproducing"
    while len(list(work.glob("*/0/state_000*"))) < 2:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "proofs" not in results.load("toy", run.label).provenance
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2 * 8 + 2 * 8 * 64
    (entry,) = results.load("toy", run.label).provenance["proofs"]
    assert entry["seeds"] == [0]


ROWS = pd.DataFrame({"arm": "a", "seed": 0, "step": [2, 1], "value": [0.5, np.nan]})
STACK = np.arange(6, dtype=np.float32).reshape(2, 3)


def compare(
    rows: pd.DataFrame = ROWS, arrays: dict[str, np.ndarray] | None = None
) -> list[reproduction.Difference]:
    """Compare one seed with a made-up run of two seeds that holds one array of each kind."""
    was = {"stack": STACK, "whole": STACK[:, 0], "nan": np.array([np.nan, 1.0])}
    now = {**was, "stack": STACK[:1]} if arrays is None else arrays
    return list(reproduction.differences(ROWS, was, rows, now, seeds=1))


def test_a_nan_equals_a_nan_and_the_order_of_rows_does_not_count() -> None:
    assert compare() == []
    assert compare(ROWS[::-1]) == []


@pytest.mark.parametrize(
    ("rows", "numbers", "first", "largest"),
    [
        (ROWS.assign(value=[0.5, 1.0]), 1, "arm a, seed 0, step 1: nan → 1.0", np.inf),
        (ROWS.assign(value=[0.25, np.nan]), 1, "arm a, seed 0, step 2: 0.5 → 0.25", 0.5),
        (ROWS[:1], 1, "arm a, seed 0, step 1: nan → nan (no such row now)", np.inf),
        (ROWS.assign(step=[2, 0]), 2, "arm a, seed 0, step 0: nan → nan (no such row recorded)",
         np.inf),
        (ROWS.assign(more=1), 2, "the table's columns, arm, seed, step, value → arm, seed, step, "
         "value, more", np.inf),
    ],
)  # fmt: skip
def test_each_way_in_which_a_table_can_differ_is_named(
    rows: pd.DataFrame, numbers: int, first: str, largest: float
) -> None:
    assert compare(rows) == [reproduction.Difference(numbers, first, largest)]


@pytest.mark.parametrize(
    ("change", "numbers", "first", "largest"),
    [
        ({"stack": STACK[:1].astype(float)}, 3,
         "array stack, float32 (2, 3) recorded, float64 (1, 3) of 1 seeds", np.inf),
        ({"stack": STACK[:1] * np.float32(-1)}, 3, "array stack at (0, 0): 0.0 → -0.0", 2.0),
        ({"stack": np.float32([[0, 1, 4]])}, 1, "array stack at (0, 2): 2.0 → 4.0", 0.5),
        ({"stack": STACK[1:]}, 3, "array stack at (0, 0): 0.0 → 3.0", 1.0),
        ({"whole": np.float32([0])}, 0, "", 0.0),  # as one seed would give
        ({"whole": np.float32([0, 5])}, 1, "array whole at (1,): 3.0 → 5.0", 0.4),
        ({"nan": np.array([np.nan, np.nan])}, 1, "array nan at (1,): 1.0 → nan", np.inf),
        ({"new": STACK}, 6, "array new, not recorded", np.inf),
        ({"whole": None}, 2, "array whole, not made now", np.inf),
    ],
)  # fmt: skip
def test_each_way_in_which_an_array_can_differ_is_named(
    change: dict[str, Any], numbers: int, first: str, largest: float
) -> None:
    arrays = {"stack": STACK[:1], "whole": STACK[:, 0], "nan": np.array([np.nan, 1.0]), **change}
    found = compare(arrays={name: array for name, array in arrays.items() if array is not None})
    if not numbers:
        assert found == []
        return
    ((n, where, relative),) = found
    assert (n, where) == (numbers, first)
    assert relative == pytest.approx(largest)


def test_the_command_line_says_what_was_compared(
    recorded: results.Run, runs: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cli, "experiment", lambda name: toy.EXPERIMENT)
    assert cli.main(["reproduce", "toy", "--study", "quick", "--workers", "0"]) == 0
    assert capsys.readouterr().out == (
        f"{runs}/toy/quick: reproduced to the bit: 780 numbers, 12 rows of the table and 2 arrays "
        "(seed 0)\n"
    )
    assert cli.main(["reproduce", "toy", "--study", "quikc"]) == 2
    assert "unknown study 'quikc'" in capsys.readouterr().err
    assert cli.main(["reproduce", "toy", "--study", "quick-8b8a2f8a"]) == 1
    assert "run.json is missing" in capsys.readouterr().err
