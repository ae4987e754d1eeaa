"""
The relay for plain sockets: it takes them away from Twisted's transports.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from ..sockets.pipe import PIPE_SIZE
from ..sockets.poller import FAILED, INPUT_ENDED, READ_EVENTS, WRITABLE, Poller
from ..sockets.takeover import reset_socket, take_socket
from ..transports import PausedProtocol
from .idle import IdleWatch
from .interface import IRelay, RelayEnded

BUFFER_SIZE = 1 << 16
"""Bytes that are read at once. A stream that brings so many goes through the poller's pipe, which copies nothing."""

MOST_KEPT = 64 << 20
"""Bytes that may be kept for all who do not read before streams bring no more at once than `BUFFER_SIZE`."""

READS_IN_A_TURN = 2
"""How often one side is read from before others have their turn."""

_buffer = memoryview(bytearray(BUFFER_SIZE))
"""One for all streams: what a read leaves in it is sent, or copied, before anything else is read."""

_NOTHING = memoryview(b"")


@implementer(IRelay)
class EpollRelay:
    """
    One stream between two sockets. See `IRelay`.

    A read goes into a buffer that all streams share, and out of it at once;
    many bytes go through a pipe. Only what the other side does not take is
    kept, and then nothing more is read until it is gone.
    """

    name = "epoll"

    __slots__ = ("_client", "_ended", "_idle_watch", "_target", "_transports", "poller")

    def __init__(
        self, client: ITransport, target: ITransport, poller: Poller, ended: RelayEnded, idle_watch: IdleWatch | None
    ) -> None:
        self.poller = poller
        self._transports: tuple[Any, ...] = (client, target)
        self._client, self._target = _Side(self), _Side(self)
        self._client.other, self._target.other = self._target, self._client
        self._ended: RelayEnded | None = ended
        self._idle_watch = idle_watch

    @property
    def up(self) -> int:
        """See `IRelay`."""
        return self._client.received

    @property
    def down(self) -> int:
        """See `IRelay`."""
        return self._target.received

    @property
    def moved(self) -> int:
        """See `IRelay`."""
        return self.up + self.down - len(self._client.unsent) - len(self._target.unsent)

    def start(self, read_ahead: bytes = b"", client_has_ended: bool = False) -> None:
        """
        See `IRelay`. That a client has ended, its socket tells once more.

        :raises OSError: the system watches no more sockets.
        """
        client, target = self._client, self._target
        sides, transports = (client, target), self._transports
        events = [side.take(transport) for side, transport in zip(sides, transports, strict=True)]
        self._transports = ()
        if self._idle_watch is not None:
            self._idle_watch.add(self)
        for side, transport in zip(sides, transports, strict=True):
            side.succeed(transport)
        if read_ahead:
            client.pass_on(read_ahead)
        for side, missed in zip(sides, events, strict=True):
            side.ready(missed)

    def abort(self, reason: str) -> None:
        """See `IRelay`."""
        self._end(reason, reset_socket)

    def end_of_input(self, side: _Side) -> None:
        """One side sends no more, and all that it sent is through."""
        if side.other.input_ended:
            self._end("done", socket.socket.close)
        else:
            side.other.end_output()

    def lost(self, side: _Side) -> None:
        """The connection of one side has failed."""
        self.abort("client aborted" if side is self._client else "target aborted")

    def _end(self, reason: str, close: Callable[[socket.socket], None]) -> None:
        ended, self._ended = self._ended, None
        if ended is None:
            return
        if self._idle_watch is not None:
            self._idle_watch.discard(self)
        for transport in self._transports:
            transport.abortConnection()
        for side in (self._client, self._target):
            side.close(close)
        ended(reason)


