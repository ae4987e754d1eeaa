"""The transports, endpoints and recorders in memory: they behave as the network does."""

import pytest
from support.attempts import outcome_of
from twisted.internet.address import IPv4Address
from twisted.internet.defer import AlreadyCalledError
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoProtocol,
    NotConnectingError,
)
from twisted.internet.interfaces import IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from txsocksx_ext.testing import HalfCloseRecorder, MemoryEndpoint, Recorder, connect_in_memory, connect_to

ELSEWHERE = IPv4Address("TCP", "192.0.2.1", 1080)


def pair(protocol=Recorder, **options):
    """Two connected recorders, and the clock that carries their bytes."""
    clock = Clock()
    near, far = protocol(), protocol()
    connect_in_memory(near, far, clock=clock, **options)
    clock.advance(0)
    return near, far, clock


# Transports.


def test_what_is_written_arrives_later_and_never_inside_the_call():
    near, far, clock = pair()
    near.transport.write(b"abc")
    assert far.received == b""
    clock.advance(0)
    assert far.received == b"abc"


def test_protocols_that_answer_one_another_at_once_do_not_recurse():
    class Counting(Protocol):
        heard = depth = 0

        def dataReceived(self, data):
            assert Counting.depth == 0
            Counting.depth += 1
            self.heard += 1
            if self.heard < 5000:
                self.transport.write(data)
            Counting.depth -= 1

    near, far = Counting(), Counting()
    clock = Clock()
    connect_in_memory(near, far, clock=clock)
    near.transport.write(b"ball")
    clock.advance(0)
    assert near.heard + far.heard == 9999


def test_a_transport_is_a_tcp_transport_with_the_addresses_given():
    near, far, _ = pair(server_address=ELSEWHERE)
    assert verifyObject(ITCPTransport, near.transport)
    assert near.transport.getPeer() == far.transport.getHost() == ELSEWHERE
    assert near.transport.getHost() == far.transport.getPeer()
    near.transport.setTcpKeepAlive(True)
    near.transport.setTcpNoDelay(True)
    assert (near.transport.getTcpKeepAlive(), near.transport.getTcpNoDelay()) == (True, True)


@pytest.mark.parametrize(
    ("act", "ours", "theirs"),
    [
        (Recorder.close, ConnectionDone, ConnectionDone),
        (Recorder.abort, ConnectionAborted, ConnectionLost),
    ],
)
def test_an_end_is_seen_on_both_sides(act, ours, theirs):
    near, far, clock = pair()
    act(near)
    assert (near.lost.type, far.lost.type) == (ours, theirs)
    assert clock.getDelayedCalls() == []


def test_a_close_comes_after_all_that_was_written():
    near, far, _ = pair()
    near.transport.write(b"x" * 500_000)
    near.close()
    assert len(far.received) == 500_000
    assert far.lost.type is ConnectionDone


def test_half_close_is_told_to_who_can_take_it_and_the_other_way_stays_open():
    near, far, _ = pair(HalfCloseRecorder)
    near.write(b"question")
    near.end()
    assert (far.received, far.read_ended, far.lost) == (b"question", True, None)
    far.write(b"answer")
    assert near.received == b"answer"
    far.close()
    assert near.read_ended
    near.close()
    assert near.lost.type is far.lost.type is ConnectionDone


def test_half_close_is_a_close_to_who_cannot_take_it():
    near, far, _ = pair()
    near.end()
    assert near.lost.type is far.lost.type is ConnectionDone


def test_a_close_with_unread_input_resets_as_on_linux():
    near, far, _ = pair()
    near.transport.pauseProducing()
    far.write(b"never read")
    near.close()
    assert far.lost.type is ConnectionLost


def test_who_does_not_read_stops_the_other_ends_producer():
    class Producer:
        paused = resumed = stopped = 0

        def pauseProducing(self):
            self.paused += 1

        def resumeProducing(self):
            self.resumed += 1

        def stopProducing(self):
            self.stopped += 1

    near, far, clock = pair()
    producer = Producer()
    near.transport.registerProducer(producer, True)
    far.transport.pauseProducing()
    near.write(b"x" * 50_000)
    assert producer.paused == 0
    near.write(b"x" * 100_000)
    assert (producer.paused, producer.resumed, far.received) == (1, 0, b"")
    far.transport.resumeProducing()
    clock.advance(0)
    assert (producer.resumed, len(far.received)) == (1, 150_000)
    far.abort()
    assert producer.stopped == 1


def test_how_much_arrives_at_once_can_be_limited():
    chunks = []

    class Chunked(Recorder):
        def dataReceived(self, data):
            chunks.append(data)

    near, _, _ = pair(Chunked, most_at_once=3)
    near.write(b"abcdefgh")
    assert chunks == [b"abc", b"def", b"gh"]


