r"""The paper's optimizers by name, and what their moment estimates do when the task switches.

Lyle et al. (2023), Eq. (6), write Adam's update as

.. math:: u_t = \alpha \frac{\hat m_t}{\sqrt{\hat v_t + \bar\epsilon} + \epsilon}.

Their :math:`\bar\epsilon` is what optax calls ``eps_root``.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import optax

from plasticity.shapes import Array, Float, Key

Rate = float | Float[Array, ""]
"""A number, or an array of one where a compiled program serves several."""


class AdamSettings(NamedTuple):
    """Constants of Adam apart from the learning rate, in the notation of Eq. (6)."""

    b1: float  # decay of the first moment m
    b2: float  # decay of the second moment v
    eps: float  # ε, outside the root
    eps_root: float  # ε̄, inside the root


DEFAULT_ADAM = AdamSettings(b1=0.9, b2=0.999, eps=1e-9, eps_root=0.0)
"""The default setting of A.1."""

TUNED_ADAM = AdamSettings(b1=0.9, b2=0.9, eps=1e-9, eps_root=1e-3)
"""The tuned setting of A.1: a faster second moment and a floor under it."""


def adam(learning_rate: Rate, settings: AdamSettings) -> optax.GradientTransformation:
    """Return Adam with the constants of ``settings``.

    >>> from plasticity.agents import optimizers
    >>> optimizer = optimizers.adam(1e-3, optimizers.TUNED_ADAM)
    >>> optimizer.init({"w": 0.0})[0]._fields
    ('count', 'mu', 'nu')
    """
    return optax.adam(learning_rate, **settings._asdict())


def moment_ratio(opt_state: Any, settings: AdamSettings) -> Float[Array, ""]:
    """Return the root mean square over parameters of m̂ / √v̂, the step Adam takes without ε.

    Near 1 where gradients keep their sign, near 0 where they average out. Parameters whose gradient
    was always zero (v̂ = 0) do not count. ``opt_state`` is any optax state that holds one Adam
    state. Raises KeyError if it holds none.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import optimizers
    >>> optimizer, params = optimizers.adam(1e-3, optimizers.DEFAULT_ADAM), jnp.zeros(2)
    >>> _, opt_state = optimizer.update(jnp.array([1.0, -2.0]), optimizer.init(params))
    >>> round(float(optimizers.moment_ratio(opt_state, optimizers.DEFAULT_ADAM)), 3)
    1.0
    """
    adam_state = cast(optax.ScaleByAdamState, optax.tree.get(opt_state, "ScaleByAdamState"))
    if adam_state is None:
        raise KeyError("the optimizer state holds no Adam moments")
    m_hat = optax.tree.bias_correction(adam_state.mu, settings.b1, adam_state.count)
    v_hat = optax.tree.bias_correction(adam_state.nu, settings.b2, adam_state.count)
    squares = jax.tree.map(
        lambda m, v: jnp.sum(jnp.where(v > 0, m * m / jnp.where(v > 0, v, 1.0), 0.0)), m_hat, v_hat
    )
    counts = jax.tree.map(lambda v: jnp.sum(v > 0), v_hat)
    total = sum(jax.tree.leaves(squares), jnp.zeros(()))
    return jnp.sqrt(total / jnp.maximum(sum(jax.tree.leaves(counts), jnp.zeros(())), 1))


def ratio_after_jump(
    steps: Float[Array, " steps"], settings: AdamSettings
) -> Float[Array, " steps"]:
    """Return m̂ / √v̂ after a gradient jumps from (nearly) zero to a constant.

    Suppose both moments had decayed to zero and bias correction has worn off. Then after k steps of
    any constant gradient g, m = (1 - b1ᵏ) g and v = (1 - b2ᵏ) g²:

    .. math:: \\frac{1 - b_1^k}{\\sqrt{1 - b_2^k}}

    With b2 = .999 this rises to 6.6 at the twelfth step: every parameter moves 6.6 learning rates
    at once. With b2 = b1 it never exceeds 1. This is §4.1's explanation as a formula.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import optimizers
    >>> found = optimizers.ratio_after_jump(jnp.array([1.0, 12.0]), optimizers.DEFAULT_ADAM)
    >>> [round(ratio, 1) for ratio in found.tolist()]
    [3.2, 6.6]
    """
    return (1 - settings.b1**steps) / jnp.sqrt(1 - settings.b2**steps)


OptimizerName = Literal["adam", "rmsprop", "sgd"]


def of_name(
    name: OptimizerName, learning_rate: Rate, eps: float = DEFAULT_ADAM.eps
) -> optax.GradientTransformation:
    """Return an optimizer by the name that configurations and tables use.

    ``adam`` has A.1's default constants, apart from ``eps``, ``rmsprop`` those of dqn_zoo's DQN
    (centred, decay .95, ε 1e-5: Quan & Ostrovski 2020), ``sgd`` no momentum. Raises ValueError for
    any other name.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import optimizers
    >>> optimizer = optimizers.of_name("sgd", learning_rate=0.5)
    >>> update, _ = optimizer.update(jnp.array([1.0]), optimizer.init(jnp.zeros(1)))
    >>> update.tolist()
    [-0.5]
    """
    if name == "adam":
        return adam(learning_rate, DEFAULT_ADAM._replace(eps=eps))
    if name == "rmsprop":
        return optax.rmsprop(learning_rate, decay=0.95, eps=1e-5, centered=True)
    if name == "sgd":
        return optax.sgd(learning_rate)
    raise ValueError(
        f"unknown optimizer {name!r}: choose from {', '.join(get_args(OptimizerName))}"
    )


class Walk(NamedTuple):
    """An optimizer's state, and a random walk from the same starting point."""

    optimizer: Any
    whole: Any  # displacement of the walk that matches the length of the optimizer's whole step
    per_tensor: Any  # displacement of the walk that matches the length of each tensor's step
    key: Key[Array, ""]


