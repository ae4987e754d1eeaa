"""
Waiting for the last of a factory's connections.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from ..net.waiters import Waiters


class Draining:
    """Those who wait for a factory to have no connection left."""

    def __init__(self) -> None:
        self._waiting: Waiters[None] = Waiters()

    def wait(self, clock: IReactorTime, seconds: float, late: Callable[[], None]) -> Deferred[None]:
        """
        Wait while there are connections.

        :param late: called after `seconds`, to end those that are left.
        :returns: fires at `emptied`.
        """
        deadline = clock.callLater(seconds, late)

        def stop_waiting(_: None) -> None:
            if deadline.active():
                deadline.cancel()

        return self._waiting.wait().addCallback(stop_waiting)

    def emptied(self) -> None:
        """There is no connection left."""
        self._waiting.fire(None)
