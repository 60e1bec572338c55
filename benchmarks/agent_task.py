"""What `agent_speed` trains and probes, the world its contenders share, and who they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from table import Entry, Table

CHECK_PERIOD = 10
"""Steps between two target copies in a check, so that it sees some; 1,000 when timed."""

PROBE_CHECK_STEPS = 50
"""Steps of a probe's fit in a check: the shortest there is."""


class Case(NamedTuple):
    """An agent, or probes of one, at some size."""

    network: str  # "mlp" or "cnn"
    width: int  # units of each hidden layer (in the CNN of each fully connected one)
    channels: int  # of each convolution
    batch_size: int  # transitions, or a probe's inputs
    n_images: int
    steps: int  # of a call of `dqn.train`, or of one fit
    block: int  # steps between two looks at the clock, for contenders that train step by step
    targets: int = 0  # how many a process fits in a row; 0: this is training, not a probe

    @property
    def name(self) -> str:
        kind = "probe" if self.targets else "agent"
        return f"{kind}, {self.network} {self.width}, batch {self.batch_size}"

    @property
    def columns(self) -> dict[str, str | int]:
        return {"network": self.network, "width": self.width, "batch_size": self.batch_size}


class World(NamedTuple):
    """What every contender starts from, bit for bit."""

    images: np.ndarray  # (images, height, width, channels), standardised
    labels: np.ndarray  # (images,), the true ones
    params: list[np.ndarray]  # (bias, kernel) of each layer
    adam: np.ndarray  # learning rate, b1, b2, eps
    settings: np.ndarray  # see `Settings`
    targets: np.ndarray  # (targets, images, 10): what a probe fits


class Settings(NamedTuple):
    """The settings of an agent that are in `World.settings`, in this order."""

    discount: float
    epsilon: float
    warmup: float
    capacity: float
    target_period: float


FUSED, COMPILED = {"fused": True}, {"fused": True, "compiled": True}
LAST = {"channels_last": True}
"""Options of contenders in PyTorch, whose own defaults are unfused and eager."""

