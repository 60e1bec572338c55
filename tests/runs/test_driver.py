"""The driver at toy size, as it is used: killed, resumed, refused, out of space."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import toy

from plasticity import configuration, lanes
from plasticity.runs import checkpoints, driver, pool, progress, results
from plasticity.runs.budget import Budget, OutOfTime
from plasticity.runs.experiment import Experiment
from plasticity.runs.files import ResultsError
from plasticity.runs.plan import planned, units_of
from plasticity.runs.units import UnitsFailed, _make_room, advance_unit, of_lanes

CHILD = """
import json, sys
import toy
from plasticity import configuration
from plasticity.runs import driver
config = configuration.from_dict(toy.Config, json.loads(sys.argv[1]))
driver.run(toy.EXPERIMENT, config, "quick", checkpoint_seconds=0.0)
"""


def child(config: toy.Config, runs: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a driver of its own process group, with two workers, that checkpoints every chunk."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(configuration.to_dict(config))],
        env={**os.environ, "PLASTICITY_RUNS": str(runs), "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a driver that is expected to succeed."""
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def run_here(config: toy.Config, study: str = "quick", **options: Any) -> results.Run:
    """Run in this process."""
    return driver.run(toy.EXPERIMENT, config, study, workers=0, **options)


def test_records_the_whole_run_with_its_provenance(runs: Path) -> None:
    run = run_here(toy.Config())
    assert len(run.table) == 2 * 2 * 6
    assert set(run.arrays) == {"narrow", "wide"}
    assert run.arrays["wide"].shape == (2, 6, 64)
    assert run.config == configuration.to_dict(toy.Config())
    assert run.provenance["seeds"] == [0, 1]
    assert {"commit", "packages", "device", "code", "world", "began"} <= set(run.provenance)
    assert not list((runs / "toy" / "quick" / "unfinished").glob("*/"))  # nothing left but the lock


def test_equal_seeds_give_equal_bits_and_other_seeds_others(runs: Path) -> None:
    first = run_here(toy.Config())
    again = run_here(toy.Config(), reuse=False)
    other = run_here(dataclasses.replace(toy.Config(), first_seed=1))
    np.testing.assert_array_equal(first.arrays["narrow"], again.arrays["narrow"])
    np.testing.assert_array_equal(first.arrays["narrow"][1], other.arrays["narrow"][0])
    assert not np.array_equal(first.arrays["narrow"][1], other.arrays["narrow"][1])


def test_a_batch_of_seeds_measures_what_single_seeds_do(runs: Path) -> None:
    config, work = toy.Config(), runs / "batched"
    single = run_here(config)
    for unit in units_of(alike(), config, batched=True):
        assert list(advance_unit(toy.EXPERIMENT, config, unit, work, 0.0))[-1] == 6
        measured = of_lanes(unit, checkpoints.UnitFolder(work, *unit).records())
        assert list(measured) == [("narrow", 0), ("narrow", 1), ("wide", 0), ("wide", 1)]
        for (arm, seed), record in measured.items():
            np.testing.assert_allclose(
                record["position"], single.arrays[arm][seed], rtol=1e-5, atol=1e-4
            )


def alike() -> Experiment:
    """The toy, its two arms said to share their programs."""
    return dataclasses.replace(toy.EXPERIMENT, shares=lambda config: config.size)


