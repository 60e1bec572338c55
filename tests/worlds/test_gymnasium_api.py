"""The gymnasium environments: the checker of gymnasium, and the same tables as the JAX version."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy import stats

from plasticity.worlds import classification_mdp, gymnasium_api, image_sets
from plasticity.worlds.classification_mdp import VARIANTS, Variant
from plasticity.worlds.gymnasium_api import ClassificationEnv

IMAGES = image_sets.synthetic(100, (4, 5, 3))
STEPS = 20_000

each_variant = pytest.mark.parametrize("variant", VARIANTS)


class Walk(NamedTuple):
    """What an agent without eyes sees."""

    states: np.ndarray  # (steps + 1,)
    indices: np.ndarray  # (steps + 1,)
    actions: np.ndarray  # (steps,)
    rewards: np.ndarray  # (steps,)
    label: np.ndarray  # (images,) the state that each image belongs to


@pytest.fixture(scope="module", params=VARIANTS)
def walk(request: pytest.FixtureRequest) -> tuple[Variant, Walk]:
    """A long walk under the uniform policy."""
    env = ClassificationEnv(request.param, images=IMAGES, label_seed=3)
    infos, rewards = [env.reset(seed=0)[1]], []
    actions = np.random.default_rng(1).integers(10, size=STEPS)
    for action in actions:
        pixels, reward, terminated, truncated, info = env.step(action)
        assert not terminated and not truncated
        np.testing.assert_array_equal(pixels, IMAGES.pixels[info["index"]])
        infos.append(info)
        rewards.append(reward)
    states, indices = (np.array([info[name] for info in infos]) for name in ("state", "index"))
    label = np.asarray(IMAGES.labels, int)
    if request.param == "random_label":
        label = np.random.default_rng(3).integers(0, 10, 100, np.uint8)
    return request.param, Walk(states, indices, actions, np.array(rewards), label)


@each_variant
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_the_checker_of_gymnasium_has_no_complaint(
    variant: Variant, render_mode: str | None
) -> None:
    """Its warnings are errors here, as all are."""
    name = gymnasium_api.IDS[variant]
    env = gymnasium.make(name, images=IMAGES, render_mode=render_mode)
    check_env(env.unwrapped)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert (env.render() is None) == (render_mode is None)


def test_the_checker_is_heard() -> None:
    class Torn(ClassificationEnv):
        def step(self, action: np.int64) -> Any:
            pixels, reward, *_, info = super().step(action)
            return pixels / 2, reward, False, False, info

    with pytest.raises((AssertionError, UserWarning)):
        check_env(Torn("true_label", images=IMAGES))


@each_variant
def test_registered_environments_truncate_and_never_terminate(variant: Variant) -> None:
    env = gymnasium.make(gymnasium_api.IDS[variant], images=IMAGES)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(gymnasium_api.EPISODE)]
    assert ends == [(False, False)] * (gymnasium_api.EPISODE - 1) + [(False, True)]
    endless = gymnasium.make(gymnasium_api.IDS[variant], images=IMAGES, max_episode_steps=-1)
    endless.reset(seed=0)
    assert not any(endless.step(0)[3] for _ in range(gymnasium_api.EPISODE + 1))


def test_registering_twice_does_no_harm() -> None:
    specs = {name: gymnasium.spec(name) for name in gymnasium_api.IDS.values()}
    gymnasium_api.register()
    assert all(gymnasium.spec(name) is spec for name, spec in specs.items())


@pytest.mark.slow
def test_one_line_makes_one_and_workers_can_be_forked() -> None:
    """In a fresh process: gymnasium imports the module that the name holds, JAX stays unused."""
    code = """
        import warnings; warnings.simplefilter("error")
        import gymnasium
        name = "plasticity.worlds.gymnasium_api:plasticity/TrueLabel-v0"
        env = gymnasium.make(name, n_images=200)
        assert env.reset(seed=0)[0].shape == (28, 28, 1)
        several = gymnasium.make_vec(
            "plasticity/SparseReward-v0", num_envs=2, vectorization_mode="async", n_images=200
        )
        assert several.reset(seed=0)[0].shape == (2, 28, 28, 1)
        several.close()
        print("done")
    """
    lines = [line.removeprefix(8 * " ") for line in code.splitlines()]
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120
    )
    assert (found.stdout, found.returncode) == ("done\n", 0), found.stderr


def test_without_gymnasium_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    spec = importlib.util.spec_from_file_location("without", str(gymnasium_api.__file__))
    assert spec is not None and spec.loader is not None
    with pytest.raises(
        ModuleNotFoundError, match=r"pip install gymnasium, or plasticity-companion\[atari\]"
    ):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_nothing_else_imports_it(repository: Path) -> None:
    for path in set((repository / "src").rglob("*.py")) - {Path(gymnasium_api.__file__)}:
        found = re.search(r"^\s*(from|import)\b.*\bgymnasium_api\b", path.read_text("utf-8"), re.M)
        assert not found, f"{path} imports what needs an optional package"


@each_variant
def test_seeds_reproduce(variant: Variant) -> None:
    def play(seed: int, label_seed: int = 0) -> list[Any]:
        env = ClassificationEnv(variant, images=IMAGES, label_seed=label_seed)
        seen = [env.reset(seed=seed)[1], *(env.step(a % 10)[1:] for a in range(50))]
        return [*seen, env.reset()[1], env.reset(seed=seed)[1]]

    assert play(0) == play(0) != play(1)
    assert play(0)[0] == play(0)[-1] != play(0)[-2]  # without a seed it goes on
    assert (play(0, label_seed=1) == play(0)) == (variant != "random_label")


def test_the_uniform_policy_gets_what_the_tables_say(walk: tuple[Variant, Walk]) -> None:
    variant, seen = walk
    _, transition = classification_mdp.tables(variant)
    uniform = np.full((10, 10), 1 / 10)
    # A reward in the sparse variant needs state 9 as well.
    visits = classification_mdp.occupancy(transition, uniform)[9]
    expected = visits / 10 if variant == "sparse_reward" else 1 / 10
    # Five deviations of a mean of independent rewards. In the sparse variant they are negatively
    # correlated (a reward leads to state 0, far from the next), which makes it smaller still.
    bound = 5 * np.sqrt(expected * (1 - expected) / STEPS)
    np.testing.assert_allclose(seen.rewards.mean(), expected, atol=bound)


def test_rewards_and_transitions_follow_the_tables(walk: tuple[Variant, Walk]) -> None:
    variant, seen = walk
    mdp = classification_mdp.make(variant, jnp.asarray(seen.label, jnp.int32), jax.random.key(0))
    np.testing.assert_array_equal(
        seen.rewards, np.asarray(mdp.reward)[seen.states[:-1], seen.actions]
    )
    found = np.zeros((10, 10, 10))
    np.add.at(found, (seen.states[:-1], seen.actions, seen.states[1:]), 1)
    expected = found.sum(axis=2, keepdims=True) * np.asarray(mdp.transition)
    assert not found[expected == 0].any()
    used = expected > 0
    freedom = used.sum() - 100  # each of the hundred rows has its own sum
    statistic = np.sum((found[used] - expected[used]) ** 2 / expected[used])
    assert stats.chi2.sf(statistic, freedom) > 1e-3


def test_images_belong_to_their_state_and_are_equally_likely(walk: tuple[Variant, Walk]) -> None:
    _, seen = walk
    np.testing.assert_array_equal(seen.label[seen.indices], seen.states)
    visits, members = np.bincount(seen.states), np.bincount(seen.label)
    expected = (visits / members)[seen.label]
    statistic = np.sum((np.bincount(seen.indices, minlength=100) - expected) ** 2 / expected)
    assert stats.chi2.sf(statistic, 100 - 10) > 1e-3


def test_datasets_are_loaded_by_name() -> None:
    env = ClassificationEnv("true_label", n_images=60)
    expected = image_sets.load("mnist_5k", 60)
    pixels, info = env.reset(seed=0)
    np.testing.assert_array_equal(pixels, expected.pixels[info["index"]])
    assert info["state"] == expected.labels[info["index"]]


def test_an_observation_may_be_written_to() -> None:
    env = ClassificationEnv("true_label", images=IMAGES)
    pixels, info = env.reset(seed=0)
    before = IMAGES.pixels[info["index"]].copy()
    pixels[...] = 0
    np.testing.assert_array_equal(IMAGES.pixels[info["index"]], before)


def test_grey_images_are_rendered_in_three_equal_colours() -> None:
    images = image_sets.synthetic(60, (4, 5, 1))
    env = ClassificationEnv("true_label", images=images, render_mode="rgb_array")
    pixels, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), np.repeat(pixels, 3, axis=2))


@pytest.mark.parametrize("action", [-1, 10, 0.0, 1.5, "1", None, np.array([1])])
def test_actions_that_are_none_are_refused(action: Any) -> None:
    env = ClassificationEnv("true_label", images=IMAGES)
    env.reset(seed=0)
    with pytest.raises(gymnasium.error.InvalidAction, match="not an integer from 0 to 9"):
        env.step(action)


def test_a_step_needs_a_reset() -> None:
    env = ClassificationEnv("true_label", images=IMAGES)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(np.int64(0))


NINE = IMAGES._replace(labels=np.minimum(IMAGES.labels, 8))
ELEVEN = IMAGES._replace(labels=np.where(np.arange(100) == 7, 10, IMAGES.labels))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": NINE}, r"none may be missing; images of each: .* 0\], of others: 0"),
        ({"images": ELEVEN}, "of others: 1"),
        ({"images": IMAGES._replace(pixels=IMAGES.pixels[:50])}, "a label for each"),
        ({"images": IMAGES._replace(pixels=IMAGES.pixels / 2)}, "not float64"),
        ({"images": IMAGES._replace(pixels=IMAGES.pixels[..., 0])}, r"not uint8 \(100, 4, 5\)"),
        ({"n_images": 60}, "n_images is for a dataset"),
        ({"render_mode": "human"}, "render_mode = 'human'"),
        ({"render_mode": "rgb_array", "images": image_sets.synthetic(60, (4, 4, 2))}, "2 channels"),
        ({"images": image_sets.synthetic(10), "variant": "random_label"}, "none may be missing"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassificationEnv(**({"variant": "true_label", "images": IMAGES} | settings))


def test_an_unknown_variant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # under the shape checker, which tests alone have, another error would come first
    monkeypatch.setattr(gymnasium_api, "tables", inspect.unwrap(classification_mdp.tables))
    with pytest.raises(ValueError, match="unknown variant 'easy': choose from true_label"):
        ClassificationEnv("easy", images=IMAGES)  # type: ignore[arg-type]
