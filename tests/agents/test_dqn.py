"""The agent against a plain Python loop that takes the same random numbers, and what it learns."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hurried import compiled

from plasticity.agents import dqn, mdp_task, q_learning, replay
from plasticity.agents.dqn import Agent, State
from plasticity.agents.mdp_task import ImageTask
from plasticity.cure import Cure, Seen, combined
from plasticity.learner import Learner, Taken, is_finite
from plasticity.networks.heads import TwoHot
from plasticity.worlds import classification_mdp
from plasticity.worlds.classification_mdp import MDP, VARIANTS, Variant

KEY = jax.random.key(0)
N, PIXELS = 60, 6
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(N, PIXELS)), jnp.float32)
LABELS = jnp.asarray(np.random.default_rng(1).permutation(np.arange(N) % 10), jnp.int32)
TWO_HOT = TwoHot((-1.0, 0.0, 0.5, 1.0, 3.0))


def apply(params: Any, x: jax.Array) -> jax.Array:
    """One hidden layer, written out: a module's own start would take seconds to compile."""
    hidden = jax.nn.relu(x @ params["w"] + params["b"][None])
    return hidden @ params["v"] + params["c"][None]


def draw(outputs: int, hidden: int = 8, pixels: int = PIXELS, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {"w": (pixels, hidden), "b": (hidden,), "v": (hidden, outputs), "c": (outputs,)}
    sizes = {"w": pixels**-0.5, "b": 0.1, "v": hidden**-0.5, "c": 0.1}
    return {
        name: jnp.asarray(rng.normal(size=shape) * sizes[name], jnp.float32)
        for name, shape in shapes.items()
    }


AGENT = Agent(
    apply=apply, optimizer=optax.sgd(0.02, momentum=0.9), discount=0.9, target_period=8,
    batch_size=8, epsilon=0.5, warmup=20, capacity=30,
)  # fmt: skip


@pytest.fixture(scope="module")
def task() -> ImageTask:
    return ImageTask(classification_mdp.make("sparse_reward", LABELS, KEY), IMAGES)


start = compiled(dqn.start, static_argnums=0)
step_of_mdp = compiled(classification_mdp.step)
# Compiled for each agent and number of steps, hence few of them here.
train = compiled(dqn.train, static_argnums=(0, 3))


@pytest.fixture(scope="module")
def begun(task: ImageTask) -> State:
    """An agent at its start; it is the same for all agents with as many outputs."""
    return start(AGENT, task, draw(10), jax.random.key(1))


def bits(tree: Any) -> list[bytes]:
    def raw(leaf: jax.Array) -> bytes:
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes()

    return [raw(leaf) for leaf in jax.tree.leaves(tree)]


# Training.


def dim(params: Any) -> Any:
    return params | {"w": params["w"] * jnp.array([0.5, 1.0] * 4)[None]}


def dimmed(params: Any, x: jax.Array) -> jax.Array:
    """The network as the loss sees it, where that differs."""
    return apply(dim(params), x)


class Loop:
    """The agent of §5.1 and A.2, slowly: lists, one network evaluation wherever one is needed."""

    def __init__(self, agent: Agent, mdp: MDP, state: State) -> None:
        self.agent, self.mdp = agent, mdp
        self.params = self.target = state.params
        self.opt_state, self.key = agent.optimizer.init(state.params), state.key
        self.support = agent.head.support if isinstance(agent.head, TwoHot) else ()
        seen = state.experience
        self.where = int(seen.environment.state)
        self.image = int(seen.environment.observation)
        items = [np.asarray(x)[: agent.warmup] for x in seen.buffer.items]
        self.slots: list[Any] = list(zip(*items, strict=True))
        self.added, self.steps = agent.warmup, 0
        self.losses: list[float] = []
        self.rewards: list[float] = []
        self.gradient = jax.jit(jax.value_and_grad(self.loss))
        self.evaluate = jax.jit(self.values)

    def learned(self, params: Any) -> Any:
        """What the loss sees in place of the parameters."""
        return dim(params) if self.agent.learning else params

    def outputs(self, params: Any, x: jax.Array) -> jax.Array:
        found = apply(params, x)
        return found.reshape(len(x), 10, -1) if self.support else found

    def values(self, params: Any, x: jax.Array) -> jax.Array:
        if not self.support:
            return self.outputs(params, x)
        weights = jnp.exp(self.outputs(params, x))
        atoms = jnp.asarray(self.support)[None, None]
        return jnp.sum(weights * atoms, -1) / jnp.sum(weights, -1)

    def loss(self, params: Any, x: jax.Array, actions: jax.Array, goals: jax.Array) -> jax.Array:
        """Of scalar goals (batch,), or of distributions (batch, bins)."""
        found = self.outputs(self.learned(params), x)[jnp.arange(len(x)), actions]
        if self.support:
            found = found - jnp.log(jnp.sum(jnp.exp(found), -1, keepdims=True))
            return jnp.mean(-jnp.sum(goals * found, -1))
        return jnp.mean((found - goals) ** 2)

    def see(self, params: Any, images: list[int]) -> np.ndarray:
        return np.asarray(self.evaluate(params, IMAGES[np.array(images)]))

    def encode(self, target: float) -> np.ndarray:
        """Interpolate the corners of the identity."""
        atoms = np.array(self.support)
        return np.array([np.interp(target, atoms, row) for row in np.eye(len(atoms))])

    def step(self, draws: tuple[Any, Any, Any, Any]) -> None:
        explore, chance, key, uniform = draws
        action = int(chance) if explore else int(self.see(self.params, [self.image])[0].argmax())
        reward = float(self.mdp.reward[self.where, action])
        before = classification_mdp.State(jnp.asarray(self.where), jnp.asarray(self.image))
        after, _ = step_of_mdp(key, before, jnp.asarray(action), self.mdp)
        seen = (self.image, action, reward, int(after.observation))
        self.where, self.image = int(after.state), int(after.observation)
        self.rewards.append(reward)
        if len(self.slots) < self.agent.capacity:
            self.slots.append(seen)
        else:
            self.slots[self.added % self.agent.capacity] = seen
        self.added += 1

        batch = [self.slots[int(u * len(self.slots))] for u in np.asarray(uniform)]
        images, actions, goals = self.problem(batch)
        before_step = self.params
        value, gradient = self.gradient(self.params, images, actions, goals)
        update, self.opt_state = self.agent.optimizer.update(gradient, self.opt_state, self.params)
        self.params = optax.apply_updates(self.params, update)
        self.losses.append(self.error(before_step, images, actions, goals, float(value)))

    def error(
        self, params: Any, images: jax.Array, actions: np.ndarray, goals: jax.Array, loss: float
    ) -> float:
        """Of the values, squared; for regression that is the loss."""
        if not self.support:
            return loss
        values = np.asarray(self.evaluate(self.learned(params), images))
        values = values[np.arange(len(actions)), actions]
        return float(np.mean((values - np.asarray(goals) @ np.array(self.support)) ** 2))

    def problem(self, batch: list[Any]) -> tuple[jax.Array, np.ndarray, jax.Array]:
        """Images, actions and what the network should say of them, Eq. (1)."""
        images, actions, rewards, following = (list(column) for column in zip(*batch, strict=True))
        ahead = self.see(self.target, following)
        best = ahead.max(axis=1)
        if self.agent.double:
            chosen = self.see(self.params, following).argmax(axis=1)
            best = ahead[np.arange(len(batch)), chosen]
        goals = np.array(rewards) + self.agent.discount * best
        if self.support:
            goals = np.array([self.encode(goal) for goal in goals])
        return IMAGES[np.array(images)], np.array(actions), jnp.asarray(goals, jnp.float32)

    def train(self, steps: int) -> None:
        """Stretches between possible updates of the target draw their numbers together."""
        agent = self.agent
        stretch = math.gcd(agent.target_period, steps)
        for _ in range(steps // stretch):
            self.key, now = jax.random.split(self.key)
            keys = jax.random.split(now, 4)
            draws = zip(
                np.asarray(jax.random.uniform(keys[0], (stretch,)) < agent.epsilon),
                np.asarray(jax.random.randint(keys[1], (stretch,), 0, 10)),
                jax.random.split(keys[2], stretch),
                jax.random.uniform(keys[3], (stretch, agent.batch_size)),
                strict=True,
            )
            for draw in draws:
                self.step(draw)
            self.steps += stretch
            if self.steps % agent.target_period == 0:
                self.target = self.params
                self.key, _ = jax.random.split(self.key)  # the other one is an event's


def named(value: Any) -> str:
    """Write a setting without the address of a function: every process must call a test alike."""
    return re.sub(r"<function (\w+) at \w+>", r"\1", str(value))


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({}, [16]),  # two periods of eight; the target's values come from a table
        ({"target_period": 10}, [6, 6, 6, 6]),  # updates amid the second and the fourth call
        ({"target_period": 1}, [16]),
        ({"double": True}, [16]),
        ({"head": TWO_HOT}, [16]),
        ({"double": True, "head": TWO_HOT, "target_period": 10}, [6, 6, 6, 6]),
        ({"double": True, "learning": dimmed}, [16]),
        ({"learning": dimmed, "head": TWO_HOT}, [16]),
    ],
    ids=named,
)
def test_training_is_a_plain_loop(
    changes: dict[str, Any], calls: list[int], task: ImageTask
) -> None:
    agent, steps = replace(AGENT, **changes), sum(calls)
    begun = start(AGENT, task, draw(10 * agent.head.bins), jax.random.key(1))
    state, metrics, loop = begun, [], Loop(agent, task.mdp, begun)
    for call in calls:
        state, found = train(agent, task, state, call)
        metrics.append(found)
        loop.train(call)

    # Decisions are the same, transition by transition, in the buffer, which has wrapped around.
    buffer, environment, _ = state.experience
    assert int(buffer.added) == loop.added == 20 + steps > agent.capacity
    for ours, theirs in zip(buffer.items, zip(*loop.slots, strict=True), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert int(environment.state) == loop.where
    assert int(environment.observation) == loop.image
    assert int(state.learner.steps) == loop.steps == steps
    # Up to 24 steps of up to ten roundings each, of numbers near 1; momentum remembers them.
    close = partial(np.testing.assert_allclose, atol=300 * np.finfo(np.float32).eps)
    jax.tree.map(close, state.params, loop.params)
    jax.tree.map(close, state.target_params, loop.target)
    jax.tree.map(close, state.learner.opt_state, loop.opt_state)
    assert bits(state.key) == bits(loop.key)
    seen = jax.tree.map(lambda *calls: np.concatenate(calls), *metrics)
    losses, rewards = (
        np.reshape(x, (len(seen["reward"]), -1)) for x in (loop.losses, loop.rewards)
    )
    expected = {"td_loss": losses.mean(1), "td_loss_max": losses.max(1), "reward": rewards.mean(1)}
    jax.tree.map(close, seen, expected)
    assert np.ptp(losses) > 0.01  # there was something to compare


def test_the_start_is_a_walk_of_random_actions(task: ImageTask) -> None:
    agent = replace(AGENT, warmup=2_000, capacity=2_010)
    state = start(agent, task, draw(10), jax.random.key(1))
    buffer, environment, _ = state.experience
    seen = jax.tree.map(lambda x: np.asarray(x)[:2_000], buffer.items)
    assert int(buffer.added) == 2_000
    np.testing.assert_array_equal(seen.observation[1:], seen.following[:-1])
    assert int(environment.observation) == seen.following[-1]
    label = np.asarray(task.mdp.label)
    states = label[seen.observation]
    np.testing.assert_array_equal(seen.reward, (states == 9) & (seen.action == 9))
    right = seen.action == states
    np.testing.assert_array_equal(label[seen.following][right], (states[right] + 1) % 10)
    # five deviations of a share of a tenth
    np.testing.assert_allclose(right.mean(), 0.1, atol=5 * 0.3 / np.sqrt(2_000))
    assert bits(state.params) == bits(state.target_params)
    assert int(state.learner.steps) == 0 and state.learner.cure_state == ()


def test_equal_keys_give_equal_bits_and_other_keys_other_ones(task: ImageTask) -> None:
    def run(key: jax.Array) -> list[bytes]:
        return bits(train(AGENT, task, start(AGENT, task, draw(10), key), 16))

    first, again, other = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    assert first == again
    # all but two counts, of steps and of transitions, and the last reward and its mean, which are 0
    assert sum(a != b for a, b in zip(first, other, strict=True)) == len(first) - 4


def test_training_in_two_parts_is_training_at_once(task: ImageTask, begun: State) -> None:
    """In bits, if both parts are multiples of the target period.

    The numbers of a stretch are drawn together, and its length is the largest one that divides the
    period and the steps. Any parts with that in common will do, others draw other numbers.
    """
    whole, metrics = train(AGENT, task, begun, 16)
    half, first = train(AGENT, task, begun, 8)
    rest, second = train(AGENT, task, half, 8)
    assert bits(rest) == bits(whole)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    assert bits(joined) == bits(metrics)


def test_agents_in_a_batch_are_agents_alone() -> None:
    def stack(trees: Any) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    mdps = [classification_mdp.make(variant, LABELS, KEY) for variant in VARIANTS]
    tasks = [ImageTask(mdp, IMAGES) for mdp in mdps]
    states = [
        start(AGENT, task, draw(10, seed=k), jax.random.key(k)) for k, task in enumerate(tasks)
    ]
    lanes: Any = ImageTask(0, None)  # an MDP each, the same images
    several = compiled(jax.vmap(partial(dqn.train, AGENT, steps=16), (lanes, 0)))
    found = jax.tree.leaves(several(ImageTask(stack(mdps), IMAGES), stack(states)))
    for k in range(3):
        expected = jax.tree.leaves(train(AGENT, tasks[k], states[k], 16))
        for ours, theirs in zip(found, expected, strict=True):
            if jnp.issubdtype(theirs.dtype, jax.dtypes.prng_key):
                assert bits(ours[k]) == bits(theirs)
            else:  # integers are equal, the rest up to the order of sums
                np.testing.assert_allclose(ours[k], theirs, atol=300 * np.finfo(np.float32).eps)


# The gradient.


@pytest.mark.parametrize(
    "changes", [{}, {"double": True}, {"double": True, "head": TWO_HOT}], ids=str
)
def test_the_gradient_norm_is_that_of_the_loss_on_the_newest_transitions(
    changes: dict[str, Any], task: ImageTask
) -> None:
    agent = replace(AGENT, **changes)
    outputs = 10 * agent.head.bins
    params, target = draw(outputs, seed=3), draw(outputs, seed=4)
    state, rng = start(agent, task, params, jax.random.key(1)), np.random.default_rng(0)
    seen = list(zip(*(np.asarray(x)[:20] for x in state.experience.buffer.items), strict=True))
    loop, found = Loop(agent, task.mdp, state), []
    loop.target = target
    norm = compiled(mdp_task.gradient_norm, static_argnums=0)
    add = compiled(replay.add)
    for more in (0, 7, 9, 31):  # full after ten more, then the ring goes round, and once again
        for _ in range(more):
            index, action, following = (int(rng.integers(n)) for n in (N, 10, N))
            seen.append((index, action, float(rng.normal()), following))
            buffer = add(state.experience.buffer, mdp_task.Transition(*map(jnp.asarray, seen[-1])))
            state = state._replace(experience=state.experience._replace(buffer=buffer))
        _, gradient = loop.gradient(params, *loop.problem(seen[-agent.warmup :]))
        expected = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradient.values()))
        found.append(float(norm(agent, task, state._replace(target_params=target))))
        np.testing.assert_allclose(found[-1], expected, rtol=1e-5)
    assert np.ptp(found) > 0.01  # other transitions have another gradient


