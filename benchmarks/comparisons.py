"""Who is compared with whom in `benchmarks/`, and by how much ours should be faster.

What was measured of them is read and shown by `speed`.
"""

from __future__ import annotations

from typing import NamedTuple


class Table(NamedTuple):
    """Contenders that are compared with each other."""

    benchmark: str  # the script that measures it, and its files' name
    ours: str  # whose rate stands above the others' in the ratios
    heading: str  # of the rates and of the ratios
    contenders: dict[str, str]  # in words, in the order in which they are shown
    form: str = "{:.2f} ×"  # of a ratio
    rate: str = "steps"  # what of two contenders is compared, in sentences
    seconds: bool = False  # show what one takes, not how many there are in a second
    size: str = "batch"  # what of a case ``batch_size`` counts


TABLES = {
    "training": Table(
        "training_speed",
        "scan",
        "steps/s | ours is faster by",
        {
            "scan": "ours: one jitted scan",
            "python_loop": "ours: a jitted step in a Python loop",
            "torch_eager_default": "PyTorch eager, default Adam",
            "torch_eager_fused": "PyTorch eager, fused Adam",
            "torch_compile_default": "torch.compile, default Adam",
            "torch_compile_fused": "torch.compile, fused Adam",
            "torch_compile_all": "torch.compile, Adam compiled too",
        },
    ),
    "gemm": Table(
        "training_speed",
        "scan",
        "GFLOP/s | our step reaches",
        {
            "jax_dot": "the products alone, jnp.dot",
            "torch_mm": "the products alone, torch.mm",
        },
        "{:.0%}",
    ),
    "seeds": Table(
        "training_speed",
        "pinned_processes",
        "steps/s in all | pinned processes are faster by",
        {
            "one_process": "one after the other, all cores",
            "pinned_processes": "one process pinned to each core",
            "vmap": "two seeds batched with vmap, all cores",
        },
    ),
    "agents": Table(
        "agent_speed",
        "agent_pinned",
        "steps/s in all | ours is faster by",
        {
            "agent_pinned": "ours: whole agents, one pinned to each core",
            "agent_all": "ours: a whole agent on all cores",
            "agent_vmap": "ours: two whole agents batched with vmap, all cores",
            "torch_agent_all": "PyTorch: a whole agent in CleanRL's style, all cores",
            "torch_agent_pinned": (
                "PyTorch: whole agents in CleanRL's style, one pinned to each core"
            ),
            "torch_update_all": "PyTorch eager: the bare update, all cores",
            "torch_update_pinned": "PyTorch eager: bare updates, pinned",
            "torch_update_fused_pinned": "PyTorch eager: bare updates, fused Adam, pinned",
            "torch_update_compiled_pinned": "torch.compile: bare updates, fused Adam, pinned",
        },
    ),
    "probes": Table(
        "agent_speed",
        "probe_pinned",
        "steps/s in all | ours is faster by",
        {
            "probe_pinned": "ours: targets shared by processes pinned to each core",
            "probe_all": "ours: one target after the other, all cores",
            "probe_vmap": "ours: two targets batched with vmap, all cores",
            "torch_probe_all": "PyTorch eager: one target after the other, all cores",
            "torch_probe_pinned": "PyTorch eager: targets shared by pinned processes",
            "torch_probe_fused_pinned": "PyTorch eager: the same with fused Adam",
            "torch_probe_compiled_pinned": "torch.compile: the same with fused Adam",
        },
    ),
    "cnn_updates": Table(
        "agent_speed",
        "cnn_update_pinned",
        "updates/s in all | ours is faster by",
        {
            "cnn_update_pinned": "ours: bare updates, pinned",
            "cnn_update_all": "ours: the bare update, all cores",
            "cnn_update_native": "the same with XLA's own convolution, all cores",
            "torch_cnn_update_all": "PyTorch eager, all cores",
            "torch_cnn_update_last_all": "PyTorch eager, channels last, all cores",
            "torch_cnn_update_compiled_all": "torch.compile, fused Adam, all cores",
            "torch_cnn_update_pinned": "PyTorch eager, pinned",
            "torch_cnn_update_last_pinned": "PyTorch eager, channels last, pinned",
            "torch_cnn_update_compiled_pinned": "torch.compile, fused Adam, pinned",
        },
    ),
    "cnn_agents": Table(
        "agent_speed",
        "cnn_agent_pinned",
        "steps/s in all | ours is faster by",
        {
            "cnn_agent_pinned": "ours: whole agents, one pinned to each core",
            "cnn_agent_all": "ours: a whole agent on all cores",
            "torch_cnn_agent_all": "PyTorch: a whole agent in CleanRL's style, all cores",
            "torch_cnn_agent_pinned": (
                "PyTorch: whole agents in CleanRL's style, one pinned to each core"
            ),
        },
    ),
    "target_copies": Table(
        "agent_speed",
        "copies",
        "steps/s | with copies every 1,000 steps we reach",
        {
            "copies": "a copy and a new table of target values every 1,000 steps",
            "no_copies": "no copy, the table made as often",
            "one_table": "no copy, the table made half as often",
        },
        "{:.1%}",
    ),
    "spectra": Table(
        "curvature_speed",
        "spectrum",
        "s | ours is faster by",
        {
            "spectrum": "ours: `curvature.spectrum`",
            "matfree": "matfree's Lanczos on our product",
            "torch_pyhessian": "PyHessian",
            "torch_lanczos": "PyTorch: Lanczos on double-backward products, as we would write it",
        },
        rate="speed",
        seconds=True,
    ),
    "grams": Table(
        "curvature_speed",
        "gram",
        "s | ours is faster by",
        {
            "gram": "ours: layer by layer",
            "gram_vmap": "gradients by example from vmap, and their products",
        },
        rate="speed",
        seconds=True,
    ),
    "logging": Table(
        "curvature_speed",
        "logged_pinned",
        "steps/s in all | with λ₁ every 1,000 steps we reach",
        {
            "logged_pinned": "whole agents whose λ₁ is logged, one pinned to each core",
            "unlogged_pinned": "the same agents, nothing logged",
        },
        "{:.1%}",
    ),
    "atari_steps": Table(
        "atari_speed",
        "stepping_hosted",
        "frames/s | ours is faster by",
        {
            "stepping_hosted": "ours: `atari.Environments`",
            "stepping_jitted": "ours: `jitted_atari`, inside a scan",
            "gymnasium_sync": "gymnasium's SyncVectorEnv and its wrappers",
        },
        rate="frames",
        size="environments",
    ),
    "atari_agents": Table(
        "atari_speed",
        "atari_agent_pinned",
        "frames/s in all | ours is faster by",
        {
            "atari_agent_pinned": "ours: agents, one pinned to each core",
            "atari_agent_all": "ours: an agent on all cores",
            "atari_agent_vmap": "ours: two agents batched with vmap, all cores",
            "torch_atari_agent_all": "PyTorch: an agent in CleanRL's style, all cores",
            "torch_atari_agent_pinned": (
                "PyTorch: agents in CleanRL's style, one pinned to each core"
            ),
            "torch_atari_agent_last_pinned": (
                "PyTorch: agents in CleanRL's style, channels last, pinned"
            ),
        },
        rate="frames",
    ),
    "atari_updates": Table(
        "atari_speed",
        "atari_update_pinned",
        "updates/s in all | ours is faster by",
        {
            "atari_update_pinned": "ours: bare updates, pinned",
            "atari_update_all": "ours: the bare update, all cores",
            "torch_atari_update_all": "PyTorch eager: the bare update, all cores",
            "torch_atari_update_last_all": "PyTorch eager: the same, channels last, all cores",
            "torch_atari_update_compiled_all": "torch.compile: the bare update, all cores",
            "torch_atari_update_pinned": "PyTorch eager: bare updates, pinned",
            "torch_atari_update_last_pinned": "PyTorch eager: the same, channels last, pinned",
            "torch_atari_update_compiled_pinned": "torch.compile: bare updates, pinned",
        },
        rate="updates",
    ),
    "atari_parts": Table(
        "atari_speed",
        "part_whole",
        "frames/s, if there were nothing else | share of the whole's time",
        {
            "part_whole": "a whole agent on all cores",
            "part_acting": "acting alone",
            "part_stepping": "stepping alone",
            "part_replay": "the replay buffer alone",
            "part_learning": "learning alone",
        },
        "{:.1%}",
    ),
}
"""Every table of all benchmarks. A contender stands in one of them."""

