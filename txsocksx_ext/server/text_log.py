"""
An observer that writes twistd's log as text, fast enough for one line per connection.

Twisted's own observer asks for the time zone, formats the time and writes to
the file for every event: a quarter of the instructions of a short connection.
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
from .access_log import CONNECTION_FORMATS, NAMESPACE, connection_line
from .log_file import LogFile
from .start_failures import logs_to_stdout


@implementer(ILogObserver)
class TextLog:
    """
    Write exactly what Twisted's ``textFileLogObserver`` writes.

    While the reactor runs, the lines of connections are collected, and written at
    the end of the reactor's turn. Any other event is written at once, after the
    lines collected so far.

    :param file: a text file or a `LogFile`.
    """

    def __init__(self, file: IO[str] | LogFile, reactor: Any) -> None:
        self._file = file
        self._reactor = reactor
        self._waiting: list[str] = []
        # The time of the last connection's line, in whole seconds, and the beginning of such a line.
        self._second = -1.0
        self._prefix = ""

    def __call__(self, event: LogEvent) -> None:
        """Write an event. See `ILogObserver`."""
        waiting = self._waiting
        if event.get("log_format") in CONNECTION_FORMATS:
            second = event["log_time"] // 1
            if second != self._second:
                self._second, self._prefix = second, f"{formatTime(second)} [{NAMESPACE}#info] "
            text = connection_line(event).replace("\n", "\n\t")
            waiting.append(f"{self._prefix}{text}\n")
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
        """Write the collected lines. Characters that the file's encoding lacks are written as escapes."""
        # Keep the list object: a thread or a signal handler may be about to append to it.
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
    Return the text log that twistd's options ask for, and have SIGUSR1 reopen or rotate its file.

    :param options: the options of ``twistd`` itself.
    :returns: ``None`` if the options ask for another kind of log.
    :raises OSError: the file cannot be opened.
    """
    name = options.get("logfile")
    if "nodaemon" not in options or options.get("logger") or options.get("syslog"):
        return None
    if options.get("debug"):  # --debug hides the other options
        return None
    if logs_to_stdout(options):
        return TextLog(sys.stdout, reactor)
    if name == "-":  # a daemon has no standard output, which twistd reports
        return None
    file = LogFile(name or "twistd.log")
    if not signal.getsignal(signal.SIGUSR1):
        on_signals(reactor, file.reopen_or_rotate, signal.SIGUSR1)
    return TextLog(file, reactor)


class LoggingService(Service):
    """
    A twistd service whose log is written by a `TextLog`.

    :ivar twistd_options: the options of ``twistd``; ``None`` outside twistd, where
        the program decides about its log.
    :ivar started: called when the service has started.
    """

    twistd_options: Mapping[str, Any] | None = None
    started: Callable[[], object] | None = None

    def startService(self) -> None:
        """See `IService`."""
        super().startService()
        if self.started is not None:
            self.started()

    def on_another_signal(self, reactor: Any, act: Callable[[], object]) -> None:
        """
        Have SIGINT and SIGTERM call `act` from now on, if a command runs the service.

        Twisted's own handlers would call ``reactor.stop()`` again, which is an error while the reactor stops.
        """
        if self.twistd_options is not None:
            on_signals(reactor, act, signal.SIGINT, signal.SIGTERM)

    def setServiceParent(self, parent: Any) -> None:
        """See `IService`. Twistd uses the observer that the application has when logging begins."""
        is_application = isinstance(parent, Componentized)
        if self.twistd_options is not None and is_application and parent.getComponent(ILogObserver) is None:
            from twisted.internet import reactor

            log = text_log(self.twistd_options, reactor)
            if log is not None:
                parent.setComponent(ILogObserver, log)
        super().setServiceParent(parent)
