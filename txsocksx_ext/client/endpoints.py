"""
Client endpoints, and the look-ups that a proxy does for us.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import idna
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from ..checks import check_reactor, check_type
from ..protocol.codes import Command, Dialect
from ..protocol.messages import Address, Request
from .methods import ClientMethods
from .proxies import SOCKS5, AnyProxy, proxy_of
from .socks5 import SOCKS5ExtClientFactory
from .tls import creator_of, over_tls
from .tunnel import TunnelFactory

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
class ProxiedEndpoint:
    """
    A target behind a proxy: what the endpoints of all protocols have in common.

    :cvar speaks: the protocol, by its name in `proxies`.
    """

    speaks: str

    def __init__(
        self,
        host: str | bytes,
        port: int,
        proxy: AnyProxy,
        methods: ClientMethods,
        timeout: float | None,
        tls: bool | IOpenSSLClientConnectionCreator,
        allow_cleartext: bool,
        reactor: Any,
    ) -> None:
        self.target = target_address(host, port)
        found = proxy_of(reactor, proxy, self.speaks)
        check_type("allow_cleartext", allow_cleartext, bool)
        if reactor is not None:
            check_reactor("reactor", reactor)
        self._proxy = found.endpoint
        self._methods = methods if found.login is None else found.complete(methods)
        self._timeout = checked_timeout(timeout)
        self._allow_cleartext = allow_cleartext
        self._reactor = reactor
        self._tls = None if tls is False else creator_of(tls, self.target.host)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

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
        return self.ask(Command.CONNECT, protocol_factory)

    def ask(self, command: Command, application: IProtocolFactory | None) -> Deferred[Any]:
        """Ask the proxy. It answers a look-up, for which there is no application, with an `Address`."""
        reactor = self._reactor
        if reactor is None:
            from twisted.internet import reactor
        conversation = self._conversation(Request(command, self.target), application, reactor)
        return conversation.begin(self._proxy, self._timeout)

    def _conversation(self, request: Request, application: IProtocolFactory | None, reactor: Any) -> TunnelFactory:
        raise NotImplementedError

    def _check(self) -> None:
        """
        Check that the request can be written.

        :raises ValueError: it cannot.
        """
        self._conversation(Request(Command.CONNECT, self.target), None, self._reactor)


class SOCKS5ClientEndpoint(ProxiedEndpoint):
    """
    A target behind a SOCKS5 proxy, as an endpoint for any Twisted program.

    :param host: the target: an address literal or a name, which the proxy resolves.
    :param port: the target's.
    :param proxy_endpoint: how to reach the proxy: an endpoint, an endpoint string or a URL such as
        ``socks5://user:password@proxy.example:1080``.
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
    :raises ValueError: SOCKS5 cannot carry the target, or the methods, the timeout or the URL are faulty.
    :raises TypeError: the host is no text, the proxy no endpoint, `tls` nothing that checks
        the host's name, or what `methods` holds of a wrong type.
    """

    speaks = SOCKS5

    factory = SOCKS5ExtClientFactory
    """Makes the choices of each conversation: to change one, put a subclass here."""

    def __init__(
        self,
        host: str | bytes,
        port: int,
        proxy_endpoint: AnyProxy | None = None,
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
        super().__init__(host, port, proxy, ClientMethods.of(methods), timeout, tls, allow_cleartext, reactor)
        self._dialect = dialect_named(dialect)

    def _conversation(self, request: Request, application: IProtocolFactory | None, reactor: Any) -> TunnelFactory:
        return self.factory(
            request,
            self._methods,
            application,
            dialect=self._dialect,
            allow_cleartext=self._allow_cleartext,
            reactor=reactor,
        )


def resolve(
    host: str | bytes,
    proxy_endpoint: AnyProxy,
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
    endpoint = SOCKS5ClientEndpoint(
        host,
        0,
        proxy_endpoint,
        methods,
        timeout=timeout,
        dialect=dialect,
        allow_cleartext=allow_cleartext,
        reactor=reactor,
    )
    return endpoint.ask(Command.RESOLVE, None).addCallback(lambda address: address.host)


def resolve_ptr(
    address: str | bytes,
    proxy_endpoint: AnyProxy,
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
    endpoint = SOCKS5ClientEndpoint(
        address,
        0,
        proxy_endpoint,
        methods,
        timeout=timeout,
        dialect=dialect,
        allow_cleartext=allow_cleartext,
        reactor=reactor,
    )
    if endpoint.target.is_name:
        raise ValueError("resolve_ptr takes an IPv4 or IPv6 address")
    return endpoint.ask(Command.RESOLVE_PTR, None).addCallback(lambda address: address.host)
