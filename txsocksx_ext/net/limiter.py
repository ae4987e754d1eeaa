"""
Work that cannot be stopped once it has begun, a bounded amount of it at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.python.failure import Failure

_Outcome = TypeVar("_Outcome")


class Limiter(Protocol):
    """Gives a bounded number of slots: a `FairLimiter`'s share, or a `DeferredSemaphore`."""

    def acquire(self) -> Deferred[Any]:
        """Return a Deferred that fires when there is a slot. Cancelling it gives up the place in the queue."""

    def release(self) -> Any:
        """Give a slot back."""


class FairLimiter:
    """
    A bounded number of slots that peers share: a free slot goes to each waiting peer in turn.

    So a peer that asks for a thousand slots delays another peer by one.

    :param at_once: how many slots there are.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        # By peer, in the order of their turns. Only peers that wait are here.
        self._waiting: dict[Hashable, list[Deferred[None]]] = {}

    def share_of(self, peer: Hashable) -> Limiter:
        """Return what `in_turn` needs to work for one peer."""
        return _Share(self, peer)

    def acquire(self, peer: Hashable) -> Deferred[None]:
        """Return a Deferred that fires when `peer` has a slot."""
        if self._free:
            self._free -= 1
            return succeed(None)
        queue = self._waiting.setdefault(peer, [])
        waiting: Deferred[None] = Deferred(lambda cancelled: self._give_up(peer, cancelled))
        queue.append(waiting)
        return waiting

    def release(self) -> None:
        """Give a slot to the peer whose turn it is, or keep it."""
        if not self._waiting:
            self._free += 1
            return
        peer = next(iter(self._waiting))
        queue = self._waiting.pop(peer)
        # The newest first: of a queue that is longer than its clients' time, the oldest have almost used theirs up.
        next_one = queue.pop()
        if queue:
            self._waiting[peer] = queue
        next_one.callback(None)

    def _give_up(self, peer: Hashable, cancelled: Deferred[None]) -> None:
        queue = self._waiting[peer]
        queue.remove(cancelled)
        if not queue:
            del self._waiting[peer]


class _Share:
    def __init__(self, limiter: FairLimiter, peer: Hashable) -> None:
        self._limiter = limiter
        self._peer = peer

    def acquire(self) -> Deferred[None]:
        return self._limiter.acquire(self._peer)

    def release(self) -> None:
        self._limiter.release()


async def in_turn(turns: Limiter, begin: Callable[[], Deferred[_Outcome]]) -> _Outcome:
    """
    Begin something when it is its turn, and wait for its end.

    Who is cancelled gives up the place in the queue, or waits no more; but what
    has begun keeps its turn to its end.

    :param begin: begins it; its Deferred is never cancelled.
    :returns: what `begin` leads to, and raises what that raises.
    """
    await turns.acquire()
    result: Deferred[_Outcome] = Deferred()

    def ended(outcome: _Outcome | Failure) -> None:
        turns.release()
        if not result.called:
            result.callback(outcome)

    # What does not even begin keeps no turn either.
    maybeDeferred(begin).addBoth(ended)
    return await result
