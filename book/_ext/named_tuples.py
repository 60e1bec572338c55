"""Leave out of the API page what Python itself says of a NamedTuple's fields ("Alias for ...")."""


def skip_alias(app, what, name, member, skip, options):
    """True for a field whose only documentation is the generated one; None lets autodoc decide."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field") else None


def setup(app):
    """Ask before each member."""
    app.connect("autodoc-skip-member", skip_alias)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
