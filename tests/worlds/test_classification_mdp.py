"""The block MDPs: a plain loop, closed forms, and the tables against what is seen."""

from __future__ import annotations

import inspect
import itertools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plasticity.worlds import classification_mdp
from plasticity.worlds.classification_mdp import MDP, STATES, VARIANTS, Variant

EPS = float(np.finfo(np.float64).eps)
KEY = jax.random.key(0)
N = 60
LABELS = jnp.asarray(np.random.default_rng(0).permutation(np.arange(N) % STATES), jnp.int32)
UNIFORM = np.full((STATES, STATES), 1 / STATES)

each_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(scope="module")
def walk() -> Callable[..., Any]:
    """Walk along ``actions``, one key each, compiled once for every MDP of sixty images."""

    def run(key: jax.Array, actions: jax.Array, mdp: MDP) -> Any:
        def step(state: Any, draw: Any) -> Any:
            following, reward = classification_mdp.step(draw[0], state, draw[1], mdp)
            return following, (following, reward)

        reset_key, key = jax.random.split(key)
        start = classification_mdp.reset(reset_key, mdp)
        keys = jax.random.split(key, len(actions))
        _, (seen, rewards) = jax.lax.scan(step, start, (keys, actions))
        joined = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, seen)
        return joined.state, joined.observation, rewards

    compiled = jax.jit(run)
    return lambda *a: jax.tree.map(np.asarray, compiled(*a))


def actions(n: int, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(STATES, size=n), jnp.int32)


# Dynamics.


