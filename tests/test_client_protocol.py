"""One conversation with a proxy: what it may answer, and what becomes of it at every moment."""

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoProtocol,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from txsocksx_ext import SOCKS5ClientEndpoint, SOCKS5ExtClientFactory, errors
from txsocksx_ext.handshake import State
from txsocksx_ext.testing import Ending, FakeProxy, Recorder, connect_in_memory
from txsocksx_ext.transports import hand_over
from txsocksx_ext.wire.codes import Method
from txsocksx_ext.wire.messages import Address, UsernamePassword
from txsocksx_ext.wire.pairs import Pairs

ANONYMOUS = {"anonymous": ()}
LOGIN = {"login": ("user", "word")}
EXTENDED = {"extended": {"tor.isolation": "alice"}}
WAYS = {"anonymous": ANONYMOUS, "login": LOGIN, "extended": EXTENDED}
each_way = pytest.mark.parametrize("methods", WAYS.values(), ids=WAYS)

REPLY_LENGTH = 10


class Application(Factory):
    """
    An application's factory.

    :ivar events: what happened to it and to its protocols, in order.
    """

    noisy = False

    def __init__(self, protocol=Recorder):
        self.protocol = protocol
        self.addresses = []
        self.events = []

    def startFactory(self):
        self.events.append("start")

    def stopFactory(self):
        self.events.append("stop")

    def buildProtocol(self, addr):
        self.events.append("build")
        self.addresses.append(addr)
        return super().buildProtocol(addr)


class Attempt:
    """One connection to ``target.example:443`` through a `FakeProxy`."""

    def __init__(self, proxy, methods=ANONYMOUS, application=None, *, clock=None, factory=None, **options):
        self.proxy = proxy
        self.clock = proxy.endpoint.clock = Clock() if clock is None else clock
        self.application = Application() if application is None else application
        self.outcome = None
        endpoint = SOCKS5ClientEndpoint("target.example", 443, proxy.endpoint, methods, reactor=self.clock, **options)
        if factory is not None:
            endpoint.factory = factory
        self.connecting = endpoint.connect(self.application)
        self.connecting.addBoth(self._ended)

    def _ended(self, outcome):
        self.outcome = outcome.value if isinstance(outcome, Failure) else outcome

    def run(self, seconds=0):
        self.clock.advance(seconds)
        return self

    @property
    def said(self):
        """What the proxy heard."""
        (conversation,) = self.proxy.conversations
        return conversation

    @property
    def has_left_nothing(self):
        """Whether no connection, no timer and no protocol of the application is left."""
        closed = all(each.lost or (each.tunnel and each.tunnel.lost) for each in self.proxy.conversations)
        return closed and not self.clock.getDelayedCalls() and not self.proxy.endpoint.connecting


def attempt(proxy, *arguments, **options):
    """The same, gone on with until something has to be waited for."""
    return Attempt(proxy, *arguments, **options).run()


# Success.


@each_way
@pytest.mark.parametrize("most_at_once", [1, 3, 65536])
def test_data_joined_to_the_reply_arrives_at_once(methods, most_at_once):
    tried = attempt(FakeProxy(joined=b"220 welcome\r\n", most_at_once=most_at_once), methods)
    assert tried.outcome.received == b"220 welcome\r\n"
    assert tried.clock.getDelayedCalls() == []


def test_the_result_fires_before_data_that_came_with_the_reply():
    order = []

    class Telling(Recorder):
        def connectionMade(self):
            order.append("connectionMade")

        def dataReceived(self, data):
            order.append(data)

    tried = Attempt(FakeProxy(joined=b"data"), application=Application(Telling))
    tried.connecting.addCallback(lambda _: order.append("result"))
    tried.run()
    assert order == ["connectionMade", "result", b"data"]


def test_the_stream_carries_bytes_both_ways():
    tried = attempt(FakeProxy())
    tried.outcome.write(b"\x05\x00question")
    assert tried.said.tunnel.received == b"\x05\x00question"
    tried.said.tunnel.write(b"\x05\x01answer")
    assert tried.outcome.received == b"\x05\x01answer"


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda ours, theirs: theirs.close(), ConnectionDone),
        (lambda ours, theirs: theirs.abort(), ConnectionLost),
        (lambda ours, theirs: ours.close(), ConnectionDone),
        (lambda ours, theirs: ours.abort(), ConnectionAborted),
    ],
)
def test_the_application_sees_twisteds_own_reasons(act, reason):
    tried = attempt(FakeProxy())
    act(tried.outcome, tried.said.tunnel)
    assert tried.outcome.lost.type is reason
    assert tried.has_left_nothing


