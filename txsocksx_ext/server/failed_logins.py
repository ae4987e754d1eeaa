"""
What becomes of failed logins: lines in the log.
"""

from __future__ import annotations

import traceback

from twisted.internet.error import ConnectError
from twisted.logger import Logger

_log = Logger()


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
