"""Sphinx configuration."""

import inspect
import re
import sys
from pathlib import Path

from sphinx.util.inspect import signature as sphinx_signature
from sphinx.util.inspect import stringify_signature

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


def correct_signature(app, what, name, obj, options, signature, returned):
    """Show how exceptions are made, and interfaces of zope.interface, of which autodoc shows the repr, by name."""
    if what == "exception" and inspect.isfunction(obj.__init__):
        # Their __new__ takes anything.
        signature = stringify_signature(
            sphinx_signature(obj.__init__, bound_method=True),
            show_return_annotation=False,
            unqualified_typehints=True,
        )
    return tuple(text and re.sub(r"<InterfaceClass ([\w.]+)>", r"~\1", text) for text in (signature, returned))


def setup(app):
    """Register the hook."""
    app.connect("autodoc-process-signature", correct_signature)
