"""Judges a run of *interventions*: what it says about each claim of the ledger."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from plasticity import configuration, statistics
from plasticity.chapters import claims
from plasticity.chapters.claims import Condition, Judge, Side, Verdict, decide
from plasticity.chapters.interventions.contrasts import (
    NONE,
    agents,
    comparable,
    contrast,
    contrasts,
    hard,
)
from plasticity.chapters.interventions.run import Config
from plasticity.measure.random_functions import BASELINE
from plasticity.runs.results import Run
from plasticity.statistics import Interval

PROBE_LIMIT = 0.05
"""A network whose probe loss is this near to the floor, 0, or to the ceiling, a constant's .5,
cannot fall, or rise, by more: what is compared with it says little."""

NETWORKS_OF_FIG_6 = 4
"""The claims of Figs. 6 and 8 count four networks."""

EPSILON_MATTERS = 0.05
"""weight-decay-nothing, over Adam's ε: a gain below this does not count as help."""

EARLY = 20_000
"""layer-norm-helps, in time: the step with which the advantage at the end is compared."""


def beyond_probe(run: Run, architecture: str, against: tuple[str, str]) -> str:
    """Return why the arm ``against`` leaves nothing to compare with, or "".

    Its final probe loss, averaged over agents, is within `PROBE_LIMIT` of floor or ceiling.
    """
    table = agents(run)
    chosen = table[
        (table.architecture == architecture) & (table.intervention == against[0])
        & (table.encoding == against[1])
    ]  # fmt: skip
    loss = chosen.probe_loss[~chosen.ever_diverged].mean()
    if loss < PROBE_LIMIT:
        return "what it is compared with is at the probe's floor"
    return (
        "what it is compared with is at the probe's ceiling"
        if loss > BASELINE - PROBE_LIMIT
        else ""
    )


@dataclass(frozen=True)
class Contrasted:
    """A judge: an intervention against none, in the change of the probe loss, by network.

    Called with a run it returns its verdict. In every architecture the contrast must be below (or
    above) ``threshold``. Where the claim counts architectures, ``of`` says how many, and ``limit``
    in how many it may not fail.
    """

    claim: str
    what: str
    which: Mapping[str, Any]  # arguments of `contrasts`
    side: Side = "<"
    threshold: float = 0.0
    of: int | None = None
    limit: int = 1
    but: str | None = None  # an architecture that the claim does not cover
    part: str = ""

    def __call__(self, run: Run) -> list[Verdict]:
        """Return what ``run`` says about the claim; nothing if it has no arms that could tell."""
        if not comparable(run):
            return []
        against = self.which.get("against", NONE)
        conditions = [
            Condition(
                f"{self.what} ({name})", value, self.side, self.threshold,
                empty=beyond_probe(run, name, against) if "metric" not in self.which else "",
            )
            for name, value in contrasts(run, **self.which).items()
            if name != self.but
        ]  # fmt: skip
        return _verdict(self.claim, *conditions, part=self.part, of=self.of, limit=self.limit)


def _verdict(claim_id: str, *conditions: Condition, **rule: Any) -> list[Verdict]:
    """Return the verdict; none if the run has no arms that could decide."""
    return [decide(claim_id, *conditions, **rule)] if conditions else []


def judge_worst(run: Run) -> list[Verdict]:
    """Judge shrink-perturb-worst: worse than none, and no other intervention worse."""
    worse = Contrasted(
        "shrink-perturb-worst", "change, shrink and perturb minus none",
        {"intervention": "shrink_and_perturb"}, ">", of=NETWORKS_OF_FIG_6, limit=2,
        part="worse than none",
    )  # fmt: skip
    shrunk = ("shrink_and_perturb", "regression")
    return [
        *worse(run),
        *_against_the_others(run, "shrink-perturb-worst", shrunk, ">", "the worst"),
    ]


def _against_the_others(
    run: Run, claim: str, arm: tuple[str, str], side: Side, part: str
) -> list[Verdict]:
    """Judge that an arm's change is lowest (or highest) among the interventions of a network.

    It is compared with its closest rival, the one with the lowest (or highest) mean, in an interval
    that holds for all rivals at once (Bonferroni).
    """
    rivals = [name for name in run.config.get("interventions", ()) if name not in ("none", arm[0])]
    if not comparable(run) or len(rivals) < 2:
        return []
    conditions = []
    for network in configuration.from_dict(Config, run.config).networks:
        try:
            differences = {
                name: contrast(run, network.kind, *arm, against=(name, "regression"))
                for name in rivals
            }
        except KeyError:
            continue
        known = {name: values for name, values in differences.items() if values.size}
        if not known:
            continue
        pick = max if side == "<" else min
        rival = pick(known, key=lambda name: known[name].mean())
        confidence = 1 - (1 - statistics.CONFIDENCE) / len(rivals)
        measured = statistics.mean_interval(known[rival], confidence)
        what = f"change, minus {rival.replace('_', ' ')}'s ({network.kind})"
        conditions.append(Condition(what, measured, side, 0.0))
    return _verdict(claim, *conditions, part=part, of=NETWORKS_OF_FIG_6, limit=2)


