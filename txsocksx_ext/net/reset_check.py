"""
Connections that nobody reads from for a time.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from .watch import Watch

CHECK_EVERY = 15.0
"""Seconds. A reactor does not watch a paused transport, so it does not see that the peer has reset it, or vanished."""


class Pausable(Protocol):
    """What can be paused."""

    def end_if_reset(self) -> None:
        """Close it if its connection is gone."""


class PausedWatch(Watch[Pausable, None]):
    """Ends those that are paused and whose connections are gone."""

    first_state = None

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__(clock, CHECK_EVERY)

    def look_at(self, watched: Pausable, state: None) -> None:
        """See `Watch`."""
        watched.end_if_reset()
