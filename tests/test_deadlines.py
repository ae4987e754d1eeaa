"""Deadlines: many of them, and one timer for all that are equally far away."""

import pytest
from twisted.internet.task import Clock

from txsocksx_ext.net.timers import Deadlines


class Watched:
    """Deadlines on a clock of the test's, and who missed theirs, with the time."""

    def __init__(self):
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock)
        self.missed = []

    def start(self, who, seconds):
        self.deadlines.start(who, seconds, lambda: self.missed.append((who, self.clock.seconds())))

    def pass_time(self, until):
        """Let timers run out exactly when they do."""
        while (timers := self.clock.getDelayedCalls()) and timers[0].getTime() <= until:
            self.clock.advance(timers[0].getTime() - self.clock.seconds())
        self.clock.advance(until - self.clock.seconds())


def test_each_passes_at_its_time():
    watched = Watched()
    for who, begin, seconds in (("a", 0, 10), ("b", 0.5, 2), ("c", 1, 10), ("d", 1.1, 2), ("e", 9.9, 10)):
        watched.pass_time(begin)
        watched.start(who, seconds)
    watched.pass_time(30)
    assert [who for who, _ in watched.missed] == ["b", "d", "a", "c", "e"]
    assert [when for _, when in watched.missed] == pytest.approx([2.5, 3.1, 10, 11, 19.9])
    assert watched.clock.getDelayedCalls() == []


def test_one_that_is_stopped_does_not_pass_and_the_others_do():
    watched = Watched()
    for who in "abc":
        watched.start(who, 10)
        watched.pass_time(watched.clock.seconds() + 1)
    watched.deadlines.stop("a")
    watched.deadlines.stop("c")
    watched.deadlines.stop("c")
    watched.pass_time(60)
    assert watched.missed == [("b", 11)]


def test_a_new_one_takes_the_place_of_the_old_one():
    watched = Watched()
    watched.start("a", 10)
    watched.pass_time(9)
    watched.start("a", 45)
    watched.pass_time(53)
    assert watched.missed == []
    watched.pass_time(55)
    assert watched.missed == [("a", 54)]


def test_timers_are_few_and_none_is_left_behind():
    watched = Watched()
    for number in range(1000):
        watched.start(number, 10)
    assert len(watched.clock.getDelayedCalls()) == 1
    for number in range(1000):
        watched.deadlines.stop(number)
    watched.deadlines.rest()
    assert watched.clock.getDelayedCalls() == []
    watched.start("a", 10)
    watched.pass_time(10)
    assert watched.missed == [("a", 10)]


def test_a_fault_does_not_cost_the_others_their_deadline():
    watched = Watched()
    watched.deadlines.start("faulty", 10, lambda: 1 / 0)
    watched.start("a", 10)
    with pytest.raises(ZeroDivisionError):
        watched.clock.advance(10)
    watched.clock.advance(0)
    assert watched.missed == [("a", 10)]


def test_one_that_is_set_when_another_passes_delays_nobody():
    watched = Watched()
    watched.deadlines.start("first", 10, lambda: watched.start("again", 10))
    watched.pass_time(1)
    watched.start("second", 10)
    watched.pass_time(30)
    assert watched.missed == [("second", 11), ("again", 20)]
    assert watched.clock.getDelayedCalls() == []


def test_one_that_is_set_when_another_passes_has_its_whole_time_though_that_took_some():
    """As for the last words of who is told that a time is over that is as long."""
    watched = Watched()

    def expired():
        watched.clock.rightNow += 0.001
        watched.start("last words", 2)

    watched.deadlines.start("a", 2, expired)
    watched.start("b", 2)
    watched.pass_time(4)
    assert watched.missed == [("b", 2.001)]
    watched.pass_time(5)
    assert watched.missed == [("b", 2.001), ("last words", pytest.approx(4.001))]