def test_a_close_joined_to_the_reply_is_the_applications_to_see():
    class Closing(Recorder):
        def connectionMade(self):
            self.transport.loseConnection()

    tried = attempt(FakeProxy(Factory.forProtocol(Closing), joined=b"421 too busy\r\n"))
    assert tried.outcome.received == b"421 too busy\r\n"
    assert tried.outcome.lost.type is ConnectionDone


@pytest.mark.parametrize(
    "bound",
    [
        Address.of("192.0.2.7", 0x1234),
        Address.of("2001:db8::7", 0x1234),
        Address.of("bound.example", 0x1234),
        Address.of("b" * 255, 0x1234),
    ],
    ids=["IPv4", "IPv6", "name", "long name"],
)
@pytest.mark.parametrize("most_at_once", [1, 65536])
def test_the_bound_address_is_told(bound, most_at_once):
    tried = attempt(FakeProxy(bound=bound, joined=b"data", most_at_once=most_at_once))
    (address,) = tried.application.addresses
    assert (address.bound.host, address.bound.port) == (bound.host, 0x1234)
    assert tried.outcome.received == b"data"


def test_the_address_tells_what_was_asked_for_and_what_was_answered():
    tried = attempt(FakeProxy(pairs={"unknown.key": b"\x00value", "ANOTHER": b""}), EXTENDED)
    (address,) = tried.application.addresses
    assert (address.host, address.port) == ("target.example", 443)
    assert address.method == Method.EXTENDED
    assert address.pairs == {"unknown.key": b"\x00value", "ANOTHER": b""}
    assert "target.example" not in repr(address)


def test_without_method_97_there_are_no_pairs_to_tell():
    (address,) = attempt(FakeProxy(), LOGIN).application.addresses
    assert address.method == Method.USERNAME_PASSWORD
    assert address.pairs == {}


@each_way
def test_each_way_says_what_it_was_given_and_no_more(methods):
    said = attempt(FakeProxy(), methods).said
    assert said.request.encode().hex() == "0501000" + "30e" + b"target.example".hex() + "01bb"
    assert said.credentials == (UsernamePassword(b"user", b"word") if methods is LOGIN else None)
    assert said.pairs == ({"tor.isolation": b"alice"} if methods is EXTENDED else None)


def test_nothing_is_said_before_the_proxy_has_answered():
    server = Recorder()
    proxy = FakeProxy()
    proxy.endpoint.server = Factory.forProtocol(lambda: server)
    attempt(proxy, {**EXTENDED, **LOGIN})
    assert server.received == b"\x05\x02\x97\x02"
    server.write(b"\x05\x02")
    assert server.received.endswith(b"\x97\x02\x01\x04user\x04word")
    server.write(b"\x01\x00")
    assert server.received.endswith(b"word\x05\x01\x00\x03\x0etarget.example\x01\xbb")


# Failures of the request.


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.SILENCE])
@pytest.mark.parametrize("most_at_once", [1, 65536])
def test_the_code_of_a_short_reply_is_told(ending, most_at_once):
    for code in (0x01, 0x05, 0x5B, 0xE0, 0xFF):
        for length in (2, 3, 4, 9):
            proxy = FakeProxy(
                code=code, stop_at=State.REPLY, stop_after=length, ending=ending, most_at_once=most_at_once
            )
            tried = attempt(proxy)
            assert tried.outcome.code == code, f"{length} bytes"
            assert tried.has_left_nothing


RFC_1928 = {
    0x01: errors.GeneralServerFailure,
    0x02: errors.ConnectionNotAllowed,
    0x03: errors.NetworkUnreachable,
    0x04: errors.HostUnreachable,
    0x05: errors.ConnectionRefused,
    0x06: errors.TTLExpired,
    0x07: errors.CommandNotSupported,
    0x08: errors.AddressTypeNotSupported,
    0xE0: errors.OnionServiceNotFound,
    0xE1: errors.OnionServiceNotReachable,
}
PROP229 = {
    **RFC_1928,
    0xF0: errors.TransportTemporaryFailure,
    0xF1: errors.TransportProtocolFailure,
    0xF2: errors.TransportInternalError,
}
TOR = {
    **RFC_1928,
    0xF0: errors.OnionDescriptorNotFound,
    0xF1: errors.OnionDescriptorInvalid,
    0xF2: errors.OnionIntroductionFailed,
    0xF3: errors.OnionRendezvousFailed,
    0xF4: errors.OnionClientAuthRequired,
    0xF5: errors.OnionClientAuthWrong,
    0xF6: errors.OnionAddressInvalid,
    0xF7: errors.OnionIntroductionTimedOut,
}


