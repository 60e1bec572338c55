"""A sitting: some minutes of a machine that is lent, worked off from a written queue.

The machine may be bare, and may be taken away at the end of the time. So a sitting runs the runs of
a queue one after another, each as a process that is stopped at the end of the time whatever it
does, and leaves in a folder, as files of limited size, all that it recorded and what it needs to go
on. `merge` puts that back where it belongs::

    machine $ papermill_runs/sitting.sh 10 OUT         # plasticity sitting, without installing it
    home    $ plasticity merge OUT

What is too large to travel stays behind: a unit whose state is left there begins again.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from plasticity import configuration, jax_settings
from plasticity.errors import Told
from plasticity.runs import checkpoints, driver, files, results
from plasticity.runs.budget import OutOfTime

FILE_BYTES = 15 * 2**20
"""The largest file that a sitting leaves."""

ALL_BYTES = 4 * FILE_BYTES
"""The most that it leaves in all."""

PACKING = 20.0
"""Seconds of a sitting that are kept for leaving its files."""


class NotRun(Told, RuntimeError):
    """The machine is not to be trusted; why has been printed."""


class NotMerged(Told, RuntimeError):
    """Files of a sitting that cannot be merged; the message says why."""


class Left(NamedTuple):
    """What a sitting left."""

    parts: list[Path]  # its files
    behind: list[Path]  # folders of units that were too large


def read_queue(path: Path) -> list[list[str]]:
    """Return the runs of a queue: on each line what would follow ``plasticity run``.

    Empty lines are skipped, and so is what follows a #. Raises `configuration.ConfigError` for a
    file that cannot be read, and for a line that is no command line.
    """
    found = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise configuration.ConfigError(f"cannot read the queue {path}: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise configuration.ConfigError(f"{path}, line {number}: {error}") from None
        if words:
            found.append(words)
    return found


def work_off(
    queue: Iterable[Sequence[str]], minutes: float, out: Path, tell: Callable[[str], object] = print
) -> Left:
    """Run what is queued until the time is up, then leave results and checkpoints in ``out``.

    First the machine is asked whether it computes what a CPU does (``plasticity check``). A run
    that is recorded already returns at once; one that fails is told of, and the next begins. What a
    sitting recorded that was killed before it had left its files is left by the next one in
    ``out``.
    Raises `configuration.ConfigError` unless there is time for more than packing, `NotRun` if that
    check fails, `results.ResultsError` if ``out`` cannot be written.
    """
    end = time.monotonic() + 60 * minutes - PACKING
    configuration.require(
        60 * minutes > PACKING, f"minutes = {minutes}: packing takes up to {PACKING:g} seconds"
    )
    try:
        out.mkdir(parents=True, exist_ok=True)  # not only at the end, when the time is spent
    except OSError as error:
        raise files.cannot_write(out, error) from error
    mark = out / ".begun"
    began = _since(mark)
    with suppress(subprocess.TimeoutExpired):
        if _plasticity("check", timeout=end - time.monotonic()).returncode:
            raise NotRun("`plasticity check` failed, as printed above: nothing was run")
    for words in queue:
        if (left := end - time.monotonic()) <= 0:
            break
        tell(f"$ plasticity run {shlex.join(words)}")
        try:
            limit = ("--minutes", f"{left / 60:.3f}")
            done = _plasticity("run", *words, *limit, timeout=left + 1)
        except subprocess.TimeoutExpired:  # in the middle of a chunk, or still compiling
            tell("stopped in the middle of a chunk: it goes on from its last checkpoint")
            break
        if done.returncode == OutOfTime.status:
            break
        if done.returncode:
            tell(f"exit status {done.returncode}; on to the next")
    packed = pack(out, since=began)
    mark.unlink(missing_ok=True)
    return packed


def _since(mark: Path) -> float:
    """Return the time since which nothing was packed: now, if no sitting was killed.

    Until the end of this one the mark says when that was.
    """
    with suppress(FileNotFoundError):
        return float(mark.read_text())
    now = time.time()
    files.write_atomically(mark, repr(now).encode())
    return now


def _plasticity(*words: str, timeout: float) -> subprocess.CompletedProcess[bytes]:
    """Run a command of ours in a process of its own; its memory on the device is free after it."""
    return subprocess.run([sys.executable, "-m", "plasticity.cli", *words], timeout=timeout)


def pack(
    out: Path, since: float = 0.0, file_bytes: int = FILE_BYTES, all_bytes: int = ALL_BYTES
) -> Left:
    """Leave what was recorded after ``since``, a time, and all unfinished runs in ``out``.

    Of a unit the newest state counts, with the measurements up to it. If the whole is too large,
    the largest units stay behind. What a sitting left here that was killed meanwhile is removed.
    Raises `results.ResultsError` if ``out`` cannot be written.
    """
    files.remove_halves(out)
    for (_, expected), halves in _parts(out).items():
        if len(halves) < expected:  # `merge` would ask for the others
            for path in halves.values():
                path.unlink()
    recorded = [
        path
        for stored in results.root().glob("*/*/run.json")
        if stored.stat().st_mtime >= since
        for path in _files(stored.parent)
    ]
    works = [header.parent for header in results.root().glob("*/*/unfinished/header.json")]
    shared = [path for work in works for path in work.glob("*.json")]
    units = {unit: _newest(unit) for work in works for unit in _units(work)}
    behind: list[Path] = []
    while True:
        packed = _tar([*recorded, *shared, *(path for kept in units.values() for path in kept)])
        if len(packed) <= all_bytes or not units:
            break
        largest = max(units, key=lambda unit: sum(path.stat().st_size for path in units[unit]))
        behind.append(largest)
        del units[largest]
    count = max(1, -(-len(packed) // file_bytes))
    digest = hashlib.sha256(packed).hexdigest()[:16]
    parts = []
    for k in range(count):
        path = out / f"sitting_{digest}_{k + 1}_of_{count}"
        files.write_atomically(path, packed[k * file_bytes : (k + 1) * file_bytes])
        parts.append(path)
    return Left(parts, behind)


def _files(run: Path) -> list[Path]:
    """Return the files of a recorded run, without those of unfinished ones beside it."""
    work = {"unfinished", "reproducing"}
    return [
        path
        for path in run.rglob("*")
        if path.is_file() and not work & set(path.relative_to(run).parts)
    ]


def _newest(unit: Path) -> list[Path]:
    """Return the files of a unit's newest state, and of all measurements up to it."""
    number, state = max(checkpoints.states(unit).items())
    records = [path for path in unit.glob("records_*.npz") if int(path.stem[8:]) <= number]
    return [*records, *(path for path in state.rglob("*") if path.is_file())]


