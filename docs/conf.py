"""Sphinx configuration."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from txsocksx_ext import __version__  # noqa: E402

project = "txsocksx-ext"
author = "the txsocksx-ext developers"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "tables_from_code", "conversation_diagram", "zope_interfaces"]
exclude_patterns = ["_build"]
default_role = "py:obj"
highlight_language = "none"

# Twisted's own docstrings are not reStructuredText.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"

html_theme = "furo"
html_title = f"txsocksx-ext {release}"


def name_interfaces(app, what, name, obj, options, signature, returned):
    """An interface of zope.interface is no type to autodoc, which shows its repr."""
    return tuple(text and re.sub(r"<InterfaceClass ([\w.]+)>", r"~\1", text) for text in (signature, returned))


def setup(app):
    """Register what is said above."""
    app.connect("autodoc-process-signature", name_interfaces)
