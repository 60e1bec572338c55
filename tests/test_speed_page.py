"""The page Speed: one chart of ours against the fastest peer, its sentences, and what is missing.

What the benchmarks measure, and their tables, are the matter of test_benchmarks.py.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # where they import from
import best_peer
import comparisons
import speed

BENCHMARKS = ("training_speed", "agent_speed", "curvature_speed", "atari_speed")


def measured(table: str, batch_size: int, rates: dict[str, list[float]], **case: object) -> object:
    """Return a benchmark's table: of each contender the steps a second of every round."""
    return pd.DataFrame(
        [
            {"table": table, "contender": contender, "batch_size": batch_size, **case,
             "round": number, "steps_per_second": rate}
            for contender, all_rounds in rates.items()
            for number, rate in enumerate(all_rounds)
        ]
    )  # fmt: skip


AGENTS = measured(
    "agents", 32,
    {
        "agent_pinned": [600.0, 500.0, 600.0], "agent_all": [9_999.0] * 3,  # ours is no peer
        "torch_agent_all": [200.0, 125.0, 150.0], "torch_agent_pinned": [240.0, 250.0, 200.0],
        "torch_update_all": [300.0] * 3, "torch_update_compiled_pinned": [500.0, 510.0, 600.0],
    },
)  # fmt: skip
ATARI = measured(
    "atari_updates", 32,
    {"atari_update_pinned": [40.0, 40.0, 40.0], "torch_atari_update_all": [50.0, 45.0, 50.0]},
)  # fmt: skip
REJAX = pd.concat(
    measured(
        "rejax_agents", 32,
        {"lone_agent_pinned": [500.0] * 3, "rejax_agent_pinned": [250.0] * 3,
         "rejax_agent_alike_pinned": [rate] * 3},
        width=width,
    )
    for width, rate in ((512, 200.0), (64, 400.0))
)  # fmt: skip


def assert_words_fit(picture: best_peer.Picture) -> None:
    """Each kind of work must end before the number on the same line, which must not be cut."""
    picture.figure.draw_without_rendering()
    texts = [(text.get_text(), text.get_window_extent()) for text in picture.figure.axes[0].texts]
    for (label, left), (number, right) in zip(texts[::2], texts[1::2], strict=True):
        assert number.endswith("×") and left.x1 < right.x0, label
        assert right.x1 <= picture.figure.bbox.x1


def test_a_peer_is_taken_at_its_fastest() -> None:
    agents, bare, updates = best_peer.compared([AGENTS, ATARI])
    assert agents.work.words == "agents at batch 32" and agents.peer == "torch_agent_pinned"
    # rounds: 2.5, 2, 3, not the ratio of the medians, 600/240
    assert (agents.ratio, agents.low, agents.high) == (2.5, 2.0, 3.0)
    assert agents.aim == 3.0 and not agents.reached and agents.peer_name == "PyTorch"
    # rounds: 1.2, 500/510, 1: an aim of its own, for the compiled update
    assert bare.peer == "torch_update_compiled_pinned" and bare.ratio == 1
    assert bare.low < 1 and bare.aim == 1.0 and bare.reached and bare.peer_name == "torch.compile"
    assert updates.ratio == 0.8 and updates.aim is None and not updates.reached


def test_rejax_is_a_peer_once_it_is_measured() -> None:
    small, large = best_peer.compared([REJAX])
    assert small.work.words == "agents of width 64" and large.work.words == "agents of width 512"
    assert (small.peer, small.ratio, small.aim) == ("rejax_agent_alike_pinned", 1.25, 2.5)
    assert (large.peer, large.ratio, large.aim) == ("rejax_agent_pinned", 2.0, 1.8)
    assert large.peer_name == "rejax" and large.reached and not small.reached
    assert "| 64 | 32 | rejax: " in speed.as_markdown(REJAX, "rejax_agents")


def test_a_table_that_a_benchmark_has_got_since_is_not_recorded_yet() -> None:
    assert speed.as_markdown(AGENTS, "rejax_agents") == (
        "Not yet recorded: `make bench BENCH=agent_speed` records it."
    )


