"""What `training_speed` trains: Fig. 1's network, where contenders start, and who they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from table import Entry, Table


class Case(NamedTuple):
    """What is trained: Fig. 1's network, at some width, on minibatches of some size."""

    width: int  # units per hidden layer
    batch_size: int  # images
    n_images: int
    block: int  # optimizer steps between two looks at the clock

    @property
    def name(self) -> str:
        return f"width {self.width}, batch {self.batch_size}"

    @property
    def columns(self) -> dict[str, str | int]:
        return {"batch_size": self.batch_size, "width": self.width}


class World(NamedTuple):
    """What every contender starts from, bit for bit."""

    inputs: np.ndarray  # (images, 784), standardised
    labels: np.ndarray  # (images,), random
    params: list[np.ndarray]  # (bias, kernel) of the first layer, of the second, of the third
    adam: np.ndarray  # learning rate, b1, b2, eps


TABLES = {
    "training": Table(
        "training_speed",
        ours="scan",
        heading="steps/s | ours is faster by",
        entries=(
            Entry("scan", "ours: one jitted scan", "training_jax.Scan"),
            # It trains as well, on other minibatches.
            Entry("python_loop", "ours: a jitted step in a Python loop",
                  "training_jax.PythonLoop", checked=False),
            # fused=None is torch.optim.Adam's own default.
            Entry("torch_eager_default", "PyTorch eager, default Adam",
                  "training_torch.Training", {"fused": None, "compiled": ""}),
            Entry("torch_eager_fused", "PyTorch eager, fused Adam",
                  "training_torch.Training", {"fused": True, "compiled": ""}),
            Entry("torch_compile_default", "torch.compile, default Adam",
                  "training_torch.Training", {"fused": None, "compiled": "loss"}),
            Entry("torch_compile_fused", "torch.compile, fused Adam",
                  "training_torch.Training", {"fused": True, "compiled": "loss"}),
            Entry("torch_compile_all", "torch.compile, Adam compiled too",
                  "training_torch.Training", {"fused": None, "compiled": "all"}),
        ),
    ),
    "gemm": Table(
        "training_speed",
        ours="scan",
        heading="GFLOP/s | our step reaches",
        form="{:.0%}",
        entries=(
            Entry("jax_dot", "the products alone, jnp.dot", "training_jax.Dot"),
            Entry("torch_mm", "the products alone, torch.mm", "training_torch.Mm"),
        ),
    ),
    "seeds": Table(
        "training_speed",
        ours="pinned_processes",
        heading="steps/s in all | pinned processes are faster by",
        entries=(
            Entry("one_process", "one after the other, all cores", "training_jax.Scan"),
            Entry("pinned_processes", "one process pinned to each core",
                  "training_jax.Scan", pinned=True),
            Entry("vmap", "two seeds batched with vmap, all cores", "training_jax.Vmap"),
        ),
    ),
}  # fmt: skip
"""What is compared: each contender with its description and the code that does its work."""
