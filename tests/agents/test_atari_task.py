"""One update by hand in float64, the whole loop against a plain one, evaluation against replay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity import learner as learning
from plasticity.agents import atari_task, dqn, frame_replay, q_learning
from plasticity.agents.atari_task import GameTask
from plasticity.agents.dqn import Agent, State
from plasticity.agents.settings import CentredRMSProp
from plasticity.cure import Cure, Seen
from plasticity.learner import Learner
from plasticity.networks.heads import Huber
from plasticity.worlds import atari, atari_callback

KEY = jax.random.key(0)
SHORT = atari.Preprocessing(size=20, episode_frames=60, stack=2)  # episodes of 15 steps
GAMES = atari_callback.Emulators("asterix", 1, SHORT)  # who walks at random soon scores
TASK = GameTask(GAMES)


def linear(params: Any, x: jax.Array) -> jax.Array:
    """Values that are linear in the pixels."""
    return x.reshape(len(x), -1).astype(params["w"].dtype) / 255 @ params["w"] + params["b"][None]


def drawn(actions: int, pixels: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(pixels, actions)), "b": rng.normal(size=actions)}


def saw(actions: Any) -> Any:
    """A probability that tells how many actions were taken, within a cycle of four too."""
    return 0.2 + 0.15 * (actions % 5)


LOOP = Agent(
    apply=linear, optimizer=CentredRMSProp(learning_rate=0.05).transformation(), head=Huber(),
    double=True, batch_size=4, actions_per_step=4, target_period=6, capacity=40, warmup=12,
    epsilon=saw,
)  # fmt: skip


# One update.


def batch_of(size: int, rng: np.random.Generator) -> frame_replay.Batch:
    return frame_replay.Batch(
        jnp.asarray(rng.integers(0, 256, (size, 3, 4, 4)), jnp.uint8),
        jnp.asarray(rng.integers(0, 3, size), jnp.int32),
        jnp.asarray(rng.choice([-1.0, 0.0, 1.0], size)),
        jnp.asarray(rng.choice([0.0, 1.0], size)),
    )


@pytest.mark.usefixtures("double")
def test_updates_are_those_of_a_reference_in_double_precision() -> None:
    agent, rng = (
        replace(LOOP, optimizer=CentredRMSProp().transformation()),
        np.random.default_rng(0),
    )
    params, target = (jax.tree.map(jnp.asarray, drawn(3, 32, seed)) for seed in (0, 1))
    learner = learning.start(agent.optimizer, params)
    after = TASK.bootstrap(agent, target, 3)
    w = {name: np.asarray(leaf) for name, leaf in params.items()}
    first = {name: np.zeros_like(leaf) for name, leaf in w.items()}
    second = {name: np.zeros_like(leaf) for name, leaf in w.items()}
    clipped = 0
    for _ in range(3):
        batch = batch_of(32, rng)
        learner, taken = q_learning.learn(agent, learner, TASK.batch(batch), after(batch))
        # frames are channels: (batch, height, width, frames), then flat
        frames = np.asarray(batch.frames, np.float64).transpose(0, 2, 3, 1) / 255
        x, y = frames[..., :-1].reshape(32, -1), frames[..., 1:].reshape(32, -1)
        rows = np.arange(32)
        best = np.argmax(y @ w["w"] + w["b"], axis=1)
        bootstrap = (y @ np.asarray(target["w"]) + np.asarray(target["b"]))[rows, best]
        goal = np.asarray(batch.reward) + 0.99 * np.asarray(batch.discount) * bootstrap
        values = x @ w["w"] + w["b"]
        error = goal - values[rows, batch.action]
        # dqn_zoo: the gradient of mean(error² / 2) by each error, clipped to ± 1/32
        pull = np.clip(error / 32, -1 / 32, 1 / 32)
        clipped += np.sum(np.abs(error) > 1)
        by_value = np.zeros_like(values)
        by_value[rows, batch.action] = -pull
        gradient = {"w": x.T @ by_value, "b": by_value.sum(axis=0)}
        for name, g in gradient.items():
            first[name] = 0.95 * first[name] + 0.05 * g
            second[name] = 0.95 * second[name] + 0.05 * g**2
            spread = second[name] - first[name] ** 2 + 0.01 / 32**2
            w[name] = w[name] - 0.00025 * g / np.sqrt(spread)
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        report = TASK.report(atari_task.Experience(*[None] * 4), taken)  # it looks at no experience
        np.testing.assert_allclose(taken.aux.squared, np.mean(error**2), rtol=1e-12)
        np.testing.assert_allclose(report["gradient_norm"], norm, rtol=1e-12)
        np.testing.assert_allclose(report["value"], values.max(axis=1).mean(), rtol=1e-12)
        for name, leaf in learner.params.items():
            np.testing.assert_allclose(leaf, w[name], rtol=0, atol=1e-13)
    assert int(learner.steps) == 3
    assert 10 < clipped < 86  # errors on both sides of the bound


# The whole loop.


@jax.jit
def begun(key: jax.Array) -> tuple[State, Any]:
    params = jax.tree.map(jnp.float32, drawn(GAMES.actions, 20 * 20 * 2))
    state = dqn.start(LOOP, TASK, params, key)
    return state, GAMES.state(state.experience.ticket)


def train(agent: Agent, state: State, emulators: Any, steps: int) -> Any:
    """Train emulators that are known by what `Emulators.state` says of them."""
    experience = state.experience._replace(ticket=GAMES.resume(emulators))
    state, metrics = dqn.train(agent, TASK, state._replace(experience=experience), steps)
    return state, GAMES.state(state.experience.ticket), metrics


trained = jax.jit(train, static_argnums=(0, 3))


def bits(tree: Any) -> list[bytes]:
    def raw(leaf: jax.Array) -> bytes:
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes()

    return [raw(leaf) for leaf in jax.tree.leaves(tree)]


class Play:
    """Plays and learns step by step, in the order of dqn_zoo, with the emulators by hand."""

    def __init__(self, key: jax.Array) -> None:
        reset_key, walk_key, self.key = jax.random.split(key, 3)
        self.games = atari.Environments("asterix", 1, SHORT)
        self.target = jax.tree.map(jnp.float32, drawn(self.games.actions, 20 * 20 * 2))
        self.learner = learning.start(LOOP.optimizer, self.target)
        self.transitions: list[Any] = []
        self.known: list[int] = []  # transitions there were when each step learned
        self.losses: list[float] = []
        self.total, self.episodes, self.score, self.actions = 0.0, 0, 0.0, 0
        seen = self.games.reset(jax.random.randint(reset_key, (1,), 0, 2**31 - 1).tolist())
        self.stack = [np.zeros((20, 20), np.uint8), seen.frame[0]]
        for action in jax.random.randint(walk_key, (LOOP.warmup,), 0, self.games.actions).tolist():
            self.act(action)

    def act(self, action: int) -> None:
        seen = self.games.step(np.array([action]))
        if seen.first[0]:
            self.stack = [np.zeros((20, 20), np.uint8), seen.frame[0]]
        else:
            frames = np.stack([*self.stack, seen.frame[0]])
            self.transitions.append((frames, np.int32(action), seen.reward[0], seen.discount[0]))
            self.stack = [self.stack[1], seen.frame[0]]
        self.score += float(seen.score[0])
        if seen.last[0]:
            self.total, self.episodes, self.score = self.total + self.score, self.episodes + 1, 0.0

    def choose(self, explore: float, random_action: int) -> int:
        epsilon = saw(self.actions)
        self.actions += 1
        values = linear(self.learner.params, jnp.asarray(np.stack(self.stack, axis=-1))[None])
        return int(random_action if explore < epsilon else jnp.argmax(values[0]))

    def learn(self, uniform: np.ndarray) -> None:
        kept = self.transitions[-LOOP.capacity :]
        self.known.append(len(self.transitions))
        batch = [kept[int(u * len(kept))] for u in uniform]
        drawn = frame_replay.Batch(*map(jnp.asarray, map(np.stack, zip(*batch, strict=True))))
        q_t = TASK.bootstrap(LOOP, self.target, 1)(drawn)
        self.learner, taken = q_learning.learn(LOOP, self.learner, TASK.batch(drawn), q_t)
        self.losses.append(float(taken.aux.squared))

    def train(self, steps: int, stretch: int) -> None:
        """Stretches between two looks at the target draw their numbers together."""
        for _ in range(steps // stretch):
            self.key, now = jax.random.split(self.key)
            *first, sample_key = jax.random.split(now, 4)
            others = jax.random.split(jax.random.fold_in(now, 4), 3)
            explore, random = (
                np.concatenate([draw(first, (stretch, 1)), draw(others, (stretch, 3))], axis=1)
                for draw in (
                    lambda keys, shape: jax.random.uniform(keys[0], shape),
                    lambda keys, shape: jax.random.randint(keys[1], shape, 0, self.games.actions),
                )
            )
            uniform = np.asarray(jax.random.uniform(sample_key, (stretch, 4)))
            for k in range(stretch):
                action = self.choose(explore[k, 0], random[k, 0])
                self.learn(uniform[k])  # before anybody knows what comes of the action
                self.act(action)
                for j in (1, 2, 3):
                    self.act(self.choose(explore[k, j], random[k, j]))
            if len(self.losses) % LOOP.target_period == 0:
                self.target = self.learner.params
                self.key, _ = jax.random.split(self.key)  # the other one is an event's


@pytest.fixture(scope="module")
def play() -> Play:
    """The reference after 16 steps."""
    play = Play(KEY)
    play.train(16, stretch=2)
    return play


def test_the_loop_is_that_of_dqn_zoo(play: Play) -> None:
    state, emulators, metrics = trained(LOOP, *begun(KEY), 16)
    assert len(play.losses) == int(state.learner.steps) == 16
    losses = np.reshape(play.losses, (8, 2))
    np.testing.assert_allclose(metrics["td_loss"], losses.mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(metrics["td_loss_max"], losses.max(axis=1), rtol=1e-4)
    # both were copied after 6 steps and after 12, not at the end
    for name, leaf in state.params.items():
        np.testing.assert_allclose(leaf, play.learner.params[name], rtol=1e-4, atol=1e-5)
        copied = state.target_params[name]
        np.testing.assert_allclose(copied, play.target[name], rtol=1e-4, atol=1e-5)
        assert not np.allclose(copied, leaf, atol=1e-5)
    buffer, tally, *_ = state.experience
    assert play.actions == 64 and int(buffer.added) == len(play.transitions) > LOOP.capacity
    kept = frame_replay.sample(buffer, jnp.arange(0.5, 40) / 40)
    for ours, theirs in zip(kept, zip(*play.transitions[-40:], strict=True), strict=True):
        np.testing.assert_array_equal(ours, np.stack(theirs))
    assert int(tally.episodes) == play.episodes == 4
    assert (float(tally.total), float(tally.score)) == (play.total, play.score)
    assert play.total > 0 and play.score > 0
    assert all(map(np.array_equal, emulators, play.games.state()))
    assert bits(state.key) == bits(play.key)


def test_the_start_is_a_walk_of_random_actions() -> None:
    """Nothing is learned from it, and the episodes that it ended count."""
    state, _ = begun(KEY)
    play = Play(KEY)
    buffer, tally, action, _ = state.experience
    assert int(buffer.size) == len(play.transitions) == LOOP.warmup
    stored = [transition[1] for transition in play.transitions]
    np.testing.assert_array_equal(buffer.transitions.action[: LOOP.warmup], stored)
    assert int(action) == stored[-1] and len(set(stored)) > 1
    assert (float(tally.total), int(tally.episodes)) == (play.total, play.episodes)
    assert bits(state.params) == bits(state.target_params)
    assert int(state.learner.steps) == 0


def lasting(found: Any) -> list[bytes]:
    """All but the metrics, and the ticket, which counts calls since the emulators were resumed."""
    state, emulators, _ = found
    return bits((state._replace(experience=state.experience._replace(ticket=())), emulators))


def test_pieces_are_the_whole_to_the_bit() -> None:
    """A piece ends at a target update, or it would draw other numbers than the whole."""
    whole = trained(LOOP, *begun(KEY), 18)
    piece = trained(LOOP, *begun(KEY), 6)
    atari_callback._environments.cache_clear()  # another process
    rest = trained(LOOP, *piece[:2], 12)
    assert lasting(whole) == lasting(rest)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), piece[2], rest[2])
    assert bits(whole[2]) == bits(joined)


# Events.


def quiet(every: int) -> tuple[Cure, list[Any]]:
    """A cure whose event changes nothing, and the list in which it notes what it was given."""
    calls: list[Any] = []

    def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
        numbers = (learner.steps, jax.random.key_data(key), seen.inputs)
        jax.debug.callback(lambda *found: calls.append(jax.tree.map(np.asarray, found)), *numbers)
        return learner

    return Cure("quiet", event=event, every=every), calls


@pytest.mark.parametrize("every", [4, 6])
def test_events_happen_at_their_period_and_see_what_the_buffer_holds(
    every: int, play: Play
) -> None:
    cure, calls = quiet(every)
    state, *_ = trained(replace(LOOP, cure=cure), *begun(KEY), 16)
    jax.effects_barrier()
    due = list(range(every, 16, every))  # that of step 16 would come before the 17th
    assert [int(steps) for steps, *_ in calls] == due
    assert len({key.tobytes() for _, key, _ in calls}) == len(due)
    # Stretches are of two steps with such an event and without: all play the same game.
    assert bits(state) == bits(trained(LOOP, *begun(KEY), 16)[0])
    drawn = []
    for steps, _, inputs in calls:
        # The step after the event learns when as much is known: its action has no outcome yet.
        known = play.transitions[: play.known[int(steps)]][-LOOP.capacity :]
        held = {np.moveaxis(frames[:-1], 0, -1).tobytes() for frames, *_ in known}
        assert inputs.shape == (4, 20, 20, 2)
        assert {stack.tobytes() for stack in inputs} <= held
        drawn += [stack.tobytes() for stack in inputs]
    assert len(set(drawn)) > len(drawn) / 2


def test_what_an_event_does_is_learned_on_from() -> None:
    """Training that ends at an event ends before it, and the next training begins with it."""

    def event(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
        return learner._replace(params=jax.tree.map(jnp.zeros_like, learner.params))

    agent = replace(LOOP, cure=Cure("forget", event=event, every=6))
    before, emulators, _ = trained(agent, *begun(KEY), 6)
    plain, *_ = trained(LOOP, *begun(KEY), 6)
    assert bits(before) == bits(plain)
    forgotten = plain._replace(learner=event(KEY, plain.learner, Seen(None, ())))
    after, *_ = trained(agent, before, emulators, 6)
    by_hand, *_ = trained(LOOP, forgotten, emulators, 6)
    for name, leaf in after.params.items():
        np.testing.assert_allclose(leaf, by_hand.params[name], rtol=1e-4, atol=1e-5)


# Memory.


def renew(key: jax.Array, learner: Learner, seen: Seen) -> Learner:
    """Add noise that depends on what is seen: an event that needs a batch."""
    size = jnp.mean(seen.inputs.astype(jnp.float32))
    noise = jax.random.normal(key, learner.params["b"].shape) * size
    return learner._replace(params=learner.params | {"b": learner.params["b"] + noise})


@pytest.mark.parametrize(
    "cure", [Cure(), Cure("renew", event=renew, every=4)], ids=["none", "renew"]
)
def test_nothing_copies_the_replay_buffer(cure: Cure) -> None:
    """Three quarters of a gigabyte in every cycle would take longer than learning."""
    agent = replace(LOOP, cure=cure)
    donating = jax.jit(train, static_argnums=(0, 3), donate_argnums=(1, 2))
    text = donating.lower(agent, *jax.eval_shape(begun, KEY), 12).compile().as_text()
    rows = jax.eval_shape(begun, KEY)[0].experience.buffer.frames.shape[0]
    frames = f"u8[{rows},1,20,20]"
    assert f"{frames}{{3,2,1,0}} fusion" in text  # it is written to in place
    assert not [line for line in text.splitlines() if f"= {frames}" in line and " copy(" in line]


# Evaluation.


@pytest.mark.parametrize("action", [2, 3])
def test_an_evaluation_is_an_episode_of_each_copy(action: int) -> None:
    """A network that always prefers one action, against the emulators by hand."""
    stage = atari_callback.Emulators("pong", 2, replace(SHORT, episode_frames=300), "evaluation")
    params = {"w": jnp.zeros((800, 6)), "b": jnp.zeros(6).at[action].set(1.0)}
    play = jax.jit(lambda params: atari_task.evaluate(LOOP, stage, params, KEY, 0.0))
    found = play(params)
    games = atari.Environments("pong", 2, stage.preprocessing)
    seed_key, _ = jax.random.split(KEY)
    games.reset(jax.random.randint(seed_key, (2,), 0, 2**31 - 1).tolist())
    scores, over = np.zeros(2), np.zeros(2, bool)
    for _ in range(75):
        seen = games.step(np.full(2, action))
        scores += np.where(over, 0, seen.score)
        over |= seen.last
    assert over.all()
    np.testing.assert_array_equal(found.score, scores)
    np.testing.assert_array_equal(found.steps, [75, 75])
    assert scores.min() < 0
