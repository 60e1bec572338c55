"""What preserves plasticity? (§6.2, B.1; Figs. 6, 8 to 18.)"""

from plasticity.chapters.interventions import judge, run
from plasticity.chapters.probing import probed_agent

EXPERIMENT = probed_agent.experiment(
    __name__, run.Config, run.STUDIES, run.arms, run.SWEPT, judge.CLAIMS
)
"""What it takes to run this chapter's experiment and to judge it."""
