"""What figures draw of made-up runs, and that a film is whole, offline and has words."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from plasticity.chapters.curvature_evolution import figures as curvature_evolution_figures
from plasticity.chapters.curvature_evolution.figures import Film
from plasticity.chapters.interventions import figures as interventions_figures
from plasticity.chapters.interventions import heatmaps
from plasticity.chapters.interventions.contrasts import pareto
from plasticity.chapters.scaling import figures as scaling_figures
from plasticity.chapters.style import Figure
from plasticity.runs.results import Run
from plasticity.statistics import UNKNOWN, Interval

DATA = {"records": 10, "full_set": 20, "dataset": "made up"}
PROVENANCE = {"study": "quick", "data": DATA, "device": {"kind": "none"}, "seeds": [0, 1]}


@pytest.fixture(scope="module")
def run() -> Run:
    """Two seeds, three measurements, four Lanczos steps; the agent's largest eigenvalue grows."""
    rng = np.random.default_rng(0)
    arrays = {}
    for process, ends in (("agent", (1.0, 5.0, 40.0)), ("walk", (1.0, 1.0, 1.0))):
        nodes = np.sort(rng.uniform(0, 1, (2, 3, 1, 4)).astype(np.float32))
        nodes[..., -1] = np.asarray(ends)[:, None]
        arrays[f"nodes/agent/{process}"] = nodes
        arrays[f"weights/agent/{process}"] = np.full((2, 3, 1, 4), 0.25, np.float32)
    table = pd.DataFrame({"arm": "agent", "seed": 0, "step": [0, 10, 20], "value": 1.0})
    return Run("curvature_evolution", "quick", table, arrays, PROVENANCE)


@pytest.fixture(scope="module")
def film(run: Run) -> Film:
    """The spectra of that run."""
    return curvature_evolution_figures.spectra_film(run)


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        """Read ``text``."""
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.found.append((tag, dict(attributes)))


def test_a_film_has_a_frame_a_measurement_and_they_differ(film: Film) -> None:
    assert film.titles == ("step 0", "step 10", "step 20")
    pictures = [np.asarray(Image.open(io.BytesIO(frame))) for frame in film.frames]
    assert len({picture.shape for picture in pictures}) == 1
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])
    with Image.open(io.BytesIO(film._repr_png_())) as still:
        assert still.format == "PNG"


def test_a_film_is_in_one_piece_and_without_scripts_it_shows_its_end(film: Film) -> None:
    page = film._repr_html_()
    assert not re.search("https?://", page)
    tags = Tags(page).found
    (image,) = (attributes for tag, attributes in tags if tag == "img")
    assert len(str(image["alt"])) > 60
    assert str(image["src"]).startswith("data:image/webp;base64,")
    assert page.count(str(image["src"])) == 2, "the last frame is the one that is shown"
    assert page.count("data:image/webp") == len(film.frames) + 1
    (controls,) = (a for tag, a in tags if tag == "div" and a.get("class") == "film-controls")
    assert "hidden" in controls, "controls that do nothing without a script are not shown"
    (slider,) = (attributes for tag, attributes in tags if tag == "input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", "2")
    assert slider["aria-label"]


def test_words_of_a_film_are_escaped() -> None:
    film = Film("name", (b"a",), ("t",), b"", 'less < more & "quoted"')
    (image,) = (a for tag, a in Tags(film._repr_html_()).found if tag == "img")
    assert image["alt"] == 'less < more & "quoted"'


def test_the_axis_holds_every_seed(run: Run) -> None:
    low, high = curvature_evolution_figures._range(run, [0, 1, 2])
    nodes = np.concatenate([array.ravel() for n, array in run.arrays.items() if "nodes" in n])
    assert low < nodes.min() and high > nodes.max()