# Events.


def of(event: Callable[[jax.Array, Learner, Seen], Learner], every: int) -> Cure:
    return Cure("of a test", event=event, every=every)


def keys_of(agent: Agent, state: State, stretch: int, steps: int) -> tuple[set[bytes], list[bytes]]:
    """All keys that an agent draws from in so many steps, and those that it keeps for events."""
    mine, kept, key = [state.key], [], state.key
    for step in range(stretch, steps + 1, stretch):
        key, now = jax.random.split(key)
        mine += [key, now, *jax.random.split(now, 4)]
        if step % agent.target_period == 0:
            key, event_key = jax.random.split(key)
            mine, kept = [*mine, key], [*kept, event_key]
    return {bits(key)[0] for key in mine}, [bits(key)[0] for key in kept]


def test_events_happen_at_target_updates_after_the_copy_with_fresh_keys(
    task: ImageTask, begun: State
) -> None:
    calls: list[tuple[int, bytes]] = []

    def note(steps: Any, key: Any) -> None:
        calls.append((int(steps), np.asarray(key).tobytes()))

    def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
        jax.debug.callback(note, learner.steps, jax.random.key_data(key))
        params, opt_state = jax.tree.map(jnp.zeros_like, (learner.params, learner.opt_state))
        return learner._replace(params=params, opt_state=opt_state)

    agent = replace(AGENT, target_period=10, cure=of(event, 10))
    first, _ = train(agent, task, begun, 16)  # stretches of 2
    state, _ = train(agent, task, first, 16)
    jax.effects_barrier()
    assert [steps for steps, _ in calls] == [10, 20, 30]
    # No key is given twice, and none is the agent's own.
    mine, kept = keys_of(agent, begun, 2, 32)
    assert [key for _, key in calls] == kept and len({*kept, *mine}) == 3 + len(mine)
    assert bits(state.key)[0] in mine and bits(state.event_key) == kept[-1:]
    # A network and momentum of zeros have no gradient but that of the last bias, in a network of
    # which the target after the first event knew nothing.
    for found in (first, state):
        assert {name for name, leaf in found.params.items() if leaf.any()} == {"c"}
    assert all(leaf.any() for leaf in jax.tree.leaves(first.target_params))
    at_update, _ = train(agent, task, begun, 10)
    assert bits(at_update.params) == bits(at_update.target_params)