@pytest.mark.parametrize(
    ("methods", "dialect", "confirmed", "table"),
    [
        (EXTENDED, "auto", {}, PROP229),
        (EXTENDED, "auto", {"tor.errors": "304"}, TOR),
        (EXTENDED, "auto", {"tor.errors": "229"}, PROP229),
        (EXTENDED, "auto", {"tor.errors": "none"}, PROP229),
        (EXTENDED, "prop229", {"tor.errors": "304"}, PROP229),
        (EXTENDED, "tor", {}, TOR),
        (EXTENDED, "plain", {"tor.errors": "304"}, RFC_1928),
        (LOGIN, "auto", {}, TOR),
        (ANONYMOUS, "auto", {}, TOR),
        (ANONYMOUS, "prop229", {}, PROP229),
        (ANONYMOUS, "tor", {}, TOR),
        (ANONYMOUS, "plain", {}, RFC_1928),
    ],
)
def test_every_code_becomes_what_it_means_in_the_dialect(methods, dialect, confirmed, table):
    for code in range(1, 256):
        error = attempt(FakeProxy(code=code, pairs=confirmed), methods, dialect=dialect).outcome
        assert type(error) is table.get(code, errors.UnknownReply), f"{code:02X}"
        assert error.code == code
        assert error.message


def test_a_server_that_selects_another_method_than_97_speaks_tors_dialect():
    tried = attempt(FakeProxy(code=0xF4, method=0x02), {**LOGIN, **EXTENDED})
    assert type(tried.outcome) is errors.OnionClientAuthRequired


def test_tors_f0_on_a_connection_that_stays_is_a_success():
    tried = attempt(FakeProxy(code=0xF0, stop_at=State.REPLY, stop_after=REPLY_LENGTH, ending=Ending.SILENCE))
    assert tried.outcome is None
    tried.run(1)
    assert isinstance(tried.outcome, Recorder)
    tried.outcome.close()
    assert tried.has_left_nothing


def test_what_came_while_tors_f0_was_in_doubt_is_not_lost():
    proxy = FakeProxy(
        code=0xF0, joined=b"data", stop_at=State.REPLY, stop_after=REPLY_LENGTH + 4, ending=Ending.SILENCE
    )
    tried = attempt(proxy).run(1)
    assert tried.outcome.received == b"data"
    tried.outcome.close()


def test_data_after_tors_f0_ends_the_doubt_even_where_the_far_end_closes_with_it():
    # Nothing follows a failing reply: who sends data has a stream.
    tried = attempt(FakeProxy(code=0xF0, joined=b"a whole answer")).run(1)
    assert isinstance(tried.outcome, Recorder)
    assert tried.outcome.received == b"a whole answer"


def test_a_part_of_tors_f0_on_a_connection_that_stays_is_a_failure():
    tried = attempt(FakeProxy(code=0xF0, stop_at=State.REPLY, stop_after=4, ending=Ending.SILENCE)).run(1)
    assert type(tried.outcome) is errors.OnionDescriptorNotFound
    assert tried.has_left_nothing


def test_what_follows_a_malformed_part_of_tors_f0_is_no_stream():
    tried = attempt(
        FakeProxy(
            instead={State.REPLY: bytes.fromhex("05f00063")}, stop_at=State.REPLY, stop_after=4, ending=Ending.SILENCE
        )
    )
    tried.said.transport.write(bytes.fromhex("0000"))
    tried.run()
    tried.said.transport.write(bytes.fromhex("00017f0000010050") + b"DATA")
    tried.run(1)
    assert type(tried.outcome) is errors.OnionDescriptorNotFound
    assert tried.has_left_nothing


