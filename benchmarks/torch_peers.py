"""The same network, optimizer and minibatches in PyTorch, as its users would write them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from contender import Case, Task, World
from torch import Tensor, nn
from torch.nn import functional

from plasticity.optimizers import DEFAULT_ADAM

LEARNING_RATE = 1e-3


def use_all_cores() -> None:
    """Let PyTorch use every core that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    torch.set_num_threads(len(affinity(0)) if affinity else os.cpu_count() or 1)


class Peer:
    """A training loop: draw indices, gather, forward, backward, Adam."""

    def __init__(self, case: Case, world: World, *, fused: bool, compiled: str = "") -> None:
        """Compile "loss" (forward and backward), "all" (Adam too), or nothing."""
        use_all_cores()
        torch.manual_seed(0)
        self.case, self.world, self.fused, self.compiled = case, world, fused, compiled
        self.inputs = torch.from_numpy(world.inputs)
        self.labels = torch.from_numpy(world.labels).long()
        sizes = [kernel.shape for kernel in world.params[1::2]]
        layers = [nn.Linear(*size, dtype=self.inputs.dtype) for size in sizes]
        relus = [nn.ReLU() for _ in layers]
        self.layers = layers
        self.model = nn.Sequential(*(part for pair in zip(layers, relus) for part in pair)[:-1])
        self.loss = torch.compile(self.plain_loss, dynamic=False) if compiled else self.plain_loss
        self.reset()

    def plain_loss(self, inputs: Tensor, labels: Tensor, batch: Tensor) -> Tensor:
        logits = self.model(inputs.index_select(0, batch))
        return functional.cross_entropy(logits, labels.index_select(0, batch))

    def reset(self) -> None:
        ...

    def step(self, batch: Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(self.inputs, self.labels, batch).backward()
        self.update()
