"""The same network, optimizer and minibatches in PyTorch, as its users would write them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytorch
import torch
from pytorch import double_precision as double_precision
from torch import Tensor
from torch.nn import functional
from training_task import Case as Case
from training_task import World as World


class Training:
    """A training loop: draw indices, gather, forward, backward, Adam.

    ``compiled`` names what goes through `torch.compile`: "" nothing, "loss" the forward and
    backward pass, "all" the optimizer's step too.
    """

    def __init__(self, case: Case, world: World, *, fused: bool | None, compiled: str) -> None:
        pytorch.use_all_cores()
        torch.manual_seed(0)
        self.case, self.world = case, world
        self.inputs = torch.from_numpy(world.inputs)
        self.labels = torch.from_numpy(world.labels).long()
        self.model = pytorch.network(world.params)
        self.optimizer = pytorch.adam(self.model, world.adam, fused)
        whole = partial(torch.compile, dynamic=False)
        self.loss: Callable[..., Tensor] = whole(self.plain_loss) if compiled else self.plain_loss
        self.update: Any = self.optimizer.step
        if compiled == "all":
            self.update = whole(self.optimizer.step)
        self.reset()

    def plain_loss(self, inputs: Tensor, labels: Tensor, batch: Tensor) -> Tensor:
        logits = self.model(inputs.index_select(0, batch))
        return functional.cross_entropy(logits, labels.index_select(0, batch))

    def reset(self) -> None:
        pytorch.load(self.model, self.world.params)
        pytorch.forget(self.optimizer)

    def step(self, batch: Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(self.inputs, self.labels, batch).backward()
        self.update()

    def block(self) -> int:
        for _ in range(self.case.block):
            self.step(torch.randint(len(self.inputs), (self.case.batch_size,)))
        return self.case.block

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        self.reset()
        for batch in torch.tensor(given, dtype=torch.long):
            self.step(batch)
        return pytorch.read(self.model)


class Mm:
    """The eight matrix products of a step; see `training_jax.Dot`."""

    def __init__(self, case: Case, world: World) -> None:
        pytorch.use_all_cores()
        self.case = case
        self.x = torch.from_numpy(world.inputs[: case.batch_size])
        self.kernels = [torch.from_numpy(kernel) for kernel in world.params[1::2]]
        b, (w1, w2, w3) = len(self.x), self.kernels
        # As in training, the results go into memory that is already allocated.
        sizes = ((b, w1.shape[1]), (b, w2.shape[1]), (b, w3.shape[1]))
        self.h1, self.h2, self.d3 = (torch.empty(size) for size in sizes)
        self.d1, self.d2 = torch.empty_like(self.h1), torch.empty_like(self.h2)
        self.results = [torch.empty_like(kernel) for kernel in self.kernels]

    def products(self) -> None:
        w1, w2, w3 = self.kernels
        torch.mm(self.x, w1, out=self.h1)
        torch.mm(self.h1, w2, out=self.h2)
        torch.mm(self.h2, w3, out=self.d3)
        torch.mm(self.d3, w3.T, out=self.d2)
        torch.mm(self.d2, w2.T, out=self.d1)
        torch.mm(self.x.T, self.d1, out=self.results[0])
        torch.mm(self.h1.T, self.d2, out=self.results[1])
        torch.mm(self.h2.T, self.d3, out=self.results[2])

    def reset(self) -> None:
        pass

    def block(self) -> int:
        for _ in range(self.case.block):
            self.products()
        return self.case.block

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """Return the three weight gradients."""
        self.products()
        return [product.numpy() for product in self.results]
