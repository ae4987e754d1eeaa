"""``.. zope-interface:: NAME`` documents an interface of zope.interface, which autodoc does not know."""

from __future__ import annotations

import inspect
from importlib import import_module
from textwrap import indent

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from zope.interface.interface import Method


class ZopeInterface(SphinxDirective):
    """One interface, with its attributes and methods."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Write it as a class of the Python domain."""
        module, _, name = self.arguments[0].rpartition(".")
        interface = getattr(import_module(module), name)
        parts = [f".. py:class:: {name}\n   :module: {module}", _indented(interface.__doc__)]
        for member, described in interface.namesAndDescriptions():
            is_method = isinstance(described, Method)
            kind = "method" if is_method else "attribute"
            signature = described.getSignatureString() if is_method else ""
            parts += [indent(f".. py:{kind}:: {member}{signature}", "   "), _indented(described.__doc__, 2)]
        return self.parse_text_to_nodes("\n\n".join(parts))


def _indented(text: str, levels: int = 1) -> str:
    return indent(inspect.cleandoc(text), "   " * levels)


def setup(app):
    """Register the directive."""
    app.add_directive("zope-interface", ZopeInterface)
    return {"parallel_read_safe": True}
