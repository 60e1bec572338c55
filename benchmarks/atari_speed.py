"""How fast Atari games are played and learned: ours against gymnasium and a loop like CleanRL's.

    python benchmarks/atari_speed.py [--toy] [--output FOLDER]

Contenders take turns as `rounds` describes. Writes atari_speed.csv (one rate per row) and
atari_speed.json (machine, date, versions, settings, what was checked); the book's page Speed shows
both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import atari_jax
import comparisons
import rounds
from atari_task import Case, Settings
from rounds import Agreement, Benchmark, Group

AGREEMENTS = {
    "atari_steps": Agreement("stepping_hosted", moved=False),
    "atari_agents": Agreement("atari_agent_all", moved=True),
    "atari_updates": Agreement("atari_update_all", moved=True),
}

EVENTFUL = "breakout"
"""The game used in checks."""


class Sizes(NamedTuple):
    """How long to measure, and what; the sizes are those of the paper and of the experiment.

    Only the buffer's capacity is a tenth of the experiment's: with every stack stored, as in
    CleanRL, several agents at once do not fit on a laptop.
    """

    # As many as an agent has, and enough to keep all cores busy.
    stepping: tuple[Case, ...] = (Case(1, 0, updates=25), Case(8, 0, updates=5))
    agent: Case = Case(1, 32, updates=25)
    rounds: int = 5
    seconds: float = 1.5  # per turn, at least
    contenders: tuple[str, ...] = tuple(comparisons.names("atari_speed"))


TOY = Sizes(
    stepping=(Case(1, 0, updates=2, size=36),),
    agent=Case(1, 4, updates=5, capacity=200, filled=80, size=36),
    rounds=1,
    seconds=0.02,
    contenders=(
        "stepping_hosted", "stepping_jitted", "gymnasium_sync", "atari_agent_pinned",
        "atari_agent_all", "torch_atari_agent_all", "atari_update_pinned", "atari_update_all",
        "torch_atari_update_all", "part_whole", "part_acting", "part_stepping", "part_replay",
        "part_learning",
    ),
)  # fmt: skip
"""Enough to see that all parts work together; most of its time goes into starting processes."""


def measure(toy: bool, folder: Path) -> tuple[Benchmark, dict[str, Any]]:
    """Return the benchmark, run, and its settings; see `rounds.main`."""
    return run(TOY if toy else Sizes(), folder)


def run(sizes: Sizes, folder: Path) -> tuple[Benchmark, dict[str, Any]]:
    """Return the benchmark of these sizes, run, and its settings."""
    benchmark = Benchmark(atari_jax, AGREEMENTS, sizes.contenders, sizes.seconds, folder)
    # Checked where something happens soon: points in Breakout, and lives lost.
    steps = [case._replace(game=EVENTFUL) for case in sizes.stepping]
    agent = [sizes.agent._replace(game=EVENTFUL)]
    groups = (
        Group(("atari_steps",), sizes.stepping, sizes.rounds, steps),
        Group(("atari_agents", "atari_updates"), (sizes.agent,), sizes.rounds, agent),
        Group(("atari_parts",), (sizes.agent,), sizes.rounds),
    )
    for group in groups:
        benchmark.run(group)
    world = atari_jax.make_world(sizes.agent)
    return benchmark, {
        "rounds": sizes.rounds,
        "seconds": sizes.seconds,
        "cases": {
            table: [case._asdict() for case in group.cases]
            for group in groups
            for table in group.tables
        },
        "checked": [case._asdict() for case in (*steps, *agent)],
        "agent": Settings(*world.settings.tolist())._asdict(),
    }


if __name__ == "__main__":
    rounds.main(
        "atari_speed", __doc__.partition("\n")[0], measure,
        ("torch", "gymnasium", "ale-py", "opencv-python-headless"),
    )  # fmt: skip