def with_random_walk(
    optimizer: optax.GradientTransformation, key: Key[Array, ""]
) -> optax.GradientTransformation:
    """Return ``optimizer``, unchanged, accompanied by the Brownian motion of §4.2.

    At each step the walk moves in a Gaussian direction, as far as the optimizer moves the network:
    ‖θ_{t+1} - θ_t‖ is equal, the direction is not. The paper does not say whether the norm is over
    all parameters or over each tensor; the state, a `Walk`, has both, as displacements from where
    the network began. A walk with steps c times as long ends c times as far away.

    Only ``init`` uses ``key``.

    >>> import jax, jax.numpy as jnp, optax
    >>> from plasticity.agents import optimizers
    >>> optimizer = optimizers.with_random_walk(optax.sgd(0.5), jax.random.key(0))
    >>> update, walk = optimizer.update(jnp.ones(4), optimizer.init(jnp.zeros(4)))
    >>> update.tolist(), round(float(jnp.linalg.norm(walk.whole)), 3)  # both are of length 1
    ([-0.5, -0.5, -0.5, -0.5], 1.0)
    """

    def init(params: Any) -> Walk:
        whole, per_tensor = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return Walk(optimizer.init(params), whole, per_tensor, key)

    def update(gradient: Any, state: Walk, params: Any = None, **more: Any) -> tuple[Any, Walk]:
        step, inner = optimizer.update(gradient, state.optimizer, params, **more)
        key, now = jax.random.split(state.key)
        direction = optax.tree.random_like(now, step)

        def along(size: Array, way: Any) -> Any:
            length = optax.tree.norm(way)
            return jax.tree.map(lambda x: x * (size / length), way)

        whole = along(optax.tree.norm(step), direction)
        per_tensor = jax.tree.map(
            lambda x, way: along(jnp.linalg.norm(x.ravel()), way), step, direction
        )
        whole = optax.tree.add(state.whole, whole)
        per_tensor = optax.tree.add(state.per_tensor, per_tensor)
        return step, Walk(inner, whole, per_tensor, key)

    return optax.GradientTransformation(init, update)
