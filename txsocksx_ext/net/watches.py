"""
Periodic checks of many items, at the price of one timer for each kind.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .poller import log_fault
from .relay_interface import IRelay

Watched = TypeVar("Watched")
State = TypeVar("State")
SomeWatch = TypeVar("SomeWatch", bound="Watch[Any, Any]")


class Watch(Generic[Watched, State]):
    """
    Checks every added item periodically, until it is discarded. See `shared_watch`.

    :param period: seconds between two checks.
    :cvar first_state: the state that `check` is given at the first check.
    """

    first_state: State

    def __init__(self, clock: IReactorTime, period: float) -> None:
        self._clock = clock
        self._period = period
        self._next: IDelayedCall | None = None
        self._states: dict[Watched, State] = {}

    def check(self, watched: Watched, state: State) -> State:
        """
        Check one item, and end it if it must end.

        :param state: what this returned at the last check.
        """
        raise NotImplementedError

    def add(self, watched: Watched) -> None:
        """Start watching an item."""
        self._states[watched] = self.first_state
        if self._next is None:
            self._schedule()

    def discard(self, watched: Watched) -> None:
        """Stop watching an item; no-op if it is unknown."""
        self._states.pop(watched, None)
        if not self._states and self._next is not None:
            self._next.cancel()
            self._next = None

    def _schedule(self) -> None:
        self._next = self._clock.callLater(self._period, self._check_all)

    def _check_all(self) -> None:
        self._next = None
        for watched, state in list(self._states.items()):
            if watched not in self._states:  # the end of another item ended it
                continue
            try:
                state = self.check(watched, state)
            except BaseException:  # a fault in one item must not keep the others open
                self._states.pop(watched, None)
                log_fault()
            if watched in self._states:
                self._states[watched] = state
        if self._states and self._next is None:
            self._schedule()


# By the clock's identity: a wrapper of a reactor may not be hashable. The watch keeps its clock alive.
_watches: WeakValueDictionary[tuple[Any, ...], Watch[Any, Any]] = WeakValueDictionary()


def shared_watch(kind: type[SomeWatch], clock: IReactorTime, *settings: float) -> SomeWatch:
    """Return the one watch of a kind, with these settings, that a clock has while somebody keeps it."""
    key = kind, id(clock), *settings
    watch = _watches.get(key)
    if watch is None:
        watch = _watches[key] = kind(clock, *settings)
    return watch  # type: ignore[return-value]  # the key holds its kind


IDLE_CHECKS = 4
"""Checks within an idle timeout: an idle stream is closed at most a quarter of the timeout late."""


class IdleWatch(Watch[IRelay, tuple[Any, int]]):
    """
    Aborts relays that transferred no byte during the timeout.

    It counts the checks since a relay's counts changed, so no segment needs a
    look at the clock. An item's state is its progress and that number of checks.

    :param timeout: in seconds.
    """

    first_state = (None, 0)

    def __init__(self, clock: IReactorTime, timeout: float) -> None:
        super().__init__(clock, timeout / IDLE_CHECKS)

    def check(self, watched: IRelay, state: tuple[Any, int]) -> tuple[Any, int]:
        """See `Watch`."""
        progress_before, quiet_checks = state
        progress = watched.progress
        quiet_checks = quiet_checks + 1 if progress == progress_before else 0
        if quiet_checks >= IDLE_CHECKS:
            watched.abort("idle")
        return progress, quiet_checks


PAUSED_CHECK_PERIOD = 15.0
"""Seconds. A reactor does not watch a paused transport, so it does not notice that the peer reset it or vanished."""


class Pausable(Protocol):
    """Something whose reading can be paused."""

    def end_if_reset(self) -> None:
        """Close it if its connection was reset."""


class PausedWatch(Watch[Pausable, None]):
    """Ends paused items whose connections were reset."""

    first_state = None

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__(clock, PAUSED_CHECK_PERIOD)

    def check(self, watched: Pausable, state: None) -> None:
        """See `Watch`."""
        watched.end_if_reset()


RESET_CHECK_PERIOD = 0.1
"""Seconds: the system does not tell when a peer has acknowledged everything."""

LINGER = 5.0
"""Seconds without progress after which a peer that does not take the rest is reset without it."""


class Resettable(Protocol):
    """A connection that is to be reset after what was sent to it has arrived."""

    def undelivered(self) -> tuple[int, int] | None:
        """
        Return how many bytes came for it, and how many of them its peer has not acknowledged.

        :returns: ``None`` when there are none, and no more can come.
        """

    def reset(self) -> None:
        """Reset it. It is not watched any more."""


class ResetWatch(Watch[Resettable, tuple[Any, int]]):
    """
    Resets connections as soon as their peers have what was sent to them.

    A reset makes Linux drop what a peer has not acknowledged, and with it the end
    of a stream whose other side was reset. An item's state is what was
    undelivered at the last check, and the number of checks without a change.
    """

    first_state = (None, 0)

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__(clock, RESET_CHECK_PERIOD)

    def check(self, watched: Resettable, state: tuple[Any, int]) -> tuple[Any, int]:
        """See `Watch`."""
        before, quiet_checks = state
        undelivered = watched.undelivered()
        quiet_checks = quiet_checks + 1 if undelivered == before else 0
        if undelivered is None or quiet_checks * RESET_CHECK_PERIOD >= LINGER:
            self.discard(watched)
            watched.reset()
        return undelivered, quiet_checks
