"""
Waiting for the last of a factory's connections.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


class Draining:
    """Those who wait for a factory to have no connection left."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []

    def wait(self, clock: IReactorTime, seconds: float, late: Callable[[], None]) -> Deferred[None]:
        """
        Wait while there are connections.

        :param late: called after `seconds`, to end those that are left.
        :returns: fires at `emptied`.
        """
        deadline = clock.callLater(seconds, late)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)

        def stop_waiting(_: None) -> None:
            if deadline.active():
                deadline.cancel()

        return waiting.addCallback(stop_waiting)

    def emptied(self) -> None:
        """There is no connection left."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)
