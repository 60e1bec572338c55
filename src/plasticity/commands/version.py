"""``plasticity --version``: this package's version, and those of what computes."""

from __future__ import annotations

import argparse
import sys


def told() -> str:
    """Return the versions in a line; nothing that computes is imported."""
    import platform
    from importlib import metadata  # here: only this needs it

    def of(package: str) -> str:
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            return f"no {package}"

    python = f"Python {platform.python_version()}"
    own = sys.modules["plasticity"].__version__  # it is above all rooms, and none imports it
    return f"plasticity {own} ({python}, {of('jax')}, {of('jaxlib')})"


class Show(argparse.Action):
    """Prints the versions, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Do so where the option stands."""
        print(told())
        parser.exit()
