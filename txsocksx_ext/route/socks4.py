"""
The route through a SOCKS4a proxy: ``socks4:ENDPOINT``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IProtocolFactory

from ..client.methods import ClientMethods
from ..client.proxies import SOCKS4
from ..client.socks4 import SOCKS4ClientFactory
from ..client.tunnel import TunnelFactory
from ..descriptions import yes_or_no
from ..protocol.messages import Request
from .proxy import ProxyRoute, proxy_from_description


class SOCKS4Route(ProxyRoute):
    """Reaches every target through a SOCKS4a proxy, which resolves the names."""

    name = "socks4"

    def _conversation(
        self, request: Request, methods: ClientMethods, application: IProtocolFactory | None
    ) -> TunnelFactory:
        return SOCKS4ClientFactory(request, methods, application, self._allow_cleartext, self._reactor)


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> SOCKS4Route:
    """Make the route of ``socks4:PROXY[:allow-cleartext=…]``, whose URL may hold a user id."""
    known = frozenset({"allow-cleartext"})
    proxy = proxy_from_description("socks4", SOCKS4, reactor, arguments, keywords, known)
    allow_cleartext = yes_or_no("allow-cleartext", keywords.get("allow-cleartext", "no"))
    return SOCKS4Route(reactor, proxy.endpoint, ClientMethods(login=proxy.login), allow_cleartext)
