"""Figures of curvature: spectra, sharpness over training, gradient covariance (Figs. 2 and 14)."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from plasticity.chapters.curvature_evolution import words
from plasticity.chapters.style import (
    COLOURS,
    GREY,
    MARKERS,
    STYLE,
    Figure,
    band,
    finish,
    logarithmic,
)
from plasticity.measure import curvature, gradients
from plasticity.runs.results import Run
from plasticity.worlds import classification_mdp

PROCESSES: Mapping[str, tuple[str, str]] = {
    "agent": (COLOURS[0], "gradient descent"),
    "walk": (COLOURS[1], "random walk"),
}
"""Colour and title of the two processes of Fig. 2."""

POINTS = 600
"""How many points of a density are drawn."""

FLOOR = 1e-8
"""The smallest density that is drawn."""


def spectral_density(
    densities: Mapping[str, tuple[np.ndarray, curvature.Estimate]], note: str
) -> Figure:
    """Draw spectral densities on one logarithmic axis, one colour each, with standard errors.

    ``densities`` maps a name to (grid, `plasticity.measure.curvature.density` on it); ``note``
    stands at the figure's foot.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4))
        axes = figure.subplots()
        for k, (name, (grid, found)) in enumerate(densities.items()):
            value, error = np.asarray(found.value), np.asarray(found.error)
            axes.plot(grid, np.maximum(value, FLOOR), color=COLOURS[k], label=name)
            if np.isfinite(error).all():
                low, high = (np.maximum(value + sign * error, FLOOR) for sign in (-1, 1))
                axes.fill_between(grid, low, high, color=COLOURS[k], alpha=0.25, linewidth=0)
        axes.set(yscale="log", xlabel="eigenvalue of the Hessian", ylabel="density")
        axes.legend(fontsize=9)
        figure.supxlabel(note, fontsize=7.5, color=GREY, x=0.995, ha="right")
        return figure


