"""What `atari_speed` steps and trains: a game, the world its contenders share, and who they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from table import Entry, Table

CHECK_PERIOD = 10
"""Updates between two target copies in a check, so that it sees some; 7,500 when timed."""

STACK = 4
"""Frames in an observation."""


class Case(NamedTuple):
    """Environments that only step, or one with an agent that learns."""

    environments: int  # how many step together; an agent has one
    batch_size: int  # transitions; 0: no learning
    updates: int  # between two looks at the clock; without learning, the frames that these need
    capacity: int = 10_000  # transitions in the buffer
    filled: int = 1_000  # random actions in it before an agent is timed
    size: int = 84  # pixels: height and width of a frame
    game: str = "freeway"

    @property
    def name(self) -> str:
        if not self.batch_size:
            return f"{self.game}, environments: {self.environments}"
        return f"{self.game}, batch {self.batch_size}"

    @property
    def columns(self) -> dict[str, str | int]:
        return {"network": "nature", "batch_size": self.batch_size or self.environments}


class World(NamedTuple):
    """What every contender starts from, bit for bit."""

    params: list[np.ndarray]  # (bias, kernel) of each layer; of the last: (kernel, shared bias)
    settings: np.ndarray  # see `Settings`


class Settings(NamedTuple):
    """The settings of an agent that are in `World.settings`, in this order."""

    discount: float
    epsilon: float
    frame_skip: float
    learn_period: float  # frames
    target_period: float  # frames
    error_bound: float  # of Huber's loss
    learning_rate: float  # this and the next two are centred RMSProp's
    decay: float
    optimizer_epsilon: float  # inside the root, as in dqn_zoo and optax


def batch_type(case: Case) -> np.dtype:
    """Return the type of a minibatch: an array of this type holds all that a check learns from."""
    frames = (case.batch_size, STACK + 1, case.size, case.size)  # observation, and the frame after
    return np.dtype(
        [
            ("frames", np.uint8, frames),
            ("action", np.int32, case.batch_size),
            ("reward", np.float32, case.batch_size),
            ("discount", np.float32, case.batch_size),
        ]
    )


COMPILED, LAST = {"compiled": True}, {"channels_last": True}
"""Options of contenders in PyTorch."""

TABLES = {
    "atari_steps": Table(
        "atari_speed",
        ours="stepping_hosted",
        heading="frames/s | ours is faster by",
        rate="frames",
        size="environments",
        entries=(
            Entry("stepping_hosted", "ours: `atari.Environments`", "atari_jax.Hosted"),
            Entry("stepping_jitted", "ours: `atari_callback`, inside a scan", "atari_jax.Jitted"),
            Entry("gymnasium_sync", "gymnasium's SyncVectorEnv and its wrappers",
                  "atari_gymnasium.Stepping"),
        ),
    ),
    "atari_agents": Table(
        "atari_speed",
        ours="atari_agent_pinned",
        heading="frames/s in all | ours is faster by",
        rate="frames",
        entries=(
            Entry("atari_agent_pinned", "ours: agents, one pinned to each core",
                  "atari_jax.Agents", pinned=True, checked=False),
            Entry("atari_agent_all", "ours: an agent on all cores", "atari_jax.Agents"),
            Entry("atari_agent_vmap", "ours: two agents batched with vmap, all cores",
                  "atari_jax.Agents", {"agents": 2}),
            Entry("torch_atari_agent_all", "PyTorch: an agent in CleanRL's style, all cores",
                  "atari_torch.Agent"),
            Entry("torch_atari_agent_pinned",
                  "PyTorch: agents in CleanRL's style, one pinned to each core",
                  "atari_torch.Agent", pinned=True, checked=False),
            Entry("torch_atari_agent_last_pinned",
                  "PyTorch: agents in CleanRL's style, channels last, pinned",
                  "atari_torch.Agent", LAST, pinned=True, checked=False),
        ),
    ),
    "atari_updates": Table(
        "atari_speed",
        ours="atari_update_pinned",
        heading="updates/s in all | ours is faster by",
        rate="updates",
        entries=(
            Entry("atari_update_pinned", "ours: bare updates, pinned",
                  "atari_jax.Updates", pinned=True, checked=False),
            Entry("atari_update_all", "ours: the bare update, all cores", "atari_jax.Updates"),
            Entry("torch_atari_update_all", "PyTorch eager: the bare update, all cores",
                  "atari_torch.Updates"),
            Entry("torch_atari_update_last_all",
                  "PyTorch eager: the same, channels last, all cores",
                  "atari_torch.Updates", LAST),
            Entry("torch_atari_update_compiled_all", "torch.compile: the bare update, all cores",
                  "atari_torch.Updates", COMPILED),
            Entry("torch_atari_update_pinned", "PyTorch eager: bare updates, pinned",
                  "atari_torch.Updates", pinned=True, checked=False),
            Entry("torch_atari_update_last_pinned",
                  "PyTorch eager: the same, channels last, pinned",
                  "atari_torch.Updates", LAST, pinned=True, checked=False),
            Entry("torch_atari_update_compiled_pinned", "torch.compile: bare updates, pinned",
                  "atari_torch.Updates", COMPILED, pinned=True, checked=False),
        ),
    ),
    "atari_parts": Table(
        "atari_speed",
        ours="part_whole",
        heading="frames/s, if there were nothing else | share of the whole's time",
        form="{:.1%}",
        entries=(
            Entry("part_whole", "a whole agent on all cores", "atari_jax.Agents"),
            Entry("part_acting", "acting alone", "atari_jax.Acting"),
            Entry("part_stepping", "stepping alone", "atari_jax.Jitted", {"stack": 1}),
            Entry("part_replay", "the replay buffer alone", "atari_jax.Replay"),
            Entry("part_learning", "learning alone", "atari_jax.Learning"),
        ),
    ),
}  # fmt: skip
"""What is compared: each contender with its description and the code that does its work."""
