"""A cure of units and a penalty that no file of the package knows, in every learner that it has.

What CONTRIBUTING shows: a cure is written in one place, and trains the agent of the MDPs, the agent
of the Atari games and a supervised learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from plasticity import learner as learning
from plasticity.agents import dqn, supervised
from plasticity.agents.atari_task import GameTask
from plasticity.agents.mdp_task import ImageTask
from plasticity.agents.settings import CentredRMSProp
from plasticity.cure import NONE, Cure, Seen, combined
from plasticity.cures import slots
from plasticity.networks import architectures, trace
from plasticity.networks.heads import Huber
from plasticity.worlds import atari, atari_callback, classification_mdp, image_sets

KEY = jax.random.key(0)


def renew_quiet(
    wiring: Sequence[trace.Wiring], init: Any, optimizer: optax.GradientTransformation, every: int
) -> Cure:
    """Begin the quietest unit of each layer anew; count how often."""

    def event(key: jax.Array, learner: Any, seen: Seen) -> Any:
        sizes = [
            jnp.abs(h).reshape(-1, layer.units).mean(axis=0)
            for h, layer in zip(seen.hidden, wiring, strict=True)
        ]
        quietest = [jnp.arange(len(size)) == jnp.argmin(size) for size in sizes]
        learner = slots.renew_units(optimizer, wiring, quietest, init(key), learner)
        return learner._replace(cure_state=learner.cure_state + 1)

    return Cure(
        "renew_quiet", init=lambda key, params: jnp.zeros((), jnp.int32), event=event, every=every
    )


def towards_start(strength: float) -> Cure:
    """Pull the parameters to where they began, as L2-Init does."""

    def penalty(origin: Any, params: Any, aux: Any) -> jax.Array:
        moved = jax.tree.map(jnp.subtract, params, origin)
        found: jax.Array = strength * optax.tree.norm(moved, squared=True)
        return found

    return Cure(
        "towards_start", init=lambda key, params: jax.tree.map(jnp.copy, params), penalty=penalty
    )


def both(wiring: Any, init: Any, optimizer: Any, every: int, strength: float = 1e-2) -> Cure:
    return combined(renew_quiet(wiring, init, optimizer, every), towards_start(strength))


# A supervised learner.

NETWORK = architectures.MLP((8, 6), 3)
X = jax.random.normal(jax.random.key(1), (40, 5))
Y = jax.random.normal(jax.random.key(2), (40, 3))
PARAMS = NETWORK.init(KEY, X)
WIRING = trace.wirings(NETWORK, PARAMS, X)
ADAM = optax.adam(1e-2)


def fresh(key: jax.Array) -> Any:
    return NETWORK.init(key, X)


def loss(params: Any, batch: jax.Array) -> tuple[jax.Array, None]:
    predict = architectures.predictions(NETWORK)
    return jnp.mean((predict(params, X[batch]) - Y[batch]) ** 2), None


def seen(params: Any, batch: jax.Array) -> Seen:
    return Seen(X[batch], trace.unit_activations(NETWORK, WIRING)(params, X[batch]))


def fit(cure: Cure, steps: int = 20) -> tuple[learning.Learner, jax.Array]:
    begun = learning.start(ADAM, PARAMS, cure, KEY)
    batches = jax.random.randint(KEY, (steps, 16), 0, len(X))
    train = jax.jit(lambda learner: supervised.train(ADAM, loss, learner, batches, cure, KEY, seen))
    found: tuple[learning.Learner, jax.Array] = train(begun)
    return found


def test_a_supervised_learner_trains_with_both() -> None:
    learner, losses = fit(both(WIRING, fresh, ADAM, every=8))
    count, origin = learner.cure_state
    assert int(count) == 2  # after steps 8 and 16
    assert losses[-1] < losses[0]
    for before, leaf in zip(jax.tree.leaves(PARAMS), jax.tree.leaves(origin), strict=True):
        np.testing.assert_array_equal(before, leaf)


def test_without_a_cure_learning_is_the_same_program() -> None:
    def program(cure: Cure) -> str:
        begun = learning.start(ADAM, PARAMS, cure, KEY)._replace(cure_state=())
        batches = jnp.zeros((3, 16), jnp.int32)
        train = jax.make_jaxpr(lambda x: supervised.train(ADAM, loss, x, batches, cure, KEY, seen))
        return str(train(begun))

    assert program(combined(NONE, NONE)) == program(NONE)


def test_without_strength_and_events_nothing_changes_but_rounding() -> None:
    plain, losses = fit(NONE)
    never = both(WIRING, fresh, ADAM, every=1_000, strength=0.0)
    learner, same = fit(never)
    np.testing.assert_allclose(losses, same, rtol=1e-5)  # another program, fused in other ways
    for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(learner.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_renewed_unit_has_fresh_weights_and_slots_and_goes_on_learning() -> None:
    """The effect: what an event puts into the network is what the optimizer trains from then on."""
    cure = renew_quiet(WIRING, fresh, ADAM, every=8)
    (before, _), (after, _) = (fit(NONE, steps=8), fit(cure, steps=8))
    first, second = WIRING
    kernels = {name: np.asarray(leaf) for name, leaf in trace.leaf_paths(before.params).items()}
    renewed = {name: np.asarray(leaf) for name, leaf in trace.leaf_paths(after.params).items()}
    batches = jax.random.randint(KEY, (8, 16), 0, len(X))
    quiet = [
        int(np.argmin(np.abs(h).mean(axis=0))) for h in seen(before.params, batches[-1]).hidden
    ]
    new = fresh(jax.random.fold_in(KEY, 8))
    drawn = {name: np.asarray(leaf) for name, leaf in trace.leaf_paths(new).items()}
    np.testing.assert_array_equal(
        renewed[first.incoming][:, quiet[0]], drawn[first.incoming][:, quiet[0]]
    )
    assert (renewed[second.outgoing[0]][quiet[1]] == 0).all()
    assert renewed[second.incoming][quiet[0], quiet[1]] == 0, "between two renewed units"
    others = np.delete(renewed[first.incoming], quiet[0], axis=1)
    np.testing.assert_array_equal(others, np.delete(kernels[first.incoming], quiet[0], axis=1))
    adam: Any = after.opt_state
    moments = {name: np.asarray(leaf) for name, leaf in trace.leaf_paths(adam[0].mu).items()}
    assert (moments[first.incoming][:, quiet[0]] == 0).all()
    assert (np.delete(moments[first.incoming], quiet[0], axis=1) != 0).any()
    assert int(adam[0].count) == 8  # one count for all entries: it goes on
    later, _ = fit(cure, steps=12)
    trained = np.asarray(trace.leaf_paths(later.params)[first.incoming])
    assert (trained[:, quiet[0]] != renewed[first.incoming][:, quiet[0]]).any()


# The agent of the classification MDPs.


def test_the_agent_of_the_mdps_trains_with_both() -> None:
    network = architectures.MLP((8, 6), 10)
    digits = image_sets.synthetic(60, (4, 4, 1))
    images = jnp.asarray(image_sets.standardise(digits.pixels))
    labels = jnp.asarray(digits.labels, jnp.int32)
    task = ImageTask(classification_mdp.make("true_label", labels, KEY), images)
    params = network.init(KEY, images[:1])
    wiring = trace.wirings(network, params, images[:1])
    agent = dqn.Agent(
        apply=architectures.predictions(network), hidden=trace.unit_activations(network, wiring),
        optimizer=ADAM, target_period=10, batch_size=4, epsilon=0.1, warmup=8, capacity=32,
    )  # fmt: skip
    cure = both(wiring, lambda key: network.init(key, images[:1]), ADAM, every=4)
    cured = replace(agent, cure=cure)
    train = jax.jit(dqn.train, static_argnums=(0, 3))
    state, _ = train(cured, task, dqn.start(cured, task, params, KEY), 20)
    plain, _ = train(agent, task, dqn.start(agent, task, params, KEY), 20)
    count, _ = state.learner.cure_state
    assert int(count) == 4  # after steps 4, 8, 12, 16; that of 20 comes before the next step
    assert plain.learner.cure_state == ()
    assert int(state.learner.steps) == int(plain.learner.steps) == 20
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))
    halves, _ = train(cured, task, dqn.start(cured, task, params, KEY), 10)
    halves, _ = train(cured, task, halves, 10)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(halves.params), strict=True):
        np.testing.assert_array_equal(a, b)


# The agent of the Atari games.


def test_the_agent_of_atari_games_trains_with_both() -> None:
    pytest.importorskip("ale_py", reason="the Atari games need ale_py")
    short = atari.Preprocessing(size=36, episode_frames=60, stack=2)
    task = GameTask(atari_callback.Emulators("pong", 1, short, "own cures"))
    network = architectures.NatureCNN(task.actions)
    shape = jnp.zeros((1, 36, 36, 2), jnp.uint8)
    params = jax.jit(network.init)(KEY, shape)
    wiring = trace.wirings(network, params, shape)
    optimizer = CentredRMSProp().transformation()
    agent = dqn.Agent(
        apply=architectures.predictions(network), hidden=trace.unit_activations(network, wiring),
        optimizer=optimizer, head=Huber(), double=True, target_period=4, actions_per_step=2,
        epsilon=optax.linear_schedule(1.0, 0.1, 25), batch_size=2, warmup=4, capacity=40,
        cure=both(wiring, lambda key: network.init(key, shape), optimizer, every=3),
    )  # fmt: skip
    life = jax.jit(lambda key: dqn.train(agent, task, dqn.start(agent, task, params, key), 8))
    state, _ = life(KEY)
    count, _ = state.learner.cure_state
    assert int(count) == 2  # after steps 3 and 6
    assert int(state.learner.steps) == 8
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))


def test_contributing_shows_these_two_in_25_lines(repository: Path) -> None:
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = text.partition("```python\n")[2].partition("```")[0]
    assert len([line for line in shown.splitlines() if line]) <= 25
    names: dict[str, Any] = {"jax": jax, "jnp": jnp, "optax": optax, "Cure": Cure, "slots": slots}
    exec(shown, names)
    cure = combined(names["renew_quiet"](WIRING, fresh, ADAM, 8), names["towards_start"](1e-2))
    (learner, losses), (same, ours) = fit(cure), fit(both(WIRING, fresh, ADAM, every=8))
    jax.tree.map(np.testing.assert_array_equal, (losses, learner), (ours, same))


def test_no_file_of_the_package_knows_these_cures(repository: Any) -> None:
    for path in (repository / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "renew_quiet" not in text and "towards_start" not in text
