"""Costs of a toy experiment, whose work is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import toy

from plasticity import configuration
from plasticity.runs import checkpoints, child, cost
from plasticity.runs.results import Run

RATE = cost.Rate(operations=64.0, seconds=1.0, chunks=3, arm="narrow", study="quick")


@pytest.mark.parametrize(
    ("durations", "devices", "expected"),
    [
        ([5.0, 5.0, 5.0], 1, 15.0),
        ([5.0, 5.0, 5.0], 2, 10.0),
        ([5.0, 5.0, 5.0], 64, 5.0),  # one unit cannot be shared
        ([1.0, 4.0, 2.0, 3.0], 2, 5.0),  # 4 + 1 and 3 + 2
    ],
)
def test_wall_time_by_hand(durations: list[float], devices: int, expected: float) -> None:
    assert cost.makespan(durations, devices) == expected


def test_nothing_runs_on_no_device() -> None:
    with pytest.raises(ValueError, match="devices = 0"):
        cost.makespan([1.0], 0)


def test_shares_are_counted() -> None:
    config = toy.Config(chunks=12, seeds=3)
    (share,) = cost.estimate(toy.EXPERIMENT, config, RATE).values()
    assert share.units == 6  # two arms on three seeds
    assert share.seconds == 6 * 12  # 64 operations a chunk at 64 a second
    assert share.wall == {1: 72.0, 8: 12.0, 64: 12.0}
    assert share.checkpoint_bytes == 6 * checkpoints.KEPT * (2 * 64 * 4 + 8)  # a key is 8 bytes
    assert share.result_bytes == 6 * 12 * 65 * 4


def test_compiling_counts_once_for_arms_that_share_programs() -> None:
    config, rate = toy.Config(chunks=12, seeds=3), RATE._replace(compiling=5.0)
    (share,) = cost.estimate(toy.EXPERIMENT, config, rate).values()
    assert (share.compiling, share.seconds) == (2 * 5, 6 * 12)
    alike = dataclasses.replace(toy.EXPERIMENT, shares=lambda config: config.size)
    shares = cost.estimate(alike, config, rate)
    assert shares["all"].compiling == 5
    assert cost.table(shares, "core").compiling.tolist() == ["0.00 h"]
    new = dataclasses.replace(alike, sample=lambda config: dataclasses.replace(config, size=13))
    assert cost.measure(new, toy.Config(), seconds=1e-9).compiling > 0


def test_figures_need_what_they_say() -> None:
    def figures(config: toy.Config) -> dict[str, tuple[list[str], int]]:
        return {"Fig. 1": (["narrow", "wide"], config.seeds), "Fig. 2": (["wide"], 1)}

    drawn = dataclasses.replace(toy.EXPERIMENT, figures=figures)
    shares = cost.estimate(drawn, toy.Config(seeds=2), RATE)
    assert {name: share.units for name, share in shares.items()} == {"Fig. 1": 4, "Fig. 2": 1}
    text = cost.describe("toy", "paper", toy.Config(seeds=2), RATE, shares)
    assert "Fig. 2" in text and "core-hours" in text and "days on 64" in text


def test_a_recorded_run_says_how_fast_it_was() -> None:
    config = toy.Config(size=8, chunks=4, seeds=3)
    provenance = {"compute_seconds": 2.0, "config": configuration.to_dict(config)}
    run = Run("toy", "laptop", pd.DataFrame(), {}, provenance)
    found = cost.of_run(toy.EXPERIMENT, run)
    assert found.operations == 2 * 3 * 8 * 4 / 2.0  # arms, seeds, size, chunks a second
    assert (found.seconds, found.chunks, found.study) == (2.0, 2 * 3 * 4, "laptop")
    (share,) = cost.estimate(toy.EXPERIMENT, config, found).values()
    np.testing.assert_allclose(share.seconds, 2.0)  # what it took
    told = dataclasses.replace(run, provenance=provenance | {"compile_seconds": 0.5})
    found = cost.of_run(toy.EXPERIMENT, told)
    assert found.seconds == 1.5 and found.compiling == 0.5 / 2  # for each of two arms
    assert found.operations == 2 * 3 * 8 * 4 / 1.5


def test_a_sample_is_timed_where_there_is_one() -> None:
    plain = cost.measure(toy.EXPERIMENT, toy.Config(scale=2.0), seconds=1e-9)
    assert (plain.study, plain.arm, plain.chunks) == ("quick", "narrow", 1)

    def sample(config: toy.Config) -> toy.Config:
        return dataclasses.replace(config, size=8, chunks=5)

    sampled = dataclasses.replace(toy.EXPERIMENT, sample=sample)
    found = cost.measure(sampled, toy.Config(scale=2.0), seconds=1e9)
    assert (found.study, found.chunks) == ("sample", 3)  # all but the first two, which compile
    np.testing.assert_allclose(found.operations * found.seconds, 8 * 3)


def test_a_process_of_its_own_answers_the_same() -> None:
    found = cost.measure_on_a_core(toy.EXPERIMENT, toy.Config(size=16), seconds=1e-9)
    assert found.operations > 0
    assert (found.study, found.arm, found.chunks) == ("quick", "narrow", 1)


def test_what_is_timed_has_the_settings_of_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of 64 bits take longer."""

    def start(function: str, job: Any, **options: Any) -> Any:
        raise LookupError(options["environment"]["JAX_ENABLE_X64"])

    monkeypatch.setattr(child, "start", start)
    with jax.enable_x64(True), pytest.raises(LookupError, match="True"):
        cost.measure_on_a_core(toy.EXPERIMENT, toy.Config(), seconds=1e-9)


def test_a_process_that_fails_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    lost = dataclasses.replace(toy.EXPERIMENT, module="no_such_module")
    with pytest.raises(RuntimeError, match="died"):
        cost.measure_on_a_core(lost, toy.Config(), seconds=1e-9)
    assert "no_such_module" in capfd.readouterr().err
