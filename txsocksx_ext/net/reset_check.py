"""
Resets: of connections that nobody reads from for a time, and of those that have yet to take what came before.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from .watch import Watch

PAUSED_CHECK = 15.0
"""Seconds. A reactor does not watch a paused transport, so it does not see that the peer has reset it, or vanished."""

RESET_CHECK = 0.1
"""Seconds: the system does not tell when a peer has acknowledged all."""

LINGER = 5.0
"""Seconds without progress after which a peer that does not take the rest is reset without it."""


class Pausable(Protocol):
    """What can be paused."""

    def end_if_reset(self) -> None:
        """Close it if its connection is gone."""


class PausedWatch(Watch[Pausable, None]):
    """Ends those that are paused and whose connections are gone."""

    first_state = None

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__(clock, PAUSED_CHECK)

    def look_at(self, watched: Pausable, state: None) -> None:
        """See `Watch`."""
        watched.end_if_reset()


class Resettable(Protocol):
    """A connection that is reset after what was sent to it."""

    def undelivered(self) -> tuple[int, int] | None:
        """
        Return how many bytes came for it, and how many of them its peer has not acknowledged.

        :returns: ``None`` when there are none, and no more can come.
        """

    def reset(self) -> None:
        """Reset it. It is not watched any more."""


class ResetWatch(Watch[Resettable, tuple[tuple[int, int] | None, int]]):
    """
    Resets connections when their peers have what was sent to them.

    A reset makes Linux throw away what a peer has not acknowledged, and with it
    the end of a stream whose other side was reset.
    """

    first_state = (None, 0)

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__(clock, RESET_CHECK)

    def look_at(
        self, watched: Resettable, state: tuple[tuple[int, int] | None, int]
    ) -> tuple[tuple[int, int] | None, int]:
        """See `Watch`."""
        before, quiet_checks = state
        undelivered = watched.undelivered()
        quiet_checks = quiet_checks + 1 if undelivered == before else 0
        if undelivered is None or quiet_checks * RESET_CHECK >= LINGER:
            self.discard(watched)
            watched.reset()
        return undelivered, quiet_checks
