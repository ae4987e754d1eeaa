"""
Connect to the first of several addresses that answers (RFC 8305).

Twisted's `HostnameEndpoint` resolves the name itself, so rules cannot see the
addresses; it waits for its full delay even after a refusal; and of several failures
it raises the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, TCPTimedOutError
from twisted.internet.interfaces import IDelayedCall, ITransport
from twisted.python.failure import Failure

from ..failures import most_telling
from ..protocol.messages import Address
from .connecting import connect_socket
from .timers import clock_of

ATTEMPT_DELAY = 0.25
"""Seconds until the next address is tried while the one before has not answered (RFC 8305, section 5)."""

ATTEMPTS_AT_ONCE = 2
"""Concurrent attempts: each takes a descriptor, and a client may name hosts with many silent addresses."""

GIVE_UP_AFTER = 5.0
"""Seconds after which an attempt is cancelled if another address waits."""


def connect_first(reactor: Any, addresses: Sequence[Address], source: str = "") -> Deferred[ITransport]:
    """
    Connect to the first of `addresses` that answers.

    At most two attempts run at once. While addresses wait, an attempt is cancelled
    after five seconds; the last two have no such limit.

    :param addresses: one or more, the preferred ones first.
    :param source: the local address, see `connect_socket`.
    :returns: fires with a paused transport, or fails with the most informative
        failure. Cancelling it cancels every attempt.
    """
    if len(addresses) == 1:
        return connect_socket(reactor, addresses[0], source)
    return _Race(reactor, addresses, source).winner


def _interleaved(addresses: Sequence[Address]) -> Iterator[Address]:
    """Alternate the families, beginning with the first address's (section 4)."""
    first = addresses[0].type
    same = [address for address in addresses if address.type == first]
    other = [address for address in addresses if address.type != first]
    return filter(None, chain.from_iterable(zip_longest(same, other)))


class _Race:
    """Attempts in parallel; the first to connect wins."""

    def __init__(self, reactor: Any, addresses: Sequence[Address], source: str) -> None:
        self._reactor = reactor
        self._source = source
        self._clock = clock_of(reactor)
        self._waiting = list(_interleaved(addresses))[::-1]
        # With the time when each began; the oldest comes first.
        self._running: dict[Deferred[ITransport], float] = {}
        self._failures: list[Failure] = []
        self._next: IDelayedCall | None = None
        self.winner: Deferred[ITransport] = Deferred(lambda _: self._stop())
        self._start_next()

    def _start_next(self) -> None:
        """Start the next attempt; fail if no address is left and no attempt runs."""
        self._next = None
        if not self._waiting:
            if not self._running and not self.winner.called:
                self.winner.errback(most_telling(self._failures))
            return
        now = self._clock.seconds()
        if len(self._running) >= ATTEMPTS_AT_ONCE:
            oldest = next(iter(self._running))
            left = self._running[oldest] + GIVE_UP_AFTER - now
            if left > 0:
                self._next = self._clock.callLater(left, self._start_next)
                return
            del self._running[oldest]
            self._failures.append(Failure(TCPTimedOutError()))
            oldest.cancel()
        self._next = self._clock.callLater(ATTEMPT_DELAY, self._start_next)
        attempt = connect_socket(self._reactor, self._waiting.pop(), self._source)
        self._running[attempt] = now
        attempt.addCallbacks(self._won, self._lost, callbackArgs=(attempt,), errbackArgs=(attempt,))

    def _won(self, transport: ITransport, attempt: Deferred[ITransport]) -> None:
        self._running.pop(attempt, None)
        self._stop()
        self.winner.callback(transport)

    def _lost(self, failure: Failure, attempt: Deferred[ITransport]) -> None:
        self._running.pop(attempt, None)
        if failure.check(ConnectingCancelledError):
            return
        self._failures.append(failure)
        if self._next is not None:
            self._next.cancel()
        self._start_next()

    def _stop(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        running, self._running = self._running, {}
        for attempt in running:
            attempt.cancel()
