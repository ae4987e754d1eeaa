"""
Why a server does not start, in one line.
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

    :param description: its endpoint string.
    :param error: what its endpoint raised.
    """

    def __init__(self, description: str, error: BaseException) -> None:
        super().__init__(None, description, error)

    def __str__(self) -> str:
        return f"cannot listen on {self.port}: {reason_of(self.socketError)}"


def reason_of(error: BaseException) -> str:
    """Describe an error of the system, of OpenSSL or of a parser, in one line and without its errno."""
    if isinstance(error, CannotListenError) and not isinstance(error, ListenerFailed):
        return reason_of(error.socketError)
    if isinstance(error, OSError) and error.strerror:
        # Of two names, as of a symlink that cannot be made, the first is no file.
        has_file = error.filename is not None and error.filename2 is None
        text = f"{os.fsdecode(error.filename)}: {error.strerror}" if has_file else error.strerror
    elif isinstance(error, (SSL.Error, crypto.Error)) and error.args and isinstance(error.args[0], list):
        text = f"OpenSSL: {'; '.join(reason for *_, reason in error.args[0])}"
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__


def report_start_failures(options: Mapping[str, Any]) -> None:
    """
    From now on, end the process with one line on standard error where it cannot start, instead of a traceback.

    The line is logged too, unless the log goes to standard output. Errors of the
    system are reported so, and listeners that cannot be opened; any other
    exception is a bug, and keeps its traceback.

    Twisted's commands let an exception of a service's start end the process, so
    that the exit status is 1. They catch what is raised once the reactor runs.

    :param options: those of the command.
    """

    def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, (OSError, CannotListenError)):
            sys.__excepthook__(kind, error, traceback)
            return
        reason = reason_of(error)
        # Where logging has begun, `sys.stderr` is the log.
        if sys.stderr is not sys.__stderr__ and not logs_to_stdout(options):
            _log.critical("the server does not start: {reason}", reason=reason)
        if sys.__stderr__ is not None:
            sys.__stderr__.write(f"socks5ext: {reason}\n")

    sys.excepthook = report


def logs_to_stdout(options: Mapping[str, Any]) -> bool:
    """Return whether a command with these options writes its log to standard output."""
    if options.get("logger") or options.get("syslog"):
        return False
    # A daemon has none.
    return bool(options.get("nodaemon")) and options.get("logfile") in (None, "", "-")