@each_variant
def test_an_episode_is_a_plain_loop(variant: Variant, walk: Callable[..., Any]) -> None:
    mdp = classification_mdp.make(variant, LABELS, jax.random.key(7))
    reward, transition = classification_mdp.tables(variant)
    label = np.asarray(mdp.label)
    key, acts = jax.random.key(3), actions(300)

    def image(state: int, number: float) -> int:
        members = [i for i in range(N) if label[i] == state]
        return members[int(number * len(members))]

    reset_key, key = jax.random.split(key)
    state_key, image_key = jax.random.split(reset_key)
    state = int(jax.random.randint(state_key, (), 0, STATES))
    states, images, rewards = [state], [image(state, float(jax.random.uniform(image_key)))], []
    numbers = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(jax.random.split(key, 300))
    for action, (where, which) in zip(acts.tolist(), numbers.tolist(), strict=True):
        rewards.append(reward[state, action])
        left = where
        for following in range(STATES):
            left -= transition[state, action, following]
            if left < 0:
                break
        state = following
        states.append(state)
        images.append(image(state, which))

    found = walk(jax.random.key(3), acts, mdp)
    for ours, expected in zip(found, (states, images, rewards), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_the_tables_are_those_of_the_paper() -> None:
    for variant in VARIANTS:
        reward, transition = classification_mdp.tables(variant)
        for s, a, t in itertools.product(range(STATES), repeat=3):
            if variant == "sparse_reward":
                assert reward[s, a] == (a == s == 9)
                walks = float(t == (s + 1) % 10)
                assert transition[s, a, t] == (walks if a == s else 1 / 10)
            else:
                assert reward[s, a] == (a == s)
                assert transition[s, a, t] == 1 / 10


def test_only_random_labels_are_drawn() -> None:
    made = {v: classification_mdp.make(v, LABELS, jax.random.key(7)) for v in VARIANTS}
    np.testing.assert_array_equal(made["true_label"].label, LABELS)
    np.testing.assert_array_equal(made["sparse_reward"].label, LABELS)
    again = classification_mdp.make("random_label", LABELS, jax.random.key(7))
    other = classification_mdp.make("random_label", LABELS, jax.random.key(8))
    np.testing.assert_array_equal(made["random_label"].label, again.label)
    chance = np.mean(made["random_label"].label == LABELS)
    assert chance < 0.1 + 5 * 0.3 / np.sqrt(N)  # five deviations
    assert not np.array_equal(other.label, again.label)


@each_variant
def test_images_are_sorted_by_their_state(variant: Variant) -> None:
    mdp = classification_mdp.make(variant, LABELS, KEY)
    np.testing.assert_array_equal(np.sort(mdp.order), np.arange(N))
    for state in range(STATES):
        begin = int(mdp.first[state])
        members = mdp.order[begin : begin + int(np.sum(mdp.label == state))]
        np.testing.assert_array_equal(members, np.flatnonzero(mdp.label == state))


STEPS = 20_000


@each_variant
def test_a_long_walk_follows_the_tables(variant: Variant, walk: Callable[..., Any]) -> None:
    """Chi-square tests of transitions and images, all rewards, and the mean reward."""
    mdp = classification_mdp.make(variant, LABELS, jax.random.key(7))
    reward, transition = classification_mdp.tables(variant)
    acts = actions(STEPS)
    states, images, rewards = walk(jax.random.key(4), acts, mdp)
    np.testing.assert_array_equal(np.asarray(mdp.label)[images], states)
    np.testing.assert_array_equal(rewards, reward[states[:-1], np.asarray(acts)])

    found = np.zeros((STATES, STATES, STATES))
    np.add.at(found, (states[:-1], np.asarray(acts), states[1:]), 1)
    expected = found.sum(axis=2, keepdims=True) * transition
    assert not found[expected == 0].any()
    used = expected > 0
    statistic = np.sum((found[used] - expected[used]) ** 2 / expected[used])
    assert stats.chi2.sf(statistic, used.sum() - 100) > 1e-3

    label = np.asarray(mdp.label)
    expected = (np.bincount(states) / np.bincount(label))[label]
    statistic = np.sum((np.bincount(images, minlength=N) - expected) ** 2 / expected)
    assert stats.chi2.sf(statistic, N - STATES) > 1e-3

    # The uniform policy gets a tenth; in the sparse variant of the tenth of the time in state 9.
    mean = np.sum(classification_mdp.occupancy(transition, UNIFORM)[:, None] * reward) / STATES
    assert mean == pytest.approx(0.01 if variant == "sparse_reward" else 0.1, abs=100 * EPS)
    # Five deviations of independent rewards. Sparse ones are negatively correlated: fewer still.
    bound = 5 * np.sqrt(mean * (1 - mean) / STEPS)
    np.testing.assert_allclose(rewards.mean(), mean, atol=bound)


def test_a_reset_is_uniform_over_states() -> None:
    mdp = classification_mdp.make("true_label", LABELS, KEY)
    found = jax.vmap(classification_mdp.reset, (0, None))(jax.random.split(KEY, 5_000), mdp)
    np.testing.assert_array_equal(mdp.label[found.observation], found.state)
    assert stats.chisquare(np.bincount(found.state, minlength=STATES)).pvalue > 1e-3


def test_the_largest_number_below_one_draws_the_last_image() -> None:
    """Also where it is not a multiple of what it is multiplied by: 1 to 64 images a state."""
    labels = jnp.repeat(jnp.arange(STATES), jnp.array([1, 2, 3, 5, 7, 11, 13, 21, 63, 64]))
    mdp = classification_mdp.make("true_label", labels, KEY)
    draw = jax.vmap(classification_mdp._draw_image, (None, 0, None))
    last = draw(jnp.float32(1 - 2**-24), jnp.arange(STATES), mdp)
    np.testing.assert_array_equal(last, jnp.cumsum(mdp.size) - 1)
    np.testing.assert_array_equal(
        draw(jnp.float32(0), jnp.arange(STATES), mdp), jnp.cumsum(mdp.size) - mdp.size
    )


def test_many_mdps_are_batched_and_made_under_jit() -> None:
    keys = jax.random.split(jax.random.key(5), 3)
    make = jax.jit(jax.vmap(partial(classification_mdp.make, "random_label"), (None, 0)))
    mdps = make(LABELS, keys)
    batched = jax.vmap(classification_mdp.reset)(keys, mdps)
    stepped, rewards = jax.vmap(classification_mdp.step)(keys, batched, jnp.array([1, 2, 3]), mdps)
    for k, key in enumerate(keys):
        mdp = classification_mdp.make("random_label", LABELS, key)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[k], b), mdps, mdp)  # noqa: B023
        state = classification_mdp.reset(key, mdp)
        following, reward = classification_mdp.step(key, state, jnp.array(k + 1), mdp)
        assert (int(batched.state[k]), int(batched.observation[k])) == tuple(map(int, state))
        assert (int(stepped.state[k]), int(stepped.observation[k])) == tuple(map(int, following))
        assert float(rewards[k]) == float(reward)


# What can be known without walking.


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("variant", ["true_label", "random_label"])
def test_values_where_actions_lead_nowhere(variant: Variant, discount: float) -> None:
    """Every state is worth 1 + γ + γ² + … = 1 / (1 - γ), so Q* = δ(a = s) + γ / (1 - γ)."""
    found = classification_mdp.optimal_values(*classification_mdp.tables(variant), discount)
    expected = np.eye(STATES) + discount / (1 - discount)
    np.testing.assert_allclose(found, expected, rtol=rounding(discount))
    best = classification_mdp.optimal_actions(variant, discount)
    np.testing.assert_array_equal(best, np.eye(STATES, dtype=bool))


