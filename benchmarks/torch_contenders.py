"""The same network, optimizer and minibatches in PyTorch, as its users would write them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from task import Case, Task, World
from torch import Tensor, nn
from torch.nn import functional


def use_all_cores() -> None:
    """Let PyTorch use every core that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    torch.set_num_threads(len(affinity(0)) if affinity else os.cpu_count() or 1)


@contextmanager
def double_precision() -> Iterator[None]:
    """Make float64 PyTorch's default, that of Adam's step count included."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Training:
    """A training loop: draw indices, gather, forward, backward, Adam.

    ``compiled`` names what goes through `torch.compile`: "" nothing, "loss" the forward and
    backward pass, "all" the optimizer's step too.
    """

    def __init__(self, case: Case, world: World, *, fused: bool | None, compiled: str) -> None:
        use_all_cores()
        torch.manual_seed(0)
        self.case, self.world = case, world
        self.inputs = torch.from_numpy(world.inputs)
        self.labels = torch.from_numpy(world.labels).long()
        layers: list[nn.Module] = []
        for kernel in world.params[1::2]:
            layers += [nn.Linear(*kernel.shape), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])
        rate, b1, b2, eps = world.adam.tolist()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=rate, betas=(b1, b2), eps=eps, fused=fused
        )
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
        """See `Task`; in place, so that nothing is compiled anew."""
        layers = [layer for layer in self.model if isinstance(layer, nn.Linear)]
        leaves = map(torch.from_numpy, self.world.params)
        with torch.no_grad():
            for layer, bias, kernel in zip(layers, leaves, leaves, strict=True):
                layer.bias.copy_(bias)
                layer.weight.copy_(kernel.T)
        for state in self.optimizer.state.values():
            for moment in state.values():
                moment.zero_()

    def step(self, batch: Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(self.inputs, self.labels, batch).backward()
        self.update()

    def block(self) -> int:
        for _ in range(self.case.block):
            self.step(torch.randint(len(self.inputs), (self.case.batch_size,)))
        return self.case.block

    def check(self, indices: np.ndarray) -> list[np.ndarray]:
        self.reset()
        for batch in torch.tensor(indices, dtype=torch.long):
            self.step(batch)
        layers = [layer for layer in self.model if isinstance(layer, nn.Linear)]
        pairs = [(layer.bias, layer.weight.T) for layer in layers]
        return [leaf.detach().numpy().copy() for pair in pairs for leaf in pair]


class Mm:
    """The eight matrix products of a step; see `jax_contenders.Dot`."""

    def __init__(self, case: Case, world: World) -> None:
        use_all_cores()
        self.case = case
        self.x = torch.from_numpy(world.inputs[: case.batch_size])
        self.kernels = [torch.from_numpy(kernel) for kernel in world.params[1::2]]
        b, (w1, w2, w3) = len(self.x), self.kernels
        # As in training, the results go into memory that is there already.
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

    def check(self, indices: np.ndarray) -> list[np.ndarray]:
        """Return the three weight gradients."""
        self.products()
        return [product.numpy() for product in self.results]


TASKS: dict[str, Callable[[Case, World], Task]] = {
    # fused=None is torch.optim.Adam's own default.
    "torch_eager_default": partial(Training, fused=None, compiled=""),
    "torch_eager_fused": partial(Training, fused=True, compiled=""),
    "torch_compile_default": partial(Training, fused=None, compiled="loss"),
    "torch_compile_fused": partial(Training, fused=True, compiled="loss"),
    "torch_compile_all": partial(Training, fused=None, compiled="all"),
    "torch_mm": Mm,
}
