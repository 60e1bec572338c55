"""The classification MDPs as gymnasium environments, for agents that are not written in JAX.

::

    import gymnasium, plasticity.worlds.gymnasium_api
    env = gymnasium.make("plasticity/TrueLabel-v0")  # or RandomLabel-v0, SparseReward-v0

The tables are those of `plasticity.worlds.classification_mdp`; everything is NumPy on the host, so
that the environments can be forked into workers. Importing this module registers the three.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from plasticity.worlds import image_files, image_sets
from plasticity.worlds.classification_mdp import STATES, Variant, tables

try:
    import gymnasium
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "plasticity.worlds.gymnasium_api needs gymnasium: "
        "pip install gymnasium, or plasticity-companion[atari]"
    ) from error

IDS: dict[Variant, str] = {
    "true_label": "plasticity/TrueLabel-v0",
    "random_label": "plasticity/RandomLabel-v0",
    "sparse_reward": "plasticity/SparseReward-v0",
}

EPISODE = 1_000
"""Steps after which a registered environment truncates. The tasks themselves never end, and the
paper has no episodes: without ``max_episode_steps=-1`` bootstrap through a truncation."""

Pixels = npt.NDArray[np.uint8]


class ClassificationEnv(gymnasium.Env[Pixels, np.int64]):
    """Image classification as a reinforcement-learning problem (Lyle et al. 2023, §3.2).

    Args:
        variant: "true_label", "random_label" or "sparse_reward".
        dataset: where the images come from: see `plasticity.worlds.image_sets.load`.
        n_images: how many of them, drawn at random; None for all.
        images: your own images instead of ``dataset``, with labels 0 to 9, none missing.
        label_seed: draws the labels of the random-label variant, once; the others ignore it.
        render_mode: None or "rgb_array".

    An observation is an image, uint8 (h, w, c); an action is a guess of its state, 0 to 9. ``info``
    holds the "index" of the image and the "state" it belongs to. No step terminates or truncates:
    see `EPISODE`. Raises ValueError for an unknown variant, unless each image has a label and each
    state an image, if both ``n_images`` and ``images`` are given, and for images that cannot be
    rendered if rendering is asked for.

    >>> from plasticity.worlds import gymnasium_api, image_sets
    >>> images = image_sets.synthetic(20, shape=(8, 8, 1))  # or leave it out: MNIST
    >>> env = gymnasium_api.ClassificationEnv("true_label", images=images)
    >>> seen, info = env.reset(seed=0)
    >>> seen, reward, terminated, truncated, after = env.step(info["state"])  # the right answer
    >>> seen.shape, reward, terminated, truncated
    ((8, 8, 1), 1.0, False, False)
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        variant: Variant,
        dataset: image_files.Dataset = "mnist_5k",
        n_images: int | None = None,
        images: image_files.Images | None = None,
        label_seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        """Load the images and sort them by state."""
        self._reward, self._transition = tables(variant)
        if images is not None and n_images is not None:
            raise ValueError("n_images is for a dataset: shorten images yourself")
        pixels, labels, _ = image_sets.load(dataset, n_images) if images is None else images
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or labels.shape != pixels.shape[:1]:
            raise ValueError(
                "need pixels uint8 (n, h, w, c) and a label for each, not "
                f"{pixels.dtype} {pixels.shape} and labels {labels.shape}"
            )
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode = {render_mode!r}: rgb_array or None")
        if render_mode and pixels.shape[-1] not in (1, 3):
            raise ValueError(f"images of {pixels.shape[-1]} channels have no colours to render")
        if variant == "random_label":
            labels = np.random.default_rng(label_seed).integers(0, STATES, len(labels), np.uint8)
        self._pixels = pixels
        self._members = [np.flatnonzero(labels == state) for state in range(STATES)]
        counts = [len(members) for members in self._members]
        if 0 in counts or sum(counts) != len(labels):
            raise ValueError(
                f"labels must be 0 to {STATES - 1} and none may be missing; images of each: "
                f"{counts}, of others: {len(labels) - sum(counts)}"
            )
        self._state: int | None = None
        self._index = 0
        self.observation_space = gymnasium.spaces.Box(0, 255, pixels.shape[1:], np.uint8)
        self.action_space = gymnasium.spaces.Discrete(STATES)
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Pixels, dict[str, Any]]:
        """Return an image of a uniformly random state; ``options`` are not used."""
        super().reset(seed=seed)
        self._enter(int(self.np_random.integers(STATES)))
        return self._see()

    def step(self, action: np.int64) -> tuple[Pixels, float, bool, bool, dict[str, Any]]:
        """Take an action. The reward is for the state in which it was taken."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before the first step")
        if not self.action_space.contains(action):
            raise gymnasium.error.InvalidAction(f"{action!r}: not an integer from 0 to 9")
        reward = float(self._reward[self._state, action])
        following = self.np_random.choice(STATES, p=self._transition[self._state, action])
        self._enter(int(following))
        pixels, info = self._see()
        return pixels, reward, False, False, info

    def render(self) -> Pixels | None:
        """Return the image in colour, (h, w, 3), or None without a render mode."""
        if self.render_mode is None:
            return None
        height, width, _ = self._pixels.shape[1:]
        return np.broadcast_to(self._pixels[self._index], (height, width, 3)).copy()

    def _enter(self, state: int) -> None:
        self._state = state
        self._index = int(self.np_random.choice(self._members[state]))

    def _see(self) -> tuple[Pixels, dict[str, Any]]:
        return self._pixels[self._index].copy(), {"index": self._index, "state": self._state}


def register() -> None:
    """Make the three known to `gymnasium.make`; calling it again does no harm.

    >>> import gymnasium
    >>> from plasticity.worlds import gymnasium_api, image_sets
    >>> gymnasium_api.register()  # importing the module has done it
    >>> images = image_sets.synthetic(20, shape=(8, 8, 1))
    >>> env = gymnasium.make("plasticity/SparseReward-v0", images=images)
    >>> env.observation_space.shape, int(env.action_space.n)
    ((8, 8, 1), 10)
    """
    for variant, name in IDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                id=name,
                entry_point="plasticity.worlds.gymnasium_api:ClassificationEnv",
                max_episode_steps=EPISODE,
                kwargs={"variant": variant},
            )


register()
