"""Default Adam kills units when the task changes abruptly (§4.1, A.1, Fig. 1)."""

from plasticity.chapters.optimizer_instability import judge, run
from plasticity.runs.experiment import Experiment

EXPERIMENT = Experiment(
    __name__, run.Config, run.STUDIES, arms=run.arms, load=run.load, shapes=run.shapes,
    start=run.start, advance=run.advance, chunks=run.chunks, flops=run.flops, shares=run.shares,
    summarize=run.summarize, claims=judge.CLAIMS,
)  # fmt: skip
"""What it takes to run this chapter's experiment and to judge it."""
