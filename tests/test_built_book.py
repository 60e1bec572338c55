"""The built book, read from disk as a browser without a network would."""

from __future__ import annotations

import functools
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"

pytestmark = pytest.mark.skipif(
    not (HTML / "index.html").is_file(), reason="the book is not built: make book"
)

# (tag, attribute) of what a browser fetches in order to show a page; links that wait for a click
# are not among them.
FETCHED = {
    ("audio", "src"),
    ("iframe", "src"),
    ("img", "src"),
    ("link", "href"),
    ("object", "data"),
    ("script", "src"),
    ("source", "src"),
    ("video", "src"),
}
# `rel` of <link> elements that name a page and fetch nothing.
NAMES_ONLY = {"author", "canonical", "index", "next", "prev", "search"}


class Page(HTMLParser):
    """What a page fetches, links to, is linked at, and the images of its content."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.images: list[dict[str, str | None]] = []
        self.styles: list[str] = []
        self._in_style = False
        self._depth_in_article = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if identifier := attributes.get("id") or (tag == "a" and attributes.get("name")):
            self.anchors.add(str(identifier))
        names_only = set((attributes.get("rel") or "").split()) & NAMES_ONLY
        for name, value in attributes.items():
            if value and (tag, name) in FETCHED and not names_only:
                self.fetched.append(value)
        if tag == "a" and attributes.get("href"):
            self.links.append(str(attributes["href"]))
        if tag == "article":
            self._depth_in_article += 1
        if tag == "img" and self._depth_in_article:
            self.images.append(attributes)
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        if tag == "article":
            self._depth_in_article -= 1
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.styles.append(data)


@functools.cache
def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def pages() -> list[Path]:
    return sorted(path for path in HTML.rglob("*.html") if "_static" not in path.parts)


def listed() -> list[str]:
    """Every page that the table of contents names."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in contents["parts"] for chapter in part["chapters"]]
    return [contents["root"], *(chapter["file"] for chapter in chapters)]


def target(source: Path, address: str) -> tuple[Path, str] | None:
    """The file and anchor that a relative address on `source` names, None for another host's."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    file = source if not parts.path else (source.parent / unquote(parts.path)).resolve()
    return file, unquote(parts.fragment)


@pytest.mark.parametrize("name", listed())
def test_every_page_of_the_contents_is_there(name: str) -> None:
    assert (HTML / f"{name}.html").is_file()


def test_every_link_and_file_is_there() -> None:
    missing = []
    for source in pages():
        for address in page(source).links + page(source).fetched:
            found = target(source, address)
            if found is None or found[0].name == "#":
                continue
            file, anchor = found
            if not file.is_file():
                missing.append(f"{source.relative_to(HTML)}: {address}: no such file")
            elif file.suffix == ".html" and anchor and anchor not in page(file).anchors:
                missing.append(f"{source.relative_to(HTML)}: {address}: no such anchor")
    assert not missing


def test_every_image_has_an_alternative_text() -> None:
    bare = [
        f"{source.relative_to(HTML)}: {image.get('src')}"
        for source in pages()
        for image in page(source).images
        # Sphinx falls back on the file's name where an author gave no text.
        if not (image.get("alt") or "").strip() or (image.get("alt") or "").startswith("../_images")
    ]
    assert not bare


def test_nothing_is_fetched_from_another_host() -> None:
    remote = [
        f"{source.relative_to(HTML)}: {address}"
        for source in pages()
        for address in page(source).fetched
        if urlsplit(address).scheme not in ("", "data") or urlsplit(address).netloc
    ]
    assert not remote


def test_no_style_sheet_reaches_another_host() -> None:
    sheets = {path: path.read_text(encoding="utf-8") for path in HTML.rglob("*.css")}
    sheets |= {source: "".join(page(source).styles) for source in pages()}
    remote = [
        str(path.relative_to(HTML))
        for path, text in sheets.items()
        if re.search(r"""(url\(|@import)\s*["']?\s*(https?:)?//""", text)
    ]
    assert not remote


def test_mathematics_is_drawn_by_our_own_mathjax() -> None:
    source = HTML / "book" / "notation.html"
    scripts = [address for address in page(source).fetched if "mathjax" in address]
    assert scripts
    for address in scripts:
        found = target(source, address)
        assert found is not None and found[0].is_file()
