"""The grid's arms, what its tables say of made-up agents, its judges, its recorded runs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from hurried import apart

from plasticity import cli, configuration, statistics
from plasticity.agents import mdp_agent
from plasticity.agents.settings import DQN, Problem
from plasticity.chapters.claims import LEDGER
from plasticity.chapters.interventions import EXPERIMENT, contrasts, words
from plasticity.chapters.interventions import judge as judging
from plasticity.chapters.interventions.run import CELL, INTERVENTIONS, Config
from plasticity.chapters.printed import interventions
from plasticity.chapters.probing import probed_agent
from plasticity.configuration import replaced
from plasticity.networks.settings import CNN, MLP, Regression, TwoHot
from plasticity.power import detectable_difference
from plasticity.runs import results
from plasticity.runs.results import Run

NETWORKS = ("mlp", "cnn", "resnet", "vit")
TINY = Config(
    datasets=("mnist_5k",), problem=Problem(n_images=60), network=MLP(width=8), seeds=4,
    algorithm=DQN(batch_size=8, target_period=10, warmup=20, capacity=50),
    probe_every=20, probes=1, n_targets=1, probe_steps=500, probe_batch_size=8,
    sharpness_every=10, sharpness_order=3, proxy_examples=60, two_hot_learning_rate=3e-4,
)  # fmt: skip


# Arms.


def test_an_arm_is_every_combination_and_one_change_at_a_time() -> None:
    arms = EXPERIMENT.arms(TINY)
    assert len(arms) == 2 * 1 * 4 * 2 * 7
    networks = {network.kind: network for network in TINY.networks}
    outputs = {output.kind: output for output in TINY.outputs}
    for name in arms:
        variant, dataset, architecture, encoding, intervention = name.split("-")
        cell = {
            "problem.variant": variant, "problem.dataset": dataset,
            "network": networks[architecture], "output": outputs[encoding],
            "optimizer.learning_rate": 3e-4 if encoding == "two_hot" else 1e-3,
            "problem.n_images": 60,
        }  # fmt: skip
        base, change = replaced(TINY, cell), INTERVENTIONS[intervention]
        arm = EXPERIMENT.arm(TINY, name)
        assert arm == replaced(base, {"intervention": intervention, **change})
        assert len(change) == (intervention != "none") == (replaced(base, change) != base)


def test_arms_with_the_same_network_have_the_same_targets_of_the_probe() -> None:
    """As the chapter says where it explains why small differences are seen."""
    keys = {
        name: mdp_agent.network_key(EXPERIMENT.arm(TINY, name)) for name in EXPERIMENT.arms(TINY)
    }
    cells: dict[str, list[str]] = {}
    for name in keys:
        cells.setdefault("-".join(name.split("-")[1:3]), []).append(name)
    for names in cells.values():
        for a, b in itertools.product(names, names):
            (*_, coding_a, change_a), (*_, coding_b, change_b) = a.split("-"), b.split("-")
            own = {"layer_norm", "spectral_norm"}
            networks = [change if change in own else "" for change in (change_a, change_b)]
            same = coding_a == coding_b and networks[0] == networks[1]
            assert (keys[a] == keys[b]) is same, (a, b)


def test_interventions_are_those_of_the_paper() -> None:
    assert INTERVENTIONS["weight_decay"] == {"optimizer.weight_decay": 1e-5}  # §6.2
    printed = set(interventions().intervention)
    assert printed == INTERVENTIONS.keys() - {"reset_optimizer"}  # which is of B.1, in no heat map


@pytest.mark.parametrize(
    ("study", "count"),
    [
        ("quick", 6), ("laptop", 56), ("laptop_cifar", 14), ("laptop_own_loss", 14),
        ("two_hot_search", 12), ("laptop_cifar_grid", 56), ("laptop_eps", 24),
        ("laptop_period_10000", 12), ("laptop_in_time", 4), ("night_in_time", 4), ("smoke", 336),
        ("gpu_mlp", 14), ("gpu_mlp_two_hot", 14), ("gpu", 224), ("paper", 224),
    ],
)  # fmt: skip
def test_studies_have_their_arms(study: str, count: int) -> None:
    assert len(EXPERIMENT.arms(EXPERIMENT.studies[study])) == count


def test_a_search_is_over_learning_rates_alone() -> None:
    config = replace(TINY, search=(1e-3, 1e-5), networks=(MLP(),), variants=("true_label",))
    arms = EXPERIMENT.arms(config)
    assert list(arms) == [
        f"true_label-mnist_5k-mlp-{encoding}-{rate}"
        for encoding in ("regression", "two_hot")
        for rate in ("0.001", "1e-05")
    ]
    for name, changes in arms.items():
        assert changes["optimizer.learning_rate"] == float(name.split("-", 4)[4])
        assert changes.keys() == {
            "problem.variant", "problem.dataset", "problem.n_images", "network", "output",
            "optimizer.learning_rate", "optimizer.eps",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interventions": ()}, "interventions: needs at least one"),
        ({"variants": ()}, "variants: needs at least one"),
        ({"datasets": ()}, "datasets: needs at least one"),
        ({"networks": ()}, "networks: needs at least one"),
        ({"outputs": ()}, "outputs: needs at least one"),
        ({"interventions": ("none", "dropout")}, "'dropout' is none of none, reset_last_layer"),
        ({"search": (1e-3, 0.0)}, "learning rates must be above 0"),
        ({"two_hot_learning_rate": 0.0}, "two_hot_learning_rate = 0.0: must be above 0"),
    ],
)
def test_grids_that_cannot_run_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(configuration.ConfigError, match=message):
        replace(TINY, **changes)


# Tables.


def record(
    final: float, initial: float = 0.2, accuracy: float = 0.5, td: float = 1.0, diverged: float = 0
) -> dict[str, np.ndarray]:
    """Make up what one agent measured at its two probes."""
    loss = np.array([initial, final])
    return {
        "probe_loss": loss, "loss": loss[:, None], "curve": np.ones((2, 10)),
        "noise": np.ones((2, 10)), "sharpness_trace": np.ones((2, 2)),
        "accuracy": np.array([0.1, accuracy]), "td_loss_max": np.array([np.nan, td]),
        "td_loss": np.array([np.nan, td]),
        "diverged": np.array([0.0, diverged]),
    }  # fmt: skip


def made_up(config: Config, agent: Callable[[dict[str, str], int], dict[str, np.ndarray]]) -> Run:
    """Make up a run, its agents by their cell and seed."""
    agents = {
        (arm, seed): agent(dict(zip(CELL, arm.split("-", 4), strict=True)), seed)
        for arm in EXPERIMENT.arms(config)
        for seed in range(config.seeds)
    }
    table, arrays = EXPERIMENT.summarize(config, agents)
    provenance = {"study": "quick", "config": configuration.to_dict(config)}
    return Run("interventions", "quick", table, arrays, provenance)


Effects = dict[tuple[str, str, str], float]
"""By architecture, encoding and intervention."""


def population(
    effects: Effects,
    metric: str = "final",
    variants: tuple[str, ...] = ("true_label", "random_label"),
) -> Run:
    """Make up agents whose ``metric`` differs from that of none by these effects, on average.

    Seeds differ by far more, all arms of a seed alike, so that only pairing shows the effects.
    """

    def agent(cell: dict[str, str], seed: int) -> dict[str, np.ndarray]:
        where = cell["architecture"], cell["encoding"], cell["intervention"]
        effect = effects.get(where, 0.0)
        if cell["variant"] not in variants and where in effects:
            effect = -0.3
        plain = where[1:] == ("none", "regression")
        scatter = 0.0 if plain else 0.001 * (-1) ** seed  # zero on average, of four seeds
        value = 0.1 + 0.1 * seed + effect + scatter
        return record(**{"final": 0.3, metric: np.exp(value) if metric == "td" else value})

    # fewer arms, to be fast
    names = tuple(dict.fromkeys(("none", *(intervention for _, _, intervention in effects))))
    return made_up(replace(TINY, interventions=names), agent)


def test_an_agents_row_has_its_cell_and_what_it_lost() -> None:
    run = made_up(
        replace(TINY, search=(1e-3, 1e-5), seeds=2),
        lambda cell, seed: record(0.25 + 0.25 * seed, td=4.0, diverged=float(seed)),
    )
    table = contrasts.agents(run)
    assert len(table) == 2 * 4 * 2 * 2 * 2
    assert set(table.intervention) == {"0.001", "1e-05"}
    np.testing.assert_allclose(table.learning_rate, table.intervention.astype(float))
    np.testing.assert_allclose(table.plasticity_loss, 0.05 + 0.25 * table.seed, atol=1e-6)
    np.testing.assert_allclose(table.log_td_loss, np.log(4.0))
    assert (table.ever_diverged == (table.seed == 1)).all()
    assert set(table.step) == {20}


def test_cells_stand_beside_the_papers() -> None:
    """Of the diverged seeds none is averaged; those of MNIST are numbers of Figs. 9 and 11."""
    run = made_up(TINY, lambda cell, seed: record(0.3 + 0.1 * seed, diverged=float(seed == 3)))
    table = contrasts.cells(run)
    assert len(table) == len(EXPERIMENT.arms(TINY))
    assert set(table.diverged) == {1}
    for row in table.itertuples():
        assert row.final == statistics.mean_interval(np.float32([0.3, 0.4, 0.5]))
        np.testing.assert_allclose(row.initial.estimate, 0.2, rtol=1e-6)
        np.testing.assert_allclose(row.change.estimate, 0.2, rtol=1e-6)
        np.testing.assert_allclose(row.accuracy.estimate, 0.5, rtol=1e-6)
    one = table[(table.variant == "true_label") & (table.architecture == "mlp")].set_index(
        ["encoding", "intervention"]
    )
    theirs = one[["paper_initial", "paper_final", "paper_change", "paper_spread"]]
    for cell, printed in {
        ("regression", "none"): (0.25, 0.59, 0.34, 0.24),
        ("regression", "layer_norm"): (0.17, 0.60, 0.43, 0.28),
        ("two_hot", "none"): (0.23, 0.27, 0.04, 0.12),
        ("two_hot", "shrink_and_perturb"): (0.20, 0.29, 0.09, 0.11),
    }.items():
        assert tuple(theirs.loc[cell]) == printed
    assert theirs.loc["regression", "reset_optimizer"].isna().all()
    assert theirs.drop(index="reset_optimizer", level=1).notna().all(axis=None)
    same = ["dataset", "architecture", "encoding", "intervention", *theirs.columns]
    for _, both in table[same].groupby(same[:4]):  # of both rewards
        assert len(both) == 2 and len(both.drop_duplicates()) == 1


def test_an_arm_of_which_all_agents_diverged_is_unknown() -> None:
    few = replace(TINY, seeds=2, interventions=("none", "layer_norm", "shrink_and_perturb"))
    run = made_up(few, lambda cell, seed: record(np.nan, diverged=1.0))
    table = contrasts.cells(run)
    assert set(table.change) == {statistics.UNKNOWN} and set(table.diverged) == {2}
    assert contrasts.contrast(run, "mlp", "layer_norm").size == 0
    assert contrasts.power(run).empty
    for name, judge in judging.CLAIMS.items():
        lacks = name in ("weight-decay-nothing", "reset-helps")
        found = {verdict.part: verdict.status for verdict in judge(run)}
        assert bool(found) is not lacks
        # which agents diverged is known
        assert set(found.values()) <= {"inconclusive", "empty"}, name


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ((-0.1, -0.1, -0.1), "supported"),  # one that is worse is not enough, whichever it be
        ((0.1, 0.1, -0.1), "contradicted"),  # enough without it
        ((0.1, -0.1, -0.1), "inconclusive"),
    ],
)
def test_an_architecture_that_is_unknown_could_be_anywhere(
    changes: tuple[float, ...], status: str
) -> None:
    """The first one always diverges."""

    def agent(cell: dict[str, str], seed: int) -> dict[str, np.ndarray]:
        effect = {"mlp": np.nan, **dict(zip(NETWORKS[1:], changes, strict=True))}
        changed = cell["encoding"] == "two_hot"
        return record(0.3 + 0.001 * seed * changed + effect[cell["architecture"]] * changed)

    run = made_up(replace(TINY, interventions=("none",)), agent)
    assert judging.CLAIMS["two-hot-best"](run)[0].status == status


def test_an_agent_whose_probe_diverged_is_counted_and_not_averaged() -> None:
    """Its own parameters are finite: from them the probe's optimizer goes astray."""
    few = replace(TINY, interventions=("none", "layer_norm"), outputs=(Regression(),))
    run = made_up(few, lambda cell, seed: record(np.inf if seed == 2 else 0.3))
    table = contrasts.cells(run)
    assert set(table.diverged) == {1}
    assert {interval.n for interval in table.final} == {3}
    assert len(contrasts.contrast(run, "mlp", "layer_norm")) == 3


