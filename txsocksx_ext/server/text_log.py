"""
The log that twistd writes, at a price that one line for each connection can have.

Twisted's own observer asks for the time zone, formats the time and writes to
the file for every event. That was a quarter of the instructions that a short
connection took.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

from twisted.application.service import Service
from twisted.logger import ILogObserver, LogEvent, formatEventAsClassicLogText, formatTime
from twisted.python.components import Componentized
from zope.interface import implementer

from ..net.signals import on_signals
from .access_log import PLAIN_LINES
from .log_file import LogFile


@implementer(ILogObserver)
class TextLog:
    """
    Writes what Twisted's ``textFileLogObserver`` writes, to the letter.

    While the reactor runs, the lines of connections that come in one turn are
    written at its end, all at once; any other event with what has come until then.

    :param file: a file for text, or a `LogFile`.
    """

    def __init__(self, file: IO[str] | LogFile, reactor: Any) -> None:
        self._file = file
        self._reactor = reactor
        self._waiting: list[str] = []
        # The last second in which a connection's line was written, and how its lines begin.
        self._second = -1.0
        self._begin = ""

    def __call__(self, event: LogEvent) -> None:
        """Take an event."""
        waiting = self._waiting
        if event.get("log_logger") is PLAIN_LINES:
            # Times are written in whole seconds.
            second = event["log_time"] // 1
            if second != self._second:
                self._second, self._begin = second, f"{formatTime(second)} [{PLAIN_LINES.namespace}#info] "
            waiting.append(f"{self._begin}{event['log_format']}\n")
            if self._reactor.running:
                if len(waiting) == 1:
                    self._reactor.callLater(0, self.flush)
                return
        else:
            line = formatEventAsClassicLogText(event)
            if not line:
                return
            waiting.append(line)
        self.flush()

    def flush(self) -> None:
        """Write what waits. Of a line that the file's encoding cannot hold, escapes are written."""
        # The list stays the same: a thread, or a signal's handler, may be about to add to it.
        waiting = self._waiting
        lines = waiting[:]
        del waiting[: len(lines)]
        if not lines:
            return
        try:
            self._file.write("".join(lines))
        except ValueError:
            self._write_each(lines)
        self._file.flush()

    def _write_each(self, lines: list[str]) -> None:
        for line in lines:
            try:
                self._file.write(line)
            except ValueError:
                self._file.write(line.encode("ascii", "backslashreplace").decode("ascii"))


def text_log(options: Mapping[str, Any], reactor: Any) -> TextLog | None:
    """
    Return the log that twistd's options ask for. SIGUSR1 begins its file anew.

    :param options: those of ``twistd`` itself.
    :returns: ``None`` where they ask for another one than text.
    :raises OSError: the file cannot be opened.
    """
    name, in_foreground = options.get("logfile"), options.get("nodaemon")
    if "nodaemon" not in options or options.get("logger") or options.get("syslog"):
        return None
    if options.get("debug"):  # what was asked for besides cannot be seen any more
        return None
    if name == "-" or (in_foreground and not name):
        # A daemon has none: twistd will say so.
        return TextLog(sys.stdout, reactor) if in_foreground else None
    file = LogFile(name or "twistd.log")
    if not signal.getsignal(signal.SIGUSR1):
        on_signals(reactor, file.reopen_or_rotate, signal.SIGUSR1)
    return TextLog(file, reactor)


class LoggingService(Service):
    """
    A service of twistd's that has its log written by a `TextLog`.

    :ivar twistd_options: those of the program; ``None`` where there are none, and
        so the log is somebody else's business.
    """

    twistd_options: Mapping[str, Any] | None = None

    def on_another_signal(self, reactor: Any, act: Callable[[], object]) -> None:
        """
        From now on, have SIGINT and SIGTERM do this, where a command runs the service: its process ends with it.

        Twisted's own handlers would stop once more a reactor that stops: an error, and it goes on to wait.
        """
        if self.twistd_options is not None:
            on_signals(reactor, act, signal.SIGINT, signal.SIGTERM)

    def setServiceParent(self, parent: Any) -> None:
        """See `IService`. Twistd takes an application's own observer, if it has one when it starts to log."""
        is_application = isinstance(parent, Componentized)
        if self.twistd_options is not None and is_application and parent.getComponent(ILogObserver) is None:
            from twisted.internet import reactor

            log = text_log(self.twistd_options, reactor)
            if log is not None:
                parent.setComponent(ILogObserver, log)
        super().setServiceParent(parent)
