"""
Transports that the poller serves instead of the reactor, and how a relay takes over a transport's socket.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from functools import lru_cache
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from zope.interface import implementer

from ..protocol.codes import AddressType
from ..protocol.messages import Address
from .poller import FAILED, MORE_MAY_FOLLOW, READ_EVENTS, URGENT, WRITABLE, Poller, Watcher
from .socket_state import was_reset
from .twisted_transports import keep_alive

STREAM = int(socket.SOCK_STREAM)
_IPV4, _IPV6 = AddressType.IPV4, AddressType.IPV6
_NOTHING_TO_READ = ~READ_EVENTS


class SocketTransport(Connection):
    """
    A TCP connection in the poller, with all features of Twisted's TCP transports.

    The reactor does not watch it. To stop or start reading costs at most one system
    call. Both ends share one class, because CPython's attribute caches are by class.

    :param connected: the socket, non-blocking.
    :param peer: Twisted's address of a client, or our address literal of a target.
    :param name: what ``getsockname()`` returned for a connection to a target.

    :ivar poller: watches the socket.
    :ivar events: events that the poller has reported and that were not acted on yet.
    :ivar is_reading: whether the protocol gets received data.
    :ivar has_sent_all: whether it is plain TCP, our sending side is open, and no
        written data waits to be sent.
    """

    logstr = "socket"

    def __init__(
        self,
        connected: socket.SocketType,
        protocol: IProtocol,
        peer: IPv4Address | IPv6Address | Address,
        poller: Poller,
        events: int = 0,
        is_reading: bool = False,
        name: tuple[Any, ...] = (),
    ) -> None:
        # What the base classes' own __init__ do, without the system call that makes the socket non-blocking.
        self.reactor = poller.reactor
        self._tempDataBuffer: list[bytes] = []
        self._tempDataLen = 0
        self.socket = connected  # type: ignore[assignment]  # a _socket.socket
        self.fileno = connected.fileno
        self.protocol = protocol
        self.producer = None
        self.poller = poller
        self.events = events
        self._peer = peer
        self._name = name
        # Create every attribute here: CPython's key-sharing dicts stay compact only if attributes appear in `__init__`.
        self.connected = 1
        self.disconnected = 0
        self.is_reading = is_reading
        self.has_sent_all = True
        self._is_writing = self._input_ended = False

    def startReading(self) -> None:
        """See `FileDescriptor`."""
        if not self.is_reading and not self._input_ended and not self._aborting:
            self.is_reading = True
            if self.events & READ_EVENTS:
                self.poller.rearm(self.fileno())

    def stopReading(self) -> None:
        """See `FileDescriptor`."""
        self.is_reading = False

    def startWriting(self) -> None:
        """See `FileDescriptor`."""
        if not self._is_writing:
            self._is_writing = True
            self.has_sent_all = False
            self.poller.rearm(self.fileno())

    def stopWriting(self) -> None:
        """See `FileDescriptor`."""
        self._is_writing = False
        is_ending = self.disconnecting or self._writeDisconnecting or self._aborting
        self.has_sent_all = bool(self.connected) and not is_ending and not self.TLS

    def startTLS(self, *arguments: Any, **keywords: Any) -> None:
        """See `ITLSTransport`."""
        self.has_sent_all = False
        super().startTLS(*arguments, **keywords)

    def write(self, data: bytes) -> None:
        """Send at once what the socket takes, unless earlier data waits, and buffer the rest. See `ITransport`."""
        if self.has_sent_all:
            data = _unsent(self.socket, data)
        if data:
            super().write(data)

    @property
    def _tlsClientDefault(self) -> bool:
        return isinstance(self._peer, Address)

    def getHost(self) -> IPv4Address | IPv6Address:
        """Return the address of our end."""
        return address_of(self.socket.getsockname())

    def getPeer(self) -> IPv4Address | IPv6Address:
        """Return the address of the peer."""
        peer = self._peer
        return twisted_address_of(peer) if isinstance(peer, Address) else peer

    def bound_address(self) -> Address:
        """Return the local address of a connection to a target, for a reply."""
        host, port, *_ = self._name or self.socket.getsockname()
        if ":" in host:
            # A reply cannot carry a scope.
            return Address(_IPV6, host.partition("%")[0], port)
        return Address(_IPV4, host, port)

    def connectionLost(self, reason: Failure) -> None:
        """See `FileDescriptor`."""
        self.has_sent_all = False
        if self.connected:
            self.poller.unregister(self.fileno())
        super().connectionLost(reason)

    def ready(self, events: int) -> None:
        """See `txsocksx_ext.net.poller.Watcher`."""
        self.events |= events
        if self._is_writing and events & WRITABLE:
            self._write()
            if not self.connected:
                return
        if not events & READ_EVENTS:
            return
        if not self.is_reading:
            if self._input_ended and events & FAILED and was_reset(self):
                # Twisted would notice the reset only at the next write.
                self.connectionLost(Failure(CONNECTION_LOST))
            return
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            self.events &= _NOTHING_TO_READ
            return
        except OSError:
            self.connectionLost(Failure(CONNECTION_LOST))
            return
        if not data:
            self.is_reading, self._input_ended = False, True
            self.readConnectionLost(Failure(CONNECTION_DONE))
            return
        if len(data) < self.bufferSize and not self.events & MORE_MAY_FOLLOW:
            # A short read has emptied the socket; later data is a new event.
            self.events &= _NOTHING_TO_READ
        else:
            self.events &= ~URGENT
            self.poller.rearm(self.fileno())
        self.protocol.dataReceived(data)

    def abandon(self, why: str) -> None:
        """See `txsocksx_ext.net.poller.Watcher`."""
        self.connectionLost(Failure(ConnectionLost()))

    def _write(self) -> None:
        why = self.doWrite()
        if why is not None:
            self.connectionLost(Failure(why))
        elif self._is_writing:
            self.poller.rearm(self.fileno())


@implementer(IHalfCloseableProtocol)
class _Quiet(Protocol):
    """The protocol of connections that were not handed over yet, from which nothing is read."""

    def readConnectionLost(self) -> None:
        """Do nothing: nothing is read before the hand-over."""

    def writeConnectionLost(self) -> None:
        """Do nothing: nothing is written before the hand-over."""


QUIET = _Quiet()
"""A single instance, because it has no state."""


_new_address = IPv4Address.__new__


def address_of(name: tuple[Any, ...]) -> IPv4Address | IPv6Address:
    """Return Twisted's address for a socket address of the system."""
    if len(name) == 2:
        # Not by the constructor, which validates its arguments.
        address = _new_address(IPv4Address)
        # Thousands of connections may come from one host, so share its string.
        address.type, address.host, address.port = "TCP", sys.intern(name[0]), name[1]
        return address
    host, port, flow, scope = name
    if scope:
        # With the name of the network interface.
        host, _ = socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return IPv6Address("TCP", host, port, flow, scope)


