"""What a process computes with: Python, packages, commit, device."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pandas")


PRECISION = "jax_default_matmul_precision"
"""The option of JAX, of which not all versions declare the attribute."""


def environment() -> dict[str, Any]:
    """Return what this process computes with: Python, packages, commit, device."""
    import jax

    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    precision = getattr(jax.config, PRECISION)
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_source": bool(_git("status", "--porcelain", "--", "src")),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": {
            "platform": device.platform,
            "kind": _processor() if on_cpu else device.device_kind,
            # Two of one name may compute other last bits, from which chaos makes other numbers.
            **({"processor": _kind_of_processor()} if on_cpu else {}),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            **({"matmul_precision": precision} if precision else {}),  # of an accelerator
        },
    }


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(*arguments: str) -> str | None:
    """Return what git says about the checkout that contains this file, or None outside one."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():  # installed: some other project's checkout may lie above
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _processor() -> str:
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


INSTRUCTIONS = ("sse4_2", "avx", "avx2", "fma", "avx512", "amx", "asimd", "sve")
"""Beginnings of the names of instruction sets by which XLA compiles different code."""


def _kind_of_processor() -> str:
    """Return family, model and stepping, and the instruction sets that matter to what it computes.

    Empty where the system does not tell.
    """
    found = _cpuinfo()
    words = found.get("flags", found.get("Features", "")).split()
    sets = sorted(word for word in words if word.startswith(INSTRUCTIONS))
    numbers = [
        f"{name} {found[name]}" for name in ("cpu family", "model", "stepping") if name in found
    ]
    return "; ".join(filter(None, [", ".join(numbers), " ".join(sets)]))


def _cpuinfo() -> dict[str, str]:
    """Return what Linux says of its first processor; nothing elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
