"""
Ways out of the server.

Each module here with a `from_description` is one kind of route, by the name of
the module: to add a kind is to add a file.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

from ..descriptions import parse_description
from .base import IRoute, Route

__all__ = ["IRoute", "Route", "route_from_string", "route_kinds"]


def route_kinds() -> list[str]:
    """The names of all kinds of route."""
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return sorted(module.__name__.rpartition(".")[2] for module in modules if hasattr(module, "from_description"))


def route_from_string(reactor: Any, description: str) -> IRoute:
    """
    Make a route from a description such as ``direct`` or ``socks:tcp\\:127.0.0.1\\:9050``.

    :raises ValueError: the kind is unknown, or does not take these arguments.
    """
    (kind, *arguments), keywords = parse_description(description)
    if kind not in route_kinds():
        raise ValueError(f"{kind!r} is no kind of route; there are {', '.join(route_kinds())}")
    route: IRoute = import_module(f"{__name__}.{kind}").from_description(reactor, arguments, keywords)
    return route
