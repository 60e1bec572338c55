"""All tables of `benchmarks/`, and how much faster ours should be.

Contenders are declared with the problems that they solve, in the modules ``*_task``. `speed` reads
and shows what was measured.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import agent_task
import atari_task
import curvature_task
import training_task

TABLES = training_task.TABLES | agent_task.TABLES | curvature_task.TABLES | atari_task.TABLES
"""Every table of all benchmarks. A contender stands in one of them."""

ENTRIES = {entry.name: entry for table in TABLES.values() for entry in table.entries}

NAMES = {name: entry.words for name, entry in ENTRIES.items()}


class Aim(NamedTuple):
    """How much faster ours should be than its peers; set before anything was measured."""

    table: str
    batch_size: int
    ours: str
    peers: str  # in words
    contenders: tuple[str, ...]  # the peers: first the default, then forms that may be faster
    least: float
    network: str = ""  # any, if none is named
    width: int = 0  # any, if it is 0


_WHOLE = ("torch_agent_all", "torch_agent_pinned")
_BARE = ("torch_update_all", "torch_update_pinned", "torch_update_fused_pinned")
_COMPILED = ("torch_update_compiled_pinned",)
_REJAX = ("rejax_agent_pinned", "rejax_agent_alike_pinned")
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
    Aim("rejax_agents", 32, "whole agents of width 64", "rejax", _REJAX, 2.5, width=64),
    Aim("rejax_agents", 32, "whole agents of width 512", "rejax", _REJAX, 1.8, width=512),
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


class Work(NamedTuple):
    """A kind of work, and who else does it: all of it, unless ``words`` say otherwise."""

    words: str  # for a sentence's list: without commas
    table: str
    batch_size: int
    peers: tuple[str, ...]
    network: str = ""  # any, if none is named
    width: int = 0  # any, if it is 0


def _work(words: str, table: str, batch_size: int, **case: Any) -> Work:
    """Return a kind of work with every peer in PyTorch of its table."""
    return Work(words, table, batch_size, TABLES[table].peers, **case)


WORKS = (
    _work("training at batch 128", "training", 128),
    _work("training at batch 512", "training", 512),
    Work("agents at batch 32", "agents", 32, _WHOLE),
    Work("agents at batch 32 vs bare updates", "agents", 32, (*_BARE, *_COMPILED)),
    Work("agents at batch 512", "agents", 512, _WHOLE),
    Work("agents at batch 512 vs bare updates", "agents", 512, (*_BARE, *_COMPILED)),
    Work("agents of width 64", "rejax_agents", 32, _REJAX, width=64),
    Work("agents of width 512", "rejax_agents", 32, _REJAX, width=512),
    _work("probes", "probes", 32),
    _work("CNN updates", "cnn_updates", 32),
    _work("CNN agents", "cnn_agents", 32),
    Work("spectral density of the MLP", "spectra", 512, (*_SPECTRA, "matfree"), "mlp"),
    Work("spectral density of the CNN", "spectra", 512, (*_SPECTRA, "matfree"), "cnn"),
    Work("Atari stepping in 1 game", "atari_steps", 1, ("gymnasium_sync",)),
    Work("Atari stepping in 8 games", "atari_steps", 8, ("gymnasium_sync",)),
    _work("Atari agents", "atari_agents", 32),
    _work("Atari updates", "atari_updates", 32),
)
"""All that another library was measured at too, in the order of the page Speed."""

COPIES_AT_MOST = 0.02
"""The largest share of all time that target updates should cost."""

LOGGING_AT_MOST = 0.1
"""The most that logging λ₁ should cost, as a share of the training time without it."""

RISE_AT_MOST = 1.0
"""The most memory, in GiB, that a Gram matrix should take layer by layer."""

FRAMES_AT_LEAST = 30_000
"""Frames per second that all Atari agents on one GPU together should play and learn from."""

APART_AT_MOST = 1e-5
"""The largest difference between two ways to a cosine of gradients, in single precision."""


def names(benchmark: str) -> list[str]:
    """Return the contenders of a benchmark."""
    found = [table.entries for table in TABLES.values() if table.benchmark == benchmark]
    return [entry.name for entries in found for entry in entries]