@pytest.mark.parametrize(("every", "stretch"), [(4, 4), (12, 4), (16, 8)])
def test_a_cure_has_a_period_of_its_own(
    every: int, stretch: int, task: ImageTask, begun: State
) -> None:
    """Keys differ also where there are several events between two target updates, of eight steps.

    What an event sees is a batch of what the buffer holds, and the network's activations on it.
    """
    calls: list[Any] = []

    def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
        numbers = (learner.steps, jax.random.key_data(key), seen, learner.params)
        jax.debug.callback(lambda *found: calls.append(found), *numbers)
        return learner

    def hidden(params: Any, x: jax.Array) -> tuple[jax.Array, ...]:
        return (jax.nn.relu(x @ params["w"] + params["b"][None]),)

    agent = replace(AGENT, cure=of(event, every), hidden=hidden)
    state, _ = train(agent, task, begun, 24)
    jax.effects_barrier()
    expected = list(range(every, 24, every))  # that of step 24 would come before the 25th
    assert [int(steps) for steps, *_ in calls] == expected
    mine, _ = keys_of(agent, begun, stretch, 24)
    keys = {np.asarray(key).tobytes() for _, key, *_ in calls}
    assert len(keys) == len(expected) and not keys & mine
    walked = np.asarray(begun.experience.buffer.items.observation)[:20]
    ring = np.asarray(state.experience.buffer.items.observation)  # 44 transitions in a ring of 30
    lived = np.concatenate([walked[:14], ring[14:], ring[:14]])
    chosen = []
    for steps, _, seen, params in calls:
        inputs, now = np.asarray(seen.inputs), 20 + int(steps)
        chosen.append([int(np.argwhere((x[None] == IMAGES).all(axis=1))[0, 0]) for x in inputs])
        assert len(inputs) == 8 and set(chosen[-1]) <= set(lived[max(0, now - 30) : now])
        (layer,) = seen.hidden
        np.testing.assert_allclose(layer, hidden(params, inputs)[0], atol=1e-6)
    assert len(set(map(tuple, chosen))) == len(chosen)


