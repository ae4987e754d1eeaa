"""
The time that connections have, watched by one timer for all that have equally long.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import inf

from twisted.internet.interfaces import IDelayedCall, IReactorTime

_LEAST_WAIT = 1e-6
"""Seconds: by so little sums of floating-point numbers may miss each other."""


class Deadlines:
    """
    One deadline for each who has one.

    A timer of the reactor for each of them would cost more than all else that
    is kept of a connection.

    :param clock: says what time it is.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._seconds: Callable[[], float] = clock.seconds
        self._queues: dict[float, _Queue] = {}
        self._queue_of: dict[Hashable, _Queue] = {}

    def start(self, who: Hashable, seconds: float, expired: Callable[[], object]) -> float:
        """
        Set a deadline, instead of the one that was set before.

        :param seconds: how far away it is.
        :param expired: called when it has passed, if it was not stopped. What it
            raises goes to the clock, and a reactor logs it; others keep their deadlines.
        :returns: the time it is now, in the clock's seconds.
        """
        before = self._queue_of.get(who)
        if before is not None:
            del before.waiting[who]
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues[seconds] = _Queue(self._clock, seconds, self._queue_of)
        now = self._seconds()
        self._queue_of[who] = queue
        due = now + seconds
        queue.waiting[who] = due, expired
        if queue.looks_at > due + _LEAST_WAIT:
            queue.look_in_time(now)
        return now

    def stop(self, who: Hashable) -> None:
        """Have no deadline, if there is one."""
        queue = self._queue_of.pop(who, None)
        if queue is not None:
            del queue.waiting[who]

    def rest(self) -> None:
        """Leave no timer behind, for nobody has a deadline. Otherwise timers may run out in vain."""
        for queue in self._queues.values():
            queue.rest()


class _Queue:
    """
    Deadlines that are equally far away when they are set.

    They pass in the order in which they were set. So the timer is set to the
    first of them, and anew when it runs out.

    Reactors go by the time of day, which may be set back: so no timer and no
    deadline may be further away than one that is set now.

    :param seconds: how far away they are when they are set.
    :ivar waiting: by who has them, deadlines and what to call then.
    :ivar looks_at: when the timer runs out, at the first of them or earlier; never, where there is no timer.
    """

    def __init__(self, clock: IReactorTime, seconds: float, queue_of: dict[Hashable, _Queue]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._queue_of = queue_of
        self.waiting: dict[Hashable, tuple[float, Callable[[], object]]] = {}
        self.looks_at = inf
        self._timer: IDelayedCall | None = None

    def look_in_time(self, now: float) -> None:
        """Have a timer, for a deadline that was set now."""
        self.looks_at = now + self._seconds
        if self._timer is None:
            self._timer = self._clock.callLater(self._seconds, self._look)
        else:
            self._timer.reset(self._seconds)

    def rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.looks_at = inf

    def _look(self) -> None:
        """Deal with those whose deadline has passed, and set the timer to the next one's."""
        now = self._clock.seconds()
        self._timer = None
        # What is set meanwhile needs no timer: there will be one for the first of all.
        self.looks_at = -inf
        try:
            while self.waiting and self._is_first_due(now):
                who = next(iter(self.waiting))
                _, expired = self.waiting.pop(who)
                del self._queue_of[who]
                expired()
                # By the old time, one that was set meanwhile would look as if the clock had been set back.
                now = self._clock.seconds()
        finally:
            # Also after a fault, which must not cost the others their deadline.
            self.looks_at = inf
            if self.waiting:
                left = 0.0 if self._is_first_due(now) else self._first_due() - now
                self._timer = self._clock.callLater(left, self._look)
                self.looks_at = now + left

    def _is_first_due(self, now: float) -> bool:
        """Whether the first deadline has passed; also if the time was set back since it was set."""
        left = self._first_due() - now
        return left < _LEAST_WAIT or left > self._seconds + _LEAST_WAIT

    def _first_due(self) -> float:
        return next(iter(self.waiting.values()))[0]
