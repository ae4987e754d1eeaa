"""One event that several callers await."""

import pytest
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from txsocksx_ext.net.waiters import Waiters, fired


def test_every_caller_gets_the_outcome_of_the_next_event_alone():
    waiters, seen = Waiters(), []
    waiters.wait().addCallback(lambda outcome: seen.append(("first", outcome)))
    waiters.wait().addCallback(lambda outcome: seen.append(("second", outcome)))
    assert waiters
    waiters.fire(1)
    assert not waiters
    waiters.fire(2)
    assert seen == [("first", 1), ("second", 1)]


def test_a_caller_that_begins_to_wait_while_others_fire_waits_for_the_next_event():
    waiters, seen = Waiters(), []
    waiters.wait().addCallback(lambda outcome: waiters.wait().addCallback(seen.append))
    waiters.fire(1)
    assert seen == []
    waiters.fire(2)
    assert seen == [2]


@pytest.mark.parametrize("cancelled", [0, 1, 2])
def test_cancelling_one_in_another_s_callback_leaves_the_others(cancelled):
    waiters, seen = Waiters(), []
    waiting = [waiters.wait() for _ in range(3)]
    waiting[0].addCallback(lambda _: waiting[cancelled].cancel())
    for number, each in enumerate(waiting):
        each.addCallbacks(lambda _, number=number: seen.append(number), lambda failure: failure.trap(CancelledError))
    waiters.fire(None)
    assert seen == [number for number in range(3) if number != cancelled or not number]


def test_a_caller_that_cancels_is_reported_and_gets_nothing():
    left = []
    waiters = Waiters(lambda: left.append(bool(waiters)))
    first, second = waiters.wait(), waiters.wait()
    for each in (first, second):
        each.addErrback(lambda failure: failure.trap(CancelledError))
    first.cancel()
    second.cancel()
    assert left == [True, False]
    waiters.fire(1)


def test_a_failure_reaches_every_caller():
    waiters = Waiters()
    waiting = [waiters.wait(), waiters.wait()]
    waiters.fire(Failure(OSError("no")))
    assert [each.addErrback(lambda failure: failure.type).result for each in waiting] == [OSError, OSError]


def test_a_deferred_that_has_fired():
    assert fired(7).result == 7
    assert fired(Failure(OSError("no"))).addErrback(lambda failure: failure.type).result is OSError