# Contrasts.


def test_a_contrast_is_paired_by_seed_and_averaged_over_the_grid() -> None:
    config = replace(
        TINY, datasets=("mnist_5k", "cifar10_train"), outputs=(Regression(),),
        interventions=("none", "layer_norm", "weight_decay"),
    )  # fmt: skip

    def agent(cell: dict[str, str], seed: int) -> dict[str, np.ndarray]:
        helped = cell["intervention"] == "layer_norm"
        by_cell = {"true_label": 0.01, "random_label": 0.03}[cell["variant"]]
        by_cell *= {"mnist_5k": 1, "cifar10_train": 3}[cell["dataset"]]
        initial = 0.1 if helped else 0.2  # what counts is the change
        final = initial + 0.1 * seed + helped * (seed + 1) * by_cell
        lost = helped and seed == 1 and cell["dataset"] == "mnist_5k"
        return record(final, initial, diverged=float(lost))

    run = made_up(config, agent)
    found = contrasts.contrast(run, "mlp", "layer_norm")
    mean = (0.01 + 0.03) * (1 + 3) / 4
    np.testing.assert_allclose(found, mean * np.array([1, 3, 4]), atol=1e-6)  # without seed 1
    hard = contrasts.contrast(run, "cnn", "layer_norm", variant="random_label")
    np.testing.assert_allclose(hard, 0.06 * np.array([1, 3, 4]), atol=1e-6)
    assert not contrasts.contrast(run, "mlp", "weight_decay").any()
    against = contrasts.contrast(run, "mlp", "none", against=("layer_norm", "regression"))
    np.testing.assert_allclose(against, -found, atol=1e-6)
    levels = contrasts.contrast(run, "mlp", "layer_norm", metric="initial_loss")
    np.testing.assert_allclose(levels, -0.1, atol=1e-6)
    with pytest.raises(KeyError):
        contrasts.contrast(run, "mlp", "dropout")
    everything = contrasts.contrasts(run, intervention="layer_norm")
    assert list(everything) == list(NETWORKS)
    assert everything["mlp"] == statistics.mean_interval(found)


