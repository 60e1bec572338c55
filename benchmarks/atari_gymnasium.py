"""The same games in gymnasium: its own wrappers, its own vector environment.

gymnasium shrinks frames with OpenCV, the package opencv-python-headless.
"""

from __future__ import annotations

# Pixels and scores have only one precision.
from contextlib import nullcontext as double_precision  # noqa: F401

import gymnasium
import numpy as np
from atari_task import STACK, Case, Settings, World
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TransformReward

from plasticity.worlds import atari


def make(case: Case, no_ops: int = 30) -> SyncVectorEnv:
    """Return the case's environments: skipped, grey, shrunk, stacked, rewards clipped."""
    scores = atari.scores().set_index("game")

    def one() -> gymnasium.Env:
        game = gymnasium.make(
            f"ale_py:{scores.ale_id[case.game]}", frameskip=1, repeat_action_probability=0.0,
            disable_env_checker=True,
        )  # fmt: skip
        game = AtariPreprocessing(game, noop_max=no_ops, screen_size=case.size)
        return FrameStackObservation(TransformReward(game, np.sign), STACK, padding_type="zero")

    return SyncVectorEnv([one] * case.environments)


class Stepping:
    """Random actions, one call after another."""

    def __init__(self, case: Case, world: World) -> None:
        self.case = case
        frames = Settings(*world.settings.tolist())
        calls = case.updates * int(frames.learn_period) // int(frames.frame_skip)
        self.frames = calls * case.environments * int(frames.frame_skip)
        self.games = make(case)
        shape = (calls, case.environments)
        self.actions = np.random.default_rng(0).integers(0, self.games.single_action_space.n, shape)
        self.reset()

    def reset(self) -> None:
        self.games.reset(seed=0)

    def block(self) -> int:
        for actions in self.actions:
            self.games.step(actions)
        return self.frames

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """Return stacks, rewards and ends of episodes that begin without no-ops."""
        games = make(self.case, no_ops=0)
        games.reset(seed=0)
        steps = [games.step(actions)[:3] for actions in given]
        return [np.stack(part).astype(np.float32) for part in zip(*steps, strict=True)]
