"""The state that networks keep besides their parameters, and how an optimizer step advances it.

A spectrally normalised layer keeps a vector, a network with dropout a counter. ``init`` returns
each in a collection of its own next to ``params``, so that ``apply`` stays a pure function of
variables and inputs: it needs no random key and changes nothing. State gets no gradient; only
`advanced`, which `advancing` calls at every step, changes it.
"""

from __future__ import annotations

from typing import Any

import jax
import optax

from plasticity.networks.dropout import DROPOUT
from plasticity.networks.spectral import SPECTRAL, power_iteration
from plasticity.shapes import Array

# Time.


def advanced(variables: Any) -> Any:
    """Return a network's variables with their state advanced by one optimizer step.

    Each vector takes one `power_iteration` on its kernel; each counter goes up by one. Variables
    without state are returned as they are.

    >>> import jax.numpy as jnp
    >>> from plasticity.networks import state
    >>> variables = {"params": {"w": jnp.array(1.0)}, "dropout": {"counter": jnp.array(3.0)}}
    >>> float(state.advanced(variables)["dropout"]["counter"])
    4.0
    """
    found = dict(variables)

    def turned(path: Any, vector: Array) -> Array:
        layer = variables["params"]
        for part in path[:-1]:
            layer = layer[part.key]
        return power_iteration(layer["kernel"], vector)

    if SPECTRAL in variables:
        found[SPECTRAL] = jax.tree.map_with_path(turned, variables[SPECTRAL])
    if DROPOUT in variables:
        found[DROPOUT] = jax.tree.map(lambda counter: counter + 1, variables[DROPOUT])
    return found


def advancing(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return ``optimizer`` for variables that hold a network's state besides its parameters.

    Parameters move as ``optimizer`` moves them. Whatever it would do to the state (weight decay, a
    random walk) is replaced by one step of `plasticity.networks.state.advanced`, given the new
    parameters. So state keeps up wherever optimizer steps are taken, in an agent's learning and in
    a probe's fit alike. ``update`` needs the variables and raises ValueError without them.

    >>> import jax.numpy as jnp, optax
    >>> from plasticity.networks import state
    >>> optimizer = state.advancing(optax.sgd(0.5))
    >>> before = {"params": jnp.array(1.0), "dropout": jnp.array(3.0)}
    >>> gradient = {"params": jnp.array(1.0), "dropout": jnp.array(0.0)}
    >>> update, _ = optimizer.update(gradient, optimizer.init(before), before)
    >>> after = optax.apply_updates(before, update)
    >>> float(after["params"]), float(after["dropout"])
    (0.5, 4.0)
    """

    def update(gradient: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("an optimizer that advances a network's state needs its variables")
        step, inner = optimizer.update(gradient, state, params, **more)
        moved = optax.apply_updates(params["params"], step["params"])
        later = advanced({**params, "params": moved})
        state_names = params.keys() - {"params"}
        kept = {name: optax.tree.sub(later[name], params[name]) for name in state_names}
        return {"params": step["params"], **kept}, inner

    return optax.GradientTransformation(optimizer.init, update)
