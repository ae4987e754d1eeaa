"""The bridge's side: clients of the transport, and tor as it is told of them."""

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionRefusedError as TCPRefused
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from txsocksx_ext.net.twisted_transports import open_transport
from txsocksx_ext.pt import TransportProtocol
from txsocksx_ext.pt.extorport import COOKIE_HEADER, OKAY, frame, server_hash
from txsocksx_ext.pt.protocol import Side
from txsocksx_ext.pt.server import TransportServerFactory, tor_connector
from txsocksx_ext.testing import MemoryEndpoint, Recorder, connect_to
from txsocksx_ext.transports.environment import ServerEnvironment

COOKIE = bytes(range(32))


class Knocked(TransportProtocol):
    """Ready when it hears a knock."""

    is_open = False

    def dataReceived(self, data):
        if not self.is_open:
            # It comes in one piece, perhaps with what follows.
            assert data.startswith(b"knock")
            self.is_open = True
            self.ready()
            data = data[len(b"knock") :]
        self.write_payload(data)

    def payload_received(self, payload):
        self.transport.write(payload)


class Bridge:
    """A bridge's side in memory, whose tor is `tor`."""

    def __init__(self, **options):
        self.clock = Clock()
        self.tor = Recorder()
        self.asked = []
        factory = Factory()
        factory.buildProtocol = lambda address: self.tor
        self.endpoint = MemoryEndpoint(factory, clock=self.clock, **options)
        side = Side(self.clock, "knocked", False, state_location=None)
        self.factory = TransportServerFactory(side, Knocked, self.connect_to_tor)

    def connect_to_tor(self, name, client):
        self.asked.append((name, client))
        return open_transport(self.endpoint)

    def client(self, *words):
        client = connect_to(self.factory, clock=self.clock)
        for each in words:
            client.write(each)
        return client


def test_tor_is_asked_when_the_handshake_is_done():
    bridge = Bridge()
    client = bridge.client()
    assert bridge.asked == []
    client.write(b"knock")
    assert bridge.asked == [("knocked", IPv4Address("TCP", "127.0.0.1", 49152))]
    client.write(b"payload")
    assert bridge.tor.received == b"payload"
    bridge.tor.write(b"answer")
    assert client.received == b"answer"
    assert len(bridge.factory.connections) == 1
    client.abort()
    assert bridge.tor.lost
    assert bridge.factory.connections == set()


def test_what_comes_before_tor_does_waits():
    bridge = Bridge(hangs=True)
    client = bridge.client(b"knock", b"payload")
    assert len(bridge.endpoint.connecting) == 1
    assert not client.lost


def test_a_client_that_leaves_before_tor_comes():
    bridge = Bridge(hangs=True)
    client = bridge.client(b"knock")
    client.abort()
    # While it is paused, only a write or a deadline would show that; ours is tor's.
    bridge.clock.advance(0)
    bridge.factory.drain(0)
    bridge.clock.advance(0)
    assert bridge.endpoint.connecting == []
    assert bridge.factory.connections == set()


@pytest.mark.logs_errors
def test_a_tor_that_cannot_be_reached(logged_errors):
    bridge = Bridge(failure=TCPRefused())
    client = bridge.client(b"knock")
    bridge.clock.advance(0)
    assert client.lost
    (event,) = logged_errors
    assert event["log_format"].startswith("{transport} cannot reach tor")


def test_a_client_that_says_nothing():
    bridge = Bridge()
    client = bridge.client()
    bridge.clock.advance(44)
    assert not client.lost
    bridge.clock.advance(1)
    assert client.lost
    assert bridge.asked == []


def test_too_many_clients():
    bridge = Bridge()
    bridge.factory._most = 2
    first, second, third, fourth = (bridge.client() for _ in range(4))
    assert [each.lost is not None for each in (first, second, third, fourth)] == [False, False, True, True]
    first.abort()
    fifth = bridge.client()
    assert not fifth.lost
    for each in (second, fifth):
        each.abort()


@pytest.mark.parametrize(("seconds", "stays"), [(0, False), (10, True)])
def test_draining(seconds, stays):
    bridge = Bridge()
    stream, handshake = bridge.client(b"knock"), bridge.client()
    drained = bridge.factory.drain(seconds)
    bridge.clock.advance(0)
    bridge.clock.advance(0)
    assert handshake.lost
    assert bool(stream.lost) is not stays
    if stays:
        assert not drained.called
        bridge.clock.advance(seconds)
        bridge.clock.advance(0)
    assert stream.lost
    assert drained.called
    assert bridge.factory.drain(0).called
    assert bridge.clock.getDelayedCalls() == []


