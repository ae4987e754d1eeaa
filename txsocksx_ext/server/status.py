"""
What a server tells of itself, as JSON from one process, and as a whole.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any, Protocol

from ..context import Session, peer_name
from ..route.base import IRoute, Part
from .factory import SOCKS5ExtFactory
from .stats import Counters, Reloads


def parts_of(routes: Iterable[IRoute]) -> list[Part]:
    """Return the states of all that the routes need."""
    return [part for route in routes for part in getattr(route, "parts", tuple)()]


def process_figures() -> dict[str, float]:
    """
    Return what this process uses.

    :returns: seconds of ``cpu``, with those of children that have ended, bytes of ``memory`` and open
        ``descriptors``; these two are 0 where the system does not tell.
    """
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    figures = {"cpu": sum(usage.ru_utime + usage.ru_stime for usage in usages), "memory": 0, "descriptors": 0}
    with suppress(OSError):
        figures["descriptors"] = len(os.listdir("/proc/self/fd"))
        with open("/proc/self/statm") as statm:
            figures["memory"] = int(statm.read().split()[1]) * resource.getpagesize()
    return figures


@dataclass
class Status:
    """
    The state of a server at one moment.

    :ivar parts: what routes need; of several processes the worst state of each.
    :ivar sessions: open connections: see `session_as_json`.
    :ivar process: see `process_figures`; the sum for several.
    :ivar unheard: how many workers did not answer in time.
    """

    counters: Counters
    parts: list[Part] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    process: dict[str, float] = field(default_factory=process_figures)
    unheard: int = 0

    def add(self, message: dict[str, Any]) -> None:
        """Add the answer of a worker, whose counters are known already."""
        self.sessions += message["sessions"]
        for name, figure in message["process"].items():
            self.process[name] += figure
        known = {part[:2]: part for part in self.parts}
        for part in (Part(*each) for each in message["parts"]):
            before = known.get(part[:2], part)
            known[part[:2]] = min(before, part, key=lambda each: (each.is_up, each.bootstrap or 0.0))
        self.parts = list(known.values())

    def as_message(self) -> dict[str, Any]:
        """Return what `add` takes."""
        return {"sessions": self.sessions, "process": self.process, "parts": self.parts}


class StatusSource(Protocol):
    """
    A server that can tell its status.

    :ivar is_stopping: whether it was told to stop.
    :ivar reloads: how often its configuration was read again.
    :ivar shows_targets: whether targets and user names may be shown.
    """

    is_stopping: bool
    reloads: Reloads

    @property
    def shows_targets(self) -> bool: ...

    async def status(self, most: int | None) -> Status:
        """
        Return the state at this moment.

        :param most: how many sessions to tell of, those with the most bytes; ``None`` for all.
        """

    async def end_sessions(self, key: str, value: str) -> int:
        """
        End the open connections whose `key`, ``id`` or ``user``, is `value`.

        :returns: their number.
        """


def status_of(factory: SOCKS5ExtFactory, most: int | None) -> Status:
    """Return the state of one process. See `StatusSource`."""
    now = factory.clock.seconds()
    chosen: Iterable[Session] = (each.session for each in factory.connections)
    if most is not None:
        chosen = nlargest(most, chosen, key=lambda session: session.up + session.down) if most else ()
    sessions = [session_as_json(each, factory, now) for each in chosen]
    return Status(factory.counters, parts_of(factory.policy.routes), sessions)


def session_as_json(session: Session, factory: SOCKS5ExtFactory, now: float) -> dict[str, Any]:
    """Return what may be shown of an open connection."""
    shown = {
        "id": id_of(session),
        "peer": peer_name(session.peer),
        "protocol": session.protocol,
        "method": "" if session.method is None else session.method.name,
        "route": session.route_name,
        "up": session.up,
        "down": session.down,
        "seconds": round(now - session.began, 3),
    }
    if factory.log.with_targets:
        target, user = factory.log.names_of(session)
        shown |= {"user": user, "target": target}
    return shown


def id_of(session: Session) -> str:
    """Return what tells a session from all others, those of other processes and of an earlier server too."""
    return f"{os.getpid()}-{session.number}"


def end_sessions(factory: SOCKS5ExtFactory, key: str, value: str) -> int:
    """See `StatusSource`."""
    if key == "id":
        return factory.end_sessions(lambda session: id_of(session) == value)
    user = value.encode("utf-8", "surrogateescape")
    return factory.end_sessions(lambda session: session.user == user)