@pytest.mark.logs_errors
def test_a_protocol_that_raises_is_logged_and_loses_its_connection(logged_errors):
    class Fault(Exception):
        """What the protocol raises."""

    class Raising(Recorder):
        def dataReceived(self, data):
            raise Fault

    near, far, clock = Recorder(), Raising(), Clock()
    connect_in_memory(near, far, clock=clock)
    near.write(b"x")
    assert far.lost.type is Fault
    assert near.lost is not None
    assert [event["log_failure"].type for event in logged_errors] == [Fault]


async def test_without_a_clock_the_reactor_carries_the_bytes():
    near, far = Recorder(), Recorder()
    connect_in_memory(near, far)
    near.write(b"abc")
    assert far.received == b""
    await far.until(lambda recorder: recorder.received == b"abc")
    far.close()
    await near.until(lambda recorder: recorder.lost)
    assert near.lost.check(ConnectionDone)


# The endpoint.


class Counting(Factory):
    """Counts its starts and stops."""

    protocol = Recorder
    noisy = False
    started = stopped = 0

    def startFactory(self):
        self.started += 1

    def stopFactory(self):
        self.stopped += 1


def test_an_endpoint_connects_in_a_later_turn_and_keeps_what_the_server_built():
    clock, factory = Clock(), Counting()
    endpoint = MemoryEndpoint(Factory.forProtocol(Recorder), clock=clock, address=ELSEWHERE)
    assert verifyObject(IStreamClientEndpoint, endpoint)
    connecting = endpoint.connect(factory)
    assert not connecting.called
    assert endpoint.connecting == [connecting]
    clock.advance(0)
    client = outcome_of(connecting)
    client.write(b"hello")
    assert endpoint.servers[0].received == b"hello"
    assert client.transport.getPeer() == ELSEWHERE
    assert (factory.started, factory.stopped, endpoint.connecting) == (1, 0, [])
    client.close()
    assert factory.stopped == 1


@pytest.mark.parametrize("hangs", [False, True])
def test_connecting_can_be_cancelled(hangs):
    clock, factory = Clock(), Counting()
    endpoint = MemoryEndpoint(Factory.forProtocol(Recorder), clock=clock, hangs=hangs)
    connecting = endpoint.connect(factory)
    connecting.cancel()
    clock.advance(0)
    assert isinstance(outcome_of(connecting), ConnectingCancelledError)
    assert (factory.started, factory.stopped, endpoint.connecting, endpoint.servers) == (1, 1, [], [])
    assert clock.getDelayedCalls() == []


def test_cancelling_from_inside_connection_made_raises_as_twisteds_endpoints_do():
    raised = []

    class Cancelling(Recorder):
        def connectionMade(self):
            try:
                connecting.cancel()
            except NotConnectingError as error:
                raised.append(error)

    clock = Clock()
    connecting = MemoryEndpoint(Factory.forProtocol(Recorder), clock=clock).connect(Factory.forProtocol(Cancelling))
    with pytest.raises(AlreadyCalledError):
        clock.advance(0)
    assert raised
    assert isinstance(outcome_of(connecting), ConnectingCancelledError)


def test_an_endpoint_can_fail_as_a_test_wants():
    clock, factory, refused = Clock(), Counting(), ConnectionRefusedError()
    endpoint = MemoryEndpoint(Factory.forProtocol(Recorder), clock=clock, failure=refused)
    connecting = endpoint.connect(factory)
    clock.advance(0)
    assert outcome_of(connecting) is refused
    assert (factory.started, factory.stopped) == (1, 1)


def building_nothing():
    factory = Factory()
    factory.buildProtocol = lambda addr: None
    return factory


def test_a_client_that_builds_nothing_is_not_connected():
    clock = Clock()
    endpoint = MemoryEndpoint(Factory.forProtocol(Recorder), clock=clock)
    connecting = endpoint.connect(building_nothing())
    clock.advance(0)
    assert isinstance(outcome_of(connecting), NoProtocol)
    assert endpoint.servers == []


def test_a_server_that_builds_nothing_hangs_up():
    clock = Clock()
    connecting = MemoryEndpoint(building_nothing(), clock=clock).connect(Factory.forProtocol(Recorder))
    clock.advance(0)
    assert outcome_of(connecting).lost.type is ConnectionDone
    assert connect_to(building_nothing(), clock=clock).lost.type is ConnectionDone


# Recorders.


def test_waiting_for_something_to_happen():
    near, far, _ = pair()
    waiting = near.until(lambda recorder: len(recorder.received) >= 4)
    far.write(b"abc")
    assert not waiting.called
    far.write(b"d")
    assert waiting.called
    assert near.until(lambda recorder: recorder.received).called
    lost = near.until(lambda recorder: recorder.lost)
    far.close()
    assert lost.called
