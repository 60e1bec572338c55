"""What reports say of made-up tables; their pages are executed by the book's own build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import toy

from plasticity import configuration
from plasticity.chapters import report
from plasticity.chapters.curvature_evolution import words as curvature_evolution_words
from plasticity.chapters.falsification import words as falsification_words
from plasticity.chapters.interventions import words as interventions_words
from plasticity.chapters.interventions.contrasts import pareto
from plasticity.chapters.measuring_plasticity import words as measuring_plasticity_words
from plasticity.chapters.scaling import words as scaling_words
from plasticity.networks.settings import CNN, MLP, Network, ResNet18, ViT
from plasticity.runs import origin, results
from plasticity.statistics import UNKNOWN, Interval


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
    said = falsification_words.one_sided(stability(TURNS + KEEPS + NOTHING + WITHIN))
    assert said == (
        "Pooled over settings, clear of zero on one side only: **some rank** "
        "(negative in 1 of 2 strata)."
    )
    assert falsification_words.one_sided(stability(WITHIN), "within").startswith(
        "Within settings, no statistic"
    )


def test_the_sign_table_counts_clear_strata() -> None:
    table = falsification_words.sign_table(stability(TURNS + NOTHING)).set_index("statistic")
    counts = table[["strata", "clearly positive", "clearly negative"]].to_numpy().tolist()
    assert counts == [[2, 1, 1], [2, 0, 0]]
    assert table.loc["norm", ["lowest", "highest", "mean size"]].tolist() == [
        "-0.60",
        "0.80",
        "0.70",
    ]


def test_pooling_compares_sizes_clear_intervals_and_signs() -> None:
    within = [("norm", "within", -0.2, -0.5, 0.2), ("norm", "within", -0.1, -0.4, 0.3)]
    said = falsification_words.pooling(stability(TURNS + within))
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
            "rougher": interval, "shallower": "supported", "plateau": "empty",
        }
        for never in (0.0, 0.2)
    ]  # fmt: skip
    table = falsification_words.curve_table(pd.DataFrame(rows))
    assert table["steps to half, last / first"].tolist() == [
        "2.00 [1.50, 2.50]",
        "≥ 2.00 [1.50, 2.50]",
    ]
    assert table.network.tolist() == ["true-label · MNIST · MLP"] * 2


def test_the_nearest_setting_comes_first() -> None:
    said = measuring_plasticity_words.nearest(pd.Series({"b": 0.1, "a": 0.25, "c": 0.3}))
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
    assert curvature_evolution_words.walk_growth(walks()) == (
        "While λ₁ grew 20.0 times [18.0, 22.0] under SGD, the walks' changed by: steps as long as "
        "the agent's 1.000 [0.900, 1.100], not clear of 1; steps 10 times 1.50 [1.20, 1.80], "
        "grows; steps 100 times 0.50 [0.40, 0.60], shrinks."
    )


def test_the_table_of_walks_has_a_row_a_process() -> None:
    table = curvature_evolution_words.walk_table(walks()).set_index("process")
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
    table = curvature_evolution_words.sharpness_table(pd.DataFrame(rows))
    assert table["layer normalisation"].tolist() == ["without", "with"]
    assert table["λ₁ at the start"].tolist() == ["0.0123 [0.01, 0.015]"] * 2
    assert table["λ₁ at the end"].iloc[0] == "1,235 [900, 1,501]"


def test_a_run_and_the_table_of_runs_say_that_it_was_reproduced(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plasticity.runs.fingerprint.code_digest", lambda module: "now")
    provenance: dict[str, Any] = {
        "study": "laptop", "config": {"size": 32}, "code": "then", "commit": "c" * 40,
        "uncommitted_source": False, "seeds": [0, 1, 2], "compute_seconds": 60.0,
        "finished": "2026-01-01T10:00:00+00:00", "python": "3.11", "packages": {"jax": "0.10"},
        "data": {"dataset": "toy", "records": 5, "full_set": 10, "origin": "here"},
        "device": {"kind": "Abacus", "platform": "cpu", "cores": 2},
    }  # fmt: skip
    frame = pd.DataFrame({"arm": ["a"], "seed": 0, "step": 0, "metric": "m", "value": 1.0})
    run = results.write("toy", "laptop", frame, {}, provenance)
    assert report.run_table({"toy": toy.EXPERIMENT}).code.tolist() == ["changed since"]
    assert "Reproduced" not in report.provenance(run)
    entry = {
        "by": "reproduction", "code": "now", "commit": "d" * 40, "uncommitted_source": False,
        "seeds": [0], "numbers": 12_345, "date": "2026-02-03T10:00:00+00:00",
    }  # fmt: skip
    run = results.add_proof(run, entry)
    assert report.run_table({"toy": toy.EXPERIMENT}).code.tolist() == ["reproduced to the bit"]
    assert (
        " Reproduced by commit `dddddddddd` on 2026-02-03: 12,345 numbers of seed 0, every one "
        "equal to the bit.\n:::"
    ) in report.provenance(run)
    results.write("toy", "laptop", frame, {}, provenance | {"code": "now"})
    table = report.run_table({"toy": toy.EXPERIMENT})
    assert (table.code.tolist(), table.commit.tolist()) == (["as it ran"], ["cccccccccc"])
    unknown = {"commit": None, "uncommitted_source": None, "why_unknown": "git: no"}
    results.write("toy", "laptop", frame, {}, provenance | unknown)
    assert report.run_table({"toy": toy.EXPERIMENT}).commit.tolist() == ["unknown (git: no)"]


def accelerated(**provenance: Any) -> results.Run:
    """A run on an accelerator, which took two sittings of a minute with an hour between them."""
    stored: dict[str, Any] = {
        "study": "gpu", "commit": "c" * 40, "uncommitted_source": False, "seeds": [0, 1],
        "compute_seconds": 10.0, "python": "3.12", "packages": {"jax": "0.11"},
        "began": "2026-01-01T10:00:00+00:00", "finished": "2026-01-01T11:02:00+00:00",
        "data": {"dataset": "toy", "records": 5, "full_set": 10, "origin": "here"},
        "device": {"kind": "Orrery", "platform": "gpu", "cores": 2},
    }  # fmt: skip
    return results.Run("toy", "gpu", pd.DataFrame(), {}, stored | provenance)


def test_a_run_on_an_accelerator_is_not_told_in_core_time() -> None:
    assert "62 min from start to finish on Orrery, finished" in report.provenance(accelerated())
    assert report.cost(accelerated()).endswith(" · Orrery) took 62 min from start to finish.")


def test_provenance_says_that_it_was_amended() -> None:
    assert "Amended" not in report.provenance(accelerated())
    note = report.provenance(accelerated(amended="The commit was misread."))
    assert note.endswith("jax 0.11. Amended since: see `run.json`.\n:::")


def test_what_is_unknown_is_told_as_unknown_and_settings_are_told() -> None:
    known = report.provenance(accelerated())
    assert "commit `cccccccccc`. Python" in known and "Set:" not in known
    run = accelerated(
        commit=None, uncommitted_source=None, why_unknown="git: fatal: no", packages={"jax": None},
        jax_settings={"NPROC": "2", "jax_enable_x64": True},
    )  # fmt: skip
    assert (
        "commit unknown (git: fatal: no). Python 3.12, jax unknown. "
        "Set: `NPROC=2`, `jax_enable_x64=True`."
    ) in report.provenance(run)
    device = {"kind": "Abacus", "platform": "cpu", "cores": None}
    assert "Abacus (unknown cores)" in report.provenance(accelerated(device=device))


def test_this_machine_is_not_told_as_if_all_was_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = origin.environment()
    found |= {"commit": "d" * 40, "uncommitted_source": True, "jax_settings": {"NPROC": "2"}}
    monkeypatch.setattr(origin, "environment", lambda: found)
    told = report.machine().set_index("what").which
    assert told["commit"] == "dddddddddd with uncommitted changes"
    assert told["settings of JAX"] == "NPROC = 2"
    del found["commit"], found["uncommitted_source"]
    found |= {"commit": None, "uncommitted_source": None, "why_unknown": "git: no"}
    assert report.machine().set_index("what").which["commit"] == "unknown (git: no)"


def exactly(value: float) -> Interval:
    """An interval that is a point."""
    return Interval(value, value, value, 2)


def cell(name: str, final: Interval, task: float = 0.5, **others: object) -> dict[str, object]:
    """A row of `plasticity.chapters.interventions.contrasts.cells`, made up."""
    known = np.isfinite(final.estimate)
    return {
        "variant": "true_label", "dataset": "mnist_5k", "architecture": "mlp",
        "encoding": "regression", "intervention": name, "initial": exactly(0.1), "final": final,
        "change": final.map(lambda loss: loss - 0.1), "diverged": 0 if known else 2,
        "accuracy": exactly(task) if known else UNKNOWN, "paper_initial": 0.2, "paper_final": 0.5,
        "paper_change": 0.3, "paper_spread": 0.05, **others,
    }  # fmt: skip


def test_the_table_of_cells_says_what_is_missing() -> None:
    table = interventions_words.cells_table(
        pd.DataFrame(
            [
                cell("reset_last_layer", Interval(0.3, 0.2, 0.4, 2)),
                cell("none", UNKNOWN, encoding="two_hot", paper_change=np.nan),
            ]
        )
    )
    first, second = table.to_numpy().tolist()
    assert first == [
        "reset last layer", "regression", "MLP", "MNIST", "true-label", "0.10 [0.10, 0.10]",
        "0.30 [0.20, 0.40]", "0.20 [0.10, 0.30]", "0.30 ± 0.05", "0.50 [0.50, 0.50]", "",
    ]  # fmt: skip
    assert second[6:] == ["–", "–", "–", "–", "2"]


def test_power_is_said_in_plain_words() -> None:
    rows = [
        ("mlp", "regression", "layer_norm", Interval(-0.2, -0.3, -0.1, 5), 0.15),
        ("mlp", "two_hot", "none", Interval(0.2, 0.1, 0.3, 5), 0.15),
        ("cnn", "two_hot", "reset_last_layer", Interval(0.0, -0.1, 0.1, 5), 0.128),
    ]
    columns = ["architecture", "encoding", "intervention", "difference", "detectable"]
    table = interventions_words.power_table(pd.DataFrame(rows, columns=columns))
    assert table.contrast.tolist() == [
        "MLP: layer norm against none",
        "MLP: two-hot output against regression",
        "CNN, two-hot: reset last layer against none",
    ]
    assert table["it is"].tolist() == [
        "better", "worse", "not shown (an effect below 0.13 could be missed)"
    ]  # fmt: skip


def test_the_papers_layer_norm_helps_regression_on_one_of_two_data_sets() -> None:
    cells = pd.DataFrame([cell("none", exactly(0.3)), cell("layer_norm", exactly(0.2))])
    table = interventions_words.layer_norm_cells(cells)
    regression = table[table.output == "regression"].set_index(["data", "network"])
    printed = regression["the paper: none → layer norm"]
    assert printed["MNIST", "MLP"] == "0.34 → 0.43" and printed["MNIST", "CNN"] == "0.27 → 0.32"
    assert regression["there it is"].to_dict() == {
        ("CIFAR-10", "MLP"): "better", ("CIFAR-10", "CNN"): "better",
        ("MNIST", "MLP"): "worse", ("MNIST", "CNN"): "worse",
    }  # fmt: skip
    ours = regression["ours, true-label"]
    assert ours["MNIST", "MLP"] == "0.20 [0.20, 0.20] → 0.10 [0.10, 0.10]"
    assert set(ours.drop(("MNIST", "MLP"))) == {"–"} and len(table) == 8


def search(**config: Any) -> results.Run:
    """Two learning rates of two seeds; under the larger one both agents diverge in the end."""
    rows = []
    for rate in (0.001, 0.1):
        arm = f"true_label-mnist_5k-mlp-two_hot-{rate:g}"
        for seed in (0, 1):
            for step in (10, 0):  # in any order
                gone = float(rate == 0.1 and step == 10)
                values = {"probe_loss": 0.1 + 0.02 * step, "accuracy": 0.1 * step - 0.5,
                          "td_loss_max": 1234.5 * seed + step, "diverged": gone}  # fmt: skip
                rows += [(arm, rate, seed, step, *pair) for pair in values.items()]
    columns = ["arm", "learning_rate", "seed", "step", "metric", "value"]
    table = pd.DataFrame(rows, columns=columns).assign(
        variant="true_label", dataset="mnist_5k", architecture="mlp", encoding="two_hot"
    )
    return results.Run("interventions", "quick-1", table, {}, {"config": config})


def test_a_search_shows_what_each_rate_does_and_where_agents_diverged() -> None:
    small, large = interventions_words.search_table(search(search=[0.001, 0.1])).to_dict("records")
    assert (small["learning rate"], large["learning rate"]) == ("0.001", "0.1")
    assert small["output"] == "two-hot" and small["network"] == "MLP"
    assert small["initial"] == "0.10 [0.10, 0.10]" and small["final"] == "0.30 [0.30, 0.30]"
    assert small["change"] == "0.20 [0.20, 0.20]"
    assert small["task: share of images right"] == "0.50 [0.50, 0.50]"
    assert small["largest TD loss"] == "1.24e+03" and small["diverged"] == "0 of 2"
    assert large["final"] == large["largest TD loss"] == "–" and large["diverged"] == "2 of 2"
    with pytest.raises(ValueError, match="is no search"):
        interventions_words.search_table(search(search=[]))


def test_the_front_is_said_a_sentence_a_panel() -> None:
    cells = pd.DataFrame(
        [
            cell("layer_norm", exactly(0.2), 0.8),
            cell("none", exactly(0.3), 0.7),
            cell("none", exactly(0.4), 0.9, encoding="two_hot"),
            cell("none", UNKNOWN, architecture="cnn"),
        ]
    )
    assert interventions_words.front_in_words(cells, pareto) == (
        "- **MLP · MNIST · true-label**: no other beats no intervention with two-hot output (0.90 "
        "of images right, probe loss 0.40); layer norm with regression output (0.80 of images "
        "right, probe loss 0.20).\n"
        "- **CNN · MNIST · true-label**: every agent diverged."
    )


def test_a_width_at_which_nothing_is_lost_is_a_power_of_two_or_nowhere() -> None:
    common = {
        "dataset": "mnist_5k", "architecture": "mlp", "target_period": 1000, "discount": 0.9,
        "spearman": Interval(-0.5, -0.8, -0.1, 9), "widest": exactly(0.1),
        "initial": exactly(0.3), "slope": Interval(-0.0301, -0.04, 0.01, 9), "diverged": 0,
    }  # fmt: skip
    inf = np.inf
    zeros = [
        Interval(10.0, 9.0, 11.0, 9), Interval(10.0, 8.0, inf, 9), Interval(inf, 12.0, inf, 9),
        Interval(inf, inf, inf, 9), Interval(400.0, 30.0, inf, 9),
    ]  # fmt: skip
    table = scaling_words.width_table(pd.DataFrame([common | {"zero": zero} for zero in zeros]))
    assert table["zero at"].tolist() == [
        "1,024 [512, 2,048]", "1,024 [256, nowhere]", "nowhere (from 4,096)", "nowhere",
        "over a million [over a million, nowhere]",
    ]  # fmt: skip
    assert table.loc[0, ["network", "target period", "Spearman"]].tolist() == [
        "MNIST · MLP", "1,000", "-0.50 [-0.80, -0.10]"
    ]  # fmt: skip
    assert table.loc[0, "change a doubling"] == "-0.030 [-0.040, +0.010]"


def test_the_cost_of_a_width_is_its_median_turn_with_the_extremes() -> None:
    turns = pd.DataFrame(
        {
            "architecture": "cnn", "width": 256, "parameters": 14_000_000, "mebibytes": 512.3,
            "milliseconds": [70.04, 60.0, 90.0],
        }
    )  # fmt: skip
    (row,) = scaling_words.width_cost_table(turns).to_dict("records")
    assert row == {
        "network": "CNN", "width": "256", "parameters": "14,000,000",
        "ms an update": "70 [60, 90]", "memory, MiB": "512",
    }  # fmt: skip
    machine = {
        "device": {"kind": "some processor"}, "settings": {"turns": 3, "steps": 400},
        "packages": {"jax": "0.10.2"}, "commit": "0123456789ab", "uncommitted_source": True,
        "finished": "2026-11-25T18:00:00+00:00", "load_before": 1.54,
    }  # fmt: skip
    assert scaling_words.width_cost_note(machine) == (
        "Measured 2026-11-25 on one core of some processor, jax 0.10.2, commit `0123456789` with "
        "uncommitted changes: 3 turns of 400 updates each, compiled before; load of the machine "
        "when it began: 1.5."
    )


@dataclass(frozen=True)
class Sweep:
    """Settings of an experiment on networks of these kinds and widths."""

    networks: tuple[Network, ...] = (MLP(),)
    widths: tuple[int, ...] = (1, 2)
    steps: int = 10


def test_what_is_not_run_names_what_no_run_has_and_the_command(runs: Path) -> None:
    small = Sweep(networks=(MLP(width=8),))  # a size of it is as good as another
    large = Sweep(networks=(MLP(), CNN(), ResNet18(), ViT()), widths=(1, 2, 3), steps=20)
    many = Sweep(widths=tuple(range(1, 12)), steps=30)
    longer = Sweep(widths=(2,), steps=30)
    studies: Any = {
        "quick": small, "laptop": small, "gpu": large, "paper": many, "longer": longer,
        "smoke": Sweep(networks=(CNN(),), widths=(3,), steps=1),
    }  # fmt: skip
    experiment: Any = SimpleNamespace(studies=studies)
    frame = pd.DataFrame({"arm": ["a"], "seed": 0, "step": 0, "metric": "m", "value": 1.0})
    config = configuration.to_dict(small)
    results.write("toy", "laptop", frame, {}, {"study": "laptop", "config": config})
    # of a size at which nothing is learned
    own = configuration.to_dict(Sweep(networks=(CNN(),), widths=(3,), steps=1))
    results.write("toy", "gpu-0badc0de", frame, {}, {"study": "gpu", "config": own})
    results.write("toy", "smoke", frame, {}, {"study": "smoke", "config": own})
    table = report.not_run({"toy": experiment})
    assert table.to_dict("records") == [
        {
            "experiment": "toy", "study": "gpu",
            "beyond what is recorded": "networks: cnn, resnet, vit; widths: 3",
            "command": "`plasticity run toy --study gpu`",
        },
        {
            "experiment": "toy", "study": "paper",
            "beyond what is recorded": "widths: 9 more",
            "command": "`plasticity run toy --study paper`",
        },
        {
            "experiment": "toy", "study": "longer",
            "beyond what is recorded": "size and length alone",
            "command": "`plasticity run toy --study longer`",
        },
    ]  # fmt: skip
    assert len(report.not_run({"new": experiment})) == 5


@dataclass(frozen=True)
class Counted:
    """Settings of an experiment that sweeps nothing."""

    steps: int = 10
    variations: bool = False
    seeds: int = 5


def test_what_is_not_run_at_a_recorded_size_is_what_it_turns_on_and_its_seeds(runs: Path) -> None:
    studies: Any = {
        "quick": Counted(), "gpu": Counted(), "paper": Counted(variations=True, seeds=10),
        "longer": Counted(steps=20, variations=True),
    }  # fmt: skip
    frame = pd.DataFrame({"arm": ["a"], "seed": 0, "step": 0, "metric": "m", "value": 1.0})
    config = configuration.to_dict(studies["gpu"])
    results.write("toy", "gpu", frame, {}, {"study": "gpu", "config": config})
    table = report.not_run({"toy": SimpleNamespace(studies=studies)})  # type: ignore[dict-item]
    assert table["beyond what is recorded"].tolist() == [
        "variations, more seeds", "size and length alone"
    ]  # fmt: skip
