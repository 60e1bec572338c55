"""Recorded runs stay fresh through changes that change no number, and only through those."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import toy

from plasticity import cli, configuration, devices
from plasticity.runs import driver, freshness, results, units
from plasticity.worlds import atari, atari_callback


@pytest.fixture
def recorded(runs: Path) -> results.Run:
    """A run of the toy at a study that is worth recording."""
    config = toy.Config(chunks=2, size=4, seeds=1)
    return driver.run(toy.EXPERIMENT, config, "laptop", workers=0)


@pytest.fixture
def edited(recorded: results.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other code than what made the run; what it computes is up to the test."""
    monkeypatch.setattr("plasticity.runs.fingerprint.code_digest", lambda experiment: "edited")


def test_a_run_is_fresh_if_this_code_ran_it_or_was_proved(
    recorded: results.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert freshness.is_fresh(recorded.provenance, toy.EXPERIMENT)
    other = {"code": "other"}
    code = recorded.provenance["code"]
    assert not freshness.is_fresh(other, toy.EXPERIMENT)
    for by in ("programs", "reproduction"):
        proved = {**other, "proofs": [{"code": "older", "by": "?"}, {"code": code, "by": by}]}
        assert freshness.proof(proved, code) == by
        assert freshness.is_fresh(proved, toy.EXPERIMENT)
    assert freshness.proof({"code": code, "proofs": [other]}, code) == "digest"
    assert not freshness.is_fresh(
        {**other, "proofs": [{**other, "by": "programs"}]}, toy.EXPERIMENT
    )


@pytest.mark.usefixtures("edited")
def test_the_same_programs_are_a_proof_and_it_is_noted(recorded: results.Run) -> None:
    assert not freshness.is_fresh(recorded.provenance, toy.EXPERIMENT)
    proved = freshness.prove(toy.EXPERIMENT, recorded.label)
    assert freshness.is_fresh(proved.provenance, toy.EXPERIMENT)
    (entry,) = proved.provenance["proofs"]
    assert set(entry) == {
        "by", "code", "commit", "uncommitted_source", "packages", "arms", "date"
    }  # fmt: skip
    assert (entry["by"], entry["code"], entry["arms"]) == ("programs", "edited", 2)
    assert {**proved.provenance, "proofs": None} == {**recorded.provenance, "proofs": None}


@pytest.mark.usefixtures("edited")
def test_a_new_field_with_a_default_is_proved_by_programs(recorded: results.Run) -> None:
    wider = dataclasses.make_dataclass(
        "Config", [("drag", float, 0.0)], bases=(toy.Config,), frozen=True
    )
    grown = dataclasses.replace(toy.EXPERIMENT, Config=wider)
    assert freshness.is_fresh(freshness.prove(grown, recorded.label).provenance, grown)


@pytest.mark.usefixtures("edited")
def test_other_programs_are_no_proof_and_their_arms_are_named(recorded: results.Run) -> None:
    def faster(config: toy.Config, world: Any, state: Any, chunk: Any) -> Any:
        state, record = toy.advance(config, world, state, chunk)
        return state, record | {
            "mean": 1.5 * record["mean"] if config.scale > 1 else record["mean"]
        }

    with pytest.raises(
        freshness.NotProved,
        match=rf"toy/{recorded.label}: 1 of 2 arms have other programs: wide\. nothing was written"
        rf".*`plasticity reproduce toy --study {recorded.label}`",
    ):
        freshness.prove(dataclasses.replace(toy.EXPERIMENT, advance=faster), recorded.label)
    assert "proofs" not in results.load("toy", recorded.label).provenance


@pytest.mark.usefixtures("edited")
def test_another_table_of_the_same_records_is_no_proof(recorded: results.Run) -> None:
    def rounded(config: toy.Config, records: Any) -> Any:
        table, arrays = toy.summarize(config, records)
        return table.assign(value=table.value.round(3)), arrays

    with pytest.raises(freshness.NotProved, match="summarize makes another table"):
        freshness.prove(dataclasses.replace(toy.EXPERIMENT, summarize=rounded), recorded.label)


@pytest.mark.usefixtures("edited")
def test_fewer_chunks_are_no_proof(recorded: results.Run) -> None:
    shorter = dataclasses.replace(toy.EXPERIMENT, chunks=lambda config: config.chunks - 1)
    with pytest.raises(freshness.NotProved, match="2 of 2 arms"):
        freshness.prove(shorter, recorded.label)


def test_a_run_without_programs_says_what_else_would_prove_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = driver.run(toy.EXPERIMENT, toy.Config(chunks=1, size=4, seeds=1), "quick", workers=0)
    assert "programs" not in quick.provenance  # it is never committed
    monkeypatch.setattr("plasticity.runs.fingerprint.code_digest", lambda experiment: "edited")
    with pytest.raises(freshness.NotProved, match=r"no programs stored.*plasticity reproduce toy"):
        freshness.prove(toy.EXPERIMENT, quick.label)


def test_an_accelerators_run_is_recorded_without_programs_and_gets_them_elsewhere(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Traced as for that accelerator, by the same code; only then can later code be compared."""
    seen: list[bool] = []

    def start(*given: Any) -> Any:
        seen.append(devices.is_cpu())
        return toy.EXPERIMENT.start(*given)

    experiment = dataclasses.replace(toy.EXPERIMENT, start=start)
    monkeypatch.setattr(cli, "experiment", lambda name: experiment)
    config = toy.Config(chunks=1, size=4)
    with devices.as_if("gpu"):
        run = driver.run(experiment, config, "laptop", workers=0)
    assert "programs" not in run.provenance
    device = {**run.provenance["device"], "platform": "gpu"}
    results.amend(run, lambda _: {"device": device})
    seen.clear()
    assert cli.main(["prove", "toy", "--study", run.label]) == 0
    assert "this code made it; its programs are stored" in capsys.readouterr().out
    found = results.load("toy", run.label).provenance
    assert found["programs"]["traced_by"]["platform"] == "gpu" and not any(seen)
    assert "proofs" not in found
    monkeypatch.setattr("plasticity.runs.fingerprint.code_digest", lambda experiment: "edited")
    assert cli.main(["prove", "toy", "--study", run.label]) == 0
    assert "the same programs in all 2 arms" in capsys.readouterr().out
    assert not any(seen)


def test_what_a_program_calls_on_the_host_is_hashed_with_what_it_is_bound_to() -> None:
    def hashed(game: str) -> str:
        emulators = atari_callback.Emulators(game, 1, atari.Preprocessing())
        closed = jax.make_jaxpr(emulators.reset)(np.zeros(1, np.int32))
        (call,) = closed.jaxpr.eqns
        inner = call.params["call"].jaxpr.eqns
        (host,) = (eqn for eqn in inner if eqn.primitive.name == "io_callback")
        return freshness._of_callback(host.params["callback"])

    assert hashed("pong") == hashed("pong") != hashed("breakout")


@pytest.mark.parametrize("name", cli.experiment_names())
def test_an_experiment_knows_the_shapes_of_its_world(name: str) -> None:
    """Without loading: `plasticity.runs.freshness` traces programs from them."""
    experiment = cli.experiment(name)
    config = experiment.studies["quick"]
    world, _ = units.load(experiment, config)
    have = {(x.shape, x.dtype) for x in jax.tree.leaves(world)}
    for arm in experiment.arms(config):
        chosen = experiment.arm(config, arm)
        assert {(x.shape, x.dtype) for x in jax.tree.leaves(experiment.shapes(chosen))} <= have


def test_the_command_proves_a_run(recorded: results.Run, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(cli, "experiment", lambda name: toy.EXPERIMENT)
    assert cli.main(["prove", "toy", "--study", recorded.label]) == 0
    assert "the same programs in all 2 arms" in capsys.readouterr().out
    assert configuration.from_dict(toy.Config, recorded.config).size == 4
