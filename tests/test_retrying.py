"""Trying again what a pluggable transport failed at: what, how often, when; and that nothing is left of it."""

import pytest
from support.retrying import EXTENDED, F0, F1, F2, SUCCESS, Attempt, Transport, bridge_behind, end_of, pauses
from support.ways import listening_on_port
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, fail, succeed
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txsocksx_ext import RetryingEndpoint, SOCKS5ClientEndpoint, errors
from txsocksx_ext.failures import reply_error
from txsocksx_ext.protocol.codes import Dialect, Method
from txsocksx_ext.testing import FakeProxy, Recorder

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
        ({"failure": ConnectionRefusedError()}, EXTENDED, errors.ProxyRefused),
    ],
)
def test_no_other_failure_is_tried_again(options, methods, error):
    tried = Attempt(Transport(options.get("code", 0), **options), methods)
    assert type(tried.outcome) is error
    tried.run(1000)
    assert tried.tries <= 1
    assert tried.has_left_nothing


@pytest.mark.parametrize("counts", [{"at_once": -1}, {"after_pause": -1}, {"at_once": 1.5}, {"after_pause": None}])
def test_a_bound_is_a_number(counts):
    with pytest.raises(ValueError, match=next(iter(counts))):
        RetryingEndpoint(FakeProxy().endpoint, Clock(), **counts)


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
                return fail(reply_error(code, Dialect.PROP229))
            return succeed(factory.buildProtocol(None))

    clock, immediate, outcomes = Clock(), Immediate(), []
    RetryingEndpoint(immediate, clock, pauses=pauses).connect(Factory.forProtocol(Recorder)).addBoth(outcomes.append)
    clock.pump([10] * 10)
    assert isinstance(outcomes[0], Recorder)
    assert immediate.tries == 4


# On real sockets.


async def test_the_endpoint_on_real_sockets():
    transport = Transport(F0, F2, F0, SUCCESS)
    async with listening_on_port(transport) as port:
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
    async with listening_on_port(transport) as port:
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
