"""A service that stays connected: it says why it is not, and stops where a retry cannot help."""

import pytest
from support.logs import lines_logged
from support.retrying import EXTENDED, F0, F1, F2, SUCCESS, Attempt, Transport, bridge_behind, end_of, pauses
from support.ways import listening_on_port
from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, fail
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from txsocksx_ext import ReconnectingClientService, SOCKS5ClientEndpoint, errors
from txsocksx_ext.testing import Recorder


class Serving:
    """A `ReconnectingClientService` in a `Clock`'s time."""

    def __init__(self, transport, **options):
        self.transport = transport
        self.clock = transport.endpoint.clock = Clock()
        endpoint = SOCKS5ClientEndpoint("bridge.example", 443, transport.endpoint, EXTENDED, reactor=self.clock)
        self.service = ReconnectingClientService(
            endpoint, Factory.forProtocol(Recorder), pauses, self.clock, at_once=2, **options
        )
        self.service.startService()
        self.outcomes = []
        self.ask()
        self.run(0)

    def ask(self, **options):
        self.service.whenConnected(**options).addBoth(self._told)

    def _told(self, outcome):
        self.outcomes.append(outcome.value if isinstance(outcome, Failure) else outcome)

    run = Attempt.run
    tries = Attempt.tries
    has_left_nothing = Attempt.has_left_nothing

    def stop(self):
        stopped = []
        self.service.stopService().addCallback(stopped.append)
        self.run(0)
        assert stopped == [None]


def test_a_service_connects_again_at_once_after_f0():
    serving = Serving(Transport(F0, F0, SUCCESS))
    assert isinstance(serving.outcomes[0], Recorder)
    assert serving.clock.seconds() == 0
    assert serving.tries == 3
    serving.stop()
    assert serving.has_left_nothing


def test_a_service_connects_again_after_a_pause_after_f2():
    serving = Serving(Transport(F2, SUCCESS))
    serving.run(9.9)
    assert serving.tries == 1
    serving.run(0.1)
    assert isinstance(serving.outcomes[0], Recorder)
    serving.stop()
    assert serving.has_left_nothing


def test_a_service_stops_after_f1():
    serving = Serving(Transport(F1))
    assert type(serving.outcomes[0]) is errors.TransportProtocolFailure
    assert serving.service.last_failure.value is serving.outcomes[0]
    assert not serving.service.running
    serving.run(1000)
    assert serving.tries == 1
    assert serving.has_left_nothing
    serving.ask()
    assert type(serving.outcomes[1]) is errors.TransportProtocolFailure


def test_attempts_at_once_have_a_bound():
    serving = Serving(Transport(F0))
    assert serving.tries == 1 + 2
    serving.run(30)  # the third pause of the row
    assert serving.tries == 1 + 2 + 1
    serving.stop()
    assert serving.has_left_nothing


def test_a_connection_renews_the_bound():
    serving = Serving(Transport(F0, F0, SUCCESS, F0, F0, SUCCESS))
    assert serving.tries == 3
    serving.transport.conversations[-1].tunnel.close()
    serving.run(10)
    assert serving.tries == 6
    serving.stop()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"status": 1}, errors.AuthenticationFailed),
        ({"method": 0xFF}, errors.NoAcceptableMethod),
        ({"codes": [0x02]}, errors.ConnectionNotAllowed),
    ],
)
def test_a_service_stops_where_no_retry_helps(options, error):
    serving = Serving(Transport(*options.pop("codes", [SUCCESS]), **options))
    assert type(serving.outcomes[0]) is error
    assert not serving.service.running
    assert serving.tries == 1
    assert serving.has_left_nothing


