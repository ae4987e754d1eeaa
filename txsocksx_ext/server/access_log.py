"""
The access log: structured events with a constant format and named fields, which observers write as text or JSON.
"""

from __future__ import annotations

import time
import traceback
from itertools import product

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import LogEvent, Logger, LogLevel
from twisted.python.failure import Failure

from ..addresses import host_and_port
from ..context import Session, peer_name
from ..protocol.codes import Method

_LOGIN = Method.USERNAME_PASSWORD
NAMESPACE, _INFO = "txsocksx_ext.server", LogLevel.info

_log = Logger(namespace=NAMESPACE)

_CODES = [f"{code:02X}" for code in range(0x100)]

_FORMATS = {
    (has_target, has_user): "{peer} {command}"
    + has_target * " {target}"
    + has_user * " user={user!r}"
    + " protocol={protocol} method={method} route={route} relay={relay} code={code}"
    + " up={up} down={down} seconds={seconds:.3f} end={end}"
    for has_target, has_user in product((False, True), repeat=2)
}

CONNECTION_FORMATS = frozenset(_FORMATS.values())
"""The formats of the event for a connection's end. `connection_line` formats such an event."""

FLUSH_DELAY = 0.02
"""Seconds for which events are collected. Logging many at once takes a third of the time, because caches are warm."""


def connection_line(event: LogEvent) -> str:
    """Return what Twisted's ``formatEvent`` returns for the event of a connection's end, in a tenth of its time."""
    target = event["target"] and f" {event['target']}"
    user = event["user"] and f" user={event['user']!r}"
    return (
        f"{event['peer']} {event['command']}{target}{user} protocol={event['protocol']} method={event['method']}"
        f" route={event['route']} relay={event['relay']} code={event['code']} up={event['up']} down={event['down']}"
        f" seconds={event['seconds']:.3f} end={event['end']}"
    )


class AccessLog:
    """
    Logs what happens to connections. All fields of its events are strings and numbers.

    :param with_targets: whether targets and user names may be logged. Passwords
        and values of pairs never are.
    :ivar with_targets: the parameter.
    :param clock: delays events by up to `FLUSH_DELAY`; ``None`` logs each at once.
    """

    def __init__(self, with_targets: bool, clock: IReactorTime | None = None) -> None:
        self._clock = clock
        self.with_targets = with_targets
        self._ended: list[tuple[Session, float]] = []
        self._timer: IDelayedCall | None = None

    def ended(self, session: Session, is_last: bool = False) -> None:
        """
        Log the end of a connection soon, with the present time.

        :param is_last: whether no other connection is open; then log it, and those collected so far, at once.
        """
        self._ended.append((session, time.time()))
        if is_last or self._clock is None:
            self.flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(FLUSH_DELAY, self.flush)

    def flush(self) -> None:
        """Log the connections that were collected."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        ended, self._ended = self._ended, []
        for session, when in ended:
            try:
                self._log_end(session, when)
            except Exception:  # one session's values cannot be formatted: log the others
                self.unexpected(Failure(), session)

    def _log_end(self, session: Session, when: float) -> None:
        request, method, code = session.request, session.method, session.reply_code
        target, user = self.names_of(session) if self.with_targets else ("", "")
        # Not `Logger.info`: it searches all levels for each event, which takes as long as the rest of this method.
        # Not `Enum.name` but `_name_`: the property looks the name up each time.
        _log.observer(
            {
                "log_logger": _log,
                "log_level": _INFO,
                "log_namespace": NAMESPACE,
                "log_source": None,
                "log_time": when,
                "log_format": _FORMATS[target != "", user != ""],
                "peer": peer_name(session.peer),
                "command": "-" if request is None else request.command._name_,
                "target": target,
                "user": user,
                "protocol": session.protocol or "-",
                "method": "-" if method is None else method._name_,
                "route": session.route_name or "-",
                "relay": session.relay_name or "-",
                "code": "-" if code is None else _CODES[code],
                "up": session.up,
                "down": session.down,
                "seconds": session.seconds,
                "end": session.end,
            }
        )

    def names_of(self, session: Session) -> tuple[str, str]:
        """Return the target and the user name as they are shown where they may be."""
        destination = None if session.request is None else session.request.destination
        return "" if destination is None else host_and_port(destination.host, destination.port), _user_of(session)

    def login_failed(self, session: Session, reason: str) -> None:
        """
        Log a failed login. The format is public: programs such as fail2ban parse this line.

        :param reason: one of `txsocksx_ext.server.failed_logins`.
        """
        user = _user_of(session) if self.with_targets else ""
        _log.info(
            "auth_failed peer={peer} method={method} reason={reason}" + (user and " user={user!r}"),
            peer=peer_name(session.peer),
            method="-" if session.method is None else session.method.name,
            reason=reason,
            user=user,
        )

    def refused(self, peer: IAddress | None) -> None:
        """Log a connection that was closed when it was accepted."""
        _log.warn("{peer} closed: there are max-connections already", peer=peer_name(peer))

    def draining(self, count: int, seconds: float) -> None:
        """Log that the server stops when the remaining connections have ended."""
        _log.info("streams that are left: {count}; they have {seconds:g} s to end", count=count, seconds=seconds)

    def unexpected(self, failure: Failure, session: Session) -> None:
        """
        Log a bug: a failure that has no reply code.

        The exception's message may hold a target, so only its type is logged
        unless targets may be. The line says how to see the message.
        """
        name = type(failure.value).__name__
        _log.error(
            "{peer} failed unexpectedly: {error}{hint}\n{traceback}",
            peer=peer_name(session.peer),
            error=f"{name}: {failure.value}" if self.with_targets else name,
            hint="" if self.with_targets else " (log_targets=True, or --log-targets, also logs its message)",
            traceback="".join(traceback.format_tb(failure.getTracebackObject())),
        )


def _user_of(session: Session) -> str:
    """
    Return the user name that may be logged, or an empty string.

    Tor puts the arguments of a pluggable transport into RFC 1929's user name, so a
    name that no portal has verified is not logged if it can be such arguments.
    """
    user = session.user
    if user is None or (session.avatar is None and session.method == _LOGIN and b"=" in user):
        return ""
    return user.decode("utf-8", "backslashreplace")
