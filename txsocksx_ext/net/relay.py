"""
Joining two transports. `join` chooses the relay: `EpollRelay` for plain sockets, else `ProducerRelay`.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from .pipe import PIPE_SIZE
from .poller import FAILED, MORE_MAY_FOLLOW, READ_EVENTS, WRITABLE, Poller, poller_of
from .rate_limit import NO_RATES, Rates
from .relay_interface import IRelay, RelayEnded
from .socket_state import unacknowledged
from .timers import clock_of
from .transport import can_take, reset_socket, take_socket
from .twisted_relay import ProducerRelay
from .twisted_transports import PausedProtocol, keep_alive
from .watches import IdleWatch, ResetWatch, shared_watch

__all__ = ["EpollRelay", "IRelay", "RelayEnded", "join"]

BUFFER_SIZE = 1 << 16
"""Bytes of one read. A stream that fills it is moved through the poller's pipe, without copies."""

MOST_KEPT = 64 << 20
"""Bytes that may be held for all peers that do not read before streams are limited to `BUFFER_SIZE` a read."""

READS_IN_A_TURN = range(2)
"""Reads from one side before other sockets are served."""

_buffer = memoryview(bytearray(BUFFER_SIZE))
"""Shared by all streams: its content is sent or copied before the next read."""

_NOTHING = memoryview(b"")


def join(
    client: ITransport,
    target: ITransport,
    reactor: Any,
    ended: RelayEnded,
    idle_timeout: float | None = None,
    *,
    fast: bool = True,
    rates: Rates = NO_RATES,
) -> IRelay:
    """
    Return the relay for two connected transports. Its ``start()`` begins the stream.

    Both connections get SO_KEEPALIVE. The sockets of plain transports are relayed
    without the reactor; all other transports, all of a reactor without a poller, and
    those with a rate limit by Twisted's producers.

    :param client: the transport of the client.
    :param target: the transport of the target.
    :param reactor: provides time, and a poller if it can.
    :param ended: called once, with the reason, when both are closed.
    :param idle_timeout: seconds without a byte in either direction after which
        both are closed; ``None`` for no limit.
    :param fast: whether sockets may be relayed without their transports.
    :param rates: the rate limits of the stream.
    """
    watch = None if idle_timeout is None else shared_watch(IdleWatch, clock_of(reactor), idle_timeout)
    poller = poller_of(reactor) if fast and rates == NO_RATES else None
    if poller is not None and can_take(client) and can_take(target):
        return EpollRelay(client, target, poller, reactor, ended, watch)
    keep_alive(client)
    keep_alive(target)
    return ProducerRelay(client, target, clock_of(reactor), ended, watch, rates)


