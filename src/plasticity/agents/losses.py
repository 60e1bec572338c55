"""Targets and losses of Q-learning, for one transition; batch them with `jax.vmap`.

Time stands in the name: ``q_tm1`` are the values where the action was taken, ``q_t`` those where it
led. A two-hot output (Lyle et al. 2023, §6.2) predicts a distribution over fixed values, its
``support``, whose mean is the action's value.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from plasticity.networks.heads import two_hot
from plasticity.shapes import Array, Float


def q_target(
    r_t: Float[Array, ""], discount: float | Float[Array, ""], q_t: Float[Array, " actions"]
) -> Float[Array, ""]:
    """Return r + γ max_a q(a), the regression target of Eq. (1) under Q-learning."""
    return jax.lax.stop_gradient(r_t + discount * jnp.max(q_t))


def double_q_target(
    r_t: Float[Array, ""],
    discount: float | Float[Array, ""],
    q_t: Float[Array, " actions"],
    q_t_selector: Float[Array, " actions"],
) -> Float[Array, ""]:
    """Return r + γ q(argmax_a selector(a)), the target of double Q-learning.

    ``q_t`` comes from the target network, ``q_t_selector`` from the online one (Van Hasselt et al.
    2016). With equal networks it is `q_target`.
    """
    return jax.lax.stop_gradient(r_t + discount * q_t[jnp.argmax(q_t_selector)])


def regression_loss(
    q_tm1: Float[Array, " actions"], a_tm1: Array, target: Float[Array, ""]
) -> Float[Array, ""]:
    """Return the squared temporal-difference error of Eq. (1)."""
    return (q_tm1[a_tm1] - target) ** 2


def two_hot_loss(
    logits_tm1: Float[Array, "actions bins"],
    a_tm1: Array,
    target: Float[Array, ""],
    support: Float[Array, " bins"],
) -> Float[Array, ""]:
    """Return the cross-entropy from the two-hot target to the action's predicted distribution."""
    return -jnp.sum(two_hot(target, support) * jax.nn.log_softmax(logits_tm1[a_tm1]))
