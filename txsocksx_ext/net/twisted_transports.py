"""
Helpers for Twisted's transports, used by client and server.
"""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from functools import lru_cache
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectionRefusedError, ProcessExitedAlready
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    ILoggingContext,
    IProtocol,
    ISSLTransport,
    IStreamClientEndpoint,
    ISystemHandle,
    ITransport,
    IUNIXTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ..checks import check_endpoint
from ..protocol.codes import AddressType
from ..protocol.messages import UNSPECIFIED, Address
from .half_close import with_half_close
from .socket_state import socket_transport
from .tls import TLSTransport

MOST_KEEP_ALIVE = 32767
"""Seconds: the longest time that Linux takes."""


def hand_over(transport: Any, successor: IProtocol) -> bool:
    """
    Make `successor` the protocol of a connected transport, and connect it.

    The predecessor, such as the protocol that spoke SOCKS5, and the wrapper in which
    an endpoint has put it are not between the two any more.

    :param transport: a transport of Twisted's reactors, a wrapper of
        `twisted.protocols.policies` or TLS around one, or any other that keeps
        its protocol in ``protocol``.
    :returns: whether the protocol was replaced. If not, as with
        `twisted.internet.endpoints.ProcessEndpoint`, the predecessor has to pass data on
        to the successor. A `PausedProtocol` does so by itself.
    """
    place = place_of_protocol(transport)
    predecessor = None
    if place is not None:
        predecessor = getattr(*place)
        setattr(*place, successor)
    successor.makeConnection(transport)
    if isinstance(predecessor, PausedProtocol):
        predecessor.give_to(successor)
    return place is not None


def renew_log_prefix(transport: Any) -> None:
    """
    Make Twisted's log name the present protocol of a client connection. Twisted itself sets the name only once.

    :param transport: a client's transport, perhaps with wrappers.
    """
    connection = socket_transport(transport)
    if hasattr(connection, "logstr"):
        protocol = connection.protocol
        is_named = ILoggingContext.providedBy(protocol)
        connection.logstr = f"{protocol.logPrefix() if is_named else type(protocol).__name__},client"


def place_of_protocol(transport: Any) -> tuple[Any, str] | None:
    """Return ``(object, attribute)``: where the transport's protocol is stored; or ``None``."""
    holder = transport
    if not isinstance(transport, ProtocolWrapper):
        if not hasattr(transport, "protocol"):
            return None
        # After startTLS() the transport's own protocol is the TLS layer.
        if isinstance(transport.protocol, TLSMemoryBIOProtocol):
            holder = transport.protocol
    return holder, "wrappedProtocol" if isinstance(holder, ProtocolWrapper) else "protocol"


def abort(transport: Any) -> None:
    """Reset a connection, or close it if it cannot be reset; kill a process."""
    if hasattr(transport, "abortConnection"):
        transport.abortConnection()
        return
    if hasattr(transport, "signalProcess"):
        # It may ignore the end of its input.
        with suppress(ProcessExitedAlready):
            transport.signalProcess("KILL")
    transport.loseConnection()


def close_result(result: object) -> None:
    """Close what a route connected, if it did: a transport, or the protocol of one."""
    for transport in (result, getattr(result, "transport", None)):
        if hasattr(transport, "abortConnection") or hasattr(transport, "loseConnection"):
            abort(transport)
            return


def is_encrypted(transport: ITransport) -> bool:
    """Return whether the transport is TLS."""
    return bool(ISSLTransport.providedBy(transport))


def is_closing(transport: Any) -> bool:
    """Return whether a transport is being closed, so that its protocol must get no more data."""
    # Twisted has no public name for an abort that takes effect in the reactor's next turn.
    return bool(
        getattr(transport, "disconnecting", False)
        or getattr(transport, "_aborting", False)
        or getattr(transport, "_aborted", False)
    )


@lru_cache(maxsize=1024)
def is_loopback_host(host: str) -> bool:
    """Return whether `host` is an address literal of the loopback network."""
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return False
    return bool(unmapped(literal).is_loopback)


