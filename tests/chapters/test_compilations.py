"""How often a run compiles: each program once, whatever the number of arms and seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest
from hurried import compilations

from plasticity.agents.settings import DQN, Problem
from plasticity.chapters import interventions, optimizer_instability
from plasticity.chapters.interventions.run import INTERVENTIONS, Config
from plasticity.chapters.probing import parts, probed_agent
from plasticity.networks.settings import MLP
from plasticity.runs import driver
from plasticity.runs.experiment import Experiment

QUICK = interventions.EXPERIMENT.studies["quick"]
TINY = replace(
    QUICK, problem=Problem(n_images=60), network=MLP(width=8),
    algorithm=DQN(batch_size=8, target_period=100, warmup=20, capacity=50),
    probe_every=100, probes=1, n_targets=1, probe_steps=50, probe_batch_size=8,
    sharpness_every=100, sharpness_order=2, proxy_examples=60,
)  # fmt: skip

# Another layer makes other programs; what else does is for `tests/agents/test_mdp_agent.py`.
DESIGNS = {name: INTERVENTIONS[name] for name in ("none", "layer_norm")}
OTHERS = {
    "shrink_and_perturb": INTERVENTIONS["shrink_and_perturb"],
    "reset_last_layer": INTERVENTIONS["reset_last_layer"],
    "slow": {"optimizer.learning_rate": 1e-4},
    "random_label": {"problem.variant": "random_label"},
}
"""Arms that differ from the first in events, a rate or the problem."""

EVERY_RUN = (
    "split", "make", "warm_up", "draws", "tally", "of_features", "of_kernels", "proxy_batch",
    "interference",
)  # fmt: skip
EVERY_DESIGN = (
    "begin",
    "train_stretch",
    "perform",
    "sharpness",
    "gradient_norm",
    "products",
    "fit",
)
PROGRAMS = {name for name, found in vars(parts).items() if hasattr(found, "__wrapped__")}


def with_arms(chosen: Mapping[str, Mapping[str, Any]]) -> Experiment:
    """Return the experiment with other arms."""

    def arms(config: Config) -> dict[str, dict[str, Any]]:
        return {name: dict(changes) for name, changes in chosen.items()}

    load = partial(probed_agent.load_arms, arms)
    return replace(interventions.EXPERIMENT, arms=arms, load=load)


def compiled_by(experiment: Experiment, config: Any, work: Path) -> Counter[str]:
    """Return how often a run compiles, by the names of programs."""
    run = driver.measured(experiment, config, work, workers=0)
    with compilations() as count, run as (records, _):
        assert len(records) == config.seeds * len(experiment.arms(config))
    return count


@pytest.mark.slow
def test_a_run_compiles_a_program_once_and_arms_of_one_design_share_theirs(tmp_path: Path) -> None:
    jax.clear_caches()  # type: ignore[no-untyped-call]  # of what other tests compiled
    count = compiled_by(with_arms(DESIGNS), TINY, tmp_path / "designs")
    ours = {name: times for name, times in count.items() if name in PROGRAMS}
    assert ours == dict.fromkeys(EVERY_RUN, 1) | dict.fromkeys(EVERY_DESIGN, 2)
    more = compiled_by(with_arms(DESIGNS | OTHERS), TINY, tmp_path / "others")
    ours = {name: times for name, times in more.items() if name in PROGRAMS}
    assert ours == {"intervene": 2, "make": 1}  # the events, and the rewards of another problem
    # Beside these only what jax needs for small things, and the random networks of the targets.
    assert sum(more.values()) < 15


def test_the_quick_study_has_as_many_designs_as_networks() -> None:
    experiment = interventions.EXPERIMENT
    arms = [experiment.arm(QUICK, name) for name in experiment.arms(QUICK)]
    designs = {experiment.shares(arm) for arm in arms}
    assert (len(arms), len(designs)) == (6, 2 * 2)  # two outputs, with layer normalisation or not
    assert {arm.algorithm.target_period >= probed_agent.STRETCH for arm in arms} == {True}


def test_adams_two_by_two_compiles_a_training_for_each_b2(tmp_path: Path) -> None:
    config = optimizer_instability.run.Config(
        n_images=61, width=15, batch_size=8, steps_per_period=12, periods=2, window=4, seeds=2
    )
    jax.clear_caches()  # type: ignore[no-untyped-call]
    count = compiled_by(optimizer_instability.EXPERIMENT, config, tmp_path)
    names = ("begin", "draw", "take", "join", "evaluate")
    # With a trace and without, each for two values of b2; ε̄ is an argument.
    assert {name: count[name] for name in names} == dict.fromkeys(names, 1) | {"take": 4}
