"""The sweep's arms, what its tables say of made-up agents, its judge, its recorded runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from plasticity import configuration, statistics
from plasticity.agents.settings import DQN, Problem
from plasticity.chapters.claims import LEDGER
from plasticity.chapters.scaling import EXPERIMENT, judge
from plasticity.chapters.scaling.run import Config
from plasticity.networks.settings import CNN, MLP
from plasticity.runs import results
from plasticity.runs.results import Run

TINY = Config(
    problem=Problem(n_images=60),
    algorithm=DQN(batch_size=8, discount=0.9, warmup=20, capacity=50), probe_every=20, probes=1,
    n_targets=1, probe_steps=500, probe_batch_size=8, seeds=3, sharpness_every=10,
    sharpness_order=3, proxy_examples=60, base_width=2, multiples=(1, 2, 4),
)  # fmt: skip


# Arms.


def test_an_arm_is_a_width_of_a_network_under_a_period() -> None:
    config = replace(TINY, widest_cnn=2, exploding=True)
    arms = {name: EXPERIMENT.arm(config, name) for name in EXPERIMENT.arms(config)}
    assert len(arms) == 2 * 3 * (3 + 2) + 3
    for name, arm in arms.items():
        multiple = int(name.rsplit("-", 1)[1])
        width, architecture, dataset = 2 * multiple, arm.network.kind, arm.problem.dataset
        period, discount = arm.algorithm.target_period, arm.algorithm.discount
        networks = {"mlp": MLP(width=width), "cnn": CNN(channels=width, width=4 * width)}
        assert arm.width == width and arm.network == networks[architecture]
        if name.startswith("exploding"):
            assert (architecture, dataset, period, discount) == ("mlp", "mnist_5k", 1, 0.99)
        else:
            assert name == f"{dataset}-{architecture}-{period}-{multiple}" and discount == 0.9
            assert architecture == "mlp" or multiple <= 2
    assert len(set(arms.values())) == len(arms)


@pytest.mark.parametrize(
    ("study", "count"),
    [("quick", 2), ("laptop", 6 * 6 + 6 * 3 + 6), ("gpu", 12 * 6 + 6), ("paper", 12 * 6)],
)
def test_studies_have_their_arms(study: str, count: int) -> None:
    config = EXPERIMENT.studies[study]
    assert len(EXPERIMENT.arms(config)) == count
    if study != "quick":  # Fig. 5
        assert [config.base_width * m for m in config.multiples] == [16, 32, 64, 128, 192, 256]
        assert config.periods == (1, 100, 1_000) and config.algorithm.discount == 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ()}, "datasets: needs at least one"),
        ({"architectures": ()}, "architectures: needs at least one"),
        ({"periods": ()}, "periods: needs at least one"),
        ({"multiples": ()}, "multiples: needs at least one"),
        ({"periods": (1, 0)}, r"periods = \(1, 0\): each must be above 0"),
        ({"multiples": (0,)}, "each must be above 0"),
        ({"base_width": 0}, "base_width = 0: must be above 0"),
        ({"widest_cnn": 0}, "widest_cnn = 0: must be above 0"),
    ],
)
def test_sweeps_that_cannot_run_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(configuration.ConfigError, match=message):
        replace(TINY, **changes)


# Tables.


def record(final: float, initial: float = 0.1) -> dict[str, np.ndarray]:
    """Make up what one agent measured at its two probes."""
    loss = np.array([initial, final])
    return {
        "probe_loss": loss, "loss": loss[:, None], "curve": np.ones((2, 10)),
        "noise": np.ones((2, 10)), "sharpness_trace": np.ones((2, 2)), "diverged": np.zeros(2),
    }  # fmt: skip


def made_up(config: Config, final: Callable[[Config, int], float]) -> Run:
    """Make up a run whose agents end with the loss ``final`` (arm's configuration, seed)."""
    agents = {
        (arm, seed): record(final(EXPERIMENT.arm(config, arm), seed))
        for arm in EXPERIMENT.arms(config)
        for seed in range(config.seeds)
    }
    table, arrays = EXPERIMENT.summarize(config, agents)
    provenance = {"study": "quick", "config": configuration.to_dict(config)}
    return Run("scaling", "quick", table, arrays, provenance)


def test_an_agents_row_has_its_width_and_what_it_lost() -> None:
    table = judge.agents(made_up(TINY, lambda arm, seed: 0.4))
    assert len(table) == 36 * 3
    assert set(table.width) == {2, 4, 8}
    np.testing.assert_allclose(table.plasticity_loss, 0.3, atol=1e-6)


def test_a_curve_is_what_statistics_say_of_its_agents() -> None:
    """Also without the agents that diverged, and with the curve that explodes by itself."""
    config = replace(TINY, exploding=True)

    def final(arm: Config, seed: int) -> float:
        if arm.algorithm.discount == 0.99 and seed == 1:
            return np.nan
        return 1.0 - 0.1 * np.log2(arm.width) + 0.02 * seed

    run = made_up(config, final)
    table = judge.curves(run)
    assert len(table) == 13 and set(table.widths) == {3}
    exploding = table[table.discount == 0.99]
    assert list(exploding.diverged) == [3] and list(exploding.target_period) == [1]
    assert set(table[table.discount == 0.9].diverged) == {0}
    agents = judge.agents(run)
    for row in table.itertuples():
        mine = agents.dataset.eq(row.dataset) & agents.architecture.eq(row.architecture)
        mine &= agents.target_period.eq(row.target_period) & agents.discount.eq(row.discount)
        whole = agents[mine & np.isfinite(agents.plasticity_loss)]
        assert len(whole) == (6 if row.discount == 0.99 else 9)
        expected = stats.spearmanr(whole.width, whole.plasticity_loss).statistic
        np.testing.assert_allclose(row.spearman.estimate, expected)
        assert row.spearman.high < 0 and row.spearman.n == len(whole)
        widest = whole[whole.width == 8]
        assert row.widest == statistics.mean_interval(widest.plasticity_loss)
        np.testing.assert_allclose(row.initial.estimate, 0.1, atol=1e-6)
        line = stats.linregress(np.log2(whole.width), whole.plasticity_loss)
        np.testing.assert_allclose(row.slope.estimate, line.slope, rtol=1e-6)
        np.testing.assert_allclose(row.zero.estimate, -line.intercept / line.slope, rtol=1e-5)
        assert row.slope.low <= -0.1 + 1e-6 and row.slope.high >= -0.1 - 1e-6
        assert row.zero.low < row.zero.estimate < row.zero.high
    main = judge.main_curves(run)
    assert len(main) == 12 and set(main.discount) == {0.9} and list(main.index) == list(range(12))


def test_a_curve_of_which_all_agents_diverged_says_nothing() -> None:
    config = replace(TINY, exploding=True)
    nan = made_up(
        config, lambda arm, seed: np.nan if arm.algorithm.discount == 0.99 else 0.4 + 0.01 * seed
    )
    (row,) = judge.curves(nan).query("discount == 0.99").itertuples()
    assert row.diverged == 9
    for interval in (row.spearman, row.widest, row.initial, row.slope, row.zero):
        assert interval == statistics.UNKNOWN
    wide = made_up(config, lambda arm, seed: np.nan if arm.width == 8 else 0.4 - 0.01 * arm.width)
    assert set(judge.curves(wide).widest) == {statistics.UNKNOWN}
    assert {verdict.part: verdict.status for verdict in judge.judge_width(wide)} == {
        "final loss": "supported", "change": "supported", "no cure": "inconclusive",
    }  # fmt: skip


# Lines.


@pytest.mark.parametrize(("level", "slope"), [(1.0, -0.25), (0.4, -0.05), (-0.3, -0.1)])
def test_an_exact_line_is_found_exactly(level: float, slope: float) -> None:
    width = np.repeat([16.0, 32.0, 64.0, 192.0], 3)
    found = judge.fit_line(width, level + slope * np.log2(width), resamples=50)
    np.testing.assert_allclose(found.slope[:3], slope, rtol=1e-9)
    np.testing.assert_allclose(found.zero[:3], -level / slope, rtol=1e-9)
    assert found.slope.n == found.zero.n == 12


@pytest.mark.parametrize("slope", [0.1, 0.0])
def test_a_line_that_does_not_fall_reaches_zero_nowhere(slope: float) -> None:
    width = np.repeat([16.0, 32.0], 2)
    found = judge.fit_line(width, 0.5 + slope * np.log2(width), resamples=50)
    np.testing.assert_allclose(found.slope[:3], slope, atol=1e-12)
    assert found.zero[:3] == (np.inf, np.inf, np.inf)


def test_a_line_that_hardly_falls_may_reach_zero_nowhere() -> None:
    width = np.repeat([16.0, 32.0, 64.0], 4)
    scatter = 0.1 * np.tile([-1.0, -1.0, 1.0, 1.0], 3)  # zero on average
    found = judge.fit_line(width, 0.5 - 0.01 * np.log2(width) + scatter)
    assert found.slope.low < 0 < found.slope.high
    assert found.zero.low > np.log2(64) and found.zero.high == np.inf


def test_the_interval_of_a_slope_is_near_least_squares_own() -> None:
    """A bootstrap inside widths, of agents enough, against the textbook's standard error."""
    rng = np.random.default_rng(1)
    width = np.repeat([16.0, 32.0, 64.0, 128.0], 50)
    change = 1.0 - 0.1 * np.log2(width) + 0.05 * rng.normal(size=200)
    found, line = judge.fit_line(width, change), stats.linregress(np.log2(width), change)
    half = stats.t.ppf(0.975, 198) * line.stderr
    np.testing.assert_allclose(found.slope.estimate, line.slope, rtol=1e-9)
    np.testing.assert_allclose(found.slope.high - found.slope.low, 2 * half, rtol=0.15)


# The judge.


def sweep(slopes: list[float], widest: list[float]) -> Run:
    """Make up a run whose k-th curve changes by ``slopes[k]`` a doubling, to ``widest[k]``."""
    order: dict[tuple[Any, ...], int] = {}

    def final(arm: Config, seed: int) -> float:
        curve = arm.problem.dataset, arm.network.kind, arm.algorithm.target_period
        k = order.setdefault(curve, len(order))
        scatter = 0.01 * (seed - 1)  # zero on average
        return 0.1 + widest[k] + slopes[k] * np.log2(arm.width / 8) + scatter

    return made_up(TINY, final)


@pytest.mark.parametrize(
    ("slopes", "widest", "falls", "cured"),
    [
        ([-0.1] * 12, [0.3] * 12, "supported", "supported"),
        ([0.1] * 2 + [-0.1] * 10, [0.3] * 12, "supported", "supported"),  # two may rise
        ([0.1] * 3 + [-0.1] * 9, [0.3] * 12, "contradicted", "supported"),
        ([0.1] * 2 + [0.0] + [-0.1] * 9, [0.3] * 12, "inconclusive", "supported"),
        ([-0.1] * 12, [-0.3] * 11 + [0.3], "supported", "supported"),  # one above zero is enough
        ([-0.1] * 12, [-0.3] * 12, "supported", "contradicted"),
        ([-0.1] * 12, [-0.3] * 11 + [0.0], "supported", "inconclusive"),
    ],
)
def test_the_judge_follows_the_ledger(
    slopes: list[float], widest: list[float], falls: str, cured: str
) -> None:
    found = {verdict.part: verdict for verdict in judge.judge_width(sweep(slopes, widest))}
    assert found["change"].status == falls and found["no cure"].status == cured
    assert found["final loss"].status == falls  # fresh losses are equal here
    for verdict in found.values():
        assert len(verdict.conditions) == 12
    assert found["no cure"].conditions[0].measured.n == 3


def test_this_experiment_decides_the_claims_that_the_ledger_gives_it() -> None:
    mine = {name for name, claim in LEDGER.items() if claim.experiment == "scaling"}
    assert judge.CLAIMS.keys() == mine


COMMITTED = [run for run in results.recorded("scaling") if run.study != "quick"]


@pytest.mark.parametrize("run", COMMITTED, ids=lambda run: run.label)
@pytest.mark.skipif(
    "PLASTICITY_DATA" not in os.environ,
    reason="the run's CIFAR-10 images are not shipped: point PLASTICITY_DATA at the folder",
)
def test_recorded_runs_are_of_these_images(run: Run) -> None:
    config = configuration.from_dict(Config, run.config)
    few = replace(config, architectures=("mlp",), periods=(1,), multiples=(1,), n_targets=1)
    _, source = EXPERIMENT.load(few)
    assert source["images"] == run.provenance["data"]["images"]
