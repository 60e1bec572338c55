"""What an update of each width costs: time and memory of one agent of the scaling chapter.

    python benchmarks/width_cost.py [--toy] [--output FOLDER]

Every width runs in its own process on one core, as in a recorded run, and they take turns. The
memory is what the compiled program reports: state, data and temporary arrays. Writes width_cost.csv
(one turn per row) and width_cost.json; the chapter on scaling shows both. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import pandas as pd
from rounds import beginning, record

from plasticity.agents import dqn, mdp_agent
from plasticity.agents.mdp_task import ImageTask
from plasticity.agents.settings import Problem
from plasticity.chapters.probing import probed_agent
from plasticity.chapters.scaling import EXPERIMENT as scaling

HERE = Path(__file__).parent
TURNS, STEPS = 3, 100


def configuration(toy: bool) -> Any:
    """Return the laptop's settings, with the CNN at all widths."""
    config = replace(scaling.studies["laptop"], architectures=("mlp", "cnn"), exploding=False)
    if toy:
        problem = Problem(n_images=100)
        config = replace(
            config, multiples=(1, 2), periods=(10,), problem=problem, proxy_examples=50
        )  # fmt: skip
    return config


def arms(toy: bool) -> list[str]:
    """Return one arm of each network and width: the first data set, the longest period."""
    config = configuration(toy)
    chosen = (config.datasets[0], str(config.periods[-1]))
    parts = {arm: arm.split("-") for arm in scaling.arms(config)}
    return [arm for arm, (dataset, _, period, _) in parts.items() if (dataset, period) == chosen]


def turn(arm: str, toy: bool) -> dict[str, Any]:
    """Train for a while in a separate process, on one core; return what it measured."""
    core = str(min(os.sched_getaffinity(0)))
    order = ["taskset", "-c", core, sys.executable, __file__, "--arm", arm]
    process = subprocess.run(
        [*order, *(["--toy"] if toy else [])], stdout=subprocess.PIPE, text=True, check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    return dict(json.loads(process.stdout.splitlines()[-1]))


def measured(arm: str, toy: bool) -> dict[str, Any]:
    """Return milliseconds per update, and the mebibytes that the compiled training takes."""
    whole = configuration(toy)
    config = scaling.arm(whole, arm)
    steps = 20 if toy else STEPS
    alone = mdp_agent.AgentConfig(problem=config.problem)
    world, _ = probed_agent.load([alone])  # without a probe's targets
    images = world.images[mdp_agent.image_key(config)]
    started = jax.jit(scaling.start, static_argnums=0)(config, world, jax.random.key(0))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(started.agent.params))
    train = jax.jit(dqn.train, static_argnums=(0, 3), donate_argnums=2)
    task = ImageTask(started.mdp, images)
    compiled = train.lower(mdp_agent.agent(config), task, started.agent, steps).compile()
    taken: Any = compiled.memory_analysis()
    state, _ = jax.block_until_ready(compiled(task, started.agent))
    began = perf_counter()
    jax.block_until_ready(compiled(task, state))
    seconds = perf_counter() - began
    size = taken.argument_size_in_bytes + taken.output_size_in_bytes
    size += taken.temp_size_in_bytes - taken.alias_size_in_bytes
    return {
        "architecture": config.network.kind, "width": config.width, "parameters": parameters,
        "milliseconds": 1e3 * seconds / steps, "mebibytes": size / 2**20,
    }  # fmt: skip


def main() -> None:
    """Measure, record, print; or be one turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="tiny, one turn: does it work at all?")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--arm", help="be one turn of this arm, and print it")
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measured(options.arm, options.toy)))
        return
    begun = beginning()
    turns = range(1 if options.toy else TURNS)
    rows = [{"turn": k, **turn(arm, options.toy)} for k in turns for arm in arms(options.toy)]
    settings = {"steps": STEPS, "turns": len(turns)}
    record(options.output, "width_cost", rows, begun, {"settings": settings})
    print(pd.DataFrame(rows).groupby(["architecture", "width"]).median().round(3).to_string())


if __name__ == "__main__":
    main()
