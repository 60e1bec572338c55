"""The tidy table and the arrays of a run of probed agents, and the outcome of each agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from plasticity import configuration
from plasticity.runs.experiment import Arms
from plasticity.runs.results import Records

ARRAYS = ("loss", "curve", "noise", "sharpness_trace")
"""The parts of a record that are not scalars: kept as arrays."""


def tidy(
    arms: Callable[[Any], Arms], swept: Mapping[str, str], config: Any, records: Records
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return rows (arm, swept settings, seed, step, metric, value) and arrays of all agents.

    Arrays are ``loss/<arm>`` (seeds, probes, targets), ``curve/<arm>`` and ``noise/<arm>`` (seeds,
    probes, windows), ``sharpness_trace/<arm>`` (seeds, probes, moments), and for the bank
    ``bank/<arm>/<path>`` (probes, ...), the parameters of the first seed.
    """
    changes = arms(config)
    frames: list[pd.DataFrame] = []
    stacks: dict[str, list[np.ndarray]] = {}
    bank: dict[str, np.ndarray] = {}
    for (arm, seed), record in records.items():
        arm_config = configuration.replaced(config, changes[arm])
        scalars = {k: v for k, v in record.items() if k not in ARRAYS and "/" not in k}
        step = arm_config.probe_every * np.arange(len(record["probe_loss"]))
        frame = pd.DataFrame({"step": step, **scalars}).melt("step", var_name="metric")
        frame["value"] = frame.value.astype(np.float32)  # written with no more digits than it has
        settings = {name: attrgetter(path)(arm_config) for name, path in swept.items()}
        frames.append(frame.assign(arm=arm, seed=seed, **settings))
        for name in ARRAYS:
            stacks.setdefault(f"{name}/{arm}", []).append(record[name])
        if seed == config.first_seed:
            kept = {k: v for k, v in record.items() if k.startswith("params/")}
            bank |= {f"bank/{arm}/{name.removeprefix('params/')}": v for name, v in kept.items()}
    columns = ["arm", *swept, "seed", "step", "metric", "value"]
    table = pd.concat(frames, ignore_index=True)[columns]
    return table, {name: np.stack(arrays) for name, arrays in stacks.items()} | bank


def at_end(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return one row per agent: ``keys``, every metric at the last probe, and what it lost.

    ``table`` comes from `tidy`, ``keys`` are the columns that name an agent. ``plasticity_loss`` is
    the probe loss at the end minus ``initial_loss``, the one before training. Diverged agents are
    included, with values NaN and ``diverged`` 1. Rows are in the order of the table.
    """
    wide = table.pivot(index=[*keys, "step"], columns="metric", values="value").reset_index()
    wide = wide.sort_values("step", kind="stable")
    first = wide.groupby(keys, sort=False).probe_loss.first().rename("initial_loss")
    last = wide.groupby(keys, sort=False).tail(1).set_index(keys).join(first)
    order = pd.MultiIndex.from_frame(table[keys].drop_duplicates())
    last = last.loc[order].reset_index()
    last["plasticity_loss"] = last.probe_loss - last.initial_loss
    return last
