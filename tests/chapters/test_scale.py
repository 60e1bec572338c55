"""A run's scale: every setting that differs from the paper's, as a factor where it is one."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from plasticity import cli, configuration
from plasticity.chapters import scale
from plasticity.runs import results
from plasticity.runs.experiment import Experiment
from plasticity.runs.results import Run


def of_study(experiment: Experiment, study: str, **changes: object) -> Run:
    """Return a run of a study, of which nothing but its settings is known."""
    config = replace(experiment.studies[study], **changes)
    provenance = {"study": study, "config": configuration.to_dict(config)}
    return Run(experiment.name, study, pd.DataFrame(), {}, provenance)


@pytest.mark.parametrize("name", cli.experiment_names())
def test_the_papers_study_is_at_the_papers_size(name: str) -> None:
    experiment = cli.experiment(name)
    run = of_study(experiment, "paper")
    assert scale.sizes(run, experiment) == [] == scale.changes(run, experiment)
    assert scale.short(run, experiment) == "the paper's size"
    assert scale.sentence(run, experiment) == "This run has the settings of the `paper` study."


@pytest.mark.parametrize(
    ("name", "study", "told"),
    [
        ("interventions", "laptop", [
            "optimizer steps 20,000 of 1,000,000 (1/50)", "images 1,000 of 110,000",
            "networks 2 of 4", "data sets 1 of 2", "MLP width 64 of 512 (1/8)",
            "CNN channels 16 of 64 (1/4)", "targets of the probe 2 of 10",
            "two-hot low -25 instead of -110",
        ]),
        ("falsification", "laptop", ["optimizer steps 15,000 of 1,000,000 (1/67)",
                                     "images 2,000 of 110,000"]),
        ("scaling", "laptop", ["optimizer steps 10,000 of 1,000,000 (1/100)"]),
        ("curvature_evolution", "laptop", ["optimizer steps 20,000 of 100,000 (1/5)"]),
        ("optimizer_instability", "laptop", ["optimizer steps 20,000 of 90,000 (1/4.5)",
                                             "images 1,000 of 5,000", "width 256 of 1,024 (1/4)"]),
        ("atari_layer_norm", "laptop", ["frames 128,000 of 200,000,000 (1/1,562)",
                                        "games 2 of 57"]),
    ],
)  # fmt: skip
def test_a_smaller_run_says_by_how_much(name: str, study: str, told: list[str]) -> None:
    experiment = cli.experiment(name)
    found = scale.sentence(of_study(experiment, study), experiment)
    assert found.startswith("**Scaled down** from what we believe the paper used: ")
    for words in told:
        assert words in found, found


def test_the_short_form_has_what_tells() -> None:
    experiment = cli.experiment("interventions")
    found = scale.short(of_study(experiment, "laptop"), experiment)
    assert found.startswith("1/50 of the optimizer steps, 1,000 of 110,000 images, ")
    assert "2 of 4 networks" in found and "1/8 of the MLP width" in found
    assert "5 of 10 seeds" in found and "2 of 10 targets of the probe" in found
    assert "bins" not in found and "order" not in found
    atari = cli.experiment("atari_layer_norm")
    assert scale.short(of_study(atari, "laptop"), atari) == (
        "1/1,562 of the frames, 2 of 57 games, 2 of 3 seeds"
    )


def test_several_runs_say_once_what_they_have_in_common() -> None:
    experiment = cli.experiment("optimizer_instability")
    laptop, slower, large = (
        of_study(experiment, study) for study in ("laptop", "laptop_slower", "gpu")
    )
    assert scale.of_runs([laptop], experiment) == f"*laptop*: {scale.short(laptop, experiment)}"
    assert scale.of_runs([laptop, slower, large], experiment) == (
        "all: 5 of 10 seeds<br>"
        "*laptop*, *laptop_slower*: 1/4.5 of the optimizer steps, 1,000 of 5,000 images, "
        "1/4 of the width<br>*gpu*: otherwise the paper's size"
    )


@pytest.mark.parametrize("name", cli.experiment_names())
def test_nothing_that_differs_is_left_untold(name: str) -> None:
    """Each setting of a recorded run with another value is a size, a change or told elsewhere."""
    experiment = cli.experiment(name)
    for run in results.recorded(name):
        ours, theirs = scale._both(run, experiment)
        said = {
            item.what for item in (*scale.sizes(run, experiment), *scale.changes(run, experiment))
        }
        for path, value in ours.items():
            if value == theirs.get(path, value) or scale._elsewhere(path, ours):
                continue
            counted = isinstance(value, list | bool)
            assert counted or scale.NAMES.get(path, scale.report.named(path)) in said, path
