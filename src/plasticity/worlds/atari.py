"""The 57 Atari games, preprocessed as for double DQN, several at once.

::

    games = atari.Environments("pong", 2)  # needs ale_py: pip install plasticity-companion[atari]
    seen = games.reset([0, 1])  # a seed each
    seen = games.step([0, 3])

The emulators are `ale_py.AtariVectorEnv`, C++ threads that do not hold the interpreter: while they
step, a network can learn. There is one instance per environment, because an environment must be
seeded separately to be checkpointed; that is as fast. Nothing here stacks frames:
`plasticity.agents.frame_replay` does.

**Checkpoints.** The vector environment can neither save nor restore an emulator, but is
deterministic: a state is a seed and the actions since. Seeding reloads the game, which takes a
tenth of a second; replaying takes half a millisecond per call. So an environment is reseeded at the
first end of an episode after `SEEDED` calls. That costs less than 3 % of the stepping; a state is
at most 37 kB per environment, and restored in twenty seconds at worst. `ale_py.ALEInterface` could
save the emulator itself, but holds the interpreter while it emulates: environments would step one
after another. Under XLA (its ``xla()``) the vector environment was no faster than from the host,
and starts episodes with random numbers that cannot be saved.

**Pixels.** Luminance by ALE's palette, the maximum of the last two frames, then OpenCV's
interpolation by area, inside ALE: the same pixels as gymnasium's ``AtariPreprocessing``. The tests
compare them. dqn_zoo instead takes the maximum of the colours and resizes with Pillow's bilinear
filter. Over 200 random steps its pixels differ by 0.1 (Pong) to 2.4 (Freeway) of 255 grey levels on
average. It also pads the stack of a new episode after the first frame, not before.
"""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd


def scores() -> pd.DataFrame:
    """Return the scores of a random and a human player in each of the 57 games, with no-op starts.

    Columns: game, random, human (mean return of an episode, neither discounted nor clipped),
    ale_id (Gymnasium's name of the game). From ``dqn_zoo/atari_data.py`` (google-deepmind/dqn_zoo,
    commit 45061f4, Apache-2.0).

    >>> from plasticity.worlds import atari
    >>> atari.scores().set_index("game").loc["pong", ["random", "human"]].tolist()
    [-20.7, 14.6]
    """
    return _read("atari_scores.csv")


def _read(name: str) -> pd.DataFrame:
    source = importlib.resources.files("plasticity") / name
    with source.open(encoding="utf-8") as file:
        return pd.read_csv(file)


GAMES: tuple[str, ...] = tuple(scores().game)
"""The benchmark's games, under the names that dqn_zoo and ALE's ROMs share."""

SEEDED = 10_000
"""Calls after which an environment is reseeded, as soon as its episode ends."""


