"""
Extended SOCKS5 (Tor proposal 229) for Twisted, both ends.

The names here are what stays compatible from release to release. They load when
first used, so that ``import txsocksx_ext`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.endpoints import SOCKS5ClientEndpoint, resolve, resolve_ptr
    from .client.http_connect import HTTPConnectClientEndpoint
    from .client.proxied_reactor import proxied_reactor
    from .client.proxied_tor import ProxiedTor
    from .client.retrying import ReconnectingClientService, RetryingEndpoint
    from .client.socks4 import SOCKS4ClientEndpoint
    from .client.socks5 import SOCKS5ExtClientFactory, SOCKS5ExtClientProtocol
    from .client.strings import endpoint_string
    from .client.tunnel import SOCKS5Address
    from .client.web import SOCKS5AgentEndpointFactory, web_agent
    from .net.twisted_transports import open_transport
    from .route import IRoute, IRouteKind, Route, route_from_string
    from .route.transport import TransportRoute
    from .server import Limits, RouteTable, Session, SOCKS5ExtFactory, SOCKS5ExtProtocol

__version__ = "0.1.0"

_HOMES = {
    "HTTPConnectClientEndpoint": "client.http_connect",
    "IRoute": "route",
    "IRouteKind": "route",
    "Limits": "server",
    "ProxiedTor": "client.proxied_tor",
    "ReconnectingClientService": "client.retrying",
    "RetryingEndpoint": "client.retrying",
    "Route": "route",
    "RouteTable": "server",
    "SOCKS4ClientEndpoint": "client.socks4",
    "SOCKS5Address": "client.tunnel",
    "SOCKS5AgentEndpointFactory": "client.web",
    "SOCKS5ClientEndpoint": "client.endpoints",
    "SOCKS5ExtClientFactory": "client.socks5",
    "SOCKS5ExtClientProtocol": "client.socks5",
    "SOCKS5ExtFactory": "server",
    "SOCKS5ExtProtocol": "server",
    "Session": "context",
    "TransportRoute": "route.transport",
    "endpoint_string": "client.strings",
    "open_transport": "net.twisted_transports",
    "proxied_reactor": "client.proxied_reactor",
    "resolve": "client.endpoints",
    "resolve_ptr": "client.endpoints",
    "route_from_string": "route",
    "web_agent": "client.web",
}

__all__ = [
    "HTTPConnectClientEndpoint",
    "IRoute",
    "IRouteKind",
    "Limits",
    "ProxiedTor",
    "ReconnectingClientService",
    "RetryingEndpoint",
    "Route",
    "RouteTable",
    "SOCKS4ClientEndpoint",
    "SOCKS5Address",
    "SOCKS5AgentEndpointFactory",
    "SOCKS5ClientEndpoint",
    "SOCKS5ExtClientFactory",
    "SOCKS5ExtClientProtocol",
    "SOCKS5ExtFactory",
    "SOCKS5ExtProtocol",
    "Session",
    "TransportRoute",
    "endpoint_string",
    "open_transport",
    "proxied_reactor",
    "resolve",
    "resolve_ptr",
    "route_from_string",
    "web_agent",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
