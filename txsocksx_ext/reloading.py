"""
SIGHUP: a running server reads its configuration, users and certificates again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from .config import Configuration, ConfigurationError
from .net.signals import on_signals
from .server.start_failures import reason_of
from .server.stopping import ServerService

_log = Logger(namespace="txsocksx_ext.server")


class Reloader:
    """
    Reloads a server at SIGHUP.

    :param configuration: by which the server was made.
    :param given: the options of the command line, which stay.
    """

    def __init__(
        self, reactor: Any, server: ServerService, configuration: Configuration, given: Mapping[str, Any]
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._configuration = configuration
        self._given = given
        self._is_reloading = self._is_asked_again = False
        self._had_terminal = False

    def started(self) -> None:
        """Log what is served, and reload at SIGHUP from now on."""
        self._report("serves")
        self._had_terminal = _has_terminal()
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            on_signals(self._reactor, self.hung_up, signal.SIGHUP)

    def hung_up(self) -> None:
        """Reload; or stop, if the signal means that the terminal is closed."""
        if self._had_terminal and not _has_terminal():
            self._reactor.stop()
        elif self._server.is_stopping:
            return
        elif self._is_reloading:
            self._is_asked_again = True
        else:
            self._is_reloading = True
            Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> None:
        self._server.notifier.reloading()
        try:
            new = Configuration(self._reactor, self._given)
            for name in ("workers", "status"):
                if getattr(new, name) != getattr(self._configuration, name):
                    raise ConfigurationError([f"{name} cannot change while the server runs: restart it"])
            await self._server.reload(new.settings, new.listeners, new.drain, new.ends_removed_users)
        except Exception as error:  # of plugins too: whatever it is, the server goes on
            _log.error("not reloaded, and nothing has changed: {reason}", reason=reason_of(error))
            self._server.reloads.note(succeeded=False)
        else:
            self._configuration = new
            self._server.drain_delay = new.drain_delay
            self._report("reloaded; now serves")
            self._server.reloads.note(succeeded=True)
        if not self._server.is_stopping:
            self._server.notifier.ready()
        self._is_reloading = False
        if self._is_asked_again:
            self._is_asked_again = False
            self.hung_up()

    def _report(self, what: str) -> None:
        topics = self._configuration.summary()
        shown = {topic: ", ".join(items) for topic, items in topics.items()}
        _log.info(what + " {protocols} on {listen}; users: {users}; rules: {rules}; limits: {limits}", **shown)
        for warning in self._configuration.warnings:
            _log.warn("{warning}", warning=warning)


def _has_terminal() -> bool:
    """Return whether this process has a terminal, which sends SIGHUP when it is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
