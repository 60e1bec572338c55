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


def environment() -> dict[str, Any]:
    """Return what this process computes with: Python, packages, commit, device."""
    import jax

    device = jax.devices()[0]
    kind = _processor() if device.platform == "cpu" else device.device_kind
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_source": bool(_git("status", "--porcelain", "--", "src")),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": {
            "platform": device.platform,
            "kind": kind,
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
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
