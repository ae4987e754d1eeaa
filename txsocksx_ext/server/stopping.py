"""
How a server starts and stops. To stop, it says so, accepts for a while longer, drains, and answers for its status
until the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.task import deferLater

from ..net.timers import clock_of
from .notify import Notifier
from .settings import ServerSettings
from .stats import Reloads
from .text_log import LoggingService


class ServerService(LoggingService):
    """
    A server as a service.

    :ivar drain_delay: seconds from `stopService` on in which the server still accepts connections.
    :ivar status_page: runs from before the first connection until after the last.
    :ivar reloads: how often the configuration was read again.
    :ivar notifier: tells systemd of the server's state.
    :ivar is_stopping: whether it was told to stop.
    """

    drain_delay = 0.0
    notifier = Notifier()
    status_page: IService | None = None
    is_stopping = False
    _reactor: Any
    _delay: Deferred[None] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.reloads = Reloads()

    def privilegedStartService(self) -> None:
        """Open what needs privileges."""
        if self.status_page is not None:
            self.status_page.privilegedStartService()
        super().privilegedStartService()

    def startService(self) -> None:
        """Serve."""
        self.is_stopping = False
        if self.status_page is not None:
            self.status_page.startService()
        super().startService()
        self.notifier.start(self._reactor)
        self.when_serving().addCallback(lambda _: None if self.is_stopping else self.notifier.ready())

    def stopService(self) -> Deferred[None]:
        """
        Stop listening after `drain_delay`, then drain, then stop what streams needed.

        If a command runs the service, another SIGINT or SIGTERM ends the delay and the draining.

        :returns: fires when all connections are closed and everything has stopped.
        """
        self.is_stopping = True
        self.notifier.stopping()
        self.on_another_signal(self._reactor, self._hurry)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self.drain_delay:
            self._delay = deferLater(clock_of(self._reactor), self.drain_delay)
            with suppress(CancelledError):
                await self._delay
        await self.stop_serving()
        if self.status_page is not None:
            await maybeDeferred(self.status_page.stopService)
        self.notifier.stop()

    def _hurry(self) -> None:
        if self._delay is not None:
            self._delay.cancel()
        self.abort_all()

    def when_serving(self) -> Deferred[None]:
        """Return a Deferred that fires when connections are accepted."""
        return succeed(None)

    async def reload(self, settings: ServerSettings, listeners: Sequence[str], drain: float, ends_users: bool) -> None:
        """
        Serve new connections by other settings. If that fails, nothing changes.

        Routes that run a service and have the same description stay. Streams stay, of closed listeners too.

        :param ends_users: whether to end the connections of users whom the settings do not have any more.
        :raises Exception: the settings cannot be used, a listener cannot be opened, or a worker does not start.
        """
        raise NotImplementedError

    async def stop_serving(self) -> None:
        """Stop listening, and drain."""
        raise NotImplementedError

    def abort_all(self) -> None:
        """End every connection at once."""
        raise NotImplementedError
