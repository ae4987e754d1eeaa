"""
What a transport logs, as its parent gets it: LOG lines, without addresses unless they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from zope.interface import implementer

from ..transports.lines import Keyword, Line
from ..transports.scrubbing import scrub

SEVERITY = {
    LogLevel.debug: "debug",
    # Twisted's "info" is tor's "notice": what its log holds by default.
    LogLevel.info: "notice",
    LogLevel.warn: "warning",
    LogLevel.error: "error",
    LogLevel.critical: "error",
}

OF_LIBRARIES = ("twisted", "txsocksx_ext", "log_legacy", "txtorcon")
"""Whose events, by the beginning of their name space, are for tor's log only from a warning on."""


@implementer(ILogObserver)
class LogToParent:
    """
    Makes LOG lines of events.

    :param say: takes each line.
    :param with_addresses: whether addresses may stand in them.
    """

    def __init__(self, say: Callable[[Line], None], with_addresses: bool = False) -> None:
        self._say = say
        self._with_addresses = with_addresses

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        is_of_library = str(event.get("log_namespace", "")).startswith(OF_LIBRARIES)
        if is_of_library and level < LogLevel.warn:
            return
        text = formatEvent(event)
        failure = event.get("log_failure")
        if failure is not None:
            # Where it happened, too: one line for each frame would be many lines in tor's log.
            lines = [line.strip() for line in failure.getTraceback().splitlines()]
            text = " | ".join([text, *filter(None, lines)])
        self._say(Line(Keyword.LOG, severity=SEVERITY[level], text=text if self._with_addresses else scrub(text)))
