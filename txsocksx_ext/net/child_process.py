"""
What all processes that we start have in common: they say lines, are told to end, and do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from .waiters import Waiters


class ChildProcess(ProcessProtocol):
    """
    One process.

    :ivar end: how it ended, in a few words; ``None`` before that.
    """

    transport: Any

    def __init__(self) -> None:
        self.end: str | None = None
        # By the child's descriptor: what came of a line whose end has not come.
        self._unread: dict[int, bytes] = {}
        self._waiting: Waiters[str] = Waiters()

    def lines_with(self, descriptor: int, data: bytes) -> list[bytes]:
        """Return the lines that what came now completes, without their ends."""
        *lines, self._unread[descriptor] = (self.unended_line(descriptor) + data).split(b"\n")
        return lines

    def unended_line(self, descriptor: int) -> bytes:
        """Return the beginning of a line whose end has not come."""
        return self._unread.get(descriptor, b"")

    def take_unended_line(self, descriptor: int) -> bytes:
        """Remove and return the beginning of a line whose end has not come."""
        return self._unread.pop(descriptor, b"")

    def signal(self, name: str) -> None:
        """
        Send it a signal, if it is still there.

        :param name: as in ``TERM``.
        """
        try:
            self.transport.signalProcess(name)
        except ProcessExitedAlready:
            """It has ended by itself, and processEnded follows."""

    def when_ended(self) -> Deferred[str]:
        """Return a Deferred that fires with `end` when the process has ended."""
        if self.end is not None:
            return succeed(self.end)
        return self._waiting.wait()

    def end_by(self, clock: IReactorTime, signals: Sequence[tuple[float, str]]) -> Deferred[str]:
        """
        Send it signals until it has ended.

        :param signals: each with the seconds after which it is sent; at once after none.
        :returns: fires as `when_ended` does.
        """
        steps = []
        for seconds, name in signals:
            if seconds:
                steps.append(clock.callLater(seconds, self.signal, name))
            else:
                self.signal(name)

        def settled(end: Any) -> Any:
            for step in steps:
                if step.active():
                    step.cancel()
            return end

        return self.when_ended().addBoth(settled)

    def words_of(self, reason: Failure) -> str:
        """Return what `end` will be, from Twisted's reason."""
        return str(reason.value)

    def processEnded(self, reason: Failure) -> None:
        self.end = self.words_of(reason)
        self._waiting.fire(self.end)
