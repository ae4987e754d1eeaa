"""
What a server has done, in numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from twisted.logger import Logger

_log = Logger(namespace="txsocksx_ext.server")


@dataclass(slots=True)
class Counters:
    """
    What one factory, or several, have done since they were made.

    :ivar now: open connections of clients.
    :ivar connections: connections that were accepted, the open ones too.
    :ivar failed: those of them whose request was answered with a failure.
    :ivar up: bytes from clients to targets.
    :ivar down: bytes from targets to clients.
    """

    now: int = 0
    connections: int = 0
    failed: int = 0
    up: int = 0
    down: int = 0

    @classmethod
    def sum_of(cls, several: Iterable[Counters]) -> Counters:
        """Add up what several factories have done."""
        total = cls()
        for each in several:
            for name in cls.__slots__:
                setattr(total, name, getattr(total, name) + getattr(each, name))
        return total

    def write_to_log(self) -> None:
        """Write one line, for the end of a server."""
        _log.info(
            "served {connections} connections, of which {failed} failed; {up} bytes up, {down} bytes down",
            connections=self.connections,
            failed=self.failed,
            up=self.up,
            down=self.down,
        )
