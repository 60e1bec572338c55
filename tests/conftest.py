"""Rank promotion is refused in every test; shapes are checked through pytest's own options."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def repository() -> Path:
    """The checkout that the tests lie in."""
    return REPOSITORY


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for recorded runs, which the package is told to use."""
    monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"
