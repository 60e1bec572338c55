"""In every test shapes are checked and rank promotion is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

# Shapes are checked here and nowhere else, in the modules that compute; an int passes for a float.
SHAPED = (
    "classification_mdp", "convolution", "curvature", "data", "double_dqn", "dqn", "experiments",
    "frame_replay", "gradient_covariance", "interventions", "jitted_atari", "losses",
    "network_state", "network_statistics", "networks", "optimizers", "probe", "probed_agent",
    "replay",
)  # fmt: skip
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook([f"plasticity.{name}" for name in SHAPED], CHECKER)
jax.config.update("jax_numpy_rank_promotion", "raise")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def double() -> Iterator[None]:
    """Let jax keep float64, in which rounding hides nothing."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def repository() -> Path:
    """The checkout that the tests lie in."""
    return REPOSITORY


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for recorded runs, which the package is told to use."""
    monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"