def test_tors_time_out_for_an_onion_service_says_so():
    clock = Clock()
    proxy = FakeProxy(code=0x06, clock=clock)
    name = "a" * 56 + ".onion"
    failing = SOCKS5ClientEndpoint(name, 80, proxy.endpoint, reactor=clock).connect(Application())
    clock.advance(0)
    caught = []
    failing.addErrback(caught.append)
    assert type(caught[0].value) is errors.OnionServiceNotReachable
    assert caught[0].value.code == 0x06


# Failures before the request.


@pytest.mark.parametrize(
    ("methods", "state", "answer"),
    [
        (ANONYMOUS, State.SELECTION, b"\x04\x00"),
        (ANONYMOUS, State.SELECTION, b"\x00\x5b\x00\x00"),
        (ANONYMOUS, State.SELECTION, b"HTTP/1.0 501 Tor is not an HTTP Proxy\r\n"),
        (EXTENDED, State.PAIRS_ANSWER, b"\x05\x00\x00\x00"),
        (EXTENDED, State.PAIRS_ANSWER, b"\x01\x00\x00\x01\x00\x00\x00\x00"),
        (EXTENDED, State.PAIRS_ANSWER, b"\x01\x00\x00\x01\x00\x01\xff\x00\x00"),
        (EXTENDED, State.PAIRS_ANSWER, b"\x01\x00\x00\x02" + b"\x00\x01k\x00\x00" * 2),
        (EXTENDED, State.PAIRS_ANSWER, b"\x01\x00\xff\xff"),
        (EXTENDED, State.PAIRS_ANSWER, b"\x01\x00\x00\x01\x00\x01k\xff\xff"),
        (ANONYMOUS, State.REPLY, b"\x04\x00\x00\x01"),
        (ANONYMOUS, State.REPLY, b"\x05\x00\x00\x05"),
        (ANONYMOUS, State.REPLY, b"\x05\x00\x00\x02" + b"\x00" * 6),
    ],
)
def test_a_violation_is_told_as_one_and_ends_the_connection(methods, state, answer):
    tried = attempt(FakeProxy(instead={state: answer}), methods)
    assert type(tried.outcome) is errors.ProtocolViolation
    assert tried.has_left_nothing
    assert tried.application.addresses == []


@pytest.mark.parametrize(
    ("methods", "method"),
    [(ANONYMOUS, 0x02), (ANONYMOUS, 0x97), (ANONYMOUS, 0x01), (LOGIN, 0x00), (LOGIN, 0x97), (EXTENDED, 0x00)],
)
def test_a_method_that_was_not_offered_gets_nothing(methods, method):
    tried = attempt(FakeProxy(method=method), methods)
    assert type(tried.outcome) is errors.ProtocolViolation
    assert f"{method:02X}" in str(tried.outcome)
    assert (tried.said.credentials, tried.said.pairs, tried.said.request) == (None, None, None)
    assert tried.has_left_nothing


@each_way
@pytest.mark.parametrize("ending", [None, Ending.SILENCE])
def test_no_acceptable_method(methods, ending):
    options = {} if ending is None else {"stop_at": State.SELECTION, "stop_after": 2, "ending": ending}
    tried = attempt(FakeProxy(method=0xFF, **options), methods)
    assert type(tried.outcome) is errors.NoAcceptableMethod
    assert tried.has_left_nothing


@pytest.mark.parametrize("status", [0x01, 0x02, 0xFF])
def test_a_login_that_is_refused(status):
    tried = attempt(FakeProxy(status=status), LOGIN)
    assert type(tried.outcome) is errors.AuthenticationFailed
    assert (tried.outcome.status, tried.outcome.code, tried.outcome.pairs) == (status, None, {})
    assert tried.said.request is None
    assert tried.has_left_nothing


def test_tors_answer_to_a_login_that_it_does_not_take():
    tor = b"\x05\x01\x00\x01\x00\x00\x00\x00\x00\x00"
    tried = attempt(FakeProxy(instead={State.CREDENTIALS_ANSWER: tor}), LOGIN)
    assert type(tried.outcome) is errors.AuthenticationFailed
    assert tried.outcome.status is None
    assert tried.has_left_nothing


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0x01, errors.AuthenticationFailed),
        (0x02, errors.InvalidArguments),
        (0x03, errors.UnknownStatus),
        (0xFF, errors.UnknownStatus),
    ],
)
def test_pairs_that_are_refused_and_the_pairs_of_the_answer(status, error):
    tried = attempt(FakeProxy(status=status, pairs={"ERROR": "unknown key: x", "more": b"\xff"}), EXTENDED)
    assert type(tried.outcome) is error
    assert tried.outcome.status == status
    assert tried.outcome.pairs == {"ERROR": b"unknown key: x", "more": b"\xff"}
    assert tried.said.request is None
    assert tried.has_left_nothing


