"""
Work that cannot be stopped once it has begun, a bounded amount of it at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore, maybeDeferred
from twisted.python.failure import Failure

_Outcome = TypeVar("_Outcome")


async def in_turn(turns: DeferredSemaphore, begin: Callable[[], Deferred[_Outcome]]) -> _Outcome:
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
