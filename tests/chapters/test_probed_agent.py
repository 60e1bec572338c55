"""An agent probed on the way: what it is made of, and that its parts are what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hurried import apart, compiled

from plasticity import configuration, programs
from plasticity.agents import dqn, mdp_agent, mdp_task
from plasticity.agents.mdp_agent import AgentConfig
from plasticity.agents.mdp_task import ImageTask
from plasticity.agents.settings import DQN, Optimizer, Problem
from plasticity.chapters.probing import bank, parts, probed_agent, tables
from plasticity.chapters.probing.by_key import ByKey
from plasticity.chapters.probing.probed_agent import Config, World
from plasticity.configuration import replaced
from plasticity.cure import Seen
from plasticity.cures.settings import ResetLastLayer, ResetOptimizer, ShrinkAndPerturb
from plasticity.learner import Learner
from plasticity.measure import curvature, gradients, probe, ranks
from plasticity.networks.settings import CNN, MLP, Output, Regression, TwoHot, ViT
from plasticity.runs import checkpoints

TINY = Config(
    problem=Problem(n_images=60), network=MLP(width=8),
    algorithm=DQN(batch_size=8, target_period=10, warmup=20, capacity=50),
    probe_every=20, probes=2, n_targets=2, probe_steps=100, probe_batch_size=8, seeds=1,
    keep_parameters=True, sharpness_every=10, sharpness_order=3, proxy_examples=60,
)  # fmt: skip
WITH_CNN = replace(TINY, network=CNN(channels=2, width=4), probes=1)
TWO_HOT = replace(
    TINY, output=TwoHot(bins=5, low=-2.0, high=2.0), cures=(ResetLastLayer(),), probe_every=10
)
KEY = jax.random.key(0)

start, advance = apart(probed_agent.start), apart(probed_agent.advance)
probe_record, sharpness = apart(probed_agent.probe_record), apart(parts.sharpness)
proxy_batch = apart(parts.proxy_batch)
train = compiled(dqn.train, static_argnums=(0, 3))


@pytest.fixture(scope="module")
def world() -> World:
    """Sixty digits, and the targets of all networks."""
    return probed_agent.load([TINY, WITH_CNN, TWO_HOT])[0]


@pytest.fixture(scope="module")
def records(world: World) -> list[dict[str, Any]]:
    """What the three chunks of a tiny agent measured, and its last state."""
    state = start(TINY, world, KEY)
    found = []
    for chunk in range(probed_agent.chunks(TINY)):
        state, record = advance(TINY, world, state, chunk)
        found.append({**jax.device_get(record), "agent": state.agent, "state": state})
    return found


def test_the_first_chunk_measures_and_does_not_train(records: list[dict[str, Any]]) -> None:
    assert [int(record["agent"].learner.steps) for record in records] == [0, 20, 40]
    assert np.isnan(records[0]["td_loss"]) and np.isfinite(records[1]["td_loss"])
    name = "params/params/Dense_0/kernel"
    assert not np.array_equal(records[0][name], records[1][name])
    np.testing.assert_array_equal(
        records[2][name], records[2]["agent"].params["params"]["Dense_0"]["kernel"]
    )


def test_a_probe_leaves_the_agent_alone(world: World, records: list[dict[str, Any]]) -> None:
    """Training without probes ends with the same parameters."""
    state = start(TINY, world, KEY)
    task = ImageTask(state.mdp, world.images[mdp_agent.image_key(TINY)])
    unprobed, _ = train(mdp_agent.agent(TINY), task, state.agent, 20)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        unprobed.params, records[1]["agent"].params,
    )  # fmt: skip


# Where programs begin and end.

LONG = replaced(
    TINY,
    {"algorithm.target_period": 100, "optimizer": Optimizer("sgd", 0.01, weight_decay=0.1)}
    | {"sharpness_every": 200, "probe_every": 200},
)  # fmt: skip
CURED = replace(  # three events in a chunk, and one at its end that falls on the next
    TINY, cures=(ShrinkAndPerturb(), ResetOptimizer()), probe_every=40, sharpness_every=20
)
WAYS = {
    "short stretches, at once": (TINY, 30, {"train_at_once"}),
    "long stretches": (LONG, 200, {"draws", "train_stretch"}),
    "events": (
        replace(TINY, cures=(ResetLastLayer(),)), 30, {"draws", "train_stretch", "intervene"},
    ),
    "two cures, which keep a state": (CURED, 30, {"draws", "train_stretch", "intervene"}),
}  # fmt: skip
"""Arms, for how many steps they train, and the programs by which they do."""


def equal(found: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Check that two trees have equal keys and counts, and numbers that are as good as equal."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        if jnp.issubdtype(a.dtype, jnp.floating):
            name = jax.tree_util.keystr(path)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)
        else:
            assert bits(a) == bits(b)


@pytest.mark.parametrize("way", WAYS)
def test_training_by_parts_is_training_at_once(
    way: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside them the agent is one whose rates are constants of its program."""
    config, steps, names = WAYS[way]
    state, images = start(config, world, KEY), only(world)
    task, called = ImageTask(state.mdp, images), set[str]()
    assert probed_agent.keeps_state(config, images.shape[1:]) == (len(config.cures) > 1)

    def noting(name: str, part: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: called.add(name) or part(*arguments)

    for name in ("draws", "train_stretch", "train_at_once", "intervene"):
        monkeypatch.setattr(parts, name, noting(name, getattr(parts, name)))
    found = apart(probed_agent.train)(config, task, state.agent, steps)
    assert called == names
    learner = mdp_agent.agent(config, images.shape[1:])
    equal(found, train(learner, task, state.agent, steps))
    assert int(found[0].learner.steps) == steps


@pytest.mark.slow
@pytest.mark.parametrize("config", [LONG, CURED], ids=["plain", "cured"])
def test_a_chunk_by_parts_is_a_chunk_at_once(config: Config, world: World) -> None:
    whole = compiled(probed_agent.advance, static_argnums=0)
    state = start(config, world, KEY)
    for chunk in (0, 1):
        expected = whole(config, world, state, jnp.array(chunk))
        state, record = advance(config, world, state, chunk)
        equal(state, expected[0], rtol=1e-4, atol=1e-5)
        assert record.keys() == expected[1].keys()
        # fits take many steps, and a pair of gradients may be just as far apart as counts
        equal(record, expected[1], rtol=1e-3, atol=1e-3)
    assert int(state.agent.learner.steps) == config.probe_every


@pytest.mark.slow
def test_seeds_side_by_side_measure_what_single_seeds_do(world: World) -> None:
    keys = jax.random.split(KEY, 2)
    with programs.apart():
        lanes = jax.vmap(partial(probed_agent.start, CURED, world))(keys)
        lanes, seen = jax.vmap(lambda s: probed_agent.advance(CURED, world, s, 1))(lanes)
    for k, key in enumerate(keys):
        state, record = advance(CURED, world, start(CURED, world, key), 1)
        equal(jax.tree.map(lambda leaf, k=k: leaf[k], lanes), state, rtol=1e-4, atol=1e-5)
        equal(jax.tree.map(lambda leaf, k=k: leaf[k], seen), record, rtol=1e-3, atol=1e-3)


def test_the_record_is_what_probe_and_statistics_say(
    world: World, records: list[dict[str, Any]]
) -> None:
    params = records[2]["agent"].params
    images = world.images[mdp_agent.image_key(TINY)]
    state = start(TINY, world, KEY)
    found = probe.fit_all(
        lambda p, x: mdp_agent.forward(TINY, p, x).output, params, images,
        world.targets[mdp_agent.network_key(TINY)],
        mdp_agent.agent(TINY).optimizer, state.probe_key, steps=100, batch_size=8,
    )  # fmt: skip
    np.testing.assert_allclose(records[2]["loss"], found.loss, rtol=1e-3)
    np.testing.assert_allclose(records[2]["probe_loss"], found.loss.mean(), rtol=1e-3)
    hidden = mdp_agent.forward(TINY, params, images).hidden
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
    found = bank.reprobe(TINY, world, kept, seed=0)
    recorded = np.stack([record["loss"] for record in records])
    np.testing.assert_allclose(found["loss"], recorded, rtol=1e-3)
    other = bank.reprobe(TINY, world, kept, seed=1)
    assert not np.allclose(other["loss"], recorded, rtol=1e-4)
    other_key = r"not those of NetworkKey\(images=ImageKey\(.*n_images=60\), network=MLP"
    with pytest.raises(ValueError, match=rf"{other_key}(.|\n)*widths = \(16, 16\)"):
        wide = replaced(TINY, {"network.width": 16})
        bank.reprobe(wide, probed_agent.load([wide])[0], kept, seed=0)
    with pytest.raises(ValueError, match="holds no optimizer state"):
        bank.reprobe(replace(TINY, probe_state="carried"), world, kept, seed=0)


def test_the_carried_optimizer_state_makes_another_probe(
    world: World, records: list[dict[str, Any]]
) -> None:
    carried = replace(TINY, probe_state="carried")
    agent, key = records[2]["agent"], start(TINY, world, KEY).probe_key
    fresh = probe_record(TINY, world, agent, key)["probe_loss"]
    assert fresh != probe_record(carried, world, agent, key)["probe_loss"]


def test_a_cnn_runs_through_the_same_steps(world: World) -> None:
    state = start(WITH_CNN, world, KEY)
    for chunk in range(2):
        state, record = advance(WITH_CNN, world, state, chunk)
    assert np.isfinite(record["probe_loss"]) and record["diverged"] == 0
    assert record["params/params/Conv_0/kernel"].shape == (5, 5, 1, 2)
    check_landscape(WITH_CNN, world, state, record)


def test_a_two_hot_agent_is_probed_on_its_values(world: World) -> None:
    """And before the event that falls on the same step."""
    state, found = start(TWO_HOT, world, KEY), []
    for chunk in range(probed_agent.chunks(TWO_HOT)):
        before = state
        state, record = advance(TWO_HOT, world, state, chunk)
        found.append(jax.device_get(record))
    assert world.targets[mdp_agent.network_key(TWO_HOT)].shape == (2, 60, 10)
    for record in found[1:]:
        for name, value in record.items():
            assert np.isfinite(value).all(), name
        assert record["loss"].shape == (2,) and record["diverged"] == 0
    images = world.images[mdp_agent.image_key(TWO_HOT)]
    values = mdp_agent.agent(TWO_HOT).values(state.agent.params, images)
    assert np.abs(values).max() <= 2.0 and values.shape == (60, 10)
    np.testing.assert_allclose(record["mean_value"], values.max(axis=1).mean(), rtol=1e-4)
    (_, xi), _ = proxy_batch(60, mdp_agent.n_outputs(TWO_HOT), images, state.proxy_key)
    assert xi.shape == (60, 50)  # of logits, which are what the loss is made of
    check_landscape(TWO_HOT, world, state, record)
    # What was measured is what was trained: no layer is fresh at the end of a period.
    assert int(state.agent.learner.steps) == 20
    cure = mdp_agent.cure(TWO_HOT, images.shape[1:])
    assert cure.event is not None
    happened = cure.event(before.agent.event_key, before.agent.learner, Seen(None, ()))
    reset = before.agent._replace(learner=happened)
    trained, _ = train(mdp_agent.agent(TWO_HOT), ImageTask(state.mdp, images), reset, 10)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), trained.params, state.agent.params
    )
    kept = {
        name.removeprefix("params/"): np.stack([record[name] for record in found])
        for name in found[0]
        if name.startswith("params/")
    }
    again = bank.reprobe(TWO_HOT, world, kept, seed=0)
    np.testing.assert_allclose(again["loss"], [record["loss"] for record in found], rtol=1e-3)