def test_what_a_proxy_says_of_its_refusal_cannot_command_a_terminal():
    tried = attempt(FakeProxy(status=2, pairs={"ERROR": b"key \x1b[2J\r\n\xff" + b"x" * 5000}), EXTENDED)
    text = str(tried.outcome)
    assert "key [2J" in text
    assert text.isprintable()
    assert len(text) < 400


each_message = pytest.mark.parametrize(
    ("methods", "state", "length"),
    [
        (ANONYMOUS, State.SELECTION, 2),
        (LOGIN, State.CREDENTIALS_ANSWER, 2),
        (EXTENDED, State.PAIRS_ANSWER, 4 + 5),
        (ANONYMOUS, State.REPLY, REPLY_LENGTH),
    ],
    ids=lambda value: value.name if isinstance(value, State) else "",
)
"""Every message of a proxy's whose pairs are one key of one byte without a value, and its length."""


@each_message
@pytest.mark.parametrize(
    ("ending", "cause"), [(Ending.CLOSE, ConnectionDone), (Ending.ABORT, ConnectionLost)], ids=["close", "abort"]
)
def test_a_proxy_that_leaves_in_the_middle(methods, state, length, ending, cause):
    for count in range(length):
        proxy = FakeProxy(pairs={"k": b""}, stop_at=state, stop_after=count, ending=ending)
        tried = attempt(proxy, methods)
        assert type(tried.outcome) is errors.ProxyClosed
        assert type(tried.outcome.__cause__) is cause
        assert tried.has_left_nothing
        assert tried.application.addresses == []


def test_a_proxy_that_is_not_there():
    refused = ConnectionRefusedError()
    tried = attempt(FakeProxy(failure=refused))
    assert tried.outcome is refused
    assert tried.has_left_nothing


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


# The application's factory.


def end_of(tried):
    if isinstance(tried.outcome, Recorder):
        tried.outcome.close()


@pytest.mark.parametrize(
    ("options", "events"),
    [
        ({}, ["start", "build", "stop"]),
        ({"code": 5}, ["start", "stop"]),
        ({"failure": ConnectionRefusedError()}, ["start", "stop"]),
        ({"stop_at": State.SELECTION}, ["start", "stop"]),
    ],
    ids=["success", "refused by the target", "no proxy", "closed early"],
)
def test_the_applications_factory_starts_and_stops_once(options, events):
    tried = attempt(FakeProxy(**options))
    end_of(tried)
    assert tried.application.events == events


def test_a_factory_with_several_connections_starts_and_stops_once():
    application = Application()
    first = attempt(FakeProxy(), application=application)
    second = attempt(FakeProxy(), application=application)
    first.outcome.close()
    assert application.events == ["start", "build", "build"]
    second.outcome.close()
    assert application.events == ["start", "build", "build", "stop"]


def test_a_factory_that_builds_nothing():
    class Closed(Application):
        def buildProtocol(self, addr):
            return None

    tried = attempt(FakeProxy(joined=b"data"), application=Closed())
    assert type(tried.outcome) is NoProtocol
    assert tried.has_left_nothing


class Fault(Exception):
    """What a test raises."""


def raising(*_):
    raise Fault


@pytest.mark.parametrize("protocol", [raising, type("Raising", (Recorder,), {"connectionMade": raising})])
def test_an_application_that_raises_fails_with_that_and_nothing_hangs(protocol):
    tried = attempt(FakeProxy(joined=b"data"), application=Application(protocol))
    assert type(tried.outcome) is Fault
    assert tried.has_left_nothing


def test_an_application_may_close_before_it_gets_what_came_with_the_reply():
    class Closing(Recorder):
        def connectionMade(self):
            self.transport.loseConnection()

    tried = attempt(FakeProxy(joined=b"data"), application=Application(Closing))
    assert tried.outcome.received == b""
    assert tried.outcome.lost.type is ConnectionDone


class Pausing(Recorder):
    """Pauses as soon as it can."""

    def connectionMade(self):
        self.transport.pauseProducing()


