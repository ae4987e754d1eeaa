"""The poller: who is told of what, and what a fault in one watcher does."""

import asyncio
import os
import select
import socket
from contextlib import contextmanager, suppress

import pytest
from examples.raw_peers import ReactorWith, turn, until
from support.sockets import Watching
from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor, StringTransport

from txsocksx_ext.net import poller
from txsocksx_ext.net.poller import BATCH, READABLE, WRITABLE, poller_of


@contextmanager
def watching(count=1):
    all_of_them = [Watching() for _ in range(count)]
    try:
        yield all_of_them if count > 1 else all_of_them[0]
    finally:
        for each in all_of_them:
            each.close()


@pytest.mark.parametrize("other", [Clock(), MemoryReactor(), StringTransport(), None], ids=lambda it: type(it).__name__)
def test_what_takes_no_descriptors_has_no_poller(other):
    assert poller_of(other) is None


def test_a_reactor_has_one_poller_and_so_has_what_wraps_it():
    assert poller_of(reactor) is poller_of(ReactorWith(clock=Clock()))


async def test_each_change_is_told_once():
    with watching() as it:
        it.peer.send(b"x")
        await until(lambda: it.has_heard(READABLE))
        count = len(it.told)
        await turn(5)
        assert len(it.told) == count
        it.peer.shutdown(socket.SHUT_WR)
        await until(lambda: len(it.told) > count)
        assert it.has_heard(select.EPOLLRDHUP)


async def test_that_it_can_be_written_to_is_told_to_who_asks():
    with watching() as it:
        await turn(5)
        assert it.told == []
        it.poller.rearm(it.socket.fileno())
        await until(lambda: it.has_heard(WRITABLE))
        with suppress(BlockingIOError):
            while True:
                it.socket.send(bytes(1 << 16))
        it.told.clear()
        await turn(5)
        assert it.told == []
        while not it.has_heard(WRITABLE):
            it.peer.recv(1 << 20)
            await turn()


async def test_what_is_left_is_told_again_if_asked_for():
    with watching() as it:
        it.peer.send(b"x")
        await until(lambda: it.has_heard(READABLE))
        it.told.clear()
        it.poller.rearm(it.socket.fileno())
        assert it.told == []
        await until(lambda: it.has_heard(READABLE))
        it.socket.recv(1)
        it.told.clear()
        it.poller.rearm(it.socket.fileno())
        await until(lambda: it.told)
        assert not it.has_heard(READABLE)


async def test_another_watcher_hears_of_what_comes_later():
    with watching() as it, watching() as other:
        it.poller.replace(it.socket.fileno(), other)
        it.peer.send(b"x")
        await until(lambda: other.has_heard(READABLE))
        assert not it.has_heard(READABLE)


async def test_a_number_that_another_socket_got_meanwhile_brings_it_no_events():
    """Two sockets have events at once; the watcher told first closes the other, whose number a third socket gets."""
    third = []

    def replace(closed):
        if third:
            return
        number = closed.socket.fileno()
        spare, peer = socket.socketpair()
        closed.close()
        os.dup2(spare.fileno(), number, inheritable=False)
        spare.close()
        third.append(Watching(ends=(socket.socket(fileno=number), peer)))

    with watching(2) as (one, two):
        one.then, two.then = lambda: replace(two), lambda: replace(one)
        one.peer.send(b"x")
        two.peer.send(b"x")
        one.poller.doRead()
        assert third[0].told == []
        third[0].peer.send(b"x")
        await until(lambda: third[0].has_heard(READABLE))
        third[0].close()


@pytest.mark.logs_errors
@pytest.mark.parametrize("kind", [RuntimeError, asyncio.CancelledError, SystemExit])
async def test_a_fault_in_one_watcher_closes_it_alone_and_does_not_tell_its_words(logged_errors, kind):
    words = "secret.example"

    def fail():
        raise kind(words)

    with watching(2) as (one, two):
        one.then = fail
        one.peer.send(b"x")
        two.peer.send(b"x")
        await until(lambda: one.abandoned and two.has_heard(READABLE))
        assert one.abandoned == ["fault"]
        (event,) = logged_errors
        assert kind.__name__ in event["error"]
        assert "in fail" in event["traceback"]
        assert words not in str(event)


@pytest.mark.logs_errors
async def test_a_watcher_that_cannot_even_be_abandoned_harms_nobody(logged_errors):
    def fail(*_):
        raise RuntimeError

    with watching(2) as (one, two):
        one.then = one.abandon = fail
        one.peer.send(b"x")
        await until(lambda: len(logged_errors) >= 2)
        one.then = lambda: None
        two.peer.send(b"x")
        await until(lambda: two.has_heard(READABLE))


async def test_one_turn_serves_them_for_a_bounded_time(monkeypatch):
    with watching(2 * BATCH + 20) as all_of_them:
        for each in all_of_them:
            each.peer.send(b"x")
        monkeypatch.setattr(poller, "LONGEST_TURN", -1)
        all_of_them[0].poller.doRead()
        assert sum(1 for each in all_of_them if each.told) == BATCH
        monkeypatch.undo()
        await until(lambda: all(each.told for each in all_of_them))