@pytest.mark.parametrize("output", [Regression(), TWO_HOT.output], ids=lambda output: output.kind)
def test_a_probe_is_fitted_with_dropout_if_the_agent_is(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(TWO_HOT, network=ViT(width=8, feed_forward=8, heads=2), output=output)
    given: dict[str, Any] = {}

    def note(*arguments: Any, **named: Any) -> probe.Fits:
        given.update(named, apply=arguments[0])
        return probe.Fits(jnp.zeros(1), jnp.zeros((1, 2)), jnp.zeros((1, 2)))

    monkeypatch.setattr(probe, "fit_all", note)
    x = jnp.ones((2, 6, 6, 1))

    def begun(config: Config) -> tuple[World, dqn.State]:
        images, targets = ByKey({mdp_agent.image_key(config): x}), jnp.zeros((1, 2, 10))
        world = World(images, ByKey({}), ByKey({mdp_agent.network_key(config): targets}))
        params = compiled(lambda key: mdp_agent.initialise(config, (6, 6, 1), key))(KEY)
        learner = Learner(params, None, (), jnp.zeros((), jnp.int32))
        return world, dqn.State(learner, *[None] * 4)  # type: ignore[arg-type]

    world, agent = begun(config)
    params = agent.params
    record = getattr(probed_agent.probe_record, "__wrapped__", probed_agent.probe_record)
    record(config, world, agent, KEY)
    learner = mdp_agent.agent(config)
    dropped = mdp_agent.network(config, learning=True).apply(params, x)
    expected = learner.read(dropped.output)  # type: ignore[union-attr]
    goals = jax.random.normal(KEY, (2, 10))

    def missed(values: jax.Array) -> jax.Array:
        return jnp.mean((values - goals) ** 2)

    assert expected.shape == (2, 10)
    np.testing.assert_allclose(
        given["objective"](params, x, goals), [missed(expected)] * 2, rtol=1e-5
    )
    assert not np.allclose(given["apply"](params, x), expected, atol=1e-3)
    assert abs(missed(given["apply"](params, x)) / missed(expected) - 1) > 1e-3
    record(TINY, *begun(TINY), KEY)
    plain = begun(TINY)[1].params
    without = missed(given["apply"](plain, x))
    np.testing.assert_allclose(given["objective"](plain, x, goals), [without] * 2, rtol=1e-6)


def test_the_loss_that_a_two_hot_network_learns_by_has_its_gradient_where_values_have_none() -> (
    None
):
    """Where its softmax saturates: what `probe_loss` is for."""
    params = compiled(lambda key: mdp_agent.initialise(TWO_HOT, (6, 6, 1), key))(KEY)
    sure = params["params"]["Dense_2"]["bias"].reshape(10, 5).at[:, 0].set(300.0)
    params["params"]["Dense_2"]["bias"] = sure.ravel()
    x, goals = jnp.ones((2, 6, 6, 1)), jnp.full((2, 10), 1.5)
    own, squared = (
        jax.value_and_grad(parts.objective(TWO_HOT, loss), has_aux=True)(params, x, goals)
        for loss in ("own", "squared")
    )
    values = mdp_agent.agent(TWO_HOT).values(params, x)
    np.testing.assert_allclose(values, np.full((2, 10), -2.0), atol=1e-5)
    for (_, error), _ in (own, squared):  # both record the error of values
        np.testing.assert_allclose(error, 3.5**2, rtol=1e-5)
    np.testing.assert_allclose(own[0][0], 300.0, rtol=0.02)  # nats: each goal lies between two bins
    assert not jax.tree.reduce(lambda found, leaf: found or leaf.any(), squared[1], False)
    bias = own[1]["params"]["Dense_2"]["bias"].reshape(10, 5)
    # softmax minus target, over actions: half of 1.5 is at 1, half at 2
    np.testing.assert_allclose(bias, np.tile([1, 0, 0, -0.5, -0.5], (10, 1)) / 10, atol=1e-6)
    # without bins there is no other loss
    params = compiled(lambda key: mdp_agent.initialise(TINY, (6, 6, 1), key))(KEY)
    loss, error = parts.objective(TINY, "own")(params, x, goals)
    assert loss == error


def test_rows_at_the_end_are_of_the_last_probe_and_what_was_lost() -> None:
    def record(losses: list[float], diverged: float) -> dict[str, Any]:
        size = len(losses)
        arrays = {name: np.ones((size, 2)) for name in tables.ARRAYS}
        ends = np.array([0.0] * (size - 1) + [diverged])
        return arrays | {"probe_loss": np.array(losses), "diverged": ends}

    records = {
        ("b", 1): record([0.1, 0.9, 0.4], 0.0), ("b", 0): record([0.2, 0.1, 0.1], 0.0),
        ("a", 0): record([0.1, 0.2, np.nan], 1.0),
    }  # fmt: skip
    arms: dict[str, dict[str, Any]] = {"b": {}, "a": {"optimizer.name": "sgd"}}
    table, _ = tables.tidy(lambda config: arms, {"optimizer": "optimizer.name"}, TINY, records)
    found = tables.at_end(table, ["arm", "optimizer", "seed"])
    assert list(zip(found.arm, found.seed, strict=True)) == [("b", 1), ("b", 0), ("a", 0)]
    assert list(found.optimizer) == ["adam", "adam", "sgd"] and set(found.step) == {40}
    np.testing.assert_allclose(found.probe_loss, [0.4, 0.1, np.nan], rtol=1e-6)
    np.testing.assert_allclose(found.initial_loss, [0.1, 0.2, 0.1], rtol=1e-6)
    np.testing.assert_allclose(found.plasticity_loss, [0.3, -0.1, np.nan], rtol=1e-6)
    assert list(found.diverged) == [0, 0, 1]
    shuffled = table.sample(frac=1, random_state=0)  # probes in any order
    again = tables.at_end(shuffled, ["arm", "optimizer", "seed"]).set_index(["arm", "seed"])
    expected = found.set_index(["arm", "seed"])
    pd.testing.assert_frame_equal(again.loc[expected.index], expected)


def test_a_diverged_agent_is_flagged_and_goes_on(world: World) -> None:
    state = start(TINY, world, KEY)
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), state.agent.params)
    learner = state.agent.learner._replace(params=broken)
    state = state._replace(agent=state.agent._replace(learner=learner))
    for chunk in range(2):
        state, record = advance(TINY, world, state, chunk)
    assert record["diverged"] == 1 and record["accuracy"] == 0
    for name in (
        "probe_loss", "feature_rank", "dead_units", "weight_norm", "sharpness", "gradient_norm",
        "interference", "collinearity", "gradient_rank",
    ):  # fmt: skip
        assert np.isnan(record[name]), name
    assert np.isnan(record["sharpness_trace"]).all()


