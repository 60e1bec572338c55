"""What the command line takes as a number or a setting: all else is refused before anything runs.

Each function is a ``type`` for `argparse`, which puts the argument's name before what it raises.
"""

from __future__ import annotations

from argparse import ArgumentTypeError

SEEDS = 2**32
"""Seeds are below this: JAX keeps 32 bits of one, and two that differ elsewhere are the same."""


def count(text: str) -> int:
    """Return a whole number above 0."""
    return _whole(text, 1)


def workers(text: str) -> int:
    """Return a number of processes; 0 is this process alone."""
    return _whole(text, 0)


def seed(text: str) -> int:
    """Return a seed, which is not negative and has at most 32 bits."""
    found = _whole(text, 0)
    if found >= SEEDS:
        raise ArgumentTypeError(f"{text}: must be below {SEEDS}, for JAX keeps 32 bits")
    return found


def amount(text: str) -> float:
    """Return a finite number above 0, such as of minutes."""
    try:
        found = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: expected a number") from None
    if not 0 < found < float("inf"):  # nor is "nan", which compares with nothing
        raise ArgumentTypeError(f"{text}: must be above 0 and finite")
    return found


def setting(text: str) -> str:
    """Return a text ``field=value``; what the field may hold is for the experiment to say."""
    if "=" not in text:
        raise ArgumentTypeError(f"{text!r}: write it as field=value")
    return text


def _whole(text: str, least: int) -> int:
    try:
        found = int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: expected a whole number") from None
    if found < least:
        raise ArgumentTypeError(f"{text}: must be {least} or more")
    return found