class ExtendedORPort(Recorder):
    """Answers as tor's does; what it was told is in `told`."""

    told = b""
    cookie = COOKIE
    step = 0

    def connectionMade(self):
        self.transport.write(b"\x01\x00")

    def dataReceived(self, data):
        self.told += data
        if self.step == 0 and len(self.told) >= 33:
            self.step = 1
            nonce, self.told = self.told[1:33], self.told[33:]
            self.transport.write(server_hash(self.cookie, nonce, bytes(32)) + bytes(32))
        elif self.step == 1 and len(self.told) >= 32:
            self.step, self.told = 2, self.told[32:]
            self.transport.write(b"\x01")
        if self.step == 2 and self.told.endswith(frame(0)):
            self.step = 3
            self.transport.write(frame(OKAY) + b"tor speaks first")
        self.happened()


class TestTheWayToTor:
    @pytest.fixture
    def listening(self):
        from twisted.internet import reactor

        ports = []

        def listen(tor, host="127.0.0.1"):
            factory = Factory()
            factory.buildProtocol = lambda address: tor
            ports.append(reactor.listenTCP(0, factory, interface=host))
            return host, ports[-1].getHost().port

        yield listen
        import pytest_twisted

        pytest_twisted.blockon(gatherResults([maybeDeferred(port.stopListening) for port in ports]))

    @pytest.fixture
    def environment(self, tmp_path):
        (tmp_path / "cookie").write_bytes(COOKIE_HEADER + COOKIE)

        def make(**settings):
            return ServerEnvironment(
                state_location=tmp_path, transports=("knocked",), cookie_file=tmp_path / "cookie", **settings
            )

        return make

    async def use(self, environment, **options):
        """A client through all of it: what it is, and where it comes from."""
        from twisted.internet import reactor

        side = Side(reactor, "knocked", False, state_location=None)
        factory = TransportServerFactory(side, Knocked, tor_connector(reactor, environment))
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port), Recorder())
        client.write(b"knock")
        await port.stopListening()
        return client

    async def test_the_orport(self, listening, environment):
        tor = Recorder()
        client = await self.use(environment(or_port=listening(tor)))
        client.write(b"payload")
        await tor.until(lambda it: it.received == b"payload")
        client.close()
        await tor.until(lambda it: it.lost)

    async def test_the_extended_orport_goes_first(self, listening, environment):
        plain, tor = Recorder(), ExtendedORPort()
        client = await self.use(environment(or_port=listening(plain), extended_or_port=listening(tor)))
        await client.until(lambda it: it.received == b"tor speaks first")
        host = client.transport.getHost()
        assert tor.told == frame(1, f"127.0.0.1:{host.port}".encode()) + frame(2, b"knocked") + frame(0)
        client.write(b"payload")
        await tor.until(lambda it: it.told.endswith(b"payload"))
        client.close()
        await tor.until(lambda it: it.lost)
        assert plain.transport is None

    @pytest.mark.logs_errors
    async def test_a_cookie_of_another_tor(self, listening, environment, logged_errors):
        tor = ExtendedORPort()
        tor.cookie = bytes(32)
        client = await self.use(environment(extended_or_port=listening(tor)))
        await client.until(lambda it: it.lost)
        await tor.until(lambda it: it.lost)
        (event,) = logged_errors
        assert "does not know its own cookie" in event["error"]

    @pytest.mark.logs_errors
    async def test_a_cookie_that_is_gone_meanwhile(self, listening, environment, logged_errors, tmp_path):
        from twisted.internet import reactor

        connect = tor_connector(reactor, environment(extended_or_port=listening(ExtendedORPort())))
        (tmp_path / "cookie").unlink()
        side = Side(reactor, "knocked", False, state_location=None)
        client = connect_to(TransportServerFactory(side, Knocked, connect))
        client.write(b"knock")
        await client.until(lambda it: it.lost)
        (event,) = logged_errors
        assert "cookie of tor's extended ORPort cannot be read" in event["error"]

    @pytest.mark.parametrize(
        ("host", "told"),
        [
            ("2001:db8::5%eth0", b"[2001:db8::5]:443"),
            # Of IPv4, at a listener for both.
            ("::ffff:203.0.113.5", b"203.0.113.5:443"),
        ],
    )
    async def test_a_client_at_a_listener_with_ipv6(self, listening, environment, host, told):
        from twisted.internet import reactor

        tor = ExtendedORPort()
        connect = tor_connector(reactor, environment(extended_or_port=listening(tor, "::1")))
        transport = await connect("knocked", IPv6Address("TCP", host, 443))
        assert tor.told.startswith(frame(1, told))
        transport.abortConnection()
        await tor.until(lambda it: it.lost)