def test_what_an_event_sees_is_drawn_by_none_of_the_keys_that_several_cures_get(
    task: ImageTask,
) -> None:
    """A cure that drew numbers by the key that chose the batch would draw what it sees."""
    calls: list[Any] = []

    def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
        keys = jnp.stack([key, *jax.random.split(key, 3)])
        drawn = jax.vmap(lambda key: jax.random.uniform(key, (AGENT.batch_size,)))(keys)
        jax.debug.callback(lambda *found: calls.append(found), seen.inputs, drawn)
        return learner

    agent = replace(AGENT, cure=combined(*[of(event, 8)] * 3))
    after, _ = train(agent, task, start(agent, task, draw(10), KEY), 8)
    train(agent, task, after, 8)
    jax.effects_barrier()
    assert len(calls) == 3
    for inputs, drawn in calls:
        for uniform in drawn:
            chosen = replay.sample(after.experience.buffer, uniform).observation
            assert not np.array_equal(IMAGES[chosen], inputs)


def test_an_event_that_does_nothing_changes_nothing(task: ImageTask, begun: State) -> None:
    """So that agents with and without an intervention share their random numbers."""
    without, _ = train(AGENT, task, begun, 16)
    agent = replace(AGENT, cure=of(lambda key, learner, seen: learner, AGENT.target_period))
    idle, _ = train(agent, task, begun, 16)
    assert bits(idle) == bits(without)


