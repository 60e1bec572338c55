"""What reports say of made-up tables; their pages are executed by the book's own build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import toy

from plasticity import report, results
from plasticity.statistics import Interval


def stability(rows: list[tuple[str, str, float, float, float]]) -> pd.DataFrame:
    """A table as `statistics.sign_stability` makes it, one stratum after the other."""
    table = pd.DataFrame(rows, columns=["statistic", "adjustment", "spearman", "low", "high"])
    stratum = table.groupby(["statistic", "adjustment"]).cumcount()
    return table.assign(variant="v" + stratum.astype(str), dataset="d", architecture="a")


TURNS = [("norm", "pooled", 0.8, 0.5, 0.9), ("norm", "pooled", -0.6, -0.8, -0.1)]
KEEPS = [("some_rank", "pooled", -0.8, -0.9, -0.5), ("some_rank", "pooled", 0.1, -0.3, 0.4)]
NOTHING = [("units", "pooled", 0.2, -0.3, 0.5), ("units", "pooled", -0.2, -0.5, 0.3)]
WITHIN = [(name, "within", -0.1, -0.4, 0.2) for name in ("norm", "norm", "some_rank", "some_rank")]


def test_names_of_the_code_are_made_readable() -> None:
    found = report.readable("true_label", "cifar10_train", "cnn", "dead_units")
    assert found == "true-label · CIFAR-10 · CNN · dead units"


def test_a_statistic_clear_of_zero_on_one_side_only_is_named() -> None:
    said = report.one_sided(stability(TURNS + KEEPS + NOTHING + WITHIN))
    assert said == (
        "Pooled over settings, clear of zero on one side only: **some rank** "
        "(negative in 1 of 2 strata)."
    )
    assert report.one_sided(stability(WITHIN), "within").startswith("Within settings, no statistic")


def test_the_sign_table_counts_clear_strata() -> None:
    table = report.sign_table(stability(TURNS + NOTHING)).set_index("statistic")
    counts = table[["strata", "clearly positive", "clearly negative"]].to_numpy().tolist()
    assert counts == [[2, 1, 1], [2, 0, 0]]
    assert table.loc["norm", ["lowest", "highest", "mean size"]].tolist() == [
        "-0.60",
        "0.80",
        "0.70",
    ]


def test_pooling_compares_sizes_clear_intervals_and_signs() -> None:
    within = [("norm", "within", -0.2, -0.5, 0.2), ("norm", "within", -0.1, -0.4, 0.3)]
    said = report.pooling(stability(TURNS + within))
    assert "Over 2 combinations" in said
    assert "**0.70** pooled" in said and "**0.15** within" in said
    assert "2 are clear of zero pooled, 0 within" in said
    assert "In 1 of them the sign turns" in said


def test_a_ratio_with_probes_that_never_got_there_is_a_bound() -> None:
    interval = Interval(2.0, 1.5, 2.5, 3)
    rows = [
        {
            "variant": "true_label", "dataset": "mnist_5k", "architecture": "mlp", "setting": "s",
            "slower": interval, "never": never, "end": interval, "fall": interval,
            "rougher": interval, "status": "supported",
        }
        for never in (0.0, 0.2)
    ]  # fmt: skip
    table = report.curve_table(pd.DataFrame(rows))
    assert table["steps to half, last / first"].tolist() == [
        "2.00 [1.50, 2.50]",
        "≥ 2.00 [1.50, 2.50]",
    ]
    assert table.network.tolist() == ["true-label · MNIST · MLP"] * 2


def test_the_nearest_setting_comes_first() -> None:
    said = report.nearest(pd.Series({"b": 0.1, "a": 0.25, "c": 0.3}))
    assert "**b**, whose root mean square distance from them is 0.10" in said
    assert said.endswith("(the others: a: 0.25; c: 0.30).")


def walks() -> pd.DataFrame:
    """What an agent and three walks beside it did, made up."""
    rows = [
        ("agent", 0.2, (20.0, 18.0, 22.0)),
        ("walk", 0.01, (1.0, 0.9, 1.1)),
        ("walk_x10", 0.1, (1.5, 1.2, 1.8)),
        ("walk_x100", 1.0, (0.5, 0.4, 0.6)),
        ("walk_per_tensor", 0.01, (3.0, 2.0, 4.0)),
    ]
    return pd.DataFrame(
        [
            {
                "arm": "agent",
                "process": name,
                "distance": Interval(far, far, far, 3),
                "after": Interval(1.0, 1.0, 1.0, 3),
                "growth": Interval(*growth, 3),
                "interference": Interval(0.1, 0.0, 0.2, 3),
            }
            for name, far, growth in rows
        ]
    )


def test_it_is_said_which_walks_grow() -> None:
    assert report.walk_growth(walks()) == (
        "While λ₁ grew 20.0 times [18.0, 22.0] under SGD, the walks' changed by: steps as long as "
        "the agent's 1.00 [0.90, 1.10], not clear of 1; steps 10 times 1.50 [1.20, 1.80], grows; "
        "steps 100 times 0.50 [0.40, 0.60], shrinks."
    )


def test_the_table_of_walks_has_a_row_a_process() -> None:
    table = report.walk_table(walks()).set_index("process")
    assert list(table.index) == [
        "gradient descent", "random walk", "walk, steps × 10", "walk, steps × 100",
        "walk, tensor by tensor",
    ]  # fmt: skip
    assert table.loc["walk, steps × 10", "λ₁ at the end / start"] == "1.50 [1.20, 1.80]"
    assert set(table.optimizer) == {"SGD"}


def test_a_table_of_sharpness_has_three_digits_or_more() -> None:
    wide, narrow = Interval(1234.6, 900.2, 1500.7, 3), Interval(0.01234, 0.01, 0.015, 3)
    rows = [
        {"variant": "true_label", "layer_norm": norm, "start": narrow, "end": wide,
         "growth": wide, "accuracy": narrow}
        for norm in (False, True)
    ]  # fmt: skip
    table = report.sharpness_table(pd.DataFrame(rows))
    assert table["layer normalisation"].tolist() == ["without", "with"]
    assert table["λ₁ at the start"].tolist() == ["0.0123 [0.01, 0.015]"] * 2
    assert table["λ₁ at the end"].iloc[0] == "1,235 [900, 1,501]"


def test_a_run_and_the_table_of_runs_say_that_it_was_reproduced(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plasticity.fingerprint.code_digest", lambda module: "now")
    provenance: dict[str, Any] = {
        "profile": "laptop", "config": {"size": 32}, "code": "then", "commit": "c" * 40,
        "uncommitted_source": False, "seeds": [0, 1, 2], "compute_seconds": 60.0,
        "finished": "2026-01-01T10:00:00+00:00", "python": "3.11", "packages": {"jax": "0.10"},
        "data": {"dataset": "toy", "records": 5, "full_set": 10, "origin": "here"},
        "device": {"kind": "Abacus", "platform": "cpu", "cores": 2},
    }  # fmt: skip
    frame = pd.DataFrame({"arm": ["a"], "seed": 0, "step": 0, "metric": "m", "value": 1.0})
    run = results.write("toy", "laptop", frame, {}, provenance)
    assert report.run_table({"toy": toy}).code.tolist() == ["changed since"]
    assert "Reproduced" not in report.provenance(run)
    entry = {
        "code": "now", "commit": "d" * 40, "uncommitted_source": False, "seeds": [0],
        "numbers": 12_345, "date": "2026-02-03T10:00:00+00:00",
    }  # fmt: skip
    run = results.add_reproduction(run, entry)
    assert report.run_table({"toy": toy}).code.tolist() == ["reproduced to the bit"]
    assert (
        " Reproduced by commit `dddddddddd` on 2026-02-03: 12,345 numbers of seed 0, every one "
        "equal to the bit.\n:::"
    ) in report.provenance(run)
    results.write("toy", "laptop", frame, {}, provenance | {"code": "now"})
    assert report.run_table({"toy": toy}).code.tolist() == ["as it ran"]


def test_the_scale_counts_fields_that_the_run_did_not_know(runs: Path) -> None:
    stored = {"profile": "laptop", "config": {"size": 32, "chunks": 6, "seeds": 2}}
    run = results.Run("toy", "laptop", pd.DataFrame(), {}, stored)
    assert report.scale(run, toy.Config(first_seed=3)) == (
        "**Scaled down** from the `paper` profile: size 32 instead of 64, "
        "first seed 0 instead of 3."
    )
