"""
One-line errors for a server that cannot start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

_log = Logger(namespace="txsocksx_ext.server")


class ListenerFailed(CannotListenError):
    """
    A listener cannot be opened.

    :param description: the endpoint string.
    :param error: the exception of the endpoint.
    """

    def __init__(self, description: str, error: BaseException) -> None:
        super().__init__(None, description, error)

    def __str__(self) -> str:
        return f"cannot listen on {self.port}: {reason_of(self.socketError)}"


def reason_of(error: BaseException) -> str:
    """Return an error of the system, of OpenSSL or of a parser as one line, without its errno."""
    if isinstance(error, CannotListenError) and not isinstance(error, ListenerFailed):
        return reason_of(error.socketError)
    if isinstance(error, OSError) and error.strerror:
        # If the error has two names, as of a symlink that cannot be created, the first is not a file.
        has_file = error.filename is not None and error.filename2 is None
        text = f"{os.fsdecode(error.filename)}: {error.strerror}" if has_file else error.strerror
    elif isinstance(error, (SSL.Error, crypto.Error)) and error.args and isinstance(error.args[0], list):
        text = f"OpenSSL: {'; '.join(reason for *_, reason in error.args[0])}"
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__


def report_start_failures(options: Mapping[str, Any]) -> None:
    """
    Write one line to standard error instead of a traceback if the process cannot start.

    The line is also logged, unless the log goes to standard output. This holds for
    errors of the system and for listeners that cannot be opened; any other
    exception is a bug and keeps its traceback.

    In Twisted's commands an exception of ``startService`` ends the process with exit
    status 1. Exceptions raised once the reactor runs are caught.

    :param options: the options of the command.
    """

    def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, (OSError, CannotListenError)):
            sys.__excepthook__(kind, error, traceback)
            return
        reason = reason_of(error)
        # Once logging has begun, `sys.stderr` is the log.
        if sys.stderr is not sys.__stderr__ and not logs_to_stdout(options):
            _log.critical("the server does not start: {reason}", reason=reason)
        if sys.__stderr__ is not None:
            sys.__stderr__.write(f"socks5ext: {reason}\n")

    sys.excepthook = report


def logs_to_stdout(options: Mapping[str, Any]) -> bool:
    """Return whether a command with these options logs to standard output."""
    if options.get("logger") or options.get("syslog"):
        return False
    # A daemon has no standard output.
    return bool(options.get("nodaemon")) and options.get("logfile") in (None, "", "-")
