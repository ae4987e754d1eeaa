"""
Connections in memory: Twisted's TCP transports over buffers.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..checks import check_integer, check_method
from .attributes import check_address, check_clock

CLIENT_ADDRESS = IPv4Address("TCP", "127.0.0.1", 49152)
SERVER_ADDRESS = IPv4Address("TCP", "127.0.0.1", 1080)

ROOM = 64 * 1024
"""How many bytes one direction of a connection holds when nobody reads, as a system's socket buffers do."""


class MemoryTransport(Connection):
    """
    One end of a connection in memory: Twisted's TCP transport without a socket.

    :ivar protocol: who gets what arrives; there is none after the connection was lost.
    :ivar clock: provides the turns in which things arrive.
    """

    def __init__(self, turns: _Turns, host: IAddress, peer: IAddress, most_at_once: int, is_client: bool) -> None:
        super().__init__(cast(socket.socket, _MemorySocket(turns.wake, most_at_once)), Protocol(), cast(Any, turns))
        # What startTLS() asks its transport for.
        self._tlsClientDefault = is_client
        self.clock = turns.clock
        self._host = host
        self._peer = peer
        self._when_lost: list[Callable[[], object]] = []

    def getHost(self) -> Any:
        return self._host

    def getPeer(self) -> Any:
        return self._peer

    def when_lost(self, act: Callable[[], object]) -> None:
        """Call `act` after the protocol's ``connectionLost``."""
        self._when_lost.append(act)

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        acts, self._when_lost = self._when_lost, []
        for act in acts:
            act()


def connect_in_memory(
    client: IProtocol,
    server: IProtocol,
    *,
    clock: Any = None,
    client_address: IAddress = CLIENT_ADDRESS,
    server_address: IAddress = SERVER_ADDRESS,
    most_at_once: int = ROOM,
) -> tuple[MemoryTransport, MemoryTransport]:
    """
    Connect two protocols.

    :param clock: an `IReactorTime` whose turns deliver what is written; by
        default the global reactor.
    :param client_address: the client's ``getHost()`` and the server's ``getPeer()``.
    :param server_address: the server's ``getHost()`` and the client's ``getPeer()``.
    :param most_at_once: how many bytes one ``dataReceived`` gets at most.
    :returns: the client's transport and the server's.
    :raises TypeError: an argument is of a wrong type.
    :raises ValueError: `most_at_once` is below 1.
    """
    for name, protocol in (("client", client), ("server", server)):
        check_method(name, protocol, "makeConnection", "a protocol")
    check_address("client_address", client_address)
    check_address("server_address", server_address)
    check_integer("most_at_once", most_at_once, 1)
    check_clock("clock", clock)
    turns = _Turns(reactor_or(clock))
    near = MemoryTransport(turns, client_address, server_address, most_at_once, True)
    far = MemoryTransport(turns, server_address, client_address, most_at_once, False)
    _socket_of(near).other = _socket_of(far)
    _socket_of(far).other = _socket_of(near)
    for transport, protocol in ((far, server), (near, client)):
        transport.protocol = protocol
        transport.connected = 1
        transport.startReading()
        protocol.makeConnection(transport)
    return near, far


def reactor_or(clock: Any) -> Any:
    """`clock`, or where it is ``None`` the global reactor."""
    if clock is None:
        from twisted.internet import reactor

        return reactor
    return clock


class Hangup(Protocol):
    """Closes at once, as a server does whose factory builds no protocol."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


def _socket_of(transport: MemoryTransport) -> _MemorySocket:
    return cast(_MemorySocket, transport.socket)


class _MemorySocket:
    """What `Connection` uses of a socket."""

    other: _MemorySocket

    def __init__(self, wake: Callable[[], None], most_at_once: int) -> None:
        self._wake = wake
        self._most_at_once = most_at_once
        self._options: dict[tuple[int, int], Any] = {}
        self._incoming = bytearray()
        self._is_ended = self._is_reset = self._is_closed = False

    @property
    def is_readable(self) -> bool:
        return bool(self._incoming) or self._is_ended or self._is_reset

    @property
    def is_writable(self) -> bool:
        return self.other._is_closed or len(self.other._incoming) < ROOM

    def recv(self, size: int) -> bytes:
        if self._is_reset and not self._incoming:
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        data = bytes(self._incoming[: min(size, self._most_at_once)])
        del self._incoming[: len(data)]
        self._wake()
        return data

    def send(self, data: bytes) -> int:
        if self.other._is_closed:
            raise BrokenPipeError(errno.EPIPE, "closed")
        taken = data[: ROOM - len(self.other._incoming)]
        self.other._incoming += taken
        self._wake()
        return len(taken)

    def shutdown(self, how: int) -> None:
        self.other._is_ended = True
        self._wake()

    def close(self) -> None:
        # Linux resets a connection that is closed with unread input; Twisted asks for it by SO_LINGER.
        self.other._is_reset = bool(self._incoming) or (socket.SOL_SOCKET, socket.SO_LINGER) in self._options
        self._is_closed = self.other._is_ended = True
        self._wake()

    def setsockopt(self, level: int, name: int, value: Any) -> None:
        self._options[level, name] = value

    def getsockopt(self, level: int, name: int) -> Any:
        return self._options.get((level, name), 0)

    def setblocking(self, flag: bool) -> None:
        """Nothing here ever blocks."""

    def fileno(self) -> int:
        return -1


class _Turns:
    """What `Connection` uses of a reactor, for the two ends of one connection."""

    _log = Logger(namespace="txsocksx_ext.testing")

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self._readers: dict[MemoryTransport, None] = {}
        self._writers: dict[MemoryTransport, None] = {}
        self._is_awake = False

    def addReader(self, transport: MemoryTransport) -> None:
        self._readers[transport] = None
        self.wake()

    def addWriter(self, transport: MemoryTransport) -> None:
        self._writers[transport] = None
        self.wake()

    def removeReader(self, transport: MemoryTransport) -> None:
        self._readers.pop(transport, None)

    def removeWriter(self, transport: MemoryTransport) -> None:
        self._writers.pop(transport, None)

    def callLater(self, delay: float, act: Callable[..., object], *arguments: object) -> Any:
        return self.clock.callLater(delay, act, *arguments)

    def wake(self) -> None:
        """Have a turn, if there is anything to do in it."""
        if not self._is_awake and self._ready():
            self._is_awake = True
            self.clock.callLater(0, self._turn)

    def _ready(self) -> list[tuple[MemoryTransport, bool]]:
        return [(each, False) for each in self._writers if _socket_of(each).is_writable] + [
            (each, True) for each in self._readers if _socket_of(each).is_readable
        ]

    def _turn(self) -> None:
        for transport, is_read in self._ready():
            if transport in (self._readers if is_read else self._writers):
                self._serve(transport, is_read)
        self._is_awake = False
        self.wake()

    def _serve(self, transport: MemoryTransport, is_read: bool) -> None:
        try:
            why: BaseException | None = transport.doRead() if is_read else transport.doWrite()
        except Exception as error:
            # As reactors do: a protocol's fault is logged, and costs it its connection.
            self._log.failure("a protocol raised")
            why = error
        if why is None:
            return
        transport.stopReading()
        if is_read and isinstance(why, ConnectionDone):
            transport.readConnectionLost(Failure(why))
        else:
            transport.connectionLost(Failure(why))
