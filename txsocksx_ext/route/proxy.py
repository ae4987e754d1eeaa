"""
The base of the routes through another proxy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint, ITransport
from twisted.python.failure import Failure

from ..client.methods import ClientMethods
from ..client.proxies import Proxy, proxy_of
from ..client.tunnel import TunnelFactory
from ..descriptions import endpoint_description, refuse_unknown, secret_from_file, yes_or_no
from ..errors import AddressTypeNotSupported, ProxyUnreachable, SOCKS5Error
from ..net.twisted_transports import PausedFactory
from ..protocol.codes import Command
from ..protocol.messages import Address, Request, UsernamePassword
from ..protocol.pairs import as_bytes
from .base import Route

if TYPE_CHECKING:
    from ..context import Session


_CHECKED = Request(Command.CONNECT, Address.of("host.invalid", 80))


class ProxyRoute(Route):
    """
    Reaches every target through another proxy, which resolves the names.

    Its failures become exceptions, so that each client gets them in the codes that it understands.

    :param reactor: provides time.
    :param proxy: the endpoint of the other proxy.
    :param methods: the methods to offer it, with their credentials.
    :param allow_cleartext: whether a login may go to a proxy that is not seen to be
        on this machine or behind TLS.
    :cvar factory: makes a request to the other proxy, in its protocol.
    :raises ValueError: the proxy's protocol cannot carry the methods.
    """

    factory: ClassVar[type[TunnelFactory]]

    def __init__(
        self, reactor: Any, proxy: IStreamClientEndpoint, methods: ClientMethods, allow_cleartext: bool = False
    ) -> None:
        self._reactor = reactor
        self._proxy = proxy
        self._methods = methods
        self._allow_cleartext = allow_cleartext
        # Raise now, not at the first client, if the proxy's protocol cannot carry the methods.
        self._conversation(_CHECKED, methods, None)

    @classmethod
    def from_description(
        cls, reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str], known: frozenset[str]
    ) -> ProxyRoute:
        """
        Make the route of ``KIND:PROXY[:username=…:password-file=…][:allow-cleartext=…]``.

        The parameters are those of `proxy_from_description`.
        """
        proxy = proxy_from_description(cls.name, cls.factory.speaks, reactor, arguments, keywords, known)
        allow_cleartext = yes_or_no("allow-cleartext", keywords.get("allow-cleartext", "no"))
        return cls(reactor, proxy.endpoint, ClientMethods(login=proxy.login), allow_cleartext)

    def connect(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """See `IRoute`."""
        return self._ask(request, session, PausedFactory()).addCallback(lambda protocol: protocol.transport)

    def methods_for(self, session: Session) -> ClientMethods:
        """Return the methods to offer the other proxy for a client: the same for all."""
        return self._methods

    def _ask(self, request: Request, session: Session, application: IProtocolFactory | None) -> Deferred[Any]:
        try:
            conversation = self._conversation(request, self.methods_for(session), application)
        except ValueError as error:
            return fail(AddressTypeNotSupported(f"the other proxy's protocol cannot carry this target: {error}"))
        # No timeout here: the server's own covers the connection to the proxy too.
        return conversation.begin(self._proxy, timeout=None).addErrback(_proxy_unreachable)

    def _conversation(
        self, request: Request, methods: ClientMethods, application: IProtocolFactory | None
    ) -> TunnelFactory:
        return self.factory(request, methods, application, self._allow_cleartext, self._reactor)


def _proxy_unreachable(failure: Failure) -> Failure:
    """Convert a failure to reach the proxy to `ProxyUnreachable`. A bug stays what it is, and is logged."""
    if failure.check(SOCKS5Error, CancelledError, *_FAULTS):
        return failure
    raise ProxyUnreachable() from failure.value


# Endpoints of other packages raise their own classes, so only classes that no connection fails with count as bugs.
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)


def proxy_from_description(
    kind: str,
    speaks: str,
    reactor: Any,
    arguments: Sequence[str],
    keywords: Mapping[str, str],
    known: frozenset[str],
) -> Proxy:
    """
    Return the proxy of ``KIND:PROXY[:username=…:password-file=…]``, with its login.

    PROXY is ``HOST:PORT``, ``[IPV6]:PORT``, a client endpoint string with its colons written ``\\:``, or a URL.

    :param speaks: the protocol that the proxy has to speak.
    :param known: the keywords of this kind.
    :raises ValueError: something is missing, unknown or faulty.
    """
    where = f"the route {kind}"
    refuse_unknown(keywords, known, where)
    if not arguments:
        raise ValueError(f"{where} needs an endpoint, as in {kind}:tcp\\:127.0.0.1\\:1080")
    if ("username" in keywords) != ("password-file" in keywords):
        raise ValueError(f"{where} takes username and password-file together")
    proxy = proxy_of(reactor, endpoint_description(arguments), speaks)
    if "username" not in keywords:
        return proxy
    if proxy.login is not None:
        raise ValueError(f"{where} has a login in its URL, and another beside it: give one of them")
    login = UsernamePassword(
        as_bytes("the user name", keywords["username"]), secret_from_file(keywords["password-file"])
    )
    return Proxy(speaks, proxy.endpoint, login)