@implementer(IRelay)
class EpollRelay:
    """
    One stream between two sockets. See `IRelay`.

    Data is read into a buffer that all streams share, and sent at once; bulk data is
    moved through a pipe. Only data that the other side does not accept is kept, and
    nothing more is read until that is sent.
    """

    name = "epoll"

    __slots__ = ("_client", "_ended", "_idle_watch", "_reactor", "_reset_watch", "_target", "_transports", "poller")

    def __init__(
        self,
        client: ITransport,
        target: ITransport,
        poller: Poller,
        reactor: Any,
        ended: RelayEnded,
        idle_watch: IdleWatch | None,
    ) -> None:
        self.poller = poller
        self._reactor = reactor
        self._reset_watch: ResetWatch | None = None
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
    def progress(self) -> tuple[int, int]:
        """See `IRelay`."""
        return self.up + self.down, self._client.waiting + self._target.waiting

    def start(self, read_ahead: bytes = b"", client_has_ended: bool = False) -> None:
        """
        See `IRelay`. `client_has_ended` is not needed: a read from the socket returns the end of input again.

        :raises OSError: the system cannot watch another socket.
        """
        client, target = self._client, self._target
        client_transport, target_transport = self._transports
        client.socket, client_missed = take_socket(client_transport, self.poller, client)
        target.socket, target_missed = take_socket(target_transport, self.poller, target)
        self._transports = ()
        if self._idle_watch is not None:
            self._idle_watch.add(self)
        if isinstance(client_transport.protocol, PausedProtocol):
            client.succeed(client_transport)
        if isinstance(target_transport.protocol, PausedProtocol):
            target.succeed(target_transport)
        if read_ahead:
            client.pass_on(read_ahead)
        if client_missed & READ_EVENTS:
            client.ready(client_missed)
        if target_missed & READ_EVENTS:
            target.ready(target_missed)

    def abort(self, reason: str) -> None:
        """See `IRelay`."""
        self.end(reason, reset=True)

    def lost(self, side: _Side) -> None:
        """
        Act on the failure of one side's connection: reset the other side once it has everything sent before.

        On Linux, what a peer sent before its reset stays readable. Called again when that is read.
        """
        other = side.other
        if other.failed:
            self.reset()
            return
        if not side.failed:
            side.fail()
            if self._ended is None:
                return
        if other.undelivered() is None:
            self.reset()
        elif self._reset_watch is None:
            self._reset_watch = shared_watch(ResetWatch, clock_of(self._reactor))
            self._reset_watch.add(other)

    def reset(self) -> None:
        """End because the connection of one side has failed."""
        self.end("client aborted" if self._client.failed else "target aborted", reset=True)

    def end(self, reason: str, *, reset: bool) -> None:
        """Close both sides, in order or with a reset."""
        ended, self._ended = self._ended, None
        if ended is None:
            return
        if self._idle_watch is not None:
            self._idle_watch.discard(self)
        if self._reset_watch is not None:
            self._reset_watch.discard(self._client)
            self._reset_watch.discard(self._target)
        for transport in self._transports:
            transport.abortConnection()
        for side in (self._client, self._target):
            closing, side.socket = side.socket, None
            # There is none if starting the relay failed.
            if closing is None:
                continue
            self.poller.unregister(closing.fileno())
            if reset:
                reset_socket(closing)
            else:
                closing.close()
            if side.unsent:
                side.keep(_NOTHING)
            # Break the reference cycles.
            del side.relay, side.other
        ended(reason)


