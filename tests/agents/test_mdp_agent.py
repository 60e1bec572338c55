"""An agent by its settings, and every architecture with every intervention and both outputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import hurried
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plasticity import configuration, programs
from plasticity import learner as learning
from plasticity.agents import dqn, mdp_agent
from plasticity.agents.mdp_agent import AgentConfig
from plasticity.agents.mdp_task import ImageTask
from plasticity.agents.settings import DQN, Optimizer, Problem
from plasticity.chapters.interventions.run import INTERVENTIONS
from plasticity.configuration import replaced
from plasticity.cure import NONE, Cure, Seen
from plasticity.cures.settings import ResetLastLayer, ResetOptimizer, ShrinkAndPerturb
from plasticity.learner import Learner
from plasticity.networks import heads
from plasticity.networks.settings import CNN, MLP, ResNet18, TwoHot, ViT
from plasticity.worlds import classification_mdp
from plasticity.worlds.classification_mdp import VARIANTS, Variant

TINY = AgentConfig(
    problem=Problem(n_images=20), network=MLP(width=8),
    algorithm=DQN(warmup=8, capacity=20, batch_size=4, target_period=2),
)  # fmt: skip
NETWORKS = (TINY.network, CNN(channels=4, width=8), ViT(width=8, feed_forward=8, heads=2),
            ResNet18(width=4))  # fmt: skip
TWO_HOT = replace(TINY, output=TwoHot(bins=5, low=-2.0, high=2.0))
OUTPUTS = (TINY.output, TWO_HOT.output)
KEY = jax.random.key(0)
SIDE = 6  # of the images, in pixels

compiled = partial(
    jax.jit,
    compiler_options=hurried.UNFUSED
    | programs.supported({"xla_cpu_parallel_codegen_split_count": 1}),
)


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


# Settings.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "transformer"}, "network = 'transformer': expected one of mlp, cnn, resnet"),
        ({"network.width": 0}, "width = 0: must be above 0"),
        ({"network.layer_norm": 1}, "layer_norm = 1: expected true or false"),
        ({"output": "categorical"}, "output"),
        ({"cures": ("reset",)}, "cures"),
        ({"optimizer.weight_decay": -1e-5}, "weight_decay = -1e-05: must not be below 0"),
        ({"optimizer.name": "lion"}, "name = 'lion'"),
        ({"problem.n_images": 0}, "n_images = 0: must be above 0"),
        ({"first_seed": -1}, "first_seed = -1: must not be below 0"),
        ({"algorithm.epsilon": 2.0}, "epsilon = 2.0"),
        ({"algorithm.capacity": 2}, "and that into the buffer"),
    ],
)
def test_settings_that_cannot_run_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(configuration.ConfigError, match=message):
        replaced(TINY, changes)


def test_an_output_is_a_value_or_the_bins_of_one() -> None:
    assert (mdp_agent.n_outputs(TINY), mdp_agent.n_outputs(TWO_HOT)) == (10, 50)
    assert mdp_agent.agent(TINY).head == heads.SquaredError()
    assert mdp_agent.agent(TWO_HOT).head == heads.TwoHot((-2.0, -1.0, 0.0, 1.0, 2.0))
    logits = jnp.zeros((3, 50)).at[1, 7].set(50.0)  # all but certain: the second action's third bin
    found = mdp_agent.agent(TWO_HOT).read(logits.at[2, 49].set(50.0))
    expected = np.zeros((3, 10))  # with equal logits the middle of the bins
    expected[2, 9] = 2.0
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_output_layer_has_the_outputs_and_a_fresh_two_hot_agent_expects_the_middle() -> None:
    config = replace(TINY, output=TwoHot(bins=5, low=-1.0, high=3.0))
    for network in NETWORKS:
        chosen = replace(config, network=network)
        shapes = jax.eval_shape(lambda chosen=chosen: mdp_agent.initialise(chosen, (6, 6, 3), KEY))
        found = jax.eval_shape(partial(mdp_agent.forward, chosen), shapes, jnp.zeros((2, 6, 6, 3)))
        assert found.output.shape == (2, 50)
    params = mdp_agent.initialise(config, (6, 6, 1), KEY)
    values = mdp_agent.agent(config).values(params, jnp.zeros((1, 6, 6, 1)))
    np.testing.assert_allclose(values, np.full((1, 10), 1.0), atol=1e-5)  # of an image of zeros


def test_the_keys_of_targets_differ_wherever_a_network_or_its_images_do() -> None:
    own = {
        "mlp": {"width": 9}, "cnn": {"channels": 5, "width": 9, "stride": 1, "padding": "VALID"},
        "resnet": {"width": 8}, "vit": {"width": 16, "feed_forward": 9, "heads": 4},
    }  # fmt: skip
    every = {
        "problem.dataset": "cifar10_train", "problem.n_images": 21, "network.layer_norm": True,
        "network.spectral_norm": True,
    }  # fmt: skip
    bins = {"output.bins": 6, "output.low": -3.0, "output.high": 3.0}
    configs = []
    for network, output in itertools.product(NETWORKS, OUTPUTS):
        base = replace(TINY, network=network, output=output)
        sizes = {f"network.{name}": value for name, value in own[network.kind].items()}
        changes = sizes | every | (bins if output.kind == "two_hot" else {})
        configs += [base, *(replaced(base, {path: value}) for path, value in changes.items())]
    keys = [mdp_agent.network_key(config) for config in configs]
    assert len(set(keys)) == len(keys) == 2 * (4 + 9 + 4 * 4) + 3 * 4
    # and are equal where only the task, the optimizer or a cure does
    for path, value in {
        "problem.variant": "random_label", "optimizer.name": "sgd", "algorithm.double": True,
        "optimizer.learning_rate": 1e-4, "optimizer.weight_decay": 1e-5,
        "cures": (ShrinkAndPerturb(),),
    }.items():  # fmt: skip
        assert mdp_agent.network_key(replaced(TINY, {path: value})) == mdp_agent.network_key(TINY)


# What an agent is made of.


def test_an_agent_has_its_cure_if_the_shape_of_its_images_is_known() -> None:
    cures = (ResetLastLayer(), ShrinkAndPerturb(), ResetOptimizer())
    names = ("reset_layer", "shrink_and_perturb", "reset_optimizer")
    for chosen, name in ((cures[:1], names[0]), (cures[1:2], names[1]), (cures, "+".join(names))):
        config = replace(TINY, cures=chosen)
        found = mdp_agent.agent(config, (SIDE, SIDE, 1)).cure
        assert (found.name, found.every) == (name, TINY.algorithm.target_period)
        assert found.event is not None and found.penalty is None and found.project is None
        assert mdp_agent.agent(config).cure == NONE
    assert mdp_agent.agent(TINY, (SIDE, SIDE, 1)).cure == NONE


@pytest.mark.parametrize("network", NETWORKS[:2], ids=lambda network: network.kind)
def test_an_agent_tells_what_its_hidden_layers_compute(network: MLP | CNN) -> None:
    config = replace(TINY, network=network)
    params, x = fresh(config, (SIDE, SIDE, 1)), jnp.ones((2, SIDE, SIDE, 1))
    hidden = mdp_agent.agent(config).activations(params, x)
    expected = mdp_agent.forward(config, params, x).hidden
    assert len(hidden) == len(expected) == (2 if network.kind == "mlp" else 4)
    assert bits(hidden) == bits(expected)


def test_weight_decay_is_part_of_the_gradient() -> None:
    """What SGD makes of it shows it: a step of the learning rate times 1e-5 of the parameters."""
    config = replace(TINY, optimizer=Optimizer("sgd", 0.5, weight_decay=1e-5))
    rng = np.random.default_rng(0)
    params, gradient = (
        {"w": jnp.asarray(size * rng.normal(size=(4, 3)), jnp.float32)} for size in (1e4, 0.1)
    )
    optimizer = mdp_agent.optimizer(config)
    update, _ = optimizer.update(gradient, optimizer.init(params), params)
    expected = -0.5 * (np.asarray(gradient["w"]) + 1e-5 * np.asarray(params["w"]))
    np.testing.assert_allclose(update["w"], expected, rtol=1e-5, atol=1e-7)
    # so Adam scales it with the rest, which decoupled weight decay would not
    adam, plain = (
        mdp_agent.optimizer(replace(config, optimizer=Optimizer("adam", 0.5, decay)))
        for decay in (1e-5, 0.0)
    )
    decayed = jax.tree.map(lambda g, p: g + jnp.float32(1e-5) * p, gradient, params)
    ours, _ = adam.update(gradient, adam.init(params), params)
    theirs, _ = plain.update(decayed, plain.init(params), params)
    np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "advances"),
    [
        ({}, False),
        ({"network": NETWORKS[3], "network.layer_norm": True}, False),
        ({"network.spectral_norm": True}, True),
        ({"network": NETWORKS[2]}, True),
        (
            {"network": NETWORKS[2], "network.spectral_norm": True, "optimizer.weight_decay": 1e-5},
            True,
        ),
    ],
    ids=str,
)
@pytest.mark.usefixtures("shallow")
def test_the_optimizer_advances_what_a_network_keeps(
    changes: dict[str, Any], advances: bool
) -> None:
    config = replaced(TINY, changes)
    variables = fresh(config, (SIDE, SIDE, 1))
    assert (variables.keys() > {"params"}) is advances
    optimizer = mdp_agent.optimizer(config)

    @compiled
    def stepped(variables: Any) -> Any:
        still = jax.tree.map(jnp.zeros_like, variables)
        update, _ = optimizer.update(still, optimizer.init(variables), variables)
        return optax.apply_updates(variables, update)

    moved = stepped(variables)
    for name in variables.keys() - {"params"}:
        assert bits(moved[name]) != bits(variables[name])
        assert len(bits(moved[name])) == 1


def test_dropout_is_for_learning_alone() -> None:
    config = replace(TINY, network=NETWORKS[2])
    assert mdp_agent.learning(TINY) is None
    found = mdp_agent.agent(config)
    params = fresh(config, (SIDE, SIDE, 1))
    x = jnp.ones((2, SIDE, SIDE, 1))
    outputs, values = found.outputs(params, x), found.values(params, x)
    assert not np.allclose(outputs, values, atol=1e-3)
    again = params | {"dropout": jax.tree.map(lambda counter: counter + 1, params["dropout"])}
    assert not np.allclose(found.outputs(again, x), outputs, atol=1e-3)
    np.testing.assert_array_equal(found.values(again, x), values)


@pytest.mark.parametrize(
    ("network", "dataset", "positions"),
    [
        (NETWORKS[0], "mnist_5k", {}),
        (NETWORKS[0], "cifar10_train", {}),
        (NETWORKS[1], "mnist_5k", {"Conv_0": 14**2, "Conv_1": 7**2}),
        (NETWORKS[1], "cifar10_train", {"Conv_0": 16**2, "Conv_1": 8**2}),
        (CNN(channels=4, width=8, stride=1), "mnist_5k", {"Conv_0": 28**2, "Conv_1": 28**2}),
    ],
)
def test_a_multiplication_is_an_entry_of_a_kernel_at_a_position(
    network: MLP | CNN, dataset: str, positions: dict[str, int]
) -> None:
    config = replaced(TINY, {"network": network, "problem.dataset": dataset})
    shape = (28, 28, 1) if dataset == "mnist_5k" else (32, 32, 3)
    params = jax.eval_shape(lambda: mdp_agent.initialise(config, shape, KEY))
    expected = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        layer, kind = (step.key for step in path[-2:])
        expected += leaf.size * positions.get(layer, 1) if kind == "kernel" else 0
    assert mdp_agent.multiplications(config) == expected


@pytest.mark.parametrize(
    ("network", "least"),
    [
        (NETWORKS[3], 9 * 28**2 * (1 * 4 + 4 * 4 * 4)),
        (NETWORKS[2], 100 * 9 * 8 + 101 * 6 * 8 * 8 + 2 * 101**2 * 8),
    ],
)
def test_the_work_of_other_networks_is_at_least_that_of_their_largest_products(
    network: ResNet18 | ViT, least: int
) -> None:
    """Of a ResNet the stem and its first stage, of a ViT all layers on a hundred patches."""
    found = mdp_agent.multiplications(replace(TINY, network=network))
    assert least < found < 10 * least


# What programs depend on.


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"problem": Problem("random_label", "cifar10_train", 99), "seeds": 3}, True),
        ({"optimizer.learning_rate": 1e-5}, True),
        ({"cures": (ShrinkAndPerturb(),)}, True),  # events are programs of their own
        ({"optimizer.weight_decay": 1e-5}, False),  # one more term
        ({"optimizer.name": "sgd"}, False),
        ({"network.layer_norm": True}, False),
        ({"output": TWO_HOT.output}, False),
        ({"algorithm.discount": 0.5}, False),
    ],
)
def test_agents_share_a_design_if_they_differ_only_in_what_programs_are_given(
    changes: dict[str, Any], shared: bool
) -> None:
    changed = replaced(TINY, changes)
    assert (mdp_agent.design(changed) == mdp_agent.design(TINY)) is shared
    cured = mdp_agent.design(changed, cured=True)
    assert cured.cures == changed.cures and mdp_agent.design(cured) == mdp_agent.design(changed)
    twice = replaced(changed, {"optimizer.weight_decay": 2 * changed.optimizer.weight_decay})
    assert mdp_agent.design(twice) == mdp_agent.design(changed)


# Every architecture with every intervention and both outputs.


def fresh(config: AgentConfig, shape: tuple[int, ...]) -> Any:
    """Parameters of the right shapes: a network's own start would take seconds to compile."""
    shapes = jax.eval_shape(lambda: mdp_agent.initialise(config, shape, KEY))
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> jax.Array:
        name = path[-1].key
        if name in ("bias", "scale", "counter"):
            return jnp.asarray(np.full(leaf.shape, name == "scale", np.float32))
        fan_in = max(1, np.prod(leaf.shape[:-1]))
        return jnp.asarray(rng.normal(size=leaf.shape) * fan_in**-0.5, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


STRUCTURES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "layer_norm": {"network.layer_norm": True},
    "spectral_norm": {"network.spectral_norm": True},
}
"""What makes another network, and so another program."""

