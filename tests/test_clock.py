"""The monotonic clock: what it calls when, and that no change of the system's time delays it."""

import subprocess
import sys

import pytest
from examples.raw_peers import ReactorWith
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from txsocksx_ext.net.timers import clock_of


def after(seconds):
    waited = Deferred()
    clock_of(reactor).callLater(seconds, waited.callback, None)
    return waited


def test_it_is_the_reactors_one_clock():
    verifyObject(IReactorTime, clock_of(reactor))
    assert clock_of(reactor) is clock_of(reactor)
    fake = Clock()
    assert clock_of(fake) is fake
    wrapped = ReactorWith(clock=fake)
    assert clock_of(wrapped) is wrapped


async def test_calls_come_in_the_order_of_their_times():
    called = []
    clock = clock_of(reactor)
    for seconds in (0.03, 0.01, 0.02, 0.0):
        clock.callLater(seconds, called.append, seconds)
    await after(0.05)
    assert called == [0.0, 0.01, 0.02, 0.03]


async def test_arguments_arrive():
    called = []
    clock_of(reactor).callLater(0, lambda *args, **kwargs: called.append((args, kwargs)), 1, 2, key=3)
    await after(0.01)
    assert called == [((1, 2), {"key": 3})]


async def test_a_cancelled_call_does_not_come():
    called = []
    clock = clock_of(reactor)
    calls = [clock.callLater(0.01, called.append, number) for number in range(500)]
    for number, call in enumerate(calls):
        if number % 100:
            call.cancel()
    await after(0.03)
    assert called == [0, 100, 200, 300, 400]
    assert clock.getDelayedCalls() == []


async def test_a_call_can_be_moved_both_ways():
    called = []
    clock = clock_of(reactor)
    later, sooner = clock.callLater(0.01, called.append, "later"), clock.callLater(3600, called.append, "sooner")
    delayed = clock.callLater(0.01, called.append, "delayed")
    later.reset(3600)
    sooner.reset(0.0)
    delayed.delay(0.01)
    await after(0.06)
    assert called == ["sooner", "delayed"]
    assert later.active()
    later.cancel()


async def test_what_a_call_sets_comes_too():
    done = Deferred()
    clock = clock_of(reactor)
    clock.callLater(0, lambda: clock.callLater(0, clock.callLater, 0.01, done.callback, "done"))
    assert await done == "done"


@pytest.mark.logs_errors
async def test_a_fault_does_not_delay_the_others(logged_errors):
    called = []
    clock = clock_of(reactor)
    clock.callLater(0, lambda: 1 / 0)
    clock.callLater(0, called.append, "other")
    await after(0.01)
    assert called == ["other"]
    assert len(logged_errors) == 1


SET_BACK = """
import sys, time
real, shift = time.time, [0.0]
time.time = lambda: real() - shift[0]
if sys.argv[1] == "asyncio":
    from twisted.internet import asyncioreactor
    asyncioreactor.install()
elif sys.argv[1] != "epoll":
    from importlib import import_module
    import_module(f"twisted.internet.{sys.argv[1]}reactor").install()
from twisted.internet import reactor
from txsocksx_ext.net.timers import clock_of
clock = clock_of(reactor)
assert clock is not reactor
clock.callLater(0.2, lambda: (print("fired"), reactor.stop()))
shift[0] = 3600.0
reactor.run()
"""


@pytest.mark.parametrize("name", ["epoll", "poll", "select", "asyncio"])
def test_the_time_of_day_may_be_set_back(name):
    finished = subprocess.run(
        [sys.executable, "-c", SET_BACK, name], capture_output=True, text=True, timeout=30, check=False
    )
    assert finished.stdout == "fired\n", finished.stderr
