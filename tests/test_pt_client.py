"""The client's side as tor sees it, and as clients of method 0x97 do: SOCKS5, byte by byte."""

import sys

import pytest
from support.logs import lines_logged
from support.vectors import by_id, vectors_of
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import ProcessEndpoint, TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionRefusedError as TCPRefused
from twisted.internet.error import NoRouteError, ProcessDone, ProcessTerminated
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from txsocksx_ext import SOCKS5ClientEndpoint, errors
from txsocksx_ext.protocol.codes import Command
from txsocksx_ext.protocol.messages import Address, ExtendedRequest, Request
from txsocksx_ext.protocol.pairs import Pairs
from txsocksx_ext.pt import TransportProtocol
from txsocksx_ext.pt.client import OwnTransportRoute, TransportSOCKSFactory
from txsocksx_ext.pt.outgoing import Outgoing
from txsocksx_ext.pt.protocol import Side
from txsocksx_ext.testing import MemoryEndpoint, Recorder, connect_to
from txsocksx_ext.transports.arguments import Arguments, encode_arguments, to_credentials

TARGET = Address.of("192.0.2.7", 4443)
CONNECT = Request(Command.CONNECT, TARGET).encode()
OFFERS_97 = b"\x05\x01\x97"
NOTHING = bytes.fromhex("000100000000" + "0000")
"""RSV, and an address that says nothing: where a transport connects from is not told."""


class Plain(TransportProtocol):
    """Ready when the bridge says so; keeps all that it was given."""

    made: list

    def prepare(self):
        self.made.append(self)
        if "bad" in self.arguments:
            raise ValueError("bad has no place here")
        if "unfit" in self.arguments:
            self.fail(errors.TransportProtocolFailure("so it fails"))

    def dataReceived(self, data):
        if data == b"ready":
            self.ready()
        elif data == b"refused":
            raise self.failure
        else:
            self.write_payload(data)

    def payload_received(self, payload):
        self.transport.write(payload)


class Listener:
    """A client's side in memory, whose ways all lead to `bridge`."""

    def __init__(self, **options):
        self.clock = Clock()
        self.bridge = Recorder()
        factory = Factory()
        factory.buildProtocol = lambda address: self.bridge
        self.endpoint = MemoryEndpoint(factory, clock=self.clock, **options)
        self.outgoing = Outgoing(self.clock)
        self.outgoing.endpoint = self.find
        self.targets = []
        self.transport = type("Transport", (Plain,), {"made": []})
        side = Side(self.clock, "tested", True, state_location=None, outgoing=self.outgoing)
        self.factory = TransportSOCKSFactory(side, self.transport)

    def find(self, host, port):
        self.targets.append((host, port))
        return self.endpoint

    def say(self, *messages):
        """A client that says this, and what it heard after each."""
        client = connect_to(self.factory, clock=self.clock)
        heard = []
        for message in messages:
            before = len(client.received)
            client.write(message)
            heard.append(client.received[before:])
        return client, heard

    @property
    def arguments(self):
        (protocol,) = self.transport.made
        return protocol.arguments.pairs


@pytest.fixture
def listener():
    return Listener()


def test_without_arguments(listener):
    client, heard = listener.say(b"\x05\x01\x00", CONNECT)
    assert heard == [b"\x05\x00", b""]
    listener.bridge.write(b"ready")
    assert client.received == b"\x05\x00" + b"\x05\x00" + NOTHING
    assert listener.targets == [("192.0.2.7", 4443)]
    assert listener.arguments == ()
    client.write(b"payload")
    assert listener.bridge.received == b"payload"
    client.close()


@pytest.mark.parametrize("vector", **by_id([v for v in vectors_of("ptauth") if v.expected == "ok"]))
def test_arguments_as_tor_sends_them(listener, vector):
    client, heard = listener.say(b"\x05\x02\x00\x02", vector.data, CONNECT)
    assert heard == [b"\x05\x02", b"\x01\x00", b""]
    assert listener.arguments == tuple(map(tuple, vector.row["decoded"]["args"]))
    client.abort()


@pytest.mark.parametrize("vector", **by_id([v for v in vectors_of("ptauth") if v.expected != "ok"]))
def test_malformed_arguments_by_rfc_1929(listener, vector):
    client, heard = listener.say(b"\x05\x02\x00\x02", vector.data)
    assert heard == [b"\x05\x02", b"\x01\x01"]
    listener.clock.advance(2)
    assert client.lost
    assert listener.transport.made == []


def test_1500_bytes_by_method_97(listener):
    values = {"key": "k" * 700, "ticket": "=;\\" * 300}
    assert len(encode_arguments(values)) > 1500
    with pytest.raises(ValueError, match="RFC 1929 carries 510: only method 0x97 has no such limit"):
        to_credentials(encode_arguments(values))
    request = ExtendedRequest(Pairs({f"pt.{key}": value for key, value in values.items()})).encode()
    client, heard = listener.say(OFFERS_97, request, CONNECT)
    assert heard == [b"\x05\x97", b"\x01\x00\x00\x00", b""]
    assert dict(listener.arguments) == values
    client.abort()


