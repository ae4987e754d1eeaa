"""
Ending connections: those of removed users, and waiting for the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from ..net.waiters import Waiters
from .auth import may_know

if TYPE_CHECKING:
    from .connection import SOCKS5ExtProtocol


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

    def when_emptied(self) -> Deferred[None]:
        """Return a Deferred that fires at `emptied`."""
        return self._waiting.wait()

    def emptied(self) -> None:
        """There is no connection left."""
        self._waiting.fire(None)


def end_removed_users(connections: Iterable[SOCKS5ExtProtocol], checkers: Collection[ICredentialsChecker]) -> None:
    """
    Reset the connections of users who have logged in and whom no checker knows any more.

    :param checkers: those of today, which have just read their files; without one, everybody is let in.
    """
    for connection in list(connections):
        session = connection.session
        user = None if session.avatar is None else session.user
        if user is not None and checkers and not any(may_know(each, user) for each in checkers):
            connection.abort("user removed")
