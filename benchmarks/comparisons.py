"""All tables of `benchmarks/`, and by how much ours should be faster.

Contenders are declared beside the problems that they solve, in the modules ``*_task``. What was
measured of them is read and shown by `speed`.
"""

from __future__ import annotations

from typing import NamedTuple

import agent_task
import atari_task
import curvature_task
import training_task

TABLES = training_task.TABLES | agent_task.TABLES | curvature_task.TABLES | atari_task.TABLES
"""Every table of all benchmarks. A contender stands in one of them."""

ENTRIES = {entry.name: entry for table in TABLES.values() for entry in table.entries}

NAMES = {name: entry.words for name, entry in ENTRIES.items()}


class Aim(NamedTuple):
    """By how much ours should be faster than its peers; set before anything was measured."""

    table: str
    batch_size: int
    ours: str
    peers: str  # in words
    contenders: tuple[str, ...]  # the peers: first as it comes, then in forms that may be faster
    least: float
    network: str = ""  # any, if none is named


_WHOLE = ("torch_agent_all", "torch_agent_pinned")
_BARE = ("torch_update_all", "torch_update_pinned", "torch_update_fused_pinned")
_COMPILED = ("torch_update_compiled_pinned",)
_SPECTRA = TABLES["spectra"].peers

AIMS = (
    Aim("agents", 32, "whole agents", "a loop in CleanRL's style", _WHOLE, 3.0),
    Aim("agents", 32, "whole agents", "PyTorch eager's bare update", _BARE, 1.5),
    Aim("agents", 32, "whole agents", "a compiled bare update", _COMPILED, 1.0),
    Aim("agents", 512, "whole agents", "a loop in CleanRL's style", _WHOLE, 1.3),
    Aim("agents", 512, "whole agents", "PyTorch eager's bare update", _BARE, 1.3),
    Aim("agents", 512, "whole agents", "a compiled bare update", _COMPILED, 1.0),
    Aim("probes", 32, "probes", "PyTorch", TABLES["probes"].peers, 2.0),
    Aim("cnn_updates", 32, "the CNN's bare updates", "PyTorch", TABLES["cnn_updates"].peers, 1.0),
    Aim("cnn_agents", 32, "whole agents with the CNN", "a loop in CleanRL's style",
        TABLES["cnn_agents"].peers, 1.0),
    Aim("spectra", 512, "the MLP's spectral density", "PyHessian", _SPECTRA, 1.4, "mlp"),
    Aim("spectra", 512, "the CNN's spectral density", "PyHessian", _SPECTRA, 2.5, "cnn"),
    Aim("spectra", 512, "the MLP's spectral density", "matfree", ("matfree",), 1.5, "mlp"),
    Aim("spectra", 512, "the CNN's spectral density", "matfree", ("matfree",), 1.5, "cnn"),
    Aim("grams", 512, "the MLP's C_512", "gradients by example", ("gram_vmap",), 50, "mlp"),
    Aim("grams", 512, "the CNN's C_512", "gradients by example", ("gram_vmap",), 20, "cnn"),
    Aim("atari_steps", 1, "stepping alone", "gymnasium", ("gymnasium_sync",), 2.0),
    Aim("atari_steps", 8, "stepping alone", "gymnasium", ("gymnasium_sync",), 2.0),
    Aim("atari_agents", 32, "Atari agents", "a loop in CleanRL's style",
        TABLES["atari_agents"].peers, 1.2),
)  # fmt: skip

COPIES_AT_MOST = 0.02
"""What target updates should cost at most, of all time."""

LOGGING_AT_MOST = 0.1
"""What logging λ₁ should cost at most, of the time that training takes without it."""

RISE_AT_MOST = 1.0
"""GiB of memory that a Gram matrix layer by layer should take at most."""

FRAMES_AT_LEAST = 30_000
"""Frames a second that Atari agents on one GPU should play and learn from, all together."""

APART_AT_MOST = 1e-5
"""How far apart the two ways to a cosine of gradients may be at most, in single precision."""


def names(benchmark: str) -> list[str]:
    """Return the contenders of a benchmark."""
    found = [table.entries for table in TABLES.values() if table.benchmark == benchmark]
    return [entry.name for entries in found for entry in entries]
