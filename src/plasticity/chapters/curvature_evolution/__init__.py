"""Gradient descent leads to where the loss is sharp (§4.2, Figs. 2 and 14)."""

from plasticity.chapters.curvature_evolution import judge, run
from plasticity.runs.experiment import Experiment

EXPERIMENT = Experiment(
    __name__, run.Config, run.STUDIES, arms=run.arms, load=run.load, shapes=run.shapes,
    start=run.start, advance=run.advance, chunks=run.chunks, flops=run.flops,
    summarize=run.summarize, claims=judge.CLAIMS,
)  # fmt: skip
"""What it takes to run this chapter's experiment and to judge it."""