def test_malformed_arguments_by_method_97(listener):
    _, heard = listener.say(OFFERS_97, ExtendedRequest(Pairs({"pt.": "secret"})).encode())
    assert heard[1].startswith(b"\x01\x02")
    assert b"the key pt. names no argument" in heard[1]
    assert b"secret" not in heard[1]


def test_a_key_that_means_nothing_here(listener):
    _, heard = listener.say(OFFERS_97, ExtendedRequest(Pairs({"tor.isolation": "x"})).encode())
    assert heard[1].startswith(b"\x01\x02")
    _, heard = listener.say(
        OFFERS_97, ExtendedRequest(Pairs({"?tor.isolation": "x", "?pt.key": "1"})).encode(), CONNECT
    )
    assert heard[1].startswith(b"\x01\x00")
    assert listener.arguments == (("key", "1"),)


BOTH_DIALECTS = pytest.mark.parametrize("extended", [True, False], ids=["method 0x97", "tor"])


def code_of(listener, extended, arguments=(), then=lambda: None):
    """The reply code that a client gets."""
    if extended:
        said = [OFFERS_97, ExtendedRequest(Pairs({f"pt.{key}": value for key, value in arguments})).encode()]
    elif arguments:
        said = [b"\x05\x02\x00\x02", to_credentials(encode_arguments(arguments)).encode()]
    else:
        said = [b"\x05\x01\x00"]
    client, heard = listener.say(*said, CONNECT)
    before = sum(map(len, heard[:-1]))
    then()
    reply = client.received[before:]
    assert reply[2:] == NOTHING
    listener.clock.advance(2)
    assert client.lost
    return reply[1]


@BOTH_DIALECTS
@pytest.mark.parametrize(
    ("failure", "code", "plain"),
    [
        (errors.TransportTemporaryFailure(), 0xF0, 0x01),
        (errors.TransportProtocolFailure(), 0xF1, 0x01),
        (errors.TransportInternalError(), 0xF2, 0x01),
        (errors.GeneralServerFailure(), 0x01, 0x01),
        (errors.ConnectionNotAllowed(), 0x02, 0x02),
        (errors.TTLExpired(), 0x06, 0x06),
    ],
)
def test_what_the_handshake_fails_with(listener, extended, failure, code, plain):
    listener.transport.failure = failure
    assert code_of(listener, extended, then=lambda: listener.bridge.write(b"refused")) == (code if extended else plain)
    assert listener.bridge.lost


@BOTH_DIALECTS
@pytest.mark.parametrize(("failure", "code"), [(TCPRefused(), 0x05), (NoRouteError(), 0x03)])
def test_what_connecting_fails_with(extended, failure, code):
    assert code_of(Listener(failure=failure), extended) == code


@BOTH_DIALECTS
def test_a_bridge_that_closes(listener, extended):
    assert code_of(listener, extended, then=lambda: listener.bridge.close()) == (0xF1 if extended else 0x01)


@BOTH_DIALECTS
def test_a_bridge_that_resets(listener, extended):
    assert code_of(listener, extended, then=lambda: listener.bridge.abort()) == 0x05


@BOTH_DIALECTS
def test_a_bridge_that_says_nothing(listener, extended):
    assert code_of(listener, extended, then=lambda: listener.clock.advance(45)) == 0x06
    assert listener.bridge.lost


@BOTH_DIALECTS
def test_a_bridge_that_does_not_answer_at_all(extended):
    listener = Listener(hangs=True)
    assert code_of(listener, extended, then=lambda: listener.clock.advance(45)) == 0x06
    assert listener.endpoint.connecting == []


@BOTH_DIALECTS
@pytest.mark.parametrize("argument", ["bad", "unfit"])
def test_arguments_that_the_transport_does_not_take(listener, extended, argument):
    assert code_of(listener, extended, [(argument, "1")]) == (0xF1 if extended else 0x01)
    # It did not come to dialling.
    assert listener.targets == []


@BOTH_DIALECTS
@pytest.mark.logs_errors
def test_a_fault_in_the_transport(listener, extended, logged_errors):
    listener.transport.failure = ZeroDivisionError()
    assert code_of(listener, extended, then=lambda: listener.bridge.write(b"refused")) == (0xF2 if extended else 0x01)
    (event,) = logged_errors
    assert event["log_failure"].check(ZeroDivisionError)


@pytest.fixture
def log():
    """What the transport logs, as lines."""
    with lines_logged("transport.tested") as lines:
        yield lines