def test_an_application_that_pauses_gets_what_came_with_the_reply_when_it_resumes():
    tried = attempt(FakeProxy(joined=b"early"), application=Application(Pausing))
    assert tried.outcome.received == b""
    tried.said.tunnel.write(b", late")
    tried.outcome.transport.resumeProducing()
    tried.outcome.transport.pauseProducing()
    tried.run()
    assert tried.outcome.received == b""
    resume = tried.outcome.transport.resumeProducing
    resume()
    assert tried.outcome.received == b""
    tried.run()
    assert tried.outcome.received == b"early, late"
    tried.outcome.transport.pauseProducing()
    tried.said.tunnel.write(b", later")
    tried.run()
    assert tried.outcome.received == b"early, late"
    resume()
    assert tried.run().outcome.received == b"early, late, later"


@pytest.mark.logs_errors
def test_an_application_that_fails_over_it_when_it_has_resumed_loses_its_connection(logged_errors):
    class Failing(Pausing):
        def dataReceived(self, data):
            raise ZeroDivisionError

    tried = attempt(FakeProxy(joined=b"early"), application=Application(Failing))
    tried.outcome.transport.resumeProducing()
    tried.run()
    assert tried.outcome.lost.type is ConnectionAborted
    assert len(logged_errors) == 1


def test_who_waits_for_the_connection_may_pause_it_too():
    tried = Attempt(FakeProxy(joined=b"early"))
    tried.connecting.addCallback(lambda _: tried.outcome.transport.pauseProducing())
    tried.run()
    assert tried.outcome.received == b""
    tried.outcome.transport.resumeProducing()
    assert tried.run().outcome.received == b"early"


def test_who_takes_the_connection_over_gets_what_came_with_the_reply():
    tried, successor = Attempt(FakeProxy(joined=b"early")), Recorder()
    tried.connecting.addCallback(lambda _: hand_over(tried.outcome.transport, successor))
    tried.run()
    assert tried.outcome.received == b""
    assert successor.received == b"early"


@pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
def test_an_application_that_leaves_while_it_pauses_gets_nothing_more(end):
    tried = attempt(FakeProxy(joined=b"early"), application=Application(Pausing))
    getattr(tried.outcome.transport, end)()
    tried.outcome.transport.resumeProducing()
    tried.run()
    assert tried.outcome.received == b""
    assert tried.outcome.lost is not None


def test_an_application_may_abort_before_it_gets_what_came_with_the_reply():
    class Aborting(Recorder):
        def connectionMade(self):
            self.transport.abortConnection()

    tried = attempt(FakeProxy(joined=b"data"), application=Application(Aborting))
    assert tried.outcome.received == b""
    assert tried.outcome.lost.type is ConnectionAborted


# Cleartext.

ELSEWHERE = IPv4Address("TCP", "192.0.2.1", 1080)


@pytest.mark.parametrize("methods", [LOGIN, EXTENDED, {**ANONYMOUS, **LOGIN}, {"isolated": None}])
def test_no_secret_goes_where_others_can_read_it(methods):
    tried = attempt(FakeProxy(address=ELSEWHERE), methods)
    assert type(tried.outcome) is errors.CleartextRefused
    assert tried.said.greeting is None
    assert tried.has_left_nothing


@pytest.mark.parametrize("methods", [ANONYMOUS, {"extended": {}}])
def test_without_secrets_a_proxy_may_be_anywhere(methods):
    assert isinstance(attempt(FakeProxy(address=ELSEWHERE), methods).outcome, Recorder)


@pytest.mark.parametrize("methods", [LOGIN, EXTENDED])
def test_secrets_go_there_where_that_is_allowed(methods):
    tried = attempt(FakeProxy(address=ELSEWHERE), methods, allow_cleartext=True)
    assert tried.said.credentials or tried.said.pairs


@pytest.mark.parametrize(
    "address",
    [
        IPv4Address("TCP", "127.9.9.9", 1080),
        IPv6Address("TCP", "::1", 1080),
        IPv6Address("TCP", "::ffff:127.0.0.1", 1080),
        UNIXAddress("/run/proxy"),
        UNIXAddress(None),
    ],
    ids=repr,
)
def test_this_machine_is_no_place_where_others_read(address):
    assert attempt(FakeProxy(address=address), EXTENDED).said.pairs == {"tor.isolation": b"alice"}


