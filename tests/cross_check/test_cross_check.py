"""Do the recorded numbers come out of an implementation that shares no line with the package?"""

from __future__ import annotations

import numpy as np
import plain
import pytest
import record
from scipy import stats

from plasticity.chapters.measuring_plasticity import words
from plasticity.runs import results
from plasticity.runs.results import Run

STEPS = 10_000
"""Of the recorded agents two probes are looked at: before training, and after `STEPS`."""

ONE_IN = 1_000
"""How seldom equal implementations may be told apart by chance, of each quantity."""

COMPARED = [("probe_loss", 0), ("sharpness", 0)] + [
    (name, STEPS) for name in ("probe_loss", "accuracy", "dead_units", "sharpness")
]
"""What depends on the seed: before training no unit is dead, and accuracy is that of chance."""


@pytest.fixture(scope="module")
def recorded() -> Run:
    """The run of the chapter on measuring plasticity."""
    return results.load("measuring_plasticity", "laptop")


def by_quantity(period: int, seeds: int) -> dict[tuple[str, int], np.ndarray]:
    """Return what agents in plain numpy have of each quantity, one value per seed."""
    digits = record.images()
    of_seeds = [
        {(name, step): value for step, name, value in found}
        for found in (record.measured(*digits, seed, (0, STEPS), period) for seed in range(seeds))
    ]
    return {key: np.array([found[key] for found in of_seeds]) for key in COMPARED}


def apart(ours: np.ndarray, recorded: Run, name: str, step: int) -> bool:
    """Return whether Welch's test tells the means apart, of λ₁ those of its logarithm."""
    theirs = recorded.select(arm="true_label", metric=name, step=step).value.to_numpy(float)
    if name == "sharpness":
        ours, theirs = np.log(ours), np.log(theirs)
    return bool(stats.ttest_ind(ours, theirs, equal_var=False).pvalue < 1 / ONE_IN)


@pytest.mark.slow
def test_an_agent_in_plain_numpy_gives_the_recorded_numbers(recorded: Run) -> None:
    for (name, step), ours in by_quantity(period=1_000, seeds=3).items():
        assert not apart(ours, recorded, name, step), (name, step, ours)


@pytest.mark.slow
def test_another_agent_does_not(recorded: Run) -> None:
    """A target that is copied ten times as often: the tolerance is not too wide for that."""
    other = by_quantity(period=100, seeds=2)
    assert any(apart(ours, recorded, name, step) for (name, step), ours in other.items())


def test_the_recorded_table_has_what_its_page_compares(recorded: Run) -> None:
    """The seeds, steps and quantities of the recorder, and no number that is not finite."""
    table = words.plain_numpy()
    assert sorted(set(table.seed)) == list(range(record.SEEDS))
    assert sorted(set(table.step)) == list(record.STEPS)
    assert np.isfinite(table.value).all()
    assert len(words.cross_check(recorded)) == table.groupby(["metric", "step"]).ngroups


def hessian(params: plain.Params, x: np.ndarray, aim: np.ndarray) -> np.ndarray:
    """Return the whole Hessian of the squared distance to ``aim``, by differences of gradients."""
    cuts = np.cumsum([leaf.size for leaf in params])[:-1]

    def slope(flat: np.ndarray) -> np.ndarray:
        parts = zip(np.split(flat, cuts), params, strict=True)
        at = [part.reshape(leaf.shape) for part, leaf in parts]
        error = 2 * (plain.layers(at, x)[-1] - aim) / aim.size
        return np.concatenate([leaf.ravel() for leaf in plain.gradient(at, x, error)])

    flat = np.concatenate([leaf.ravel() for leaf in params])
    return (
        np.array([slope(flat + step) - slope(flat - step) for step in 1e-5 * np.eye(flat.size)])
        / 2e-5
    )


def test_power_iteration_finds_the_largest_eigenvalue() -> None:
    for seed in range(5):
        params, x = around_zero(seed, (3, 2, plain.STATES), examples=2)
        found = plain.sharpness(params, x, np.random.default_rng(seed), products=2_000)
        noise = np.random.default_rng(seed).standard_normal((len(x), plain.STATES))
        known = np.linalg.eigvalsh(hessian(params, x, plain.layers(params, x)[-1] + noise))
        assert found == pytest.approx(known.max(), rel=1e-3)


def around_zero(
    seed: int, sizes: tuple[int, ...], examples: int
) -> tuple[plain.Params, np.ndarray]:
    """Return parameters, biases among them, that are on no kink of a ReLU, and inputs."""
    rng = np.random.default_rng([seed, 7])
    params = [leaf + 0.1 * rng.standard_normal(leaf.shape) for leaf in plain.fresh(rng, sizes)]
    return params, rng.standard_normal((examples, sizes[0]))


def test_the_gradient_is_a_difference_quotient() -> None:
    rng = np.random.default_rng(0)
    params, x = around_zero(0, (5, 4, 4, 3), examples=6)
    goal = rng.standard_normal((6, 3))

    def loss(at: plain.Params) -> float:
        return float(((plain.layers(at, x)[-1] - goal) ** 2).mean())

    error = 2 * (plain.layers(params, x)[-1] - goal) / goal.size
    found = plain.gradient(params, x, error)
    for k, leaf in enumerate(params):
        direction, far = rng.standard_normal(leaf.shape), 1e-6
        moved = [[*params[:k], leaf + side * far * direction, *params[k + 1 :]] for side in (1, -1)]
        slope = (loss(moved[0]) - loss(moved[1])) / (2 * far)
        assert slope == pytest.approx(float((found[k] * direction).sum()), rel=1e-6, abs=1e-9)
