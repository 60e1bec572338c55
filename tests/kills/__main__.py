"""Take a hundred kills at random moments of real runs, and record what came of them.

    python -m tests.kills [--kills N] [--seed SEED] [--output FOLDER]

Writes outcome.csv, a kill per row, and outcome.json: seed, machine, versions, times, counts. It is
``make kills``, takes about half an hour of two cores, and ends with status 1 if any run that was
resumed is not what an undisturbed one is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import hundred

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="how many")
    parser.add_argument("--seed", type=int, help="of the random moments; by default a new one")
    parser.add_argument("--output", type=Path, default=hundred.HERE, help="folder to write to")
    options = parser.parse_args()
    sys.exit(hundred.take(options.kills, options.seed, options.output))
