"""
Failed logins: delays for peers whose logins fail repeatedly, and log lines about what fails.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Hashable

from twisted.internet.error import ConnectError
from twisted.logger import Logger

from ..net.recent import RecentDict

_log = Logger()

INVALID_CREDENTIALS, MISSING_CREDENTIALS, CHECKER_FAILED = (
    "invalid_credentials",
    "missing_credentials",
    "checker_failed",
)
"""The reasons of a failed login in the log."""

FIRST_DELAY = 0.25
"""Seconds by which the answer to a peer's second failure is delayed."""

FORGOTTEN_AFTER = 60.0
"""Seconds after which one failure is forgotten."""

MOST_COUNTED = 10
"""Failures counted of one peer, so that all are forgotten after as many minutes."""

PEERS_COUNTED = 4096
"""Peers whose failures are remembered, about 1 MB; beyond that the oldest are forgotten."""


class FailedLogins:
    """
    Count the failed logins of each peer, and delay the answers to further ones.

    The first failure is answered at once, the second after 0.25 s, each further one
    after twice the delay. One failure is forgotten for each minute without another.

    :param seconds: a monotonic clock.
    """

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._peers: RecentDict[Hashable, tuple[int, float]] = RecentDict(PEERS_COUNTED)

    def add(self, peer: Hashable) -> float:
        """
        Count a failure.

        :returns: the delay of its answer in seconds, before other limits.
        """
        now = self._seconds()
        before, then = self._peers.get(peer, (0, now))
        forgotten = int((now - then) / FORGOTTEN_AFTER)
        count = min(max(0, before - forgotten) + 1, MOST_COUNTED)
        self._peers[peer] = count, now
        return 0.0 if count < 2 else float(FIRST_DELAY * 2 ** (count - 2))


class FailureLog:
    """
    Log that something fails, once for each reason: anyone who tries to log in may cause the failure again.

    :param what: the thing that fails.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._reason = ""

    def note(self, error: Exception) -> None:
        """
        Log an exception.

        Its message may hold a user name, so only the messages of system errors are
        logged; for other exceptions, the traceback without the message is.
        """
        reason = type(error).__name__
        if isinstance(error, (OSError, ConnectError)):
            self.note_reason(f"{reason}: {error}")
        else:
            self.note_reason(reason, "\n" + "".join(traceback.format_tb(error.__traceback__)))

    def note_reason(self, reason: str, places: str = "") -> None:
        """
        Log a reason that may be public.

        :param places: the traceback, beginning with a new line.
        """
        if reason != self._reason:
            self._reason = reason
            _log.error("{what} failed: {error}{places}", what=self._what, error=reason, places=places)

    def ended(self) -> None:
        """Log that it works again, if it had failed."""
        if self._reason:
            self._reason = ""
            _log.info("{what} works again", what=self._what)
