"""Images and probe targets by key: a network with one more field has targets of its own."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plasticity.agents import mdp_agent
from plasticity.agents.settings import DQN, Problem
from plasticity.chapters.probing import probed_agent
from plasticity.chapters.probing.by_key import ByKey
from plasticity.chapters.probing.probed_agent import Config
from plasticity.configuration import replaced
from plasticity.networks import architectures
from plasticity.networks.settings import MLP
from plasticity.shapes import Array

TINY = Config(
    problem=Problem(n_images=20), network=MLP(width=8),
    algorithm=DQN(batch_size=8, target_period=10, warmup=20, capacity=50),
    probe_every=20, probes=1, n_targets=2, probe_steps=100, probe_batch_size=8, seeds=1,
    sharpness_every=10, proxy_examples=20,
)  # fmt: skip


class Louder(nn.Module):
    """A network of somebody else's, who has just given it a field ``gain``."""

    outputs: int
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> architectures.Forward:
        hidden = nn.relu(nn.Dense(8)(x))
        return architectures.Forward(self.gain * nn.Dense(self.outputs)(hidden), (hidden,))


def test_a_new_field_of_a_network_makes_other_probe_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No key names fields: what a network is made of is the key."""
    gains = {0.5: 1.0, 0.25: 3.0}  # by a setting that no network is made of

    def network(config: mdp_agent.AgentConfig, learning: bool = False) -> Louder:
        return Louder(mdp_agent.n_outputs(config), gains[config.algorithm.discount])

    monkeypatch.setattr(mdp_agent, "network", network)
    quiet, loud = (replaced(TINY, {"algorithm.discount": discount}) for discount in gains)
    other = replaced(loud, {"algorithm.batch_size": 4})
    world, _ = probed_agent.load([quiet, loud, other])
    assert len(world.targets) == 2 and len(world.images) == 1
    found = [world.targets[mdp_agent.network_key(config)] for config in (quiet, loud)]
    assert found[0].shape == found[1].shape == (2, 20, 10)
    assert not np.allclose(found[0], found[1], atol=1e-3)
    with pytest.raises(KeyError, match=r"nothing for .*gain = 1\.0"):
        probed_agent.load([loud])[0].targets[mdp_agent.network_key(quiet)]


def test_arrays_by_key_are_a_tree_of_the_arrays() -> None:
    by_key = ByKey({("b", 1): jnp.ones(2), nn.Dense(3): jnp.zeros(3)})
    assert list(by_key) == [("b", 1), nn.Dense(3)] and len(by_key) == 2
    twice = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree))(by_key)
    assert isinstance(twice, ByKey) and list(twice) == list(by_key)
    np.testing.assert_array_equal(twice[nn.Dense(3)], np.ones(3))
    np.testing.assert_array_equal(twice["b", 1], np.full(2, 2.0))