def test_three_sentences_say_what_the_chart_shows() -> None:
    text = best_peer.in_words(best_peer.compared([AGENTS, ATARI]))
    assert text == (
        "Ours is faster than the fastest peer in 1 of 3 kinds of work; its speed ranges from "
        "0.80 times the peer's (Atari updates, PyTorch eager) to 2.50 times (agents at batch 32, "
        "PyTorch). "
        "It is faster in every round in 1 of them and slower in every round in 1; rounds disagree "
        "about agents at batch 32 vs bare updates. "
        "For 2 of them an aim was set before anything was measured; the median reaches 1 of these "
        "aims and misses those for agents at batch 32."
    )
    sure = best_peer.in_words(best_peer.compared([REJAX[REJAX.width == 512]]))
    assert "slower in every round in 0. For" in sure
    assert sure.endswith("1 of these aims and misses none.")


def test_the_chart_has_a_bar_for_each_kind_of_work_and_fits_a_phone() -> None:
    found = best_peer.compared([AGENTS, ATARI])
    picture = best_peer.chart(found)
    (axes,) = picture.figure.axes
    bars = [bar for bar in axes.patches if bar.get_height() < 0.5]
    assert [bar.get_width() for bar in bars] == [one.ratio for one in found]
    assert [bool(bar.get_hatch()) for bar in bars] == [False, True, True]
    aims = [line.get_xdata() for line in axes.lines if line.get_marker() == "D"]
    assert aims == [[3.0], [1.0]]
    whiskers = [segment for bar in axes.collections for segment in bar.get_segments()]
    assert [tuple(ends[:, 0]) for ends in whiskers] == [
        pytest.approx((one.low, one.high)) for one in found
    ]
    assert picture.figure.get_figwidth() < 4.5
    assert_words_fit(picture)


def test_the_chart_is_also_there_in_words() -> None:
    text = best_peer.alternative(best_peer.compared([AGENTS, ATARI]))
    assert text.startswith("3 horizontal bars from zero")
    assert "Agents at batch 32 against PyTorch 2.50, rounds 2.00 to 3.00, aim 3; " in text
    assert text.endswith("Atari updates against PyTorch eager 0.80, rounds 0.80 to 0.89, no aim.")
    shown = best_peer.Picture(best_peer.chart(best_peer.compared([ATARI])).figure, 'a "bar"')
    assert 'alt="a &quot;bar&quot;"' in shown._repr_html_()


def test_kinds_of_work_are_those_with_another_library() -> None:
    for work in comparisons.WORKS:
        table = comparisons.TABLES[work.table]
        assert set(work.peers) <= {entry.name for entry in table.entries} - {table.ours}
        assert work.peers and "," not in work.words
    charted = {(work.table, peer) for work in comparisons.WORKS for peer in work.peers}
    left_out = {aim.table for aim in comparisons.AIMS for peer in aim.contenders
                if (aim.table, peer) not in charted}  # fmt: skip
    assert left_out == {"grams"}  # against another form of ours


def test_every_recorded_peer_is_in_the_chart_and_fits(repository: Path) -> None:
    tables = [speed.read(repository / "benchmarks", name)[0] for name in BENCHMARKS]
    found = best_peer.compared(tables)
    recorded = set().union(*(table.table for table in tables))
    assert [one.work for one in found] == [w for w in comparisons.WORKS if w.table in recorded]
    assert_words_fit(best_peer.chart(found))


def test_the_page_begins_with_the_chart_and_ends_with_the_table(repository: Path) -> None:
    notebook = json.loads((repository / "book" / "speed.ipynb").read_text(encoding="utf-8"))
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    first, chart, sentences, *_, last = sources
    assert first.startswith("# Speed") and len(first) < 200
    assert chart.endswith("best_peer.chart(compared)")
    assert sentences == "Markdown(best_peer.in_words(compared))"
    assert "findings.as_table(" in last
    assert sum("build_speed.as_table()" in source for source in sources) == 1
    shown = notebook["cells"][1]["metadata"]["mystnb"]["figure"]
    assert shown["name"] and not re.search(r"\d", shown["caption"])
