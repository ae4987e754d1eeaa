"""What an author's protocol may count on: both sides in memory."""

import asyncio
import errno
import time

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.error import ConnectionRefusedError as TCPRefused
from twisted.internet.task import Clock

from txsocksx_ext import errors
from txsocksx_ext.pt import Transport, TransportProtocol
from txsocksx_ext.testing import Recorder, connect_transports


class Plain(TransportProtocol):
    """Says OK, and carries everything as it is."""

    is_open = False
    buffer = b""

    def connectionMade(self):
        self.transport.write(b"OK")

    def dataReceived(self, data):
        self.buffer += data
        if not self.is_open and self.buffer.startswith(b"OK"):
            self.is_open = True
            self.buffer = self.buffer[2:]
            self.ready()
        if self.is_open:
            self.write_payload(self.buffer)
            self.buffer = b""

    def payload_received(self, payload):
        self.transport.write(payload)


class Silent(TransportProtocol):
    """Takes everything, and says nothing."""

    def dataReceived(self, data):
        """Not a word."""


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def connect(clock):
    def connect(client=Plain, server=Plain, **options):
        return connect_transports(client, server, clock=clock, **options)

    return connect


class TestStreams:
    @pytest.mark.parametrize("most_at_once", [1, 3, 65536])
    def test_both_ways(self, connect, most_at_once):
        pair = connect(most_at_once=most_at_once)
        assert (pair.code, pair.failure) == (0, None)
        pair.client.write(b"to the bridge" * 1000)
        pair.bridge.write(b"and back" * 1000)
        assert pair.bridge.received == b"to the bridge" * 1000
        assert pair.client.received == b"and back" * 1000

    @pytest.mark.parametrize("who", ["client", "bridge"])
    def test_an_end_is_passed_on_as_one(self, connect, who):
        pair = connect()
        one, other = (pair.client, pair.bridge) if who == "client" else (pair.bridge, pair.client)
        one.transport.write(b"last")
        one.end()
        assert other.received == b"last"
        assert other.read_ended
        assert not other.lost
        other.write(b"words")
        assert one.received == b"words"
        other.close()
        one.close()
        assert other.lost.check(ConnectionDone)
        assert one.lost.check(ConnectionDone)

    def test_a_tor_that_closes(self, connect):
        pair = connect()
        pair.client.transport.write(b"last words")
        pair.client.close()
        assert pair.bridge.received == b"last words"
        assert pair.bridge.read_ended
        pair.bridge.close()
        assert pair.client.lost.check(ConnectionDone)

    @pytest.mark.parametrize("who", ["client", "bridge"])
    def test_an_abort_is_passed_on_as_one(self, connect, who):
        pair = connect()
        one, other = (pair.client, pair.bridge) if who == "client" else (pair.bridge, pair.client)
        one.abort()
        assert one.lost
        assert other.lost.check(ConnectionLost)

    def test_who_cannot_read_on_after_the_end_is_closed(self, connect):
        """As Twisted's transports do it: where a protocol knows no half-closed connections."""
        pair = connect()
        transport = pair.client.transport
        transport.protocol = plain = Recorder()
        plain.makeConnection(transport)
        pair.bridge.end()
        pair.bridge.close()
        assert plain.lost.check(ConnectionDone)

    @pytest.mark.parametrize("who", ["client", "bridge"])
    def test_a_slow_reader_stops_the_writer(self, connect, clock, who):
        pair = connect()
        one, other = (pair.client, pair.bridge) if who == "client" else (pair.bridge, pair.client)
        source = Source(one.transport, 4_000_000)
        other.transport.pauseProducing()
        source.resumeProducing()
        clock.advance(0)
        assert source.is_paused
        # What the buffers on the way hold: of the transports, and of connections in memory.
        assert source.written < 2_000_000
        other.transport.resumeProducing()
        clock.advance(0)
        assert source.written == 4_000_000
        assert len(other.received) == 4_000_000

    def test_what_comes_while_it_is_paused_is_held(self, connect, clock):
        class Bursts(Plain):
            def dataReceived(self, data):
                super().dataReceived(data)
                if self.side.is_client and self.is_open:
                    type(self).latest = self

        pair = connect(client=Bursts)
        pair.client.transport.pauseProducing()
        for part in (b"one ", b"two ", b"three"):
            Bursts.latest.write_payload(part)
        Bursts.latest.end_payload()
        assert pair.client.received == b""
        assert not pair.client.read_ended
        pair.client.transport.resumeProducing()
        assert pair.client.received == b"one two three"
        assert pair.client.read_ended

    @pytest.mark.parametrize(("end", "received"), [("loseConnection", b"held"), ("abortConnection", b"")])
    def test_what_is_held_outlives_an_orderly_close_and_no_other(self, connect, clock, end, received):
        kept = []

        class Keeps(Plain):
            def connectionMade(self):
                super().connectionMade()
                kept.append(self)

        pair = connect(client=Keeps)
        pair.client.transport.pauseProducing()
        kept[0].write_payload(b"held")
        getattr(kept[0].transport, end)()
        clock.advance(0)
        pair.client.transport.resumeProducing()
        assert pair.client.received == received
        assert pair.client.lost
        assert not pair.client.transport.connected

    def test_the_time_for_held_payload_grows_with_its_size_alone(self, connect):
        """Of small pieces, many at once: what would grow faster takes most of a minute."""
        kept = []

        class Keeps(Plain):
            def connectionMade(self):
                super().connectionMade()
                kept.append(self)

        class Counting(Recorder):
            count = 0

            def dataReceived(self, data):
                self.count += len(data)

        transport = connect(client=Keeps).client.transport
        transport.protocol = counting = Counting()
        transport.pauseProducing()
        for _ in range(400_000):
            kept[0].write_payload(b"x")
        began = time.process_time()
        transport.resumeProducing()
        assert counting.count == 400_000
        assert time.process_time() - began < 10


