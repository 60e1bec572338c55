"""The ledger as pages show it: every claim, its parts, what each recorded run says of them."""

from __future__ import annotations

import importlib.resources
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

import pandas as pd

from plasticity.chapters import claims, scale
from plasticity.chapters.claims import Entry, Verdict, Word
from plasticity.runs import results
from plasticity.runs.experiment import Experiment
from plasticity.runs.results import Run
from plasticity.statistics import Interval


def entries(experiments: Mapping[str, Experiment]) -> list[Entry]:
    """Return every claim with the verdicts of all recorded runs that bear on it."""
    verdicts: list[Verdict] = []
    for name, experiment in experiments.items():
        for run in filter(bears, results.recorded(name)):
            verdicts += claims.judge(run, experiment.claims)
    return claims.ledger(verdicts)


def bears(run: Run) -> bool:
    """Return whether a run is evidence: of a named study, at a size at which something is learned.

    What is computed while the book is built ("quick"), or to see that all runs ("smoke"), is not.
    """
    return run.label == run.study and run.label not in ("quick", "smoke")


def in_words(found: Sequence[Entry]) -> str:
    """Return how many claims have each word, in a sentence."""
    counts = Counter(entry.word for entry in found)
    said = [
        f"{counts[word]} on which runs disagree"
        if word == "runs disagree"
        else f"{counts[word]} {word}"
        for word in get_args(Word)
        if counts[word]
    ]
    beyond = sum(entry.claim.where == "beyond the paper" for entry in found)
    return (
        f"Of {len(found) - beyond} claims of the paper and {beyond} beyond it: {', '.join(said)}."
    )


def table(found: Iterable[Entry], experiments: Mapping[str, Experiment]) -> str:
    """Return a Markdown table with a row per claim: what it says, where, the word, at which scale.

    The scale is that of the runs that say something of it.
    """
    rows = ["| Claim | Paper | Our runs | At which scale |", "|---|---|---|---|"]
    for entry in found:
        claim, experiment = entry.claim, experiments[entry.claim.experiment]
        names = dict.fromkeys(verdict.run.partition("/")[2] for verdict in entry.verdicts)
        runs = [results.load(claim.experiment, name) for name in names]
        cells = (
            f"[{_sentence(claim.claim)}]({claim.experiment}.ipynb)", claim.where, chip(entry.word),
            scale.of_runs(runs, experiment) if runs else "–",
        )  # fmt: skip
        rows.append(_row(cells))
    return "\n".join(rows)


def details(entry: Entry) -> str:
    """Return what is measured for a claim, what would contradict it, and each verdict, folded."""
    claim = entry.claim
    measured = f"**Measured:** {claim.measure}. **Contradicted if:** {claim.falsified_if}."
    verdicts = of_runs(entry.verdicts) if entry.verdicts else "No recorded run bears on it."
    head = f":::{{dropdown}} {claim.id}: {entry.word}\n:name: claim-{claim.id}"
    return f"{head}\n\n{_sentence(claim.claim)}. {measured}\n\n{verdicts}\n:::"


def of_runs(verdicts: Iterable[Verdict]) -> str:
    """Return a Markdown table with a row per verdict: which part, by which run, what was found."""
    rows = ["| Part | Run | Measured | Verdict |", "|---|---|---|---|"]
    for verdict in verdicts:
        says = {part.part: part.says for part in claims.parts(verdict.claim.id)}[verdict.part]
        found = "<br>".join(map(_condition, verdict.conditions))
        note = f"<br>{verdict.note}" if verdict.note else ""
        run = verdict.run.partition("/")[2]
        rows.append(_row((says, f"`{run}`", found + note, chip(verdict.status))))
    return "\n".join(rows)


def chip(word: str) -> str:
    """Return a verdict's word in its colour."""
    return f'<span class="verdict verdict-{word.replace(" ", "-")}">{word}</span>'


def _sentence(words: str) -> str:
    """Begin with a capital letter, unless what begins is a symbol."""
    first = words.partition(" ")[0]
    return words[0].upper() + words[1:] if first.isalpha() and len(first) > 1 else words


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _condition(condition: claims.Condition) -> str:
    needs = f"needs {condition.side} {condition.threshold:g}"
    counts = f" (does not count: {condition.empty})" if condition.empty else ""
    return f"{condition.name}: {_measured(condition.measured)}, {needs}{counts}"


def _measured(found: Interval) -> str:
    """Write an estimate with its interval, or say that there is none.

    Near one, where the second digit after the point says nothing, there are three.
    """
    if math.isnan(found.estimate):
        return "**unknown**"
    digits = 3 if 0.99 < found.estimate < 1.01 else 2
    estimate, low, high = (f"{value:.{digits}f}" for value in found[:3])
    return f"**{estimate}** [{low}, {high}], n = {found.n}"


def recordings() -> pd.DataFrame:
    """Return what was recorded when, what each recording changed, and the verdicts that it gave.

    Runs were recorded again with other sizes after they had been seen; git has all of them. The
    verdicts are those that the chapter printed then; the first recordings printed none.
    """
    path = importlib.resources.files("plasticity.chapters") / "recordings.csv"
    return pd.read_csv(io.StringIO(path.read_text(encoding="utf-8"))).fillna("–")
