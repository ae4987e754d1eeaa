"""
Two transports become one stream. `join` chooses the relay: `EpollRelay`, for plain sockets, or that of producers.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from .pipe import PIPE_SIZE
from .poller import FAILED, MORE_MAY_FOLLOW, READ_EVENTS, WRITABLE, Poller, poller_of
from .relay_interface import IRelay, RelayEnded
from .socket_state import unacknowledged
from .timers import clock_of
from .transport import can_take, reset_socket, take_socket
from .twisted_relay import ProducerRelay
from .twisted_transports import PausedProtocol, keep_alive
from .watches import IdleWatch, ResetWatch, shared_watch

__all__ = ["EpollRelay", "IRelay", "RelayEnded", "join"]

BUFFER_SIZE = 1 << 16
"""Bytes that are read at once. A stream that brings so many goes through the poller's pipe, which copies nothing."""

MOST_KEPT = 64 << 20
"""Bytes that may be kept for all who do not read before streams bring no more at once than `BUFFER_SIZE`."""

READS_IN_A_TURN = range(2)
"""How often one side is read from before others have their turn."""

_buffer = memoryview(bytearray(BUFFER_SIZE))
"""One for all streams: what a read leaves in it is sent, or copied, before anything else is read."""

_NOTHING = memoryview(b"")


def join(
    client: ITransport,
    target: ITransport,
    reactor: Any,
    ended: RelayEnded,
    idle_timeout: float | None = None,
    *,
    fast: bool = True,
) -> IRelay:
    """
    Make the relay for two connected transports. Its ``start()`` lets bytes flow.

    Both connections are kept alive from now on. Plain sockets are served past
    the reactor and its transports; all others, and those of a reactor without a
    poller, by Twisted's producers.

    :param client: where the request came from.
    :param target: where it went to.
    :param reactor: tells the time, and takes descriptors if it can.
    :param ended: called once, with the reason, when both are closed.
    :param idle_timeout: seconds without a byte in either direction after which
        both are closed; ``None`` for never.
    :param fast: false where all bytes must go through the transports.
    """
    watch = None if idle_timeout is None else shared_watch(IdleWatch, clock_of(reactor), idle_timeout)
    poller = poller_of(reactor) if fast else None
    if poller is not None and can_take(client) and can_take(target):
        return EpollRelay(client, target, poller, reactor, ended, watch)
    keep_alive(client)
    keep_alive(target)
    return ProducerRelay(client, target, clock_of(reactor), ended, watch)


@implementer(IRelay)
class EpollRelay:
    """
    One stream between two sockets. See `IRelay`.

    A read goes into a buffer that all streams share, and out of it at once;
    many bytes go through a pipe. Only what the other side does not take is
    kept, and then nothing more is read until it is gone.
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
        See `IRelay`. That a client has ended, its socket tells once more.

        :raises OSError: the system watches no more sockets.
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
        The connection of one side has failed: reset the other side when it has all that came before that.

        Linux keeps what a peer sent before its reset readable. Called again when that is read.
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
            # It has none if starting the relay failed.
            if closing is None:
                continue
            self.poller.forget(closing.fileno())
            if reset:
                reset_socket(closing)
            else:
                closing.close()
            if side.unsent:
                side.keep(_NOTHING)
            # So that the collector of garbage has no circles to look for.
            del side.relay, side.other
        ended(reason)


class _Side:
    """
    One side of a relay: it reads from its socket, and writes what the other side read.

    :ivar socket: ``None`` while it has none yet, or none any more.
    :ivar received: bytes that came from this side.
    :ivar unsent: what came for this side, and its socket did not take yet.
    :ivar input_ended: whether this side sends no more, and all that it sent is through.
    :ivar failed: whether its connection is lost. What came before that may be unread.
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
        # How many bytes the next read may bring.
        self._most = BUFFER_SIZE

    @property
    def waiting(self) -> int:
        """Bytes for this side that it has not taken."""
        return 0 if self.socket is None else len(self.unsent) + unacknowledged(self.socket)

    def succeed(self, transport: Any) -> None:
        """Get what the paused protocol of a transport whose socket was taken had kept, or is given later."""
        predecessor, transport.protocol = transport.protocol, None
        predecessor.give_to(_KeptBytes(self))

    def ready(self, events: int) -> None:
        """
        See `txsocksx_ext.net.poller.Watcher`.

        It passes on what came, until there is no more, or the other side takes no more.
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
            # A short read has read all, unless more was told than that there is something.
            if count < BUFFER_SIZE and not events & MORE_MAY_FOLLOW:
                return
            if self.socket is None or other.unsent or other.failed:
                return
            if count == BUFFER_SIZE:
                # Those who take all at once get more at once: what is not taken has to be kept.
                self._most = 2 * BUFFER_SIZE
        self.relay.poller.again(self.socket.fileno())

    def abandon(self, why: str) -> None:
        """See `txsocksx_ext.net.poller.Watcher`."""
        if self.socket is not None:
            self.relay.abort(why)

    def pass_on(self, data: bytes) -> None:
        """Send to the other side what was not read here, but before the relay began."""
        if self.socket is not None:
            self.received += len(data)
            self.other.send(data)

    def send(self, data: bytes | memoryview) -> None:
        """Send what came from the other side, after what is unsent, and keep what is left."""
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
        """Take note that the connection is lost, and pass on what came before that."""
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
        """Keep what the socket did not take, in place of what was kept before."""
        poller = self.relay.poller
        poller.kept += len(unsent) - len(self.unsent)
        if unsent and not self.unsent:
            poller.again(self.socket.fileno())
        self.unsent = unsent

    def _has_failed(self) -> bool:
        return bool(self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _move(self) -> int:
        """Pass on much at once; how many bytes. That there were few does not mean that there are no more."""
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
        # After an end, the system tells of a reset only to those who ask.
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
        # An empty view would keep all that it was cut from.
        self.keep(self.unsent[sent:] or _NOTHING)
        if not self.unsent:
            # What was told of the other side meanwhile was not heeded.
            self.other.ready(READ_EVENTS)


class _KeptBytes(Protocol):
    """Takes for the relay what the protocol before it had kept."""

    def __init__(self, side: _Side) -> None:
        self._side = side

    def dataReceived(self, data: bytes) -> None:
        self._side.pass_on(data)
