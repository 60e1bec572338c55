"""Does a device compute what a CPU does? To be asked of a new accelerator before it is believed.

Compilers err. With jax 0.11 on an H100 agents forgot at each update of their target network what
they had learned, and nothing looked wrong (see `plasticity.programs.jit`). So three
tiny agents, one without and two with events, are trained in step on the device, and one by one on
this machine's CPU, and what matters is compared: where their parameters went.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from plasticity import lanes, programs
from plasticity.agents import mdp_agent
from plasticity.agents.settings import DQN, Problem
from plasticity.chapters.probing import probed_agent
from plasticity.chapters.probing.by_key import ByKey
from plasticity.configuration import replaced
from plasticity.cures.settings import ResetLastLayer, ShrinkAndPerturb
from plasticity.errors import Told
from plasticity.networks.settings import MLP

TINY = probed_agent.Config(
    network=MLP(width=16), problem=Problem(n_images=50),
    algorithm=DQN(batch_size=8, target_period=100, warmup=100, capacity=200), probe_every=200,
    probes=1, n_targets=1, probe_steps=50, sharpness_every=100, sharpness_order=4,
    proxy_examples=16,
)  # fmt: skip
CURES: tuple[tuple[Any, ...], ...] = ((), (ResetLastLayer(),), (ShrinkAndPerturb(),))

MOST = 0.1
"""The largest distance that counts as rounding, see `distances`.

Between agents in step and one by one on a CPU it is less than a hundredth (a test says so).
Parameters that stay where they were are at 1.
"""


class DeviceWrong(Told, RuntimeError):
    """The device does not compute what a CPU does; the message says by how much."""


def distances() -> dict[str, float]:
    """Return how far apart tiny agents end on the default device and on this machine's CPU.

    By agent: the norm of the difference between the two parameter vectors, divided by the distance
    that training moved the parameters on the CPU. 0 is perfect.
    """
    configs = [replaced(TINY, {"cures": cures}) for cures in CURES]
    moved = _moved(configs, together=True)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        expected = _moved(configs, together=False)
    return {
        cures[0].kind if cures else "none": float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for cures, a, b in zip(CURES, moved, expected, strict=True)
    }


def require() -> dict[str, float]:
    """Return `distances`. Raises `DeviceWrong` if one is larger than `MOST`, or no number."""
    found = distances()
    if wrong := {name: far for name, far in found.items() if not far <= MOST}:
        told = ", ".join(f"{name}: {far:.2g}" for name, far in wrong.items())
        raise DeviceWrong(
            f"{jax.devices()[0].device_kind} does not train agents as this machine's CPU does. "
            f"Relative to how far training moves them, their parameters are apart by more than "
            f"{MOST:g} ({told}). Try another version of jax"
        )
    return found


def _moved(configs: list[probed_agent.Config], together: bool) -> list[np.ndarray]:
    """Return how far each agent's parameters moved, as a vector, on the default device."""
    world = _world()
    with programs.apart():
        begun = [probed_agent.start(config, world, jax.random.key(1)) for config in configs]
    before = [_vector(state.agent.params) for state in begun]
    calls = [
        partial(probed_agent.advance, config, world, state, 1)
        for config, state in zip(configs, begun, strict=True)
    ]
    if together:
        ends = lanes.in_step(calls)
    else:
        with programs.apart():
            ends = [call() for call in calls]
    return [_vector(end.agent.params) - old for (end, _), old in zip(ends, before, strict=True)]


def _vector(params: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(params)])


def _world() -> probed_agent.World:
    """Return images of noise with labels: no data set has to be there."""
    rng = np.random.default_rng(0)
    shapes = probed_agent.shapes(TINY)
    image, network = mdp_agent.image_key(TINY), mdp_agent.network_key(TINY)
    images = rng.normal(size=shapes.images[image].shape)
    labels = rng.integers(0, 10, shapes.labels[image].shape)
    targets = rng.normal(size=shapes.targets[network].shape)
    return probed_agent.World(
        ByKey({image: jnp.asarray(images, jnp.float32)}),
        ByKey({image: jnp.asarray(labels, jnp.int32)}),
        ByKey({network: jnp.asarray(targets, jnp.float32)}),
    )
