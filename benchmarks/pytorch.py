"""What all benchmarks' contenders in PyTorch share: threads, networks, Adam."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


def use_all_cores() -> None:
    """Let PyTorch use every core that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    torch.set_num_threads(len(affinity(0)) if affinity else os.cpu_count() or 1)


@contextmanager
def double_precision() -> Iterator[None]:
    """Make float64 PyTorch's default, also for Adam's step count."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def network(params: Sequence[np.ndarray]) -> nn.Sequential:
    """Return a ReLU network for these (bias, kernel, bias, kernel, ...), not yet loaded.

    A kernel with four axes is a convolution of stride two.
    """
    layers: list[nn.Module] = []
    for kernel in params[1::2]:
        if kernel.ndim == 4:
            width, _, channels, features = kernel.shape
            # On an even size this is flax's SAME, mirrored: see `load`.
            layers += [nn.Conv2d(channels, features, width, stride=2, padding=width // 2)]
        else:
            if layers and isinstance(layers[-2], nn.Conv2d):
                layers += [nn.Flatten()]
            layers += [nn.Linear(*kernel.shape)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def load(model: nn.Sequential, params: Sequence[np.ndarray]) -> None:
    """Copy flax's parameters into ``model``, in place, so that nothing is recompiled.

    For an even size and a stride of two, flax's SAME pads one pixel more at the end than at the
    start; PyTorch's symmetric padding has the opposite effect. So images (`mirrored`) and kernels
    are mirrored, and no contender pays for padding by hand.
    """
    leaves = [torch.from_numpy(leaf) for leaf in params]
    with torch.no_grad():
        for layer, bias, kernel in zip(weighted(model), leaves[::2], leaves[1::2], strict=True):
            layer.bias.copy_(bias)
            layer.weight.copy_(_to_torch(kernel, _maps_before(model, layer)))


def read(model: nn.Sequential) -> list[np.ndarray]:
    """Return the parameters of ``model`` in flax's order and shapes: the inverse of `load`."""
    found = []
    for layer in weighted(model):
        kernel = _from_torch(layer.weight.detach(), _maps_before(model, layer))
        found += [layer.bias.detach().numpy().copy(), kernel.contiguous().numpy().copy()]
    return found


def inputs(network: str, images: np.ndarray) -> Tensor:
    """Return images (n, h, w, c) as a network takes them: an MLP's are flat."""
    return torch.from_numpy(images).flatten(1) if network == "mlp" else mirrored(images)


def mirrored(images: np.ndarray) -> Tensor:
    """Return images (n, h, w, c) in PyTorch's form, (n, c, h, w), mirrored both ways."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2)[:, :, ::-1, ::-1].copy())


def weighted(model: nn.Sequential) -> list[nn.Conv2d | nn.Linear]:
    """Return the layers that have parameters."""
    return [layer for layer in model if isinstance(layer, nn.Conv2d | nn.Linear)]


def adam(model: nn.Sequential, settings: np.ndarray, fused: bool | None) -> torch.optim.Adam:
    """Return Adam with the settings (learning rate, b1, b2, eps)."""
    rate, b1, b2, eps = settings.tolist()
    return torch.optim.Adam(model.parameters(), lr=rate, betas=(b1, b2), eps=eps, fused=fused)


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Bring the optimizer back to its state before the first step, in place."""
    for state in optimizer.state.values():
        for moment in state.values():
            moment.zero_()


def _maps_before(model: nn.Sequential, layer: nn.Module) -> int:
    """Return how many feature maps were flattened right before ``layer``, or 0 if none were."""
    layers = list(model)
    place = layers.index(layer)
    if place == 0 or not isinstance(layers[place - 1], nn.Flatten):
        return 0
    return next(c.out_channels for c in reversed(layers[:place]) if isinstance(c, nn.Conv2d))


def _to_torch(kernel: Tensor, maps: int) -> Tensor:
    if kernel.ndim == 4:
        return kernel.permute(3, 2, 0, 1).flip(2, 3)
    if maps:  # rows are (height, width, channels) in flax, mirrored (channels, height, width) here
        positions = kernel.reshape(-1, maps, kernel.shape[1]).flip(0)
        kernel = positions.transpose(0, 1).reshape(kernel.shape)
    return kernel.T


def _from_torch(weight: Tensor, maps: int) -> Tensor:
    if weight.ndim == 4:
        return weight.flip(2, 3).permute(2, 3, 1, 0)
    kernel = weight.T
    if maps:
        positions = kernel.reshape(maps, -1, kernel.shape[1]).transpose(0, 1)
        kernel = positions.flip(0).reshape(kernel.shape)
    return kernel
