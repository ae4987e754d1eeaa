"""Several addresses of one target: which is tried when, and which answer counts."""

import errno

import pytest
from examples.raw_peers import target
from support.programs import free_port
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    NoRouteError,
    TCPTimedOutError,
    UserError,
)
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from txsocksx_ext.net.happy_eyeballs import ATTEMPT_DELAY, ATTEMPTS_AT_ONCE, GIVE_UP_AFTER, connect_first
from txsocksx_ext.protocol.messages import Address


class Attempts:
    """A race in memory: which attempts were begun, and what becomes of each."""

    def __init__(self, *hosts, reactor_class=MemoryReactorClock):
        self.reactor = reactor_class()
        self.result = connect_first(self.reactor, [Address.of(host, 80) for host in hosts])

    @property
    def begun(self):
        return [host for host, *_ in self.reactor.tcpClients]

    def answer(self, number):
        """Let an attempt succeed: its transport."""
        transport = StringTransport()
        protocol = self.reactor.tcpClients[number][2].buildProtocol(None)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return transport

    def fail(self, number, error):
        self.reactor.tcpClients[number][2].clientConnectionFailed(None, Failure(error))

    def is_stopped(self, number):
        return self.reactor.connectors[number].stoppedConnecting

    def outcome(self):
        """The exception of the race, or its transport."""
        found = []
        self.result.addBoth(found.append)
        (found,) = found
        return found.value if isinstance(found, Failure) else found


def test_the_families_take_turns_beginning_with_the_first():
    race = Attempts("2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1")
    for number in range(4):
        race.fail(number, ConnectionRefusedError())
    assert race.begun == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "2001:db8::3"]
    assert isinstance(race.outcome(), ConnectionRefusedError)


def test_one_after_another_and_not_before_its_time():
    race = Attempts("192.0.2.1", "192.0.2.2", "192.0.2.3")
    assert race.begun == ["192.0.2.1"]
    race.reactor.advance(ATTEMPT_DELAY * 0.9)
    assert race.begun == ["192.0.2.1"]
    race.reactor.advance(ATTEMPT_DELAY * 0.2)
    assert race.begun == ["192.0.2.1", "192.0.2.2"]
    transport = race.answer(1)
    assert race.outcome() is transport


def test_two_attempts_are_in_flight_at_most_and_the_oldest_makes_room():
    race = Attempts(*(f"192.0.2.{number}" for number in range(1, 7)))
    most = 0
    for _ in range(100):
        race.reactor.advance(ATTEMPT_DELAY)
        in_flight = [number for number in range(len(race.begun)) if not race.is_stopped(number)]
        most = max(most, len(in_flight))
    assert most == ATTEMPTS_AT_ONCE
    # Each of the first four had its time; the last two wait for as long as the request may.
    assert race.begun == [f"192.0.2.{number}" for number in range(1, 7)]
    assert [race.is_stopped(number) for number in range(6)] == [True] * 4 + [False] * 2
    race.fail(4, ConnectionRefusedError())
    race.fail(5, NoRouteError())
    assert isinstance(race.outcome(), ConnectionRefusedError)
    assert race.reactor.getDelayedCalls() == []


def test_an_attempt_is_not_given_up_before_its_time():
    race = Attempts("192.0.2.1", "192.0.2.2", "192.0.2.3")
    race.reactor.advance(ATTEMPT_DELAY)
    race.reactor.advance(GIVE_UP_AFTER - ATTEMPT_DELAY - 0.01)
    assert not race.is_stopped(0)
    assert len(race.begun) == 2
    race.reactor.advance(0.02)
    assert race.is_stopped(0)
    assert len(race.begun) == 3
    race.result.cancel()
    assert isinstance(race.outcome(), CancelledError)


def test_the_first_to_answer_ends_the_others():
    race = Attempts("192.0.2.1", "192.0.2.2", "192.0.2.3")
    race.reactor.advance(ATTEMPT_DELAY)
    transport = race.answer(1)
    assert race.outcome() is transport
    # No byte is read before someone takes the connection over.
    assert transport.producerState == "paused"
    assert race.is_stopped(0)
    race.reactor.advance(10 * ATTEMPT_DELAY)
    assert race.begun == ["192.0.2.1", "192.0.2.2"]
    assert race.reactor.getDelayedCalls() == []