def unmapped(
    literal: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the IPv4 address in an IPv4-mapped IPv6 address; return any other address unchanged."""
    return getattr(literal, "ipv4_mapped", None) or literal


def bound_address(transport: Any) -> Address:
    """
    Return the local address of a connection to a target for a reply; zeros if it is not an IP address.

    Through another proxy, return the address that the proxy has reported.
    """
    if hasattr(transport, "bound_address"):
        bound: Address = transport.bound_address()
        return bound
    through = getattr(getattr(transport, "protocol", None), "bound", None)
    if through is not None:
        return UNSPECIFIED if through.type == AddressType.NONE else through
    try:
        host = transport.getHost()
    except NotImplementedError:  # a process
        return UNSPECIFIED
    if isinstance(host, IPv4Address):
        return Address(AddressType.IPV4, host.host, host.port)
    if isinstance(host, IPv6Address):
        return Address(AddressType.IPV6, host.host.split("%")[0], host.port)
    return UNSPECIFIED


def keep_alive(transport: Any) -> None:
    """
    Set SO_KEEPALIVE and TCP_NODELAY. Does nothing on transports other than TCP.
    """
    if not hasattr(transport, "setTcpKeepAlive") or not hasattr(transport, "setTcpNoDelay"):
        return
    # A connection of a balancer on a unix socket has the address of a TCP client.
    if not IUNIXTransport.providedBy(transport) and not isinstance(transport.getPeer(), UNIXAddress):
        transport.setTcpKeepAlive(True)
        transport.setTcpNoDelay(True)


def set_keep_alive_idle(transport: Any, seconds: float) -> None:
    """
    Have TCP probe a peer after some seconds without data, and then as often.

    Does nothing on other transports, on lost ones and where the system has no such option.
    """
    whole = min(max(1, int(seconds)), MOST_KEEP_ALIVE)
    connection = socket_transport(transport)
    handle = connection.getHandle() if ISystemHandle.providedBy(connection) else None
    if isinstance(handle, socket.SocketType) and handle.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
                if hasattr(socket, name):
                    handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), whole)


def unsent(transport: Any) -> int:
    """Return the number of bytes that a transport and its wrappers have not sent to the system yet."""
    count = 0
    while isinstance(transport, ProtocolWrapper):
        if isinstance(transport, TLSTransport):
            count += transport.unsent
        transport = transport.transport
    if isinstance(transport, FileDescriptor):
        # Twisted has no public name for what was written in this turn.
        count += len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    return count


def endpoint_to(
    reactor: Any, host: str, port: int, timeout: float = 30.0, source: tuple[str, int] | None = None
) -> IStreamClientEndpoint:
    """
    Return Twisted's endpoint for an IPv4 or IPv6 address.

    :param timeout: seconds for one attempt.
    :param source: the address and port to connect from; port 0 means any.
    """
    kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    return kind(reactor, host, port, timeout=timeout, bindAddress=source)


@implementer(IHalfCloseableProtocol)
class PausedProtocol(Protocol):
    """
    Pauses a new connection until `hand_over` gives it to another protocol.

    :ivar bound: the bound address in a proxy's reply; ``None`` without a proxy.
    :ivar early: bytes that were received behind a proxy's reply.
    """

    early = b""
    bound: Address | None = None
    _successor: IProtocol | None = None

    def connectionMade(self) -> None:
        transport: Any = with_half_close(self.transport)
        self.transport = transport
        if place_of_protocol(transport) is None:
            # A process keeps this protocol: let `hand_over` find it here, so that it passes data on.
            transport.protocol = self
        transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        # An endpoint may fire before it has passed on all bytes that it has read.
        if self._successor is not None:
            self._successor.dataReceived(data)
        else:
            self.early += data

    def give_to(self, successor: IProtocol) -> None:
        """Pass on the bytes received so far, and all that follow."""
        self._successor = successor
        early, self.early = self.early, b""
        if early:
            successor.dataReceived(early)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._successor is not None:
            self._successor.connectionLost(reason)

    def readConnectionLost(self) -> None:
        """Do nothing: a paused connection reads no end of input before the hand-over."""

    def writeConnectionLost(self) -> None:
        """Do nothing: nothing is written before the hand-over."""


class PausedFactory(Factory):
    """Builds protocols that pause their connections."""

    protocol = PausedProtocol
    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> PausedProtocol:
        """Build a protocol, which keeps the bound address of a proxy's reply."""
        built = PausedProtocol()
        built.bound = getattr(addr, "bound", None)
        return built


def open_transport(endpoint: IStreamClientEndpoint) -> Deferred[ITransport]:
    """
    Connect an endpoint, and fire with the paused transport, as a route's ``connect`` does.

    No byte is read before the transport is handed over, so none can be lost.
    A socket that is connected to itself counts as refused.

    :raises TypeError: `endpoint` is not an endpoint.
    """
    check_endpoint("endpoint", endpoint)
    connecting: Deferred[Any] = endpoint.connect(PausedFactory())
    return connecting.addCallback(_transport_of)


def _transport_of(protocol: Any) -> ITransport:
    transport: ITransport = protocol.transport
    if is_connected_to_itself(transport):
        abort(transport)
        raise ConnectionRefusedError()
    return transport


def is_connected_to_itself(transport: Any) -> bool:
    """
    Return whether a TCP socket is connected to itself.

    If nothing listens on a local port within ``net.ipv4.ip_local_port_range``, the
    system may choose that port for our end. Both ends are then the same socket
    (simultaneous open, RFC 9293, section 3.5), which receives its own bytes.
    """
    try:
        peer = transport.getPeer()
    except NotImplementedError:  # a process
        return False
    return isinstance(peer, (IPv4Address, IPv6Address)) and bool(transport.getHost() == peer)