class Source:
    """A producer that writes as long as it may."""

    def __init__(self, transport, total):
        self.transport = transport
        self.total = total
        self.written = 0
        self.is_paused = False
        transport.registerProducer(self, True)

    def resumeProducing(self):
        self.is_paused = False
        while not self.is_paused and self.written < self.total:
            self.transport.write(bytes(10_000))
            self.written += 10_000
        if self.written == self.total:
            self.transport.unregisterProducer()

    def pauseProducing(self):
        self.is_paused = True

    def stopProducing(self):
        self.is_paused = True


class TestHandshakes:
    def test_the_client_waits_for_ready(self, connect):
        waiting = Deferred()

        class Slow(Plain):
            def dataReceived(self, data):
                assert data == b"OK"
                waiting.addCallback(lambda _: self.ready())

        pair = connect(client=Slow)
        assert pair.code is None
        waiting.callback(None)
        assert pair.code == 0

    def test_the_bridge_connects_to_tor_when_it_is_ready(self, connect):
        pair = connect(client=Silent)
        assert pair.bridge.transport is None
        assert pair.code is None

    def test_ready_twice_is_ready_once(self, connect):
        class Eager(Plain):
            def dataReceived(self, data):
                super().dataReceived(data)
                self.ready()

        pair = connect(client=Eager, server=Eager)
        pair.client.write(b"once")
        assert pair.bridge.received == b"once"

    def test_payload_that_comes_with_the_handshake_is_held(self, connect):
        class Hasty(Plain):
            def connectionMade(self):
                super().connectionMade()
                self.transport.write(b"hello")
                self.write_payload(b"before: ")

        pair = connect(client=Plain, server=Hasty)
        assert pair.client.received == b"hello"
        pair.client.write(b"after")
        assert pair.bridge.received == b"before: after"

    def test_it_may_be_ready_at_once(self, connect):
        class NoHandshake(Plain):
            def connectionMade(self):
                self.is_open = True
                self.ready()

        pair = connect(client=NoHandshake, server=NoHandshake)
        pair.client.write(b"there")
        assert pair.bridge.received == b"there"

    def test_silence(self, connect, clock):
        pair = connect(server=Silent)
        clock.advance(44)
        assert pair.code is None
        clock.advance(1)
        assert pair.code == 0x06
        assert isinstance(pair.failure, errors.TTLExpired)

    def test_the_time_is_the_authors(self, connect, clock):
        class Patient(Plain):
            handshake_timeout = 100.0

        lost = []

        class Brief(Silent):
            handshake_timeout = 3.0

            def connectionLost(self, reason):
                lost.append(reason)

        pair = connect(client=Patient, server=Brief)
        clock.advance(2)
        assert not lost
        clock.advance(1)
        # The bridge gave up, by a reset.
        assert len(lost) == 1
        assert pair.code == 0x05

    def test_after_the_handshake_there_is_no_deadline(self, connect, clock):
        pair = connect()
        clock.advance(10_000)
        pair.client.write(b"still there")
        assert pair.bridge.received == b"still there"