NAMES = {name: words for table in TABLES.values() for name, words in table.contenders.items()}


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


def _peers(table: str) -> tuple[str, ...]:
    """Return the table's peers; eager on all cores, PyTorch as it comes, stands first in each."""
    return tuple(name for name in TABLES[table].contenders if name.startswith("torch"))


AIMS = (
    Aim("agents", 32, "whole agents", "a loop in CleanRL's style", _WHOLE, 3.0),
    Aim("agents", 32, "whole agents", "PyTorch eager's bare update", _BARE, 1.5),
    Aim("agents", 32, "whole agents", "a compiled bare update", _COMPILED, 1.0),
    Aim("agents", 512, "whole agents", "a loop in CleanRL's style", _WHOLE, 1.3),
    Aim("agents", 512, "whole agents", "PyTorch eager's bare update", _BARE, 1.3),
    Aim("agents", 512, "whole agents", "a compiled bare update", _COMPILED, 1.0),
    Aim("probes", 32, "probes", "PyTorch", _peers("probes"), 2.0),
    Aim("cnn_updates", 32, "the CNN's bare updates", "PyTorch", _peers("cnn_updates"), 1.0),
    Aim("cnn_agents", 32, "whole agents with the CNN", "a loop in CleanRL's style",
        _peers("cnn_agents"), 1.0),
    Aim("spectra", 512, "the MLP's spectral density", "PyHessian", _peers("spectra"), 1.4, "mlp"),
    Aim("spectra", 512, "the CNN's spectral density", "PyHessian", _peers("spectra"), 2.5, "cnn"),
    Aim("spectra", 512, "the MLP's spectral density", "matfree", ("matfree",), 1.5, "mlp"),
    Aim("spectra", 512, "the CNN's spectral density", "matfree", ("matfree",), 1.5, "cnn"),
    Aim("grams", 512, "the MLP's C_512", "gradients by example", ("gram_vmap",), 50, "mlp"),
    Aim("grams", 512, "the CNN's C_512", "gradients by example", ("gram_vmap",), 20, "cnn"),
    Aim("atari_steps", 1, "stepping alone", "gymnasium", ("gymnasium_sync",), 2.0),
    Aim("atari_steps", 8, "stepping alone", "gymnasium", ("gymnasium_sync",), 2.0),
    Aim("atari_agents", 32, "Atari agents", "a loop in CleanRL's style", _peers("atari_agents"),
        1.2),
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
    found = [table.contenders for table in TABLES.values() if table.benchmark == benchmark]
    return [name for contenders in found for name in contenders]
