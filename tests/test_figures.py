"""What cannot be seen by looking at the pages: that a film is whole, offline and has words."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from plasticity.figures import curvature as figures
from plasticity.figures.curvature import Film
from plasticity.results import Run


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
    data = {"records": 10, "full_set": 20, "dataset": "made up"}
    provenance = {"profile": "quick", "data": data, "device": {"kind": "none"}, "seeds": [0, 1]}
    return Run("curvature_evolution", "quick", table, arrays, provenance)


@pytest.fixture(scope="module")
def film(run: Run) -> Film:
    """The spectra of that run."""
    return figures.spectra_film(run)


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
    low, high = figures._range(run, [0, 1, 2])
    nodes = np.concatenate([array.ravel() for n, array in run.arrays.items() if "nodes" in n])
    assert low < nodes.min() and high > nodes.max()
