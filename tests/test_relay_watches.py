"""What looks at relays from time to time: one fault harms nobody else, and each clock has one watch of a kind."""

import pytest
from twisted.internet.task import Clock

from txsocksx_ext.net.watches import IdleWatch, PausedWatch, shared_watch


@pytest.mark.logs_errors
def test_a_stream_that_fails_to_end_does_not_keep_the_others_open():
    class Quiet:
        progress = (0, 0)
        aborted = 0

        def abort(self, reason):
            self.aborted += 1
            watch.discard(self)

    class Faulty(Quiet):
        def abort(self, reason):
            self.aborted += 1
            raise ZeroDivisionError

    clock = Clock()
    watch = IdleWatch(clock, 60)
    faulty, other = Faulty(), Quiet()
    watch.add(faulty)
    watch.add(other)
    clock.pump([15] * 5)
    assert (faulty.aborted, other.aborted) == (1, 1)
    assert clock.getDelayedCalls() == []


@pytest.mark.logs_errors
def test_a_paused_connection_that_fails_to_end_does_not_keep_the_others_open():
    class Gone:
        asked = 0

        def end_if_reset(self):
            self.asked += 1
            watch.discard(self)

    class Faulty(Gone):
        def end_if_reset(self):
            self.asked += 1
            raise ZeroDivisionError

    clock = Clock()
    watch = PausedWatch(clock)
    paused = [Faulty(), Gone(), Faulty(), Gone()]
    for each in paused:
        watch.add(each)
    clock.pump([15] * 3)
    assert [each.asked for each in paused] == [1] * 4
    assert clock.getDelayedCalls() == []


def test_a_clock_without_a_hash_has_one_watch():
    class Wrapping(Clock):
        __hash__ = None

    clock = Wrapping()
    watch = shared_watch(IdleWatch, clock, 60)
    assert shared_watch(IdleWatch, clock, 60) is watch
    assert shared_watch(IdleWatch, clock, 61) is not watch
    assert shared_watch(IdleWatch, Wrapping(), 60) is not watch
