"""
Events and results that several callers await, each by a Deferred of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

Outcome = TypeVar("Outcome")


class Waiters(Generic[Outcome]):
    """
    The callers that wait for an event.

    Every caller may cancel its Deferred, also while those of others fire.

    :param left: called after a caller has cancelled its Deferred.
    """

    def __init__(self, left: Callable[[], object] | None = None) -> None:
        self._waiting: list[Deferred[Outcome]] = []
        self._left = left

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def wait(self) -> Deferred[Outcome]:
        """Return a Deferred that fires with the outcome of the next event."""
        waiting: Deferred[Outcome] = Deferred(self._leave)
        self._waiting.append(waiting)
        return waiting

    def fire(self, outcome: Outcome | Failure) -> None:
        """Fire the Deferreds of all callers that wait now. A caller that comes meanwhile waits for the next event."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(outcome)

    def _leave(self, waiting: Deferred[Outcome]) -> None:
        # While Deferreds fire, they are not in the list any more.
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        if self._left is not None:
            self._left()


class SharedResult(Waiters[Outcome]):
    """
    The result of one Deferred, for several callers.

    :param source: the Deferred. Its failure is handled here, and told to the callers alone.
    :param left: called after a caller has cancelled its Deferred.
    """

    def __init__(self, source: Deferred[Outcome], left: Callable[[], object] | None = None) -> None:
        super().__init__(left)
        self._result: list[Outcome | Failure] = []
        source.addBoth(self._fired)

    def wait(self) -> Deferred[Outcome]:
        """Return a Deferred that fires with the result, or fails as the source did."""
        return fired(self._result[0]) if self._result else super().wait()

    def _fired(self, result: Outcome | Failure) -> Outcome | None:
        self._result.append(result)
        self.fire(result)
        return None if isinstance(result, Failure) else result


def fired(outcome: Outcome | Failure) -> Deferred[Outcome]:
    """Return a Deferred that has fired with `outcome`, or failed with it."""
    return fail(outcome) if isinstance(outcome, Failure) else succeed(outcome)
