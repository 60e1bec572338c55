"""A run is one of its settings of JAX, data and threads: it notes them, and none are mixed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from plasticity import cli, jax_settings
from plasticity.runs import (
    checkpoints,
    driver,
    freshness,
    jobs,
    pool,
    reproduction,
    results,
    sitting,
    units,
)

WIDE = r"jax_enable_x64: False → True"
PLAIN = r"jax_enable_x64: True → False"
FLAGS = "--xla_cpu_multi_thread_eigen=false"
"""Flags that nobody reads: this process has read its own."""


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables are set that a run would note, whatever those of the tests are."""
    jax.block_until_ready(jnp.zeros(1) + 1)  # by now XLA has read its flags, which it does once
    for name in (*jax_settings.VARIABLES, *jax_settings.THREADS):
        monkeypatch.delenv(name, raising=False)


def run_here(config: toy.Config | None = None, study: str = "quick", **options: Any) -> results.Run:
    """Run in this process."""
    return driver.run(toy.EXPERIMENT, config or toy.Config(), study, workers=0, **options)


def stored(runs: Path, name: str = "quick/run.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((runs / "toy" / name).read_text())
    return found


def amend(runs: Path, change: Any, name: str = "quick/run.json") -> None:
    """Edit what is stored, as an older version or another process might have written it."""
    document = stored(runs, name)
    change(document)
    (runs / "toy" / name).write_text(json.dumps(document))


def interrupt() -> Path:
    """Leave a run after three chunks; return its work folder."""
    steps = iter(range(3))

    def stop(*arguments: object, **options: object) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tqdm.std.tqdm.update", stop)
        with pytest.raises(KeyboardInterrupt):
            run_here(checkpoint_seconds=0.0)
    return results.folder("toy", "quick") / "unfinished"


def test_a_run_notes_the_settings_that_are_not_jaxs_own(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", f" {FLAGS} ")
    with jax.enable_x64(True), jax.threefry_partitionable(False):
        run = run_here()
    noted = {"jax_enable_x64": True, "jax_threefry_partitionable": False, "XLA_FLAGS": FLAGS}
    assert stored(runs)["jax_settings"] == noted
    assert run.describe().endswith(" · jax_enable_x64=True · jax_threefry_partitionable=False")
    monkeypatch.delenv("XLA_FLAGS")
    assert run_here(dataclasses.replace(toy.Config(), scale=2.0)).provenance["jax_settings"] == {}


def test_an_unfinished_run_goes_on_under_its_own_settings_only(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_here(study="laptop").provenance["sha256"]
    work = interrupt()
    with (
        jax.enable_x64(True),
        pytest.raises(checkpoints.CheckpointError, match=rf"another environment \({WIDE}\)"),
    ):
        run_here()
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", FLAGS)
        with pytest.raises(checkpoints.CheckpointError, match=rf"\(XLA_FLAGS: '' → '{FLAGS}'\)"):
            run_here()
    assert checkpoints.UnitFolder(work, "narrow", (0,)).chunks_done() == 3
    assert run_here().provenance["sha256"] == expected


def test_a_run_that_an_older_version_began_goes_on(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header has neither variables nor the hash of its world; settings are JAX's own."""
    expected = run_here(study="laptop").provenance["sha256"]
    interrupt()
    amend(runs, lambda header: header.pop("world"), "quick/unfinished/header.json")
    monkeypatch.setenv("NPROC", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with jax.enable_x64(True), pytest.raises(checkpoints.CheckpointError, match=rf"\({WIDE}\)"):
        run_here()
    assert run_here().provenance["sha256"] == expected


def test_an_unfinished_run_goes_on_with_its_own_data_only(runs: Path) -> None:
    interrupt()
    other = dataclasses.replace(
        toy.EXPERIMENT, load=lambda config: (1 + toy.load(config)[0], toy.load(config)[1])
    )
    with pytest.raises(checkpoints.CheckpointError, match=r"another world \(\w{64} → \w{64}\)"):
        driver.run(other, toy.Config(), "quick", workers=0)


def test_one_unit_is_refused_under_other_settings_than_another_had(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")  # in this process
    jobs.run_unit(toy.EXPERIMENT, toy.Config(), "quick", "narrow", 0)
    with (
        jax.enable_x64(True),
        pytest.raises(checkpoints.CheckpointError, match=rf"another environment \({WIDE}\)"),
    ):
        jobs.run_unit(toy.EXPERIMENT, toy.Config(), "quick", "narrow", 1)


def test_a_recorded_run_of_another_program_is_neither_reused_nor_replaced(runs: Path) -> None:
    first = run_here()
    with jax.enable_x64(True):
        for ask in (run_here, lambda: jobs.unfinished(toy.EXPERIMENT, toy.Config(), "quick")):
            with pytest.raises(checkpoints.CheckpointError, match=rf"{WIDE}.*--fresh"):
                ask()
        assert stored(runs)["sha256"] == first.provenance["sha256"]
        wide = run_here(fresh=True)
        assert wide.provenance["sha256"] != first.provenance["sha256"]
        assert run_here().provenance == wide.provenance
    with pytest.raises(checkpoints.CheckpointError, match=PLAIN):
        run_here()


def test_a_recorded_run_that_rounds_otherwise_is_reused_and_it_is_said(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one of another device is."""
    monkeypatch.setattr(cli, "experiment", lambda name: toy.EXPERIMENT)
    first = run_here()
    again = ["run", "toy", "--study", "quick", "--workers", "0"]
    assert cli.main(again) == 0
    assert "may round otherwise" not in capsys.readouterr().out
    monkeypatch.setenv("XLA_FLAGS", FLAGS)
    assert cli.main(again) == 0
    assert f"that may round otherwise: XLA_FLAGS: '' → '{FLAGS}'" in capsys.readouterr().out
    assert stored(runs) == first.provenance


def test_a_run_from_before_settings_were_noted_is_one_of_jaxs_own(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(study="laptop", config=toy.STUDIES["laptop"])
    amend(runs, lambda document: document.pop("jax_settings"), "laptop/run.json")
    monkeypatch.setenv("XLA_FLAGS", FLAGS)
    again = driver.run(toy.EXPERIMENT, toy.STUDIES["laptop"], "laptop", workers=0)
    assert "jax_settings" not in again.provenance  # it was reused
    assert freshness.prove(toy.EXPERIMENT, "laptop").provenance["proofs"]
    with jax.enable_x64(True):
        with pytest.raises(checkpoints.CheckpointError, match=WIDE):
            driver.run(toy.EXPERIMENT, toy.STUDIES["laptop"], "laptop", workers=0)
        with pytest.raises(reproduction.NotReproduced, match=rf"{WIDE}.*Nothing was run"):
            reproduction.reproduce(toy.EXPERIMENT, "laptop", workers=0)
        with pytest.raises(freshness.NotProved, match=rf"{WIDE}.*nothing was traced"):
            freshness.prove(toy.EXPERIMENT, "laptop")


def test_a_run_is_reproduced_and_proved_under_its_own_settings(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with jax.enable_x64(True):
        run_here(toy.STUDIES["laptop"], "laptop")
    for failing, error in (
        (lambda: freshness.prove(toy.EXPERIMENT, "laptop"), freshness.NotProved),
        (
            lambda: reproduction.reproduce(toy.EXPERIMENT, "laptop", workers=0),
            reproduction.NotReproduced,
        ),
    ):
        with pytest.raises(error, match=PLAIN):
            failing()
    with jax.enable_x64(True):
        assert freshness.prove(toy.EXPERIMENT, "laptop").provenance["proofs"]
        found = reproduction.reproduce(toy.EXPERIMENT, "laptop", workers=0)
    assert found.run.provenance["proofs"][-1]["jax_settings"]["jax_enable_x64"] is True
    assert found.run.provenance["programs"]["traced_by"]["jax_enable_x64"] is True


def test_other_flags_are_named_where_numbers_differ(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(config: toy.Config) -> Any:
        return jnp.zeros(config.size), toy.load(config)[1]

    run_here()
    monkeypatch.setenv("XLA_FLAGS", FLAGS)
    other = dataclasses.replace(toy.EXPERIMENT, load=load)
    with pytest.raises(reproduction.NotReproduced, match=rf"XLA_FLAGS: '.*' → '{FLAGS}'"):
        reproduction.reproduce(other, "quick", workers=0)
    amend(runs, lambda document: document.pop("jax_settings"))
    with pytest.raises(reproduction.NotReproduced, match=rf"XLA_FLAGS: 'not noted' → '{FLAGS}'"):
        reproduction.reproduce(other, "quick", workers=0)


@pytest.mark.parametrize("begin", [run_here, interrupt])
def test_a_sitting_under_other_settings_is_not_merged(
    begin: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what it began with what was begun here, nor what it recorded over what is here."""
    monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / "away"))
    with jax.enable_x64(True):
        begin()
    sitting.pack(tmp_path / "out")
    monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / "home"))
    begin()
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(sitting.NotMerged, match=WIDE):
        sitting.merge(tmp_path / "out")
    assert {path: path.read_bytes() for path in files} == before


def test_data_are_loaded_anew_under_other_settings() -> None:
    def load(config: toy.Config) -> Any:
        return jnp.arange(3.0) / 3, {}

    other = dataclasses.replace(toy.EXPERIMENT, load=load)
    kinds = []
    for wide in (False, True, False):
        with jax.enable_x64(wide):
            kinds.append(str(units.load(other, toy.Config())[0].dtype))
    assert kinds == ["float32", "float64", "float32"]


def test_threads_are_noted_where_they_are_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(pool, "usable_cores", lambda: [0, 1])

    def execution(in_workers: bool) -> Any:
        environment = driver.origin.environment()
        header = driver.make_header(toy.EXPERIMENT, toy.Config(), environment, in_workers, False)
        return header["execution"]

    usual = {"processes": "one", "batched": False}
    assert execution(in_workers=False) == usual
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(pool, "usable_cores", lambda: [1])
    assert execution(in_workers=False) == usual | {"OMP_NUM_THREADS": "1", "usable_cores": 1}
    assert execution(in_workers=True) == {"processes": "one a core", "batched": False}
    monkeypatch.setattr(pool, "usable_cores", lambda: [None, None])  # workers cannot be pinned
    assert execution(in_workers=True)["OMP_NUM_THREADS"] == "1"


@pytest.mark.slow
def test_workers_compute_under_the_settings_of_the_driver(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if these are no variables of the environment, or if that has others."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.setenv("JAX_THREEFRY_PARTITIONABLE", "1")
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # which is not this process's
    with jax.enable_x64(True), jax.threefry_partitionable(False):
        found = driver.run(toy.EXPERIMENT, toy.Config(), "quick", workers=1)
        expected = run_here(reuse=False)
    assert found.provenance["execution"]["processes"] == "one a core"
    assert found.arrays["wide"].dtype == np.float64
    for arm, array in expected.arrays.items():
        np.testing.assert_allclose(found.arrays[arm], array, rtol=1e-12, atol=1e-12)


UNIT = (
    "optimizer_instability --study quick --seeds 1 --set width=8 --set n_images=50 "
    "--set batch_size=8 --set steps_per_period=200 --set window=50 --set periods=2 "
    "--set accuracy_sample=50"
)


def command(runs: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "plasticity.cli", *words],
        env={**os.environ, "PLASTICITY_RUNS": str(runs), **variables},
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_of_one_run_have_the_same_settings(runs: Path) -> None:
    unit = ("unit", *UNIT.split(), "--arm", "default", "--seed", "0")
    assert command(runs, *unit).returncode == 0
    wide = command(runs, *unit[:-4], "--arm", "tuned", "--seed", "0", JAX_ENABLE_X64="1")
    assert wide.returncode == 1
    assert f"with another environment ({WIDE})" in wide.stderr
    assert "Traceback" not in wide.stderr
    fresh = command(runs / "wide", "run", *UNIT.split(), JAX_ENABLE_X64="1")
    assert fresh.returncode == 0, fresh.stderr
    assert "jax_enable_x64=True" in fresh.stdout
    (path,) = (runs / "wide").glob("*/*/run.json")
    noted = json.loads(path.read_text())["jax_settings"]
    assert jax_settings.program(noted) == {"jax_enable_x64": True}
