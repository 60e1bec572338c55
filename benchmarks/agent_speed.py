"""How fast agents train and are probed: against PyTorch, like CleanRL's or bare, and rejax.

    python benchmarks/agent_speed.py [--toy] [--output FOLDER]

Contenders take turns as `rounds` describes. Writes agent_speed.csv (one rate per row) and
agent_speed.json (machine, date, versions, settings, what was checked); the book's page Speed shows
both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import agent_jax
import comparisons
import rounds
from agent_task import Case, Settings
from rounds import Agreement, Benchmark, Group

from plasticity.measure.probe import STEPS, TARGETS

AGREEMENTS = {
    "agents": Agreement("agent_all", moved=True),
    "probes": Agreement("probe_all", moved=False),
    "cnn_updates": Agreement("cnn_update_all", moved=True),
    "cnn_agents": Agreement("cnn_agent_all", moved=True),
    "rejax_agents": Agreement("lone_agent_pinned", moved=True),
}

AGENTS = (
    Case("mlp", 512, 0, 32, 5_000, steps=1_000, block=50),
    # A call is a tenth as long, so our table of target values is made ten times as often as in an
    # experiment: 5,000 images for 51,200 rows, no larger a share than at batch 32.
    Case("mlp", 512, 0, 512, 5_000, steps=100, block=10),
)
PROBE = Case("mlp", 512, 0, 32, 5_000, steps=500, block=0, targets=2)
CNN = Case("cnn", 256, 64, 32, 5_000, steps=500, block=10)
RIVALS = tuple(Case("mlp", width, 0, 32, 5_000, steps=1_000, block=1_000) for width in (512, 64))
COPIES = Case("mlp", 512, 0, 32, 5_000, steps=1_000, block=0)


class Sizes(NamedTuple):
    """How long to measure, and what; the sizes are those of the paper and of the experiments."""

    agents: tuple[Case, ...] = AGENTS
    probe: Case = PROBE
    cnn: Case = CNN
    rivals: tuple[Case, ...] = RIVALS
    copies: Case = COPIES
    rounds: int = 5
    seconds: float = 1.5  # per turn, at least
    contenders: tuple[str, ...] = tuple(comparisons.names("agent_speed"))


TOY = Sizes(
    agents=(Case("mlp", 16, 0, 8, 64, steps=20, block=2),),
    probe=Case("mlp", 16, 0, 8, 64, steps=50, block=0, targets=2),
    cnn=Case("cnn", 8, 4, 8, 64, steps=20, block=2),
    rivals=(Case("mlp", 16, 0, 8, 64, steps=20, block=20),),
    copies=Case("mlp", 16, 0, 8, 64, steps=20, block=0),
    rounds=1,
    seconds=0.02,
    contenders=(
        "agent_pinned", "agent_all", "torch_agent_all", "torch_update_all", "probe_pinned",
        "probe_all", "torch_probe_all", "cnn_update_pinned", "cnn_update_all",
        "torch_cnn_update_all", "lone_agent_pinned", "agent_learning_pinned",
        "agent_gradients_pinned", "rejax_agent_pinned", "copies", "no_copies",
    ),
)  # fmt: skip
"""Enough to see that all parts work together; most of its time goes into starting processes."""


def measure(toy: bool, folder: Path) -> tuple[Benchmark, dict[str, Any]]:
    """Return the benchmark, run, and its settings; see `rounds.main`."""
    return run(TOY if toy else Sizes(), folder)


def run(sizes: Sizes, folder: Path) -> tuple[Benchmark, dict[str, Any]]:
    """Return the benchmark of these sizes, run, and its settings."""
    benchmark = Benchmark(agent_jax, AGREEMENTS, sizes.contenders, sizes.seconds, folder)
    groups = (
        Group(("agents",), sizes.agents, sizes.rounds),
        Group(("probes",), (sizes.probe,), sizes.rounds),
        Group(("cnn_updates",), (sizes.cnn,), sizes.rounds),
        Group(("cnn_agents",), (sizes.cnn,), sizes.rounds),
        Group(("rejax_agents",), sizes.rivals, sizes.rounds),
        Group(("target_copies",), (sizes.copies,), sizes.rounds),
    )
    for group in groups:
        benchmark.run(group)
    world = agent_jax.make_world(sizes.agents[0])
    return benchmark, {
        "rounds": sizes.rounds,
        "seconds": sizes.seconds,
        "cases": {group.tables[0]: [case._asdict() for case in group.cases] for group in groups},
        "agent": Settings(*world.settings.tolist())._asdict(),
        "adam": dict(zip(("learning_rate", "b1", "b2", "eps"), world.adam.tolist(), strict=True)),
        "extrapolation": (
            f"A whole probe has {TARGETS} targets and {STEPS} steps each. Rates come "
            f"from fits of {sizes.probe.steps} steps, where the one or two passes over all inputs "
            f"that frame a fit weigh {STEPS / sizes.probe.steps:g} times what they weigh in "
            f"a whole one: {TARGETS * STEPS} steps at these rates take too long, if "
            "anything."
        ),
    }


if __name__ == "__main__":
    peers = ("torch", "rejax", "gymnax")
    rounds.main("agent_speed", __doc__.partition("\n")[0], measure, peers)
