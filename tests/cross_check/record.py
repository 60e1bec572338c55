"""Records what agents in plain numpy give, for the page that compares them with ours.

    python tests/cross_check/record.py

takes some minutes per seed on one core, and writes a table and its provenance beside the chapters.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import plain

from plasticity.runs import origin
from plasticity.worlds import image_sets

SEEDS, STEPS, WIDTH, IMAGES, TARGETS, EXAMPLES = 5, (0, 10_000, 20_000, 50_000), 64, 1_000, 2, 128
"""Those of the recorded agents: see the study ``laptop`` of *measuring plasticity*."""


def images() -> tuple[np.ndarray, np.ndarray]:
    """Return the digits that the recorded agents saw, in float64, and their labels."""
    found = image_sets.load("mnist_5k", IMAGES)
    pixels = found.pixels.reshape(IMAGES, -1).astype(float)
    return (pixels - pixels.mean()) / pixels.std(), found.labels.astype(int)


def measured(
    images: np.ndarray, labels: np.ndarray, seed: int, steps: tuple[int, ...], period: int = 1_000
) -> Iterator[tuple[int, str, float]]:
    """Train an agent; yield step, name and value of what is compared."""
    rng = np.random.default_rng([seed, 2023])
    agent = plain.Agent(images, labels, rng, width=WIDTH, period=period)
    goals = [plain.targets(images, WIDTH, rng) for _ in range(TARGETS)]
    some = images[rng.choice(len(images), EXAMPLES, replace=False)]
    for step in steps:
        agent.learn(step - agent.steps)
        losses = [plain.probe(agent.params, images, goal, rng) for goal in goals]
        yield step, "probe_loss", float(np.mean(losses))
        yield step, "accuracy", agent.accuracy()
        yield step, "dead_units", plain.dead_units(agent.params, images)
        yield step, "sharpness", plain.sharpness(agent.params, some, rng)


def main() -> None:
    """Write ``cross_check.csv`` and ``cross_check.json`` into the chapters' folder."""
    began, rows, found = time.process_time(), [], origin.environment()
    for seed in range(SEEDS):
        rows += [(seed, *found) for found in measured(*images(), seed, STEPS)]
        print(f"seed {seed}: {time.process_time() - began:.0f} s so far", flush=True)
    folder = Path(str(files("plasticity.chapters")))
    table = pd.DataFrame(rows, columns=["seed", "step", "metric", "value"])
    table.to_csv(folder / "cross_check.csv", index=False)
    kept = ("commit", "uncommitted_source", "python", "device")
    provenance = {name: found[name] for name in kept} | {
        "numpy": np.__version__,
        "core_seconds": round(time.process_time() - began),
        "finished": origin.now(),
    }
    (folder / "cross_check.json").write_text(json.dumps(provenance, indent=1) + "\n")


if __name__ == "__main__":
    main()