def test_training_that_ends_at_a_target_update_ends_before_the_event(
    task: ImageTask, begun: State
) -> None:
    """The next training begins with it, with the key that was kept for it."""

    def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
        noise = jax.random.normal(key, learner.params["c"].shape)
        return learner._replace(params=learner.params | {"c": learner.params["c"] + noise})

    agent = replace(AGENT, cure=of(event, 8))
    without, _ = train(AGENT, task, begun, 8)
    before, _ = train(agent, task, begun, 8)
    assert bits(before) == bits(without)
    after, _ = train(agent, task, before, 8)
    changed = event(before.event_key, before.learner, Seen(None, ()))
    by_hand, _ = train(AGENT, task, before._replace(learner=changed), 8)
    for ours, theirs in zip(after[:3], by_hand[:3], strict=True):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), ours, theirs)
    assert bits(after.key) == bits(by_hand.key)
    plain, _ = train(AGENT, task, without, 8)
    assert np.abs(after.params["c"] - plain.params["c"]).max() > 0.1
    whole, _ = train(agent, task, begun, 16)
    assert bits(whole) == bits(after)


# What it learns.


@pytest.fixture(scope="module")
def learner() -> Callable[[MDP], jax.Array]:
    """The values of an agent that acted at random, compiled once for all variants.

    Random actions see every image with every action about 65 times.
    """
    images = jnp.asarray(np.random.default_rng(2).normal(size=(N, 32)), jnp.float32)
    steps, updates = 2_000, 20
    agent = Agent(
        apply=apply, optimizer=optax.adam(optax.linear_schedule(1e-2, 0.0, steps)), discount=0.5,
        target_period=steps // updates, batch_size=128, epsilon=1.0, warmup=40_000, capacity=42_000,
    )  # fmt: skip

    @jax.jit
    def life(mdp: MDP, params: Any) -> jax.Array:
        task = ImageTask(mdp, images)
        state = dqn.start(agent, task, params, jax.random.key(1))
        state, _ = dqn.train(agent, task, state, steps)
        return agent.values(state.params, images)

    return lambda mdp: life(mdp, draw(10, 64, 32))


