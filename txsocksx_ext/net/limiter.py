"""
A fair limit for concurrent jobs that cannot be cancelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

_Outcome = TypeVar("_Outcome")


class FairLimiter:
    """
    Begins the newest job of each share in turn, so that a share with many jobs delays only its own.

    The newest comes first, because the oldest callers of a long queue are about to
    time out.

    :param limit: concurrent jobs of all shares.
    :param share_limit: concurrent jobs of one share.
    """

    def __init__(self, limit: int, share_limit: int) -> None:
        self._limit = limit
        self._share_limit = share_limit
        self._running: Counter[Hashable] = Counter()
        self._total = 0
        self._queues: dict[Hashable, list[Deferred[None]]] = {}

    async def run(self, share: Hashable, begin: Callable[[], Deferred[_Outcome]]) -> _Outcome:
        """
        Begin a job as soon as the limits admit it, and wait for its end.

        A cancelled caller leaves the queue, or stops waiting; a job that has begun
        counts until it ends.

        :param begin: begins the job; the Deferred it returns is never cancelled.
        :returns: the job's result; raises what the job raises.
        """
        if share in self._queues or self._total >= self._limit or self._running[share] >= self._share_limit:
            await self._queued(share)
        self._total += 1
        self._running[share] += 1
        result: Deferred[_Outcome] = Deferred()

        def ended(outcome: _Outcome | Failure) -> None:
            self._total -= 1
            self._running[share] -= 1
            if not self._running[share]:
                del self._running[share]
            self._begin_next()
            if not result.called:
                result.callback(outcome)

        # With maybeDeferred(), a job that fails to begin ends too.
        maybeDeferred(begin).addBoth(ended)
        return await result

    def _queued(self, share: Hashable) -> Deferred[None]:
        queue = self._queues.setdefault(share, [])

        def leave(turn: Deferred[None]) -> None:
            queue.remove(turn)
            if not queue:
                del self._queues[share]

        turn: Deferred[None] = Deferred(leave)
        queue.append(turn)
        return turn

    def _begin_next(self) -> None:
        while self._total < self._limit:
            for share in self._queues:
                if self._running[share] < self._share_limit:
                    break
            else:
                return
            queue = self._queues.pop(share)
            turn = queue.pop()
            if queue:  # behind the other shares
                self._queues[share] = queue
            turn.callback(None)
