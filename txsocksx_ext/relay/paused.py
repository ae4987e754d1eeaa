"""
Connections that nobody reads from for a time: one timer sees which of them are gone.
"""

from __future__ import annotations

from typing import Protocol
from weakref import WeakValueDictionary

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..sockets.poller import log_fault

CHECK_EVERY = 15.0
"""Seconds. A reactor does not watch a paused transport, so it does not see that the peer has reset it, or vanished."""


class Pausable(Protocol):
    """What can be paused."""

    def end_if_reset(self) -> None:
        """Close it if its connection is gone."""


class PausedWatch:
    """Asks those that are paused, from time to time, whether their connections are still there. See `paused_watch`."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._next: IDelayedCall | None = None
        self._paused: set[Pausable] = set()

    def add(self, paused: Pausable) -> None:
        """Look after one that was paused."""
        self._paused.add(paused)
        if self._next is None:
            self._next = self._clock.callLater(CHECK_EVERY, self._check)

    def discard(self, paused: Pausable) -> None:
        """Look no more after one that was resumed, or has ended."""
        self._paused.discard(paused)
        if not self._paused and self._next is not None:
            self._next.cancel()
            self._next = None

    def _check(self) -> None:
        self._next = None
        for paused in list(self._paused):
            if paused not in self._paused:  # another's end has ended it
                continue
            try:
                paused.end_if_reset()
            except Exception:  # which must not keep the others open
                self._paused.discard(paused)
                log_fault()
        if self._paused and self._next is None:
            self._next = self._clock.callLater(CHECK_EVERY, self._check)


# By the clock's identity, as in `idle`.
_watches: WeakValueDictionary[int, PausedWatch] = WeakValueDictionary()


def paused_watch(clock: IReactorTime) -> PausedWatch:
    """The one that looks after all that is paused in a reactor."""
    watch = _watches.get(id(clock))
    if watch is None:
        watch = _watches[id(clock)] = PausedWatch(clock)
    return watch
