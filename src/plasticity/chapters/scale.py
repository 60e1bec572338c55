"""At which scale a run was made: in what it differs from the study ``paper``, as factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from plasticity import configuration
from plasticity.chapters import report
from plasticity.runs.experiment import Experiment
from plasticity.runs.results import Run
from plasticity.worlds import image_files


class Size(NamedTuple):
    """How much of something a run has, and how much we believe the paper had."""

    what: str
    ours: float
    theirs: float
    counted: bool = False  # one by one, such as networks: "2 of 4", and no factor

    @property
    def short(self) -> str:
        """Return it as a share, such as ``1/50 of the optimizer steps`` or ``2 of 4 networks``."""
        if self.counted:
            return f"{self.ours:,} of {self.theirs:,} {self.what}"
        return f"{self._factor} the {self.what}"

    @property
    def _factor(self) -> str:
        if self.ours <= self.theirs:
            return f"1/{_digits(self.theirs / self.ours)} of"
        return f"{_digits(self.ours / self.theirs)} times"

    def __str__(self) -> str:
        """Write both numbers, and the factor."""
        both = f"{self.what} {self.ours:,} of {self.theirs:,}"
        return both if self.counted else f"{both} ({self._factor.removesuffix(' of')})"


class Change(NamedTuple):
    """A setting with another value than the paper's, and no size."""

    what: str
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        """Write both values."""
        return f"{self.what} {_said(self.ours)} instead of {_said(self.theirs)}"


def sizes(run: Run, experiment: Experiment) -> list[Size]:
    """Return in what a run is smaller or larger than the study ``paper``: its length first.

    Then the images of all data sets together, what is counted, and every whole number.
    """
    ours, theirs = _both(run, experiment)
    found = [Size(unit, _length(ours)[unit], total) for unit, total in _length(theirs).items()]
    found += [Size("images", _images(ours), _images(theirs), counted=True)]
    for name, total in _counts(theirs).items():
        found.append(
            Size(name, len(_counts(ours).get(name, frozenset()) & total), len(total), counted=True)
        )
    found += [
        Size(NAMES.get(path, report.named(path)), value, theirs[path], counted=path in NAMES)
        for path, value in ours.items()
        if _is_size(value) and _is_size(theirs.get(path)) and not _elsewhere(path, ours)
    ]
    return [size for size in found if size.ours != size.theirs]


def changes(run: Run, experiment: Experiment) -> list[Change]:
    """Return every other setting in which a run differs from the study ``paper``."""
    ours, theirs = _both(run, experiment)
    return [
        Change(report.named(path), value, theirs[path])
        for path, value in ours.items()
        if path in theirs and value != theirs[path] and not _elsewhere(path, ours)
        if not (_is_size(value) or isinstance(value, (bool, list, frozenset)))
    ]


def short(run: Run, experiment: Experiment) -> str:
    """Return the scale in a few words: length, images, networks and what else is counted."""
    return ", ".join(_telling(run, experiment)) or _SAME


def of_runs(runs: Sequence[Run], experiment: Experiment) -> str:
    """Return the scale of several runs: first what they have in common, then a line for each."""
    each = {run.label: _telling(run, experiment) for run in runs}
    every = len(runs) > 1 and set.intersection(*map(set, each.values()))
    common = [said for said in each[runs[0].label] if every and said in every]
    alike: dict[str, list[str]] = {}
    for label, told in each.items():
        own = ", ".join(said for said in told if said not in common)
        alike.setdefault(own or f"{'otherwise ' if common else ''}{_SAME}", []).append(label)
    lines = [f"all: {', '.join(common)}"] if common else []
    lines += [f"{', '.join(f'*{one}*' for one in labels)}: {own}" for own, labels in alike.items()]
    return "<br>".join(lines)


def _telling(run: Run, experiment: Experiment) -> list[str]:
    return [size.short for size in sizes(run, experiment) if size.counted or size.what in TELLING]


def sentence(run: Run, experiment: Experiment) -> str:
    """Return every difference between a run and the study ``paper``, in a sentence."""
    found = [*sizes(run, experiment), *changes(run, experiment)]
    if not found:
        return "This run has the settings of the `paper` study."
    return f"**Scaled down** from what we believe the paper used: {', '.join(map(str, found))}."


_SAME = "the paper's size"

NAMES = {"seeds": "seeds", "n_targets": "targets of the probe"}
"""Numbers of which a share says less than both of them do."""

TELLING = ("optimizer steps", "frames", "width", "MLP width", "CNN width", "channels",
           "CNN channels")  # fmt: skip
"""Sizes of which the short form tells, besides what is counted."""

TOLD = {
    "first_seed", "n_images", "dataset", "probe_every", "probes", "steps_per_period", "periods",
    "updates", "frames", "chunk_frames", "calibration_images", "width_of_arm", "game", "variant",
    "intervention", "kind", "keep_parameters", "slower",
}  # fmt: skip
"""Last parts of paths that are told in another form, or of arms that the paper does not have."""


def _elsewhere(path: str, config: Mapping[str, Any]) -> bool:
    """Return whether a setting is told in another form, or replaced in every arm."""
    group, last = path.partition(".")[0], path.rpartition(".")[2]
    arms_set = {"network": {"networks", "architectures"}, "output": {"outputs"}}
    replaced = arms_set.get(group, set()) & {name.partition(".")[0] for name in config}
    return last in TOLD or bool(replaced)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _both(run: Run, experiment: Experiment) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the run and of the study ``paper``, by path."""
    configs = configuration.from_dict(experiment.Config, run.config), experiment.studies["paper"]
    ours, theirs = (configuration.flat(configuration.to_dict(config)) for config in configs)
    return ours, theirs


def _length(config: Mapping[str, Any]) -> dict[str, int]:
    """Return how long one agent or network of a run learns, by unit."""
    if "frames" in config:
        return {"frames": config["frames"]}
    if "probe_every" in config:
        return {"optimizer steps": config["probe_every"] * config["probes"]}
    if "updates" in config:
        return {"optimizer steps": config["updates"] * config["algorithm.target_period"]}
    return {"optimizer steps": config["periods"] * config["steps_per_period"]}


def _sets(config: Mapping[str, Any]) -> list[image_files.Dataset]:
    """Return the data sets of a run."""
    one = config.get("problem.dataset", config.get("dataset"))
    found: list[image_files.Dataset] = config.get("datasets", [one] if one else [])
    return found


def _images(config: Mapping[str, Any]) -> int:
    """Return how many images there are in all data sets of a run together."""
    most = config.get("problem.n_images", config.get("n_images", 0))
    return sum(min(most, image_files.published(name)) for name in _sets(config))


def _counts(config: Mapping[str, Any]) -> dict[str, frozenset[Any]]:
    """Return what a run has several of, by name: networks by their kinds, data sets by source."""
    kinds = {path.split(".")[1] for path in config if path.startswith("networks.")}
    found = {
        name: frozenset(value)
        for name, value in config.items()
        if isinstance(value, list) and value and name in COUNTED
    }
    if kinds:
        found["networks"] = frozenset(kinds)
    if "datasets" in config:
        found["data sets"] = frozenset(name.partition("_")[0] for name in _sets(config))
    return found


COUNTED = ("games", "architectures", "variants", "interventions", "settings", "multiples")
"""Fields that list what arms are made of."""


def _digits(factor: float) -> str:
    return f"{factor:,.0f}" if factor >= 10 else f"{factor:.2g}"


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
