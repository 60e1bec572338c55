"""Every recorded run is one of this code, whole, and at the study whose name it bears."""

from __future__ import annotations

import pytest

from plasticity import cli, configuration
from plasticity.runs import freshness, results
from plasticity.runs.results import Run

COMMITTED = [
    run
    for name in cli.experiment_names()
    for run in results.recorded(name)
    if run.study != "quick"
]


@pytest.mark.parametrize("run", COMMITTED, ids=lambda run: f"{run.experiment}-{run.label}")
def test_a_recorded_run_is_of_this_code_and_this_study(run: Run) -> None:
    """If this fails: `plasticity reproduce ...` if the change should leave every bit as it was.

    It proves so with one seed. If numbers change, as is meant, record again: `plasticity run ...
    --fresh`.
    """
    experiment = cli.experiment(run.experiment)
    config = configuration.from_dict(experiment.Config, run.config)
    assert freshness.is_fresh(run.provenance, experiment)
    if run.label == run.study:  # settings of its own have a folder of their own
        assert config == experiment.STUDIES[run.study]
    assert run.provenance["uncommitted_source"] is False
    assert len(run.table.groupby(["arm", "seed"])) == len(experiment.arms(config)) * config.seeds
