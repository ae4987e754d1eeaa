"""
The route through another SOCKS5 proxy: ``socks:ENDPOINT``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint

from ..client.endpoints import dialect_named
from ..client.methods import ClientMethods
from ..client.proxies import SOCKS5
from ..client.socks5 import SOCKS5ExtClientFactory
from ..client.tunnel import TunnelFactory
from ..descriptions import yes_or_no
from ..protocol.codes import Dialect
from ..protocol.messages import Address, Request
from .proxy import ProxyRoute, proxy_from_description

if TYPE_CHECKING:
    from ..context import Session


class SOCKSRoute(ProxyRoute):
    """
    Reaches every target through another SOCKS5 proxy, which resolves the names.

    :param dialect: how to read its extended codes; ``None`` decides by what it
        selects and confirms.

    The other parameters are those of `ProxyRoute`.
    """

    name = "socks"

    def __init__(
        self,
        reactor: Any,
        proxy: IStreamClientEndpoint,
        methods: ClientMethods,
        dialect: Dialect | None = None,
        allow_cleartext: bool = False,
    ) -> None:
        self._dialect = dialect
        super().__init__(reactor, proxy, methods, allow_cleartext)

    def resolve(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[Address]:
        """See `IRoute`."""
        return self._ask(request, session, None)

    def _conversation(
        self, request: Request, methods: ClientMethods, application: IProtocolFactory | None
    ) -> TunnelFactory:
        return SOCKS5ExtClientFactory(
            request,
            methods,
            application,
            dialect=self._dialect,
            allow_cleartext=self._allow_cleartext,
            reactor=self._reactor,
        )


KEYWORDS = frozenset({"username", "password-file", "dialect", "allow-cleartext"})


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> SOCKSRoute:
    """Make the route of ``socks:PROXY[:username=…][:password-file=…][:dialect=…][:allow-cleartext=…]``."""
    proxy = proxy_from_description("socks", SOCKS5, reactor, arguments, keywords, KEYWORDS)
    given: dict[str, Any] = {"extended": {}, "anonymous": ()}
    if proxy.login is not None:
        given = {"extended": {}, "login": (proxy.login.username, proxy.login.password)}
    return SOCKSRoute(
        reactor,
        proxy.endpoint,
        ClientMethods.of(given),
        dialect_named(keywords.get("dialect", "auto")),
        yes_or_no("allow-cleartext", keywords.get("allow-cleartext", "no")),
    )