@pytest.mark.parametrize("variant", VARIANTS)
def test_learned_values_are_the_optimal_ones(
    variant: Variant, learner: Callable[[MDP], jax.Array]
) -> None:
    mdp = classification_mdp.make(variant, LABELS, jax.random.key(3))
    optimal = classification_mdp.optimal_values(*classification_mdp.tables(variant), 0.5)
    error = np.asarray(learner(mdp)) - optimal[np.asarray(mdp.label)]
    # Where all states are worth the same, a target has no noise. In the sparse variant the mean of
    # 65 next states errs by γ σ(V) / 8 = 0.02, and the largest of ten such errors is bootstrapped.
    assert np.abs(error).max() < (0.15 if variant == "sparse_reward" else 1e-3)


# A new environment.


class Corridor:
    """Two rooms in a row: who goes right from the second is paid 1 and begins anew in the first.

    Who goes left is in the first room, too. What is known is a replay buffer and the room.
    """

    actions = 2  # left, right

    def begin(self, agent: Agent, reset_key: Any, walk_key: Any) -> Any:
        room = jnp.zeros((), jnp.int32)
        begun = (replay.create(agent.capacity, (room, room, jnp.zeros(()), room)), room)
        actions = jax.random.randint(walk_key, (agent.warmup,), 0, 2)
        return jax.lax.scan(lambda now, action: (self.act(now, action), None), begun, actions)[0]

    def observe(self, experience: Any) -> jax.Array:
        return jax.nn.one_hot(experience[1], 2)[None]

    def act(self, experience: Any, action: jax.Array, key: Any = None) -> Any:
        buffer, room = experience
        after = jnp.where((room == 0) & (action == 1), 1, 0)
        reward = jnp.where((room == 1) & (action == 1), 1.0, 0.0)
        return replay.add(buffer, (room, action, reward, after)), after

    def settle(self, experience: Any, after: jax.Array | None = None) -> Any:
        return experience

    def sample(self, experience: Any, uniform: jax.Array) -> Any:
        return replay.sample(experience[0], uniform)

    def batch(self, drawn: Any) -> q_learning.Batch:
        room, action, reward, after = drawn
        return q_learning.Batch(jax.nn.one_hot(room, 2), action, reward, jax.nn.one_hot(after, 2))

    def bootstrap(self, agent: Agent, target_params: Any, batches: int) -> Any:
        return lambda drawn: agent.values(target_params, self.batch(drawn).following)

    def report(self, experience: Any, taken: Taken) -> dict[str, jax.Array]:
        return {}