WITHIN = tuple(name for name in INTERVENTIONS if name not in STRUCTURES)
"""Interventions on one and the same network: they share its program and are chosen in it."""


def cover() -> list[Any]:
    """A case for each network and structure, and a spread over the rest.

    It has all pairs of two settings. All combinations are the study ``smoke`` of interventions.
    """
    cases = []
    for (a, network), (s, structure) in itertools.product(
        enumerate(NETWORKS), enumerate(STRUCTURES)
    ):
        output = OUTPUTS[(a + s) % 2]
        changes = {
            "network": network, "output": output, "algorithm.double": (a // 2 + s) % 2 == 1,
            "problem.variant": VARIANTS[(a + s) % 3],
            "optimizer.name": ("adam", "rmsprop")[(a // 2 + s // 2) % 2],
        }  # fmt: skip
        config = replaced(TINY, changes | STRUCTURES[structure])
        case = f"{network.kind}-{output.kind}-{structure}"
        cases.append(pytest.param(config, (1, 3)[(a + s // 2) % 2], id=case))
    return cases


CASES = cover()


def test_the_cover_has_all_pairs() -> None:
    assert set(WITHIN) | set(STRUCTURES) == {*INTERVENTIONS, "plain"}
    columns: list[Callable[[AgentConfig, int], object]] = [
        lambda c, d: c.network.kind, lambda c, d: c.output.kind, lambda c, d: c.problem.variant,
        lambda c, d: (c.network.layer_norm, c.network.spectral_norm),
        lambda c, d: c.algorithm.double, lambda c, d: c.optimizer.name, lambda c, d: d,
    ]  # fmt: skip
    for a, b in itertools.combinations(columns, 2):
        pairs = {(a(*case.values), b(*case.values)) for case in CASES}
        assert len(pairs) == len({x for x, _ in pairs}) * len({y for _, y in pairs})


@cache
def problem(variant: Variant, depth: int) -> ImageTask:
    labels = jnp.arange(20, dtype=jnp.int32) % 10
    pixels = np.random.default_rng(depth).normal(size=(20, SIDE, SIDE, depth))
    mdp = classification_mdp.make(variant, labels, KEY)
    return ImageTask(mdp, jnp.asarray(pixels, jnp.float32))


@cache
def walked(variant: Variant) -> dqn.State:
    """The start of all agents but for their networks."""
    return compiled(partial(dqn.start, mdp_agent.agent(TINY)))(problem(variant, 1), {}, KEY)


def begin(config: AgentConfig, depth: int) -> dqn.State:
    params = fresh(config, (SIDE, SIDE, depth))
    learner = compiled(partial(learning.start, mdp_agent.optimizer(config)))(params)
    return walked(config.problem.variant)._replace(learner=learner, target_params=params)


def trainer(config: AgentConfig, depth: int) -> Callable[[dqn.State, int], Any]:
    """Four steps of the agent with the intervention of this index: one program for them all."""
    task = problem(config.problem.variant, depth)
    arms = [replaced(config, INTERVENTIONS[name]) for name in WITHIN]
    agent, shape = mdp_agent.agent(config), task.images.shape[1:]
    plain, events = mdp_agent.optimizer(config), [mdp_agent.cure(arm, shape).event for arm in arms]

    @compiled
    def train(state: dqn.State, index: Any) -> tuple[dqn.State, dqn.Metrics]:
        def update(gradient: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
            """By the arm's own optimizer; that with weight decay has an empty state before it."""

            def decayed(opt_state: Any) -> tuple[Any, Any]:
                step, (_, inner) = mdp_agent.optimizer(arms[WITHIN.index("weight_decay")]).update(
                    gradient, (optax.EmptyState(), opt_state), params
                )
                return step, inner

            def undecayed(opt_state: Any) -> tuple[Any, Any]:
                return plain.update(gradient, opt_state, params)

            decays = index == WITHIN.index("weight_decay")
            return jax.lax.cond(decays, decayed, undecayed, opt_state)

        def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
            happening = [event or (lambda key, learner, seen: learner) for event in events]
            found: Learner = jax.lax.switch(index, happening, key, learner, seen)
            return found

        optimizer = optax.GradientTransformation(plain.init, update)
        one_of_them = Cure("one of them", event=event, every=config.algorithm.target_period)
        learner = replace(agent, optimizer=optimizer, cure=one_of_them)
        return dqn.train(learner, task, state, 4)

    @compiled
    def train_alone(state: dqn.State, index: int) -> tuple[dqn.State, dqn.Metrics]:
        return dqn.train(agent, task, state, 4)

    return train_alone if is_alone(config) else train


def is_alone(config: AgentConfig) -> bool:
    return config.network.layer_norm or config.network.spectral_norm


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(("config", "depth"), CASES)
def test_every_architecture_trains_with_every_intervention_and_both_outputs(
    config: AgentConfig, depth: int
) -> None:
    train, begun = trainer(config, depth), begin(config, depth)
    names = ("none",) if is_alone(config) else WITHIN
    found = {}
    for name in names:
        first, early = train(begun, WITHIN.index(name))
        state, late = train(first, WITHIN.index(name))
        assert int(state.learner.steps) == 8
        assert bool(learning.is_finite((begun.params, state.params, state.target_params)))
        losses = [early["td_loss"], late["td_loss"]]
        assert np.isfinite(losses).all() and np.min(losses) > 0
        # every layer learns, and what is beside the parameters goes on
        still = [
            jax.tree_util.keystr(path)
            for path, same in jax.tree_util.tree_leaves_with_path(
                jax.tree.map(np.array_equal, begun.params, state.params)
            )
            if same
        ]
        assert still == [], name
        if config.network.kind == "vit":
            assert state.params["dropout"]["counter"] == 8
        found[name] = state
    for name, state in found.items():
        if name != "none":  # something happened
            assert bits(state.params) != bits(found["none"].params), name
        if config.optimizer.name == "adam":
            (steps,) = optax.tree.get_all_with_path(state.learner.opt_state, "count")
            # the last event at the sixth step; what falls on the eighth is yet to come
            assert steps[1] == (2 if name == "reset_optimizer" else 8)
