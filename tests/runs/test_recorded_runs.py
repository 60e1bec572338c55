"""Every recorded run is one of this code, whole, and of the study whose name it bears."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from plasticity import cli, configuration
from plasticity.runs import freshness, results
from plasticity.runs.results import Run

RECORDED = [run for name in cli.experiment_names() for run in results.recorded(name)]
COMMITTED = [run for run in RECORDED if run.label != "quick" and "-" not in run.label]
"""The rest is what .gitignore leaves out: quick runs, and those with settings of their own."""

UNPROVED: dict[str, str] = {
    "interventions/smoke": "336 arms take half an hour to compare; the other studies' programs are "
    "those of their runs",
}
"""Recorded runs of older code, and why nothing shows that today's gives them."""


@pytest.mark.parametrize("run", COMMITTED, ids=lambda run: f"{run.experiment}-{run.label}")
def test_a_recorded_run_is_of_this_code_and_this_study(run: Run) -> None:
    """If this fails: `plasticity reproduce ...` if the change should leave every bit as it was.

    It proves so with one seed. If numbers change, as is meant, record again: `plasticity run ...
    --fresh`.
    """
    experiment = cli.experiment(run.experiment)
    config = configuration.from_dict(experiment.Config, run.config)
    assert run.label == run.study
    assert config == experiment.studies[run.study]
    unproved = f"{run.experiment}/{run.label}" in UNPROVED
    assert freshness.is_fresh(run.provenance, experiment) != unproved, "prove it, or take it out"
    assert run.provenance["uncommitted_source"] is False
    assert run.provenance["commit"]
    assert len(run.table.groupby(["arm", "seed"])) == len(experiment.arms(config)) * config.seeds


def test_every_run_that_git_has_is_among_them(repository: Path) -> None:
    if not (repository / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "papermill_runs"], cwd=repository, capture_output=True, text=True,
        check=True,
    ).stdout.splitlines()  # fmt: skip
    folders = {tuple(path.split("/")[1:3]) for path in listed if path.count("/") > 1}
    assert folders == {(run.experiment, run.label) for run in COMMITTED}
