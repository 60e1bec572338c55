"""In every test shapes are checked and rank promotion is refused."""

from __future__ import annotations

import gc
import mmap
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src"
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # an int is a float
COMPUTING = (
    "cure.py", "learner.py", "worlds/*.py", "networks/*.py",
    "measure/*.py", "cures/*.py", "agents/*.py",
    "chapters/*/run.py", "chapters/probing/probed_agent.py",
)  # fmt: skip
UNSHAPED = {
    "image_files", "gymnasium_api", "atari",  # files, and other people's objects
    # settings that refuse what cannot run in their own words, which tests read
    "atari_agent", "mdp_agent", "settings",
}  # fmt: skip


def shaped() -> list[str]:
    """Return the modules that compute: shapes are checked in these, here and nowhere else."""
    files = {path for pattern in COMPUTING for path in (SOURCE / "plasticity").glob(pattern)}
    chosen = sorted(path for path in files if path.stem not in {"__init__", *UNSHAPED})
    return [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in chosen]


install_import_hook(shaped(), CHECKER)
jax.config.update("jax_numpy_rank_promotion", "raise")


# Examples of each test in tests/fuzz: 100 in CI; HYPOTHESIS_PROFILE=nightly makes 1,000 of them.
settings.register_profile("ci", deadline=None, print_blob=True)
settings.register_profile("nightly", deadline=None, print_blob=True, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

SEED = "--hypothesis-seed"


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads its options
def pytest_configure(config: pytest.Config) -> None:
    """Choose a seed for hypothesis, to be printed, unless one was given.

    And let pytest-xdist keep to the order of files, not take those with the most tests first.
    """
    config.option.loadscopereorder = False
    if config.getoption(SEED) is None:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to draw the same examples again."""
    return f"hypothesis: {SEED}={config.getoption(SEED)}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files of many slow tests: at the end one process would wait for the other."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """Look for garbage seldom, and not among what stays: a tenth of all time went into that."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture(scope="module", autouse=True)
def memory() -> Iterator[None]:
    """Free what a file's tests compiled: all of them together would take gigabytes.

    To keep it for other files would spare no time: of a hundred programs they need three.
    """
    yield
    forget()


@pytest.fixture(autouse=True)
def too_much() -> Iterator[None]:
    """Free it between two tests of a file, too, once it is a lot.

    A process gives little back of what it frees. So what counts is by how much it has grown since:
    else one that is large once would forget after every test, and compile all anew.
    """
    yield
    if resident() > max(1.8e9, held[-1] + 5e8):
        forget()
        held.append(resident())


held = [0.0]
"""The bytes that the process held each time after it had freed what it could."""


def resident() -> float:
    """Return the bytes of memory that the process holds; 0 where nothing tells."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * mmap.PAGESIZE if pages.exists() else 0.0


def forget() -> None:
    """Drop all compiled programs; those still needed are compiled anew."""
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def double() -> Iterator[None]:
    """Let jax keep float64, in which rounding hides nothing."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet has two stages of one block each, one of either kind: the others compile for long.

    That there are four stages of two is for `tests/networks/test_architectures.py`.
    """

    def fewer(count: int) -> range:
        return range({4: 2, 2: 1}[count])

    monkeypatch.setattr("plasticity.networks.resnet.range", fewer, raising=False)


@pytest.fixture
def repository() -> Path:
    """The checkout that the tests lie in."""
    return REPOSITORY


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for recorded runs, which the package is told to use."""
    monkeypatch.setenv("PLASTICITY_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"
