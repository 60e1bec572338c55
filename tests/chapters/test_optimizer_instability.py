"""The experiment against a slow obvious version of itself, and its judges against made-up runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from hurried import apart, compiled

from plasticity import configuration, statistics
from plasticity.chapters.optimizer_instability import EXPERIMENT, figures, words
from plasticity.chapters.optimizer_instability import judge as judging
from plasticity.chapters.optimizer_instability import run as experiment
from plasticity.chapters.optimizer_instability.run import Config
from plasticity.runs import checkpoints, freshness, results
from plasticity.runs.results import Run

TINY = Config(
    n_images=60, width=16, batch_size=8, steps_per_period=12, periods=3, window=4,
    accuracy_sample=40, seeds=2,
)  # fmt: skip


start, advance = apart(experiment.start), apart(experiment.advance)
train = apart(experiment.train)


@pytest.fixture(scope="module")
def world() -> experiment.World:
    """Sixty digits."""
    return experiment.load(TINY)[0]


def test_training_is_a_plain_loop_of_adam_steps(world: experiment.World) -> None:
    key, config = jax.random.key(1), dataclasses.replace(TINY, b2=0.9, eps_root=1e-3)
    state = start(config, world, key)
    labels = experiment.draw_labels("uniform", key, world.labels)
    trained, trace = train(config, world.inputs, labels, state.learner, key, 10, traced=True)

    model = experiment.network(TINY.width)
    optimizer = optax.adam(1e-3, b1=0.9, b2=0.9, eps=1e-9, eps_root=1e-3)
    params, opt_state = state.params, optimizer.init(state.params)

    def loss(p: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = model.apply(p, x).output
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])

    slope, update_of = compiled(jax.value_and_grad(loss)), compiled(optimizer.update)
    for step, batch in enumerate(jax.random.randint(key, (10, 8), 0, 60)):
        value, gradient = slope(params, world.inputs[batch], labels[batch])
        update, opt_state = update_of(gradient, opt_state)
        params = optax.apply_updates(params, update)
        for name, expected in (
            ("step_loss", value),
            ("gradient_norm", optax.tree.norm(gradient)),
            ("update_norm", optax.tree.norm(update)),
        ):
            np.testing.assert_allclose(trace[name][step], expected, rtol=1e-4)
    # Adam divides by a root: its updates keep about half of float32's digits where v is small
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), trained.params, params)
    assert int(trained.steps) == 10


def test_watching_a_step_does_not_change_it(world: experiment.World) -> None:
    key = jax.random.key(2)
    state = start(TINY, world, key)
    seen, unseen = (
        train(TINY, world.inputs, world.labels, state.learner, key, 6, traced=traced)[0]
        for traced in (True, False)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), seen.params, unseen.params
    )


def test_arms_of_one_seed_share_their_start_and_their_labels(world: experiment.World) -> None:
    key, losses = jax.random.key(3), []
    for changes in experiment.arms(TINY).values():
        config = dataclasses.replace(TINY, **changes)
        state = start(config, world, key)
        _, record = advance(config, world, state, 0)
        losses.append(float(record["step_loss"][0]))
    assert len(losses) == 4
    assert len(set(losses)) == 1


def test_labels_are_drawn_anew_each_period_and_kept_within_it(world: experiment.World) -> None:
    config = dataclasses.replace(TINY, steps_per_period=300, learning_rate=3e-3, window=50)
    state = start(config, world, jax.random.key(0))
    for period in range(2):
        state, record = advance(config, world, state, period)
        assert record["accuracy"] > 0.9
        assert record["step_loss"][0] > 1.5  # the old labels do not help
        assert record["step_loss"][-1] < 0.5
        assert int(state.learner.steps) == 300 * (period + 1)
        assert record["displacement"] > 0


def test_permuted_labels_keep_their_counts(world: experiment.World) -> None:
    labels = experiment.draw_labels("permuted", jax.random.key(0), world.labels)
    assert not np.array_equal(labels, world.labels)
    np.testing.assert_array_equal(np.sort(labels), np.sort(world.labels))


def test_evaluation_counts_dead_units_and_hits(world: experiment.World) -> None:
    params = start(TINY, world, jax.random.key(0)).params
    hidden = params["params"]["Dense_0"]
    hidden["bias"] = hidden["bias"].at[:4].set(-1e3)
    output = params["params"]["Dense_2"]
    output["kernel"], output["bias"] = 0 * output["kernel"], jax.nn.one_hot(7, 10)
    record = experiment.evaluate(16, 40, world.inputs, jnp.full(60, 7), params, jax.random.key(0))
    assert record["dead_units_layer_1"] == 4 / 16
    assert record["accuracy"] == 1.0
    np.testing.assert_allclose(record["loss"], np.log(np.e + 9) - 1, rtol=1e-6)
    record = experiment.evaluate(16, 40, world.inputs, jnp.full(60, 6), params, jax.random.key(0))
    assert record["accuracy"] == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b2": 1.0}, r"b2 = 1.0: must lie in \[0, 1\)"),
        ({"eps_root": -1e-3}, "eps_root"),
        ({"width": 0}, "width = 0: must be above 0"),
        ({"window": 7}, "two windows must fit"),
        ({"first_seed": -1}, "first_seed"),
    ],
)
def test_settings_that_cannot_run_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(configuration.ConfigError, match=message):
        dataclasses.replace(TINY, **changes)


def test_the_arms_are_the_two_by_two_and_its_surroundings() -> None:
    main = experiment.arms(TINY)
    assert list(main) == ["default", "b2_only", "eps_root_only", "tuned"]
    assert main["b2_only"] == main["default"] | {"b2": 0.9}
    assert main["eps_root_only"] == main["default"] | {"eps_root": 1e-3}
    config = experiment.STUDIES["laptop"]
    around = {
        "width": ("width_half", "width_double"),
        "steps_per_period": ("budget_half", "budget_double"),
        "batch_size": ("batch_quarter", "batch_double"),
        "eps_root": ("eps_root_tenfold",),
    }
    tuned, arms = dataclasses.replace(config, **main["tuned"]), experiment.arms(config)
    assert set(arms) == set(main) | {name for names in around.values() for name in names}
    for field, names in around.items():
        for name in names:
            arm = dataclasses.replace(config, **arms[name])
            assert getattr(arm, field) != getattr(tuned, field)
            periods = {field: getattr(tuned, field), "periods": tuned.periods}
            assert dataclasses.replace(arm, **periods) == tuned


def record(accuracy: list[float], **traces: Any) -> dict[str, np.ndarray]:
    """Make up what one network measured."""
    periods, window = len(accuracy), TINY.window
    scalars = {name: np.array(accuracy) for name in ("accuracy", "loss", "displacement")}
    flat = {name: np.ones((periods, 2 * window)) for name in experiment.TRACES}
    return scalars | {"dead_units": 1 - np.array(accuracy)} | flat | traces


def made_up(records: results.Records) -> Run:
    """Make up a run of ``records``."""
    table, arrays = experiment.summarize(TINY, records)
    data = {"records": 60, "full_set": 5_000, "dataset": "mnist_5k"}
    provenance = {
        "study": "quick", "data": data, "device": {"kind": "none"}, "seeds": [0, 1, 2],
        "config": configuration.to_dict(TINY),
    }  # fmt: skip
    return Run("optimizer_instability", "quick", table, arrays, provenance)


def test_a_spike_is_the_largest_after_over_the_median_before() -> None:
    trace = np.ones((3, 8))
    trace[0, 4:] = [2.0, 2.0, 4.0, 100.0]  # before the first switch: median 3
    trace[1, :4] = [1.0, 30.0, 5.0, 1.0]  # after it: largest 30
    trace[1, 4:] = 0.0  # a dead network takes no steps
    run = made_up({("tuned", 0): record([0.9, 0.9, 0.9], update_norm=trace)})
    spikes = run.select(metric="update_spike")
    assert list(spikes.step) == [12, 24]
    np.testing.assert_array_equal(spikes.value, [10.0, np.nan])


def test_collapse_is_half_of_the_best_so_far_by_every_clock() -> None:
    run = made_up({("tuned", 0): record([0.4, 1.0, 0.45]), ("tuned", 1): record([1.0, 0.9, 0.6])})
    first, second = judging.times_to_collapse(run).to_dict("records")
    assert (first["collapsed"], first["step"], first["switches"]) == (True, 36, 2)
    np.testing.assert_allclose(first["memorised"], (0.3 + 0.9) / 0.9)
    np.testing.assert_allclose(first["distance"], 1.4)
    assert (second["collapsed"], second["step"], second["switches"]) == (False, 36, 2)


def test_collapse_can_be_below_an_absolute_accuracy() -> None:
    run = made_up({("tuned", 0): record([0.4, 1.0, 0.45]), ("tuned", 1): record([1.0, 0.9, 0.6])})
    first, second = judging.times_to_collapse(run, least=0.5).to_dict("records")
    assert (first["collapsed"], first["switches"]) == (True, 0), "it began below"
    assert not second["collapsed"]


def test_a_life_that_outlasts_its_run_counts_as_at_least_so_long() -> None:
    """By hand: of five, two end at 1 and 3, one is censored at 2, and 2 of 3 outlive 3."""
    times = np.array([1.0, 3.0, 2.0, 9.0, 9.0])
    ended = np.array([True, True, False, False, False])
    assert judging.median_lifetime(times, ended) == np.inf  # 4/5, then 4/5 · 2/3 = .53
    ended[3] = True
    assert judging.median_lifetime(times, ended) == 9.0  # .53 / 2
    assert judging.median_lifetime(times, np.ones(5, bool)) == 3.0, "the ordinary median"
    assert judging.median_lifetime(times, np.zeros(5, bool)) == np.inf


def fates(default: float, tuned: float, spike: float = 3.0) -> Run:
    """Make up a run in which the two arms end with the accuracies given, on every seed."""
    records = {}
    for seed in range(5):
        for arm, end, height in (("default", default, 4.0 * spike), ("tuned", tuned, 4.0)):
            jump = np.ones((3, 8))
            jump[1:, 0] = height * (1 + 0.01 * seed * (arm == "tuned"))
            records[arm, seed] = record([1.0, 0.95, end + 0.001 * seed], update_norm=jump)
    return made_up(records)


@pytest.mark.parametrize(
    ("run", "statuses"),
    [
        (fates(0.1, 0.95), ["supported", "supported", "supported"]),
        (fates(0.95, 0.95), ["contradicted", "inconclusive", "supported"]),
        (fates(0.1, 0.5), ["supported", "contradicted", "supported"]),
        (fates(0.1, 0.95, spike=0.5), ["supported", "supported", "contradicted"]),
    ],
)
def test_judges_follow_the_ledger(run: Run, statuses: list[str]) -> None:
    found = [verdict for judge in judging.CLAIMS.values() for verdict in judge(run)]
    assert [verdict.status for verdict in found] == statuses


def test_the_gain_over_an_arm_at_chance_does_not_count_at_chance() -> None:
    """Both networks have forgotten everything: which has forgotten more says nothing."""
    (lost,), (kept,) = (judging.judge_tuned_stable(fates(0.1, end)) for end in (0.11, 0.5))
    assert [bool(c.empty) for c in lost.conditions] == [False, False, True]
    assert not any(c.empty for c in kept.conditions)
    assert lost.note.startswith("Had the run ended earlier: ")


def test_a_mechanism_never_met_is_inconclusive() -> None:
    records = {(arm, s): record([0.5, 0.5, 0.5]) for arm in ("default", "tuned") for s in (0, 1)}
    (verdict,) = judging.judge_mechanism(made_up(records))
    assert verdict.status == "inconclusive"
    assert verdict.conditions[0].measured.n == statistics.UNKNOWN.n == 0


def four(accuracies: dict[str, list[float]], **traces: Any) -> Run:
    """Make up a run of the four main arms, the same on two seeds but for a thousandth."""
    return made_up(
        {
            (arm, seed): record([value + 0.001 * seed for value in values], **traces)
            for arm, values in accuracies.items()
            for seed in (0, 1)
        }
    )


LIVES = {
    "default": [1.0, 0.4, 0.1],
    "b2_only": [1.0, 0.4, 0.1],
    "eps_root_only": [0.85, 0.95, 0.1],
    "tuned": [0.8, 0.95, 0.1],
}
"""Accuracies of the four arms at the end of three periods of twelve steps."""


def test_tables_name_every_arm_of_a_recorded_study() -> None:
    for study in ("laptop", "laptop_slower"):
        for arm in EXPERIMENT.arms(EXPERIMENT.studies[study]):
            assert "_" not in words.named(arm), "a name of the code"
    assert words.named("default_7e-05") == "default Adam, rate 7e-05"


def test_a_gain_is_counted_in_sets_of_labels() -> None:
    found = judging.gains(four(LIVES))
    assert {name: round(gain.estimate, 6) for name, gain in found.items()} == {
        "floor": 0.4, "floor beside faster": 0.35, "faster": 0.0, "faster beside floor": -0.05
    }  # fmt: skip
    table = words.which_constant([four(LIVES)], [found])
    assert table.iloc[:, 1].tolist() == [
        "+0.40 [+0.40, +0.40], helps", "+0.35 [+0.35, +0.35], helps",
        "+0.00 [+0.00, +0.00], not shown", "-0.05 [-0.05, -0.05], harms",
    ]  # fmt: skip
    assert list(table) == ["change", "quick: width 16, 60 images"]


def test_a_switch_counts_as_memorised_if_every_arm_and_seed_had_learned_its_labels() -> None:
    assert judging.memorised_switches(four(LIVES)) == []
    good = {arm: [0.95, 0.91, 0.95] for arm in LIVES}
    assert judging.memorised_switches(four(good)) == [1, 2]
    assert judging.memorised_switches(four(good | {"b2_only": [0.95, 0.89, 0.95]})) == [1]


def test_what_happens_at_a_switch_is_taken_from_the_windows_around_it() -> None:
    trace = np.full((3, 8), 9.0)
    trace[1, 4:] = [2.0, 2.0, 4.0, 100.0]  # before the second switch: median 3
    trace[2, :4] = [1.0, 30.0, 5.0, 7.0]  # after it: largest 30, last 7
    run = four(LIVES, update_norm=trace)
    found = judging.at_switch(run, 2).loc["tuned"]
    names = ["accuracy", "update_before", "update_peak", "update_late", "jump", "ratio_peak"]
    np.testing.assert_allclose(found[names], [0.9505, 3.0, 30.0, 7.0, 10.0, 1.0])
    (row,) = words.mechanism({2: judging.at_switch(run, 2).loc[["tuned"]]}, 4).to_dict("records")
    assert row == {
        "switch": 2, "arm": "tuned", "accuracy before": "0.95", "m̂/√v̂: before → peak": "1 → 1",
        "update norm: before → peak": "3 → 30", "jump": "× 10.0", "update norm, 4 steps on": "7",
    }  # fmt: skip


def test_the_largest_ratio_is_compared_with_its_closed_form() -> None:
    window = experiment.MAIN_ARMS["default"], np.arange(1, 5)
    bound = (1 - window[0].b1 ** window[1]) / np.sqrt(1 - window[0].b2 ** window[1])
    trace = np.ones((3, 8))
    trace[1, :4] = bound * [0.2, 0.5, 0.1, 0.3]
    found = judging.at_switch(four(LIVES, moment_ratio=trace), 1)
    np.testing.assert_allclose(found.envelope["default"], 0.5, rtol=1e-3)


def test_the_verdict_over_steps_is_that_of_a_shorter_run() -> None:
    run = four({"default": [0.99, 0.1, 0.1], "tuned": [0.95, 0.95, 0.1]})
    stable = judging.tuned_stable_by_step(run)
    assert stable.to_dict() == {12: "contradicted", 24: "supported", 36: "contradicted"}
    assert words.over_steps(run, stable) == (
        "Judged as if the run had ended earlier (`quick`): contradicted at step 12; "
        "supported at step 24; contradicted at step 36."
    )
    longer = pd.Series(["supported", "supported", "inconclusive", "inconclusive"], [1, 2, 3, 4])
    assert words.over_steps(run, longer).endswith(
        "supported from step 1 to 2; inconclusive from step 3 on."
    )


def test_a_window_opens_when_labels_are_first_memorised() -> None:
    run = four({"default": [1.0, 0.4, 0.95], "tuned": [0.8, 0.95, 0.93]})
    assert words.windows(run) == (
        "- **default Adam** ended every label period at an accuracy of 0.9 or more from step 12 to "
        "step 12 of 36 (medians of 2 seeds; the last such step lies between 12 and 12).\n"
        "- **tuned Adam** ended every label period at an accuracy of 0.9 or more from step 24 to "
        "step 36 of 36 (medians of 2 seeds; the last such step lies between 36 and 36)."
    )
    never = words.windows(four({"default": [0.5, 0.5, 0.5], "tuned": [1.0, 1.0, 1.0]}))
    assert never.startswith("- **default Adam** ended no label period at 0.9, of 36.")


def test_how_much_later_is_said_by_two_ways_to_say_when() -> None:
    run = four({"default": [1.0, 0.15, 0.1], "tuned": [0.9, 0.95, 0.1]})
    times = judging.times_to_collapse(run)
    assert "at step 24 under default Adam and at step 36 under the tuned one, **1.5 times**" in (
        words.postponed(run, times)
    )
    alive = four({"default": [1.0, 0.15, 0.1], "tuned": [0.9, 0.95, 0.9]})
    with pytest.raises(ValueError, match="tuned: had not collapsed"):
        words.postponed(alive, judging.times_to_collapse(alive))


def test_runs_are_laid_side_by_side() -> None:
    layers = {f"dead_units_layer_{layer}": np.full(3, layer / 2) for layer in (1, 2)}
    run = four(LIVES, **layers)
    times, verdicts = judging.times_to_collapse(run), judging.judge_dead_units(run)
    table = words.compared([run], [times], [verdicts]).set_index("what")[
        "quick: width 16, 60 images"
    ]
    assert table["collapse under default Adam, step"] == "24"
    assert table["times as late: tuned"] == "1.5" and table["times as late: only β₂ = .9"] == "1.0"
    assert table["dead at the end, layer 2: default, tuned"] == "1.00, 1.00"
    assert table["adam-dead-units"] == "supported"


def test_jumps_are_drawn_until_a_network_collapses() -> None:
    run = four(LIVES)
    figure = figures.spikes(run, judging.times_to_collapse(run), arms=("default", "tuned"))
    drawn = [line.get_xdata() for line in figure.axes[0].lines]
    assert max(drawn[1]) == 12 and max(drawn[3]) == 24


COMMITTED = [run for run in results.recorded("optimizer_instability") if run.study != "quick"]


@pytest.mark.parametrize("run", COMMITTED, ids=lambda run: run.label)
def test_recorded_runs_are_of_this_code_this_study_and_these_data(run: Run) -> None:
    """If this fails: `plasticity reproduce ...` if the change should leave every bit as it was.

    It proves so with one seed. If numbers change, as is meant, record again: `plasticity run ...
    --fresh`.
    """
    config = configuration.from_dict(Config, run.config)
    assert freshness.is_fresh(run.provenance, EXPERIMENT)
    assert config == experiment.STUDIES[run.study]
    assert run.provenance["world"] == checkpoints.digest(experiment.load(config)[0])
    assert run.provenance["uncommitted_source"] is False
    arms = experiment.arms(config)
    assert len(run.table.groupby(["arm", "seed"])) == len(arms) * config.seeds
    assert isinstance(run.table, pd.DataFrame)
    assert np.isfinite(run.select(metric="accuracy").value).all()