def test_fresh_networks_need_no_training(world: World) -> None:
    fresh = replace(TINY, probes=0, keep_parameters=False)
    state, record = advance(fresh, world, start(fresh, world, KEY), 0)
    assert probed_agent.chunks(fresh) == 1
    assert int(state.agent.learner.steps) == 0 and np.isfinite(record["probe_loss"])
    assert np.isfinite(record["sharpness"]) and np.isnan(record["sharpness_trace"]).all()


def test_an_agent_that_is_not_probed_needs_no_targets() -> None:
    plain, _ = probed_agent.load([AgentConfig(problem=TINY.problem)])
    assert not plain.targets and list(plain.images) == [mdp_agent.ImageKey("mnist_5k", 60)]
    mixed, _ = probed_agent.load([AgentConfig(problem=TINY.problem), TINY])
    assert list(mixed.targets) == [mdp_agent.network_key(TINY)]
    assert len(mixed.images) == 1 and mdp_agent.network_key(TINY).network.widths == (8, 8)


def bits(tree: Any) -> str:
    return checkpoints.digest(tree)


def test_equal_keys_start_equal_in_every_arm_and_other_keys_do_not(world: World) -> None:
    first, again = start(TINY, world, KEY), start(TINY, world, KEY)
    assert bits(first) == bits(again)
    sgd = start(replace(TINY, optimizer=Optimizer("sgd")), world, KEY)
    random = start(replaced(TINY, {"problem.variant": "random_label"}), world, KEY)
    for arm in (sgd, random):
        for name in ("probe_key", "proxy_key"):
            assert bits(getattr(arm, name)) == bits(getattr(first, name))
        assert bits(arm.agent.params) == bits(first.agent.params)
    assert bits(sgd.mdp) == bits(first.mdp) and bits(random.mdp) != bits(first.mdp)
    other = start(TINY, world, jax.random.key(1))
    for pick in (
        lambda state: state.agent.params, lambda state: state.agent.experience.buffer,
        lambda state: state.probe_key, lambda state: state.proxy_key,
    ):  # fmt: skip
        assert bits(pick(first)) != bits(pick(other))
    assert bits(first.probe_key) != bits(first.proxy_key)


