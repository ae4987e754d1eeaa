"""
The outgoing connections of a transport: from the source address and through the proxy that its parent wants.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from ..client.endpoints import SOCKS5ClientEndpoint
from ..client.http_connect import HTTPConnectClientEndpoint
from ..client.socks4 import SOCKS4ClientEndpoint
from ..errors import (
    AddressTypeNotSupported,
    ConnectionRefused,
    GeneralServerFailure,
    HostUnreachable,
    NetworkUnreachable,
    ReplyError,
    TTLExpired,
)
from ..net.twisted_transports import endpoint_to, is_loopback_host
from ..protocol.messages import Address
from ..transports.upstream import UpstreamProxy

CONNECT_TIMEOUT = 45.0
"""Seconds for one connection to be made."""


class Outgoing:
    """
    Makes the endpoints of outgoing connections.

    :param reactor: provides TCP and time.
    :param proxy: the proxy for every connection, or ``None``.
    :param source_v4: the source address of IPv4 connections, or ``None``.
    :param source_v6: the same for IPv6.
    """

    def __init__(
        self,
        reactor: Any,
        proxy: UpstreamProxy | None = None,
        source_v4: str | None = None,
        source_v6: str | None = None,
    ) -> None:
        self._reactor = reactor
        self._proxy = proxy
        self._source_v4 = source_v4
        self._source_v6 = source_v6

    def endpoint(self, host: str, port: int) -> IStreamClientEndpoint:
        """
        Return the endpoint of an address.

        :param host: an IP address; with a proxy it may be a name.
        :raises AddressTypeNotSupported: `host` is a name and there is no proxy: a look-up would show it to the network.
        :raises ValueError: the address or the port is malformed.
        """
        target = Address.of(host, port)
        if self._proxy is not None:
            return _Proxied(self._through(self._proxy, target))
        if target.is_name:
            raise AddressTypeNotSupported(
                "a transport connects to IP addresses only: looking a name up would reveal it to the network"
            )
        return self._direct(host, port)

    def _direct(self, host: str, port: int) -> IStreamClientEndpoint:
        source = self._source_v6 if ":" in host else self._source_v4
        bound = None if source is None or is_loopback_host(host) else (source, 0)
        return endpoint_to(self._reactor, host, port, CONNECT_TIMEOUT, bound)

    def _through(self, proxy: UpstreamProxy, target: Address) -> IStreamClientEndpoint:
        direct = self._direct(proxy.host, proxy.port)
        login = (proxy.username, proxy.password) if proxy.username else None
        # The operator chose this proxy, wherever it is. The transport's own deadline includes the connection.
        options: dict[str, Any] = {"timeout": None, "allow_cleartext": True, "reactor": self._reactor}
        if proxy.scheme == "http":
            return HTTPConnectClientEndpoint(target.host, target.port, direct, credentials=login, **options)
        if proxy.scheme == "socks4a":
            return SOCKS4ClientEndpoint(target.host, target.port, direct, user_id=proxy.username, **options)
        methods: dict[str, Any] = {"anonymous": ()} if login is None else {"anonymous": (), "login": login}
        return SOCKS5ClientEndpoint(target.host, target.port, direct, methods, dialect="plain", **options)


@implementer(IStreamClientEndpoint)
class _Proxied:
    """An endpoint behind a proxy; converts its failures to those that clients of the transport get."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[IProtocol] = self._endpoint.connect(protocol_factory)
        return connecting.addErrback(_as_told)


_PASSED_ON = (
    GeneralServerFailure,
    NetworkUnreachable,
    HostUnreachable,
    ConnectionRefused,
    TTLExpired,
    AddressTypeNotSupported,
)
"""What a proxy says of the target. Its rules and Tor's codes mean nothing to a client of the transport."""


def _as_told(failure: Failure) -> Failure:
    """Return what a failure means for a client of the transport."""
    error = failure.value
    if isinstance(error, ReplyError) and type(error) not in _PASSED_ON:
        raise GeneralServerFailure(f"the proxy that the transport has to use refused: {error}")
    return failure
