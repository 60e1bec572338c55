"""What `curvature_speed` takes the curvature of, who does, and in what numbers they must agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from table import Entry, Table

OUTPUTS = 10


class Case(NamedTuple):
    """A network of some size with images, for its density, its Gram matrix or its agent's λ₁."""

    network: str  # "mlp" or "cnn"
    width: int  # units of each hidden layer (in the CNN of each fully connected one)
    channels: int  # of each convolution
    batch_size: int  # examples; for an agent, transitions
    n_images: int
    order: int  # products with the Hessian; unused by a Gram matrix
    steps: int = 0  # optimizer steps between two measurements of λ₁; 0: nothing is trained
    dataset: str = "mnist_5k"  # or "noise": 20 pixels per image
    layer_norm: bool = False
    targets: int = 0  # nothing is probed

    @property
    def name(self) -> str:
        kind = f"λ₁ every {self.steps} steps" if self.steps else f"{self.batch_size} examples"
        norm = ", layer norm" if self.layer_norm else ""
        return f"{self.network} {self.width}{norm}, {self.dataset}, {kind}"

    @property
    def columns(self) -> dict[str, str | int]:
        return {"network": self.network, "dataset": self.dataset, "batch_size": self.batch_size}


class World(NamedTuple):
    """What every contender starts from, bit for bit."""

    images: np.ndarray  # (images, height, width, channels), standardised
    labels: np.ndarray  # (images,), the true ones
    params: list[np.ndarray]  # (bias, kernel) of each layer
    targets: np.ndarray  # (images, 10), normal: the loss is the mean squared distance to them


class Density(NamedTuple):
    """What a spectral density says, in units of an eigenvalue."""

    smallest: np.ndarray  # Ritz value
    largest: np.ndarray
    trace: np.ndarray  # d times the density's mean
    frobenius: np.ndarray  # root of d times its mean square


def density(nodes: np.ndarray, weights: np.ndarray, dimension: int) -> Density:
    """Return `Density` from Ritz values and their weights for one start vector.

    The two moments are exact after two steps of Lanczos' method, the two ends once they have
    converged. Single Ritz values in between mean nothing: they change with every rounding.
    """
    nodes, weights = nodes.astype(np.float64), weights.astype(np.float64)
    mean, square = weights @ nodes, weights @ nodes**2
    ends = np.array([nodes.min(), nodes.max()])
    return Density(*ends, dimension * mean, (dimension * square) ** 0.5)


TABLES = {
    "spectra": Table(
        "curvature_speed",
        ours="spectrum",
        heading="s | ours is faster by",
        rate="speed",
        seconds=True,
        entries=(
            Entry("spectrum", "ours: `curvature.spectrum`", "curvature_jax.Spectra"),
            Entry("matfree", "matfree's Lanczos on our product", "curvature_jax.Matfree"),
            # PyHessian adds 1e-6 to every norm that it divides by.
            Entry("torch_pyhessian", "PyHessian", "curvature_torch.PyHessian", tolerance=1e-4),
            Entry("torch_lanczos",
                  "PyTorch: Lanczos on double-backward products, as we would write it",
                  "curvature_torch.DoubleBackward"),
        ),
    ),
    "grams": Table(
        "curvature_speed",
        ours="gram",
        heading="s | ours is faster by",
        rate="speed",
        seconds=True,
        entries=(
            Entry("gram", "ours: layer by layer", "curvature_jax.Grams"),
            Entry("gram_vmap", "gradients by example from vmap, and their products",
                  "curvature_jax.NaiveGrams"),
        ),
    ),
    "logging": Table(
        "curvature_speed",
        ours="logged_pinned",
        heading="steps/s in all | with λ₁ every 1,000 steps we reach",
        form="{:.1%}",
        entries=(
            Entry("logged_pinned", "whole agents whose λ₁ is logged, one pinned to each core",
                  "curvature_jax.Logged", pinned=True),
            Entry("unlogged_pinned", "the same agents, nothing logged",
                  "curvature_jax.Logged", {"logged": False}, pinned=True),
        ),
    ),
}  # fmt: skip
"""What is compared: each contender with its description and the code that does its work."""
