"""What the chapters' sources say to who does not import them is what the chapters are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from plasticity import cli, configuration
from plasticity.chapters import catalogue
from plasticity.runs import fingerprint

NAMES = cli.experiment_names()


def paths(config: Any, above: str = "") -> Iterator[str]:
    """Every path that leads to a field of a configuration."""
    for field in dataclasses.fields(config):
        yield f"{above}{field.name}"
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from paths(value, f"{above}{field.name}.")


@pytest.mark.parametrize("name", NAMES)
def test_questions_and_studies_are_those_of_the_imported_chapter(name: str) -> None:
    experiment = cli.experiment(name)
    assert catalogue.question(name) == experiment.question
    assert catalogue.studies(name) == list(experiment.studies)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_that_there_is_passes_and_no_other(name: str) -> None:
    studies = cli.experiment(name).studies
    for study, config in studies.items():
        found = list(paths(config))
        assert len(found) > 10
        catalogue.refuse(name, study, [f"{path}=1" for path in found])
        for path in found:
            inner, _, last = path.rpartition(".")
            wrong = f"{inner}.{last}t" if inner else f"{last}t"
            with pytest.raises(configuration.ConfigError, match=f"unknown field '{last}t': the"):
                catalogue.refuse(name, study, [f"{wrong}=1"])
    with pytest.raises(configuration.ConfigError) as here:
        catalogue.refuse(name, "quick", ["widht=3"])
    with pytest.raises(configuration.ConfigError) as there:
        configuration.resolve(studies, "quick", ["widht=3"])
    assert str(here.value) == str(there.value)
    with pytest.raises(configuration.ConfigError) as here:
        catalogue.refuse(name, "quikc")
    with pytest.raises(configuration.ConfigError) as there:
        configuration.resolve(studies, "quikc")
    assert str(here.value) == str(there.value)


def test_a_field_of_another_kind_of_object_may_be_set_after_it() -> None:
    """Which kind a union holds is known only when all assignments are read."""
    catalogue.refuse("interventions", "quick", ["network=cnn", "network.channels=8"])
    with pytest.raises(configuration.ConfigError, match="unknown field 'chanels'"):
        catalogue.refuse("interventions", "quick", ["network=cnn", "network.chanels=8"])


CHAPTERS = {
    "plain": (
        'from plasticity.chapters.{name}.run import Config as Settings, STUDIES\n'
        'EXPERIMENT = Experiment(__name__, studies=STUDIES, Config=Settings)\n',
        'class Above:\n    depth: int\nclass Config(Above):\n    width: int\n'
        'STUDIES = {{"a": 1, "b": 2}}\n',
    ),
    "computed": (
        "from plasticity.chapters.{name} import run\n"
        "EXPERIMENT = Experiment(__name__, run.Config, run.STUDIES)\n",
        "from elsewhere import Above\nclass Config(Above):\n    width: int\n"
        "STUDIES = {{**others, 'a': 1}}\n",
    ),
    "made": ("EXPERIMENT = found\n", "STUDIES = {{}}\n"),
}  # fmt: skip


@pytest.fixture
def chapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> str:
    """A chapter that is never imported: what it imports may be nowhere."""
    name, real = f"written_{request.param}", fingerprint._spec
    (tmp_path / name).mkdir()
    for file, text in zip(("__init__", "run"), CHAPTERS[request.param], strict=True):
        (tmp_path / name / f"{file}.py").write_text(text.format(name=name))

    def spec(module: str) -> Any:
        above, _, last = module.rpartition(".")
        if above == f"plasticity.chapters.{name}":
            return PathFinder.find_spec(module, [str(tmp_path / name)])
        return PathFinder.find_spec(module, [str(tmp_path)]) if last == name else real(module)

    monkeypatch.setattr(fingerprint, "_spec", spec)
    return name


@pytest.mark.parametrize("chapter", ["plain"], indirect=True)
def test_arguments_may_be_named_and_settings_inherited(chapter: str) -> None:
    assert catalogue.studies(chapter) == ["a", "b"]
    catalogue.refuse(chapter, "a", ["depth=3", "width=4"])
    with pytest.raises(configuration.ConfigError, match="'with': the fields are depth, width"):
        catalogue.refuse(chapter, "a", ["with=4"])


@pytest.mark.parametrize("chapter", ["computed", "made"], indirect=True)
def test_what_is_not_understood_is_not_refused(chapter: str) -> None:
    assert catalogue.studies(chapter) is None
    catalogue.refuse(chapter, "any", ["any=1"])


def test_of_a_chapter_that_is_not_there_nothing_is_said() -> None:
    assert catalogue.question("nowhere") == ""
    assert catalogue.studies("nowhere") is None
    catalogue.refuse("nowhere", "any", ["any=1"])
