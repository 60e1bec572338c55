"""The first page: what each chapter found in one sentence, with its verdicts and its scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from plasticity.chapters import ledger, scale
from plasticity.chapters.atari_layer_norm import judge as atari
from plasticity.chapters.claims import Entry
from plasticity.chapters.curvature_evolution import judge as curvature
from plasticity.chapters.falsification import judge as falsification
from plasticity.chapters.interventions import contrasts
from plasticity.chapters.measuring_plasticity import judge as measuring
from plasticity.chapters.optimizer_instability import judge as instability
from plasticity.chapters.scaling import judge as scaling
from plasticity.runs import results
from plasticity.runs.experiment import Experiment
from plasticity.runs.results import Run


def optimizer_instability(run: Run) -> str:
    """Say when default and tuned Adam collapse."""
    times = instability.times_to_collapse(run)
    default, tuned = (times[times.arm == arm] for arm in ("default", "tuned"))
    said = f"Default Adam stops learning new labels at step {default.step.median():,.0f}"
    if not tuned.collapsed.any():
        return f"{said}; the paper's tuned Adam does not, in {tuned.step.max():,} steps."
    when = f"the paper's tuned Adam at step {tuned.step.median():,.0f}"
    return f"{said}, {when}: later, not never (medians of {len(tuned)} seeds)."


def measuring_plasticity(run: Run) -> str:
    """Say how much probes lose, with layer normalisation and without."""
    first = run.config["variants"][0]
    plain, normed = (measuring.change(run, arm).estimate for arm in (first, f"{first}-layer_norm"))
    return (
        "After training a network fits random functions less well than a fresh one: its loss on "
        f"them, of at most .50, rises by {plain:.2f}, with layer normalisation by {normed:.2f}."
    )


def curvature_evolution(run: Run) -> str:
    """Say how much λ₁ grows under descent and along a walk."""
    descent, walk = (
        curvature.log_ratio(curvature.growth(run, process=name)).estimate
        for name in ("agent", "walk")
    )
    return (
        f"The largest eigenvalue of the Hessian grows {descent:.0f} times under gradient descent, "
        f"and along a random walk of equally long steps by {walk - 1:.1%}."
    )


def falsification_(run: Run) -> str:
    """Say how many statistics turn their sign, pooled over optimizers and within one."""
    found = falsification.sign_stability(run)

    def turned(adjustment: str) -> int:
        rows = found[found.adjustment == adjustment].groupby("statistic")
        return int(sum((g.low_all.max() > 0) and (g.high_all.min() < 0) for _, g in rows))

    return (
        f"Of four statistics {_count(turned('pooled'))} clearly turn their sign between problems "
        f"if two optimizers are pooled, and {_count(turned('within'))} within one optimizer."
    )


def interventions(run: Run) -> str:
    """Say what layer normalisation and a reset of the last layer change, in each network."""
    said = []
    for network, name in (("mlp", "MLP"), ("cnn", "CNN")):
        normed, reset = (
            float(np.mean(contrasts.contrast(run, network, which)))
            for which in ("layer_norm", "reset_last_layer")
        )
        said.append(f"{normed:+.2f} and {reset:+.2f} in the {name}")
    return (
        "Layer normalisation and a reset of the last layer change the plasticity that is lost by "
        f"{', by '.join(said)}; at most .50 can be lost."
    )


def scaling_(run: Run) -> str:
    """Say on how many curves the final loss falls with width, and on how many the change."""
    curves = scaling.main_curves(run)
    final, change = (
        sum(interval.high < 0 for interval in curves[name]) for name in ("final", "spearman")
    )
    return (
        f"Wider networks end with a lower probe loss on {final} of {len(curves)} curves; what "
        f"training costs them falls clearly on {change}."
    )


def atari_layer_norm(run: Run) -> str:
    """Say how few agents learned."""
    table = atari.agents(run)
    return (
        f"Of {len(table)} agents in {table.game.nunique()} games {_count(int(table.learned.sum()))}"
        " learned anything in so short a time."
    )


HEADLINES: Mapping[str, Callable[[Run], str]] = {
    "optimizer_instability": optimizer_instability,
    "measuring_plasticity": measuring_plasticity,
    "curvature_evolution": curvature_evolution,
    "falsification": falsification_,
    "interventions": interventions,
    "scaling": scaling_,
    "atari_layer_norm": atari_layer_norm,
}
"""What each chapter found, in a sentence written from its main recorded run, in their order."""


def cards(experiments: Mapping[str, Experiment], entries: Sequence[Entry]) -> str:
    """Return a card for each chapter: its sentence, the words of its claims, its scale."""
    said = []
    for name, headline in HEADLINES.items():
        run = results.best(name)
        words = [
            f"[{ledger.chip(entry.word)}](ledger.ipynb) {entry.claim.id}"
            for entry in entries
            if entry.claim.experiment == name
        ]
        verdicts = "<br>".join(words) or "It makes the instrument for the others."
        said.append(
            f"::::{{grid-item-card}} [](/book/{name}.ipynb)\n\n"
            f"{headline(run)}\n\n{verdicts}\n\n"
            f":::{{card-footer}}\n{scale.short(run, experiments[name])}\n:::\n::::"
        )
    return ":::::{grid} 1 1 2 2\n:gutter: 3\n\n" + "\n\n".join(said) + "\n:::::"


def strip(entries: Sequence[Entry]) -> str:
    """Return one small square per claim, in the colour of its word, that leads to its row."""
    squares = (
        f'<a class="claim verdict-{entry.word.replace(" ", "-")}" '
        f'href="ledger.html#claim-{entry.claim.id}" '
        f'title="{entry.claim.claim}: {entry.word}" '
        f'aria-label="{entry.claim.id}: {entry.word}"></a>'
        for entry in entries
    )
    return f'<div class="claims">{"".join(squares)}</div>'


def scales(experiments: Mapping[str, Experiment]) -> pd.DataFrame:
    """Return how far each chapter's main run is from what we believe the paper used."""
    rows = []
    for name in HEADLINES:
        run = results.best(name)
        rows.append((name.replace("_", " "), f"`{run.label}`", scale.short(run, experiments[name])))
    return pd.DataFrame(rows, columns=["chapter", "run", "at which scale"])


def at_full_size(experiments: Mapping[str, Experiment]) -> str:
    """Return which chapters' main runs are at the paper's own size but for the number of seeds."""
    full = [
        name.replace("_", " ")
        for name in HEADLINES
        if all(size.what == "seeds" for size in scale.sizes(results.best(name), experiments[name]))
    ]
    return (
        f"Of {len(HEADLINES)} chapters {_count(len(full))} "
        f"{'has its' if len(full) == 1 else 'have their'} main run at the paper's own size, but "
        f"for the number of seeds{': ' if full else ''}{' and '.join(full)}. A verdict is on a "
        "claim at the scale of its run:"
    )


def _count(number: int) -> str:
    return ("none", "one", "two", "three", "four")[number] if number < 5 else f"{number}"