# Curvature.


def by_hand(params: Any, x: jax.Array) -> jax.Array:
    """The MLP of two hidden layers, written out."""
    for k in range(3):
        layer = params["params"][f"Dense_{k}"]
        x = x @ layer["kernel"] + layer["bias"][None]
        x = jax.nn.relu(x) if k < 2 else x
    return x


def test_sharpness_is_the_largest_eigenvalue_of_the_proxy_losss_hessian(double: None) -> None:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(5, 2, 2, 1)))
    xi = jnp.asarray(rng.normal(size=(5, 10)))
    narrow = replace(TINY, network=MLP(width=3))
    started = mdp_agent.initialise(narrow, (2, 2, 1), KEY)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), started)
    outputs = by_hand(params, images.reshape(5, 4))

    @compiled
    def dense(params: Any) -> jax.Array:
        flat, unravel = jax.flatten_util.ravel_pytree(params)

        def loss(theta: jax.Array) -> jax.Array:  # the goals are fixed numbers: f + ξ, once
            return jnp.mean((by_hand(unravel(theta), images.reshape(5, 4)) - (outputs - xi)) ** 2)

        return jax.hessian(loss)(flat)

    values = np.linalg.eigvalsh(dense(params))
    assert values[-1] > 0.1 and len(values) == 4 * 3 + 3 + 3 * 3 + 3 + 3 * 10 + 10
    found = {}
    for order in (3, 40):
        design = mdp_agent.design(narrow)
        found[order] = float(sharpness(design, order, params, (images, xi), KEY))
    np.testing.assert_allclose(found[40], values[-1], rtol=1e-9)
    assert 0.3 * values[-1] < found[3] < values[-1]  # few products make a lower bound


