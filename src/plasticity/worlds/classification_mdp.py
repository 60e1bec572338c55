"""Image classification as a reinforcement-learning problem (Lyle et al. 2023, §3.2).

A block MDP of ten states and ten actions: in state s the agent sees one of the images that belong
to s, and the right action is s itself. **An observation is an index into the images**; the pixels
are gathered when a network needs them, so that a replay buffer holds integers.

The three variants differ in two small tables, the reward and the transition probabilities, and in
which images belong to which state. The tables suffice to solve the problem exactly, images apart.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from plasticity.shapes import Array, Float, Int, Key
from plasticity.worlds import image_sets

STATES = 10
"""How many states, and actions: one per class."""

Variant = Literal["true_label", "random_label", "sparse_reward"]
"""The paper's figures call the first "easy" and the second "hard"."""

VARIANTS: tuple[Variant, ...] = get_args(Variant)


class MDP(NamedTuple):
    """One block MDP; arrays only, so that many can be batched and passed to jitted functions."""

    reward: Float[Array, "states actions"]
    transition: Float[Array, "states actions states"]  # probability of the next state
    label: Int[Array, " images"]  # the state that each image belongs to
    order: Int[Array, " images"]  # image indices, those of state 0 first
    first: Int[Array, " states"]  # where each state's images begin in `order`
    size: Int[Array, " states"]  # how many it has


class State(NamedTuple):
    """Where the environment is."""

    state: Int[Array, ""]
    observation: Int[Array, ""]  # index of the image that the agent sees


def make(variant: Variant, labels: Int[Array, " images"], key: Key[Array, ""]) -> MDP:
    """Return the MDP of ``variant`` over images with these true ``labels``.

    ``key`` draws the labels of the random-label variant; the others do not use it. Raises
    ValueError for an unknown variant or, if the labels are concrete, for a state without images.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(20) % 10, jax.random.key(0))
    >>> mdp.reward.shape, mdp.transition.shape, mdp.size.tolist()
    ((10, 10), (10, 10, 10), [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    reward, transition = tables(variant)
    if variant == "random_label":
        labels = image_sets.random_labels(key, labels.shape[0], STATES)
    return _with_images(reward, transition, labels)


def tables(variant: Variant) -> tuple[np.ndarray, np.ndarray]:
    """Return reward (states, actions) and transition (states, actions, states), float64.

    True- and random-label: reward δ(a = s), and the next state is uniform whatever the action.
    Sparse-reward: reward δ(a = s = 9); the right action leads to s + 1, any other anywhere. The
    paper does not say what follows state 9: here state 0, the s + 1 of a ring. Raises ValueError
    for an unknown variant.

    >>> from plasticity.worlds import classification_mdp
    >>> reward, transition = classification_mdp.tables("sparse_reward")
    >>> float(reward.sum()), float(reward[9, 9]), float(transition[3, 3, 4])
    (1.0, 1.0, 1.0)
    """
    uniform = np.full((STATES, STATES, STATES), 1 / STATES)
    if variant in ("true_label", "random_label"):
        return np.eye(STATES), uniform
    if variant != "sparse_reward":
        raise ValueError(f"unknown variant {variant!r}: choose from {', '.join(VARIANTS)}")
    reward = np.zeros((STATES, STATES))
    reward[-1, -1] = 1.0
    states = np.arange(STATES)
    uniform[states, states] = np.eye(STATES)[(states + 1) % STATES]
    return reward, uniform


def _with_images(reward: np.ndarray, transition: np.ndarray, label: Int[Array, " images"]) -> MDP:
    label = jnp.asarray(label, jnp.int32)
    if label.ndim != 1:
        raise ValueError(f"expected one label per image, found shape {label.shape}")
    order = jnp.argsort(label, stable=True).astype(jnp.int32)
    first = jnp.searchsorted(label[order], jnp.arange(STATES)).astype(jnp.int32)
    count = jnp.bincount(label, length=STATES).astype(jnp.int32)
    if not isinstance(count, jax.core.Tracer):
        # jnp.bincount counts negative labels as zeros, and leaves out those that are too large
        if label.shape[0] and (label.min() < 0 or label.max() >= STATES):
            low, high = int(label.min()), int(label.max())
            raise ValueError(f"labels from {low} to {high}: they must be 0 to {STATES - 1}")
        empty = np.flatnonzero(np.asarray(count) == 0)
        if empty.size:
            raise ValueError(
                f"none of {STATES} labels may be missing, and no image has {empty.tolist()}: "
                "take more images"
            )
    return MDP(jnp.asarray(reward, jnp.float32), jnp.asarray(transition, jnp.float32),
               label, order, first, count)  # fmt: skip


def reset(key: Key[Array, ""], mdp: MDP) -> State:
    """Return a uniformly random state with one of its images.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(20) % 10, jax.random.key(0))
    >>> begun = classification_mdp.reset(jax.random.key(1), mdp)
    >>> int(mdp.label[begun.observation]) == int(begun.state)
    True
    """
    state_key, image_key = jax.random.split(key)
    state = jax.random.randint(state_key, (), 0, STATES, jnp.int32)
    return State(state, _draw_image(jax.random.uniform(image_key), state, mdp))


def step(
    key: Key[Array, ""], state: State, action: Int[Array, ""], mdp: MDP
) -> tuple[State, Float[Array, ""]]:
    """Take ``action``; return the next state, and the reward for the action in the old state.

    >>> import jax, jax.numpy as jnp
    >>> from plasticity.worlds import classification_mdp
    >>> mdp = classification_mdp.make("true_label", jnp.arange(20) % 10, jax.random.key(0))
    >>> begun = classification_mdp.reset(jax.random.key(1), mdp)
    >>> now, reward = classification_mdp.step(jax.random.key(2), begun, begun.state, mdp)
    >>> float(reward)  # the action was right
    1.0
    """
    where, which = jax.random.uniform(key, (2,))
    reward = mdp.reward[state.state, action]
    # The inverse of the distribution function: the first state whose cumulative sum exceeds u.
    cumulative = jnp.cumsum(mdp.transition[state.state, action])
    following = jnp.minimum(jnp.sum(where >= cumulative), STATES - 1).astype(jnp.int32)
    return State(following, _draw_image(which, following, mdp)), reward


def _draw_image(uniform: Float[Array, ""], state: Int[Array, ""], mdp: MDP) -> Int[Array, ""]:
    """Return the index of one of the state's images, chosen by a number in [0, 1)."""
    offset = (uniform * mdp.size[state]).astype(jnp.int32)
    # Numbers finer than JAX's own can come so near to 1 that float32 rounds u · count to count.
    return mdp.order[mdp.first[state] + jnp.minimum(offset, mdp.size[state] - 1)]


