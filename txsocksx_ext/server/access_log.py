"""
What a server writes in its log: one line for a connection, at its end.
"""

from __future__ import annotations

import time
import traceback

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from ..context import Session
from ..net.twisted_transports import peer_name
from ..protocol.codes import AddressType, Method
from ..protocol.messages import Address

_LOGIN = Method.USERNAME_PASSWORD
_NAMESPACE, _INFO = "txsocksx_ext.server", LogLevel.info

_log = Logger(namespace=_NAMESPACE)

PLAIN_LINES = Logger(namespace=_NAMESPACE)
"""
Whose events, of the level ``info``, have a format that is the line itself: without fields, and of one line.
"""

_CODES = [f"{code:02X}" for code in range(0x100)]

WRITTEN_TOGETHER = 0.02
"""Seconds in which lines are collected. To write many at once takes a third of the time, as caches are warm then."""


class SessionLog:
    """
    Writes structured events, whose fields are strings and numbers alone.

    :param with_targets: whether targets and user names may be written. Values
        of pairs and passwords never are.
    :param clock: says when lines that were collected are written; ``None``
        writes each at once.
    """

    def __init__(self, with_targets: bool, clock: IReactorTime | None = None) -> None:
        self._clock = clock
        self._with_targets = with_targets
        self._ended: list[tuple[Session, float]] = []
        self._timer: IDelayedCall | None = None

    def ended(self, session: Session) -> None:
        """Log the end of a connection soon, with the present time."""
        self._ended.append((session, time.time()))
        if self._clock is None:
            self.write()
        elif self._timer is None:
            self._timer = self._clock.callLater(WRITTEN_TOGETHER, self.write)

    def write(self) -> None:
        """Write the lines that were collected."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        ended, self._ended = self._ended, []
        for session, when in ended:
            try:
                self._write_line(session, when)
            except Exception:  # of one session: the others keep their lines
                self.unexpected(Failure(), session)

    def _write_line(self, session: Session, when: float) -> None:
        request = session.request
        target = user = ""
        if self._with_targets:
            target = "" if request is None else f" {_shown_address(request.destination)}"
            user = _shown_user(session)
        peer = peer_name(session.peer)
        # What `name` gives, which enumerations look up at each time.
        command = "-" if request is None else request.command._name_
        method = "-" if session.method is None else session.method._name_
        route, relay = session.route_name or "-", session.relay_name or "-"
        up, down, seconds, end = session.up, session.down, session.seconds, session.end
        code = "-" if session.reply_code is None else _CODES[session.reply_code]
        line = (
            f"{peer} {command}{target}{user} method={method} route={route} relay={relay} code={code}"
            f" up={up} down={down} seconds={seconds:.3f} end={end}"
        )
        logger = PLAIN_LINES
        if "{" in line or "}" in line or "\n" in line:
            logger, line = _log, line.replace("{", "{{").replace("}", "}}")
        # What `Logger.info` does; but that looks through all levels for each event, and takes as long as the rest.
        logger.observer(
            {
                "log_logger": logger,
                "log_level": _INFO,
                "log_namespace": _NAMESPACE,
                "log_source": None,
                "log_time": when,
                # With the fields in it already: observers take ten times as long to put them there.
                "log_format": line,
                "peer": peer,
                "command": command,
                "target": target,
                "user": user,
                "method": method,
                "route": route,
                "relay": relay,
                "code": code,
                "up": up,
                "down": down,
                "seconds": seconds,
                "end": end,
            }
        )

    def login_failed(self, session: Session, reason: str) -> None:
        """
        Log a failed login. Programs such as fail2ban parse this line: it is documented, and stays as it is.

        :param reason: one of `txsocksx_ext.server.failed_logins`.
        """
        _log.info(
            "auth_failed peer={peer} method={method} reason={reason}{user}",
            peer=peer_name(session.peer),
            method="-" if session.method is None else session.method.name,
            reason=reason,
            user=_shown_user(session) if self._with_targets else "",
        )

    def refused(self, peer: IAddress | None) -> None:
        """Log a connection that was closed when it was accepted."""
        _log.warn("{peer} closed: there are max-connections already", peer=peer_name(peer))

    def draining(self, count: int, seconds: float) -> None:
        """Log that the server stops when the remaining connections have ended."""
        _log.info("streams that are left: {count}; they have {seconds} s to end", count=count, seconds=f"{seconds:g}")

    def unexpected(self, failure: Failure, session: Session) -> None:
        """
        Log a failure of a decision, or of a log line, that has no code: a bug in a program.

        The exception's own words may hold a target, so only its type is written
        unless targets may be. The line says how to see the words.
        """
        name = type(failure.value).__name__
        _log.error(
            "{peer} failed unexpectedly: {error}{hint}\n{traceback}",
            peer=peer_name(session.peer),
            error=f"{name}: {failure.value}" if self._with_targets else name,
            hint="" if self._with_targets else " (log_targets=True, or --log-targets, also logs its message)",
            traceback="".join(traceback.format_tb(failure.getTracebackObject())),
        )


def _shown_address(address: Address) -> str:
    return f"[{address.host}]:{address.port}" if address.type == AddressType.IPV6 else f"{address.host}:{address.port}"


def _shown_user(session: Session) -> str:
    """
    Return the user name as lines show it, with a space before it; empty if there is no user name.

    Tor writes the arguments of a pluggable transport in RFC 1929's user name. So a name that no
    portal has confirmed is shown only if it cannot be that.
    """
    user = session.user
    if user is None or (session.avatar is None and session.method == _LOGIN and b"=" in user):
        return ""
    return f" user={user.decode('utf-8', 'backslashreplace')!r}"