def judge_weight_decay(run: Run) -> list[Verdict]:
    """Judge weight-decay-nothing: at the run's ε, or over several.

    No interval can show that it does *nothing*; "supported" would mean that it is clearly worse.
    Over several ε: contradicted if it is better by more than `EPSILON_MATTERS`, clearly and in
    every network, at every ε; supported if at none; else it depends.
    """
    which = {"intervention": "weight_decay"}
    if len(epsilons := run.config.get("adam_eps", ())) < 2:
        return Contrasted(
            "weight-decay-nothing", "change, weight decay minus none", which, ">",
            of=NETWORKS_OF_FIG_6, limit=2, part="as run",
        )(run)  # fmt: skip
    conditions, helped = [], []
    for eps in epsilons:
        found = contrasts(run, **which, eps=eps)
        conditions += [
            Condition(f"change, weight decay minus none ({name}, ε {eps:g})", value, ">",
                      -EPSILON_MATTERS)
            for name, value in found.items()
        ]  # fmt: skip
        helped.append([value.high < -EPSILON_MATTERS for value in found.values()])
    (verdict,) = _verdict("weight-decay-nothing", *conditions, part="whatever ε is")
    if all(map(all, helped)):
        return [verdict._replace(status="contradicted")]
    if not any(map(any, helped)):
        return [verdict._replace(status="supported")]
    cases = [condition.name.partition("(")[2].rstrip(")") for condition in conditions]
    where = [case for case, helps in zip(cases, itertools.chain(*helped), strict=True) if helps]
    note = f"Clear help of more than {EPSILON_MATTERS:g}: {'; '.join(where)}; and nowhere else."
    return [verdict._replace(status="depends", note=note)]


def judge_layer_norm(run: Run) -> list[Verdict]:
    """Judge layer-norm-helps: against none at the end, over steps, and whether it lasts."""
    helps = Contrasted(
        "layer-norm-helps", "change, layer norm minus none", {"intervention": "layer_norm"},
        part="helps",
    )  # fmt: skip
    found = helps(run)
    if found:
        note = claims.windows(claims.over_steps(run, helps, "helps"))
        found = [found[0]._replace(note=note)]
    steps = sorted(set(run.table.step))
    if EARLY not in steps[:-1]:
        return found
    conditions = [
        Condition(
            f"advantage at {steps[-1]:,} steps, minus half of that at {EARLY:,} ({name})",
            lasting, ">", 0.0,
        )
        for name, lasting in _lasting(run).items()
    ]  # fmt: skip
    return [*found, *_verdict("layer-norm-helps", *conditions, part="to the end")]


def _lasting(run: Run) -> dict[str, Interval]:
    """Return layer norm's advantage at the end minus half of that at `EARLY`, by network."""
    early = replace(run, table=run.table[run.table.step <= EARLY])
    found: dict[str, Interval] = {}
    for network in configuration.from_dict(Config, run.config).networks:
        with contextlib.suppress(KeyError):
            late, before = (-contrast(part, network.kind, "layer_norm") for part in (run, early))
            if late.size and late.size == before.size:
                found[network.kind] = statistics.paired_difference(late, before / 2)
    return found


def judge_task(run: Run) -> list[Verdict]:
    """Judge perturbing-hurts-task: accuracy on the hard reward, and beside the easy one."""
    if not comparable(run) or hard(run) == "true_label":
        return []
    which: dict[str, Any] = {"intervention": "shrink_and_perturb", "metric": "accuracy"}
    hurts = Contrasted(
        "perturbing-hurts-task", "hard accuracy, shrink and perturb minus none",
        which | {"variant": hard(run)}, part="hurts",
    )(run)  # fmt: skip
    if not hurts or "true_label" not in run.config["variants"]:
        return hurts
    conditions = []
    for network in configuration.from_dict(Config, run.config).networks:
        on_hard, on_easy = (
            contrast(run, network.kind, **which, variant=name) for name in (hard(run), "true_label")
        )
        what = f"accuracy lost to shrink and perturb, hard minus easy ({network.kind})"
        if on_hard.size and on_hard.size == on_easy.size:
            more = statistics.paired_difference(on_hard, on_easy)
            conditions.append(Condition(what, more, "<", 0.0))
    return hurts + _verdict("perturbing-hurts-task", *conditions, part="most when hard")


