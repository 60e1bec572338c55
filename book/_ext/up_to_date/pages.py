"""Which pages Sphinx must read and write again.

Sphinx asks whether a file is newer than what was made from it. A file that is put back as it was is
older, an edit in the middle of a long build is missed, and so is what is no file of the page: a
title in the navigation, an extension, the theme. Here contents are compared, and in doubt
everything is done again: reading all pages is cheap next to executing one chapter.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from up_to_date.inputs import files_digest, versions
from up_to_date.reach import sha256

FROM = "up_to_date_pages_from"
"""The attribute of Sphinx's environment for page → digest of what it was read from."""


class Pages:
    """What the pages of the last build were made from, and whether that is still so."""

    def __init__(self, app: Sphinx) -> None:
        """Note when this build began, and what all pages depend on."""
        self.app, self.began = app, time.time()
        self.pictures = Path(app.outdir).parent / "jupyter_execute"  # made of chapters' outputs
        self.mark = Path(app.doctreedir) / "made_from.txt"
        watched = files_digest(Path(app.srcdir), app.config.up_to_date_pages)
        buttons = repr(app.config.html_theme_options)  # from git: see launch.py
        self.all_depend_on = sha256(watched, versions(), buttons)
        self.read: list[str] = []  # in this build

    def begin(self) -> None:
        """Forget the last build unless it ended well and all that pages depend on is the same."""
        same = self.mark.is_file() and self.mark.read_text(encoding="utf-8") == self.all_depend_on
        self.mark.unlink(missing_ok=True)
        if not same:
            outdir = Path(self.app.outdir)
            _empty(Path(self.app.doctreedir))
            if (outdir / ".buildinfo").is_file():  # Sphinx made it, and nothing else is there
                _empty(outdir)
                _empty(self.pictures)

    def end(self) -> None:
        """Note that all pages are as they should be; not after warnings, which come once only."""
        if getattr(self.app, "_warncount", 1) == 0:
            self.mark.write_text(self.all_depend_on, encoding="utf-8")

    def changed(self, env: BuildEnvironment, outputs: dict[str, str]) -> list[str]:
        """Return the pages that were read from something else; ``outputs``: chapter → hash."""
        known: dict[str, str] = getattr(env, FROM, {})
        return [
            page
            for page in env.found_docs & env.all_docs.keys()
            if known.get(page) != self._digest(env, page, outputs)
        ]

    def note(self, env: BuildEnvironment, outputs: dict[str, str], code: str) -> list[str]:
        """Note what the pages read in this build were made from; return those to write.

        That is all of them if something has changed that one page can show of another. ``code`` is
        the digest of all modules, whose own pages are made anew after a change of these too.
        """
        if not self.read:
            return []
        known: dict[str, str] = getattr(env, FROM, {})
        new = {page: self._digest(env, page, outputs) for page in self.read}
        setattr(env, FROM, {p: d for p, d in (known | new).items() if p in env.found_docs})
        before, now = getattr(env, f"{FROM}_seen", ("", "")), (_seen_elsewhere(env), code)
        setattr(env, f"{FROM}_seen", now)
        if now != before:
            shutil.rmtree(Path(self.app.outdir) / "_modules", ignore_errors=True)
        return sorted(env.found_docs) if now[0] != before[0] else self.read

    def _digest(self, env: BuildEnvironment, page: str, outputs: dict[str, str]) -> str:
        """Return the digest of what a page is read from; never the same if it changes meanwhile."""
        root, parts = Path(self.app.srcdir), [outputs.get(page, "")]
        for name in sorted({str(env.doc2path(page)), *map(str, env.dependencies[page])}):
            path = root / name
            if path.is_relative_to(self.pictures):
                continue  # reading the page has made it
            try:
                parts += [name, sha256(path.read_bytes())]
                if path.stat().st_mtime > self.began:
                    parts.append(str(self.began))
            except OSError:
                parts += [name, "missing"]
        return sha256(*parts)


def _seen_elsewhere(env: BuildEnvironment) -> str:
    """Return the digest of what one page can show of another: titles, targets, numbers."""
    targets = [repr(found) for domain in env.domains.values() for found in domain.get_objects()]
    cited = [
        (reference.docname, [target.key for target in reference.targets])
        for reference in env.domaindata.get("cite", {}).get("citation_refs", [])
    ]
    contents = [(page, toc.astext()) for page, toc in env.tocs.items()]
    equations = env.domaindata["math"]["objects"].items()
    numbers = (env.toc_secnumbers.items(), env.toc_fignumbers.items())
    return sha256(*(repr(sorted(p)) for p in (targets, cited, contents, equations, *numbers)))


def _empty(folder: Path) -> None:
    """Remove what is in a folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
