"""Trying again what a pluggable transport failed at: what, how often, when; and that nothing is left of it."""

from contextlib import asynccontextmanager

import pytest
from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, fail, maybeDeferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, clientFromString
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txsocksx_ext import RetryingClientService, RetryingEndpoint, SOCKS5ClientEndpoint, errors
from txsocksx_ext.testing import FakeProxy, Recorder
from txsocksx_ext.wire.codes import Method

EXTENDED = {"extended": {"pt.cert": "AAAA"}}
F0, F1, F2 = 0xF0, 0xF1, 0xF2
SUCCESS = 0


class Transport(FakeProxy):
    """A transport that answers these codes, one after another, and the last one again and again."""

    def __init__(self, *codes, **options):
        self.codes = list(codes)
        super().__init__(**options)

    def buildProtocol(self, addr):
        self.code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        return super().buildProtocol(addr)

    @property
    def tries(self):
        return len(self.conversations)


def pauses(number):
    """Ten seconds, then twenty, ..."""
    return 10 * number


class Attempt:
    """One call of a `RetryingEndpoint`'s ``connect``."""

    def __init__(self, transport, methods=EXTENDED, **options):
        self.transport = transport
        self.clock = transport.endpoint.clock = Clock()
        self.outcome = None
        endpoint = SOCKS5ClientEndpoint("bridge.example", 443, transport.endpoint, methods, reactor=self.clock)
        retrying = RetryingEndpoint(endpoint, self.clock, **{"pauses": pauses, **options})
        self.connecting = retrying.connect(Factory.forProtocol(Recorder))
        self.connecting.addBoth(self._ended)
        self.run(0)

    def _ended(self, outcome):
        self.outcome = outcome.value if isinstance(outcome, Failure) else outcome

    def run(self, seconds):
        self.clock.advance(seconds)
        # What is done at once, takes turns of the clock without time.
        for _ in range(20):
            self.clock.advance(0)

    @property
    def tries(self):
        return self.transport.tries

    @property
    def has_left_nothing(self):
        return not self.clock.getDelayedCalls() and not self.transport.endpoint.connecting


# The endpoint.


def test_a_connection_at_the_first_try():
    tried = Attempt(Transport(SUCCESS))
    assert isinstance(tried.outcome, Recorder)
    assert tried.tries == 1
    assert tried.has_left_nothing


def test_f0_is_tried_again_at_once():
    tried = Attempt(Transport(F0, F0, SUCCESS))
    assert tried.clock.seconds() == 0
    assert isinstance(tried.outcome, Recorder)
    assert tried.tries == 3
    assert tried.has_left_nothing


def test_f2_is_tried_again_after_growing_pauses():
    tried = Attempt(Transport(F2, F2, SUCCESS))
    assert tried.tries == 1
    tried.run(9.9)
    assert tried.tries == 1
    tried.run(0.1)
    assert tried.tries == 2
    tried.run(19.9)
    assert (tried.tries, tried.outcome) == (2, None)
    tried.run(0.1)
    assert isinstance(tried.outcome, Recorder)
    assert tried.has_left_nothing


@pytest.mark.parametrize("before", [[], [F0], [F2], [F0, F2]])
def test_f1_is_never_tried_again(before):
    tried = Attempt(Transport(*before, F1))
    tried.run(10)
    assert type(tried.outcome) is errors.TransportProtocolFailure
    assert tried.tries == len(before) + 1
    tried.run(1000)
    assert tried.tries == len(before) + 1
    assert tried.has_left_nothing


def test_an_f0_that_stays_gets_pauses_and_then_an_end():
    tried = Attempt(Transport(F0), at_once=4, after_pause=2)
    assert tried.tries == 1 + 4
    tried.run(10)
    assert tried.tries == 1 + 4 + 1
    assert tried.outcome is None
    tried.run(20)
    assert tried.tries == 1 + 4 + 2
    assert type(tried.outcome) is errors.TransportTemporaryFailure
    assert tried.has_left_nothing