@pytest.mark.parametrize("methods", [LOGIN, EXTENDED])
def test_a_proxy_behind_a_proxy_is_not_on_this_machine(methods):
    clock = Clock()
    far = FakeProxy(clock=clock)
    near = FakeProxy(far, clock=clock)
    tunnel = SOCKS5ClientEndpoint("far.example", 1080, near.endpoint, reactor=clock)
    far.endpoint = tunnel
    tried = []
    connecting = SOCKS5ClientEndpoint("target.example", 443, tunnel, methods, reactor=clock).connect(Application())
    connecting.addBoth(tried.append)
    clock.advance(0)
    assert isinstance(tried[0], Failure)
    assert tried[0].type is errors.CleartextRefused
    assert far.conversations[0].greeting is None


# Choices of one's own.


def choosing(**overrides):
    """A subclass with these."""
    return type("Mine", (SOCKS5ExtClientFactory,), overrides)


def test_an_offer_of_ones_own():
    mine = choosing(offer=lambda self: (Method.USERNAME_PASSWORD, Method(0x42), Method.NO_AUTHENTICATION))
    tried = attempt(FakeProxy(method=0x00), LOGIN, factory=mine)
    assert tried.said.greeting.methods == (0x02, 0x42, 0x00)
    assert isinstance(tried.outcome, Recorder)


def test_credentials_of_ones_own():
    mine = choosing(credentials=lambda self: UsernamePassword(b"", b"fresh"))
    assert attempt(FakeProxy(), LOGIN, factory=mine).said.credentials == UsernamePassword(b"", b"fresh")


def test_pairs_of_ones_own():
    mine = choosing(pairs=lambda self: Pairs({"tor.isolation": self.request.destination.host}))
    assert attempt(FakeProxy(), EXTENDED, factory=mine).said.pairs == {"tor.isolation": b"target.example"}


@pytest.mark.parametrize(
    ("methods", "options"), [(ANONYMOUS, {"code": 5}), (LOGIN, {"status": 1}), (EXTENDED, {"status": 2})]
)
def test_an_error_of_ones_own(methods, options):
    class Mine(Exception):
        """Says what was answered."""

    mine = choosing(error_for=lambda self, answer, initiator: Mine(type(answer).__name__))
    tried = attempt(FakeProxy(**options), methods, factory=mine)
    assert type(tried.outcome) is Mine
    assert tried.has_left_nothing


@pytest.mark.parametrize(
    ("override", "methods", "options"),
    [
        ("offer", ANONYMOUS, {}),
        ("credentials", LOGIN, {}),
        ("pairs", EXTENDED, {}),
        ("error_for", ANONYMOUS, {"code": 5}),
        ("error_for", LOGIN, {"status": 1}),
        ("error_for", ANONYMOUS, {"code": 0xF0}),
        ("address", ANONYMOUS, {"joined": b"data"}),
    ],
)
def test_a_choice_that_raises_ends_with_that_exception_and_nothing_hangs(override, methods, options):
    tried = attempt(FakeProxy(**options), methods, factory=choosing(**{override: raising}))
    assert type(tried.outcome) is Fault
    assert tried.has_left_nothing


@pytest.mark.parametrize(
    ("override", "value", "methods"),
    [
        ("offer", (), ANONYMOUS),
        ("offer", None, ANONYMOUS),
        ("credentials", None, LOGIN),
        ("pairs", {"k": b"a dict is not Pairs"}, EXTENDED),
    ],
)
def test_a_choice_that_is_no_choice_fails_and_nothing_hangs(override, value, methods):
    tried = attempt(FakeProxy(), methods, factory=choosing(**{override: lambda self: value}))
    assert isinstance(tried.outcome, Exception)
    assert tried.has_left_nothing


@pytest.mark.parametrize(
    ("methods", "overrides", "method"),
    [
        ({"extended": {}}, {"pairs": lambda self: Pairs({"tor.isolation": "alice"})}, 0x97),
        (
            ANONYMOUS,
            {
                "offer": lambda self: (Method.USERNAME_PASSWORD,),
                "credentials": lambda self: UsernamePassword(b"user", b"word"),
            },
            0x02,
        ),
    ],
)
def test_secrets_of_ones_own_do_not_go_where_others_can_read_them(methods, overrides, method):
    tried = attempt(FakeProxy(address=ELSEWHERE, method=method), methods, factory=choosing(**overrides))
    assert type(tried.outcome) is errors.CleartextRefused
    assert (tried.said.credentials, tried.said.pairs) == (None, None)
    assert tried.has_left_nothing


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
