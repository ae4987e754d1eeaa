"""
The route through an HTTP proxy: ``http:ENDPOINT``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IProtocolFactory

from ..client.http_connect import HTTPConnectClientFactory
from ..client.methods import ClientMethods
from ..client.proxies import HTTP
from ..client.tunnel import TunnelFactory
from ..descriptions import yes_or_no
from ..protocol.messages import Request
from .proxy import ProxyRoute, proxy_from_description


class HTTPRoute(ProxyRoute):
    """Reaches every target by the method CONNECT of an HTTP proxy, which resolves the names."""

    name = "http"

    def _conversation(
        self, request: Request, methods: ClientMethods, application: IProtocolFactory | None
    ) -> TunnelFactory:
        return HTTPConnectClientFactory(request, methods, application, self._allow_cleartext, self._reactor)


KEYWORDS = frozenset({"username", "password-file", "allow-cleartext"})


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> HTTPRoute:
    """Make the route of ``http:PROXY[:username=…][:password-file=…][:allow-cleartext=…]``."""
    proxy = proxy_from_description("http", HTTP, reactor, arguments, keywords, KEYWORDS)
    allow_cleartext = yes_or_no("allow-cleartext", keywords.get("allow-cleartext", "no"))
    return HTTPRoute(reactor, proxy.endpoint, ClientMethods(login=proxy.login), allow_cleartext)
