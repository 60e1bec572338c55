"""What a process computes with: Python, packages, commit, device, settings of JAX."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plasticity import jax_settings

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pandas")

CHECKOUT = Path(__file__).resolve().parents[3]
"""Where the source lies, if this is a checkout."""


def environment() -> dict[str, Any]:
    """Return what this process computes with: Python, packages, commit, device, settings of JAX.

    What cannot be found out is None.
    """
    import jax

    device = _device()
    on_cpu = device.platform == "cpu"
    precision = getattr(jax.config, jax_settings.PRECISION)
    return {
        **_commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": {
            "platform": device.platform,
            "kind": _processor() if on_cpu else device.device_kind,
            # Two of one name may compute other last bits, from which chaos makes other numbers.
            **({"processor": _kind_of_processor()} if on_cpu else {}),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            **({"matmul_precision": precision} if precision else {}),  # of an accelerator
        },
        "jax_settings": jax_settings.differing(),
    }


def identity(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all parts of a run must share of what `environment` returned."""
    return {**environment["packages"], **environment["device"], **environment["jax_settings"]}


def _device() -> Any:
    """Return where arrays are made unless told otherwise."""
    import jax

    chosen: Any = jax.config.values["jax_default_device"]
    return chosen if hasattr(chosen, "platform") else jax.devices(chosen)[0]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Unknown(Exception):
    """What git did not tell, and why."""


def _commit() -> dict[str, Any]:
    """Return the commit, and whether the source is another; None with ``why_unknown`` if git fails.

    What cannot be told is never told as if all was committed.
    """
    found: dict[str, Any] = {"commit": None, "uncommitted_source": None}
    try:
        found["commit"] = _git("rev-parse", "HEAD")
        status = _git("status", "--porcelain", "--untracked-files=normal", "--", "src")
        found["uncommitted_source"] = bool(status)
    except _Unknown as reason:
        found["why_unknown"] = str(reason)
    return found


def _git(*arguments: str) -> str:
    """Return what git says about the checkout that contains this file, or raise `_Unknown`."""
    if not (CHECKOUT / ".git").exists():  # some other project's checkout may lie above
        raise _Unknown("there is no .git: the package was installed or copied")
    elsewhere = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}  # in a hook, another checkout's
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    try:
        answer = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments],
            capture_output=True, text=True, check=True, env=kept | {"LC_ALL": "C"},
        )  # fmt: skip
    except OSError as error:
        raise _Unknown(f"git: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().partition("\n")[0] or f"exit status {error.returncode}"
        raise _Unknown(f"git: {said.replace(str(CHECKOUT), 'the checkout')}") from None
    return answer.stdout.strip()


def told(found: Mapping[str, Any], mark: str = "`") -> str:
    """Return in words which commit ``found``, such as an `environment`, has, and how sure that is.

    Without a commit nothing is known of changes either, whatever runs from before that was noted
    say.
    """
    why = f" ({found['why_unknown']})" if "why_unknown" in found else ""
    changed = " with uncommitted changes" if found["uncommitted_source"] else ""
    if not found["commit"]:
        return f"commit unknown{changed}{why}"
    if found["uncommitted_source"] is None:
        changed = f", perhaps with uncommitted changes{why}"
    return f"commit {mark}{found['commit'][:10]}{mark}{changed}"


def _processor() -> str:
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


INSTRUCTIONS = ("sse4_2", "avx", "avx2", "fma", "avx512", "amx", "asimd", "sve")
"""Beginnings of the names of instruction sets by which XLA compiles different code."""


MODEL = (
    "cpu family", "model", "stepping",
    "CPU implementer", "CPU variant", "CPU part", "CPU revision",  # what ARM has instead of a name
)  # fmt: skip


def _kind_of_processor() -> str:
    """Return family, model and stepping, and the instruction sets that matter to what it computes.

    Empty where the system does not tell.
    """
    found = _cpuinfo()
    words = found.get("flags", found.get("Features", "")).split()
    sets = sorted(word for word in words if word.startswith(INSTRUCTIONS))
    numbers = [f"{name} {found[name]}" for name in MODEL if name in found]
    return "; ".join(filter(None, [", ".join(numbers), " ".join(sets)]))


def _cpuinfo() -> dict[str, str]:
    """Return what Linux says of its first processor; nothing elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