class Strange(Exception):
    pass


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (errors.TransportTemporaryFailure("again"), 0xF0),
            (errors.TransportProtocolFailure("never"), 0xF1),
            (errors.TransportInternalError("later"), 0xF2),
            (errors.TTLExpired(), 0x06),
            (TCPRefused(), 0x05),
            (ConnectionLost(), 0x05),
            (OSError(errno.ENETUNREACH, "no way"), 0x03),
        ],
    )
    def test_an_author_says_why(self, connect, error, code):
        class Fails(Plain):
            def connectionMade(self):
                self.fail(error)
                self.fail(errors.TTLExpired())  # only the first counts
                self.ready()

        pair = connect(client=Fails)
        assert pair.code == code
        assert pair.bridge.transport is None

    @pytest.mark.logs_errors
    def test_a_class_is_no_error(self, connect, logged_errors):
        class Fails(Plain):
            def connectionMade(self):
                self.fail(errors.TransportProtocolFailure)

        pair = connect(client=Fails)
        assert pair.code == 0xF2
        (event,) = logged_errors
        assert str(event["log_failure"].value) == "fail() takes an exception, not type"

    def test_any_other_error_is_the_transports_own(self, connect):
        class Fails(Plain):
            def connectionMade(self):
                self.fail(Strange("out of luck"))

        pair = connect(client=Fails)
        assert pair.code == 0xF2
        assert str(pair.failure) == "out of luck"

    @pytest.mark.parametrize("hook", ["prepare", "connectionMade", "dataReceived", "endpoint", "connectionLost"])
    def test_what_is_raised_with_a_code(self, connect, hook):
        def raises(self, *arguments):
            raise errors.TransportTemporaryFailure("raised")

        fails = type("Fails", (Plain,), {hook: raises})
        pair = connect(client=fails, server=Closing if hook == "connectionLost" else Plain)
        assert pair.code == 0xF0
        assert str(pair.failure) == "raised"

    @pytest.mark.parametrize("hook", ["prepare", "connectionMade", "dataReceived", "endpoint", "connectionLost"])
    def test_to_fail_is_the_same_as_to_raise(self, connect, hook):
        def fails(self, *arguments):
            self.fail(errors.TransportTemporaryFailure("failed"))
            raise Strange  # counts for nothing

        pair = connect(
            client=type("Fails", (Plain,), {hook: fails}), server=Closing if hook == "connectionLost" else Plain
        )
        assert pair.code == 0xF0
        assert str(pair.failure) == "failed"

    def test_a_bridge_that_fails_as_it_starts_does_not_start(self, connect):
        class Fails(Plain):
            def prepare(self):
                self.fail(errors.TransportTemporaryFailure("failed"))

        pair = connect(server=Fails)
        assert pair.code == 0xF0
        assert str(pair.failure) == "failed"

    @pytest.mark.parametrize("raises", [True, False])
    def test_a_bridge_that_fails_before_the_handshake_closes_as_it_does_later(self, connect, raises):
        class Fails(Plain):
            count = 0

            def prepare(self):
                type(self).count += 1
                if self.count > 1:  # not as it starts
                    error = errors.TransportTemporaryFailure("failed")
                    if raises:
                        raise error
                    self.fail(error, b"NO")

        class Hears(Plain):
            def dataReceived(self, data):
                raise errors.TransportInternalError(data.decode())

        pair = connect(client=Hears, server=Fails)
        assert pair.code == (0xF1 if raises else 0xF2)
        assert str(pair.failure) == ("the peer closed the connection during the handshake" if raises else "NO")

    @pytest.mark.logs_errors
    @pytest.mark.parametrize("hook", ["prepare", "connectionMade", "dataReceived", "endpoint", "connectionLost"])
    @pytest.mark.parametrize("error", [Strange, asyncio.CancelledError])
    def test_what_is_raised_without_one(self, connect, hook, error, logged_errors):
        def raises(self, *arguments):
            raise error

        fails = type("Fails", (Plain,), {hook: raises})
        pair = connect(client=fails, server=Closing if hook == "connectionLost" else Plain)
        assert pair.code == 0xF2
        assert str(pair.failure) == f"the transport raised {error.__name__}: see its log"
        (event,) = logged_errors
        assert event["log_namespace"] == "transport.tested"
        assert event["log_failure"].check(error)

    @pytest.mark.logs_errors
    @pytest.mark.parametrize("hook", ["payload_received", "payload_ended", "peer_ended"])
    def test_what_is_raised_in_a_stream_ends_it(self, connect, hook, logged_errors):
        lost = []

        def raises(self, *arguments):
            raise Strange()

        methods = {hook: raises, "connectionLost": lambda self, reason: lost.append(reason)}
        pair = connect(client=type("Fails", (Plain,), methods))
        assert pair.code == 0
        (pair.bridge.end if hook == "peer_ended" else lambda: pair.client.transport.write(b"data"))()
        pair.client.end()
        assert pair.client.lost
        assert pair.bridge.lost
        assert len(lost) == 1
        assert len(logged_errors) == 1

    def test_a_class_without_the_methods_it_needs(self, connect, logged_errors):
        pair = connect(client=TransportProtocol)
        assert pair.code == 0xF2
        (event,) = logged_errors
        assert "TransportProtocol has no dataReceived()" in event["log_failure"].getErrorMessage()

    test_a_class_without_the_methods_it_needs = pytest.mark.logs_errors(test_a_class_without_the_methods_it_needs)

    def test_arguments_that_it_does_not_take(self, connect):
        class Wants(Plain):
            def prepare(self):
                self.count = int(self.arguments["count"])

        class Counts(Wants):
            @classmethod
            def set_up(cls, side):
                return {"count": "7", **side.arguments}

        assert connect(client=Wants, server=Counts).code == 0
        pair = connect(client=Wants, server=Counts, arguments={"count": "x"})
        assert pair.code == 0xF1
        assert "does not take these arguments: invalid literal" in str(pair.failure)
        # It goes to tor's log, where arguments have no place.
        secret = connect(client=Wants, server=Counts, arguments={"count": "top secret"})
        assert "top secret" not in str(secret.failure)
        pair = connect(client=Wants, server=Counts, arguments={})
        assert pair.code == 0xF1
        assert isinstance(pair.failure, errors.MissingArgument)
        # On the bridge's side they are looked at before anyone connects.
        pair = connect(client=Wants, server=Counts, options={"count": "x"})
        assert "does not take these arguments" in str(pair.failure)

    def test_the_peer_closes_during_the_handshake(self, connect):
        pair = connect(server=Closing)
        assert pair.code == 0xF1
        assert str(pair.failure) == "the peer closed the connection during the handshake"

    def test_the_peer_resets_during_the_handshake(self, connect):
        class Resetting(Plain):
            def connectionMade(self):
                self.transport.abortConnection()

        assert connect(server=Resetting).code == 0x05

    def test_the_author_knows_better_what_a_close_means(self, connect):
        class Ticketed(Plain):
            def connectionLost(self, reason):
                self.fail(errors.TransportTemporaryFailure("the ticket has expired"))

        assert connect(client=Ticketed, server=Closing).code == 0xF0

    def test_the_bridge_tells_why_before_it_closes(self, connect, clock):
        """Though it does not read what the client says meanwhile, which would make a close a reset."""

        class Refuses(Plain):
            def connectionMade(self):
                self.fail(errors.TransportProtocolFailure("no ticket"), b"NO")

        class Hears(Plain):
            def dataReceived(self, data):
                if data == b"NO":
                    raise errors.TransportTemporaryFailure("the bridge said no")

        assert str(connect(client=Hears, server=Refuses).failure) == "the bridge said no"

    def test_a_stream_that_fails_with_last_words_is_cut_off_for_tor_all_the_same(self, connect, clock):
        class Refuses(Plain):
            def payload_received(self, payload):
                self.fail(errors.TransportProtocolFailure("not this"), b"NO")

        pair = connect(server=Refuses)
        pair.bridge.write(b"payload")
        assert pair.bridge.lost is not None
        assert not pair.bridge.read_ended
        assert not pair.bridge.lost.check(ConnectionDone)

    def test_a_peer_that_does_not_leave_after_the_last_words(self, connect, clock):
        lost = []

        class Refuses(Silent):
            def connectionMade(self):
                self.fail(errors.TransportProtocolFailure("no ticket"), b"NO")

            def connectionLost(self, reason):
                lost.append(reason)

        class Stays(Silent):
            def peer_ended(self):
                """Does not care."""

            def connectionMade(self):
                self.ready()

        connect(client=Stays, server=Refuses)
        clock.advance(1)
        assert not lost
        clock.advance(1)
        assert len(lost) == 1

    def test_what_is_done_after_failing_counts_for_nothing(self, connect):
        class Confused(Plain):
            def dataReceived(self, data):
                if data == b"OK":
                    self.ready()
                    return
                self.write_payload(b"before")
                self.fail(errors.TransportProtocolFailure("not this"))
                self.write_payload(b"after")
                self.end_payload()
                raise RuntimeError

            def connectionLost(self, reason):
                self.write_payload(b"later")
                raise RuntimeError

        pair = connect(client=Confused)
        pair.bridge.write(b"data")
        assert pair.client.lost
        assert pair.client.received in (b"", b"before")
        assert not pair.client.read_ended

    def test_failing_in_a_stream_resets_both_ends(self, connect):
        class Picky(Plain):
            def payload_received(self, payload):
                self.fail(errors.TransportProtocolFailure("not this"))

        pair = connect(client=Picky)
        pair.client.write(b"data")
        assert pair.client.lost
        assert pair.bridge.lost.check(ConnectionLost)