def spectra(run: Run, moments: Mapping[str, int]) -> Figure:
    """Draw the spectra of Fig. 2's agent and of its walk, each at several moments.

    ``moments`` maps a name to the number of a measurement. Curves are means over seeds; the ticks
    below them mark each seed's largest eigenvalue.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4))
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        low, high = _range(run, list(moments.values()))
        for axes, (process, (_, title)) in zip(panels, PROCESSES.items(), strict=True):
            for k, (name, at) in enumerate(moments.items()):
                _density(axes, run, process, at, (low, high), COLOURS[k], name)
                largest = run.arrays[f"nodes/agent/{process}"][:, at].max(axis=(1, 2))
                axes.plot(largest, np.full(len(largest), 3 * FLOOR), "|", color=COLOURS[k], ms=9)
            axes.set(title=title, xlabel="eigenvalue of the proxy Hessian")
        panels[0].set(ylabel="density")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=3, fontsize=9)
        return finish(figure, run)


def _range(run: Run, moments: list[int]) -> tuple[float, float]:
    """Return the ends of an axis that holds every eigenvalue of both processes, all seeds."""
    nodes = [run.arrays[f"nodes/agent/{process}"][:, moments] for process in PROCESSES]
    low, high = min(n.min() for n in nodes), max(n.max() for n in nodes)
    return float(low - 0.05 * (high - low)), float(high + 0.05 * (high - low))


def _density(
    axes: Axes, run: Run, process: str, at: int, ends: tuple[float, float], colour: str, name: str
) -> None:
    """Draw the mean density over seeds and vectors at measurement ``at``."""
    nodes, weights = (
        jnp.concatenate(run.arrays[f"{name}/agent/{process}"][:, at])
        for name in ("nodes", "weights")
    )
    grid = jnp.linspace(*ends, POINTS)
    width = (ends[1] - ends[0]) / 200
    found = curvature.density(curvature.Spectrum(nodes, weights), grid, width)
    axes.plot(grid, np.maximum(found.value, FLOOR), color=colour, label=name)
    axes.set(yscale="log", xlim=ends, ylim=(FLOOR, 10))


def sharpness(run: Run, processes: Mapping[str, str], arm: str = "agent") -> Figure:
    """Draw λ₁ and the share of interfering pairs of several processes over training.

    ``processes`` maps a process to its name in the legend.
    """
    panels = {
        "sharpness": "Largest eigenvalue of the proxy Hessian",
        "negative_share": "Share of pairs with a cosine below -0.1",
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6))
        grid = figure.subplots(1, 2)
        for axes, (metric, title) in zip(grid, panels.items(), strict=True):
            for k, (process, name) in enumerate(processes.items()):
                rows = run.select(arm=arm, process=process, metric=metric)
                logs = metric == "sharpness"
                band(axes, rows, COLOURS[k], MARKERS[k], name, logs=logs)
            axes.set(title=title, xlabel="optimizer steps")
        logarithmic(grid[0])
        grid[1].set_ylim(0, None)
        handles, names = grid[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=3, fontsize=9)
        return finish(figure, run)


def against_distance(run: Run, arms: Mapping[str, str]) -> Figure:
    """Draw the growth of λ₁ against how far the parameters have moved, one panel per arm.

    Both are medians over seeds. If only distance matters, walks of all step norms fall on one
    curve.
    """
    medians = {
        (arm, process): [
            run.select(arm=arm, process=process, metric=metric).groupby("step").value.median()
            for metric in ("distance", "sharpness")
        ]
        for arm in arms
        for process in run.select(arm=arm).process.unique()
    }
    nearest = sorted({process for _, process in medians if process != "agent"}, key=_steps)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.8))
        panels = np.atleast_1d(figure.subplots(1, len(arms), sharex=True, sharey=True))
        for axes, (arm, title) in zip(panels, arms.items(), strict=True):
            for k, process in enumerate(["agent", *nearest]):
                if (arm, process) not in medians:
                    continue
                far, sharp = (values.to_numpy() for values in medians[arm, process])
                axes.plot(
                    far[1:], sharp[1:] / sharp[0], MARKERS[k], color=COLOURS[k], alpha=0.8,
                    label=words.process(process),
                )  # fmt: skip
            axes.axhline(1, color=GREY, linewidth=0.8)
            axes.set(xscale="log", title=title, xlabel="distance moved / norm")
            logarithmic(axes)
        panels[0].set(ylabel=r"$\lambda_1$ / its start")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=4, fontsize=9)
        return finish(figure, run)


def _steps(process: str) -> float:
    """Return a walk's step length in units of the agent's, nudged so that equal ones sort apart."""
    return {"walk": 1.0, "walk_per_tensor": 1.5}.get(process) or float(process.partition("_x")[2])


def covariance_maps(run: Run, moments: tuple[str, str]) -> Figure:
    """Draw C_k of agent and walk at the two moments that a run keeps, in k-means order (A.1)."""
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(8, 7.4))
        grid = figure.subplots(2, 2)
        steps = mpl.colormaps["PuOr_r"].resampled(21)  # noise in few colours makes a small file
        for row, (process, (_, title)) in zip(grid, PROCESSES.items(), strict=True):
            for axes, moment, cosines in zip(
                row, moments, run.arrays[f"cosines/agent/{process}"], strict=True
            ):
                cosines = np.asarray(cosines, np.float32)
                order = gradients.kmeans_order(cosines, classification_mdp.STATES)
                shown = axes.imshow(
                    cosines[np.ix_(order, order)], cmap=steps, vmin=-1, vmax=1,
                    interpolation="nearest",
                )  # fmt: skip
                axes.set(title=f"{title}, {moment}", xticks=[], yticks=[])
        figure.colorbar(shown, ax=grid, shrink=0.5, label="cosine of two examples' gradients")
        return finish(figure, run)


def layer_norm(run: Run, pairs: Mapping[str, tuple[str, str]]) -> Figure:
    """Draw λ₁ over training without and with layer normalisation, one panel per problem (Fig. 14).

    ``pairs`` maps a panel's title to (arm without, arm with).
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6))
        panels = np.atleast_1d(figure.subplots(1, len(pairs), sharey=True))
        names = ("without layer normalisation", "with")
        for axes, (title, arms) in zip(panels, pairs.items(), strict=True):
            for k, (arm, name) in enumerate(zip(arms, names, strict=True)):
                rows = run.select(arm=arm, process="agent", metric="sharpness")
                band(axes, rows, COLOURS[k], MARKERS[k], name, logs=True)
            axes.set(title=title, xlabel="optimizer steps")
            logarithmic(axes)
        panels[0].set(ylabel=r"$\lambda_1$ of the proxy Hessian")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3, fontsize=9)
        return finish(figure, run)


