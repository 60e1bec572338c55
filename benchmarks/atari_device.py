"""How fast Atari agents play and learn on an accelerator: several in a process, and processes.

    python benchmarks/atari_device.py [--toy] [--output FOLDER]

Agents of one process are batched as the driver batches seeds, with buffers of the paper's size;
concurrent processes stand for jobs of a workflow. Frames per second are measured for whole agents,
for their emulators alone, and for calls from the device to the host with emulators that take no
time; on an NVIDIA GPU the share of time in which it is at work is measured too. Writes
atari_device.csv (one turn per row) and atari_device.json; the book's page Speed shows both. It runs
where jax runs; the committed record is from a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple
from unittest import mock

import atari_jax
import numpy as np
import pandas as pd
from atari_task import Case
from rounds import beginning, record, say

from plasticity.agents import atari_agent
from plasticity.runs import child
from plasticity.worlds import atari, atari_callback

HERE = Path(__file__).parent


class Sizes(NamedTuple):
    """How many agents in how many processes, and how long to measure them."""

    # (agents per process, numbers of such processes that run at once), measured one after another
    layouts: tuple[tuple[int, tuple[int, ...]], ...] = ((1, (1, 8)), (16, (1, 4)))
    case: Case = Case(1, 32, updates=25, capacity=100_000, filled=1_000)
    turns: int = 3
    seconds: float = 2.0  # per turn, at least


TOY = Sizes(
    ((2, (1, 2)),), Case(1, 4, updates=5, capacity=200, filled=80, size=36), turns=1, seconds=0.02
)


# One process.


class Instant:
    """Games that take no time, instead of `plasticity.worlds.atari.Environments`."""

    def __init__(self, game: str, copies: int, preprocessing: atari.Preprocessing) -> None:
        emulators = atari.Environments(game, copies, preprocessing)
        self.seen = emulators.reset(range(copies))

    def reset(self, seeds: Any) -> atari.Step:
        return self.seen

    def step(self, actions: Any) -> atari.Step:
        return self.seen


class Calls(atari_jax.Jitted):
    """Calls of emulators that take no time."""

    def begin(self, config: atari_agent.AgentConfig) -> None:
        copies, preprocessing = self.case.environments, config.preprocessing
        self.instant = Instant(config.game, copies, preprocessing)
        with self.instantly():
            super().begin(config)

    def instantly(self) -> contextlib.AbstractContextManager[Any]:
        return mock.patch.object(atari_callback, "_environments", lambda *_: self.instant)

    def block(self) -> int:
        with self.instantly():
            return super().block()


def serve(job: Any, receive: Callable[[], Any], answer: Callable[[Any], None]) -> None:
    """Compile, say how long that took, then take turns; `plasticity.runs.child` calls this."""
    agents, toy = job
    sizes, began = TOY if toy else Sizes(), perf_counter()
    world = atari_jax.make_world(sizes.case)
    several = sizes.case._replace(environments=agents)
    contenders: dict[str, Any] = {
        "agents": atari_jax.Agents(sizes.case, world, agents),
        "emulators": atari_jax.Jitted(several, world, stack=1),
        "calls": Calls(several, world, stack=1),
    }
    for contender in contenders.values():
        contender.block()
    answer(perf_counter() - began)
    while True:
        answer(rate(contenders[receive()].block, sizes.seconds))


def rate(block: Callable[[], int], seconds: float) -> float:
    """Return frames per second over whole blocks that take at least ``seconds``."""
    frames, began = 0, perf_counter()
    while perf_counter() - began < seconds:
        frames += block()
    return frames / (perf_counter() - began)


# All of them.


@contextlib.contextmanager
def processes(agents: int, count: int, toy: bool) -> Iterator[list[subprocess.Popen[str]]]:
    """Start ``count`` processes and wait until all are ready; end them when the caller is done."""
    own = {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "")}  # whatever jax runs on
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                child.start("atari_device:serve", [agents, toy], environment=own, path=[HERE])
            )
            for _ in range(count)
        ]
        try:
            slowest = max(answer(process) for process in started)
            say(f"{count} processes of {agents} agents: ready after {slowest:.0f} s")
            yield started
        finally:
            for process in started:
                process.kill()


def answer(process: subprocess.Popen[str]) -> float:
    """Return the number that a process answers. Raises RuntimeError if it ended instead."""
    try:
        return float(child.hear(process))
    except EOFError:
        raise RuntimeError(f"a process ended with {process.wait()}: see above") from None


def turn(working: list[subprocess.Popen[str]], kind: str) -> float:
    """Let these work at the same time; return their total frames per second."""
    for process in working:
        child.tell(process, kind)
    return sum(answer(process) for process in working)


@contextlib.contextmanager
def watched() -> Iterator[list[float]]:
    """Collect, ten times a second, the share of time in which an NVIDIA GPU ran any kernel."""
    shares: list[float] = []
    try:
        import pynvml

        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # no such GPU, or no library to query it
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


def measure(sizes: Sizes, toy: bool) -> tuple[list[dict[str, float]], dict[str, str]]:
    """Return the turns of all layouts, and the reasons of those that failed."""
    rows: list[dict[str, float]] = []
    failed: dict[str, str] = {}
    for agents, counts in sizes.layouts:
        try:
            with processes(agents, max(counts), toy) as started:
                for count in counts:
                    working = started[:count]
                    for number in range(sizes.turns):
                        with watched() as shares:
                            found = turn(working, "agents")
                        rates = {
                            "frames_per_second": found,
                            # The first samples cover time from before the turn.
                            "busy": np.mean(shares[len(shares) // 4 :]) if shares else np.nan,
                            "emulators_per_second": turn(working, "emulators"),
                            "calls_per_second": turn(working, "calls"),
                        }
                        row = {"processes": count, "agents": agents, "turn": number}
                        row |= {name: float(f"{value:.6g}") for name, value in rates.items()}
                        say(", ".join(f"{name} {value:,}" for name, value in row.items()))
                        rows.append(row)
        except (RuntimeError, BrokenPipeError) as error:  # a process ended
            failed[f"{agents} agents"] = str(error)
            say(f"{agents} agents: {error}")
    return rows, failed


def main() -> None:
    """Measure, record, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="tiny, one turn: does it work at all?")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    options = parser.parse_args()
    sizes = TOY if options.toy else Sizes()
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # all share the device's memory
    begun = beginning(["ale-py"])
    rows, failed = measure(sizes, options.toy)
    settings = {**sizes._asdict(), "case": sizes.case._asdict()}
    record(options.output, "atari_device", rows, begun, {"settings": settings, "failed": failed})
    print(pd.DataFrame(rows).groupby(["processes", "agents"]).median().round(3).to_string())


if __name__ == "__main__":
    main()