def test_after_a_failure_the_next_begins_at_once():
    race = Attempts("192.0.2.1", "192.0.2.2", "192.0.2.3")
    race.fail(0, ConnectionRefusedError())
    assert race.begun == ["192.0.2.1", "192.0.2.2"]
    # The delay is counted anew from then.
    race.reactor.advance(ATTEMPT_DELAY * 0.9)
    assert race.begun == ["192.0.2.1", "192.0.2.2"]
    race.reactor.advance(ATTEMPT_DELAY * 0.2)
    assert race.begun == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    transport = race.answer(2)
    assert race.outcome() is transport


def test_the_last_one_may_still_answer_when_all_others_have_failed():
    race = Attempts("192.0.2.1", "192.0.2.2")
    race.reactor.advance(ATTEMPT_DELAY * 3)
    race.fail(1, ConnectionRefusedError())
    assert not race.result.called
    transport = race.answer(0)
    assert race.outcome() is transport


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([NoRouteError(), ConnectionRefusedError(), TCPTimedOutError(errno.ETIMEDOUT)], ConnectionRefusedError),
        ([TCPTimedOutError(errno.ETIMEDOUT), NoRouteError(), NoRouteError()], TCPTimedOutError),
        ([UserError(), NoRouteError(), UserError()], NoRouteError),
        ([ConnectError(errno.EPERM), UserError(), UserError()], ConnectError),
        ([UserError(), UserError(), UserError()], UserError),
    ],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_several_failures_the_one_that_tells_most_is_told(errors, told, order):
    race = Attempts("192.0.2.1", "192.0.2.2", "192.0.2.3")
    for number, which in enumerate(order):
        assert not race.result.called
        race.fail(number, errors[which])
    assert isinstance(race.outcome(), told)
    assert race.reactor.getDelayedCalls() == []


class Unconnected(MemoryReactorClock):
    """A machine without a network: connecting fails before it has begun."""

    def connectTCP(self, host, port, factory, *args, **kwargs):
        connector = super().connectTCP(host, port, factory, *args, **kwargs)
        factory.clientConnectionFailed(connector, Failure(NoRouteError()))
        return connector


def test_all_of_many_addresses_may_fail_at_once():
    race = Attempts(*(f"192.0.2.{host}" for host in range(64)), reactor_class=Unconnected)
    assert isinstance(race.outcome(), NoRouteError)
    assert len(race.begun) == 64
    assert race.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("hosts", [["192.0.2.1"], ["192.0.2.1", "2001:db8::1", "192.0.2.2"]])
def test_cancelling_ends_every_attempt(hosts):
    race = Attempts(*hosts)
    race.reactor.advance(ATTEMPT_DELAY)
    race.result.cancel()
    # Of a single attempt, Twisted's own.
    assert isinstance(race.outcome(), (CancelledError, ConnectingCancelledError))
    begun = len(race.begun)
    assert all(race.is_stopped(number) for number in range(begun))
    race.reactor.advance(10 * ATTEMPT_DELAY)
    assert len(race.begun) == begun
    assert race.reactor.getDelayedCalls() == []


def test_one_address_is_simply_connected_to():
    race = Attempts("2001:db8::1")
    assert race.begun == ["2001:db8::1"]
    assert race.reactor.getDelayedCalls() == []
    transport = race.answer(0)
    assert race.outcome() is transport


async def test_on_the_real_reactor_a_refusal_leads_to_the_next_address():
    async with target() as far:
        # Nothing listens on 127.0.0.2: the system refuses there.
        addresses = [Address.of(host, far.port) for host in ("127.0.0.2", "127.0.0.3", "127.0.0.1")]
        transport = await connect_first(reactor, addresses)
        assert transport.getPeer().host == "127.0.0.1"
        await far.accept()
        transport.abortConnection()


async def test_on_the_real_reactor_all_may_refuse():
    port = free_port()
    with pytest.raises(ConnectionRefusedError):
        await connect_first(reactor, [Address.of("127.0.0.1", port), Address.of("127.0.0.2", port)])
