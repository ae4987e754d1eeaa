"""
Streams on which nothing moves.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from .relay_interface import IRelay
from .watch import Watch

CHECKS = 4
"""An idle stream is closed after its time-out, and at most a quarter of it later."""


class IdleWatch(Watch[IRelay, tuple[tuple[int, int] | None, int]]):
    """
    Aborts relays through which no byte went for a time.

    It counts the checks since a relay's counts changed, so that no clock is
    read for each segment: its state is how far a relay was, and how many checks
    found it there.

    :param timeout: in seconds.
    """

    first_state = (None, 0)

    def __init__(self, clock: IReactorTime, timeout: float) -> None:
        super().__init__(clock, timeout / CHECKS)

    def look_at(self, watched: IRelay, state: tuple[tuple[int, int] | None, int]) -> tuple[tuple[int, int] | None, int]:
        """See `Watch`."""
        progress_before, quiet_checks = state
        progress = watched.progress
        quiet_checks = quiet_checks + 1 if progress == progress_before else 0
        if quiet_checks >= CHECKS:
            watched.abort("idle")
        return progress, quiet_checks
