"""
What both ends need to know of Twisted's transports.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    ISSLTransport,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from .wire.messages import UNSPECIFIED, Address


def hand_over(transport: Any, successor: IProtocol) -> None:
    """
    Make `successor` the protocol of a connected transport, and tell it so.

    From then on nothing stands between the two: not the protocol that spoke
    SOCKS5, nor the wrapper in which an endpoint had put it.

    :param transport: a transport of Twisted's reactors, one of
        `twisted.protocols.policies` or TLS around one, or any other that keeps
        its protocol in ``protocol``.
    """
    holder, name = transport, "protocol"
    # After startTLS() the transport's own protocol is the TLS layer.
    if not isinstance(transport, ProtocolWrapper) and isinstance(transport.protocol, TLSMemoryBIOProtocol):
        holder = transport.protocol
    if isinstance(holder, ProtocolWrapper):
        name = "wrappedProtocol"
    predecessor = getattr(holder, name)
    setattr(holder, name, successor)
    successor.makeConnection(transport)
    if isinstance(predecessor, PausedProtocol) and predecessor.early:
        successor.dataReceived(predecessor.early)


def is_encrypted(transport: ITransport) -> bool:
    """Whether the transport is TLS."""
    return bool(ISSLTransport.providedBy(transport))


def can_half_close(transport: ITransport) -> bool:
    """
    Whether only the sending side of the transport can be closed.

    TLS in Twisted closes both, and a wrapper around it would close the TCP
    connection under it.
    """
    return hasattr(transport, "loseWriteConnection") and not is_encrypted(transport)


def is_closing(transport: Any) -> bool:
    """Whether the protocol of a transport has had it closed, so that no more data may come to it."""
    # Twisted has no public name for an abort that takes effect in the reactor's next turn.
    return any(getattr(transport, name, False) for name in ("disconnecting", "_aborting", "_aborted"))


def is_local(address: IAddress | None) -> bool:
    """Whether a peer's address is this machine's own: loopback, or a unix socket."""
    if isinstance(address, (IPv4Address, IPv6Address)):
        return is_loopback_host(address.host)
    return isinstance(address, UNIXAddress)


@lru_cache(maxsize=1024)
def is_loopback_host(host: str) -> bool:
    """Whether `host` is an address literal of the loopback network."""
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(literal, "ipv4_mapped", None)
    return bool((mapped or literal).is_loopback)


def peer_name(address: IAddress | None) -> str:
    """How logs and counters name a peer: its host, without the port."""
    if isinstance(address, (IPv4Address, IPv6Address)):
        return address.host
    return "unix" if isinstance(address, UNIXAddress) else type(address).__name__


def bound_address(transport: ITransport) -> Address:
    """Our own end of a connection, as a reply carries it; zeros where it has no IP address."""
    host = transport.getHost()
    if isinstance(host, (IPv4Address, IPv6Address)):
        return Address.of(host.host.split("%")[0], host.port)
    return UNSPECIFIED


def keep_alive(transport: Any) -> None:
    """
    Have the system notice peers that vanished, and send small writes at once.

    Does nothing on transports that are not TCP.
    """
    if isinstance(transport.getPeer(), (IPv4Address, IPv6Address)):
        transport.setTcpKeepAlive(True)
        transport.setTcpNoDelay(True)


@implementer(IHalfCloseableProtocol)
class PausedProtocol(Protocol):
    """
    Keeps a new connection quiet until `hand_over` gives it to someone else.

    :ivar early: bytes that came all the same, joined to a proxy's reply.
    """

    early = b""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.pauseProducing()  # type: ignore[attr-defined]

    def dataReceived(self, data: bytes) -> None:
        self.early += data

    def readConnectionLost(self) -> None:
        """Nothing is read, so no end of it is seen before the hand-over."""

    def writeConnectionLost(self) -> None:
        """Nothing is written before the hand-over."""


class PausedFactory(Factory):
    """Builds protocols that keep their connections quiet."""

    protocol = PausedProtocol
    noisy = False


def open_transport(endpoint: IStreamClientEndpoint) -> Deferred[ITransport]:
    """
    Connect, and fire with the transport, paused: what a route's ``connect`` returns.

    No byte is read before the transport is handed over, so none can be lost.
    """
    connecting: Deferred[Any] = endpoint.connect(PausedFactory())
    return connecting.addCallback(lambda protocol: protocol.transport)
