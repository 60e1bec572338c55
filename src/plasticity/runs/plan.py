"""Which units a run has: what is checkpointed and resumed separately.

On a CPU a unit is an arm on a seed. An accelerator has room for many at once: there a unit is all
arms that share programs, on all seeds, in step (`plasticity.lanes`). Where so many do not fit into
the device's memory it is split, once and for all: ``split.json`` in the work folder says how.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from plasticity.runs import checkpoints, files
from plasticity.runs.experiment import Experiment
from plasticity.runs.pool import Unit


def seeds_of(config: Any) -> list[int]:
    """Return the seeds of a run."""
    return [config.first_seed + k for k in range(config.seeds)]


def units_of(experiment: Experiment, config: Any, batched: bool) -> list[Unit]:
    """Return the parts of a run: each arm on each seed, or if ``batched`` as many as go in step.

    Arms that share programs come together, so that these are compiled once.
    """
    seeds = tuple(seeds_of(config))
    sharing: dict[Hashable, dict[int, list[str]]] = {}  # and have as many chunks
    for name in experiment.arms(config):
        arm = experiment.arm(config, name)
        alike = sharing.setdefault(experiment.shares(arm), {})
        alike.setdefault(experiment.chunks(arm), []).append(name)
    groups = [arms for alike in sharing.values() for arms in alike.values()]
    if batched:
        return [Unit(first, seeds, tuple(rest)) for first, *rest in groups]
    return [Unit(arm, (seed,)) for arms in groups for arm in arms for seed in seeds]


def planned(experiment: Experiment, config: Any, work: Path, batched: bool) -> list[Unit]:
    """Return the units of an unfinished run, as far as they have been split in smaller ones.

    Raises `checkpoints.CheckpointError` if the list of those is damaged.
    """
    noted = _read(work)

    def parts(unit: Unit) -> list[Unit]:
        smaller = noted.get(_key(unit))
        return [unit] if smaller is None else [part for one in smaller for part in parts(one)]

    return [part for unit in units_of(experiment, config, batched) for part in parts(unit)]


def split(unit: Unit, most: int) -> list[Unit]:
    """Return the unit in parts of at most ``most`` lanes each, and of about as many.

    >>> from plasticity.runs import plan, pool
    >>> [str(part) for part in plan.split(pool.Unit("a", (0, 1), ("b", "c")), 4)]
    ['a and 1 more, seeds 0, 1', 'c, seeds 0, 1']
    >>> [str(part) for part in plan.split(pool.Unit("a", (0, 1, 2), ("b",)), 2)]
    ['a, seeds 0, 1', 'a, seed 2', 'b, seeds 0, 1', 'b, seed 2']
    """
    arms = (unit.arm, *unit.others)
    if most >= len(unit.seeds):
        groups = _even(arms, most // len(unit.seeds))
        return [Unit(first, unit.seeds, tuple(rest)) for first, *rest in groups]
    return [Unit(arm, seeds) for arm in arms for seeds in _even(unit.seeds, most)]


def _even(items: tuple[Any, ...], most: int) -> list[tuple[Any, ...]]:
    count = -(-len(items) // most)
    size = -(-len(items) // count)
    return [items[k : k + size] for k in range(0, len(items), size)]


def _key(unit: Unit) -> str:
    return json.dumps(unit)


def note_split(work: Path, whole: Unit, parts: Sequence[Unit]) -> None:
    """Keep in the work folder that a unit was split, so that it is resumed in the same parts."""
    noted = {**_read(work), _key(whole): list(parts)}
    files.write_atomically(work / "split.json", json.dumps(noted, indent=1).encode())


def _read(work: Path) -> dict[str, list[Unit]]:
    try:
        found = json.loads((work / "split.json").read_text(encoding="utf-8"))
        return {
            key: [Unit(arm, tuple(seeds), tuple(others)) for arm, seeds, others in parts]
            for key, parts in found.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise checkpoints.CheckpointError(
            f"{work / 'split.json'} is damaged ({error}): start over with --fresh"
        ) from None