def test_an_f2_that_stays_gets_an_end():
    tried = Attempt(Transport(F2), at_once=4, after_pause=2)
    tried.run(10)
    tried.run(20)
    assert tried.tries == 1 + 2
    assert type(tried.outcome) is errors.TransportInternalError
    assert tried.has_left_nothing


def test_failures_that_take_turns_have_the_same_bounds():
    tried = Attempt(Transport(*[F0, F2] * 20), at_once=2, after_pause=3)
    for _ in range(20):
        tried.run(1000)
    assert tried.tries == 1 + 2 + 3
    assert isinstance(tried.outcome, errors.TransportError)


@pytest.mark.parametrize("code", [F0, F2])
def test_without_any_retries_the_first_failure_is_the_last(code):
    tried = Attempt(Transport(code), at_once=0, after_pause=0)
    assert isinstance(tried.outcome, errors.TransportError)
    assert tried.tries == 1


def test_bounds_are_those_of_each_call():
    clock = Clock()
    transport = Transport(F0, clock=clock)
    endpoint = SOCKS5ClientEndpoint("bridge.example", 443, transport.endpoint, EXTENDED, reactor=clock)
    retrying = RetryingEndpoint(endpoint, clock, at_once=2, after_pause=0)
    for calls in (1, 2):
        failing = retrying.connect(Factory.forProtocol(Recorder))
        for _ in range(20):
            clock.advance(0)
        assert isinstance(failing.result.value, errors.TransportTemporaryFailure)
        failing.addErrback(lambda _: None)
        assert transport.tries == calls * 3


@pytest.mark.parametrize(
    ("options", "methods", "error"),
    [
        ({"code": 0x01}, EXTENDED, errors.GeneralServerFailure),
        ({"code": 0x05}, EXTENDED, errors.ConnectionRefused),
        ({"code": 0xE0}, EXTENDED, errors.OnionServiceNotFound),
        ({"code": 0xE1}, EXTENDED, errors.OnionServiceNotReachable),
        # The same numbers, as tor means them.
        ({"code": F2, "pairs": {"tor.errors": "304"}}, EXTENDED, errors.OnionIntroductionFailed),
        ({"code": F2, "method": Method.NO_AUTHENTICATION}, {"anonymous": ()}, errors.OnionIntroductionFailed),
        ({"status": 1}, EXTENDED, errors.AuthenticationFailed),
        ({"status": 2}, EXTENDED, errors.InvalidArguments),
        ({"failure": ConnectionRefusedError()}, EXTENDED, ConnectionRefusedError),
    ],
)
def test_no_other_failure_is_tried_again(options, methods, error):
    tried = Attempt(Transport(options.get("code", 0), **options), methods)
    assert type(tried.outcome) is error
    tried.run(1000)
    assert tried.tries <= 1
    assert tried.has_left_nothing


@pytest.mark.parametrize("counts", [{"at_once": -1}, {"after_pause": -1}, {"at_once": 1.5}, {"after_pause": None}])
@pytest.mark.parametrize(
    "kind",
    [
        lambda endpoint, **counts: RetryingEndpoint(endpoint, Clock(), **counts),
        lambda endpoint, **counts: RetryingClientService(endpoint, Factory.forProtocol(Recorder), **counts),
    ],
    ids=["endpoint", "service"],
)
def test_a_bound_is_a_number(counts, kind):
    with pytest.raises(ValueError, match=next(iter(counts))):
        kind(FakeProxy().endpoint, **counts)


def test_it_is_an_endpoint_and_its_repr_tells_no_target():
    endpoint = RetryingEndpoint(SOCKS5ClientEndpoint("bridge.example", 443, FakeProxy().endpoint), Clock())
    assert verifyObject(IStreamClientEndpoint, endpoint)
    assert "bridge" not in repr(endpoint)


