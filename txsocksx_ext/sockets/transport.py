"""
Transports of Twisted that the poller serves, and not the reactor.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure

from ..transports import PausedProtocol, was_reset
from ..wire.codes import AddressType
from ..wire.messages import Address
from .poller import FAILED, INPUT_ENDED, READ_EVENTS, WRITABLE, Poller


class SocketTransport(Connection):
    """
    A TCP connection in the poller, which does all that Twisted's do.

    It costs the reactor nothing, and neither to stop reading nor to begin again
    costs more than a question of the system. Nobody reads from it at first.

    :cvar is_kept_alive: its socket was made so. See `txsocksx_ext.transports.keep_alive`.
    :ivar poller: where its socket is watched.
    :ivar events: what the poller told of it, and what was not acted on yet.
    :ivar is_reading: whether its protocol gets what comes.
    """

    connected = 1
    is_kept_alive = True
    is_reading = False
    logstr = "socket"
    _is_writing = False

    def __init__(self, connected: socket.socket, protocol: IProtocol, poller: Poller, events: int = 0) -> None:
        # Connection's own would ask the system to make the socket non-blocking, which it is.
        FileDescriptor.__init__(self, poller.reactor)
        self.socket = connected
        self.fileno = connected.fileno
        self.protocol = protocol
        self.poller = poller
        self.events = events
        self._input_ended = False

    def startReading(self) -> None:
        """See `FileDescriptor`."""
        if not self.is_reading and not self._input_ended:
            self.is_reading = True
            if self.events & READ_EVENTS:
                self.poller.again(self.fileno())

    def stopReading(self) -> None:
        """See `FileDescriptor`."""
        self.is_reading = False

    def startWriting(self) -> None:
        """See `FileDescriptor`."""
        if not self._is_writing:
            self._is_writing = True
            self.poller.again(self.fileno())

    def stopWriting(self) -> None:
        """See `FileDescriptor`."""
        self._is_writing = False

    @property
    def has_sent_all(self) -> bool:
        """Whether it is plain and open both ways, and nothing that it was given waits to be sent."""
        return bool(self.connected) and not (self._is_writing or self.TLS or self._writeDisconnected or self._aborting)

    def write(self, data: bytes) -> None:
        """Send at once, if nothing waits to be sent, and the rest as soon as possible. See `ITransport`."""
        sent = 0
        if self.has_sent_all:
            try:
                sent = self.socket.send(data)
            except OSError:
                # It is full or lost, as the poller will tell.
                sent = 0
        if sent < len(data):
            super().write(data[sent:])

    def connectionLost(self, reason: Failure) -> None:
        """See `FileDescriptor`."""
        if self.connected:
            self.poller.forget(self.fileno())
        super().connectionLost(reason)

    def ready(self, events: int) -> None:
        """See `txsocksx_ext.sockets.poller.Watcher`."""
        self.events |= events
        if self._is_writing and events & WRITABLE:
            self._write()
        if not self.connected:
            return
        if self.is_reading and events & READ_EVENTS:
            self._read()
        elif self._input_ended and events & FAILED and was_reset(self):
            # Twisted would not see it before someone writes.
            self.connectionLost(Failure(CONNECTION_LOST))

    def abandon(self, why: str) -> None:
        """See `txsocksx_ext.sockets.poller.Watcher`."""
        self.connectionLost(Failure(ConnectionLost()))

    def _write(self) -> None:
        why = self.doWrite()
        if why is not None:
            self.connectionLost(Failure(why))
        elif self._is_writing:
            self.poller.again(self.fileno())

    def _read(self) -> None:
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            self.events &= ~READ_EVENTS
            return
        except OSError:
            self.connectionLost(Failure(CONNECTION_LOST))
            return
        if not data:
            self.is_reading, self._input_ended = False, True
            self.readConnectionLost(Failure(CONNECTION_DONE))
            return
        if len(data) < self.bufferSize and not self.events & INPUT_ENDED:
            # A short read has read all; what comes later is a new event.
            self.events &= ~READ_EVENTS
        else:
            self.poller.again(self.fileno())
        self.protocol.dataReceived(data)


class ConnectedTransport(SocketTransport):
    """
    A connection to a target, which is quiet until `txsocksx_ext.transports.hand_over` gives it to someone.

    :param peer: the address to which it goes, a literal.
    """

    def __init__(self, connected: socket.socket, peer: Address, poller: Poller, events: int) -> None:
        quiet = PausedProtocol()
        super().__init__(connected, quiet, poller, events)
        quiet.transport = self
        self._peer = peer

    def getHost(self) -> IPv4Address | IPv6Address:
        """Where the connection comes from."""
        return address_of(self.socket.getsockname())

    def bound_address(self) -> Address:
        """The same, as a reply carries it."""
        host, port, *_ = self.socket.getsockname()
        return Address(self._peer.type, host, port)

    def getPeer(self) -> IPv4Address | IPv6Address:
        """Where it goes to."""
        return twisted_address_of(self._peer)


class AcceptedTransport(SocketTransport):
    """
    A connection of a client, which is read from at once.

    :param peer: the client's address.
    """

    def __init__(
        self, accepted: socket.socket, protocol: IProtocol, peer: IPv4Address | IPv6Address, poller: Poller
    ) -> None:
        super().__init__(accepted, protocol, poller)
        self._peer = peer
        self.is_reading = True

    def getHost(self) -> IPv4Address | IPv6Address:
        """The server's address."""
        return address_of(self.socket.getsockname())

    def getPeer(self) -> IPv4Address | IPv6Address:
        """The client's address."""
        return self._peer


def address_of(name: tuple[Any, ...]) -> IPv4Address | IPv6Address:
    """What the system calls an end of a TCP connection, as Twisted writes it."""
    if len(name) == 2:
        # Thousands may come from one host: then they share its name.
        return IPv4Address("TCP", sys.intern(name[0]), name[1])
    host, port, flow, scope = name
    if scope:
        # With the name of the network interface.
        host, _ = socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return IPv6Address("TCP", host, port, flow, scope)


def twisted_address_of(address: Address) -> IPv4Address | IPv6Address:
    """An address literal and a port as Twisted writes them."""
    kind = IPv6Address if address.type == AddressType.IPV6 else IPv4Address
    return kind("TCP", address.host, address.port)
