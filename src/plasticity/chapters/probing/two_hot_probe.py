"""The probe of a two-hot network by the loss that it learns by.

The paper does not say by which loss it probes one. `plasticity.chapters.probing.probed_agent`
descends the squared error of the decoded values, Eq. (4), whose gradient vanishes where the softmax
saturates. Here the cross-entropy to two-hot targets is descended instead, whose gradient does not.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from plasticity import devices
from plasticity.agents import mdp_agent
from plasticity.chapters.probing import probed_agent
from plasticity.measure import probe
from plasticity.networks import heads
from plasticity.shapes import Array, Float, Int, Key

Fitted = tuple[Any, Any]
"""Parameters and the optimizer's state."""


def record(
    config: probed_agent.Config, world: probed_agent.World, state: probed_agent.State
) -> dict[str, Array]:
    """Return what `probed_agent.probe_record` does, of fits that descend the cross-entropy.

    Targets and minibatches are the same as there, and all losses in the record are squared errors
    of the values, Eq. (4). The optimizer starts from a fresh state.
    """
    learner, images = mdp_agent.agent(config), world.images[mdp_agent.image_key(config)]
    support, params = jnp.asarray(learner.support), state.agent.params
    offset = jnp.mean(learner.values(params, images))
    two_hot = jax.vmap(jax.vmap(heads.two_hot, (0, None)), (0, None))

    def surprise(
        params: Any, inputs: Array, goal: Float[Array, "batch actions"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        logits = learner.outputs(params, inputs)
        nats = -jnp.sum(two_hot(goal, support) * jax.nn.log_softmax(logits), axis=-1)
        return jnp.mean(nats), jnp.mean((heads.decode(logits, support) - goal) ** 2)

    def fit(target: Float[Array, "images actions"], key: Key[Array, ""]) -> probe.Fits:
        goal = target + offset

        def step(carry: Fitted, batch: Int[Array, " batch"]) -> tuple[Fitted, Array]:
            params, opt_state = carry
            descend = jax.value_and_grad(surprise, has_aux=True)
            (_, error), gradient = descend(params, images[batch], goal[batch])
            update, opt_state = learner.optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, update), opt_state), error

        shape = config.probe_steps, config.probe_batch_size
        batches = jax.random.randint(key, shape, 0, images.shape[0])
        (fitted, _), trace = jax.lax.scan(step, (params, learner.optimizer.init(params)), batches)
        windows = trace.reshape(-1, probe.WINDOW)
        loss = jnp.mean((learner.values(fitted, images) - goal) ** 2)
        return probe.Fits(loss, windows.mean(axis=1), windows.std(axis=1))

    targets = world.targets[mdp_agent.network_key(config)]
    found = devices.map_lanes(fit, targets, jax.random.split(state.probe_key, len(targets)))
    return {
        "loss": found.loss,
        "probe_loss": jnp.mean(found.loss),
        "curve": jnp.mean(found.curve, axis=0),
        "noise": jnp.mean(found.noise, axis=0),
    }
