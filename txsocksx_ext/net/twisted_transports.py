"""
What both ends need to know of Twisted's transports.
"""

from __future__ import annotations

import ipaddress
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


def hand_over(transport: Any, successor: IProtocol) -> bool:
    """
    Make `successor` the protocol of a connected transport, and tell it so.

    From then on nothing stands between the two: not the protocol that spoke
    SOCKS5, nor the wrapper in which an endpoint had put it.

    :param transport: a transport of Twisted's reactors, one of
        `twisted.protocols.policies` or TLS around one, or any other that keeps
        its protocol in ``protocol``.
    :returns: whether that was possible. Otherwise (`twisted.internet.endpoints.ProcessEndpoint`)
        the successor is told all the same, and its predecessor has to pass on what
        comes. A `PausedProtocol` does so by itself.
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
    Have the log name the protocol that a client's connection serves now. Twisted asks for it once, at the start.

    :param transport: of a client, perhaps with wrappers around it.
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
    """Reset a connection; one that can only be closed is closed, and a process is killed."""
    if hasattr(transport, "abortConnection"):
        transport.abortConnection()
        return
    if hasattr(transport, "signalProcess"):
        # It need not heed that its input ends.
        with suppress(ProcessExitedAlready):
            transport.signalProcess("KILL")
    transport.loseConnection()


def is_encrypted(transport: ITransport) -> bool:
    """Return whether the transport is TLS."""
    return bool(ISSLTransport.providedBy(transport))


def is_closing(transport: Any) -> bool:
    """Return whether the protocol of a transport has had it closed, so that no more data may come to it."""
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
    """Return an address, or the IPv4 address that an IPv6 address is mapped from."""
    return getattr(literal, "ipv4_mapped", None) or literal


def bound_address(transport: Any) -> Address:
    """
    Return where a connection to a target comes from, as a reply carries it; zeros if that is no IP address.

    Through another proxy it is what that proxy said, and never our way to it.
    """
    if hasattr(transport, "bound_address"):
        return transport.bound_address()  # type: ignore[no-any-return]
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
    Have the system notice peers that vanished, and send small writes at once.

    Does nothing on transports that are not TCP.
    """
    if not hasattr(transport, "setTcpKeepAlive") or not hasattr(transport, "setTcpNoDelay"):
        return
    # A balancer on a unix socket tells the address of a TCP client.
    if not IUNIXTransport.providedBy(transport) and not isinstance(transport.getPeer(), UNIXAddress):
        transport.setTcpKeepAlive(True)
        transport.setTcpNoDelay(True)


def unsent(transport: Any) -> int:
    """Return how many bytes wait in a transport, and the wrappers around it, until they go to the system."""
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
    Twisted's endpoint for an IPv4 or IPv6 address.

    :param timeout: seconds for one attempt.
    :param source: the address and port to connect from; a port of 0 is any.
    """
    kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    return kind(reactor, host, port, timeout=timeout, bindAddress=source)


@implementer(IHalfCloseableProtocol)
class PausedProtocol(Protocol):
    """
    Keeps a new connection quiet until `hand_over` gives it to someone else.

    :ivar bound: the address that a proxy says it used; ``None`` where there was no proxy.
    :ivar early: bytes that came all the same, joined to a proxy's reply.
    """

    early = b""
    bound: Address | None = None
    _successor: IProtocol | None = None

    def connectionMade(self) -> None:
        transport: Any = with_half_close(self.transport)
        self.transport = transport
        if place_of_protocol(transport) is None:
            # A process tells only us: here `hand_over` finds us, and we pass on what it says.
            transport.protocol = self
        transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        # An endpoint may fire before it passes on the bytes that it has read.
        if self._successor is not None:
            self._successor.dataReceived(data)
        else:
            self.early += data

    def give_to(self, successor: IProtocol) -> None:
        """Pass on what came, and what comes."""
        self._successor = successor
        early, self.early = self.early, b""
        if early:
            successor.dataReceived(early)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._successor is not None:
            self._successor.connectionLost(reason)

    def readConnectionLost(self) -> None:
        """Nothing is read, so no end of it is seen before the hand-over."""

    def writeConnectionLost(self) -> None:
        """Nothing is written before the hand-over."""


class PausedFactory(Factory):
    """Builds protocols that keep their connections quiet."""

    protocol = PausedProtocol
    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> PausedProtocol:
        """Build a protocol, which remembers what a proxy told."""
        built = PausedProtocol()
        built.bound = getattr(addr, "bound", None)
        return built


def open_transport(endpoint: IStreamClientEndpoint) -> Deferred[ITransport]:
    """
    Connect, and fire with the transport, paused: what a route's ``connect`` returns.

    No byte is read before the transport is handed over, so none can be lost.
    A socket that was connected to itself counts as refused.

    :raises TypeError: it is no endpoint.
    """
    check_endpoint("endpoint", endpoint)
    connecting: Deferred[Any] = endpoint.connect(PausedFactory())
    return connecting.addCallback(_transport_of)


def _transport_of(protocol: Any) -> ITransport:
    transport: Any = protocol.transport
    if is_connected_to_itself(transport):
        abort(transport)
        raise ConnectionRefusedError()
    return transport  # type: ignore[no-any-return]


def is_connected_to_itself(transport: Any) -> bool:
    """
    Return whether a TCP socket is connected to itself.

    If nothing listens on a port of this machine from which outgoing connections
    start too (``net.ipv4.ip_local_port_range``), the system may choose that very
    port for our end. Both ends are then the same socket (simultaneous open,
    RFC 9293, section 3.5), which receives whatever is sent on it.
    """
    try:
        peer = transport.getPeer()
    except NotImplementedError:  # a process
        return False
    return isinstance(peer, (IPv4Address, IPv6Address)) and bool(transport.getHost() == peer)
