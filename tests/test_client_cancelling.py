"""Deadlines and cancelling: a connection that is given up at any moment leaves nothing."""

import pytest
from support.attempts import REPLY_LENGTH, Application, Attempt, attempt, each_message, each_way
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from zope.interface import implementer

from txsocksx_ext import SOCKS5ClientEndpoint, errors
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.testing import Ending, FakeProxy, Recorder, connect_in_memory

# Deadlines.


def test_the_connection_to_the_proxy_counts_against_the_deadline():
    tried = attempt(FakeProxy(hangs=True), timeout=5)
    tried.run(4.9)
    assert tried.outcome is None
    tried.run(0.1)
    assert type(tried.outcome) is errors.HandshakeTimeout
    assert tried.has_left_nothing


@each_message
def test_a_proxy_that_falls_silent(methods, state, length):
    for count in range(length):
        proxy = FakeProxy(pairs={"k": b""}, stop_at=state, stop_after=count, ending=Ending.SILENCE)
        tried = attempt(proxy, methods).run(59.9)
        assert tried.outcome is None
        tried.run(0.1)
        assert type(tried.outcome) is errors.HandshakeTimeout
        assert tried.has_left_nothing


def test_no_byte_puts_the_deadline_off():
    server = Recorder()
    proxy = FakeProxy()
    proxy.endpoint.server = Factory.forProtocol(lambda: server)
    tried = attempt(proxy, timeout=5)
    for byte in b"\x05\x00\x05\x00":
        server.write(bytes([byte]))
        tried.run(1.2)
        assert tried.outcome is None
    server.write(b"\x00")
    tried.run(0.2)
    assert type(tried.outcome) is errors.HandshakeTimeout
    assert server.lost is not None


def test_without_a_deadline_it_waits_and_has_no_timer():
    tried = attempt(FakeProxy(hangs=True), timeout=None)
    assert tried.clock.getDelayedCalls() == []
    tried.run(10_000_000)
    assert tried.outcome is None
    tried.connecting.cancel()
    assert tried.has_left_nothing


def test_the_deadline_ends_with_the_handshake():
    tried = attempt(FakeProxy(), timeout=5).run(10)
    assert tried.outcome.lost is None


# Cancelling.


class StepClock(Clock):
    """A `Clock` that can take one due call at a time."""

    def step(self):
        """Take one; whether there was one."""
        if not self.calls or self.calls[0].getTime() > self.seconds():
            return False
        call = self.calls.pop(0)
        call.called = 1
        call.func(*call.args, **call.kw)
        return True


@each_way
def test_cancelling_at_every_moment_closes_the_connection_and_builds_nothing(methods):
    moments = 0
    while True:
        clock = StepClock()
        tried = Attempt(FakeProxy(most_at_once=1), methods, clock=clock)
        taken = sum(clock.step() for _ in range(moments))
        if tried.outcome is not None:
            break
        assert taken == moments
        tried.connecting.cancel()
        assert isinstance(tried.outcome, CancelledError)
        tried.run(100)
        assert tried.application.addresses == []
        assert tried.application.events == ["start", "stop"]
        assert tried.has_left_nothing
        moments += 1
    # A moment for each byte, at the very least.
    assert moments > 2 + REPLY_LENGTH + len("target.example")


def test_cancelling_while_tors_f0_is_in_doubt():
    tried = attempt(FakeProxy(code=0xF0, stop_at=State.REPLY, stop_after=REPLY_LENGTH, ending=Ending.SILENCE))
    tried.connecting.cancel()
    tried.run(100)
    assert isinstance(tried.outcome, CancelledError)
    assert tried.has_left_nothing


def test_cancelling_after_success_does_nothing():
    tried = attempt(FakeProxy())
    tried.connecting.cancel()
    tried.run(100)
    tried.outcome.write(b"still there")
    assert tried.said.tunnel.received == b"still there"


def test_cancelling_after_a_failure_does_nothing():
    tried = attempt(FakeProxy(code=5))
    tried.connecting.cancel()
    assert type(tried.outcome) is errors.ConnectionRefused


@pytest.mark.parametrize("moment", ["buildProtocol", "connectionMade"])
def test_cancelling_from_inside_the_application(moment, logged_errors):
    class Cancelling(Recorder):
        def connectionMade(self):
            if moment == "connectionMade":
                tried.connecting.cancel()

    class CancellingApplication(Application):
        def buildProtocol(self, addr):
            if moment == "buildProtocol":
                tried.connecting.cancel()
            return super().buildProtocol(addr)

    tried = Attempt(FakeProxy(joined=b"data"), application=CancellingApplication(Cancelling))
    tried.run()
    assert isinstance(tried.outcome, CancelledError)
    assert tried.has_left_nothing
    assert logged_errors == []


def test_nothing_is_built_by_an_endpoint_that_connects_though_it_was_cancelled():
    @implementer(IStreamClientEndpoint)
    class Stubborn:
        """Cannot be stopped."""

        def connect(self, protocol_factory):
            self.factory = protocol_factory
            return Deferred()

    stubborn = Stubborn()
    connecting = SOCKS5ClientEndpoint("target.example", 443, stubborn, reactor=Clock()).connect(Application())
    connecting.addErrback(lambda failure: failure.trap(CancelledError) and None)
    connecting.cancel()
    assert stubborn.factory.buildProtocol(None) is None


def test_a_protocol_that_was_built_for_someone_who_left_says_nothing():
    @implementer(IStreamClientEndpoint)
    class Hesitating:
        """Builds the protocol some time before the connection stands, as an endpoint may."""

        def connect(self, protocol_factory):
            self.built = protocol_factory.buildProtocol(None)
            return Deferred()

    clock, server, hesitating = Clock(), Recorder(), Hesitating()
    connecting = SOCKS5ClientEndpoint("target.example", 443, hesitating, reactor=clock).connect(Application())
    connecting.addErrback(lambda failure: failure.trap(CancelledError) and None)
    connecting.cancel()
    connect_in_memory(hesitating.built, server, clock=clock)
    clock.advance(1)
    assert server.received == b""
    assert server.lost is not None
