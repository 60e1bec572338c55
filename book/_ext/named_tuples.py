"""Leave out of the API page what Python itself says of a NamedTuple's fields ("Alias for ...")."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def skip_alias(
    app: Sphinx, what: str, name: str, member: object, skip: bool, options: Any
) -> bool | None:
    """True for a field whose only documentation is the generated one; None lets autodoc decide."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Ask before each member."""
    app.connect("autodoc-skip-member", skip_alias)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
