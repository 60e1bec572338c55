"""Errors whose message says what to do: the command line shows them without a traceback."""

from __future__ import annotations


class Told(Exception):
    """An error whose message explains it. ``status`` is what the command line exits with."""

    status = 1

    __str__ = Exception.__str__  # of those that are a KeyError too, which quotes its own words
