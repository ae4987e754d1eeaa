"""
Routes: the ways out of the server.

Each module here with a `from_description` is one kind of route, named after the
module: to add a kind is to add a file. Other packages add kinds as Twisted
plugins that provide `IRouteKind`.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

from twisted.plugin import getPlugins

from ..checks import check_type
from ..descriptions import parse_description
from .base import IRoute, IRouteKind, Route

__all__ = ["IRoute", "IRouteKind", "Route", "plugin_route_kinds", "route_from_string", "route_kinds"]


def _own_kinds() -> dict[str, Any]:
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return {
        module.__name__.rpartition(".")[2]: module.from_description
        for module in modules
        if hasattr(module, "from_description")
    }


def plugin_route_kinds() -> list[IRouteKind]:
    """Return the kinds of route that other packages add."""
    return list(getPlugins(IRouteKind))


def _plugin_kinds() -> dict[str, Any]:
    return {kind.name: kind.from_string for kind in plugin_route_kinds()}


def route_kinds() -> list[str]:
    """Return the names of all kinds of route."""
    return sorted({**_plugin_kinds(), **_own_kinds()})


def route_from_string(reactor: Any, description: str) -> IRoute:
    """
    Make a route from a description such as ``direct`` or ``socks:tcp\\:127.0.0.1\\:9050``.

    :raises ValueError: the kind is unknown, or does not take these arguments.
    :raises TypeError: the description is not str.
    """
    check_type("description", description, str)
    (kind, *arguments), keywords = parse_description(description)
    from_description = _own_kinds().get(kind) or _plugin_kinds().get(kind)
    if from_description is None:
        raise ValueError(f"unknown route kind {kind!r}; known kinds are {', '.join(route_kinds())}")
    route: IRoute = from_description(reactor, arguments, keywords)
    return route
