"""
What a server writes in its log: one line for a connection, at its end.
"""

from __future__ import annotations

import traceback

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..transports import peer_name
from .session import Session

_log = Logger(namespace="txsocksx_ext.server")


class SessionLog:
    """
    Writes structured events, whose fields are strings and numbers alone.

    :param with_targets: whether targets and user names may be written. Values
        of pairs and passwords never are.
    """

    def __init__(self, with_targets: bool) -> None:
        self._with_targets = with_targets

    def ended(self, session: Session, seconds: float) -> None:
        """A connection is over."""
        request = session.request
        target = user = ""
        if self._with_targets:
            target = "" if request is None else f" {request.destination.host}:{request.destination.port}"
            user = "" if session.user is None else f" user={session.user.decode('utf-8', 'backslashreplace')!r}"
        _log.info(
            "{peer} {command}{target}{user} method={method} route={route} relay={relay} code={code}"
            " up={up} down={down} seconds={seconds:.3f} end={end}",
            peer=peer_name(session.peer),
            command="-" if request is None else request.command.name,
            target=target,
            user=user,
            method="-" if session.method is None else session.method.name,
            route=session.route or "-",
            relay=session.relay or "-",
            code="-" if session.code is None else f"{session.code:02X}",
            up=session.up,
            down=session.down,
            seconds=seconds,
            end=session.end,
        )

    def refused(self, peer: IAddress | None) -> None:
        """A connection was closed as it came."""
        _log.warn("{peer} closed: there are max-connections already", peer=peer_name(peer))

    def unexpected(self, failure: Failure, session: Session) -> None:
        """
        A decision failed in a way that has no code: a fault in a program.

        The exception's own words may hold a target, so only its type is written
        unless targets may be.
        """
        name = type(failure.value).__name__
        _log.error(
            "{peer} failed unexpectedly: {error}\n{traceback}",
            peer=peer_name(session.peer),
            error=f"{name}: {failure.value}" if self._with_targets else name,
            traceback="".join(traceback.format_tb(failure.getTracebackObject())),
        )