@pytest.mark.parametrize("hangs", [False, True])
def test_tor_s_user_sees_that_the_bridge_did_not_answer(hangs, log):
    listener = Listener(hangs=hangs)
    assert code_of(listener, True, then=lambda: listener.clock.advance(45)) == 0x06
    assert log == ["tested has no connection: the bridge did not answer within 45 seconds"]


def test_nobody_is_told_of_a_client_that_left(listener, log):
    client, _ = listener.say(b"\x05\x01\x00", CONNECT)
    client.abort()
    listener.clock.advance(45)
    assert log == []


def test_a_client_that_leaves_during_the_handshake(listener):
    client, _ = listener.say(b"\x05\x01\x00", CONNECT)
    client.abort()
    listener.clock.advance(0)
    assert listener.bridge.lost


def test_a_client_that_leaves_while_we_dial():
    listener = Listener(hangs=True)
    client, _ = listener.say(b"\x05\x01\x00", CONNECT)
    assert len(listener.endpoint.connecting) == 1
    client.abort()
    listener.clock.advance(0)
    assert listener.endpoint.connecting == []


@pytest.mark.parametrize("command", [Command.BIND, Command.UDP_ASSOCIATE, Command.RESOLVE])
def test_only_connections_are_made(listener, command):
    _, heard = listener.say(b"\x05\x01\x00", Request(command, TARGET).encode())
    assert heard[1] == b"\x05\x07" + NOTHING


def test_a_name_is_not_looked_up():
    listener = Listener()
    listener.outgoing.endpoint = Outgoing(listener.clock).endpoint
    _, heard = listener.say(b"\x05\x01\x00", Request(Command.CONNECT, Address.of("bridge.example", 1)).encode())
    assert heard[1] == b"\x05\x08" + NOTHING


class Greeter(TransportProtocol):
    """Another transport, over sockets: ready when the bridge greets."""

    def dataReceived(self, data):
        self.ready()

    def payload_received(self, payload):
        self.transport.write(payload.upper())


class ThroughAProgram(Greeter):
    """Its peer is another program, to which the connection can be closed and no more."""

    handshake_timeout = 0.5

    def endpoint(self):
        hears_all = "import sys; sys.stdin.read()"
        return ProcessEndpoint(self.side.reactor, sys.executable, [sys.executable, "-c", hears_all])

    def connectionMade(self):
        if "ready" in self.arguments:
            self.ready()

    def connectionLost(self, reason):
        self.side.shared.callback(reason.value)


def open_through_a_program(arguments):
    """The transport to be, and what fires when its connection is lost."""
    from twisted.internet import reactor

    side = Side(reactor, "tested", True, state_location=None)
    side.shared = Deferred()
    route = OwnTransportRoute(side, ThroughAProgram)
    opening = Deferred.fromCoroutine(route.open(Arguments(arguments), TARGET))
    return opening, side.shared.addTimeout(10, reactor)


async def test_a_connection_that_can_only_be_closed_is_closed_when_its_time_is_over():
    from twisted.internet import reactor

    opening, lost = open_through_a_program({})
    with pytest.raises(DeferredTimeout):
        await opening.addTimeout(ThroughAProgram.handshake_timeout, reactor)
    assert isinstance(await lost, (ProcessDone, ProcessTerminated))


async def test_a_connection_that_can_only_be_closed_is_closed_where_its_stream_is_aborted():
    opening, lost = open_through_a_program({"ready": ""})
    (await opening).abortConnection()
    assert isinstance(await lost, (ProcessDone, ProcessTerminated))


class Bridge(Recorder):
    def connectionMade(self):
        self.happened()


async def test_our_own_client_over_sockets():
    """Arguments, an answer that waits, and the exception that a failure is."""
    from twisted.internet import reactor

    side = Side(reactor, "tested", True, state_location=None)
    socks_port = reactor.listenTCP(0, TransportSOCKSFactory(side, Greeter), interface="127.0.0.1")
    bridge = Bridge()
    factory = Factory()
    factory.buildProtocol = lambda address: bridge
    bridge_port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        way = TCP4ClientEndpoint(reactor, "127.0.0.1", socks_port.getHost().port)
        methods = {"extended": {"pt.key": "k" * 1500}}
        endpoint = SOCKS5ClientEndpoint("127.0.0.1", bridge_port.getHost().port, way, methods)
        connecting = connectProtocol(endpoint, Recorder())
        await bridge.until(lambda it: it.transport)
        assert not connecting.called
        bridge.write(b"welcome")
        client = await connecting
        client.write(b"payload")
        await bridge.until(lambda it: it.received == b"PAYLOAD")
        client.close()
        await bridge.until(lambda it: it.lost)
        await bridge_port.stopListening()
        with pytest.raises(errors.ConnectionRefused):
            await connectProtocol(endpoint, Recorder())
    finally:
        await gatherResults([maybeDeferred(port.stopListening) for port in (bridge_port, socks_port)])
