"""Whether today's code would give a recorded run again, and how that is proved.

In this order, from cheap to expensive:

1. Today's code has the digest of the code that ran (`plasticity.runs.fingerprint`). This is checked
   whenever a run is shown; moving and renaming change nothing.
2. Its programs are the same: every number that an arm records comes from the same operations
   (`plasticity.runs.dataflow`), and ``summarize`` makes the same table from them. `prove` compares,
   in some seconds per arm and without data, and notes the proof in ``run.json``.
3. It gives the same bits: `plasticity.runs.reproduction`, which takes as long as the run's first
   seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from plasticity import configuration, devices, jax_settings
from plasticity.runs import dataflow, files, fingerprint, origin, results
from plasticity.runs.experiment import Experiment
from plasticity.runs.results import Run

SEEDS = 2
"""Seeds in the made-up records on which ``summarize`` is compared."""


class NotProved(files.ResultsError):
    """Programs that differ from a recorded run's; the message names the arms."""


def is_fresh(provenance: Mapping[str, Any], experiment: Experiment) -> bool:
    """Return whether today's code made the run of ``provenance``, or was proved equal to it."""
    return proof(provenance, fingerprint.code_digest(experiment)) is not None


def proof(provenance: Mapping[str, Any], code: str) -> str | None:
    """Return what shows that ``code``, a digest, gives this run; None if nothing does.

    "digest" if that code made it, "programs" or "reproduction" if programs or bits are the same.
    """
    if provenance["code"] == code:
        return "digest"
    entries = [entry["by"] for entry in provenance.get("proofs", []) if entry["code"] == code]
    return str(entries[-1]) if entries else None


def prove(experiment: Experiment, label: str) -> Run:
    """Compare the programs of every arm with those of a recorded run; note it if all are equal.

    Returns the run with a new entry in its provenance's ``proofs``; if no programs were stored yet
    and the code is still the run's, with programs and without that entry. Raises FileNotFoundError
    if there is no such run, `NotProved`, naming the arms, if stored programs are missing or differ,
    and if settings of JAX make others now.
    """
    name = experiment.name
    run = results.load(name, label)
    if other := run.other_settings(jax_settings.differing()):
        raise NotProved(
            f"{name}/{label} is of other settings of JAX, which make other programs ({other}): "
            "nothing was traced; undo the change"
        )
    stored = run.provenance.get("programs")
    if stored is None:
        if proof(run.provenance, fingerprint.code_digest(experiment)) == "digest":
            return store(experiment, run)
        raise NotProved(f"{name}/{label} has no programs stored: {_reproduce(run)}")
    config = configuration.from_dict(experiment.Config, run.config)
    today = programs(experiment, config, stored["traced_by"]["platform"])
    arms = stored["arms"].keys() | today["arms"].keys()
    changed = [arm for arm in sorted(arms) if stored["arms"].get(arm) != today["arms"].get(arm)]
    if changed or stored["table"] != today["table"]:
        what = f"{len(changed)} of {len(arms)} arms have other programs" if changed else (
            "the arms' programs are the same, but summarize makes another table of their records"
        )  # fmt: skip
        elsewhere = jax_settings.changes(stored["traced_by"], today["traced_by"])
        raise NotProved(
            f"{name}/{label}: {what}{': ' if changed else ''}{', '.join(changed[:8])}"
            f"{' ...' if len(changed) > 8 else ''}"
            f"{f' (traced elsewhere: {elsewhere})' if elsewhere else ''}. {_reproduce(run)}"
        )
    environment = origin.environment()
    names = ("commit", "uncommitted_source", "why_unknown", "packages")
    return results.add_proof(
        run,
        {"by": "programs", "code": fingerprint.code_digest(experiment)}
        | {name: environment[name] for name in names if name in environment}
        | {"arms": len(arms), "date": origin.now()},
    )


def store(experiment: Experiment, run: Run) -> Run:
    """Store the programs of a run that this very code has made, for later code to be compared."""
    config = configuration.from_dict(experiment.Config, run.config)
    found = programs(experiment, config, run.provenance["device"]["platform"])
    return results.amend(run, lambda _: {"programs": found})