TABLES = {
    "agents": Table(
        "agent_speed",
        ours="agent_pinned",
        heading="steps/s in all | ours is faster by",
        entries=(
            Entry("agent_pinned", "ours: whole agents, one pinned to each core",
                  "agent_jax.Agents", pinned=True, checked=False),
            Entry("agent_all", "ours: a whole agent on all cores", "agent_jax.Agents"),
            Entry("agent_vmap", "ours: two whole agents batched with vmap, all cores",
                  "agent_jax.Agents", {"agents": 2}),
            Entry("torch_agent_all", "PyTorch: a whole agent in CleanRL's style, all cores",
                  "agent_torch.Agent"),
            Entry("torch_agent_pinned",
                  "PyTorch: whole agents in CleanRL's style, one pinned to each core",
                  "agent_torch.Agent", pinned=True, checked=False),
            Entry("torch_update_all", "PyTorch eager: the bare update, all cores",
                  "agent_torch.Updates"),
            Entry("torch_update_pinned", "PyTorch eager: bare updates, pinned",
                  "agent_torch.Updates", pinned=True, checked=False),
            Entry("torch_update_fused_pinned", "PyTorch eager: bare updates, fused Adam, pinned",
                  "agent_torch.Updates", FUSED, pinned=True),
            Entry("torch_update_compiled_pinned", "torch.compile: bare updates, fused Adam, pinned",
                  "agent_torch.Updates", COMPILED, pinned=True),
        ),
    ),
    "probes": Table(
        "agent_speed",
        ours="probe_pinned",
        heading="steps/s in all | ours is faster by",
        entries=(
            Entry("probe_pinned", "ours: targets shared by processes pinned to each core",
                  "agent_jax.Fits", pinned=True, checked=False),
            Entry("probe_all", "ours: one target after the other, all cores", "agent_jax.Fits"),
            Entry("probe_vmap", "ours: two targets batched with vmap, all cores",
                  "agent_jax.Fits", {"batched": True}),
            Entry("torch_probe_all", "PyTorch eager: one target after the other, all cores",
                  "agent_torch.Fits"),
            Entry("torch_probe_pinned", "PyTorch eager: targets shared by pinned processes",
                  "agent_torch.Fits", pinned=True, checked=False),
            Entry("torch_probe_fused_pinned",
                  "PyTorch eager: targets shared by pinned processes, fused Adam",
                  "agent_torch.Fits", FUSED, pinned=True),
            Entry("torch_probe_compiled_pinned",
                  "torch.compile: targets shared by pinned processes, fused Adam",
                  "agent_torch.Fits", COMPILED, pinned=True),
        ),
    ),
    "cnn_updates": Table(
        "agent_speed",
        ours="cnn_update_pinned",
        heading="updates/s in all | ours is faster by",
        entries=(
            Entry("cnn_update_pinned", "ours: bare updates, pinned",
                  "agent_jax.Updates", pinned=True, checked=False),
            Entry("cnn_update_all", "ours: the bare update, all cores", "agent_jax.Updates"),
            Entry("cnn_update_native",
                  "ours: the bare update with XLA's own convolution, all cores",
                  "agent_jax.Updates", {"native": True}),
            Entry("torch_cnn_update_all", "PyTorch eager, all cores", "agent_torch.Updates"),
            Entry("torch_cnn_update_last_all", "PyTorch eager, channels last, all cores",
                  "agent_torch.Updates", LAST),
            Entry("torch_cnn_update_compiled_all", "torch.compile, fused Adam, all cores",
                  "agent_torch.Updates", COMPILED),
            Entry("torch_cnn_update_pinned", "PyTorch eager, pinned",
                  "agent_torch.Updates", pinned=True, checked=False),
            Entry("torch_cnn_update_last_pinned", "PyTorch eager, channels last, pinned",
                  "agent_torch.Updates", LAST, pinned=True, checked=False),
            Entry("torch_cnn_update_compiled_pinned", "torch.compile, fused Adam, pinned",
                  "agent_torch.Updates", COMPILED, pinned=True, checked=False),
        ),
    ),
    "cnn_agents": Table(
        "agent_speed",
        ours="cnn_agent_pinned",
        heading="steps/s in all | ours is faster by",
        entries=(
            Entry("cnn_agent_pinned", "ours: whole agents, one pinned to each core",
                  "agent_jax.Agents", pinned=True, checked=False),
            Entry("cnn_agent_all", "ours: a whole agent on all cores", "agent_jax.Agents"),
            Entry("torch_cnn_agent_all", "PyTorch: a whole agent in CleanRL's style, all cores",
                  "agent_torch.Agent"),
            Entry("torch_cnn_agent_pinned",
                  "PyTorch: whole agents in CleanRL's style, one pinned to each core",
                  "agent_torch.Agent", pinned=True, checked=False),
        ),
    ),
    "rejax_agents": Table(
        "agent_speed",
        ours="lone_agent_pinned",
        heading="updates/s in all | ours is faster by",
        rate="updates",
        entries=(
            Entry("lone_agent_pinned", "ours: whole agents, one pinned to each core",
                  "agent_jax.Agents", pinned=True),
            Entry("rejax_agent_pinned", "rejax: whole agents as it comes, one pinned to each core",
                  "agent_rejax.Agents", pinned=True),
            Entry("rejax_agent_alike_pinned",
                  "rejax: whole agents with our buffer of indices, one pinned to each core",
                  "agent_rejax.Agents", {"alike": True}, pinned=True),
            Entry("agent_learning_pinned", "ours: gradients and Adam alone, minibatches given",
                  "agent_jax.Learning", pinned=True, checked=False),
            Entry("agent_gradients_pinned", "ours: gradients alone, minibatches given",
                  "agent_jax.Learning", {"adam": False}, pinned=True, checked=False),
            Entry("agent_products_pinned", "the products alone, as fast as a core multiplies",
                  "agent_bound.Products", pinned=True, checked=False),
            Entry("agent_traffic_pinned", "what Adam moves alone, as fast as a core streams",
                  "agent_bound.Traffic", pinned=True, checked=False),
        ),
    ),
    "target_copies": Table(
        "agent_speed",
        ours="copies",
        heading="steps/s | with copies every 1,000 steps we reach",
        form="{:.1%}",
        entries=(
            Entry("copies", "a copy and a new table of target values every 1,000 steps",
                  "agent_jax.Periods", {"multiple": 1}),
            # Longer than any run. The greatest common divisor of call and period decides how often
            # the table of target values is made: once per `case.steps` if the multiple is odd, as
            # with copies, and once per call if it is even.
            Entry("no_copies", "no copy, the table made as often",
                  "agent_jax.Periods", {"multiple": 1_000_001}),
            Entry("one_table", "no copy, the table made half as often",
                  "agent_jax.Periods", {"multiple": 1_000_000}),
        ),
    ),
}  # fmt: skip
"""What is compared: each contender with its description and the code that does its work."""