def test_the_mean_of_the_examples_losses_is_the_proxy_loss(world: World) -> None:
    state = start(TINY, world, KEY)
    (images, xi), _ = proxy_batch(60, 10, only(world), state.proxy_key)
    params = state.agent.params
    inputs = TINY.network.inputs(images)

    def mean(params: Any) -> jax.Array:
        found = mdp_agent.network(TINY).apply(params, inputs)
        return jnp.mean(parts.proxy_losses(found, xi))

    loss = curvature.proxy_loss(lambda params, x: mdp_agent.forward(TINY, params, x).output)
    theirs, gradient = jax.value_and_grad(loss)(params, (images, xi))
    ours, other = jax.value_and_grad(mean)(params)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(ours, np.mean(np.square(xi)), rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()), other, gradient
    )
    each = parts.proxy_losses(mdp_agent.forward(TINY, params, images), xi)
    np.testing.assert_allclose(each, np.mean(np.square(xi), axis=1), rtol=1e-5)


def only(world: World) -> jax.Array:
    """The images."""
    images: jax.Array = world.images[mdp_agent.image_key(TINY)]
    return images


def check_landscape(
    config: Config, world: World, state: probed_agent.State, record: dict[str, Any]
) -> None:
    """Compare with the gradients of all examples, all of them held."""
    images, params = world.images[mdp_agent.image_key(config)], state.agent.params
    batch, key = proxy_batch(60, mdp_agent.n_outputs(config), images, state.proxy_key)

    def loss(params: Any, example: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, xi = example
        output = mdp_agent.forward(config, params, image[None]).output[0]
        return jnp.mean((output - jax.lax.stop_gradient(output) + xi) ** 2)

    gram = np.asarray(
        compiled(gradients.naive_gram, static_argnums=0)(loss, params, batch), np.float64
    )
    norms = np.sqrt(np.diag(gram))
    cosines = gram / np.outer(norms, norms)
    pairs = cosines[~np.eye(len(cosines), dtype=bool)]
    # Cosines are known to a few eps; of 3,540 pairs one may lie as near to -0.1.
    np.testing.assert_allclose(record["interference"], np.mean(pairs < -0.1), atol=1e-3)
    np.testing.assert_allclose(record["collinearity"], np.mean(np.abs(pairs)), rtol=1e-4)
    rank = ranks.effective_rank(jnp.asarray(cosines, jnp.float32))
    np.testing.assert_allclose(record["gradient_rank"], rank, rtol=1e-3)
    sharp = sharpness(mdp_agent.design(config), config.sharpness_order, params, batch, key)
    np.testing.assert_allclose(record["sharpness"], sharp, rtol=1e-3)
    gradient_norm = compiled(mdp_task.gradient_norm, static_argnums=0)
    norm = gradient_norm(mdp_agent.agent(config), ImageTask(state.mdp, images), state.agent)
    np.testing.assert_allclose(record["gradient_norm"], norm, rtol=1e-4)
    assert 0 < record["interference"] < 1 and record["collinearity"] > 0.01 and norm > 1e-4


@pytest.mark.parametrize("chunk", [0, 2])
def test_the_landscape_is_that_of_all_gradients_held(
    chunk: int, world: World, records: list[dict[str, Any]]
) -> None:
    check_landscape(TINY, world, records[chunk]["state"], records[chunk])


def test_sharpness_is_logged_in_training(world: World, records: list[dict[str, Any]]) -> None:
    traces = np.stack([record["sharpness_trace"] for record in records])
    assert traces.shape == (3, 2)
    assert np.isnan(traces[0]).all()  # before training there is nothing to log
    for record, trace in zip(records[1:], traces[1:], strict=True):
        np.testing.assert_allclose(trace[-1], record["sharpness"], rtol=1e-4)
    # The first entry is that of an agent half-way to its first probe.
    state = start(TINY, world, KEY)
    images = only(world)
    half, _ = train(mdp_agent.agent(TINY), ImageTask(state.mdp, images), state.agent, 10)
    batch, key = proxy_batch(60, 10, images, state.proxy_key)
    sharp = sharpness(mdp_agent.design(TINY), 3, half.params, batch, key)
    np.testing.assert_allclose(traces[1][0], sharp, rtol=1e-4)
    assert abs(traces[1][0] / records[0]["sharpness"] - 1) > 1e-3


def test_the_proxy_batch_is_a_draw_that_belongs_to_the_seed(
    world: World, records: list[dict[str, Any]]
) -> None:
    images, draw = only(world), partial(proxy_batch, 16, 10)
    keys = [record["state"].proxy_key for record in records]
    assert len({bits(key) for key in keys}) == 1  # equal at every measurement
    (pictures, xi), vector_key = draw(images, keys[0])
    assert bits(draw(images, keys[-1])) == bits(((pictures, xi), vector_key))
    assert pictures.shape == (16, 28, 28, 1) and xi.shape == (16, 10)
    flat = np.asarray(images).reshape(60, -1).tolist()
    chosen = [flat.index(picture) for picture in np.asarray(pictures).reshape(16, -1).tolist()]
    assert len(set(chosen)) == 16 and chosen != sorted(chosen)  # without replacement, at random
    assert abs(xi.mean()) < 5 * 160**-0.5 and abs(xi.std() - 1) < 5 * 320**-0.5
    pick, direction, vector = jax.random.split(keys[0], 3)  # three uses, three keys
    assert bits(images[jax.random.permutation(pick, 60)[:16]]) == bits(pictures)
    normal = programs.jit(lambda key: jax.random.normal(key, (16, 10)), "less")
    assert bits(normal(direction)) == bits(xi)
    assert bits(vector) == bits(vector_key)
    other_key = start(TINY, world, jax.random.key(1)).proxy_key
    (other_pictures, other_xi), other_vector = draw(images, other_key)
    assert bits(other_pictures) != bits(pictures)
    assert bits(other_xi) != bits(xi) and bits(other_vector) != bits(vector_key)


def test_the_table_has_the_scalars_and_the_arrays_are_stacked_over_seeds(
    records: list[dict[str, Any]],
) -> None:
    measured = [{k: v for k, v in r.items() if k not in ("agent", "state")} for r in records]
    record = {name: np.stack([row[name] for row in measured]) for name in measured[0]}
    other = record | {"sharpness_trace": 2 * record["sharpness_trace"]}
    table, arrays = tables.tidy(
        lambda config: {"a": {}}, {}, TINY, {("a", 0): record, ("a", 1): other}
    )
    np.testing.assert_array_equal(
        arrays["sharpness_trace/a"], [record["sharpness_trace"], other["sharpness_trace"]]
    )
    assert arrays["loss/a"].shape == (2, 3, 2)
    assert arrays["bank/a/params/Dense_0/kernel"].shape == (3, 784, 8)
    assert "sharpness_trace" not in set(table.metric)
    rows = table[(table.metric == "sharpness") & (table.seed == 0)]
    assert list(rows.step) == [0, 20, 40]
    np.testing.assert_array_equal(rows.value, record["sharpness"])


def test_the_source_names_every_set_and_counts_subsets_once() -> None:
    _, source = probed_agent.load([TINY, replace(TINY, problem=Problem(n_images=70))])
    assert source["records"] == 70 and source["dataset"] == "mnist_5k"
    assert set(source["sets"]) == {"mnist_5k-60", "mnist_5k-70"}  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm.discount": 1.0}, "discount"),
        ({"algorithm.warmup": 7}, "a batch must fit into the warm-up"),
        ({"algorithm.capacity": 19}, "must fit"),
        ({"probe_steps": 110}, "multiple of 50"),
        ({"seeds": 0}, "seeds = 0"),
        ({"optimizer.learning_rate": -1e-3}, "learning_rate"),
        ({"probes": -1}, "probes"),
        (
            {"sharpness_every": 8},
            "probe_every = 20: must be a multiple of sharpness_every = 8",
        ),
        ({"proxy_examples": 61}, "proxy_examples = 61: there are n_images = 60"),
        ({"sharpness_every": 0}, "sharpness_every = 0: must be above 0"),
        ({"sharpness_order": 0}, "sharpness_order = 0: must be above 0"),
        ({"proxy_examples": 0}, "proxy_examples = 0: must be above 0"),
    ],
)
def test_settings_that_cannot_run_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(configuration.ConfigError, match=message):
        replaced(TINY, changes)


def test_work_is_counted_in_proportion() -> None:
    assert probed_agent.flops(replace(TINY, n_targets=4, probes=0)) == 2 * probed_agent.flops(
        replace(TINY, probes=0)
    )
    assert probed_agent.flops(WITH_CNN) > 0