def _reproduce(run: Run) -> str:
    return (
        "nothing was written. If numbers should be what they were, "
        f"`plasticity reproduce {run.experiment} --study {run.label}` compares them"
    )


def programs(experiment: Experiment, config: Any, platform: str | None = None) -> dict[str, Any]:
    """Return the hash of each arm's programs, the table's hash, and what traced them.

    The programs are for one seed at a time on this kind of device, or on another ``platform``, as
    `jax.default_backend` names it. Shows a progress bar.
    """
    digests: dict[str, str] = {}
    records: dict[str, Shapes] = {}
    for arm in tqdm(experiment.arms(config), desc="programs", unit="arm"):
        # Hundreds of arms would fill the memory, and some were traced for this device.
        jax.clear_caches()  # type: ignore[no-untyped-call]
        with devices.as_if(platform or jax.default_backend()):
            digests[arm], records[arm] = _trace(experiment, experiment.arm(config, arm))
    jax.clear_caches()  # type: ignore[no-untyped-call]
    versions = origin.environment()["packages"]
    traced_by = {name: versions[name] for name in ("jax", "flax", "optax")}
    return {
        "arms": digests,
        "table": _table_digest(experiment, config, records),
        "traced_by": {
            "platform": platform or jax.default_backend(),
            **traced_by,
            **jax_settings.traced(),
        },
    }


Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Name → (shape, type) of what an arm records, with a leading axis of chunks."""


def _trace(experiment: Experiment, config: Any) -> tuple[str, Shapes]:
    """Return the hash of an arm's programs and chunks, and the shapes of its records."""
    world, chunks = experiment.shapes(config), experiment.chunks(config)

    def start(world: Any, key: Any) -> Any:
        return experiment.start(config, world, key), jnp.zeros((), jnp.int32)

    def advance(world: Any, now: Any) -> Any:
        state, chunk = now
        state, record = experiment.advance(config, world, state, chunk)
        return (state, chunk + 1), record

    found = dataflow.recorded(start, advance, world, _of_callback)
    hashes = sorted((name, made.hash) for name, made in found.items())
    shapes = {name: ((chunks, *made.shape), made.dtype) for name, made in found.items()}
    return _sha256(hashes, chunks), shapes


def _sha256(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


LIBRARIES = {"jax", "jaxlib", "numpy", "flax", "optax"}
"""Libraries whose functions are identified by the library's version."""


def _of_callback(function: Any) -> str:
    """Return the hash of what a program calls on the host: its code, and what it is bound to.

    A function's code is the top-level definition that contains it, with all that this reaches.
    """
    function = inspect.unwrap(getattr(function, "callback_func", function))  # jax wraps it
    name = getattr(function, "__qualname__", type(function).__name__)
    if function.__module__.partition(".")[0] in LIBRARIES:
        return f"{function.__module__}.{name}"
    top = name.partition(".")[0]
    code = fingerprint.digest([fingerprint.Definition(function.__module__, top)])
    bound = [cell.cell_contents for cell in function.__closure__ or ()]
    return _sha256(code, [_of_callback(x) if hasattr(x, "__code__") else repr(x) for x in bound])


def _table_digest(experiment: Experiment, config: Any, shapes: Mapping[str, Shapes]) -> str:
    """Return the hash of what ``summarize`` makes of made-up records of the right shapes."""
    config = dataclasses.replace(config, seeds=SEEDS)
    seeds = range(config.first_seed, config.first_seed + SEEDS)
    records = {
        (arm, seed): dict(_made_up(arm, seed, of)) for arm, of in shapes.items() for seed in seeds
    }
    table, arrays = experiment.summarize(config, records)
    kept = [
        (name, array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest())
        for name, array in sorted(arrays.items())
    ]
    return _sha256(table.to_csv(index=False), kept)


def _made_up(arm: str, seed: int, shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield for each name an array of random numbers that depend only on arm, seed and name."""
    for name, (shape, kind) in shapes.items():
        drawn = np.random.default_rng(zlib.crc32(f"{arm} {seed} {name}".encode()))
        yield name, (drawn.uniform(1, 100, shape)).astype(kind)
