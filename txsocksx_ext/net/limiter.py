"""
Jobs that cannot be stopped once they began: a limited number at once, shared fairly.
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
    Begins the newest job of each share in turn, so that a share with many jobs delays its own only.

    The newest first: if a queue is longer than its callers' time, the oldest have
    almost used theirs up.

    :param limit: jobs of all shares that run at once.
    :param share_limit: jobs of one share that run at once.
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

        A caller that is cancelled leaves the queue, or stops waiting; a job that
        has begun counts until its end.

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

        # A job that cannot even begin counts no longer either.
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
