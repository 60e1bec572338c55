"""How fast Atari agents play and learn on an accelerator: one, and several at once.

    python benchmarks/atari_device.py [--toy] [--output FOLDER]

Agents are batched as the driver batches seeds, with buffers of the paper's size. Beside their rate
stand that of the emulators alone and, on an NVIDIA GPU, the share of the time in which it is at
work. Writes atari_device.csv (a turn a row) and atari_device.json; the book's page Speed shows
both. It runs where jax runs; the committed record is of a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import importlib.metadata
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import atari_jax
import jax
import numpy as np
import pandas as pd
from atari_task import Case
from rounds import say

from plasticity import results

HERE = Path(__file__).parent


class Sizes(NamedTuple):
    """How many agents at once, and how long to look at them."""

    agents: tuple[int, ...] = (1, 4, 16, 32)
    case: Case = Case(1, 32, updates=250, capacity=100_000, filled=1_000)
    turns: int = 3
    seconds: float = 2.0  # a turn, at least


TOY = Sizes((2,), Case(1, 4, updates=5, capacity=200, filled=80, size=36), turns=1, seconds=0.02)


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """Collect, ten times a second, the share of time in which an NVIDIA GPU ran any kernel."""
    shares: list[float] = []
    try:
        import pynvml

        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # no such GPU, or nothing to ask it with
        yield shares
        return
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            shares.append(pynvml.nvmlDeviceGetUtilizationRates(device).gpu / 100)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield shares
    finally:
        over.set()
        watcher.join()


def rate(contender: Any, seconds: float) -> float:
    """Return the frames a second of whole blocks that take at least so many seconds."""
    frames, began = 0, perf_counter()
    while perf_counter() - began < seconds:
        frames += contender.block()
    return frames / (perf_counter() - began)


def turns(sizes: Sizes, agents: int) -> list[dict[str, Any]]:
    """Compile, warm up, and measure so many agents."""
    began = perf_counter()
    world = atari_jax.make_world(sizes.case)
    learning = atari_jax.Agents(sizes.case, world, agents)
    emulators = atari_jax.Jitted(sizes.case._replace(environments=agents), world, stack=1)
    for contender in (learning, emulators):
        contender.block()
    compiling = perf_counter() - began
    rows = []
    for turn in range(sizes.turns):
        with watched() as shares:
            found = rate(learning, sizes.seconds)
        row = {
            "agents": agents, "turn": turn, "frames_per_second": found,
            # The first samples look back to before the turn.
            "busy": np.mean(shares[len(shares) // 4 :]) if shares else np.nan,
            "emulators_per_second": rate(emulators, sizes.seconds),
        }  # fmt: skip
        say(", ".join(f"{name} {value:,.6g}" for name, value in row.items()))
        rows.append(row)
    say(f"{compiling:.0f} s to compile and begin")
    return rows


def main() -> None:
    """Measure, record, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="tiny, one turn: does it work at all?")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args()
    sizes = TOY if options.toy else Sizes()
    began, load = results.now(), os.getloadavg()[0]
    environment = results.environment()  # now: a commit in the meantime is not what ran
    environment["packages"]["ale-py"] = importlib.metadata.version("ale-py")
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for agents in sizes.agents:
        try:
            rows += turns(sizes, agents)
        except jax.errors.JaxRuntimeError as error:  # the device's memory, most likely
            failed[str(agents)] = str(error).partition("\n")[0]
            say(f"{agents} agents: {failed[str(agents)]}")
        gc.collect()  # the buffers of these agents
    table = pd.DataFrame(rows)
    content = table.to_csv(index=False, float_format="%.6g").encode()
    machine = {
        **environment, "began": began, "finished": results.now(), "load_before": round(load, 2),
        "settings": {**sizes._asdict(), "case": sizes.case._asdict()}, "failed": failed,
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    results.write_atomically(options.output / "atari_device.csv", content)
    text = json.dumps(machine, indent=1, ensure_ascii=False) + "\n"
    results.write_atomically(options.output / "atari_device.json", text.encode())
    print(table.groupby("agents").median().round(3).to_string())


if __name__ == "__main__":
    main()