@dataclass(frozen=True)
class Preprocessing:
    """Settings of what lies between the emulator and the agent.

    The paper follows "the standard training protocol" of dqn_zoo (A.3; Quan & Ostrovski 2020), so
    these are the settings of its ``double_q/run_atari.py`` and ``processors.atari``.

    >>> from plasticity.worlds.atari import Preprocessing
    >>> machado = Preprocessing(sticky=0.25, life_loss_zeroes_discount=False, full_actions=True)
    >>> machado.frame_skip, machado.size, machado.stack
    (4, 84, 4)
    """

    no_ops: int = 30  # frames: an episode starts with 1 to this many without action; 0 for none
    frame_skip: int = (
        4  # frames an action lasts; the last two, pixel by pixel the maximum, are seen
    )
    size: int = 84  # pixels: height and width of a frame
    stack: int = 4  # frames in an observation: for `plasticity.agents.frame_replay.create`
    reward_bound: float = 1.0  # rewards are clipped to ± this, after adding those of skipped frames
    life_loss_zeroes_discount: bool = True  # as in dqn_zoo; the episode still goes on
    sticky: float = (
        0.0  # probability that a frame repeats the last action; 0.25: Machado et al. 2018
    )
    episode_frames: int = 108_000  # half an hour; then truncated, which does not zero the discount
    full_actions: bool = False  # all 18 actions, not only those that do something in the game

    def __post_init__(self) -> None:
        """Raise ValueError for settings that no game can be played with."""
        for name in ("frame_skip", "size", "stack", "reward_bound", "episode_frames"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        if self.no_ops < 0:
            raise ValueError(f"no_ops = {self.no_ops}: must not be negative")
        if not 0 <= self.sticky < 1:
            raise ValueError(f"sticky = {self.sticky}: must lie in [0, 1)")


class Step(NamedTuple):
    """What a call returns, one entry per environment."""

    frame: npt.NDArray[np.uint8]  # (n, size, size), grey
    score: npt.NDArray[np.int32]  # (n,) what the game gave for the action
    reward: npt.NDArray[np.float32]  # (n,) the same, clipped
    discount: npt.NDArray[np.float32]  # (n,) 0 or 1: whether there is a future to bootstrap from
    first: npt.NDArray[np.bool_]  # (n,) the frame begins an episode: no action led to it
    last: npt.NDArray[np.bool_]  # (n,) the frame ends one: the next will be a first


class State(NamedTuple):
    """What `Environments.restore` needs to recreate the emulators; all shapes are fixed."""

    seed: npt.NDArray[np.int64]  # (n,)
    seeded: npt.NDArray[np.int32]  # (n,) how often the environment was seeded
    calls: npt.NDArray[np.int32]  # (n,) since it was last seeded
    actions: npt.NDArray[np.uint8]  # (n, most possible) in those calls


class Environments:
    """Several copies of one game, stepping at the same time.

    Args:
        game: one of `GAMES`.
        n: how many copies.
        preprocessing: see `Preprocessing`.

    Every call returns one frame of each copy. After a frame that is ``last`` the next call ignores
    the copy's action and returns the ``first`` frame of its next episode.

    Raises ModuleNotFoundError without ale_py, ValueError for a game that is none of the 57.

    >>> from plasticity.worlds import atari
    >>> games = atari.Environments("pong", 2)  # needs ale_py  # doctest: +SKIP
    >>> seen = games.reset([0, 1])  # a seed each  # doctest: +SKIP
    >>> seen = games.step([0, 3])  # doctest: +SKIP
    >>> games.actions, seen.frame.shape, seen.reward.tolist()  # doctest: +SKIP
    (6, (2, 84, 84), [0.0, 0.0])
    """

    def __init__(self, game: str, n: int, preprocessing: Preprocessing | None = None) -> None:
        """Load the game ``n`` times."""
        if game not in GAMES:
            near = difflib.get_close_matches(game.lower().replace(" ", "_"), GAMES)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else "see plasticity.worlds.atari.GAMES"
            )
            raise ValueError(f"{game!r} is none of the 57 games: {hint}")
        if n < 1:
            raise ValueError(f"n = {n}: must be above 0")
        self.game = game
        self.preprocessing = preprocessing or Preprocessing()
        self._copies = [_Copy(game, self.preprocessing) for _ in range(n)]
        self.actions = self._copies[0].actions  # how many there are to choose from
        self._begun = False

    def reset(self, seeds: Sequence[int]) -> Step:
        """Restart with one seed per copy: all that follows depends only on seeds and actions.

        Raises ValueError unless there is a seed for each copy and none is negative.
        """
        if len(seeds) != len(self._copies) or min(seeds) < 0:
            raise ValueError(f"seeds = {seeds}: need {len(self._copies)}, none negative")
        self._begun = True
        return _together([copy.begin(int(s)) for copy, s in zip(self._copies, seeds, strict=True)])

    def step(self, actions: npt.ArrayLike) -> Step:
        """Take an action in each copy, integers from 0, shape (n,).

        Raises RuntimeError before the first `reset`, ValueError for other actions.
        """
        self.send(actions)
        return self.receive()

    def send(self, actions: npt.ArrayLike) -> None:
        """Begin a `step` and return at once: the emulators go on by themselves."""
        if not self._begun:
            raise RuntimeError("call reset, or restore, before the first step")
        taken = np.asarray(actions)
        if (
            taken.shape != (len(self._copies),)
            or taken.dtype.kind not in "iu"
            or not ((taken >= 0) & (taken < self.actions)).all()
        ):
            raise ValueError(
                f"actions = {taken}: need {len(self._copies)} integers from 0 to {self.actions - 1}"
            )
        for copy, action in zip(self._copies, taken.tolist(), strict=True):
            copy.send(action)

    def receive(self) -> Step:
        """End the `step` that `send` began: wait for the emulators."""
        return _together([copy.receive() for copy in self._copies])

    def state(self) -> State:
        """Return what it takes to continue from here, also in another process."""
        if not self._begun:
            raise RuntimeError("call reset, or restore, before there is a state")
        copies, n = self._copies, len(self._copies)
        actions = np.zeros((n, most_calls(self.preprocessing)), np.uint8)
        for row, copy in zip(actions, copies, strict=True):
            row[: len(copy.taken)] = copy.taken
        return State(
            np.array([copy.seed for copy in copies], np.int64),
            np.array([copy.seeded for copy in copies], np.int32),
            np.array([len(copy.taken) for copy in copies], np.int32),
            actions,
        )

    def is_at(self, state: State) -> bool:
        """Return whether these emulators are already in ``state``: nothing to restore."""
        pairs: list[Any] = list(zip(self.state(), state, strict=True)) if self._begun else []
        return self._begun and all(np.array_equal(now, then) for now, then in pairs)

    def restore(self, state: State) -> Step:
        """Go back to ``state`` by replaying; return what the last `step` or `reset` returned then.

        Raises ValueError for a state of environments with another number or preprocessing.
        """
        n = len(self._copies)
        if state.actions.shape != (n, most_calls(self.preprocessing)):
            raise ValueError(
                f"the state has actions of shape {state.actions.shape}, these environments of "
                f"{(n, most_calls(self.preprocessing))}: was it another configuration's?"
            )
        self._begun = True
        counts = state.calls.tolist()
        seen = [
            copy.begin(int(seed), int(seeded) - 1)
            for copy, seed, seeded in zip(self._copies, state.seed, state.seeded, strict=True)
        ]
        for call in range(max(counts)):
            going = [i for i in range(n) if call < counts[i]]
            for i in going:
                self._copies[i].send(int(state.actions[i, call]))
            for i in going:
                seen[i] = self._copies[i].receive()
        return _together(seen)


