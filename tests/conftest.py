"""In every test shapes are checked and rank promotion is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src"
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # an int is a float
COMPUTING = (
    "cure.py", "learner.py", "worlds/*.py", "networks/*.py",
    "measure/*.py", "cures/*.py", "agents/*.py",
    "chapters/*/run.py", "chapters/probing/probed_agent.py",
)  # fmt: skip
UNSHAPED = {
    "image_files", "gymnasium_api", "atari",  # files, and other people's objects
    # settings that refuse what cannot run in their own words, which tests read
    "atari_agent", "mdp_agent", "settings",
}  # fmt: skip


def shaped() -> list[str]:
    """Return the modules that compute: shapes are checked in these, here and nowhere else."""
    files = {path for pattern in COMPUTING for path in (SOURCE / "plasticity").glob(pattern)}
    chosen = sorted(path for path in files if path.stem not in {"__init__", *UNSHAPED})
    return [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in chosen]


install_import_hook(shaped(), CHECKER)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def memory() -> Iterator[None]:
    """Free what a file's tests compiled: all of them together would take gigabytes."""
    yield
    jax.clear_caches()


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