def test_the_power_of_a_contrast_is_that_of_its_seeds() -> None:
    effects = {("mlp", "regression", "layer_norm"): 0.3, ("cnn", "two_hot", "none"): 0.2}
    run = population(effects)
    found = contrasts.power(run).set_index(["architecture", "encoding", "intervention"])
    assert len(found) == 4 * (2 * 2 - 1)
    values = contrasts.contrast(run, "mlp", "layer_norm")
    row = found.loc["mlp", "regression", "layer_norm"]
    assert row.difference == statistics.mean_interval(values)
    assert row.detectable == detectable_difference(values)
    # two-hot itself is compared with regression, what it is combined with is compared with it
    np.testing.assert_allclose(found.loc["cnn", "two_hot", "none"].difference.estimate, 0.2)
    combined = found.loc["cnn", "two_hot", "layer_norm"].difference.estimate
    np.testing.assert_allclose(combined, -0.2, atol=1e-6)


# Judges.


def every(intervention: str, encoding: str, *effects: float) -> Effects:
    """By architecture, in the order of `NETWORKS`."""
    return {
        (network, encoding, intervention): effect
        for network, effect in zip(NETWORKS, effects, strict=True)
    }


TWO_HOT, SHRUNK = ("none", "two_hot"), ("shrink_and_perturb", "regression")
DECAYED, RESET = ("weight_decay", "regression"), ("reset_last_layer", "regression")
NORMED = ("layer_norm", "regression")


