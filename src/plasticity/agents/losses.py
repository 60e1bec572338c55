"""Targets of Q-learning, for one transition; batch them with `jax.vmap`.

Names carry the time: ``q_tm1`` are the values where the action was taken, ``q_t`` those where it
led. A network's loss against a target is defined by its head: `plasticity.networks.heads`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from plasticity.shapes import Array, Float


def q_target(
    r_t: Float[Array, ""], discount: float | Float[Array, ""], q_t: Float[Array, " actions"]
) -> Float[Array, ""]:
    """Return r + γ max_a q(a), the regression target of Eq. (1) under Q-learning.

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import losses
    >>> float(losses.q_target(jnp.array(1.0), 0.5, jnp.array([2.0, 4.0])))
    3.0
    """
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

    >>> import jax.numpy as jnp
    >>> from plasticity.agents import losses
    >>> q_t, q_t_selector = jnp.array([2.0, 4.0]), jnp.array([1.0, 0.0])
    >>> float(losses.double_q_target(jnp.array(1.0), 0.5, q_t, q_t_selector))
    2.0
    """
    return jax.lax.stop_gradient(r_t + discount * q_t[jnp.argmax(q_t_selector)])
