"""
The relay for any transports, by Twisted's producers and consumers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from twisted.internet.error import ConnectionDone, ProcessDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from .half_close import can_half_close
from .rate_limit import NO_RATES, RateLimit, Rates
from .relay_interface import IRelay, RelayEnded
from .socket_state import socket_transport, unacknowledged, was_reset
from .twisted_transports import abort, hand_over, unsent
from .watches import IdleWatch, PausedWatch, ResetWatch, shared_watch

_different = count()

MOST_READS = 256
"""Reads of 64 KiB after a reset: more than the receive buffer of a socket."""


@implementer(IRelay)
class ProducerRelay:
    """One stream between two transports. See `IRelay`."""

    name = "producers"

    def __init__(
        self,
        client: ITransport,
        target: ITransport,
        clock: IReactorTime,
        ended: RelayEnded,
        idle_watch: IdleWatch | None,
        rates: Rates = NO_RATES,
    ) -> None:
        self.paused_watch = shared_watch(PausedWatch, clock)
        self.reset_watch = shared_watch(ResetWatch, clock)
        up, down = rates
        self._client = _LimitedEnd(self, "client", client, up) if up else _RelayEnd(self, "client", client)
        self._target = _LimitedEnd(self, "target", target, down) if down else _RelayEnd(self, "target", target)
        self._client.other = self._target
        self._target.other = self._client
        self._ended: RelayEnded | None = ended
        self._idle_watch = idle_watch
        self._reason = ""

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
        """See `IRelay`. Transports do not tell what they still buffer, but the system tells what is unacknowledged."""
        ends = self._client, self._target
        moved = self.up + self.down
        if any(end.held_by is not None for end in ends):
            # Waiting for a rate limit is not idleness.
            moved += next(_different)
        return moved, sum(unacknowledged(end.transport) for end in ends)

    def start(self, read_ahead: bytes = b"", client_has_ended: bool = False) -> None:
        """See `IRelay`."""
        client, target = self._client, self._target
        hand_over(target.transport, target)
        hand_over(client.transport, client)
        target.transport.registerProducer(client, True)
        client.transport.registerProducer(target, True)
        if self._idle_watch is not None:
            self._idle_watch.add(self)
        target.resumeProducing()
        if not client_has_ended:
            client.resumeProducing()
        # Last, because a slow target may pause the client again.
        if read_ahead:
            client.dataReceived(read_ahead)
        if client_has_ended:
            client.readConnectionLost()

    def abort(self, reason: str) -> None:
        """See `IRelay`."""
        self._note(reason)
        for end in (self._client, self._target):
            if not end.is_lost:
                abort(end.transport)

    def end_of_input(self, end: _RelayEnd) -> None:
        """Relay the end of one side's input."""
        other = end.other
        end.input_ended = True
        if other.is_lost:
            return
        other.transport.unregisterProducer()
        if other.input_ended:
            self._note("done")
            for side in (end, other):
                side.transport.loseConnection()
        elif can_half_close(other.transport):
            other.transport.loseWriteConnection()
        else:
            self._note(f"{end.side} closed")
            other.transport.loseConnection()

    def lost(self, end: _RelayEnd, reason: Failure) -> None:
        """Act on the loss of one side's connection."""
        other = end.other
        orderly = reason.check(ConnectionDone, ProcessDone) is not None
        self._note(f"{end.side} closed" if orderly else f"{end.side} aborted")
        if other.is_lost:
            self._end()
            return
        if not end.input_ended:
            other.transport.unregisterProducer()
        if orderly:
            other.transport.loseConnection()
        elif other.undelivered() is None:
            other.reset()
        else:
            self.reset_watch.add(other)

    def _note(self, reason: str) -> None:
        """Keep the first reason: what follows is its consequence."""
        self._reason = self._reason or reason

    def _end(self) -> None:
        if self._idle_watch is not None:
            self._idle_watch.discard(self)
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self._reason)