def test_by_default_the_pauses_are_seconds():
    tried = Attempt(Transport(F2, SUCCESS), pauses=None)
    tried.run(1.0)
    assert tried.tries == 1
    tried.run(3.0)
    assert isinstance(tried.outcome, Recorder)


# Cancelling it.


def test_cancelling_during_a_pause():
    tried = Attempt(Transport(F2))
    tried.connecting.cancel()
    assert isinstance(tried.outcome, CancelledError)
    assert tried.has_left_nothing
    tried.run(1000)
    assert tried.tries == 1


@pytest.mark.parametrize("codes", [(SUCCESS,), (F0, F0, SUCCESS), (F2, SUCCESS)])
def test_cancelling_after_any_number_of_bytes(codes):
    """What is sent arrives in later turns, one byte in each."""
    moments = 0
    while True:
        transport = Transport(*codes, most_at_once=1)
        clock = transport.endpoint.clock = Clock()
        endpoint = SOCKS5ClientEndpoint("bridge.example", 443, transport.endpoint, EXTENDED, reactor=clock)
        outcomes = []
        connecting = RetryingEndpoint(endpoint, clock, pauses=lambda _: 0.001).connect(Factory.forProtocol(Recorder))
        connecting.addBoth(outcomes.append)
        for _ in range(moments):
            if clock.calls:
                clock.advance(0)
                call = min(clock.calls, key=lambda each: each.getTime(), default=None)
                if call is not None and 0 < call.getTime() - clock.seconds() < 1:
                    clock.advance(call.getTime() - clock.seconds())
        if outcomes:
            assert isinstance(outcomes[0], Recorder)
            return
        connecting.cancel()
        assert outcomes[0].check(CancelledError)
        clock.advance(1)
        tries = transport.tries
        clock.advance(1000)
        assert transport.tries == tries
        assert clock.getDelayedCalls() == []
        assert not transport.endpoint.connecting
        moments += 1
        assert moments < 1000


@pytest.mark.parametrize("code", [F0, F2])
def test_an_endpoint_that_fails_at_once(code):
    """Without a turn of the reactor in between, as one may."""

    @implementer(IStreamClientEndpoint)
    class Immediate:
        tries = 0

        def connect(self, factory):
            self.tries += 1
            if self.tries <= 3:
                return fail(errors.reply_error(code, errors.Dialect.PROP229))
            return succeed(factory.buildProtocol(None))

    clock, immediate, outcomes = Clock(), Immediate(), []
    RetryingEndpoint(immediate, clock, pauses=pauses).connect(Factory.forProtocol(Recorder)).addBoth(outcomes.append)
    clock.pump([10] * 10)
    assert isinstance(outcomes[0], Recorder)
    assert immediate.tries == 4


# On real sockets.


@asynccontextmanager
async def listening(factory):
    """A server on a port of 127.0.0.1; yields the port."""
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    try:
        yield port.getHost().port
    finally:
        await maybeDeferred(port.stopListening)


def bridge_behind(port):
    way = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    return SOCKS5ClientEndpoint("bridge.example", 443, way, EXTENDED)


async def end_of(*protocols):
    for each in protocols:
        each.abort()
        await each.until(lambda it: it.lost)


async def test_the_endpoint_on_real_sockets():
    transport = Transport(F0, F2, F0, SUCCESS)
    async with listening(transport) as port:
        protocol = await RetryingEndpoint(bridge_behind(port), pauses=lambda _: 0.01).connect(
            Factory.forProtocol(Recorder)
        )
        assert transport.tries == 4
        protocol.write(b"hello")
        tunnel = transport.conversations[3].tunnel
        await tunnel.until(lambda end: end.received == b"hello")
        await end_of(protocol)
        await tunnel.until(lambda end: end.lost)


