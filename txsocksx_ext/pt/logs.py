"""
A log observer that sends LOG lines to the parent, without IP addresses by default.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from zope.interface import implementer

from ..transports.lines import Keyword, Line
from ..transports.scrubbing import scrub

SEVERITY = {
    LogLevel.debug: "debug",
    # The lowest level that tor logs by default.
    LogLevel.info: "notice",
    LogLevel.warn: "warning",
    LogLevel.error: "error",
    LogLevel.critical: "error",
}

OF_LIBRARIES = ("twisted", "txsocksx_ext", "log_legacy", "txtorcon")
"""The prefixes of namespaces from which only warnings and errors go to tor's log."""


@implementer(ILogObserver)
class LogToParent:
    """
    Turns events into LOG lines.

    :param send: sends a line to the parent.
    :param with_addresses: whether the lines may hold IP addresses.
    """

    def __init__(self, send: Callable[[Line], None], with_addresses: bool = False) -> None:
        self._send = send
        self._with_addresses = with_addresses

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        is_of_library = str(event.get("log_namespace", "")).startswith(OF_LIBRARIES)
        if is_of_library and level < LogLevel.warn:
            return
        text = formatEvent(event)
        failure = event.get("log_failure")
        if failure is not None:
            # The traceback on one line: tor logs each line as an event of its own.
            lines = [line.strip() for line in failure.getTraceback().splitlines()]
            text = " | ".join([text, *filter(None, lines)])
        self._send(Line(Keyword.LOG, severity=SEVERITY[level], text=text if self._with_addresses else scrub(text)))
