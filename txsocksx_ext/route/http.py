"""
The route through an HTTP proxy: ``http:ENDPOINT``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..client.http_connect import HTTPConnectClientFactory
from .proxy import ProxyRoute


class HTTPRoute(ProxyRoute):
    """Reaches every target by the method CONNECT of an HTTP proxy, which resolves the names."""

    name = "http"
    factory = HTTPConnectClientFactory


KEYWORDS = frozenset({"username", "password-file", "allow-cleartext"})


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> ProxyRoute:
    """Make the route of ``http:PROXY[:username=…][:password-file=…][:allow-cleartext=…]``."""
    return HTTPRoute.from_description(reactor, arguments, keywords, KEYWORDS)
