"""Does a wider network keep its plasticity? (§6.1, Fig. 5.)"""

from plasticity.chapters.probing import probed_agent
from plasticity.chapters.scaling import judge, run

EXPERIMENT = probed_agent.experiment(
    __name__, run.Config, run.STUDIES, run.arms, run.SWEPT, judge.CLAIMS
)
"""What it takes to run this chapter's experiment and to judge it."""
