"""An experiment is found by the name of its module, and says what it is."""

from __future__ import annotations

import dataclasses

import pytest
import toy

from plasticity import cli
from plasticity.runs import experiment


@pytest.mark.parametrize("name", cli.experiment_names())
def test_a_process_that_is_told_the_module_finds_the_same_object(name: str) -> None:
    found = cli.experiment(name)
    assert found.name == name
    assert experiment.find(found.module) is found
    assert cli.all_experiments()[name] is found
    assert found.question.endswith((".", "?", ")"))


def test_a_module_without_an_experiment_is_refused() -> None:
    with pytest.raises(AttributeError, match="EXPERIMENT"):
        experiment.find("plasticity.chapters.probing")


def test_its_name_and_its_question_are_those_of_its_module() -> None:
    assert toy.EXPERIMENT.name == toy.EXPERIMENT.module == "toy"
    assert toy.EXPERIMENT.question == (toy.__doc__ or "").partition("\n")[0]
    inside = dataclasses.replace(toy.EXPERIMENT, module="plasticity.chapters.toy")
    assert inside.name == "toy"


def test_an_arm_is_the_configuration_with_its_changes() -> None:
    config = toy.Config(scale=3.0, chunks=4)
    assert toy.EXPERIMENT.arm(config, "narrow") == config
    assert toy.EXPERIMENT.arm(config, "wide") == toy.Config(scale=30.0, chunks=4)
    with pytest.raises(KeyError):
        toy.EXPERIMENT.arm(config, "wiide")


def test_two_with_the_same_parts_are_not_the_same() -> None:
    """What is compiled for one is kept by the object."""
    twin = dataclasses.replace(toy.EXPERIMENT)
    assert twin != toy.EXPERIMENT
    assert len({twin, toy.EXPERIMENT}) == 2