def judge_td_loss(run: Run) -> list[Verdict]:
    """Judge td-loss-stability: layer norm and two-hot lower largest and mean TD loss, over steps.

    The squared error of values under either output (`plasticity.agents.q_learning.learn`).
    """
    if not comparable(run):
        return []
    arms = {"layer norm": ("layer_norm", "regression"), "two-hot": ("none", "two_hot")}
    found: list[Verdict] = []
    for (what, arm), (metric, column) in itertools.product(arms.items(), TD_LOSS.items()):
        found += _td_loss(run, what, arm, metric, column)
    diverged = [
        Condition(f"share of diverged agents, {what} minus none ({name})", value, "<", 0.0,
                  empty="nothing diverged" if value.estimate == 0 == value.high else "")
        for what, (intervention, encoding) in arms.items()
        for name, value in _diverged(run, intervention, encoding).items()
    ]  # fmt: skip
    return found + _verdict("td-loss-stability", *diverged, part="divergence")


TD_LOSS = {"largest": "log_td_loss", "mean": "log_mean_td_loss"}
"""Part of td-loss-stability → column of `agents`."""


def _td_loss(run: Run, what: str, arm: tuple[str, str], metric: str, column: str) -> list[Verdict]:
    """Judge one part of td-loss-stability; the note says how it turns over probe intervals."""
    intervention, encoding = arm
    part = f"{what}, {metric}"

    def judged(run: Run) -> list[Verdict]:
        ratios = contrasts(run, intervention=intervention, encoding=encoding, metric=column)
        conditions = (
            Condition(f"{metric} TD loss, {what} / none ({name})", value.map(np.exp), "<", 1.0)
            for name, value in ratios.items()
        )
        return _verdict("td-loss-stability", *conditions, part=part)

    found = judged(run)
    if not found:
        return []
    steps = sorted(set(run.table.step))
    spans = {
        f"{first:,} to {last:,}": judged(
            replace(run, table=run.table[run.table.step.isin([steps[0], last])])
        )[0].status
        for first, last in itertools.pairwise(steps)
    }
    note = "; ".join(f"{span}: {status}" for span, status in spans.items())
    turns = len(set(spans.values())) > 1
    return [found[0]._replace(note=f"By steps, {note}." if turns else "")]


def _diverged(run: Run, intervention: str, encoding: str) -> dict[str, Interval]:
    """Return the share of diverged agents minus none's, by network, paired by seed."""
    table = agents(run).assign(share=lambda rows: rows.ever_diverged.astype(float))
    found = {}
    for architecture, rows in table.groupby("architecture", sort=False):
        wide = rows.pivot_table(
            index="seed", columns=["intervention", "encoding"], values="share", aggfunc="mean"
        )
        with contextlib.suppress(KeyError):
            difference = (wide[intervention, encoding] - wide[NONE]).dropna()
            found[str(architecture)] = statistics.mean_interval(difference)
    return found


CLAIMS: Mapping[str, Judge] = {
    "two-hot-best": Contrasted(  # that it is the best of all was never given a rule
        "two-hot-best", "change, two-hot minus regression",
        {"intervention": "none", "encoding": "two_hot"}, of=NETWORKS_OF_FIG_6, limit=2,
    ),
    "shrink-perturb-worst": judge_worst,
    "shrink-perturb-categorical": Contrasted(  # under two-hot it does no harm
        "shrink-perturb-categorical", "two-hot, change, shrink and perturb minus none",
        {"intervention": "shrink_and_perturb", "encoding": "two_hot",
         "against": ("none", "two_hot")}, threshold=0.2,
    ),
    "weight-decay-nothing": judge_weight_decay,
    "reset-helps": Contrasted(
        "reset-helps", "change, reset minus none", {"intervention": "reset_last_layer"},
        of=NETWORKS_OF_FIG_6 - 1, but="cnn",
    ),
    "layer-norm-helps": judge_layer_norm,
    "perturbing-hurts-task": judge_task,
    "td-loss-stability": judge_td_loss,
}  # fmt: skip
"""Each claim of the ledger that this experiment decides, with its judge."""