@pytest.mark.parametrize(
    ("claim", "effects", "status"),
    [
        ("two-hot-best", every(*TWO_HOT, -0.1, -0.1, -0.1, -0.1), "supported"),
        ("two-hot-best", every(*TWO_HOT, -0.1, 0.1, -0.1, -0.1), "supported"),  # one may be worse
        ("two-hot-best", every(*TWO_HOT, -0.1, 0.1, 0.1, -0.1), "contradicted"),
        ("two-hot-best", every(*TWO_HOT, -0.1, 0.1, 0.0, -0.1), "inconclusive"),
        ("shrink-perturb-worst", every(*SHRUNK, 0.1, 0.1, 0.1, 0.1), "supported"),
        ("shrink-perturb-worst", every(*SHRUNK, 0.1, -0.1, 0.1, 0.1), "supported"),
        ("shrink-perturb-worst", every(*SHRUNK, -0.1, -0.1, 0.1, 0.1), "contradicted"),
        ("shrink-perturb-worst", every(*SHRUNK, 0.0, -0.1, 0.1, 0.1), "inconclusive"),
        ("weight-decay-nothing", every(*DECAYED, 0.0, 0.0, 0.0, 0.0), "inconclusive"),
        ("weight-decay-nothing", every(*DECAYED, 0.1, 0.1, -0.1, -0.1), "contradicted"),
        ("weight-decay-nothing", every(*DECAYED, 0.1, 0.1, 0.1, -0.1), "supported"),
        ("reset-helps", every(*RESET, -0.1, 0.1, -0.1, -0.1), "supported"),  # except the CNN
        ("reset-helps", every(*RESET, -0.1, -0.1, -0.1, 0.1), "contradicted"),
        ("reset-helps", every(*RESET, -0.1, -0.1, 0.0, -0.1), "inconclusive"),
        ("layer-norm-helps", every(*NORMED, -0.1, -0.1, -0.1, -0.1), "supported"),
        ("layer-norm-helps", every(*NORMED, -0.1, 0.1, -0.1, 0.0), "contradicted"),
        ("layer-norm-helps", every(*NORMED, -0.1, -0.1, -0.1, 0.0), "inconclusive"),
    ],
)
def test_the_judges_of_changes_follow_the_ledger(claim: str, effects: Effects, status: str) -> None:
    verdict = judging.CLAIMS[claim](population(effects))[0]
    assert (verdict.claim.id, verdict.status) == (claim, status)