def test_lanes_in_step_are_killed_and_resumed_to_the_same_bits(runs: Path) -> None:
    config, whole, broken = toy.Config(), runs / "whole", runs / "broken"
    (unit,) = units_of(alike(), config, batched=True)
    list(advance_unit(alike(), config, unit, whole, 0.0))
    for done in advance_unit(alike(), config, unit, broken, 0.0):
        if done == 3:
            break
    assert checkpoints.UnitFolder(broken, *unit).chunks_done() == 3
    list(advance_unit(alike(), config, unit, broken, 0.0))
    found, expected = (checkpoints.UnitFolder(w, *unit).records() for w in (broken, whole))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_unit_that_does_not_fit_is_split_and_stays_so(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With room for three lanes of four: two and two."""
    single, in_step, allows = run_here(toy.Config()), lanes.in_step, Budget.allows
    monkeypatch.setattr(jax, "default_backend", lambda: "an accelerator")
    calls = iter(range(100))
    monkeypatch.setattr(Budget, "allows", lambda budget, compiled: next(calls) < 6)

    def narrow(lanes_: Any) -> Any:
        if len(lanes_) > 3:
            raise lanes.NoRoom(len(lanes_), 3)
        return in_step(lanes_)

    monkeypatch.setattr(lanes, "in_step", narrow)
    with pytest.raises(OutOfTime):
        driver.run(alike(), toy.Config(), "quick", reuse=False)
    assert "goes on in 2 parts" in capsys.readouterr().err
    work = runs / "toy" / "quick" / "unfinished"
    parts = [pool.Unit("narrow", (0, 1)), pool.Unit("wide", (0, 1))]
    assert planned(alike(), toy.Config(), work, batched=True) == parts
    arms = progress.arms(alike(), work)
    assert [arm.chunks for arm in arms] == [6, 6] and 0 < arms[0].chunks_done < 6
    monkeypatch.setattr(Budget, "allows", allows)
    monkeypatch.setattr(
        lanes, "in_step", in_step
    )  # there is more room now, but it goes on as it was
    run = driver.run(alike(), toy.Config(), "quick", reuse=False)
    for arm, array in single.arrays.items():
        np.testing.assert_allclose(run.arrays[arm], array, rtol=1e-5, atol=1e-4)
    assert run.provenance["execution"] == {"processes": "one", "batched": True}
    assert run.provenance["split"] == ["narrow, seeds 0, 1", "wide, seeds 0, 1"]


def test_a_damaged_list_of_parts_is_told(runs: Path) -> None:
    runs.mkdir(exist_ok=True)
    (runs / "split.json").write_text('{"half of')
    with pytest.raises(checkpoints.CheckpointError, match=r"split.json is damaged.*--fresh"):
        planned(toy.EXPERIMENT, toy.Config(), runs, batched=True)


def test_reuses_a_recorded_run_only_if_configuration_and_code_are_the_same(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_here(toy.Config())
    assert "split" not in first.provenance
    assert run_here(toy.Config()).provenance == first.provenance
    assert run_here(toy.Config(), reuse=False).provenance["began"] >= first.provenance["began"]
    monkeypatch.setattr("plasticity.runs.fingerprint.code_digest", lambda experiment: "edited")
    assert run_here(toy.Config()).provenance["code"] == "edited"


def test_overridden_settings_get_a_folder_of_their_own(runs: Path) -> None:
    run_here(toy.Config())
    other = run_here(dataclasses.replace(toy.Config(), scale=2.0))
    assert other.label.startswith("quick-")
    assert results.load("toy", "quick").config["scale"] == 1.0


@pytest.mark.slow
def test_killed_again_and_again_it_resumes_to_the_same_bits(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.Config(chunks=6, seconds_a_chunk=0.1, size=100_000)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    with monkeypatch.context() as patch:
        patch.setenv("PLASTICITY_RUNS", str(tmp_path / "unbroken"))
        unbroken = driver.run(toy.EXPERIMENT, config, "quick", workers=1)
    work = runs / "toy" / results.label(toy.STUDIES, "quick", config) / "unfinished"
    for kill in range(2):
        process, before = child(config, runs), chunks_done(config, work)
        while chunks_done(config, work) < before + 3:
            assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
            time.sleep(0.002)
        time.sleep(0.08 * kill)  # early and late in a chunk, computing and writing
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (work.parent / "run.json").exists()
    finish(child(config, runs))
    resumed = json.loads((work.parent / "run.json").read_text())
    assert resumed["sha256"] == unbroken.provenance["sha256"]
    # of a sitting that was killed the end is not known
    ends = [sitting["ended"] for sitting in resumed["sittings"]]
    assert ends == [None, None, resumed["finished"]]
    assert resumed["began"] == resumed["sittings"][0]["began"] <= resumed["finished"]
    assert len(unbroken.provenance["sittings"]) == 1


ALONE = """
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
import toy
from plasticity.runs import driver

def refuse(*arguments):
    raise AssertionError("a worker is started")

driver.run_in_workers = refuse
run = driver.run(toy.EXPERIMENT, toy.Config(size=100_000), "quick")
print(run.provenance["sha256"], run.provenance["execution"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no process can be pinned here")
def test_on_the_only_core_the_process_does_the_work_itself_with_the_same_bits(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    in_a_worker = driver.run(toy.EXPERIMENT, toy.Config(size=100_000), "quick", workers=1)
    places = {"PLASTICITY_RUNS": str(tmp_path / "alone"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env={**os.environ, **places}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = f"{in_a_worker.provenance['sha256']} {in_a_worker.provenance['execution']}"
    assert done.stdout.strip() == told


def chunks_done(config: toy.Config, work: Path) -> int:
    """Return the chunks behind the newest states of all units."""
    units = units_of(toy.EXPERIMENT, config, batched=False)
    return sum(checkpoints.UnitFolder(work, *unit).chunks_done() for unit in units)


DYING = """
import json, os, sys
import toy
from plasticity.runs import driver

def dying(write, n):
    count = 0
    def half(*arguments, **options):
        nonlocal count
        count += 1
        if count == n:
            if write is replace:
                os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
            os._exit(9)
        return write(*arguments, **options)
    return half

replace, status = os.replace, []
for name, n in json.loads(sys.argv[1]):
    if process := os.fork():  # which has imported all it needs, and begun no threads
        status.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        continue
    setattr(os, name, dying(getattr(os, name), n))
    driver.run(toy.EXPERIMENT, toy.Config(chunks=3), 'quick', workers=0, checkpoint_seconds=0.0)
    os._exit(0)
print(json.dumps(status))
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_a_write_it_resumes_to_the_same_bits(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Die inside each kind of write, at the moment when its temporary file is half written.

    In turn: the header, a record, a state, the arrays and the provenance of the finished run. Each
    attempt resumes what the one before it left.
    """
    config = toy.Config(chunks=3)
    expected = run_here(config, study="laptop").provenance["sha256"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    deaths = (("replace", 1), ("replace", 4), ("rename", 2), ("replace", 11), ("replace", 3))
    process = subprocess.run(
        [sys.executable, "-c", DYING, json.dumps(deaths)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(process.stdout) == [9] * len(deaths), process.stderr  # it did die there
    assert run_here(config).provenance["sha256"] == expected


def interrupt(config: toy.Config, runs: Path, chunks: int) -> Path:
    """Leave an unfinished run of ``config`` whose first unit has ``chunks`` chunks; its folder."""
    work = results.folder("toy", results.label(toy.STUDIES, "quick", config)) / "unfinished"
    steps = iter(range(chunks))

    def stop_after(*arguments: object, **options: object) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tqdm.std.tqdm.update", stop_after)
        with pytest.raises(KeyboardInterrupt):
            run_here(config, checkpoint_seconds=0.0)
    return work


def test_an_unfinished_run_of_another_configuration_or_code_is_not_resumed(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = interrupt(toy.Config(), runs, 3)
    header = json.loads((work / "header.json").read_text())
    header["config"]["scale"] = 3.0
    (work / "header.json").write_text(json.dumps(header))
    with pytest.raises(
        checkpoints.CheckpointError, match=r"another config \(scale: 3.0 → 1.0\).*--fresh"
    ):
        run_here(toy.Config())
    assert run_here(toy.Config(), fresh=True).config["scale"] == 1.0
    interrupt(dataclasses.replace(toy.Config(), scale=4.0), runs, 3)
    monkeypatch.setattr("plasticity.runs.fingerprint.code_digest", lambda experiment: "edited")
    with pytest.raises(checkpoints.CheckpointError, match="another code"):
        run_here(dataclasses.replace(toy.Config(), scale=4.0))


def test_a_kill_while_a_run_is_discarded_leaves_its_header(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of its units must not pass for another run's."""
    work = interrupt(toy.Config(), runs, 3)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("plasticity.runs.driver.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run_here(toy.Config(), fresh=True)
    assert (work / "header.json").exists() and (work / "narrow").exists()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "exchange"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_serves(
    runs: Path, damage: str
) -> None:
    expected = run_here(toy.Config(), study="laptop").provenance["sha256"]
    work = interrupt(toy.Config(), runs, 4)
    state = max((work / "narrow" / "0").glob("state_*"))
    files = [path for path in state.rglob("*") if path.is_file() and path.stat().st_size]
    if damage == "exchange":  # readable, complete, and not the state that belongs here
        shutil.rmtree(state)
        shutil.copytree(min(state.parent.glob("state_*")), state)
        files = []
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        if damage == "remove":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2] if damage == "truncate" else content)
    with pytest.raises(UnitsFailed, match=r"is damaged.*checkpoint before it"):
        run_here(toy.Config())
    shutil.rmtree(state)
    assert run_here(toy.Config()).provenance["sha256"] == expected


def test_records_of_a_kill_before_their_state_are_not_counted_twice(runs: Path) -> None:
    """The next attempt may put them into one file with those of later chunks."""
    config, work = toy.Config(seeds=1), runs / "work"
    unit = pool.Unit("narrow", (0,))
    whole = [*advance_unit(toy.EXPERIMENT, config, unit, runs / "whole", 0.0)]
    broken = advance_unit(toy.EXPERIMENT, config, unit, work, 0.0)
    while next(broken) < 3:
        pass
    broken.close()
    folder = checkpoints.UnitFolder(work, *unit)
    shutil.rmtree(work / "narrow" / "0" / "state_000003")  # as if it had not been written yet
    assert folder.chunks_done() == 2
    again = [*advance_unit(toy.EXPERIMENT, config, unit, work, 3_600.0)]
    assert (whole[-1], again[0], again[-1]) == (6, 2, 6)
    found, wanted = folder.records(), checkpoints.UnitFolder(runs / "whole", *unit).records()
    np.testing.assert_array_equal(found["position"], wanted["position"])


def test_a_damaged_record_costs_its_unit_and_no_other(runs: Path) -> None:
    expected = run_here(toy.Config(), study="laptop").provenance["sha256"]
    work = interrupt(toy.Config(), runs, 8)
    record = min((work / "narrow" / "0").glob("records_*.npz"))
    record.write_bytes(record.read_bytes()[:-40])
    with pytest.raises(checkpoints.CheckpointError, match="only this unit starts over"):
        run_here(toy.Config())
    shutil.rmtree(work / "narrow" / "0")
    assert run_here(toy.Config()).provenance["sha256"] == expected


def test_two_drivers_do_not_share_a_folder(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with (
        checkpoints.locked(runs / "toy" / "quick" / "unfinished"),
        pytest.raises(checkpoints.CheckpointError, match="in use by another process"),
    ):
        run_here(toy.Config())


def test_an_unwritable_folder_is_named(runs: Path) -> None:
    runs.write_text("a file where the folder should be")
    with pytest.raises(ResultsError, match=r"cannot write .*PLASTICITY_RUNS"):
        run_here(toy.Config())


@pytest.mark.parametrize("limit", [3_000, 40_000])
def test_a_full_disk_is_named_and_nothing_is_lost(runs: Path, limit: int) -> None:
    """A limit on file size stands in for the full disk; the second lets a few writes through."""
    expected = run_here(toy.Config(), study="laptop").provenance["sha256"]
    config = dataclasses.replace(toy.Config(), size=64)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(ResultsError, match="Free space"):
            run_here(dataclasses.replace(config, size=60_000), checkpoint_seconds=0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run_here(config).provenance["sha256"] == expected
    assert len(run_here(dataclasses.replace(config, size=60_000)).arrays) == 2


@pytest.mark.slow
def test_one_failed_arm_does_not_spoil_the_others(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.Config(fail_arm="wide", chunks=2)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    with pytest.raises(UnitsFailed, match=r"(?s)2 of 4 units failed.*told to fail"):
        driver.run(toy.EXPERIMENT, config, "quick")
    work = results.folder("toy", results.label(toy.STUDIES, "quick", config)) / "unfinished"
    assert checkpoints.UnitFolder(work, "narrow", (1,)).chunks_done() == 2
    monkeypatch.setenv("TOY_MENDED", "1")
    assert driver.run(toy.EXPERIMENT, config, "quick").arrays["wide"].shape == (2, 2, 64)


def test_an_edited_result_is_not_believed(runs: Path) -> None:
    run_here(toy.Config())
    path = runs / "toy" / "quick" / "results.csv"
    path.write_text(path.read_text().replace("narrow", "Narrow"))
    with pytest.raises(ResultsError, match=r"results.csv is not what the run wrote"):
        results.load("toy", "quick")


def test_an_empty_selection_is_an_error(runs: Path) -> None:
    run = run_here(toy.Config())
    assert len(run.select(arm="wide", seed=1)) == 6
    with pytest.raises(KeyError, match="narrow"):
        run.select(arm="wiide")


def test_workers_keep_to_an_arm_that_they_have_compiled() -> None:
    parts = [pool.Unit(arm, (seed,)) for arm in "abc" for seed in range(3)]
    waiting = pool.Waiting(parts, {arm: arm for arm in "abc"})
    first, second = waiting.take(None), waiting.take(None)
    assert first is not None and second is not None
    assert (first.arm, second.arm) == ("a", "b")
    for expected, arm in zip("aabbcccx", "aabbaccc", strict=True):
        unit = waiting.take(arm)
        assert (unit.arm if unit else "x") == expected
    assert waiting.take("a") is None


def test_a_worker_takes_arms_that_share_programs_before_others() -> None:
    parts = [pool.Unit(arm, (0,)) for arm in "abcd"]
    waiting = pool.Waiting(parts, {"a": "mlp", "b": "cnn", "c": "mlp", "d": "cnn"})
    assert [waiting.take(None), waiting.take(None)] == parts[:2]  # each a network of its own
    assert waiting.take("b") == parts[3] and waiting.take("a") == parts[2]


def test_arms_that_share_programs_come_one_after_another() -> None:
    changes = {"a": {}, "b": {"scale": 2.0}, "c": {"chunks": 9}, "d": {"scale": 2.0, "chunks": 9}}
    many = dataclasses.replace(
        toy.EXPERIMENT, arms=lambda config: changes, shares=lambda config: config.scale
    )
    single, batched = (units_of(many, toy.Config(seeds=2), batched=way) for way in (False, True))
    assert single == [pool.Unit(arm, (seed,)) for arm in "acbd" for seed in (0, 1)]
    # In step only those that have as many chunks.
    assert batched == [pool.Unit(arm, (0, 1)) for arm in "acbd"]
    as_many = dataclasses.replace(many, chunks=lambda config: 6)
    found = units_of(as_many, toy.Config(seeds=2), batched=True)
    assert found == [pool.Unit("a", (0, 1), ("c",)), pool.Unit("b", (0, 1), ("d",))]
    unlike = dataclasses.replace(many, shares=toy.EXPERIMENT.shares)  # each by itself
    assert [unit.arm for unit in units_of(unlike, toy.Config(), batched=True)] == [*"abcd"]


def test_compiled_programs_go_before_memory_mappings_run_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = jax.jit(lambda x: x + 1)
    program(1.0)
    monkeypatch.setattr("plasticity.runs.units.MAPPINGS", 10**9)  # other tests may have used many
    _make_room()
    assert program._cache_size() == 1  # type: ignore[attr-defined]
    monkeypatch.setattr("plasticity.runs.units.MAPPINGS", 10)
    _make_room()
    assert program._cache_size() == 0  # type: ignore[attr-defined]


def test_a_worker_helps_with_the_last_arm() -> None:
    parts = [pool.Unit("a", (seed,)) for seed in range(2)]
    waiting = pool.Waiting(parts, {"a": "network", "other": "another network"})
    assert waiting.take(None) is not None
    assert waiting.take("other") == pool.Unit("a", (1,))


def test_an_experiment_says_how_often_it_is_checkpointed(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = checkpoints.UnitFolder.save

    def count(folder: checkpoints.UnitFolder, chunk: int, *rest: Any) -> None:
        saved.append(chunk)
        save(folder, chunk, *rest)

    monkeypatch.setattr(checkpoints.UnitFolder, "save", count)
    driver.run(toy.EXPERIMENT, toy.Config(seeds=1), "quick", workers=0)
    assert saved == [6, 6]  # each arm ends before its first checkpoint is due
    often = dataclasses.replace(toy.EXPERIMENT, checkpoint_seconds=0.0)
    driver.run(often, toy.Config(seeds=1, scale=2.0), "quick", workers=0)
    assert saved[2:] == [1, 2, 3, 4, 5, 6] * 2
