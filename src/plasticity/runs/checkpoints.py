"""The work folder of an unfinished run: what makes it resume to the same bits.

``papermill_runs/<experiment>/<label>/unfinished/`` has a header (configuration, code, environment,
world, execution) and a folder for each unit: one arm on one seed, or several in step, named after
the first arm and the number of others. Its lock is held by one driver and its workers alone, or
shared by jobs that each run a single unit::

    header.json  lock
    <arm>/<seed>/records_000007.npz   what the chunks since the last checkpoint measured
    <arm>/<seed>/state_000007/        the state after seven chunks (orbax)
    <arm>/<seed>/lock                 held by the process that runs the unit
    <arm>/<seed>/failed.txt           why it failed, until it is begun again

The records are written before the state, and each appears whole or not at all: after a kill at any
moment, all records up to the last state found are there. The records carry the hash of the state
that belongs to them, so that a damaged checkpoint is detected and never trained on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from plasticity import jax_settings
from plasticity.errors import Told
from plasticity.runs import files

S = TypeVar("S")

KEPT = 2
"""States kept per unit: if the newest is damaged, deleting it leaves one to resume from."""


class CheckpointError(Told, RuntimeError):
    """A work folder that cannot be resumed; the message says what to delete or to restore."""


@contextmanager
def locked(work: Path, *, shared: bool = False, wait: bool = False) -> Iterator[int]:
    """Hold the lock of a work folder or of a unit's folder; yield its descriptor.

    Workers must inherit the work folder's descriptor. ``shared`` admits others that also share, and
    keeps out any that want the lock alone. ``wait`` waits for the lock as long as it takes.

    The kernel frees the lock when the last process that holds the descriptor is gone, killed or
    not: a worker that outlives its driver keeps a second driver out. Raises `CheckpointError` if
    another run holds the lock or there are none, `results.ResultsError` if the folder cannot be
    written.
    """
    path = work / "lock"
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 - closed below; NFS shares only what can be read
    except OSError as error:
        raise files.cannot_write(path, error) from error
    with file:
        if wait:
            _flock(path, file, how)
        # Workers of a driver that was killed a moment ago need that moment to notice.
        for attempts_left in reversed(range(30)):
            try:
                _flock(path, file, how | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not attempts_left:
                    raise CheckpointError(
                        f"{work} is in use by another process: wait for it, or stop it first"
                    ) from None
                time.sleep(0.1)
        yield file.fileno()


def _flock(path: Path, file: IO[str], how: int) -> None:
    """Lock a file. Raises BlockingIOError if another has it, `CheckpointError` if nobody can."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        raise
    except OSError as error:  # some network file systems have no locks
        raise CheckpointError(
            f"{path} cannot be locked ({error.strerror}), and without a lock two runs could write "
            "there at once: set PLASTICITY_RUNS to a folder of a file system that has locks"
        ) from error


def in_use(work: Path) -> bool | None:
    """Return whether a driver is at work in the folder, or a job on one of its units.

    None if that cannot be told: a lock cannot be read, or the file system has none.
    """
    found = [is_locked(work), *(is_locked(lock.parent) for lock in work.glob("*/*/lock"))]
    return True if True in found else None if None in found else False


def is_locked(work: Path) -> bool | None:
    """Return whether a folder is locked: by a driver, or a unit's by the process that runs it.

    None if that cannot be told.
    """
    try:
        with open(work / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):  # nobody has begun
        return False
    except OSError:
        return None
    return False


def open_header(work: Path, header: Mapping[str, Any]) -> None:
    """Write the header of a new run, or check that the unfinished one may be resumed.

    Raises `CheckpointError` if the folder holds a run of another configuration, code, environment
    (settings of JAX included) or world: resuming it would mix two runs in one table.
    """
    path = work / "header.json"
    with locked(work / "opening"):  # jobs on other nodes may open it at this moment
        if not path.exists():
            files.write_atomically(path, json.dumps(header, indent=1).encode())
            return
    if change := difference(read_header(work), header):
        raise CheckpointError(
            f"{work} holds an unfinished run with another {change}: undo the change "
            "to resume it, or start over with --fresh, which discards it"
        )


def difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the first part of a header that is another, and how; nothing if a run may go on.

    Headers from before the world was noted have neither that nor variables: none are compared.
    """
    if "world" not in was:
        now = {part: _as_before(found) for part, found in now.items() if part != "world"}
    for part in now:
        old, new = was.get(part), now[part]
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return f"{part} ({jax_settings.changes(old, new)})"
        return f"{part} ({old} → {new})"
    return ""


def _as_before(part: Any) -> Any:
    since = {*jax_settings.VARIABLES, *jax_settings.THREADS, "usable_cores"}
    if not isinstance(part, dict):
        return part
    return {name: value for name, value in part.items() if name not in since}


def read_header(work: Path) -> dict[str, Any]:
    """Return the header of an unfinished run. Raises `CheckpointError` if it is damaged."""
    try:
        header: dict[str, Any] = json.loads((work / "header.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{work / 'header.json'} is damaged ({error}): start over with --fresh"
        ) from None
    return header


class Spent(NamedTuple):
    """The time that something took, in seconds of one core or device."""

    seconds: float  # in all
    compiling: float  # of which went into compiling

    def share(self, count: int) -> Spent:
        """Return what one of ``count`` arms took that went in step."""
        return Spent(self.seconds / count, self.compiling / count)


def total(parts: Iterable[Spent]) -> Spent:
    """Return the time that several things took together."""
    found = list(parts)
    return Spent(sum(part.seconds for part in found), sum(part.compiling for part in found))


class UnitFolder:
    """The checkpoints of one unit."""

    def __init__(
        self, work: Path, arm: str, seeds: tuple[int, ...], others: tuple[str, ...] = ()
    ) -> None:
        """Name the folder; nothing is created before the unit is `begun` or fails."""
        arms = f"{arm}+{len(others)}" if others else arm
        self.path = work / arms / "-".join(map(str, seeds))

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Mark the unit as running until this ends, in whatever way; forget why it last failed.

        Raises `CheckpointError` if another process runs it.
        """
        with locked(self.path):
            self._failed.unlink(missing_ok=True)
            done = self.chunks_done()
            for path in self.path.glob("records_*.npz"):
                if _number(path) > done:  # a kill between records and state: they come again,
                    path.unlink()  # perhaps with those of other chunks in one file
            yield

    def is_running(self) -> bool | None:
        """Return whether a process is at work on this unit; None if that cannot be told."""
        return is_locked(self.path)

    def fail(self, reason: str) -> None:
        """Record why the unit failed."""
        files.write_atomically(self._failed, f"{reason}\n".encode())

    def failure(self) -> str | None:
        """Return why the unit failed when it was last begun; None if it did not."""
        try:
            return self._failed.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def chunks_done(self) -> int:
        """Return how many chunks the newest state has completed; 0 without a state."""
        return max(self._states(), default=0)

    def spent(self) -> Spent:
        """Return the time behind the records found so far."""
        parts = (
            self._read(path, "_seconds", "_compiling") for path in self._records() if path.exists()
        )
        return total(Spent(float(p["_seconds"]), float(p["_compiling"])) for p in parts)

    def save(
        self, chunk: int, state: object, records: Sequence[Mapping[str, Any]], spent: Spent
    ) -> None:
        """Store the records since the last checkpoint, then the state after ``chunk`` chunks.

        ``spent`` is the time since the last checkpoint.
        """
        stacked = {name: np.stack([r[name] for r in records]) for name in records[0]}
        stacked |= {"_state": np.array(digest(state))}
        stacked |= {f"_{name}": np.array(value) for name, value in spent._asdict().items()}
        files.write_atomically(self.path / f"records_{chunk:06d}.npz", files.npz_bytes(stacked))
        target = self._state_path(chunk)
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(target.absolute(), state, force=True)
        except OSError as error:
            raise files.cannot_write(target, error) from error
        except ValueError as error:  # how tensorstore reports a full disk
            raise files.cannot_write(target, OSError(0, str(error).splitlines()[0])) from error
        for old in sorted(self._states())[:-KEPT]:
            shutil.rmtree(self._state_path(old))

    def restore(self, like: S) -> S:
        """Return the state of the newest checkpoint; ``like`` gives its structure.

        Raises `CheckpointError` if the checkpoint, or a record before it, is damaged.
        """
        for leftover in self.path.glob("state_*tmp*"):  # a kill in the middle of a save
            shutil.rmtree(leftover)
        chunk = self.chunks_done()
        path = self._state_path(chunk)
        remedy = (
            f"delete {path}, and the run goes on from the checkpoint before it; all else is kept"
        )
        expected = self._read(self.path / f"records_{chunk:06d}.npz")["_state"]
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                state: S = checkpointer.restore(path.absolute(), like)
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise CheckpointError(
                f"{path} is damaged ({str(error).splitlines()[0][:200]}): {remedy}"
            ) from error
        if digest(state) != str(expected):
            raise CheckpointError(f"{path} is damaged (its SHA-256 is not its record's): {remedy}")
        return state

    def records(self) -> dict[str, np.ndarray]:
        """Return everything measured so far, name → array with one row per chunk."""
        parts = [self._read(path) for path in self._records()]
        names = [name for name in parts[0] if not name.startswith("_")]
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _records(self) -> list[Path]:
        """Return the record files up to the newest state."""
        done = self.chunks_done()
        paths = sorted(self.path.glob("records_*.npz"))
        return [path for path in paths if _number(path) <= done]

    @property
    def _failed(self) -> Path:
        return self.path / "failed.txt"

    def _read(self, path: Path, *names: str) -> dict[str, np.ndarray]:
        """Return the arrays with these names, or all."""
        try:
            # numpy would leak a file that it opened itself and could not read
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in names or stored.files}
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
            raise CheckpointError(
                f"{path} is damaged or missing ({error}): delete {self.path}, and only this unit "
                "starts over; all others are kept"
            ) from error

    def _state_path(self, chunk: int) -> Path:
        return self.path / f"state_{chunk:06d}"

    def _states(self) -> list[int]:
        """Return the chunks with a complete state."""
        return list(states(self.path))


def states(unit: Path) -> dict[int, Path]:
    """Return the complete states in a unit's folder by the number of chunks behind them.

    Orbax renames a state into place when it is whole.
    """
    found = [path for path in unit.glob("state_*") if re.fullmatch(r"state_\d+", path.name)]
    return {_number(path): path for path in found}


def _number(path: Path) -> int:
    return int(path.stem.partition("_")[2])


def digest(tree: object) -> str:
    """Return the SHA-256 (hex) of the bytes of a pytree's arrays, random keys included."""
    hasher = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        hasher.update(np.ascontiguousarray(leaf).tobytes())
    return hasher.hexdigest()