@dataclass(frozen=True)
class Film:
    """A sequence of pictures, played in the page; in print only the last is shown."""

    name: str  # an identifier, unique on its page
    frames: tuple[bytes, ...] = field(repr=False)  # WebP
    titles: tuple[str, ...]  # of each frame
    still: bytes = field(repr=False)  # PNG
    alternative: str  # in words

    def _repr_png_(self) -> bytes:
        return self.still

    def _repr_html_(self) -> str:
        """Return a self-contained player; without scripts it shows the last frame."""
        sources = [f"data:image/webp;base64,{base64.b64encode(f).decode()}" for f in self.frames]
        last = len(sources) - 1
        return PLAYER.format(
            name=self.name, last=last, shown=sources[last], title=self.titles[last],
            alternative=html.escape(self.alternative), frames=sources, titles=list(self.titles),
        )  # fmt: skip


PLAYER = """<div class="film" id="{name}">
<img src="{shown}" alt="{alternative}">
<div class="film-controls" hidden>
<button type="button">Play</button>
<input type="range" min="0" max="{last}" value="{last}" aria-label="moment of training">
<output>{title}</output>
</div>
<script>
(() => {{
  const film = document.getElementById("{name}");
  const [image, button, slider, output] = ["img", "button", "input", "output"].map(
    (tag) => film.querySelector(tag));
  const frames = {frames}, titles = {titles};
  let timer = null;
  const show = () => {{
    image.src = frames[slider.value]; output.value = titles[slider.value];
    slider.setAttribute("aria-valuetext", titles[slider.value]);
  }};
  const stop = () => {{ clearInterval(timer); timer = null; button.textContent = "Play"; }};
  button.onclick = () => {{
    if (timer) return stop();
    if (slider.value === slider.max) slider.value = 0;
    show();
    button.textContent = "Pause";
    timer = setInterval(() => {{
      slider.value = Number(slider.value) + 1; show();
      if (slider.value === slider.max) stop();
    }}, 350);
  }};
  slider.oninput = () => {{ stop(); show(); }};
  film.querySelector(".film-controls").hidden = false;
}})();
</script>
</div>"""
"""Of `Film`: a button, a slider and the frames, all in one piece of HTML."""


def spectra_film(run: Run) -> Film:
    """Return the figure of `spectra` as a film over training, with both processes on one axis."""
    steps = run.select(arm="agent").step.unique()
    ends = _range(run, list(range(len(steps))))
    titles = [f"step {step:,}" for step in steps]
    figures = [_frame(run, at, ends, title) for at, title in enumerate(titles)]
    frames = [_saved(figure, "webp", 110) for figure in figures]
    return Film(
        f"film-{run.experiment}-{run.label}", tuple(frames), tuple(titles),
        _saved(figures[-1], "png", STYLE["savefig.dpi"]),
        "Two spectral densities on one logarithmic axis, of gradient descent and of a random walk "
        "with steps of equal length. Over training the largest eigenvalues under gradient descent "
        "move far to the right, and those of the walk stay near where they were.",
    )  # fmt: skip


def _frame(run: Run, at: int, ends: tuple[float, float], title: str) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4))
        axes = figure.subplots()
        for process, (colour, name) in PROCESSES.items():
            _density(axes, run, process, at, ends, colour, name)
        axes.set(title=title, xlabel="eigenvalue of the proxy Hessian", ylabel="density")
        axes.legend(loc="upper right", fontsize=9)
        return finish(figure, run)


def _saved(figure: Figure, kind: str, dpi: float) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=dpi)
    return buffer.getvalue()
