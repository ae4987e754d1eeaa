"""
What a server has done, in numbers.

Connections are counted at their end, by kind, in one row of numbers: that costs one
look-up for each. All metrics are sums over the rows, made when somebody asks.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from operator import add
from typing import Any, NamedTuple

from twisted.logger import Logger

from ..context import Session

_log = Logger(namespace="txsocksx_ext.server")

CONNECT_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram of times to connect, in seconds."""


class Kind(NamedTuple):
    """
    What connections that are counted together have in common. Strings are empty where a connection did not get so far.

    :ivar code: the reply code, or ``None``.
    :ivar end: why the connection ended.
    """

    protocol: str
    method: str
    command: str
    route: str
    code: int | None
    end: str


@dataclass(slots=True)
class Totals:
    """
    What the connections of one kind have done.

    :ivar up: bytes from clients to targets.
    :ivar down: bytes from targets to clients.
    :ivar connect_seconds: the sum of the times that routes took to connect.
    :ivar connect_times: for each of `CONNECT_BOUNDS` the number of these times up to it
        and above the bound before, and at the end the number above all.
    """

    connections: int = 0
    up: int = 0
    down: int = 0
    connect_seconds: float = 0.0
    connect_times: list[int] = field(default_factory=lambda: [0] * (len(CONNECT_BOUNDS) + 1))

    def add(self, other: Totals) -> None:
        """Add what other connections have done."""
        self.connections += other.connections
        self.up += other.up
        self.down += other.down
        self.connect_seconds += other.connect_seconds
        self.connect_times = list(map(add, self.connect_times, other.connect_times))

    def as_message(self) -> list[Any]:
        """Return the values for JSON, in the order of the fields."""
        return [getattr(self, each.name) for each in fields(self)]


@dataclass
class Reloads:
    """
    How often the configuration was read again while the server ran.

    :ivar last_success: when that succeeded last, or when the server started, in seconds since 1970.
    """

    succeeded: int = 0
    failed: int = 0
    last_success: float = field(default_factory=time.time)

    def note(self, *, succeeded: bool) -> None:
        """Count an attempt."""
        if succeeded:
            self.succeeded += 1
            self.last_success = time.time()
        else:
            self.failed += 1


@dataclass(slots=True)
class Counters:
    """
    What one factory, or several, have done since they were made.

    :ivar now: open connections of clients.
    :ivar refused: connections that were closed at once because there were ``max_connections``.
    :ivar kinds: the connections that were accepted, the open ones too, by a tuple with the fields of `Kind`.
    """

    now: int = 0
    refused: int = 0
    kinds: dict[tuple[str, str, str, str, int | None, str], Totals] = field(default_factory=dict)

    @property
    def connections(self) -> int:
        """Connections that were accepted, the open ones too."""
        return sum(each.connections for each in self.kinds.values())

    @property
    def failed(self) -> int:
        """Those of them whose request was answered with a failure."""
        return sum(each.connections for kind, each in self.kinds.items() if Kind(*kind).code)

    @property
    def up(self) -> int:
        """Bytes from clients to targets."""
        return sum(each.up for each in self.kinds.values())

    @property
    def down(self) -> int:
        """Bytes from targets to clients."""
        return sum(each.down for each in self.kinds.values())

    def count(self, session: Session) -> None:
        """Count a connection, with what it has done so far."""
        method, request, seconds = session.method, session.request, session.connect_seconds
        # A plain tuple takes a third of the time of a `Kind`.
        kind = (
            session.protocol,
            "" if method is None else method._name_,
            "" if request is None else request.command._name_,
            session.route_name,
            session.reply_code,
            session.end,
        )
        totals = self.kinds.get(kind)
        if totals is None:
            totals = self.kinds[kind] = Totals()
        totals.connections += 1
        totals.up += session.up
        totals.down += session.down
        if seconds is not None:
            totals.connect_seconds += seconds
            totals.connect_times[bisect_left(CONNECT_BOUNDS, seconds)] += 1

    @classmethod
    def sum_of(cls, several: Iterable[Counters]) -> Counters:
        """Add up what several factories have done."""
        total = cls()
        for each in several:
            total.now += each.now
            total.refused += each.refused
            for kind, totals in each.kinds.items():
                total.kinds.setdefault(kind, Totals()).add(totals)
        return total

    def ended(self) -> Counters:
        """Return the counters of a process that has ended, and its open connections with it."""
        kinds = {(*kind[:5], kind[5] or "its worker ended"): totals for kind, totals in self.kinds.items()}
        return Counters(0, self.refused, kinds)

    def as_message(self) -> list[Any]:
        """Return a list for JSON, from which `from_message` makes equal counters."""
        return [self.now, self.refused, [[kind, totals.as_message()] for kind, totals in self.kinds.items()]]

    @classmethod
    def from_message(cls, message: list[Any]) -> Counters:
        """Return the counters of a message."""
        now, refused, kinds = message
        return cls(now, refused, {tuple(kind): Totals(*totals) for kind, totals in kinds})

    def write_to_log(self) -> None:
        """Write one line, for the end of a server."""
        _log.info(
            "served {connections} connections, of which {failed} failed; {up} bytes up, {down} bytes down",
            connections=self.connections,
            failed=self.failed,
            up=self.up,
            down=self.down,
        )
