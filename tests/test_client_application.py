"""What the application gets from a connection: bytes, ends and addresses; and what its factory may do."""

import asyncio

import pytest
from support.attempts import EXTENDED, LOGIN, Application, Attempt, Fault, attempt, each_way, raising
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, ConnectionRefusedError, NoProtocol
from twisted.internet.protocol import Factory

from txsocksx_ext.net.twisted_transports import hand_over
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.protocol.messages import Address, UsernamePassword
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.testing import FakeProxy, Recorder

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
        Address.of(".".join(["b" * 63] * 3 + ["b" * 61]), 0x1234),
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
@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_an_application_that_fails_over_it_when_it_has_resumed_loses_its_connection(logged_errors, error):
    class Failing(Pausing):
        def dataReceived(self, data):
            raise error

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
