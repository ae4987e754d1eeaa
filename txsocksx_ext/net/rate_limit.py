"""
Limits of the rate at which streams are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

BURST = 0.1
"""
Seconds of the rate that may be read at once after a quiet time.

A timer that is late by less costs a stream nothing.
"""

READ_TIME = 0.05
"""Seconds of the rate that one read may take at most: the longest pause of a single stream between two reads."""

LEAST_READ, MOST_READ = 1 << 10, 1 << 16
"""Bytes between which the size of a read is."""


Rates = tuple[Sequence["RateLimit"], Sequence["RateLimit"]]
"""The limits of a stream: from the client, and from the target."""

NO_RATES: Rates = ((), ())


class Held(Protocol):
    """Something that waits for a `RateLimit`."""

    def release(self) -> None:
        """Read once more, or wait again."""


class RateLimit:
    """
    A token bucket that several streams share.

    Reads are charged when they have been made. Streams that must wait are released one
    after the other, so the excess is one read, however many wait.

    :param rate: bytes a second.
    :ivar read_size: the number of bytes that a stream may read at once.
    """

    def __init__(self, clock: IReactorTime, rate: float) -> None:
        self._clock = clock
        self._rate = rate
        # The time until which the bytes that were read use up the rate.
        self._used_until = 0.0
        self._waiting: dict[Held, None] = {}
        self._timer: IDelayedCall | None = None
        self.read_size = int(min(max(rate * READ_TIME, LEAST_READ), MOST_READ))

    def take(self, count: int) -> None:
        """Charge bytes that were read."""
        self._used_until = max(self._used_until, self._clock.seconds() - BURST) + count / self._rate

    def holds(self, reader: Held) -> bool:
        """Return whether a reader must wait. If so, it is released later."""
        seconds = self._used_until - self._clock.seconds()
        if seconds <= 0 and not self._waiting:
            return False
        self._waiting[reader] = None
        self._schedule(max(seconds, 0))
        return True

    def forget(self, reader: Held) -> None:
        """Do not release a reader any more."""
        self._waiting.pop(reader, None)
        if not self._waiting:
            self._cancel()

    def _schedule(self, seconds: float) -> None:
        self._cancel()
        self._timer = self._clock.callLater(seconds, self._release)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _release(self) -> None:
        self._timer = None
        seconds = self._used_until - self._clock.seconds()
        if seconds > 0:
            self._schedule(seconds)
            return
        reader = next(iter(self._waiting))
        del self._waiting[reader]
        if self._waiting:
            # The time of a whole read; `holds` corrects it as soon as this reader has read.
            self._schedule(self.read_size / self._rate)
        reader.release()