class Closing(Silent):
    """Leaves when it has heard something."""

    def dataReceived(self, data):
        self.transport.loseConnection()


class TestSides:
    def test_what_a_protocol_knows(self, connect, tmp_path):
        seen = {}

        class Looks(Plain):
            @classmethod
            def set_up(cls, side):
                side.shared = []
                return {"published": "yes", "option": "over"}

            def prepare(self):
                side = self.side
                seen[side.is_client] = (dict(self.arguments), self.target, side.name, side.state, side.shared)

        assert connect(Looks, Looks, options={"option": "under", "own": "1"}, state=tmp_path).code == 0
        arguments, target, name, state, _ = seen[True]
        assert arguments == {"published": "yes", "option": "over"}
        assert (target.host, target.port) == ("192.0.2.1", 443)
        assert name == "tested"
        assert state.stat().st_mode & 0o777 == 0o700
        assert state.parent.stat().st_mode & 0o777 == 0o700
        arguments, target, _, other_state, shared = seen[False]
        assert arguments == {"published": "yes", "option": "over", "own": "1"}
        assert target is None
        assert other_state != state
        assert shared == []

    def test_set_up_may_take_its_time(self, connect):
        class Later(Plain):
            @classmethod
            async def set_up(cls, side):
                await waiting
                return {"key": "1"}

        waiting = Deferred()
        pair = connect(server=Later)
        assert pair.code is None
        waiting.callback(None)
        pair.client.transport or pair.client.settle()
        assert pair.failure is None

    def test_a_transport_needs_a_name_and_a_side(self):
        with pytest.raises(ValueError, match="neither a client nor a server"):
            Transport("plain")
        with pytest.raises(ValueError, match="name of a transport"):
            Transport("not-a-name", client=Plain)
