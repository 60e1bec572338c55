"""Does a simple statistic of a network explain its plasticity? (§5, Figs. 3 and 4)."""

from plasticity.chapters.falsification import judge, run
from plasticity.chapters.probing import probed_agent

EXPERIMENT = probed_agent.experiment(
    __name__, run.Config, run.STUDIES, run.arms, run.SWEPT, judge.CLAIMS
)
"""What it takes to run this chapter's experiment and to judge it."""