def optimal_values(reward: np.ndarray, transition: np.ndarray, discount: float) -> np.ndarray:
    """Return Q*(s, a), float64 (states, actions), by policy iteration: exact up to rounding.

    Takes the `tables` of any finite problem. Raises ValueError unless 0 <= discount < 1 or if the
    tables' shapes do not fit.

    >>> from plasticity.worlds import classification_mdp
    >>> reward, transition = classification_mdp.tables("true_label")
    >>> values = classification_mdp.optimal_values(reward, transition, discount=0.9)
    >>> round(float(values[3, 3]), 6), round(float(values[3, 4]), 6)
    (10.0, 9.0)
    """
    _check_tables(reward, transition)
    if not 0 <= discount < 1:
        raise ValueError(f"discount = {discount}: must lie in [0, 1)")
    states = np.arange(len(reward))
    policy, best = np.zeros_like(states), -np.inf
    while True:
        # v = r + γ P v under the policy
        system = np.eye(len(states)) - discount * transition[states, policy]
        value = np.linalg.solve(system, reward[states, policy])
        q_values: np.ndarray = reward + discount * transition @ value
        # Each policy is better than the last, except for rounding, which may go in circles.
        if not value.sum() > best:
            return q_values
        policy, best = q_values.argmax(axis=1), float(value.sum())


def optimal_actions(variant: Variant, discount: float) -> np.ndarray:
    """Return which actions are optimal in which state, bool (states, actions).

    That is a = s in the true- and random-label problems. In the sparse-reward one, states far from
    the reward differ: walking the ring takes longer than erring and landing anywhere.

    >>> from plasticity.worlds import classification_mdp
    >>> optimal = classification_mdp.optimal_actions("random_label", discount=0.99)
    >>> optimal[3].nonzero()[0].tolist()
    [3]
    """
    q_values = optimal_values(*tables(variant), discount)
    best: np.ndarray = q_values >= q_values.max(axis=1, keepdims=True) - 1e-9
    return best


def right_by_chance(variant: Variant, discount: float) -> float:
    """Return how often a random action is optimal, in [0, 1], if all states are as likely.

    >>> from plasticity.worlds import classification_mdp
    >>> round(classification_mdp.right_by_chance("sparse_reward", discount=0.99), 2)
    0.58
    """
    return float(optimal_actions(variant, discount).mean())


def occupancy(transition: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Return the stationary distribution of the states under ``policy``, float64 (states,).

    ``policy`` holds the probability of each action in each state, shape (states, actions). Raises
    ValueError if its rows do not sum to 1.

    >>> import numpy as np
    >>> from plasticity.worlds import classification_mdp
    >>> _, transition = classification_mdp.tables("true_label")
    >>> found = classification_mdp.occupancy(transition, policy=np.full((10, 10), 0.1))
    >>> bool(np.allclose(found, 0.1))
    True
    """
    _check_tables(policy, transition)
    if not np.allclose(policy.sum(axis=1), 1):
        raise ValueError("policy: the probabilities of a state's actions must sum to 1")
    chain = np.einsum("sa,sat->st", policy, transition)
    # μᵀP = μᵀ with Σμ = 1, as one least-squares problem
    system = np.vstack([chain.T - np.eye(len(chain)), np.ones(len(chain))])
    solution, *_ = np.linalg.lstsq(system, np.append(np.zeros(len(chain)), 1.0))
    return np.asarray(solution)


def _check_tables(per_action: np.ndarray, transition: np.ndarray) -> None:
    states, actions = per_action.shape
    if transition.shape != (states, actions, states):
        raise ValueError(f"{per_action.shape} and {transition.shape} are not tables of one problem")
