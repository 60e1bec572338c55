"""The same spectral densities in PyTorch: PyHessian's, and the fastest that we can write."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any
from unittest import mock

import numpy as np
import pytorch
import torch
from curvature_task import Case, World, density
from pytorch import double_precision as double_precision
from torch import Tensor
from torch.nn import functional


class Spectra:
    """A network and a batch, whose loss gives the Hessian."""

    def __init__(self, case: Case, world: World) -> None:
        pytorch.use_all_cores()
        torch.manual_seed(0)
        self.case, self.world = case, world
        self.inputs = pytorch.inputs(case.network, world.images)
        self.targets = torch.from_numpy(world.targets)
        self.model = pytorch.network(world.params)
        pytorch.load(self.model, world.params)
        self.params = list(self.model.parameters())
        self.sizes = [leaf.numel() for leaf in self.params]

    def reset(self) -> None:
        """Nothing to do: nothing is trained."""

    def start(self, given: np.ndarray) -> list[Tensor]:
        """Return a vector in flax's order, rearranged to fit the parameters here."""
        ends = np.cumsum([leaf.size for leaf in self.world.params])[:-1]
        leaves = [
            part.reshape(leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(np.split(given, ends), self.world.params, strict=True)
        ]
        like = pytorch.network(leaves)
        pytorch.load(like, leaves)
        return [leaf.detach() for leaf in like.parameters()]

    def nodes_and_weights(self, start: list[Tensor] | None = None) -> tuple[Any, Any]:
        raise NotImplementedError

    def block(self) -> int:
        self.nodes_and_weights()
        return 1

    def check(self, given: np.ndarray) -> list[np.ndarray]:
        """Return `Density` from this start vector."""
        nodes, weights = self.nodes_and_weights(self.start(given))
        return list(density(np.asarray(nodes), np.asarray(weights), len(given)))


class DoubleBackward(Spectra):
    """Lanczos' method with products by backward through the gradient; its graph is kept.

    Two passes of classical Gram-Schmidt as matrix products, against the rows made so far.
    """

    def nodes_and_weights(self, start: list[Tensor] | None = None) -> tuple[Any, Any]:
        order = self.case.order
        loss = functional.mse_loss(self.model(self.inputs), self.targets)
        gradient = torch.autograd.grad(loss, self.params, create_graph=True)
        if start is None:
            start = [torch.randn_like(leaf) for leaf in self.params]
        vector = _flat(start)
        basis = vector.new_empty(order, len(vector))
        diagonal, coupling = vector.new_empty(order), vector.new_empty(order)
        basis[0] = vector / torch.linalg.vector_norm(vector)
        for k in range(order):
            parts = [
                part.view_as(leaf)
                for part, leaf in zip(basis[k].split(self.sizes), self.params, strict=True)
            ]
            found = torch.autograd.grad(gradient, self.params, parts, retain_graph=True)
            rest, filled = _flat(found), basis[: k + 1]
            diagonal[k] = rest @ basis[k]
            for _ in range(2):
                rest.addmv_(filled.T, filled @ rest, alpha=-1)
            coupling[k] = torch.linalg.vector_norm(rest)
            if k + 1 < order:
                torch.div(rest, coupling[k], out=basis[k + 1])
        beside = coupling[:-1]
        nodes, vectors = torch.linalg.eigh(
            torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)
        )
        return nodes, vectors[0] ** 2


class PyHessian(Spectra):
    """`pyhessian.hessian(...).density`, as its users call it."""

    def __init__(self, case: Case, world: World) -> None:
        super().__init__(case, world)
        import pyhessian

        self.hessian = pyhessian.hessian

    def nodes_and_weights(self, start: list[Tensor] | None = None) -> tuple[Any, Any]:
        # PyHessian calls torch.eig, which PyTorch 1.13 removed; its matrix is symmetric.
        patches = [mock.patch.object(torch, "eig", _eig, create=True)]
        if start is not None:  # PyHessian draws its own, zeros and ones that it turns into signs
            bits = iter([(leaf + 1) / 2 for leaf in start])
            drawn = mock.patch.object(torch, "randint_like", lambda *_, **__: next(bits))
            patches.append(drawn)
        self.model.zero_grad()  # PyHessian adds its gradients to what is there
        with warnings.catch_warnings(), _all(patches):
            # backward(create_graph=True) leaks the graph, until the next `zero_grad` here
            warnings.simplefilter("ignore", UserWarning)
            found = self.hessian(
                self.model, functional.mse_loss, data=(self.inputs, self.targets), cuda=False
            )
            nodes, weights = found.density(iter=self.case.order, n_v=1)
        return nodes[0], weights[0]


def _all(patches: list[Any]) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for patch in patches:
        stack.enter_context(patch)
    return stack


def _eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


def _flat(leaves: Any) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in leaves])
