"""The first page leads to what it speaks of, in the words of the ledger."""

from __future__ import annotations

from plasticity import cli
from plasticity.chapters import claims, home, ledger, scale
from plasticity.runs import results


def test_each_square_leads_to_the_row_of_its_claim_and_has_its_word() -> None:
    entries = ledger.entries(cli.all_experiments())
    squares = home.strip(entries).split("<a ")[1:]
    assert len(squares) == len(claims.LEDGER)
    for square, entry in zip(squares, entries, strict=True):
        (anchor,) = (
            line.removeprefix(":name: ")
            for line in ledger.details(entry).splitlines()
            if line.startswith(":name: ")
        )
        assert f'href="ledger.html#{anchor}"' in square
        assert f'aria-label="{entry.claim.id}: {entry.word}"' in square


def test_each_chapter_has_a_card_with_the_word_of_each_of_its_claims() -> None:
    experiments = cli.all_experiments()
    entries = ledger.entries(experiments)
    assert home.HEADLINES.keys() == experiments.keys()
    cards = home.cards(experiments, entries).split("{grid-item-card}")[1:]
    for name, card in zip(home.HEADLINES, cards, strict=True):
        for entry in entries:
            shown = f"{ledger.chip(entry.word)}](ledger.ipynb) {entry.claim.id}" in card
            assert shown is (entry.claim.experiment == name)


def test_the_first_page_says_which_runs_have_the_papers_size() -> None:
    experiments = cli.all_experiments()
    said = home.at_full_size(experiments)
    for name in home.HEADLINES:
        run = results.best(name)
        own = [size.what for size in scale.sizes(run, experiments[name])]
        assert (name.replace("_", " ") in said) is (set(own) <= {"seeds"}), name