def _tar(paths: Iterable[Path]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as tar:
        for path in paths:
            tar.add(path, path.relative_to(results.root()))
    return made.getvalue()


def merge(out: Path) -> list[str]:
    """Put what sittings left in ``out`` among the runs; return what was merged, in words.

    A recorded run takes the place of the unfinished one. An unfinished unit takes the place of this
    unit here if it has come further. Raises `NotMerged` if a file is missing or damaged, if a run
    of another configuration, code or environment is under way here, or if one was recorded here
    under settings of JAX that make another program, and `checkpoints.CheckpointError` if that is in
    use; then nothing is changed.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            came: list[Path] = []
            # each by itself: of two, states and records do not go together
            for packed in _packed(out):
                came.append(Path(folder) / str(len(came)))
                _unpack(packed, came[-1])
            came.sort(key=lambda one: max((p.stat().st_mtime for p in one.rglob("*")), default=0.0))
            return _merge(came)
    except (OSError, tarfile.TarError) as error:
        raise NotMerged(f"{out}: {error}. The same command goes on, once that is mended") from error


def _packed(out: Path) -> list[bytes]:
    """Return the archives in a folder, each put together from its parts."""
    names = _parts(out)
    if not names:
        raise NotMerged(f"{out}: no files of a sitting (sitting_..._1_of_...)")
    found = []
    for (digest, count), parts in names.items():
        if missing := sorted(set(range(1, count + 1)) - set(parts)):
            raise NotMerged(f"{out}: sitting_{digest}_{missing[0]}_of_{count} is missing")
        packed = b"".join(parts[k].read_bytes() for k in range(1, count + 1))
        if hashlib.sha256(packed).hexdigest()[:16] != digest:
            raise NotMerged(f"{out}: a file of sitting_{digest} is damaged: fetch them again")
        found.append(packed)
    return found


def _parts(out: Path) -> dict[tuple[str, int], dict[int, Path]]:
    """Return the files of each sitting: its digest and how many there should be → number → file."""
    names: dict[tuple[str, int], dict[int, Path]] = {}
    for path in sorted(out.rglob("sitting_*")):
        if match := re.fullmatch(r"sitting_([0-9a-f]{16})_(\d+)_of_(\d+)", path.name):
            digest, k, count = match[1], int(match[2]), int(match[3])
            names.setdefault((digest, count), {})[k] = path
    return names


def _unpack(packed: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
        tar.extractall(folder, filter="data")


def _merge(came: Sequence[Path]) -> list[str]:
    _require_mergeable(came)
    recorded = {_of_code(one, run, "run.json") for one in came for run in _recorded(one)}
    told = [words for one in came for words in _merge_recorded(one)]
    return told + [words for one in came for words in _merge_unfinished(one, recorded)]


def _recorded(came: Path) -> list[Path]:
    return sorted(stored.parent for stored in came.glob("*/*/run.json"))


def _unfinished(came: Path) -> list[Path]:
    return sorted(header.parent for header in came.glob("*/*/unfinished/header.json"))


def _require_mergeable(came: Sequence[Path]) -> None:
    headers: dict[Path, dict[str, Any]] = {}
    for one in came:
        for run in {path.parent.relative_to(one) for path in one.glob("*/*/*")}:
            using = checkpoints.in_use(here := results.root() / run / "unfinished")
            if using is not False:
                what = "is" if using else "may be (its locks cannot be read)"
                raise checkpoints.CheckpointError(f"{here} {what} in use by another process")
        for work in _unfinished(one):
            here, now = results.root() / work.relative_to(one), checkpoints.read_header(work)
            if (here / "header.json").exists():
                headers[here] = checkpoints.read_header(here)
            if change := checkpoints.difference(headers.setdefault(here, now), now):
                raise NotMerged(
                    f"{here} holds an unfinished run with another {change} than the sitting's: "
                    "delete that folder if the sitting's is the one to go on with"
                )
        for run in _recorded(one):
            here = results.root() / run.relative_to(one) / "run.json"
            if here.exists() and (other := _others(here, run / "run.json")):
                raise NotMerged(
                    f"{here.parent} was recorded under other settings of JAX than in the sitting "
                    f"({other}): move that folder away if the sitting's is the one to have"
                )


def _merge_recorded(came: Path) -> list[str]:
    told = []
    for run in _recorded(came):
        here = results.root() / run.relative_to(came)
        # Last what says that the run is whole.
        for path in sorted(_files(run), key=lambda path: path == run / "run.json"):
            files.write_atomically(here / path.relative_to(run), path.read_bytes())
        if (here / "unfinished").is_dir():
            driver.discard(here / "unfinished")
        told.append(f"{here}: recorded")
    return told


def _of_code(came: Path, folder: Path, name: str) -> tuple[Path, str]:
    """Return which run a folder is of, and the digest of the code in a file of it."""
    found = json.loads((folder / name).read_text(encoding="utf-8"))
    run = folder.parent if folder.name == "unfinished" else folder
    return run.relative_to(came), found["code"]


def _merge_unfinished(came: Path, recorded: Container[tuple[Path, str]]) -> list[str]:
    """Merge the runs that are not ``recorded``, as by a later sitting that finished them."""
    told = []
    for work in _unfinished(came):
        if _of_code(came, work, "header.json") in recorded:
            continue
        here = results.root() / work.relative_to(came)
        for path in work.glob("*.json"):
            files.write_atomically(here / path.name, path.read_bytes())
        further = [
            unit for unit in _units(work) if _done(unit) > _done(here / unit.relative_to(work))
        ]
        for unit in further:
            place = here / unit.relative_to(work)
            coming = place.with_name(f".{place.name}")
            shutil.rmtree(coming, ignore_errors=True)  # half of another state, after a kill
            shutil.copytree(unit, coming)
            shutil.rmtree(place, ignore_errors=True)  # after a kill here it comes again
            coming.rename(place)
        told.append(f"{here}: {len(further)} units have come further")
    return told


def _others(was: Path, now: Path) -> str:
    """Return in which settings of JAX that make other programs two recorded runs differ."""
    before, after = (
        jax_settings.program(json.loads(path.read_text(encoding="utf-8")).get("jax_settings"))
        for path in (was, now)
    )
    return jax_settings.changes(before, after)


def _units(work: Path) -> list[Path]:
    """Return the folders of the units that have a state, without those that are half merged."""
    found = (unit for unit in work.glob("*/*") if not unit.name.startswith("."))
    return sorted(unit for unit in found if checkpoints.states(unit))


def _done(unit: Path) -> int:
    return max(checkpoints.states(unit), default=0)