@pytest.mark.parametrize("actions_per_step", [1, 3])
def test_a_task_of_a_test_is_learned_like_any_other(actions_per_step: int) -> None:
    """With γ = 1/2 the second room is worth 1 + V / 4 = V = 4/3, and the first half of that."""
    agent = Agent(
        apply=lambda table, x: x @ table, optimizer=optax.sgd(0.5), discount=0.5, target_period=50,
        epsilon=0.5, batch_size=16, warmup=50, capacity=100, actions_per_step=actions_per_step,
    )  # fmt: skip
    corridor = Corridor()

    @compiled
    def life(key: jax.Array) -> tuple[State, Any]:
        return dqn.train(agent, corridor, dqn.start(agent, corridor, jnp.zeros((2, 2)), key), 2_000)

    state, metrics = life(KEY)
    # A target update halves the error, and 40 do so until rounding is left: some ulps of 4/3.
    optimal = np.array([[1 / 3, 2 / 3], [1 / 3, 4 / 3]])
    np.testing.assert_allclose(state.params, optimal, rtol=0, atol=10 * np.finfo(np.float32).eps)
    assert int(state.experience[0].added) == 50 + 2_000 * actions_per_step
    assert set(metrics) == {"td_loss", "td_loss_max"}


# A network that diverged.