@pytest.mark.parametrize(
    ("harm", "status"),
    [
        ((0.0, 0.0, -0.1, 0.1), "supported"),
        ((0.0, 0.0, 0.0, 0.3), "contradicted"),
        ((0.0, 0.0, 0.0, 0.2), "inconclusive"),
    ],
)
def test_the_judge_of_shrinking_under_two_hot_compares_under_two_hot(
    harm: tuple[float, ...], status: str
) -> None:
    base = every("none", "two_hot", 0.1, -0.1, 0.1, 0.1)
    shrunk = {
        (network, "two_hot", "shrink_and_perturb"): base[network, "two_hot", "none"] + effect
        for network, effect in zip(NETWORKS, harm, strict=True)
    }

    def agent(cell: dict[str, str], seed: int) -> dict[str, np.ndarray]:
        where = cell["architecture"], cell["encoding"], cell["intervention"]
        scatter = 0.01 * (-1) ** seed * (where[2] == "none")
        return record(0.3 + scatter + (base | shrunk).get(where, 0.0))

    few = replace(TINY, interventions=("none", "shrink_and_perturb"), outputs=(TwoHot(),))
    (verdict,) = judging.CLAIMS["shrink-perturb-categorical"](made_up(few, agent))
    assert verdict.status == status and len(verdict.conditions) == 4


@pytest.mark.parametrize(
    ("effects", "status"),
    [
        ((-0.1, -0.1, -0.1, -0.1), "supported"),
        ((-0.1, 0.1, -0.1, -0.1), "contradicted"),
        ((-0.1, 0.0, -0.1, -0.1), "inconclusive"),
    ],
)
def test_the_judge_of_the_task_looks_at_the_hard_reward(
    effects: tuple[float, ...], status: str
) -> None:
    """On the easy one shrinking hurts here, whatever it does on the hard one."""
    made = population(every(*SHRUNK, *effects), "accuracy", ("random_label",))
    hurts, more = judging.judge_task(made)
    assert hurts.part == "hurts" and hurts.status == status
    # on the easy one it costs .3 everywhere
    assert more.part == "most when hard" and more.status == "contradicted"
    assert contrasts.hard(made) == "random_label"


@pytest.mark.parametrize(
    ("normed", "two_hot"),
    [
        ((-1, -1, -1, -1), (-1, -1, -1, -1)),
        ((-1, -1, -1, -1), (-1, -1, 1, -1)),
        ((-1, 1, -1, -1), (-1, -1, -1, -1)),
        ((-1, -1, -1, 0), (-1, -1, -1, -1)),
    ],
)
def test_the_judge_of_the_loss_takes_ratios_part_by_part(
    normed: tuple[float, ...], two_hot: tuple[float, ...]
) -> None:
    run = population(every(*NORMED, *normed) | every(*TWO_HOT, *two_hot), "td")
    found = {verdict.part: verdict for verdict in judging.judge_td_loss(run)}
    assert found.pop("divergence").status == "empty"  # none did
    for part, verdict in found.items():
        logs = normed if part.startswith("layer norm") else two_hot
        expected = "contradicted" if 1 in logs else "inconclusive" if 0 in logs else "supported"
        assert verdict.status == expected, part
        estimates = [condition.measured.estimate for condition in verdict.conditions]
        np.testing.assert_allclose(estimates, np.exp(np.array(logs, float)), rtol=1e-3)
    assert list(found) == [
        f"{arm}, {metric}" for arm in ("layer norm", "two-hot") for metric in ("largest", "mean")
    ]


def over(intervention: str, **others: float) -> Run:
    """Make up regression agents: the change of one intervention, and those of others beside it."""
    changes = {"none": 0.1, intervention: 0.2, **others}

    def agent(cell: dict[str, str], seed: int) -> dict[str, np.ndarray]:
        scatter = 0.001 * (-1) ** seed * (cell["intervention"] != "none")
        return record(0.2 + changes[cell["intervention"]] + scatter)

    few = replace(TINY, interventions=tuple(changes), outputs=(Regression(),))
    return made_up(few, agent)