def rounding(discount: float) -> float:
    """The condition of 1 - γP is at most (1 + γ) / (1 - γ); times eps, times a few dozen."""
    return 50 * EPS * (1 + discount) / (1 - discount)


def ring_values(discount: float, walking: int) -> np.ndarray:
    """The values in the sparse ring if one errs in states below ``walking`` and walks elsewhere.

    Let m be the mean value. Erring is worth γ m, and state 9 - j is worth γʲ v, where v = V(9) =
    1 + γ V(0). The mean is then one linear equation.
    """
    if walking == 0:  # V(0) = γ⁹ v: a reward in every ten steps
        return discount ** np.arange(9, -1, -1) / (1 - discount**10)
    weights = discount ** np.arange(STATES - walking)
    # 10 m = walking · γ m + (Σ weights) (1 + γ² m)
    mean = weights.sum() / (10 - walking * discount - discount**2 * weights.sum())
    walked = weights[::-1] * (1 + discount**2 * mean)
    return np.concatenate([np.full(walking, discount * mean), walked])


@pytest.mark.parametrize("discount", [0.3, 0.5, 0.9, 0.97, 0.99, 0.999])
def test_values_in_the_sparse_ring(discount: float) -> None:
    """The best of the eleven policies that walk from some state on and err before it."""
    best = max((ring_values(discount, k) for k in range(STATES)), key=np.sum)
    reward, transition = classification_mdp.tables("sparse_reward")
    found = classification_mdp.optimal_values(reward, transition, discount)
    expected = reward + discount * transition @ best
    np.testing.assert_allclose(found, expected, rtol=rounding(discount))


@pytest.mark.parametrize(
    ("discount", "walking"), [(0.5, 7), (0.9, 6), (0.97, 6), (0.99, 6), (0.999, 6)]
)
def test_far_from_the_reward_it_is_better_to_err(discount: float, walking: int) -> None:
    best = classification_mdp.optimal_actions("sparse_reward", discount)
    right = np.eye(STATES, dtype=bool)
    np.testing.assert_array_equal(best[walking:], right[walking:])
    np.testing.assert_array_equal(best[:walking], ~right[:walking])