async def test_the_endpoint_string():
    transport = Transport(F0, F0, SUCCESS)
    async with listening(transport) as port:
        text = f"socks5ext:bridge.example:443:proxy=tcp\\:127.0.0.1\\:{port}:pt.cert=AAAA"
        protocol = await clientFromString(reactor, f"{text}:retries=2").connect(Factory.forProtocol(Recorder))
        assert transport.tries == 3
        await end_of(protocol)
        transport.codes = [F0]
        for retries in ("", ":retries=0"):
            del transport.conversations[:]
            with pytest.raises(errors.TransportTemporaryFailure):
                await clientFromString(reactor, text + retries).connect(Factory.forProtocol(Recorder))
            assert transport.tries == 1


@pytest.mark.parametrize("retries", ["-1", "yes", "", "1.5", "²"])
def test_retries_that_are_no_number(retries):
    with pytest.raises(ValueError, match="retries of the endpoint socks5ext"):
        clientFromString(reactor, f"socks5ext:bridge.example:443:retries={retries}")


# The service.


class Serving:
    """A `RetryingClientService` in a `Clock`'s time."""

    def __init__(self, transport, **options):
        self.transport = transport
        self.clock = transport.endpoint.clock = Clock()
        endpoint = SOCKS5ClientEndpoint("bridge.example", 443, transport.endpoint, EXTENDED, reactor=self.clock)
        self.service = RetryingClientService(
            endpoint, Factory.forProtocol(Recorder), pauses, self.clock, **{"at_once": 2, "after_pause": 3, **options}
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
    assert serving.service.gave_up is serving.outcomes[0]
    assert not serving.service.running
    serving.run(1000)
    assert serving.tries == 1
    assert serving.has_left_nothing
    serving.ask()
    assert type(serving.outcomes[1]) is errors.TransportProtocolFailure


def test_a_service_has_bounds():
    serving = Serving(Transport(F0))
    for _ in range(10):
        serving.run(1000)
    assert serving.tries == 1 + 2 + 3
    assert type(serving.outcomes[0]) is errors.TransportTemporaryFailure
    assert not serving.service.running
    assert serving.has_left_nothing


@pytest.mark.parametrize("between", [SUCCESS, 0x05], ids=["a connection", "another failure"])
def test_what_is_no_failure_of_the_transport_begins_a_new_row(between):
    serving = Serving(Transport(F2, F2, F2, between, F2, F2, F2, F1))
    for _ in range(10):
        serving.run(1000)
        if serving.transport.conversations[-1].tunnel:
            serving.transport.conversations[-1].tunnel.close()
    assert serving.tries == 8
    assert type(serving.service.gave_up) is errors.TransportProtocolFailure
    assert serving.has_left_nothing


def test_other_failures_are_tried_again_as_by_any_service():
    serving = Serving(Transport(0xE1))
    for _ in range(30):
        serving.run(1000)
    assert serving.tries == 31
    assert serving.outcomes == []
    assert serving.service.gave_up is None
    serving.stop()
    assert isinstance(serving.outcomes[0], CancelledError)
    assert serving.has_left_nothing


def test_a_service_begins_anew_when_it_is_started_again():
    serving = Serving(Transport(F1, F0, F0, SUCCESS))
    assert not serving.service.running
    serving.service.startService()
    assert serving.service.gave_up is None
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
        service = RetryingClientService(endpoint, Factory.forProtocol(Recorder), pauses, clock)
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
    service = RetryingClientService(Immediate(), Factory.forProtocol(Recorder), clock=clock)
    service.startService()
    service.whenConnected().addBoth(outcomes.append)
    clock.advance(0)
    assert outcomes[0].check(errors.TransportProtocolFailure)
    assert not service.running
    assert clock.getDelayedCalls() == []


async def test_a_service_on_real_sockets_within_another():
    transport = Transport(F0, F2, SUCCESS)
    prepared = []
    async with listening(transport) as port:
        service = RetryingClientService(
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