def most_calls(preprocessing: Preprocessing) -> int:
    """Return how many calls an environment can take without being reseeded.

    >>> from plasticity.worlds import atari
    >>> atari.most_calls(atari.Preprocessing())
    37001
    """
    steps = -(-preprocessing.episode_frames // preprocessing.frame_skip)
    return SEEDED + steps + 1


def _together(each: Sequence[Step]) -> Step:
    return Step(*(np.concatenate(leaves) for leaves in zip(*each, strict=True)))


class _Copy:
    """One emulator with what it takes to restore it."""

    def __init__(self, game: str, preprocessing: Preprocessing) -> None:
        """Load the game."""
        try:
            from ale_py import vector_env
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "the Atari games need ale_py and gymnasium: pip install plasticity-companion[atari]"
            ) from error
        self._choices = preprocessing
        self._emulator = vector_env.AtariVectorEnv(
            game,
            num_envs=1,
            num_threads=1,
            max_num_frames_per_episode=preprocessing.episode_frames,
            repeat_action_probability=preprocessing.sticky,
            full_action_space=preprocessing.full_actions,
            img_height=preprocessing.size,
            img_width=preprocessing.size,
            stack_num=1,
            frameskip=preprocessing.frame_skip,
            # ALE draws from 0 to one less than this; `_first` deals with a draw of 0.
            noop_max=preprocessing.no_ops + 1 if preprocessing.no_ops else 0,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self.actions = len(self._emulator.ale.get_action_set())
        self.seed, self.seeded, self.taken = 0, 0, bytearray()
        self._over, self._seeding, self._lives = False, False, 0

    def begin(self, seed: int, seeded: int = 0) -> Step:
        """Seed the emulator for the ``seeded``-th time, and start an episode."""
        self.seed, self.seeded, self.taken = seed, seeded + 1, bytearray()
        drawn = np.random.default_rng((seed, seeded)).integers(2**31, size=1)
        return self._first(*self._emulator.reset(seed=drawn))

    def send(self, action: int) -> None:
        """Start the emulator on the action and return at once."""
        self._seeding = self._over and len(self.taken) >= SEEDED
        if not self._seeding:
            self.taken.append(action)
            self._emulator.send(np.array([action]))

    def receive(self) -> Step:
        """Wait for the outcome of the action."""
        if self._seeding:
            return self.begin(self.seed, self.seeded)
        frame, score, terminated, truncated, info = self._emulator.recv()
        if self._over:
            return self._first(frame, info)
        lives = int(info["lives"][0])
        lost = self._choices.life_loss_zeroes_discount and lives < self._lives
        self._lives, self._over = lives, bool(terminated[0] or truncated[0])
        bound = self._choices.reward_bound
        return Step(
            frame[0],
            score,
            np.clip(score, -bound, bound).astype(np.float32),
            np.array([not (terminated[0] or lost)], np.float32),
            np.array([False]),
            np.array([self._over]),
        )

    def _first(self, frame: npt.NDArray[np.uint8], info: dict[str, Any]) -> Step:
        """Return the first frame of an episode; one without a no-op is drawn again."""
        while self._choices.no_ops and not info["episode_frame_number"][0]:
            frame, info = self._emulator.reset()
        self._over, self._lives = False, int(info["lives"][0])
        zero = np.zeros(1)
        return Step(
            frame[0],
            zero.astype(np.int32),
            zero.astype(np.float32),
            np.ones(1, np.float32),
            np.array([True]),
            np.array([False]),
        )
