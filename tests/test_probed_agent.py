"""An agent probed on the way: what it is made of, and that its parts are what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity import configuration, dqn, probe, probed_agent
from plasticity.probed_agent import Config, World

TINY = Config(
    n_images=60, mlp_width=8, batch_size=8, target_period=10, warmup=20, capacity=50,
    probe_every=20, probes=2, n_targets=2, probe_steps=100, probe_batch_size=8, seeds=1,
    keep_parameters=True,
)  # fmt: skip
CNN = replace(TINY, architecture="cnn", channels=2, cnn_width=4, probes=1)
KEY = jax.random.key(0)

advance = jax.jit(probed_agent.advance, static_argnums=0)


@pytest.fixture(scope="module")
def world() -> World:
    """Sixty digits, and the targets of both networks."""
    return probed_agent.load([TINY, CNN])[0]


@pytest.fixture(scope="module")
def records(world: World) -> list[dict[str, Any]]:
    """What the three chunks of a tiny agent measured, and its last state."""
    state = jax.jit(probed_agent.start, static_argnums=0)(TINY, world, KEY)
    found = []
    for _ in range(probed_agent.chunks(TINY)):
        state, record = advance(TINY, world, state)
        found.append({**jax.device_get(record), "agent": state.agent})
    return found


def test_the_first_chunk_measures_and_does_not_train(records: list[dict[str, Any]]) -> None:
    assert [int(record["agent"].steps) for record in records] == [0, 20, 40]
    assert np.isnan(records[0]["td_loss"]) and np.isfinite(records[1]["td_loss"])
    name = "params/params/Dense_0/kernel"
    assert not np.array_equal(records[0][name], records[1][name])
    np.testing.assert_array_equal(
        records[2][name], records[2]["agent"].params["params"]["Dense_0"]["kernel"]
    )


def test_a_probe_leaves_the_agent_alone(world: World, records: list[dict[str, Any]]) -> None:
    """Training without probes ends with the same parameters."""
    state = jax.jit(probed_agent.start, static_argnums=0)(TINY, world, KEY)
    images = world.images[probed_agent.image_key(TINY)]

    @jax.jit
    def train(state: probed_agent.State) -> dqn.State:
        agent, _ = dqn.train(probed_agent.agent(TINY), state.mdp, images, state.agent, 20)
        return agent

    unprobed = train(state)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        unprobed.params, records[1]["agent"].params,
    )  # fmt: skip


def test_the_record_is_what_probe_and_statistics_say(
    world: World, records: list[dict[str, Any]]
) -> None:
    params = records[2]["agent"].params
    images = world.images[probed_agent.image_key(TINY)]
    state = probed_agent.start(TINY, world, KEY)
    found = probe.fit_all(
        lambda p, x: probed_agent.forward(TINY, p, x).output, params, images,
        world.targets[probed_agent.network_key(TINY)],
        probed_agent.agent(TINY).optimizer, state.probe_key, steps=100, batch_size=8,
    )  # fmt: skip
    np.testing.assert_allclose(records[2]["loss"], found.loss, rtol=1e-3)
    np.testing.assert_allclose(records[2]["probe_loss"], found.loss.mean(), rtol=1e-3)
    hidden = probed_agent.forward(TINY, params, images).hidden
    dead = np.mean([np.all(np.asarray(h) <= 0, axis=0) for h in hidden])
    np.testing.assert_allclose(records[2]["dead_units"], dead, atol=1e-6)


def test_a_bank_probed_again_gives_the_recorded_losses(
    world: World, records: list[dict[str, Any]]
) -> None:
    kept = {
        name.removeprefix("params/"): np.stack([record[name] for record in records])
        for name in records[0]
        if name.startswith("params/")
    }
    found = probed_agent.reprobe(TINY, world, kept, seed=0)
    recorded = np.stack([record["loss"] for record in records])
    np.testing.assert_allclose(found["loss"], recorded, rtol=1e-3)
    other = probed_agent.reprobe(TINY, world, kept, seed=1)
    assert not np.allclose(other["loss"], recorded, rtol=1e-4)
    with pytest.raises(ValueError, match="not those of mnist_5k-60-mlp-16"):
        wide = replace(TINY, mlp_width=16)
        probed_agent.reprobe(wide, probed_agent.load([wide])[0], kept, seed=0)
    with pytest.raises(ValueError, match="holds no optimizer state"):
        probed_agent.reprobe(replace(TINY, probe_state="carried"), world, kept, seed=0)


def test_the_carried_optimizer_state_makes_another_probe(
    world: World, records: list[dict[str, Any]]
) -> None:
    carried = replace(TINY, probe_state="carried")
    agent, key = records[2]["agent"], probed_agent.start(TINY, world, KEY).probe_key
    fresh = probed_agent.probe_record(TINY, world, agent, key)["probe_loss"]
    assert fresh != probed_agent.probe_record(carried, world, agent, key)["probe_loss"]


def test_a_cnn_runs_through_the_same_steps(world: World) -> None:
    state = probed_agent.start(CNN, world, KEY)
    for _ in range(2):
        state, record = advance(CNN, world, state)
    assert np.isfinite(record["probe_loss"]) and record["diverged"] == 0
    assert record["params/params/Conv_0/kernel"].shape == (5, 5, 1, 2)


def test_a_diverged_agent_is_flagged_and_goes_on(world: World) -> None:
    state = probed_agent.start(TINY, world, KEY)
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), state.agent.params)
    state = state._replace(agent=state.agent._replace(params=broken))
    for _ in range(2):
        state, record = advance(TINY, world, state)
    assert record["diverged"] == 1 and record["accuracy"] == 0
    for name in ("probe_loss", "feature_rank", "dead_units", "weight_norm"):
        assert np.isnan(record[name]), name


def test_fresh_networks_need_no_training(world: World) -> None:
    fresh = replace(TINY, probes=0, keep_parameters=False)
    state, record = advance(fresh, world, probed_agent.start(fresh, world, KEY))
    assert probed_agent.chunks(fresh) == 1
    assert int(state.agent.steps) == 0 and np.isfinite(record["probe_loss"])


def test_the_source_names_every_set_and_counts_subsets_once() -> None:
    _, source = probed_agent.load([TINY, replace(TINY, n_images=70)])
    assert source["records"] == 70 and source["dataset"] == "mnist_5k"
    assert set(source["sets"]) == {"mnist_5k-60", "mnist_5k-70"}  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discount": 1.0}, "discount"),
        ({"warmup": 7}, "a batch must fit into the warm-up"),
        ({"capacity": 19}, "must fit"),
        ({"probe_steps": 110}, "multiple of 50"),
        ({"seeds": 0}, "seeds = 0"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"probes": -1}, "probes"),
    ],
)
def test_settings_that_cannot_run_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(configuration.ConfigError, match=message):
        replace(TINY, **changes)


def test_work_is_counted_in_proportion() -> None:
    assert probed_agent.flops(replace(TINY, n_targets=4, probes=0)) == 2 * probed_agent.flops(
        replace(TINY, probes=0)
    )
    assert probed_agent.flops(CNN) > 0
