"""One Gram matrix in a separate process, which then says how much memory it took.

    python benchmarks/curvature_memory.py CASE CONTENDER WORLD OUTPUT

CASE is a JSON list. The cosines go to OUTPUT. Standard output gets the number of bytes by which the
process grew at most during the computation, after compiling. Linux only.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import curvature_jax
import numpy as np
from comparisons import ENTRIES
from curvature_task import Case, World
from task import read_world

from plasticity.measure import gradients


def resident() -> int:
    """Return how many bytes of memory this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(case: str, contender: str, world: str, output: str) -> None:
    """Compute the matrix, write the cosines, print the rise."""
    one = Case(*json.loads(case))
    task = ENTRIES[contender].task(one, read_world(world, World))
    assert isinstance(task, curvature_jax.Grams)
    task.prepare()
    before = resident()
    gram = task.run()
    # The peak since the start: if compiling took more than computing, the rise is overstated.
    rise = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    np.save(output, np.asarray(gradients.covariance(gram).cosines))
    print(json.dumps({"rise": rise}))


if __name__ == "__main__":
    main(*sys.argv[1:])
