"""
One timer that looks at many from time to time.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .poller import log_fault

Watched = TypeVar("Watched")
State = TypeVar("State")
SomeWatch = TypeVar("SomeWatch", bound="Watch[Any, Any]")


class Watch(Generic[Watched, State]):
    """
    Looks at all that was added, until it is discarded. See `shared_watch`.

    :param period: seconds from one look to the next.
    :cvar first_state: what `look_at` is given at the first look.
    """

    first_state: State

    def __init__(self, clock: IReactorTime, period: float) -> None:
        self._clock = clock
        self._period = period
        self._next: IDelayedCall | None = None
        self._states: dict[Watched, State] = {}

    def look_at(self, watched: Watched, state: State) -> State:
        """
        Look at one, and end it if it has to end.

        :param state: what this returned the last time.
        """
        raise NotImplementedError

    def add(self, watched: Watched) -> None:
        """Look after one more."""
        self._states[watched] = self.first_state
        if self._next is None:
            self._schedule()

    def discard(self, watched: Watched) -> None:
        """Look no more after one, if it was looked after."""
        self._states.pop(watched, None)
        if not self._states and self._next is not None:
            self._next.cancel()
            self._next = None

    def _schedule(self) -> None:
        self._next = self._clock.callLater(self._period, self._look)

    def _look(self) -> None:
        self._next = None
        for watched, state in list(self._states.items()):
            if watched not in self._states:  # another's end has ended it
                continue
            try:
                state = self.look_at(watched, state)
            except BaseException:  # which must not keep the others open
                self._states.pop(watched, None)
                log_fault()
            if watched in self._states:
                self._states[watched] = state
        if self._states and self._next is None:
            self._schedule()


# By the clock's identity, since what wraps a reactor may have no hash; a watch keeps its clock, so it stays its own.
_watches: WeakValueDictionary[tuple[Any, ...], Watch[Any, Any]] = WeakValueDictionary()


def shared_watch(kind: type[SomeWatch], clock: IReactorTime, *settings: float) -> SomeWatch:
    """The one watch of a kind, with these settings, that there is for a clock while somebody has it."""
    key = kind, id(clock), *settings
    watch = _watches.get(key)
    if watch is None:
        watch = _watches[key] = kind(clock, *settings)
    return watch  # type: ignore[return-value]
