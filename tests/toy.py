"""A tiny experiment with the real contract, for the driver's tests: a random walk with momentum.

The file runs as it is under another name too: as ``__init__.py`` of a chapter called ``toy``.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from plasticity import configuration
from plasticity.programs import program
from plasticity.runs.experiment import Experiment
from plasticity.runs.results import Records


@dataclass(frozen=True)
class Config:
    """Settings of the walk."""

    scale: float = 1.0
    size: int = 64
    chunks: int = 6
    seconds_a_chunk: float = 0.0  # so that a kill can land in the middle of one
    fail_arm: str = ""
    seeds: int = 2
    first_seed: int = 0

    def __post_init__(self) -> None:
        configuration.check(self)
        configuration.require_positive(self, "scale", "size", "chunks", "seeds")


STUDIES = {"quick": Config(), "laptop": Config(chunks=12)}


def arms(config: Config) -> dict[str, dict[str, Any]]:
    return {"narrow": {}, "wide": {"scale": 10 * config.scale}}


def load(config: Config) -> tuple[jax.Array, dict[str, object]]:
    source = {"dataset": "none", "records": config.size, "full_set": config.size}
    return jnp.arange(config.size, dtype=jnp.float32), source


def shapes(config: Config) -> Any:
    return jax.eval_shape(lambda: jnp.arange(config.size, dtype=jnp.float32))


def chunks(config: Config) -> int:
    return config.chunks


def flops(config: Config) -> float:
    return float(config.size * config.chunks)


@program(static=("config",))
def start(config: Config, world: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
    return {"position": world, "velocity": jnp.zeros_like(world), "key": key}


@program(static=("config",), donate=("state",))
def advance(
    config: Config, world: jax.Array, state: dict[str, jax.Array], chunk: Any
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    if config.seconds_a_chunk or config.fail_arm:
        jax.debug.callback(lambda: _obey(config), ordered=True)
    key, kick = jax.random.split(state["key"])
    velocity = 0.9 * state["velocity"] + config.scale * jax.random.normal(kick, world.shape)
    position = state["position"] + velocity
    return (
        {"position": position, "velocity": velocity, "key": key},
        {"mean": position.mean(), "position": position},
    )


def _obey(config: Config) -> None:
    time.sleep(config.seconds_a_chunk)
    if "TOY_LOG" in os.environ:  # a line for each chunk that was computed, by whichever process
        with open(os.environ["TOY_LOG"], "a") as log:
            log.write(f"{config.scale}\n")
    if "TOY_DIES_ONCE" in os.environ:  # as of too little memory: the first process that comes here
        with suppress(FileExistsError), open(os.environ["TOY_DIES_ONCE"], "x"):
            os.kill(os.getpid(), signal.SIGKILL)
    if config.fail_arm == "wide" and config.scale > 1 and "TOY_MENDED" not in os.environ:
        raise FloatingPointError("told to fail")


def summarize(config: Config, records: Records) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    rows = [
        {"arm": arm, "seed": seed, "step": step, "metric": "mean", "value": float(value)}
        for (arm, seed), record in records.items()
        for step, value in enumerate(record["mean"])
    ]
    stacks: dict[str, list[np.ndarray]] = {}  # (seeds, chunks, size)
    for (arm, _), record in records.items():
        stacks.setdefault(arm, []).append(record["position"])
    return pd.DataFrame(rows), {arm: np.stack(arrays) for arm, arrays in stacks.items()}


EXPERIMENT = Experiment(
    __name__, Config, STUDIES, arms=arms, load=load, shapes=shapes, start=start, advance=advance,
    chunks=chunks, flops=flops, summarize=summarize, claims={},
)  # fmt: skip
