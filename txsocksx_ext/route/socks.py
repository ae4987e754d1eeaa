"""
The route through another SOCKS5 proxy: ``socks:ENDPOINT``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint, ITransport
from twisted.python.failure import Failure

from ..client.endpoints import dialect_named
from ..client.methods import ClientMethods
from ..client.socks5 import SOCKS5ExtClientFactory
from ..descriptions import client_endpoint, endpoint_description, refuse_unknown, secret_from_file, yes_or_no
from ..errors import ProxyUnreachable, SOCKS5Error
from ..net.twisted_transports import PausedFactory
from ..protocol.codes import Dialect
from ..protocol.messages import Address, Request
from .base import Route

if TYPE_CHECKING:
    from ..context import Session


class SOCKSRoute(Route):
    """
    Reaches every target through another proxy, which resolves the names.

    Its failures are read in its own dialect and become exceptions, so that each
    client gets them in the codes that it understands.

    :param reactor: provides time.
    :param proxy: the endpoint of the other proxy.
    :param methods: what to offer it.
    :param dialect: how to read its extended codes; ``None`` decides by what it
        selects and confirms.
    :param allow_cleartext: whether a login may go to a proxy that is not seen to be
        on this machine or behind TLS.
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
        self._reactor = reactor
        self._proxy = proxy
        self._methods = methods
        self._dialect = dialect
        self._allow_cleartext = allow_cleartext

    def connect(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """See `IRoute`."""
        return self._ask(request, session, PausedFactory()).addCallback(lambda protocol: protocol.transport)

    def resolve(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[Address]:
        """See `IRoute`."""
        return self._ask(request, session, None)

    def methods_for(self, session: Session) -> ClientMethods:
        """Return what to offer the other proxy for a client: the same for all."""
        return self._methods

    def _ask(self, request: Request, session: Session, application: PausedFactory | None) -> Deferred[Any]:
        factory = SOCKS5ExtClientFactory(
            request,
            self.methods_for(session),
            application,
            dialect=self._dialect,
            allow_cleartext=self._allow_cleartext,
            reactor=self._reactor,
        )
        # No time-out here: the server's own covers the whole way.
        return factory.begin(self._proxy, timeout=None).addErrback(_proxy_unreachable)


def _proxy_unreachable(failure: Failure) -> Failure:
    """Turn what keeps us from the proxy into `ProxyUnreachable`. A fault in a program stays one, and is logged."""
    if failure.check(SOCKS5Error, CancelledError, *_FAULTS):
        return failure
    raise ProxyUnreachable() from failure.value


# Endpoints of other packages fail with classes of their own, so only what no connection fails with is a fault.
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)


KEYWORDS = frozenset({"username", "password-file", "dialect", "allow-cleartext"})


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> SOCKSRoute:
    """
    Make the route of ``socks:ENDPOINT[:username=…][:password-file=…][:dialect=…][:allow-cleartext=…]``.

    ENDPOINT is ``HOST:PORT``, ``[IPV6]:PORT`` or a client endpoint string with its colons written ``\\:``.
    """
    refuse_unknown(keywords, KEYWORDS, "the route socks")
    if not arguments:
        raise ValueError("the route socks needs an endpoint, as in socks:tcp\\:127.0.0.1\\:9050")
    if ("username" in keywords) != ("password-file" in keywords):
        raise ValueError("the route socks takes username and password-file together")
    methods: dict[str, Any] = {"extended": {}, "anonymous": ()}
    if "username" in keywords:
        password = secret_from_file(keywords["password-file"])
        methods = {"extended": {}, "login": (keywords["username"], password)}
    return SOCKSRoute(
        reactor,
        client_endpoint(reactor, endpoint_description(arguments)),
        ClientMethods.of(methods),
        dialect_named(keywords.get("dialect", "auto")),
        yes_or_no("allow-cleartext", keywords.get("allow-cleartext", "no")),
    )
