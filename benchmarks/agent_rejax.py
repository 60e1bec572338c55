"""The same agents in rejax, which is JAX too and trains a whole DQN in one compiled loop as we do.

Network, learner, buffer and loop are rejax's; the problem is an environment of gymnax, which is
what rejax takes. One environment and one update per action, no normalisation, no double learning.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports
    import rejax

# isort: split
# After rejax: where nothing of this is installed, it is what is missing.
import jax
import jax.numpy as jnp
import numpy as np
import optax
from agent_task import CHECK_PERIOD, Case, Settings, World
from flax import linen as nn
from flax import struct
from flax.training.train_state import TrainState
from gymnax.environments import environment, spaces
from rejax.buffers import Minibatch, ReplayBuffer
from rejax.networks import DiscreteQNetwork, EpsilonGreedyPolicy

STATES, SEED = 10, 0


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Let jax keep float64."""
    with jax.enable_x64(True):
        yield


@struct.dataclass
class Where:
    """Where the environment is."""

    state: jax.Array
    image: jax.Array  # by its index


@struct.dataclass
class Digits:
    """All images, and the indices of each state's: a piece of ``order``, from ``first`` on."""

    images: jax.Array
    order: jax.Array
    first: jax.Array
    size: jax.Array


class Indices(spaces.Discrete):  # type: ignore[misc]
    """Numbers below a bound, 32 bits wide."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.dtype = jnp.int32


class TrueLabel(environment.Environment):  # type: ignore[misc]
    """The true-label problem: a reward for naming the state of the image, then any other; no end.

    It shows an image, or with ``by_index`` only which one it is.
    """

    def __init__(self, images: jax.Array, by_index: bool) -> None:
        self.by_index = by_index
        self.seen: spaces.Space = Indices(len(images))
        if not by_index:
            self.seen = spaces.Box(-jnp.inf, jnp.inf, images.shape[1:], images.dtype)

    def reset_env(self, key: jax.Array, params: Digits) -> tuple[jax.Array, Where]:
        state_key, image_key = jax.random.split(key)
        state = jax.random.randint(state_key, (), 0, STATES, jnp.int32)
        offset = jax.random.randint(image_key, (), 0, params.size[state], jnp.int32)
        image = params.order[params.first[state] + offset]
        return image if self.by_index else params.images[image], Where(state, image)

    def step_env(self, key: jax.Array, state: Where, action: Any, params: Digits) -> Any:
        """Return the next observation and state, the reward for the action in the old, no end."""
        reward = (action == state.state).astype(jnp.float32)
        return *self.reset_env(key, params), reward, jnp.zeros((), bool), {}

    def action_space(self, params: Digits) -> spaces.Space:
        return Indices(STATES)

    def observation_space(self, params: Digits) -> spaces.Space:
        return self.seen


class Held:
    """Images as a setting of a network: equal to themselves only, since settings are compared."""

    def __init__(self, images: jax.Array) -> None:
        self.images = images


class OfIndices(DiscreteQNetwork):  # type: ignore[misc]
    """The network of images that are given by their index."""

    held: Any = None

    def __call__(self, observations: jax.Array) -> jax.Array:
        found: jax.Array = super().__call__(self.held.images[observations.astype(jnp.int32)])
        return found


class Replacing(ReplayBuffer):  # type: ignore[misc]
    """A buffer whose minibatches are drawn with replacement, as ours and as rejax 0.1.2 drew them.

    Drawing without needs a random number for each transition in the buffer.
    """

    def sample(self, num: int, rng: jax.Array) -> Minibatch:
        chosen = jax.random.randint(rng, (num,), 0, self.num_entries)
        return jax.tree.map(lambda column: column[chosen], self.data)


class Agents:
    """`rejax.DQN`, its state donated from call to call; data are arguments, as in ours.

    ``alike``: with our choices where rejax made others that cost time. The buffer holds indices of
    images, not the images, and minibatches are drawn with replacement.
    """

    def __init__(self, case: Case, world: World, *, alike: bool = False) -> None:
        self.case, self.world, self.alike = case, world, alike
        self.settings = Settings(*world.settings.tolist())
        self.algorithm = self.make_algorithm()
        self.begun: Any = None  # with a full warm-up: made once, and copied whenever it is needed
        self.run = jax.jit(lambda algo, now: algo.train(train_state=now)[0], donate_argnums=1)

    def make_algorithm(self) -> rejax.DQN:
        """Return the algorithm; `rejax.DQN.create` would make a network of 64 units."""
        case, settings = self.case, self.settings
        images, size = jnp.asarray(self.world.images), np.bincount(self.world.labels)
        order = np.argsort(self.world.labels, kind="stable")
        pieces = (order, np.cumsum(size) - size, size)
        kind, more = DiscreteQNetwork, {}
        if self.alike:
            kind, more = OfIndices, {"held": Held(images)}
        network = EpsilonGreedyPolicy(kind)(
            hidden_layer_sizes=(case.width, case.width), action_dim=STATES, activation=nn.relu,
            **more,
        )  # fmt: skip
        return rejax.DQN(
            env=TrueLabel(images, self.alike),
            env_params=Digits(images, *(jnp.asarray(part, jnp.int32) for part in pieces)),
            eval_callback=lambda *_: (), skip_initial_evaluation=True, eval_freq=case.steps,
            agent=network, ddqn=False, total_timesteps=case.steps, gamma=settings.discount,
            num_envs=1, num_epochs=1, batch_size=case.batch_size, polyak=0.0,
            buffer_size=int(settings.capacity), fill_buffer=int(settings.warmup),
            eps_start=settings.epsilon, eps_end=settings.epsilon,
            target_update_freq=int(settings.target_period),
        )  # fmt: skip

    def start(self) -> Any:
        """Return a learner with the world's parameters and Adam, and an empty buffer."""
        state = self.algorithm.init_state(jax.random.PRNGKey(SEED))
        leaves = map(jnp.asarray, self.world.params)
        params = jax.tree.structure(state.q_ts.params).unflatten(leaves)
        rate, b1, b2, eps = self.world.adam.tolist()
        # Its loss is half of ours, so is the gradient: with half of ε the steps are equal.
        adam = optax.adam(rate, b1, b2, eps / 2)
        clipped = optax.chain(optax.clip(self.algorithm.max_grad_norm), adam)
        learner = TrainState.create(apply_fn=(), params=params, tx=clipped)
        if self.alike:
            buffer = state.replay_buffer
            fields = ("size", "data", "index", "full")
            buffer = Replacing(**{name: getattr(buffer, name) for name in fields})
            state = state.replace(replay_buffer=buffer)
        return state.replace(q_ts=learner, q_target_params=params)

    def reset(self) -> None:
        """Restart, with random transitions in the buffer: the next step is the first update."""
        if self.begun is None:
            self.begun = jax.jit(self.filled)(self.algorithm, self.start())
        self.state = jax.block_until_ready(jax.tree.map(jnp.copy, self.begun))

    @staticmethod
    def filled(algorithm: rejax.DQN, state: Any) -> Any:
        """Return the state after as many steps as rejax takes without an update."""

        def step(_: Any, state: Any) -> Any:
            return algorithm.train_iteration(state)

        return jax.lax.fori_loop(0, algorithm.fill_buffer + 1, step, state)

    def block(self) -> int:
        if self.begun is None:
            self.reset()
        self.state = jax.block_until_ready(self.run(self.algorithm, self.state))
        return self.case.steps

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        algorithm = self.algorithm.replace(target_update_freq=CHECK_PERIOD)
        observation, action, reward, following = map(jnp.asarray, given.transpose(1, 0, 2))
        seen, led = observation.astype(jnp.int32), following.astype(jnp.int32)
        steps = 1 + jnp.arange(len(given))

        def update(state: Any, drawn: Any) -> tuple[Any, None]:
            step, batch = drawn
            if not self.alike:
                images = algorithm.env_params.images
                batch = batch._replace(obs=images[batch.obs], next_obs=images[batch.next_obs])
            state = algorithm.update(state, batch)
            target = algorithm.maybe_update_target_params(
                state.q_ts.params, state.q_target_params, step, step - 1
            )
            return state.replace(q_target_params=target), None

        batches = Minibatch(seen, action.astype(jnp.int32), reward, reward != reward, led)
        state, _ = jax.lax.scan(update, self.start(), (steps, batches))
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state.q_ts.params)]