class _Side:
    """
    One side of a relay: it reads from its socket, and writes what the other side read.

    :ivar received: bytes that came from this side.
    :ivar unsent: what came for this side, and its socket did not take yet.
    :ivar input_ended: whether this side sends no more, and all that it sent is through.
    :ivar is_closed: whether it has no socket, not yet or no more.
    """

    __slots__ = ("_most", "_relay", "_socket", "input_ended", "is_closed", "other", "received", "unsent")

    other: _Side
    _socket: socket.socket

    def __init__(self, relay: EpollRelay) -> None:
        self._relay = relay
        self.received = 0
        self.unsent = _NOTHING
        self.input_ended = False
        self.is_closed = True
        # How many bytes the next read may bring.
        self._most = BUFFER_SIZE

    def take(self, transport: Any) -> int:
        """Take the socket of a transport; the events that were told of it before."""
        self._socket, events = take_socket(transport, self._relay.poller, self)
        self.is_closed = False
        return events

    def succeed(self, transport: Any) -> None:
        """Get what the protocol of the transport kept, or is given later."""
        predecessor, transport.protocol = transport.protocol, None
        if isinstance(predecessor, PausedProtocol):
            predecessor.give_to(_KeptBytes(self))

    def ready(self, events: int) -> None:
        """See `txsocksx_ext.sockets.poller.Watcher`."""
        if events & WRITABLE and self.unsent:
            self._send_unsent()
        if not events & READ_EVENTS or self.is_closed:
            return
        if not self.input_ended and not self.other.unsent:
            self._read(events)
        elif self._has_failed(events):
            self._relay.lost(self)

    def abandon(self, why: str) -> None:
        """See `txsocksx_ext.sockets.poller.Watcher`."""
        if not self.is_closed:
            self._relay.abort(why)

    def pass_on(self, data: bytes) -> None:
        """Send to the other side what was not read here, but before the relay began."""
        if not self.is_closed:
            self.received += len(data)
            self.other.send(data)

    def send(self, data: bytes | memoryview) -> None:
        """Send what came from the other side, after what is unsent, and keep what is left."""
        if self.unsent:
            self._keep(memoryview(bytes(self.unsent) + data))
            return
        sent = self._send_some(data)
        if sent < len(data):
            self._keep(memoryview(bytes(data[sent:])))

    def end_output(self) -> None:
        """Tell the peer that no more comes."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._relay.lost(self)

    def close(self, close: Callable[[socket.socket], None]) -> None:
        """Have no more to do with the socket."""
        if self.is_closed:
            return
        self.is_closed = True
        self._relay.poller.forget(self._socket.fileno())
        close(self._socket)
        self._keep(_NOTHING)
        # So that the collector of garbage has no circles to look for.
        del self._relay, self.other

    def _keep(self, unsent: memoryview) -> None:
        self._relay.poller.kept += len(unsent) - len(self.unsent)
        self.unsent = unsent

    def _has_failed(self, events: int) -> bool:
        return bool(events & FAILED and self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _read(self, events: int) -> None:
        """
        Pass on what came, until there is no more, or the other side takes no more.

        :param events: what was told, and will not be told again.
        """
        other = self.other
        for _ in range(READS_IN_A_TURN):
            if self._most > BUFFER_SIZE and self._relay.poller.kept < MOST_KEPT:
                moved = self._move()
                if self.is_closed or other.unsent:
                    return
                if moved >= BUFFER_SIZE:
                    continue
            if not self._copy(events) or self.is_closed or other.unsent:
                return
        self._relay.poller.again(self._socket.fileno())

    def _copy(self, events: int) -> bool:
        """Pass on a buffer's worth; whether there may be more that no event will tell of."""
        try:
            count = self._socket.recv_into(_buffer)
        except BlockingIOError:
            return False
        except OSError:
            self._relay.lost(self)
            return False
        if not count:
            self._end_input(events)
            return False
        self.received += count
        self.other.send(_buffer[:count])
        is_full = count == BUFFER_SIZE
        # Those who take all at once get more at once: what is not taken has to be kept.
        self._most = 2 * BUFFER_SIZE if is_full and not self.other.unsent else BUFFER_SIZE
        # A short read has read all. If the end may have come with it, only reading on tells.
        return is_full or bool(events & INPUT_ENDED)

    def _move(self) -> int:
        """Pass on much at once; how many bytes. That there were few does not mean that there are no more."""
        try:
            count, not_taken = self._relay.poller.pipe.move(
                self._socket.fileno(), self.other._socket.fileno(), self._most
            )
        except OSError:
            self._relay.lost(self)
            return 0
        self.received += count
        if not_taken:
            self._most = BUFFER_SIZE
            self.other.send(not_taken)
        elif count == self._most:
            self._most = min(2 * count, PIPE_SIZE)
        return count

    def _end_input(self, events: int) -> None:
        # After an end, the system tells of a reset only to those who ask.
        if self._has_failed(events):
            self._relay.lost(self)
        else:
            self.input_ended = True
            self._relay.end_of_input(self)

    def _send_unsent(self) -> None:
        sent = self._send_some(self.unsent)
        if self.is_closed:
            return
        # An empty view would keep all that it was cut from.
        self._keep(self.unsent[sent:] or _NOTHING)
        if not self.unsent:
            # What was told of the other side meanwhile was not heeded.
            self.other._read(READ_EVENTS)

    def _send_some(self, data: bytes | memoryview) -> int:
        """Send what the socket takes; how many bytes. If the connection is lost, they all are."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._relay.lost(self)
            return len(data)


class _KeptBytes(Protocol):
    """Takes for the relay what the protocol before it had kept."""

    def __init__(self, side: _Side) -> None:
        self._side = side

    def dataReceived(self, data: bytes) -> None:
        self._side.pass_on(data)
