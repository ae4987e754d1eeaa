"""
Ways out of a transport: from the address and through the proxy that its parent wants.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from twisted.internet.address import HostnameAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from ..client.endpoints import SOCKS5ClientEndpoint
from ..client.tunnel import PROXY_NOT_REACHED
from ..errors import (
    AddressTypeNotSupported,
    ConnectionRefused,
    GeneralServerFailure,
    HostUnreachable,
    NetworkUnreachable,
    ProxyClosed,
    ProxyUnreachable,
    ReplyError,
    SOCKS5Error,
    TTLExpired,
)
from ..net.transport import twisted_address_of
from ..net.twisted_transports import endpoint_to, is_loopback_host
from ..protocol.codes import AddressType
from ..protocol.messages import Address
from ..protocol.pairs import as_bytes
from ..transports.notation import format_address
from ..transports.upstream import UpstreamProxy
from .exchange import Exchange, ExchangeEndpoint

CONNECT_TIMEOUT = 45.0
"""Seconds for one connection to be made."""

LONGEST_HEAD = 8 * 1024
"""Bytes of an HTTP proxy's answer."""


class Outgoing:
    """
    Makes endpoints.

    :param reactor: provides TCP and time.
    :param proxy: what every connection has to go through, or ``None``.
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
        :raises AddressTypeNotSupported: it is a name, and to look it up would tell the network about it.
        :raises ValueError: the address or the port is malformed.
        """
        target = Address.of(host, port)
        if self._proxy is not None:
            return _Proxied(self._through(self._proxy, target))
        if target.is_name:
            raise AddressTypeNotSupported("a transport connects to IP addresses: a name would be looked up in the open")
        return self._direct(host, port)

    def _direct(self, host: str, port: int) -> IStreamClientEndpoint:
        source = self._source_v6 if ":" in host else self._source_v4
        bound = None if source is None or is_loopback_host(host) else (source, 0)
        return endpoint_to(self._reactor, host, port, CONNECT_TIMEOUT, bound)

    def _through(self, proxy: UpstreamProxy, target: Address) -> IStreamClientEndpoint:
        way = self._direct(proxy.host, proxy.port)
        address: IAddress = (
            HostnameAddress(target.host.encode("ascii"), target.port) if target.is_name else twisted_address_of(target)
        )
        if proxy.scheme == "http":
            return ExchangeEndpoint(
                self._reactor, way, address, lambda: http_connect(target, proxy.username, proxy.password), ProxyClosed
            )
        if proxy.scheme == "socks4a":
            return ExchangeEndpoint(
                self._reactor, way, address, lambda: socks4a_connect(target, proxy.username), ProxyClosed
            )
        methods: dict[str, Any] = {"anonymous": ()}
        if proxy.username:
            methods["login"] = (proxy.username, proxy.password)
        # The operator chose this proxy, wherever it is.
        return SOCKS5ClientEndpoint(
            target.host,
            target.port,
            way,
            methods,
            timeout=None,
            dialect="plain",
            allow_cleartext=True,
            reactor=self._reactor,
        )


@implementer(IStreamClientEndpoint)
class _Proxied:
    """An endpoint behind a proxy: what keeps us from the proxy says nothing of the target."""

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
"""What a proxy says of the target. Its own rules, and codes of Tor's, mean nothing to a client of the transport."""


def _as_told(failure: Failure) -> Failure:
    """Return what a failure means for a client of the transport."""
    error = failure.value
    if isinstance(error, PROXY_NOT_REACHED) and not isinstance(error, SOCKS5Error):
        raise ProxyUnreachable()
    if isinstance(error, ReplyError) and type(error) not in _PASSED_ON:
        raise GeneralServerFailure(f"the proxy that the transport has to use refused: {error}")
    return failure


def http_connect(target: Address, username: str = "", password: str = "") -> Exchange:
    """
    Ask an HTTP proxy for a tunnel (RFC 9110, section 9.3.6).

    :raises GeneralServerFailure: it answers anything but success.
    """
    authority = target.host if target.is_name else format_address(target.host, target.port)
    if target.is_name:
        authority += f":{target.port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if username:
        login = base64.b64encode(as_bytes("the login", f"{username}:{password}")).decode("ascii")
        lines.append(f"Proxy-Authorization: Basic {login}")
    head = yield "".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii"), 1
    # Byte by byte, since what follows the head is not the proxy's.
    while not head.endswith((b"\r\n\r\n", b"\n\n")):
        if len(head) >= LONGEST_HEAD:
            raise GeneralServerFailure("the HTTP proxy's answer does not end")
        head += yield b"", 1
    status = re.match(rb"HTTP/1\.[01] ([0-9]{3})", head)
    if status is None:
        raise GeneralServerFailure("the HTTP proxy does not answer as one")
    if not status[1].startswith(b"2"):
        raise GeneralServerFailure(f"the HTTP proxy answered {status[1].decode('ascii')}")


def socks4a_connect(target: Address, username: str = "") -> Exchange:
    """
    Ask a SOCKS4a proxy for a connection.

    :raises AddressTypeNotSupported: the target is an IPv6 address.
    :raises GeneralServerFailure: it answers anything but success.
    """
    if target.type == AddressType.IPV6:
        raise AddressTypeNotSupported("SOCKS4a carries no IPv6 addresses")
    address, name = b"\0\0\0\1", target.host.encode("ascii") + b"\0"
    if not target.is_name:
        address, name = bytes(map(int, target.host.split("."))), b""
    request = b"\x04\x01" + target.port.to_bytes(2, "big") + address
    answer = yield request + as_bytes("the user name", username) + b"\0" + name, 8
    if answer[0] != 0:
        raise GeneralServerFailure("the SOCKS4a proxy does not answer as one")
    if answer[1] != 90:
        raise GeneralServerFailure(f"the SOCKS4a proxy answered {answer[1]}")