def texts(figure: Figure) -> list[str]:
    """Every word in the panels of a figure, but for those of its axes."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def lay_out(figure: Figure) -> None:
    """Lay the figure out as if to draw it: what cannot be laid out warns, and so raises."""
    figure.draw_without_rendering()


def cell(name: str, change: Interval, paper: float = np.nan, **others: object) -> dict[str, object]:
    """A row of `plasticity.chapters.interventions.contrasts.cells`, made up."""
    return {
        "variant": "true_label", "dataset": "mnist_5k", "architecture": "mlp",
        "encoding": "regression", "intervention": name, "initial": Interval(0.1, 0.05, 0.15, 2),
        "final": Interval(0.1 + change.estimate, 0.1, 0.4, 2), "change": change,
        "accuracy": Interval(0.9, 0.8, 1.0, 2), "diverged": 0, "paper_initial": 0.2,
        "paper_final": 0.2 + paper, "paper_change": paper, "paper_spread": 0.07, **others,
    }  # fmt: skip


@pytest.fixture
def cells() -> pd.DataFrame:
    """Two networks, one with both outputs; one cell agrees with the paper and one does not."""
    return pd.DataFrame(
        [
            cell("shrink_and_perturb", Interval(0.3, 0.25, 0.35, 2), 0.32),
            cell("none", Interval(0.2, 0.15, 0.25, 2), -0.004),
            cell("reset_optimizer", Interval(0.1, -np.inf, np.inf, 1), diverged=1),
            cell("none", Interval(0.05, 0.01, 0.09, 2), 0.1, encoding="two_hot",
                 accuracy=Interval(0.7, 0.6, 0.8, 2)),
            cell("none", UNKNOWN, 0.2, architecture="cnn", accuracy=UNKNOWN, final=UNKNOWN,
                 initial=UNKNOWN, diverged=2),
        ]
    )  # fmt: skip


def test_a_heat_map_prints_ours_the_papers_and_the_difference(
    run: Run, cells: pd.DataFrame
) -> None:
    figure = heatmaps.heat_maps(run, cells)
    ours, theirs, difference = figure.axes[:3]
    assert [text.get_text() for text in ours.texts] == [
        "0.20\n±0.05", "diverged", "0.30\n±0.05", "0.10*", "0.05\n±0.04",
    ]  # fmt: skip
    assert [text.get_text() for text in theirs.texts] == [
        "0.00\n±0.07", "0.20\n±0.07", "0.32\n±0.07", "–", "0.10\n±0.07",
    ]  # fmt: skip
    printed = {text.get_text(): text.get_fontweight() for text in difference.texts}
    assert printed == {"+0.20": "bold", "–": "normal", "−0.02": "normal", "−0.05": "bold"}
    labels = [label.get_text() for label in ours.get_yticklabels()]
    assert labels == [
        "regression output", "none", "shrink and perturb", "reset optimizer",
        "two-hot output", "none",
    ]  # fmt: skip
    assert [label.get_text() for label in ours.get_xticklabels()] == ["MLP", "CNN"]
    assert "without agents that diverged" in figure.get_suptitle()
    lay_out(figure)


def test_a_heat_map_shares_one_scale_and_lighter_is_less(run: Run, cells: pd.DataFrame) -> None:
    figure = heatmaps.heat_maps(run, cells)
    colours = {}
    for axes in figure.axes[:2]:
        for text, patch in zip(axes.texts, axes.patches, strict=True):
            colours[text.get_text()[:4]] = sum(patch.get_facecolor()[:3])
    assert colours["0.32"] < colours["0.20"] < colours["0.10"] < colours["0.00"]


def test_a_heat_map_of_levels_has_no_spread_of_the_papers(run: Run, cells: pd.DataFrame) -> None:
    figure = heatmaps.heat_maps(run, cells, "final")
    assert "0.52" in [text.get_text() for text in figure.axes[1].texts]
    with pytest.raises(KeyError, match="sparse_reward"):
        heatmaps.heat_maps(run, cells, variant="sparse_reward")
    with pytest.raises(KeyError, match="one of change, initial, final"):
        heatmaps.heat_maps(run, cells, "chnage")


def test_an_intervention_without_a_colour_is_refused_and_not_left_out(
    run: Run, cells: pd.DataFrame
) -> None:
    assert heatmaps.named(cells) == ["none", "shrink_and_perturb", "reset_optimizer"]
    unknown = pd.concat([cells, cells[:1].assign(intervention="dropout")])
    for draw in (
        lambda: heatmaps.named(unknown),
        lambda: heatmaps.heat_maps(run, unknown),
        lambda: interventions_figures.levels(run, unknown),
        lambda: interventions_figures.kept_against_task(run, unknown, pareto),
    ):
        with pytest.raises(KeyError, match="dropout"):
            draw()


def test_each_data_set_has_a_row_of_maps(run: Run, cells: pd.DataFrame) -> None:
    two = pd.concat([cells[:2], cells[:2].assign(dataset="cifar10_train")])
    figure = heatmaps.heat_maps(run, two)
    assert len(figure.axes) == 6 + 2, "and two scales"
    assert [axes.get_title("left") for axes in figure.axes[:6:3]] == [
        "MNIST: ours",
        "CIFAR-10: ours",
    ]


def test_levels_run_from_before_training_to_the_end(run: Run, cells: pd.DataFrame) -> None:
    figure = interventions_figures.levels(run, cells)
    assert [axes.get_title("left") for axes in figure.axes] == [
        "MNIST · MLP\nregression output", "MNIST · CNN\nregression output",
        "MNIST · MLP\ntwo-hot output", "MNIST · CNN\ntwo-hot output",
    ]  # fmt: skip
    lines = [line.get_xdata() for line in figure.axes[0].lines]
    assert any(np.allclose(x, (0.1, 0.4)) for x in lines if len(x) == 2), "ours"
    assert any(np.allclose(x, (0.2, 0.52)) for x in lines if len(x) == 2), "the paper's"
    assert figure.axes[0].get_xlim()[1] > 0.52
    lay_out(figure)


def training() -> Run:
    """Four arms of two seeds; one agent diverges, and one metric is unknown before training."""
    rows = []
    for encoding in ("regression", "two_hot"):
        for intervention in ("none", "layer_norm"):
            arm = f"true_label-mnist_5k-mlp-{encoding}-{intervention}"
            for seed in (0, 1):
                gone = encoding == "two_hot" and intervention == "none" and seed == 1
                for step in (0, 10, 20):
                    accuracy = np.nan if gone and step == 20 else 0.1 + 0.02 * step + 0.1 * seed
                    td_loss = 10.0 ** (seed + 1) if step else np.nan
                    where = arm, encoding, intervention, seed, step
                    rows += [(*where, "accuracy", accuracy), (*where, "td_loss", td_loss)]
    columns = ["arm", "encoding", "intervention", "seed", "step", "metric", "value"]
    table = pd.DataFrame(rows, columns=columns).assign(
        variant="true_label", dataset="mnist_5k", architecture="mlp"
    )
    return Run("interventions", "quick", table, {}, PROVENANCE)


def test_task_curves_leave_out_agents_that_diverged_and_count_them() -> None:
    figure = interventions_figures.task_curves(training())
    assert [axes.get_title("left") for axes in figure.axes] == [
        "MLP · true-label\nregression output", "MLP · true-label\ntwo-hot output",
    ]  # fmt: skip
    means = [[line.get_ydata() for line in axes.lines] for axes in figure.axes]
    np.testing.assert_allclose(means[0], [[0.15, 0.35, 0.55]] * 2)
    np.testing.assert_allclose(means[1], [[0.1, 0.3, 0.5], [0.15, 0.35, 0.55]])
    assert texts(figure) == ["1 diverged"]
    lay_out(figure)


def test_a_td_loss_has_geometric_means_on_a_logarithmic_axis() -> None:
    figure = interventions_figures.task_curves(training(), "td_loss", "mnist_5k")
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [np.sqrt(1000.0)] * 2)
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [10, 20])
    low, high = axes.get_ylim()
    assert low < 10 and 100 < high < 1000, "an interval of two seeds is cut"
    lay_out(figure)
    with pytest.raises(KeyError, match="mnist_5k"):
        interventions_figures.task_curves(training(), dataset="cifar10_train")


def test_the_front_joins_what_is_beaten_by_none(run: Run, cells: pd.DataFrame) -> None:
    figure = interventions_figures.kept_against_task(run, cells, pareto)
    assert [axes.get_title("left") for axes in figure.axes] == [
        "MLP · MNIST · true-label", "CNN · MNIST · true-label",
    ]  # fmt: skip
    axes = figure.axes[0]
    front = axes.lines[-1]
    np.testing.assert_allclose(front.get_xydata(), [(0.7, 0.15), (0.9, 0.2)])
    low, high = axes.get_ylim()
    assert low > high, "up is more plastic"
    hollow = [line.get_xdata()[0] for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [0.7], "two-hot outputs"
    assert axes.get_xlim()[1] < 1.05, "no share is above 1"
    lay_out(figure)


def widths_of(losses: dict[int, list[float]], **others: object) -> pd.DataFrame:
    """Agents as `plasticity.chapters.scaling.judge.agents` returns them, with a column too many."""
    rows = [(width, loss) for width, seeds in losses.items() for loss in seeds]
    frame = pd.DataFrame(rows, columns=["width", "plasticity_loss"])
    return frame.assign(
        **{"dataset": "mnist_5k", "architecture": "mlp", "discount": 0.9, "target_period": 1,
           "initial_loss": 0.3, "value": "a name", **others}
    )  # fmt: skip


FALLING = {16: [0.29, 0.31], 32: [0.19, 0.21], 64: [0.1, np.nan]}
"""Falls by a tenth a doubling: zero at 128."""


def test_widths_draw_means_agents_and_what_fresh_networks_lose(run: Run) -> None:
    figure = scaling_figures.widths(run, widths_of(FALLING))
    above, below = figure.axes
    means = [line for line in above.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(means[0].get_xydata(), [(16, 0.3), (32, 0.2), (64, 0.1)])
    assert means[0].get_linestyle() == "-", "means are joined, and no fit stands for them"
    crosses = [line.get_xdata().tolist() for line in above.lines if line.get_marker() == "x"]
    assert crosses == [[64.0]], "where an agent diverged"
    ceiling = [line for line in above.lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(ceiling[0].get_ydata(), [0.2] * 3)
    np.testing.assert_allclose(below.lines[0].get_ydata(), [0.3] * 3)
    assert above.get_title("left") == "MNIST · MLP", "one discount is not named"
    lay_out(figure)


def circles(figure: Figure) -> list[list[float]]:
    """Return where the hollow circles of the first panel are."""
    lines = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    return [np.asarray(line.get_xdata()).round(12).tolist() for line in lines]


def test_exploding_values_have_a_panel_with_medians_on_a_logarithmic_axis(run: Run) -> None:
    wild = widths_of({16: [0.1, 0.2, 900.0], 32: [0.1, 0.3, 5.0]}, discount=0.99)
    agents = pd.concat([widths_of(FALLING), wild], ignore_index=True)
    figure = scaling_figures.widths(run, agents)
    tame, exploding = figure.axes[:2]
    assert exploding.get_title("left") == "MNIST · MLP · γ = 0.99 · medians"
    assert (tame.get_yscale(), exploding.get_yscale()) == ("linear", "symlog")
    (medians,) = (line for line in exploding.lines if line.get_marker() == "o")
    np.testing.assert_allclose(medians.get_ydata(), [0.2, 0.3])
    lay_out(figure)


def test_panels_without_a_curve_are_hidden(run: Run) -> None:
    networks = [("mnist_5k", "mlp"), ("mnist_5k", "cnn"), ("cifar10_train", "mlp")]
    agents = pd.concat([widths_of(FALLING, dataset=d, architecture=a) for d, a in networks])
    shown = [axes.get_visible() for axes in scaling_figures.widths(run, agents).axes]
    assert shown == [True] * 5 + [False, True, False]


def test_the_cost_of_width_has_two_logarithmic_panels(run: Run) -> None:
    turns = (0.5, 1.0, 3.0)  # medians are drawn
    rows = [
        (a, w, 0.01 * w * turn, 2.0 * w) for a in ("mlp", "cnn") for w in (64, 16) for turn in turns
    ]
    columns = ["architecture", "width", "milliseconds", "mebibytes"]
    table = pd.DataFrame(rows, columns=columns)
    figure = scaling_figures.width_cost(None, table)
    time, memory = figure.axes
    np.testing.assert_allclose(time.lines[0].get_xydata(), [(16, 0.16), (64, 0.64)])
    assert len(memory.lines) == 2 and memory.get_yscale() == time.get_xscale() == "log"
    assert scaling_figures.width_cost(run, table).get_supxlabel() == run.describe()
    lay_out(figure)
