"""
Time: a clock that no change of the system's time affects, and deadlines for thousands of connections.

Reactors schedule by the time of day. When that is set back by an hour, a
deadline of theirs is late by an hour.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

from .poller import Poller, log_fault, poller_of

_MOST_CANCELLED = 64
"""Cancelled calls that the queue keeps before it is rebuilt."""


class _TimerSpec(ctypes.Structure):
    """``struct itimerspec``: the interval, then the time until the first expiration."""

    _fields_ = [
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    ]


class _TimerDescriptor:
    """timerfd(2), which Python has from 3.13 on."""

    def __init__(self) -> None:
        if hasattr(os, "timerfd_create"):
            self.number: int = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.O_NONBLOCK | os.O_CLOEXEC)
            return
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.number = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.number < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    def expire_in(self, seconds: float) -> None:
        """Become readable after `seconds`, and no more at the time set before."""
        # Zero would disarm it.
        seconds = max(seconds, 1e-6)
        if hasattr(os, "timerfd_settime"):
            os.timerfd_settime(self.number, initial=seconds)
            return
        whole = int(seconds)
        spec = _TimerSpec(0, 0, whole, int((seconds - whole) * 1e9))
        if self._libc.timerfd_settime(self.number, 0, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def read(self) -> None:
        """Be no longer readable."""
        try:
            os.read(self.number, 8)
        except BlockingIOError:
            """It was set again after the poller had reported it."""


@implementer(IReactorTime)
class MonotonicClock:
    """`IReactorTime` on CLOCK_MONOTONIC. See `clock_of`."""

    seconds = staticmethod(time.monotonic)

    def __init__(self, poller: Poller) -> None:
        self._timer = _TimerDescriptor()
        self._calls: list[DelayedCall] = []
        self._cancelled = 0
        # When the descriptor expires, or infinity.
        self._expires = float("inf")
        self._poller = poller
        poller.watch(self._timer.number, self)

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kwargs: object) -> DelayedCall:
        """See `IReactorTime`."""
        due = self.seconds() + delay
        call = DelayedCall(due, callable, args, kwargs, self._count_cancelled, self._moved_forward, self.seconds)
        heappush(self._calls, call)
        self._arm()
        return call

    def getDelayedCalls(self) -> list[DelayedCall]:
        """See `IReactorTime`."""
        return [call for call in self._calls if not call.cancelled]

    def ready(self, events: int) -> None:
        """See `txsocksx_ext.net.poller.Watcher`: call what is due."""
        self._timer.read()
        self._expires = float("inf")
        now = self.seconds()
        while self._calls and self._calls[0].time <= now:
            call = heappop(self._calls)
            if call.cancelled:
                self._cancelled -= 1
            elif call.delayed_time > 0:
                call.activate_delay()
                heappush(self._calls, call)
            else:
                self._run(call)
        self._arm()

    def abandon(self, why: str) -> None:
        """See `txsocksx_ext.net.poller.Watcher`: the reactor ends."""
        self._poller.unregister(self._timer.number)
        os.close(self._timer.number)

    def _run(self, call: DelayedCall) -> None:
        call.called = 1
        try:
            call.func(*call.args, **call.kw)
        except BaseException:  # as in a reactor, a fault must not delay the other calls
            log_fault()

    def _count_cancelled(self, call: DelayedCall) -> None:
        self._cancelled += 1
        if self._cancelled > _MOST_CANCELLED and self._cancelled > len(self._calls) // 2:
            self._calls = self.getDelayedCalls()
            self._cancelled = 0
            heapify(self._calls)

    def _moved_forward(self, call: DelayedCall) -> None:
        heapify(self._calls)
        self._arm()

    def _arm(self) -> None:
        """Set the descriptor, but only to an earlier time: at a later one it expires once for nothing."""
        if self._calls and self._calls[0].time < self._expires:
            self._expires = self._calls[0].time
            self._timer.expire_in(self._expires - self.seconds())


_clocks: WeakKeyDictionary[Poller, MonotonicClock] = WeakKeyDictionary()


def clock_of(reactor: Any) -> IReactorTime:
    """
    Return the monotonic clock of a reactor.

    :param reactor: a reactor, or what wraps one. One without a poller, or whose
        ``callLater`` is its own, as in tests, is its own clock.
    """
    poller = poller_of(reactor)
    if poller is None or getattr(reactor.callLater, "__self__", None) is not poller.reactor:
        return reactor  # type: ignore[no-any-return]  # see `reactor`
    clock = _clocks.get(poller)
    if clock is None:
        clock = _clocks[poller] = MonotonicClock(poller)
    return clock


_ROUNDING = 1e-6
"""Seconds: the rounding error of sums of floating-point times stays below it."""

_Waiting = dict[Hashable, tuple[float, Callable[[], object]]]


class Deadlines:
    """
    At most one deadline for each owner, and one timer for all.

    A delayed call for each would cost more memory than the rest of a connection.
    Deadlines that are equally far away expire in the order in which they were set,
    so a dictionary for each distance keeps them sorted.

    :param clock: tells the time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._seconds: Callable[[], float] = clock.seconds
        # By distance in seconds: by owner, the time of the deadline and what to call then.
        self._waiting: dict[float, _Waiting] = {}
        # By owner, which of these dictionaries its deadline is in.
        self._waiting_with: dict[Hashable, _Waiting] = {}
        self._timer: IDelayedCall | None = None
        # When the timer expires, or infinity. While deadlines expire it is the past, so that none sets the timer.
        self._expires = math.inf

    def start(self, owner: Hashable, seconds: float, expired: Callable[[], object]) -> float:
        """
        Set the owner's deadline, in place of the one before.

        :param seconds: the time until then.
        :param expired: called at the deadline unless it was stopped. What it
            raises is logged by the clock; other deadlines stay.
        :returns: the present time, in the clock's seconds.
        """
        waiting_with = self._waiting_with
        if owner in waiting_with:
            del waiting_with[owner][owner]
        waiting = self._waiting.get(seconds)
        if waiting is None:
            waiting = self._waiting[seconds] = {}
        now = self._seconds()
        deadline = now + seconds
        waiting[owner] = deadline, expired
        waiting_with[owner] = waiting
        if deadline < self._expires:
            self._set_timer(deadline, seconds)
        return now

    def stop(self, owner: Hashable) -> None:
        """Remove the owner's deadline; no-op if there is none."""
        waiting = self._waiting_with.pop(owner, None)
        if waiting is not None:
            del waiting[owner]

    def rest(self) -> None:
        """Cancel the timer, which is left when no deadline is. Otherwise it expires once for nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._expires = None, math.inf

    def _set_timer(self, deadline: float, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._expires = self._clock.callLater(seconds, self._expire), deadline

    def _expire(self) -> None:
        """Call what is due, and set the timer for the next."""
        self._timer, self._expires = None, -math.inf
        try:
            for waiting in list(self._waiting.values()):
                while waiting:
                    owner, (deadline, expired) = next(iter(waiting.items()))
                    if deadline - self._seconds() >= _ROUNDING:
                        break
                    self.stop(owner)
                    expired()
        finally:
            # Also after a fault: the others keep their deadlines.
            self._expires = math.inf
            following = min((next(iter(each.values()))[0] for each in self._waiting.values() if each), default=None)
            if following is not None:
                self._set_timer(following, max(following - self._seconds(), 0.0))
