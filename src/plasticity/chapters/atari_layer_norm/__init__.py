"""Layer normalisation in double DQN on Atari games (§6.3, A.3; Figs. 7, 19 to 22)."""

from plasticity.chapters.atari_layer_norm import judge, run
from plasticity.runs.experiment import Experiment

EXPERIMENT = Experiment(
    __name__, run.Config, run.STUDIES, arms=run.arms, load=run.load, shapes=run.shapes,
    start=run.start, advance=run.advance, chunks=run.chunks, flops=run.flops,
    summarize=run.summarize, claims=judge.CLAIMS,
    checkpoint_seconds=run.CHECKPOINT_SECONDS, sample=run.sample, figures=run.figures,
)  # fmt: skip
"""What it takes to run this chapter's experiment and to judge it."""
