"""
The first of several addresses that answers (RFC 8305).

Twisted's own `HostnameEndpoint` resolves the name itself, so that rules cannot
see the addresses; it waits out its delay even after a refusal; and of several
failures it tells the last, whichever that is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IDelayedCall, ITransport
from twisted.python.failure import Failure

from ..failures import most_telling
from ..net.connecting import connect_socket
from ..protocol.messages import Address

ATTEMPT_DELAY = 0.25
"""Seconds until the next address is tried beside those that have not answered (RFC 8305, section 5)."""

MOST_ADDRESSES = 64
"""Addresses that are tried: a name may have thousands, and one client should not cause so many connections."""


def connect_first(reactor: Any, addresses: Sequence[Address]) -> Deferred[ITransport]:
    """
    Connect to the first of `addresses` that answers.

    :param addresses: one or more, the preferred ones first. At most 64 are tried.
    :returns: fires with a paused transport, or fails with the failure that
        tells most. Cancelling it ends every attempt.
    """
    if len(addresses) == 1:
        return connect_socket(reactor, addresses[0])
    return _Race(reactor, addresses).winner


def _interleaved(addresses: Sequence[Address]) -> Iterator[Address]:
    """The addresses with their families in turn, beginning with the first one's (section 4)."""
    first = addresses[0].type
    same = [address for address in addresses if address.type == first]
    other = [address for address in addresses if address.type != first]
    pairs = chain.from_iterable(zip_longest(same, other))
    return (address for address in pairs if address is not None)


class _Race:
    """Attempts beside one another; the first to connect wins."""

    def __init__(self, reactor: Any, addresses: Sequence[Address]) -> None:
        self._reactor = reactor
        self._waiting = islice(_interleaved(addresses), MOST_ADDRESSES)
        self._running: set[Deferred[ITransport]] = set()
        self._failures: list[Failure] = []
        self._next: IDelayedCall | None = None
        self.winner: Deferred[ITransport] = Deferred(lambda _: self._stop())
        self._start_next()

    def _start_next(self) -> None:
        """Begin with the next address; if there is none, and nothing runs, all have failed."""
        self._next = None
        address = next(self._waiting, None)
        if address is None:
            if not self._running and not self.winner.called:
                self.winner.errback(most_telling(self._failures))
            return
        self._next = self._reactor.callLater(ATTEMPT_DELAY, self._start_next)
        attempt = connect_socket(self._reactor, address)
        self._running.add(attempt)
        attempt.addCallbacks(self._won, self._lost, callbackArgs=(attempt,), errbackArgs=(attempt,))

    def _won(self, transport: ITransport, attempt: Deferred[ITransport]) -> None:
        self._running.discard(attempt)
        self._stop()
        self.winner.callback(transport)

    def _lost(self, failure: Failure, attempt: Deferred[ITransport]) -> None:
        self._running.discard(attempt)
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
        running, self._running = self._running, set()
        for attempt in running:
            attempt.cancel()