def test_numbers_that_are_none_are_flagged_and_do_not_stop_training(
    task: ImageTask, begun: State
) -> None:
    optimal = jnp.ones((10, 10), bool)  # whatever a network does is right, if it does anything
    params = draw(10)
    assert bool(is_finite(params))
    assert float(mdp_task.greedy_accuracy(AGENT, task, params, optimal)) == 1.0
    for bad in (jnp.nan, jnp.inf):
        broken = params | {"c": params["c"].at[3].set(bad)}
        assert not bool(is_finite(broken))
        assert float(mdp_task.greedy_accuracy(AGENT, task, broken, optimal)) == 0.0
    broken = params | {"w": params["w"].at[0, 0].set(jnp.nan)}
    state = begun._replace(learner=begun.learner._replace(params=broken))
    state, metrics = train(AGENT, task, state, 16)
    assert np.isnan(metrics["td_loss"]).all()
    assert not bool(is_finite(state.params))
    assert int(state.learner.steps) == 16
    stored = state.experience.buffer.items
    assert np.isfinite(stored.reward).all()
    assert (np.asarray(stored.action) < 10).all()


def test_the_greedy_accuracy_is_the_share_of_images_with_an_optimal_action(task: ImageTask) -> None:
    params = draw(10)
    optimal = classification_mdp.optimal_actions("sparse_reward", 0.9)
    actions = np.asarray(apply(params, IMAGES)).argmax(axis=1)
    expected = np.mean([optimal[s, a] for s, a in zip(task.mdp.label, actions, strict=True)])
    assert 0 < expected < 1
    found = mdp_task.greedy_accuracy(AGENT, task, params, jnp.asarray(optimal))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    right = ImageTask(task.mdp._replace(label=jnp.asarray(actions, jnp.int32)), IMAGES)
    assert float(mdp_task.greedy_accuracy(AGENT, right, params, jnp.eye(10, dtype=bool))) == 1


# What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discount": 1.0}, r"discount = 1.0: must lie in \[0, 1\)"),
        ({"discount": -0.1}, "discount"),
        ({"discount": math.nan}, "discount"),
        ({"epsilon": 1.1}, r"epsilon = 1.1: must lie in \[0, 1\]"),
        ({"epsilon": -0.1}, "epsilon"),
        ({"target_period": 0}, "target_period = 0: must be above 0"),
        ({"actions_per_step": 0}, "actions_per_step = 0: must be above 0"),
        ({"batch_size": 0}, "batch_size = 0: must be above 0"),
        ({"warmup": 7}, "a batch must fit into the warm-up"),
        ({"capacity": 19}, "and that into the buffer"),
    ],
)
def test_agents_that_cannot_learn_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(AGENT, **changes)


def test_training_needs_a_step_and_a_start_an_image_for_each_label(
    task: ImageTask, begun: State
) -> None:
    with pytest.raises(ValueError, match="steps = 0: must be above 0"):
        dqn.train(AGENT, task, begun, 0)
    with pytest.raises(ValueError, match="50 images, but 60 labels"):
        dqn.start(AGENT, task._replace(images=IMAGES[:50]), draw(10), KEY)
