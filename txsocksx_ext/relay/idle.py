"""
Streams on which nothing moves: one timer looks after all of them.
"""

from __future__ import annotations

from weakref import WeakValueDictionary

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..sockets.poller import log_fault
from .interface import IRelay

CHECKS = 4
"""An idle stream is closed after its time-out, and at most a quarter of it later."""


class IdleWatch:
    """
    Aborts relays through which no byte went for a time. See `idle_watch`.

    It counts the checks since a relay's counts changed, so that no clock is
    read for each segment.

    :param timeout: in seconds.
    """

    def __init__(self, clock: IReactorTime, timeout: float) -> None:
        self._clock = clock
        self._timeout = timeout
        self._next: IDelayedCall | None = None
        # Of each relay how far it was at the last check, and how many checks found it there.
        self._seen: dict[IRelay, tuple[tuple[int, int] | None, int]] = {}

    def add(self, relay: IRelay) -> None:
        """Look after a relay that starts."""
        self._seen[relay] = (None, 0)
        if self._next is None:
            self._schedule()

    def discard(self, relay: IRelay) -> None:
        """Look no more after a relay that has ended."""
        self._seen.pop(relay, None)
        if not self._seen and self._next is not None:
            self._next.cancel()
            self._next = None

    def _schedule(self) -> None:
        self._next = self._clock.callLater(self._timeout / CHECKS, self._check)

    def _check(self) -> None:
        self._next = None
        for relay, (progress_before, quiet_checks) in list(self._seen.items()):
            if relay not in self._seen:  # another's end has ended it
                continue
            progress = relay.progress
            quiet_checks = quiet_checks + 1 if progress == progress_before else 0
            self._seen[relay] = (progress, quiet_checks)
            if quiet_checks >= CHECKS:
                try:
                    relay.abort("idle")
                except Exception:  # which must not keep the others open
                    self._seen.pop(relay, None)
                    log_fault()
        if self._seen and self._next is None:
            self._schedule()


# By the clock's identity, since what wraps a reactor may have no hash; a watch keeps its clock, so it stays its own.
_watches: WeakValueDictionary[tuple[int, float], IdleWatch] = WeakValueDictionary()


def idle_watch(clock: IReactorTime, timeout: float) -> IdleWatch:
    """The one that looks after all streams with this time-out, in seconds."""
    watch = _watches.get((id(clock), timeout))
    if watch is None:
        watch = _watches[id(clock), timeout] = IdleWatch(clock, timeout)
    return watch