@implementer(IHalfCloseableProtocol, IPushProducer)
class _RelayEnd(Protocol):
    """
    One side of a relay: the protocol of its transport, and the producer of the other one.

    :ivar received: the number of bytes received from this side.
    :ivar input_ended: whether this side has closed its sending side.
    :ivar is_lost: whether its connection is closed.
    :ivar was_reset: whether its peer has reset it while it was paused.
    :ivar held_by: the rate limit for which it waits, or ``None``.
    """

    transport: Any
    other: _RelayEnd
    held_by: RateLimit | None = None

    def __init__(self, relay: ProducerRelay, side: str, transport: ITransport) -> None:
        self._relay = relay
        self.side = side
        self.transport = transport
        self.received = 0
        self.input_ended = False
        self.is_lost = False
        self.was_reset = False

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        self.other.transport.write(data)

    def readConnectionLost(self) -> None:
        if was_reset(self.transport):
            abort(self.transport)
        elif not self.input_ended:
            self._relay.end_of_input(self)

    def writeConnectionLost(self) -> None:
        """Do nothing: our sending side was closed on purpose."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_lost = True
        self._relay.paused_watch.discard(self)
        self._relay.reset_watch.discard(self)
        self._relay.lost(self, reason)

    def pauseProducing(self) -> None:
        if not self.is_lost and not self.was_reset:
            self.transport.pauseProducing()
            self._relay.paused_watch.add(self)

    def end_if_reset(self) -> None:
        """See `Pausable`. On Linux, what came before a reset stays readable."""
        connection = socket_transport(self.transport)
        if not was_reset(connection):
            return
        self.was_reset = True
        self.transport.resumeProducing()
        # Not all reactors report a socket that was reset as readable more than once.
        for _ in range(MOST_READS):
            if not connection.connected or connection.doRead() is not None:
                break
        # Not the TLS transport, which would discard what it has buffered.
        abort(connection)

    def resumeProducing(self) -> None:
        self._relay.paused_watch.discard(self)
        # After the end of input, reading would only return that end again.
        if not self.is_lost and not self.input_ended:
            self.transport.resumeProducing()

    def undelivered(self) -> tuple[int, int] | None:
        """See `Resettable`."""
        waiting = unsent(self.transport) + unacknowledged(self.transport)
        return (self.other.received, waiting) if waiting else None

    def reset(self) -> None:
        """See `Resettable`."""
        abort(self.transport)

    def stopProducing(self) -> None:
        """Do nothing: the other side's `connectionLost` acts on its loss."""


class _LimitedEnd(_RelayEnd):
    """
    One side of a relay that is paused after each read for as long as its rate limits say.

    :param limits: one or more.
    """

    def __init__(self, relay: ProducerRelay, side: str, transport: ITransport, limits: Sequence[RateLimit]) -> None:
        super().__init__(relay, side, transport)
        self._limits = limits
        self._unasked: Iterator[RateLimit] = iter(())
        # Whether the other side's transport has paused this side.
        self._is_paused = False
        socket_transport(transport).bufferSize = min(limit.read_size for limit in limits)

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        for limit in self._limits:
            limit.take(len(data))
        if not self.was_reset:
            self._ask_all()

    def _ask_all(self) -> None:
        if self.held_by is None and not self.is_lost and not self.input_ended:
            self._unasked = iter(self._limits)
            self._ask()

    def _ask(self) -> None:
        for limit in self._unasked:
            if limit.holds(self):
                self.held_by = limit
                self.transport.pauseProducing()
                return

    def release(self) -> None:
        """See `Held`."""
        self.held_by = None
        self._ask()
        if self.held_by is None and not self._is_paused:
            super().resumeProducing()

    def pauseProducing(self) -> None:
        self._is_paused = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._is_paused = False
        self._relay.paused_watch.discard(self)
        # Also before the first read: a user's new streams wait behind the others.
        self._ask_all()
        if self.held_by is None:
            super().resumeProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.held_by is not None:
            self.held_by.forget(self)
        super().connectionLost(reason)
