"""Turn on the launch, edit and issue buttons when the public repository of this checkout is known.

The address comes from BOOK_REPOSITORY_URL, else from git's remote `origin`; without one, or with
one that a reader could not open, the buttons stay off. Binder and Colab open the notebook that the
page was built from.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config

# The hosts whose edit and issue pages the theme can link to.
PROVIDERS = {"github.com": "github", "gitlab.com": "gitlab"}


def _git(srcdir: Path, *arguments: str) -> str:
    """One line of git's output, or "" where git or its answer is missing."""
    command = ["git", "-C", str(srcdir), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def public_url(address: str) -> str:
    """`https://host/owner/name` for a git address on a host we know, else "".

    Takes https, ssh and scp-like addresses; a user name or token in it is dropped.
    """
    scp = re.fullmatch(r"(?:[\w.-]+@)?([\w.-]+):(?!//)(.+)", address)
    if scp:
        host, path = scp.groups()
    else:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https", "ssh"):
            return ""
        host, path = parts.hostname or "", parts.path
    path = path.strip("/").removesuffix(".git")
    if host.lower() not in PROVIDERS or path.count("/") != 1:
        return ""
    return f"https://{host.lower()}/{path}"


def branch_name(srcdir: Path) -> str:
    """The branch readers get: origin's default one, else the one checked out, else main."""
    default = _git(srcdir, "symbolic-ref", "--short", "refs/remotes/origin/HEAD")
    return default.removeprefix("origin/") or _git(srcdir, "branch", "--show-current") or "main"


def add_buttons(app: Sphinx, config: Config) -> None:
    """Fill in the theme's repository options."""
    address = os.environ.get("BOOK_REPOSITORY_URL") or _git(
        app.srcdir, "remote", "get-url", "origin"
    )
    url = public_url(address)
    if not url:
        return
    provider = PROVIDERS[urlsplit(url).hostname or ""]
    launch = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
    if provider == "github":  # Colab reads no other host.
        launch["colab_url"] = "https://colab.research.google.com"
    config.html_theme_options |= {
        "repository_url": url,
        "repository_provider": provider,
        "repository_branch": os.environ.get("BOOK_REPOSITORY_BRANCH") or branch_name(app.srcdir),
        "path_to_docs": "",  # Page names start at the top of the repository: book/index.
        "launch_buttons": launch,
        "use_repository_button": True,
        "use_edit_page_button": True,
        "use_issues_button": True,
    }


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before the theme reads its options."""
    app.connect("config-inited", add_buttons, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