def twisted_address_of(address: Address) -> IPv4Address | IPv6Address:
    """Return Twisted's address for an address literal and a port."""
    kind = IPv6Address if address.type == AddressType.IPV6 else IPv4Address
    return kind("TCP", address.host, address.port)


# setsockopt() would convert these enumeration members on each call.
_SOCKET, _KEEPALIVE = int(socket.SOL_SOCKET), int(socket.SO_KEEPALIVE)
_TCP, _NODELAY = int(socket.IPPROTO_TCP), int(socket.TCP_NODELAY)


def keep_socket_alive(connection: socket.SocketType) -> None:
    """
    Set SO_KEEPALIVE and TCP_NODELAY.

    On Linux, connections inherit both from a listening socket.
    """
    set_option = connection.setsockopt
    set_option(_SOCKET, _KEEPALIVE, 1)
    set_option(_TCP, _NODELAY, 1)


# How a relay takes over the socket of a transport.

_PLAIN_TRANSPORTS: tuple[type, ...] = (
    SocketTransport,
    unix.Server,
    unix.Client,
    tcp.Server,
    tcp.Client,
)

_DATA_PATH = (
    "doRead",
    "_dataReceived",
    "write",
    "writeSequence",
    "writeSomeData",
    "doWrite",
    "readConnectionLost",
    "connectionLost",
)
"""The methods that handle data and the ends of connections."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@lru_cache(maxsize=64)
def _is_plain(kind: type) -> bool:
    """Return whether this class handles data exactly as Twisted's plain transports do."""
    plain = next((each for each in _PLAIN_TRANSPORTS if issubclass(kind, each)), None)
    return plain is not None and all(getattr(kind, name) is getattr(plain, name) for name in _DATA_PATH)


def _has_sent_all(transport: Any) -> bool:
    """Return whether a transport is plain, its sending side is open, and all written data was sent."""
    return bool(
        _is_plain(type(transport))  # type: ignore[arg-type]  # mypy does not see that a class is hashable
        and transport.connected
        and not transport.TLS
        and not (transport.disconnecting or transport._writeDisconnecting or transport._aborting)
        and not transport._tempDataLen
        and len(transport.dataBuffer) == transport.offset
    )


def can_take(transport: Any) -> bool:
    """
    Return whether a relay may take over the socket of a transport.

    It may not if TLS, another wrapper or a subclass handles the data, nor while the
    transport is closing, has data to send, or has a producer.
    """
    if type(transport) is SocketTransport:
        return transport.has_sent_all and transport.producer is None
    return _has_sent_all(transport) and transport.producer is None


def take_socket(transport: Any, poller: Poller, watcher: Watcher) -> tuple[socket.SocketType, int]:
    """
    Take the socket of a transport that `can_take` admits, and have the poller report its events to `watcher`.

    Afterwards the transport is disconnected: closing it or writing to it does
    nothing. Its protocol is not notified, and can be replaced by `hand_over` as before.

    :returns: the socket, non-blocking and kept alive, and the events that the poller
        has reported to the transport and will not report again.
    :raises OSError: the poller cannot watch another socket; nothing was changed.
    """
    taken: socket.SocketType = transport.socket
    if isinstance(transport, SocketTransport):
        events = transport.events
        transport.has_sent_all = False
        poller.replace(taken.fileno(), watcher)
    else:
        events = 0
        # Our own transports' sockets have these options from the start.
        keep_alive(transport)
        poller.watch(taken.fileno(), watcher)
        transport.stopReading()
        transport.stopWriting()
    transport.connected, transport.disconnected = 0, 1
    # As Twisted does when a connection is lost: the class's own fileno() returns -1.
    del transport.socket, transport.fileno
    return taken, events


def write_now(transport: Any, data: bytes) -> None:
    """
    Send at once if the transport is plain and has nothing else to send; otherwise write to it.

    Twisted would send in the reactor's next iteration, with two more system calls.
    """
    if not isinstance(transport, SocketTransport) and _has_sent_all(transport):
        data = _unsent(transport.socket, data)
    if data:
        transport.write(data)


def _unsent(connected: socket.SocketType, data: bytes) -> bytes:
    """Send what a socket accepts, and return the rest: all if the connection is lost, which its transport notices."""
    try:
        return data[connected.send(data) :]
    except OSError:
        return data


def reset_socket(to_close: socket.SocketType) -> None:
    """Close a socket with a reset: data that was not sent is discarded."""
    # Setting options of a lost connection fails.
    with suppress(OSError):
        to_close.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    to_close.close()
