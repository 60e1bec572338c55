"""Probes once more the networks that a recorded run kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from plasticity import configuration, devices, jax_settings, programs
from plasticity.agents import mdp_agent
from plasticity.chapters.probing.probed_agent import (
    Config,
    World,
    load,
    named_leaves,
    probe_record,
    start,
)
from plasticity.runs.experiment import Experiment
from plasticity.runs.files import NotRecorded
from plasticity.runs.results import Run
from plasticity.shapes import Array


def reprobe(
    config: Config, world: World, kept: Mapping[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Probe parameters from a run's bank again, with the minibatches of the agent's own seed.

    ``kept`` is what `plasticity.runs.results.Run.bank` returns. The result is `probe_record`'s with
    a leading axis of checkpoints; under the run's own settings it equals what the run recorded.
    Raises `configuration.ConfigError` if the parameters do not fit ``config``'s network, or if
    ``config`` asks for the carried optimizer state, which a bank does not hold.
    """
    if config.probe_state == "carried":
        raise configuration.ConfigError(
            "a bank holds no optimizer state: probe it with a fresh one"
        )
    key = jax.random.key(seed)
    with programs.apart():
        started = start(config, world, key)
    expected = started.agent.params
    wanted = {name: leaf.shape for name, leaf in named_leaves(expected).items()}
    found = {name: array.shape[1:] for name, array in kept.items()}
    if found != wanted:
        raise configuration.ConfigError(
            f"the kept parameters {found} are not those of {mdp_agent.network_key(config)}"
        )
    leaves = [jnp.asarray(kept[name]) for name in wanted]
    params = jax.tree.unflatten(jax.tree.structure(expected), leaves)

    def one(params: Any) -> dict[str, Array]:
        learner = started.agent.learner._replace(params=params)
        state = started.agent._replace(learner=learner)
        return probe_record(config, world, state, started.probe_key)

    fits = jax.jit(partial(devices.map_lanes, one))(params)
    return {name: np.asarray(array) for name, array in fits.items()}


def reprobe_run(
    experiment: Experiment, run: Run, changes: Iterable[str], only: str | None = None
) -> Iterator[str]:
    """Probe the networks that a run kept, with ``changes`` of settings; yield a table for each arm.

    Before that it yields a line if settings of JAX make another program now than the run's.
    Raises `files.NotRecorded` if it kept none, `results.UnknownArm`, naming the kept arms, for any
    other arm.
    """
    config = configuration.from_dict(experiment.Config, run.config)
    overrides = configuration.parse(config, changes)
    if only is not None:
        run.bank(only)  # raises, naming the kept arms, if this is not one
    arms = [arm for arm in experiment.arms(config) if arm in run.banks() and only in (None, arm)]
    if not arms:
        raise NotRecorded(f"{run.experiment}/{run.label} kept no parameters: nothing to probe")
    if other := run.other_settings(jax_settings.differing()):
        yield f"The run is of other settings of JAX, which make another program: {other}"
    for arm in arms:
        arm_config = configuration.replaced(experiment.arm(config, arm), overrides)
        world, _ = load([arm_config])
        found = reprobe(arm_config, world, run.bank(arm), config.first_seed)
        recorded = run.select(arm=arm, seed=config.first_seed, metric="probe_loss")
        rows = [f"{arm}, seed {config.first_seed}", f"{'step':>10} {'recorded':>10} {'now':>10}"]
        for step, was, now in zip(recorded.step, recorded.value, found["probe_loss"], strict=True):
            rows.append(f"{step:10,} {was:10.4f} {now:10.4f}")
        yield "\n".join(rows)