def test_without_a_future_only_the_reward_counts() -> None:
    best = classification_mdp.optimal_actions("sparse_reward", 0.0)
    np.testing.assert_array_equal(best[:9], np.ones((9, STATES), bool))
    np.testing.assert_array_equal(best[9], np.eye(STATES, dtype=bool)[9])


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9, 0.99, 0.999])
@each_variant
def test_optimal_values_solve_the_bellman_equation(variant: Variant, discount: float) -> None:
    reward, transition = classification_mdp.tables(variant)
    found = classification_mdp.optimal_values(reward, transition, discount)
    residual = reward + discount * transition @ found.max(axis=1) - found
    assert np.abs(residual).max() <= rounding(discount) * np.abs(found).max()


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """An endless loop becomes an error."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def random_tables(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """A small problem; with ``ties`` several actions are equally good."""
    rng = np.random.default_rng(seed)
    states, acts = int(rng.integers(2, 5)), int(rng.integers(2, 4))
    transition = rng.dirichlet(np.ones(states), (states, acts))
    if ties:
        reward = rng.choice([0.0, 1.0, 1e4], (states, acts))
        return reward, np.repeat(transition[:, :1], acts, axis=1)
    return rng.normal(size=(states, acts)), transition


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([0.0, 0.5, 0.9]))
@settings(deadline=None, max_examples=60)
def test_optimal_values_are_the_best_over_all_policies(
    seed: int, ties: bool, discount: float
) -> None:
    reward, transition = random_tables(seed, ties)
    states, acts = reward.shape
    best = np.full(states, -np.inf)
    for policy in itertools.product(range(acts), repeat=states):
        rows = (np.arange(states), np.array(policy))
        value = np.linalg.solve(np.eye(states) - discount * transition[rows], reward[rows])
        best = np.maximum(best, value)  # the optimal policy is the best in every state at once
    with at_most(5):
        found = classification_mdp.optimal_values(reward, transition, discount)
    expected = reward + discount * transition @ best
    # 1e-11: policy iteration may stop that close to a policy as good up to its tolerance
    scale = np.abs(reward).max() / (1 - discount)
    np.testing.assert_allclose(found, expected, atol=(1e-11 + rounding(discount)) * scale)


def test_rounding_in_a_tie_does_not_keep_policy_iteration_running() -> None:
    """Deterministic moves and large rewards: many policies are equal up to rounding."""
    rng = np.random.default_rng(0)
    with at_most(3):
        for _ in range(200):
            reward = 1e4 * rng.integers(0, 2, (STATES, STATES))
            transition = np.eye(STATES)[rng.integers(0, STATES, (STATES, STATES))]
            found = classification_mdp.optimal_values(reward, transition, 0.9)
            residual = reward + 0.9 * transition @ found.max(axis=1) - found
            assert np.abs(residual).max() <= rounding(0.9) * np.abs(found).max()


# Where the agent is.


def test_walking_the_ring_visits_all_states_alike() -> None:
    _, transition = classification_mdp.tables("sparse_reward")
    for policy in (np.eye(STATES), UNIFORM, 0.3 * np.eye(STATES) + 0.7 * UNIFORM):
        found = classification_mdp.occupancy(transition, policy)
        np.testing.assert_allclose(found, np.full(STATES, 1 / STATES), rtol=1e-12)


def test_occupancy_is_where_a_long_walk_was() -> None:
    """Under the optimal policy with a tenth of random actions, which leaves the far states."""
    _, transition = classification_mdp.tables("sparse_reward")
    best = classification_mdp.optimal_actions("sparse_reward", 0.99)
    policy = 0.9 * best / best.sum(axis=1, keepdims=True) + 0.1 * UNIFORM
    found = classification_mdp.occupancy(transition, policy)
    assert found[9] > 1.5 * found[3]

    chain = np.einsum("sa,sat->st", policy, transition)
    np.testing.assert_allclose(found @ chain, found, atol=100 * EPS)
    rng, state, visits = np.random.default_rng(0), 0, np.zeros(STATES)
    steps = 50_000
    for number in rng.random(steps):
        state = int(np.searchsorted(np.cumsum(chain[state]), number, side="right"))
        visits[state] += 1
    # The central limit theorem of Markov chains: with the fundamental matrix Z, the share of time
    # in s has variance π_s (2 Z_ss - 1 - π_s) / steps. Five deviations.
    fundamental = np.linalg.inv(np.eye(STATES) - chain + found[None])
    variance = found * (2 * np.diag(fundamental) - 1 - found) / steps
    assert (np.abs(visits / steps - found) < 5 * np.sqrt(variance)).all()


# What is refused.


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MDP]:
    """As users have it, who check no shapes."""
    for name in ("tables", "_with_images"):
        plain = inspect.unwrap(getattr(classification_mdp, name))
        monkeypatch.setattr(classification_mdp, name, plain)
    return inspect.unwrap(classification_mdp.make)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(40) % 9, r"no image has \[9\]: take more images"),
        (np.arange(40) % 11, "labels from 0 to 10: they must be 0 to 9"),
        (np.arange(40) % 11 - 1, "labels from -1 to 9: they must be 0 to 9"),
        (np.where(np.arange(40) == 3, -1, np.arange(40) % 10), "must be 0 to 9"),
        (np.arange(0), "none of 10 labels may be missing"),
        (np.arange(40).reshape(4, 10) % 10, r"one label per image, found shape \(4, 10\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    make: Callable[..., MDP], labels: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make("true_label", jnp.asarray(labels), KEY)


def test_random_labels_that_miss_a_state_are_refused(make: Callable[..., MDP]) -> None:
    with pytest.raises(ValueError, match="take more images"):
        make("random_label", LABELS[:10], KEY)


def test_an_unknown_variant_is_refused_with_the_known_ones(make: Callable[..., MDP]) -> None:
    with pytest.raises(ValueError, match="unknown variant 'easy': choose from true_label, random"):
        make("easy", LABELS, KEY)


@pytest.mark.parametrize("labels", [np.arange(40, dtype=np.uint8) % 10, np.arange(40) % 10])
def test_labels_as_they_are_loaded_will_do(make: Callable[..., MDP], labels: np.ndarray) -> None:
    np.testing.assert_array_equal(make("true_label", labels, KEY).label, labels)


@pytest.mark.parametrize("discount", [1.0, 1.5, -0.1, np.nan])
def test_a_discount_without_a_finite_value_is_refused(discount: float) -> None:
    tables = classification_mdp.tables("true_label")
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        classification_mdp.optimal_values(*tables, discount)


def test_tables_of_two_problems_are_refused() -> None:
    reward, transition = classification_mdp.tables("true_label")
    with pytest.raises(ValueError, match=r"\(10, 9\) and \(10, 10, 10\) are not tables"):
        classification_mdp.optimal_values(reward[:, :9], transition, 0.9)
    with pytest.raises(ValueError, match="not tables"):
        classification_mdp.occupancy(transition[:9], UNIFORM)


def test_a_policy_must_be_probabilities() -> None:
    _, transition = classification_mdp.tables("true_label")
    with pytest.raises(ValueError, match="must sum to 1"):
        classification_mdp.occupancy(transition, 2 * UNIFORM)
