"""
What becomes of failed logins: delays for peers whose logins fail again and again, and lines in the log.
"""

from __future__ import annotations

import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable

from twisted.internet.error import ConnectError
from twisted.logger import Logger

_log = Logger()

INVALID_CREDENTIALS, MISSING_CREDENTIALS, CHECKER_FAILED = (
    "invalid_credentials",
    "missing_credentials",
    "checker_failed",
)
"""Why a login failed, as the log says it."""

FIRST_DELAY = 0.25
"""Seconds that the answer to a peer's second failure waits."""

FORGOTTEN_AFTER = 60.0
"""Seconds after which one failure is forgotten."""

MOST_COUNTED = 10
"""Failures counted of one peer, so that all are forgotten after as many minutes."""

PEERS_COUNTED = 4096
"""Peers whose failures are remembered, about 1 MB: beyond that the oldest are forgotten."""


class FailedLogins:
    """
    How often logins of each peer have failed lately, and how long the next failure has to wait.

    The first failure is answered at once, the second after a quarter of a second,
    each further one after twice the time. After a failure, one is forgotten for each minute that passes.

    :param seconds: a monotonic clock.
    """

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        # Those that failed last stand at the end.
        self._peers: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def add(self, peer: Hashable) -> float:
        """
        Count a failure.

        :returns: how many seconds its answer has to wait, were there no other limit.
        """
        now = self._seconds()
        before, then = self._peers.get(peer, (0, now))
        forgotten = int((now - then) / FORGOTTEN_AFTER)
        count = min(max(0, before - forgotten) + 1, MOST_COUNTED)
        self._peers[peer] = count, now
        self._peers.move_to_end(peer)
        if len(self._peers) > PEERS_COUNTED:
            self._peers.popitem(last=False)
        return 0.0 if count < 2 else float(FIRST_DELAY * 2 ** (count - 2))


class FailureLog:
    """
    Says that something fails: once for each reason, since any attempt to log in may lead there.

    :param what: fails.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = ""

    def note(self, error: Exception) -> None:
        """
        Log a failure.

        The words of an exception may hold a user name, so only those of the system's
        errors are written. For another one the places in the code are.
        """
        said = type(error).__name__
        if isinstance(error, (OSError, ConnectError)):
            said = f"{said}: {error}"
        if said == self._said:
            return
        self._said = said
        places = ""
        if not isinstance(error, (OSError, ConnectError)):
            places = "\n" + "".join(traceback.format_tb(error.__traceback__))
        _log.error("{what} failed: {error}{places}", what=self._what, error=said, places=places)

    def ended(self) -> None:
        """Log that it works again, if it had failed."""
        if self._said:
            self._said = ""
            _log.info("{what} works again", what=self._what)