@pytest.mark.parametrize(
    ("failure", "logged"),
    [
        (errors.TTLExpired("it took too long"), "not connected: it took too long; retry: later"),
        (errors.AuthenticationFailed("wrong password"), "not connected: wrong password; retry: never"),
        (NoProtocol("of secret.example"), "not connected: NoProtocol; retry: later"),
    ],
)
def test_why_an_attempt_failed_is_logged_and_kept(failure, logged):
    transport = Transport(SUCCESS)
    transport.endpoint.failure = failure
    with lines_logged("txsocksx_ext.client") as lines:
        serving = Serving(transport)
    assert len(lines) == 1
    assert logged in lines[0]
    assert "secret.example" not in lines[0] + repr(serving.service)
    error = serving.service.last_failure.value
    assert failure in (error, error.__cause__)
    if serving.service.running:
        serving.stop()
    assert len(lines) == 1


def test_other_failures_are_tried_again_as_by_any_service():
    serving = Serving(Transport(0xE1))
    for _ in range(30):
        serving.run(1000)
    assert serving.tries == 31
    assert serving.outcomes == []
    assert type(serving.service.last_failure.value) is errors.OnionServiceNotReachable
    serving.stop()
    assert isinstance(serving.outcomes[0], CancelledError)
    assert serving.has_left_nothing


def test_a_service_begins_anew_when_it_is_started_again():
    serving = Serving(Transport(F1, F0, F0, SUCCESS))
    assert not serving.service.running
    serving.service.startService()
    assert serving.service.last_failure is None
    serving.ask()
    serving.run(0)
    assert isinstance(serving.outcomes[1], Recorder)
    serving.stop()


@pytest.mark.parametrize("code", [F0, F1, F2])
def test_stopping_a_service_at_any_moment(code):
    for turns in range(12):
        transport = Transport(code)
        clock = transport.endpoint.clock = Clock()
        endpoint = SOCKS5ClientEndpoint("bridge.example", 443, transport.endpoint, EXTENDED, reactor=clock)
        service = ReconnectingClientService(endpoint, Factory.forProtocol(Recorder), pauses, clock)
        service.startService()
        for _ in range(turns):
            if clock.calls and clock.calls[0].getTime() <= clock.seconds():
                call = clock.calls.pop(0)
                call.called = 1
                call.func(*call.args, **call.kw)
        stopped = []
        service.stopService().addCallback(stopped.append)
        clock.pump([0] * 20)
        assert stopped == [None]
        assert clock.getDelayedCalls() == []
        tries = transport.tries
        clock.advance(1000)
        assert transport.tries == tries


def test_failing_after_some_failures_works_as_in_any_service():
    serving = Serving(Transport(F2))
    serving.ask(failAfterFailures=1)
    serving.run(10)
    assert type(serving.outcomes[0]) is errors.TransportInternalError
    assert len(serving.outcomes) == 1
    assert serving.service.running
    serving.stop()


def test_an_endpoint_that_fails_before_it_returns_stops_a_service_too():
    @implementer(IStreamClientEndpoint)
    class Immediate:
        def connect(self, factory):
            return fail(errors.TransportProtocolFailure())

    clock, outcomes = Clock(), []
    service = ReconnectingClientService(Immediate(), Factory.forProtocol(Recorder), clock=clock)
    service.startService()
    service.whenConnected().addBoth(outcomes.append)
    clock.advance(0)
    assert outcomes[0].check(errors.TransportProtocolFailure)
    assert not service.running
    assert clock.getDelayedCalls() == []


async def test_a_service_on_real_sockets_within_another():
    transport = Transport(F0, F2, SUCCESS)
    prepared = []
    async with listening_on_port(transport) as port:
        service = ReconnectingClientService(
            bridge_behind(port), Factory.forProtocol(Recorder), lambda _: 0.01, prepareConnection=prepared.append
        )
        parent = MultiService()
        service.setServiceParent(parent)
        parent.startService()
        protocol = await service.whenConnected()
        assert len(prepared) == 1
        assert transport.tries == 3
        transport.codes = [F0, SUCCESS]
        await end_of(protocol)
        await deferLater(reactor, 0)  # The service hears of it after the protocol.
        again = await service.whenConnected()
        assert again is not protocol
        assert transport.tries == 5
        transport.codes = [F1]
        await end_of(again)
        await deferLater(reactor, 0)
        with pytest.raises(errors.TransportProtocolFailure):
            await service.whenConnected()
        assert transport.tries == 6
        await parent.stopService()
