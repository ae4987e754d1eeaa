"""
Client endpoints, and the look-ups that a proxy does for us.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import idna
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from zope.interface import directlyProvides, implementer, providedBy

from ..checks import check_endpoint, check_reactor, check_type
from ..protocol.codes import Command, Dialect
from ..protocol.messages import Address, Request
from .factory import SOCKS5ExtClientFactory
from .methods import ClientMethods
from .negotiation import negotiate
from .tls import creator_of

DEFAULT_TIMEOUT = 60.0
"""Seconds for a whole handshake with a proxy."""

ANONYMOUS: Mapping[str, Any] = {"anonymous": ()}


def dialect_named(name: str) -> Dialect | None:
    """
    Return the dialect of that name; ``None`` for ``auto``.

    :raises ValueError: there is no such dialect.
    """
    if name == "auto":
        return None
    try:
        return Dialect(name)
    except ValueError:
        known = ", ".join(["auto", *(dialect.value for dialect in Dialect)])
        raise ValueError(f"dialect must be one of {known}, not {name!r}") from None


def checked_timeout(timeout: float | None) -> float | None:
    """
    Return a timeout as it was given.

    :param timeout: seconds; ``None`` for no deadline.
    :raises ValueError: it is neither ``None`` nor a finite number above 0.
    """
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and 0 < timeout < inf):
        raise ValueError(f"timeout must be seconds above 0, or None, not {timeout!r}")
    return timeout


def target_address(host: str | bytes, port: int) -> Address:
    """
    Return a target as SOCKS5 carries it. Nothing is resolved here.

    :param host: an address literal (IPv6 with or without brackets), or a name;
        one with letters beyond ASCII is sent as IDNA encodes it.
    :raises ValueError: SOCKS5 cannot carry it. It is never shortened, nor
        resolved here instead.
    :raises TypeError: it is no text.
    """
    check_type("host", host, str, bytes)
    text = host.decode("ascii", "surrogateescape") if isinstance(host, bytes) else host
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    elif "[" in text or "]" in text:
        raise ValueError("an IPv6 address stands in brackets, or without any")
    if "@" in text:
        # Agents take what stands before it in a URL for a part of the name, and it may be a password.
        raise ValueError("a host name holds no @: a user name or a password does not belong there")
    if not text.isascii():
        try:
            text = idna.encode(text, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"the host name cannot be encoded by IDNA: {type(error).__name__}") from None
    target = Address.of(text, port)
    if target.is_name and not _NOT_IN_NAMES.isdisjoint(text):
        raise ValueError(
            "a host name holds no colon and no slash: it is no URL, no address with a zone, and has no port"
        )
    return target


_NOT_IN_NAMES = frozenset(":/")


@implementer(IStreamClientEndpoint)
class SOCKS5ClientEndpoint:
    """
    A target behind a SOCKS5 proxy, as an endpoint for any Twisted program.

    :param host: the target: an address literal or a name, which the proxy resolves.
    :param port: the target's.
    :param proxy_endpoint: how to reach the proxy.
    :param methods: ``"anonymous": ()``, ``"login": (username, password)``,
        ``"extended": {key: value}`` and ``"isolated": token`` (``None`` for a
        fresh one, which is then this endpoint's), in any combination but
        "login" with "isolated"; keys are str, all else bytes or str.
    :param timeout: seconds for the whole handshake, the connection to the proxy
        too; ``None`` for no deadline.
    :param dialect: how to read extended reply codes: ``auto``, ``prop229``,
        ``tor`` or ``plain``.
    :param tls: whether to speak TLS with the target through the proxy, trusting
        what the platform trusts; or an `IOpenSSLClientConnectionCreator` to do it
        with, such as ``optionsForClientTLS(host, trustRoot=...)`` makes.
    :param allow_cleartext: whether password and pairs may go to a proxy that is
        not seen to be on this machine or behind TLS, as behind another tunnel.
    :param reactor: provides time; by default the global one.
    :param proxyEndpoint: txsocksx's name of `proxy_endpoint`, for its users' calls.
    :raises ValueError: SOCKS5 cannot carry the target, or the methods or the timeout are faulty.
    :raises TypeError: the host is no text, the proxy no endpoint, `tls` nothing that checks
        the host's name, or what `methods` holds of a wrong type.
    """

    factory = SOCKS5ExtClientFactory
    """Makes the choices of each conversation: to change one, put a subclass here."""

    def __init__(
        self,
        host: str | bytes,
        port: int,
        proxy_endpoint: IStreamClientEndpoint | None = None,
        methods: Mapping[str, Any] | ClientMethods = ANONYMOUS,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        dialect: str = "auto",
        tls: bool | IOpenSSLClientConnectionCreator = False,
        allow_cleartext: bool = False,
        reactor: Any = None,
        proxyEndpoint: IStreamClientEndpoint | None = None,
    ) -> None:
        proxy = proxyEndpoint if proxy_endpoint is None else proxy_endpoint
        if proxy is None or (proxy_endpoint is not None and proxyEndpoint is not None):
            raise TypeError("SOCKS5ClientEndpoint needs one proxy_endpoint")
        request = Request(Command.CONNECT, target_address(host, port))
        self._query = _ProxyQuery.of(request, proxy, methods, timeout, dialect, allow_cleartext, reactor)
        self._tls = creator_of(tls, request.destination.host)

    def __repr__(self) -> str:
        return "<SOCKS5ClientEndpoint>"

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect to the target through the proxy.

        :param protocol_factory: its ``buildProtocol`` gets a `SOCKS5Address`.
        :returns: fires with its protocol, or fails with an exception of
            `txsocksx_ext.errors`. Cancelling it at any moment closes the
            socket, and builds nothing later.
        """
        if self._tls is not None:
            return over_tls(self._tls, self._connect_plainly, protocol_factory)
        return self._connect_plainly(protocol_factory)

    def _connect_plainly(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._query.begin(self.factory, protocol_factory)


def over_tls(
    options: IOpenSSLClientConnectionCreator,
    connect_plainly: Callable[[IProtocolFactory], Deferred[IProtocol]],
    application: IProtocolFactory,
) -> Deferred[IProtocol]:
    """
    Speak TLS through a tunnel, for an application.

    :param connect_plainly: makes the tunnel; not the ``connect`` of an endpoint
        that comes here itself, which a subclass may have overridden.
    """
    building: Any = _Building(application)
    return wrapClientTLS(options, _Tunnel(connect_plainly)).connect(building)


@implementer(IStreamClientEndpoint)
class _Tunnel:
    """What TLS takes for an endpoint."""

    def __init__(self, connect_plainly: Callable[[IProtocolFactory], Deferred[IProtocol]]) -> None:
        self._connect_plainly = connect_plainly

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint`."""
        return self._connect_plainly(protocol_factory)


class _Building:
    """A factory that builds a protocol or says that it does not: Twisted's TLS takes ``None`` for one."""

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory
        # Twisted asks factories for more, such as what they would speak (ALPN).
        directlyProvides(self, providedBy(factory))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._factory, name)

    def buildProtocol(self, addr: IAddress) -> IProtocol:
        """See `IProtocolFactory`."""
        built = self._factory.buildProtocol(addr)
        if built is None:
            raise NoProtocol()
        return built


@dataclass(slots=True)
class _ProxyQuery:
    """What is asked of which proxy, and how: what endpoints and look-ups have in common."""

    request: Request
    proxy_endpoint: IStreamClientEndpoint
    methods: ClientMethods
    timeout: float | None
    dialect: Dialect | None
    allow_cleartext: bool
    reactor: Any

    @classmethod
    def of(
        cls,
        request: Request,
        proxy_endpoint: IStreamClientEndpoint,
        methods: Mapping[str, Any] | ClientMethods,
        timeout: float | None,
        dialect: str,
        allow_cleartext: bool,
        reactor: Any,
    ) -> _ProxyQuery:
        """Check what the public functions were given."""
        check_endpoint("proxy_endpoint", proxy_endpoint)
        check_type("allow_cleartext", allow_cleartext, bool)
        if reactor is not None:
            check_reactor("reactor", reactor)
        given, seconds = ClientMethods.of(methods), checked_timeout(timeout)
        return cls(request, proxy_endpoint, given, seconds, dialect_named(dialect), allow_cleartext, reactor)

    def begin(self, factory: type[SOCKS5ExtClientFactory], application: IProtocolFactory | None) -> Deferred[Any]:
        reactor = self.reactor
        if reactor is None:
            from twisted.internet import reactor
        conversation = factory(
            self.request,
            self.methods,
            application,
            dialect=self.dialect,
            allow_cleartext=self.allow_cleartext,
            reactor=reactor,
        )
        return negotiate(reactor, self.proxy_endpoint, conversation, self.timeout)


def resolve(
    host: str | bytes,
    proxy_endpoint: IStreamClientEndpoint,
    methods: Mapping[str, Any] = ANONYMOUS,
    *,
    timeout: float | None = DEFAULT_TIMEOUT,
    dialect: str = "auto",
    allow_cleartext: bool = False,
    reactor: Any = None,
) -> Deferred[str]:
    """
    Have the proxy resolve a name (Tor's command RESOLVE).

    The parameters are those of `SOCKS5ClientEndpoint`.

    :returns: fires with an address, or fails as an endpoint does.
    :raises ValueError: the name is one that SOCKS5 cannot carry.
    :raises TypeError: as `SOCKS5ClientEndpoint` does.
    """
    request = Request(Command.RESOLVE, target_address(host, 0))
    return _ask_for_host(_ProxyQuery.of(request, proxy_endpoint, methods, timeout, dialect, allow_cleartext, reactor))


def resolve_ptr(
    address: str | bytes,
    proxy_endpoint: IStreamClientEndpoint,
    methods: Mapping[str, Any] = ANONYMOUS,
    *,
    timeout: float | None = DEFAULT_TIMEOUT,
    dialect: str = "auto",
    allow_cleartext: bool = False,
    reactor: Any = None,
) -> Deferred[str]:
    """
    Have the proxy find an address's name (Tor's command RESOLVE_PTR).

    The parameters are those of `SOCKS5ClientEndpoint`.

    :returns: fires with a name, or fails as an endpoint does.
    :raises ValueError: `address` is no address literal.
    :raises TypeError: as `SOCKS5ClientEndpoint` does.
    """
    check_type("address", address, str, bytes)
    target = target_address(address, 0)
    if target.is_name:
        raise ValueError("resolve_ptr takes an IPv4 or IPv6 address")
    request = Request(Command.RESOLVE_PTR, target)
    return _ask_for_host(_ProxyQuery.of(request, proxy_endpoint, methods, timeout, dialect, allow_cleartext, reactor))


def _ask_for_host(query: _ProxyQuery) -> Deferred[str]:
    found: Deferred[Address] = query.begin(SOCKS5ExtClientFactory, None)
    return found.addCallback(lambda address: address.host)
