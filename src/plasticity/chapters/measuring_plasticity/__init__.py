"""What plasticity is, and how to measure it (§2.2, §3.1, A.2)."""

from plasticity.chapters.measuring_plasticity import judge, run
from plasticity.chapters.probing import probed_agent

EXPERIMENT = probed_agent.experiment(
    __name__, run.Config, run.STUDIES, run.arms, run.SWEPT, judge.CLAIMS
)
"""What it takes to run this chapter's experiment and to judge it."""