@pytest.mark.parametrize(
    ("reset", "status"), [(0.1, "supported"), (0.25, "contradicted"), (0.2, "inconclusive")]
)
def test_the_worst_is_worse_than_its_closest_rival(reset: float, status: str) -> None:
    run = over("shrink_and_perturb", reset_last_layer=reset, weight_decay=0.1)
    worse, worst = judging.judge_worst(run)
    assert (worse.part, worse.status) == ("worse than none", "supported")
    assert (worst.part, worst.status) == ("the worst", status)
    rival = "reset last layer" if reset > 0.1 else ""
    assert all(rival in condition.name for condition in worst.conditions)


def test_each_intervention_stands_against_none_by_network_and_reward() -> None:
    found = contrasts.against_none(over("shrink_and_perturb", reset_last_layer=0.4))
    networks, variants = TINY.networks, TINY.variants
    assert len(found) == 2 * len(networks) * len(variants)
    for name, more in (("shrink_and_perturb", 0.1), ("reset_last_layer", 0.3)):
        rows = found[found.intervention == name]
        np.testing.assert_allclose(rows.change.str[0], more, atol=1e-6)
        np.testing.assert_allclose(rows.lost.str[0], 0.1, atol=1e-6)
        np.testing.assert_allclose(rows.task.str[0], 0.0)
    written = words.against_none_table(found)
    assert "Adam's ε" not in written and len(written) == len(found)
    several = words.against_none_table(found.assign(eps=[1e-9, 1e-5] * (len(found) // 2)))
    assert set(several["Adam's ε"]) == {"1e-09", "1e-05"}


@pytest.mark.parametrize(
    ("gains", "status"),
    [
        ((0.1, 0.1, 0.1), "contradicted"),
        ((0.1, 0.02, 0.0), "depends"),
        ((0.02, 0.02, 0.0), "supported"),
    ],
)
def test_weight_decay_is_judged_at_each_epsilon(gains: tuple[float, ...], status: str) -> None:
    epsilons = (1e-9, 1e-5, 1.5e-4)
    few = replace(
        TINY, interventions=("none", "weight_decay"), outputs=(Regression(),), adam_eps=epsilons
    )
    by_eps = dict(zip(epsilons, gains, strict=True))
    table = made_up(few, lambda cell, seed: record(0.3 + 0.001 * seed)).table
    decayed = (table.intervention == "weight_decay") & (table.metric == "probe_loss")
    helped = decayed & (table.step > 0)
    noise = 0.0001 * (table.seed - 1.5)
    table = table.assign(value=table.value - helped * (table.eps.map(by_eps) + noise))
    provenance = {"study": "quick", "config": configuration.to_dict(few)}
    (verdict,) = judging.judge_weight_decay(Run("interventions", "eps", table, {}, provenance))
    assert (verdict.part, verdict.status) == ("whatever ε is", status)
    assert ("vit, ε 1e-09; and nowhere else" in verdict.note) is (status == "depends")


@pytest.mark.parametrize(("late", "status"), [(0.1, "supported"), (0.04, "contradicted")])
def test_an_advantage_lasts_if_more_than_half_of_it_is_left(late: float, status: str) -> None:
    few = replace(TINY, interventions=("none", "layer_norm"), outputs=(Regression(),))
    run = made_up(few, lambda cell, seed: record(0.3))
    rows = [
        run.table[run.table.step == 0],
        *(
            run.table[run.table.step > 0].assign(step=step).assign(
                value=lambda rows, gain=gain: rows.value
                - (rows.intervention == "layer_norm") * (rows.metric == "probe_loss")
                * (gain + 0.0001 * rows.seed)
            )
            for step, gain in ((judging.EARLY, 0.1), (5 * judging.EARLY, late))
        ),
    ]  # fmt: skip
    table = pd.concat(rows, ignore_index=True)
    longer = Run("interventions", "in_time", table, {}, run.provenance)
    helps, lasts = judging.judge_layer_norm(longer)
    assert (helps.status, lasts.part, lasts.status) == ("supported", "to the end", status)


@pytest.mark.parametrize(
    ("level", "why"), [(0.02, "at the probe's floor"), (0.3, ""), (0.48, "at the probe's ceiling")]
)
def test_what_is_compared_with_floor_or_ceiling_does_not_count(level: float, why: str) -> None:
    few = replace(TINY, interventions=("none", "layer_norm"), outputs=(Regression(),))
    run = made_up(few, lambda cell, seed: record(level))
    found = judging.judge_layer_norm(run)[0]
    assert all(condition.empty.endswith(why) and bool(condition.empty) is bool(why)
               for condition in found.conditions)  # fmt: skip
    assert (found.status == "empty") is bool(why)


def test_figures_have_the_counterparts_that_were_run() -> None:
    whole = over("none")
    laptop, cifar = (
        replace(whole, provenance={"config": configuration.to_dict(EXPERIMENT.studies[study])})
        for study in ("laptop", "laptop_cifar")
    )
    said = words.counterparts([laptop])
    both = "on the random-label and the true-label problem"
    assert f"Figures 9, 11, 13 and 15 (MNIST): the MLP {both}; the CNN {both}. " in said
    assert said.endswith("Figures 6, 8, 10, 12 and 16 (CIFAR-10): none.")
    said = words.counterparts([laptop, cifar])
    assert said.endswith("16 (CIFAR-10): the MLP on the true-label problem.")
    part = replace(
        whole, provenance={"config": configuration.to_dict(EXPERIMENT.studies["laptop_eps"])}
    )
    assert "(MNIST): none." in words.counterparts([part]), "two interventions are no figure"


def test_what_a_run_lacks_is_not_judged() -> None:
    """The quick study has three interventions; a search has none to compare with."""
    few = replace(TINY, interventions=("none", "layer_norm"), outputs=(Regression(),))
    run = made_up(few, lambda cell, seed: record(0.3 - 0.1 * (cell["intervention"] != "none")))
    found = {name: judge(run) for name, judge in judging.CLAIMS.items()}
    assert [verdict.status for verdict in found.pop("layer-norm-helps")] == ["supported"]
    halves = [verdict.part for verdict in found.pop("td-loss-stability")]
    assert halves == ["layer norm, largest", "layer norm, mean", "divergence"]  # that there are
    assert not any(found.values())
    run = made_up(replace(TINY, search=(1e-3,)), lambda cell, seed: record(0.3))
    assert not any(judge(run) for judge in judging.CLAIMS.values())


def test_this_experiment_decides_the_claims_that_the_ledger_gives_it() -> None:
    mine = {name for name, claim in LEDGER.items() if claim.experiment == "interventions"}
    assert judging.CLAIMS.keys() == mine


def test_the_pareto_front_is_what_no_other_point_beats() -> None:
    points = {
        (0.9, 0.5): True,  # best of the good
        (0.5, 0.1): True,  # least of the bad
        (0.7, 0.3): True,  # between the two
        (0.6, 0.3): False,  # as bad as the last, less good
        (0.7, 0.4): False,  # as good, worse
        (0.4, 0.6): False,
    }
    good, bad = np.array(list(points)).T
    assert contrasts.pareto(good, bad).tolist() == list(points.values())
    twice = contrasts.pareto(np.repeat(good, 2), np.repeat(bad, 2))  # equals do not beat
    assert twice.tolist() == np.repeat(list(points.values()), 2).tolist()
    assert contrasts.pareto(good[:1], bad[:1]).all()


@pytest.mark.slow
def test_the_whole_of_it_through_driver_and_command_line(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        "networks=mlp(width=8)", "outputs=two_hot", "interventions=reset_last_layer",
        "algorithm.target_period=10", "probe_every=20", "sharpness_every=10", "probes=1",
        "probe_steps=50", "problem.n_images=200", "seeds=1",
    ]  # fmt: skip
    options = [part for setting in settings for part in ("--set", setting)]
    arguments = ["run", "interventions", "--study", "quick", *options, "--workers", "0"]
    assert cli.main(arguments) == 0
    assert "reset-helps" not in capsys.readouterr().out, "without agents to compare with"
    (label,) = [path.name for path in (runs / "interventions").iterdir()]
    table = contrasts.cells(results.load("interventions", label))
    assert list(table.intervention) == ["reset_last_layer"] and list(table.diverged) == [0]


COMMITTED = [run for run in results.recorded("interventions") if run.study != "quick"]


@pytest.mark.parametrize("run", COMMITTED, ids=lambda run: run.label)
@pytest.mark.skipif(
    "PLASTICITY_DATA" not in os.environ,
    reason="the run's CIFAR-10 images are not shipped: point PLASTICITY_DATA at the folder",
)
def test_recorded_runs_are_of_these_images(run: Run) -> None:
    config = configuration.from_dict(Config, run.config)
    few = replace(config, networks=(MLP(),), interventions=("none",), n_targets=1)
    _, source = EXPERIMENT.load(few)
    assert source["images"] == run.provenance["data"]["images"]


# Probes by the loss that an agent learns by.


def test_a_two_hot_network_is_probed_by_its_own_loss_if_asked() -> None:
    """Against a plain loop: cross-entropy is descended, squared errors of values are recorded."""
    config = replace(
        TINY, output=TwoHot(bins=5, low=-3.0, high=3.0), n_targets=2, probes=0, probe_steps=50,
        probe_loss="own",
    )  # fmt: skip
    world, _ = probed_agent.load([config])
    state = apart(EXPERIMENT.start)(config, world, jax.random.key(3))
    probe_record = apart(probed_agent.probe_record)
    found = probe_record(config, world, state.agent, state.probe_key)
    agent, images = mdp_agent.agent(config), world.images[mdp_agent.image_key(config)]
    support = jnp.linspace(-3.0, 3.0, 5)
    offset = agent.values(state.agent.params, images).mean()

    @jax.jit
    def step(params: Any, opt_state: Any, batch: Any, goal: Any) -> Any:
        def surprise(params: Any) -> Any:
            logits = agent.apply(params, images[batch]).reshape(8, 10, 5)
            return -(goal * (logits - jax.nn.logsumexp(logits, -1, keepdims=True))).sum(-1).mean()

        update, opt_state = agent.optimizer.update(jax.grad(surprise)(params), opt_state, params)
        return optax.apply_updates(params, update), opt_state

    for n, key in enumerate(jax.random.split(state.probe_key, 2)):
        wanted = np.asarray(world.targets[mdp_agent.network_key(config)][n] + offset)
        place = (wanted + 3.0) / 1.5  # on a grid of bins a value lies between two whole numbers
        weights = np.maximum(0, 1 - np.abs(place[..., None] - np.arange(5)))
        np.testing.assert_allclose(weights @ support, wanted, atol=1e-5)
        params, opt_state = state.agent.params, agent.optimizer.init(state.agent.params)
        errors = []
        for batch in jax.random.randint(key, (50, 8), 0, 60):
            missed = agent.values(params, images[batch]) - wanted[batch]
            errors.append(float((missed**2).mean()))
            params, opt_state = step(params, opt_state, batch, weights[batch])
        final = ((agent.values(params, images) - wanted) ** 2).mean()
        np.testing.assert_allclose(found["loss"][n], final, rtol=1e-4)
        if n == 0:
            first = errors
    np.testing.assert_allclose(found["curve"][0], np.mean([first, errors]), rtol=1e-4)
    advanced = apart(EXPERIMENT.advance)(config, world, state, 0)[1]
    np.testing.assert_allclose(advanced["loss"], found["loss"], rtol=1e-5)
    by_values = replace(config, probe_loss="squared")
    squared = probe_record(by_values, world, state.agent, state.probe_key)
    assert np.all(np.abs(squared["loss"] - found["loss"]) > 1e-3)


def test_both_losses_of_a_probe_stand_side_by_side_and_are_compared_by_seed() -> None:
    few = replace(TINY, networks=(MLP(), CNN()), interventions=("none", "layer_norm"))
    lost = {("two_hot", "none"): 0.3, ("regression", "none"): 0.1}
    run = made_up(
        few,
        lambda cell, seed: record(
            0.3 + 0.05 * seed + lost.get((cell["encoding"], cell["intervention"]), 0.0)
        ),
    )
    only = replace(few, networks=(MLP(),), outputs=(TwoHot(),), probe_loss="own")
    own = made_up(only, lambda cell, seed: record(0.25 + 0.05 * seed, initial=0.22))
    values = contrasts.own_loss_contrast(run, own, "mlp")
    np.testing.assert_allclose(values, np.full(4, (0.25 - 0.22) - (0.4 - 0.2)), atol=1e-6)
    table = words.probe_loss_table(contrasts.cells(run), contrasts.cells(own))
    assert len(table) == 2 * 2 + 2 and set(table.network.str[:3]) == {"MLP"}
    first, last = table.iloc[0].tolist(), table.iloc[-1].tolist()
    assert first[1:3] == ["two-hot", "none"] and last[1:3] == ["regression", "none"]
    assert first[3].startswith("0.20 [0.20, 0.20] → 0.67 [0.57, 0.78]") and first[4].startswith(
        "0.22 ["
    )
    assert last[3] == last[4]


def test_own_loss_needs_a_fresh_optimizer_state() -> None:
    with pytest.raises(configuration.ConfigError, match="probe_loss = 'own'"):
        replace(TINY, probe_loss="own", probe_state="carried")