class _Side:
    """
    One side of a relay: reads from its socket, and writes what the other side has read.

    :ivar socket: ``None`` before the start and after the end.
    :ivar received: the number of bytes received from this side.
    :ivar unsent: data for this side that its socket has not accepted yet.
    :ivar input_ended: whether this side has closed its sending side, and everything before that was read.
    :ivar failed: whether its connection is lost. Data that was received before may be unread.
    """

    __slots__ = ("_most", "failed", "input_ended", "other", "received", "relay", "socket", "unsent")

    other: _Side

    def __init__(self, relay: EpollRelay) -> None:
        self.relay = relay
        self.socket: Any = None
        self.received = 0
        self.unsent = _NOTHING
        self.input_ended = False
        self.failed = False
        # The size of the next read.
        self._most = BUFFER_SIZE

    @property
    def waiting(self) -> int:
        """Bytes for this side that its peer has not acknowledged."""
        return 0 if self.socket is None else len(self.unsent) + unacknowledged(self.socket)

    def succeed(self, transport: Any) -> None:
        """Take the data that the paused protocol of a taken transport has kept, and what it gets later."""
        predecessor, transport.protocol = transport.protocol, None
        predecessor.give_to(_KeptBytes(self))

    def ready(self, events: int) -> None:
        """
        See `txsocksx_ext.net.poller.Watcher`.

        Relay received data until the socket would block, or the other side accepts no more.
        """
        if self.unsent and events & WRITABLE:
            self._send_unsent()
        if not events & READ_EVENTS or self.socket is None:
            return
        other = self.other
        if self.input_ended or other.unsent or other.failed:
            if events & FAILED and not self.failed and self._has_failed():
                self.relay.lost(self)
            return
        for _ in READS_IN_A_TURN:
            if self._most > BUFFER_SIZE and self.relay.poller.kept < MOST_KEPT:
                moved = self._move()
                if self.socket is None or self.input_ended or other.unsent or other.failed:
                    return
                if moved >= BUFFER_SIZE:
                    continue
            try:
                count = self.socket.recv_into(_buffer)
            except BlockingIOError:
                return
            except OSError:
                self._input_failed()
                return
            if not count:
                self._end_input(events)
                return
            self.received += count
            other.send(_buffer[:count])
            self._most = BUFFER_SIZE
            # A short read has emptied the socket, except after these events.
            if count < BUFFER_SIZE and not events & MORE_MAY_FOLLOW:
                return
            if self.socket is None or other.unsent or other.failed:
                return
            if count == BUFFER_SIZE:
                # Larger reads only while the other side accepts everything: the rest would have to be kept.
                self._most = 2 * BUFFER_SIZE
        self.relay.poller.rearm(self.socket.fileno())

    def abandon(self, why: str) -> None:
        """See `txsocksx_ext.net.poller.Watcher`."""
        if self.socket is not None:
            self.relay.abort(why)

    def pass_on(self, data: bytes) -> None:
        """Send data to the other side that was read from this side before the relay began."""
        if self.socket is not None:
            self.received += len(data)
            self.other.send(data)

    def send(self, data: bytes | memoryview) -> None:
        """Send data of the other side behind what is unsent, and keep what the socket does not accept."""
        if self.unsent:
            self.keep(memoryview(bytes(self.unsent) + data))
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.relay.lost(self)
            return
        if sent < len(data):
            self.keep(memoryview(bytes(data[sent:])))

    def fail(self) -> None:
        """Note that the connection is lost, and relay what was received before."""
        self.failed = True
        if self.unsent:
            self.keep(_NOTHING)
        if not self.input_ended and not self.other.unsent:
            self.ready(READ_EVENTS)

    def undelivered(self) -> tuple[int, int] | None:
        """See `Resettable`."""
        waiting, other = self.waiting, self.other
        return (other.received, waiting) if waiting or not other.input_ended else None

    def reset(self) -> None:
        """See `Resettable`."""
        self.relay.reset()

    def keep(self, unsent: memoryview) -> None:
        """Replace `unsent` by what the socket did not accept."""
        poller = self.relay.poller
        poller.kept += len(unsent) - len(self.unsent)
        if unsent and not self.unsent:
            poller.rearm(self.socket.fileno())
        self.unsent = unsent

    def _has_failed(self) -> bool:
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _move(self) -> int:
        """Move data through the pipe; return the number of bytes. A few do not mean that the socket is empty."""
        source, drain = self.socket.fileno(), self.other.socket.fileno()
        try:
            count, not_taken = self.relay.poller.pipe.move(source, drain, self._most)
        except OSError:
            self._input_failed()
            return 0
        self.received += count
        if not_taken:
            self._most = BUFFER_SIZE
            self.other.send(not_taken)
        elif count == self._most:
            self._most = min(2 * count, PIPE_SIZE)
        return count

    def _end_input(self, events: int) -> None:
        other = self.other
        # After the end of input, a reset shows only in SO_ERROR.
        if self.failed or (events & FAILED and self._has_failed()):
            self._input_failed()
            return
        self.input_ended = True
        if other.input_ended:
            self.relay.end("done", reset=False)
            return
        try:
            other.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.relay.lost(other)

    def _input_failed(self) -> None:
        self.input_ended = True
        self.relay.lost(self)

    def _send_unsent(self) -> None:
        try:
            sent = self.socket.send(self.unsent)
        except BlockingIOError:
            return
        except OSError:
            self.relay.lost(self)
            return
        # An empty slice would keep its whole buffer alive.
        self.keep(self.unsent[sent:] or _NOTHING)
        if not self.unsent:
            # Events of the other side were ignored meanwhile.
            self.other.ready(READ_EVENTS)


class _KeptBytes(Protocol):
    """Passes data on to the relay that the previous protocol has kept."""

    def __init__(self, side: _Side) -> None:
        self._side = side

    def dataReceived(self, data: bytes) -> None:
        self._side.pass_on(data)
