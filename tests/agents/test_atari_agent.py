"""An agent of Atari games by its settings: what is refused, what is as in dqn_zoo, exploration."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from plasticity.agents import atari_agent
from plasticity.agents.atari_agent import AgentConfig
from plasticity.agents.settings import CentredRMSProp, GameDQN
from plasticity.configuration import ConfigError
from plasticity.networks.heads import Huber
from plasticity.worlds.atari import Preprocessing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"discount": 1.0}, "discount = 1.0"),
        ({"batch_size": 0}, "batch_size = 0: must be above 0"),
        ({"epsilon": 1.5}, "epsilon = 1.5"),
        ({"epsilon_start": -0.1}, "epsilon_start = -0.1"),
        ({"epsilon_frames": 0}, "epsilon_frames = 0: must be above 0"),
        ({"learn_period": 0}, "learn_period = 0: must be above 0"),
        ({"target_period": 0}, "target_period = 0: must be above 0"),
        ({"error_bound": 0.0}, "error_bound = 0.0: must be above 0"),
        ({"learn_period": 6}, "learn_period = 6: must be a multiple of frame_skip = 4"),
        ({"target_period": 24}, "target_period = 24: must be a multiple of learn_period = 16"),
        ({"warmup": 31}, "a batch must fit into the warm-up"),
        ({"warmup": 200_000}, "and that into the buffer"),
    ],
)
def test_settings_with_which_no_agent_can_learn(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AgentConfig(algorithm=GameDQN(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"game": "pang"}, "game = 'pang': choose from alien"),
        ({"preprocessing": Preprocessing(size=30)}, "size = 30: the network needs 36 pixels"),
        ({"preprocessing": Preprocessing(frame_skip=5)}, "must be a multiple of frame_skip = 5"),
    ],
)
def test_games_that_no_agent_can_play(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AgentConfig(**change)


@pytest.mark.parametrize("name", ["learning_rate", "decay", "epsilon"])
def test_numbers_with_which_nothing_moves_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} = 0.0: must be above 0"):
        CentredRMSProp(**{name: 0.0})


def test_what_is_not_said_is_as_in_dqn_zoo() -> None:
    """But for what the reference in double precision says already, in `test_atari_task`."""
    agent = atari_agent.agent(AgentConfig(), outputs=6)
    assert agent.head == Huber(bound=1.0) and agent.double
    # dqn_zoo's, in frames: an action every 4, a step every 16, a copy every 120,000
    assert (agent.actions_per_step, agent.target_period) == (4, 7_500)
    assert (agent.batch_size, agent.warmup) == (32, 5_000)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (4_000, {0: 1.0, 500: 0.55, 1_000: 0.1, 9_999: 0.1}),
        (6, {0: 1.0, 1: 0.4, 2: 0.1}),  # by the second action four of six frames are over
        (1, {0: 1.0, 1: 0.1, 2: 0.1}),
    ],
)
def test_exploration_falls_on_a_line_after_the_warm_up(
    frames: int, expected: dict[int, float]
) -> None:
    algorithm = GameDQN(epsilon_start=1.0, epsilon=0.1, epsilon_frames=frames)
    agent = atari_agent.agent(AgentConfig(algorithm=algorithm), outputs=6)
    found = agent.exploration(jnp.asarray(list(expected)))  # actions, of four frames each
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-6)
