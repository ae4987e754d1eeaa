"""What an application gets as its transport where the proxy is behind TLS."""

import gc
import threading

import pytest
from examples.raw_peers import GREET_ANONYMOUS, pause, proxy, target, through_tls, tls_listener, turn, until
from OpenSSL.SSL import Connection
from support.reactors import connections_read_from
from support.targets import CONTENT, MEGABYTE, PATIENCE, Talker, Target, answer_the_end, digest, read_to_end
from support.tls_peers import VERSIONS, TLSPeer, server_context, tls_proxy
from support.ways import listening, way_to
from twisted.internet import reactor
from twisted.internet.endpoints import SSL4ClientEndpoint, TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from txsocksx_ext import RouteTable, SOCKS5ClientEndpoint, SOCKS5ExtFactory, open_transport
from txsocksx_ext.testing import FakeProxy, Recorder


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def behind_tls(authority, version, tmp_path):
    """Make a `Target` that is a proxy behind TLS, and the endpoint of an application's stream through it."""
    pem = tmp_path / "proxy.pem"
    pem.write_bytes(authority.issue("proxy.example"))

    def make(then):
        peer = Target(tls_proxy(server_context(version, pem), then))
        way = wrapClientTLS(authority.client_for("proxy.example"), TCP4ClientEndpoint(reactor, "127.0.0.1", peer.port))
        return peer, SOCKS5ClientEndpoint("target.example", 80, way)

    return make


def send_and_notify(peer):
    peer.sendall(CONTENT)
    peer.send_close_notify()
    return read_to_end(peer)


def send_and_close(peer):
    peer.sendall(CONTENT)
    peer.socket.close()


# How the peer's end is told.


async def test_an_application_that_half_closes_may_answer_the_end_of_input(behind_tls):
    peer, endpoint = behind_tls(send_and_notify)
    with peer:
        application = await endpoint.connect(Factory.forProtocol(Talker))
        await application.input_ended
        assert application.received == CONTENT
        application.transport.write(CONTENT[::-1])
        application.transport.loseConnection()
        assert await peer.when_next_result() == CONTENT[::-1]
        assert isinstance(await application.lost, ConnectionDone)


@pytest.mark.parametrize(("end", "reason"), [(send_and_notify, ConnectionDone), (send_and_close, ConnectionLost)])
async def test_any_other_application_loses_its_connection_with_the_input(behind_tls, end, reason):
    peer, endpoint = behind_tls(end)
    with peer:
        application = await endpoint.connect(Factory.forProtocol(Recorder))
        await application.until(lambda it: it.lost)
        assert application.received == CONTENT
        assert application.lost.type is reason
        await peer.when_next_result()


async def test_an_application_is_told_that_its_own_direction_has_ended(behind_tls):
    class Told(Talker):
        has_ended = False

        def writeConnectionLost(self):
            self.has_ended = True

    peer, endpoint = behind_tls(lambda peer: (read_to_end(peer), peer.ended_by))
    with peer:
        application = await endpoint.connect(Factory.forProtocol(Told))
        application.transport.write(b"words")
        application.transport.loseWriteConnection()
        assert not application.has_ended
        application.transport.write(b", too late")
        assert await peer.when_next_result() == (b"words", "close_notify")
        assert application.has_ended
        await application.lost


async def test_an_abort_of_the_application_is_a_reset(behind_tls):
    peer, endpoint = behind_tls(read_to_end)
    with peer:
        application = await endpoint.connect(Factory.forProtocol(Talker))
        application.transport.abortConnection()
        assert not isinstance(await application.lost, ConnectionDone)
        assert isinstance(await peer.when_next_result(), ConnectionResetError)


async def test_a_peer_that_does_not_answer_the_end_is_waited_for_a_while(authority):
    clock = Clock()
    fake = FakeProxy(clock=clock)
    fake.endpoint.server = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, fake)
    way = wrapClientTLS(authority.client_for("proxy.example"), fake.endpoint)
    connecting = SOCKS5ClientEndpoint("target.example", 80, way, reactor=clock).connect(Factory.forProtocol(Recorder))
    while not connecting.called:
        clock.advance(0)
        # Twisted's TLS, at the other end, goes by the real reactor.
        await turn()
    application = await connecting
    fake.conversations[0].transport.pauseProducing()
    application.close()
    clock.advance(1)
    assert application.lost is None
    clock.advance(60)
    assert application.lost.type is ConnectionDone
    # It finds the end when it reads again.
    fake.conversations[0].transport.resumeProducing()
    clock.advance(0)
    assert clock.getDelayedCalls() == []


def wrapped_inside(options, factory):
    return TLSMemoryBIOFactory(options, False, WrappingFactory(factory))


def wrapped_outside(options, factory):
    return WrappingFactory(TLSMemoryBIOFactory(options, False, factory))


@pytest.mark.parametrize("wrapped", [wrapped_inside, wrapped_outside])
async def test_half_closes_pass_a_wrapper_inside_or_around_tls(authority, wrapped):
    factory = SOCKS5ExtFactory(reactor)
    port = reactor.listenTCP(0, wrapped(authority.server_options("proxy.example"), factory), interface="127.0.0.1")
    with Target(answer_the_end) as far:
        way = wrapClientTLS(authority.client_for("proxy.example"), way_to(port.getHost()))
        endpoint = SOCKS5ClientEndpoint("127.0.0.1", far.port, way)
        application = await endpoint.connect(Factory.forProtocol(Talker))
        application.transport.write(CONTENT)
        application.transport.loseWriteConnection()
        await application.input_ended
        assert application.received == digest(CONTENT)
        assert isinstance(await application.lost, ConnectionDone)
    await until(lambda: not factory.connections)
    await port.stopListening()


# Back-pressure.


async def test_an_application_that_pauses_gets_nothing(behind_tls):
    class Pausing(Talker):
        def connectionMade(self):
            self.transport.pauseProducing()

        def dataReceived(self, data):
            super().dataReceived(data)
            self.transport.pauseProducing()

    peer, endpoint = behind_tls(send_and_close)
    with peer:
        application = await endpoint.connect(Factory.forProtocol(Pausing))
        await pause(0.1)
        assert application.received == b""
        while not application.input_ended.called:
            before = len(application.received)
            application.transport.resumeProducing()
            # Never inside the call.
            assert len(application.received) == before
            await turn(2)
            # One record at a time.
            assert len(application.received) <= before + 16384
        assert application.received == CONTENT
        application.transport.loseConnection()
        await application.lost


class Producer:
    """Writes as much as is wanted."""

    def __init__(self, transport, streaming, most=64 * MEGABYTE):
        self.transport = transport
        self.written = 0
        self.most = most
        self.is_paused = not streaming
        self.is_stopped = False
        self._streaming = streaming

    def resumeProducing(self):
        self.is_paused = False
        while not self.is_paused and self.written < self.most:
            self.transport.write(bytes(4096))
            self.written += 4096
            self.is_paused = self.is_paused or not self._streaming
        if self.written == self.most:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def pauseProducing(self):
        self.is_paused = True

    def stopProducing(self):
        self.is_paused = self.is_stopped = True


@pytest.mark.parametrize("streaming", [True, False], ids=["push", "pull"])
async def test_a_producer_waits_for_a_peer_that_does_not_read(behind_tls, streaming):
    may_read = threading.Event()

    def read_late(peer):
        may_read.wait(PATIENCE)
        return len(read_to_end(peer))

    peer, endpoint = behind_tls(read_late)
    with peer:
        application = await endpoint.connect(Factory.forProtocol(Talker))
        producer = Producer(application.transport, streaming)
        application.transport.registerProducer(producer, streaming)
        producer.resumeProducing()
        written = -1
        while written != producer.written:
            written = producer.written
            await pause(0.1)
        assert 0 < written < producer.most
        may_read.set()
        assert await peer.when_next_result() == producer.most
        await application.lost


async def test_a_producer_is_stopped_when_the_peer_has_ended(behind_tls):
    peer, endpoint = behind_tls(send_and_close)
    with peer:
        application = await endpoint.connect(Factory.forProtocol(Recorder))
        producer = Producer(application.transport, True)
        application.transport.registerProducer(producer, True)
        await application.until(lambda it: it.lost)
        assert producer.is_stopped


async def test_small_writes_share_a_record(behind_tls):
    def count_records(peer):
        records = []
        while data := peer.recv(1 << 16):
            records.append(data)
        return b"".join(records), len(records)

    peer, endpoint = behind_tls(count_records)
    with peer:
        application = await endpoint.connect(Factory.forProtocol(Talker))
        for number in range(1000):
            application.transport.write(b"%03d" % number)
        application.transport.loseConnection()
        received, records = await peer.when_next_result()
        assert received == b"".join(b"%03d" % number for number in range(1000))
        assert records == 1
        await application.lost


# The handshake.


class ThroughTLS:
    """A way out that speaks TLS with the target."""

    def __init__(self, port):
        self._endpoint = through_tls(port)

    def connect(self, request, addresses, session):
        return open_transport(self._endpoint)


async def test_the_handshake_goes_on_while_a_route_keeps_its_transport_paused(authority, version, tmp_path):
    pem = tmp_path / "server.pem"
    pem.write_bytes(authority.issue("localhost"))
    with Target(lambda connection: bool(TLSPeer(connection, server_context(version, pem), True))) as peer:
        transport = await open_transport(through_tls(peer.port))
        assert await peer.when_next_result() is True
        transport.abortConnection()
        await turn(2)


async def test_a_target_whose_handshake_takes_long_stops_the_client():
    async with target() as silent, proxy(policy=RouteTable((), ThroughTLS(silent.port))) as server:
        client, _, _ = await server.ask("192.0.2.1", 80)
        client.send(bytes(32 * MEGABYTE))
        (protocol,) = server.factory.connections
        here = client.transport.getHost()
        await until(lambda: not any(each.getPeer() == here for each in connections_read_from()))
        assert protocol.session.up < 4 * MEGABYTE


async def test_a_certificate_of_another_gets_no_word_of_the_client(authority):
    class Listening(Recorder):
        def dataReceived(self, data):
            raise AssertionError(f"the client said {data!r}")

    lost = []
    served = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, Factory.forProtocol(Listening))
    async with listening(served) as address:
        way = wrapClientTLS(authority.client_for("other.example"), way_to(address))
        endpoint = SOCKS5ClientEndpoint("target.example", 80, way, {"login": ("user", "word")})
        endpoint.connect(Factory.forProtocol(Recorder)).addErrback(lost.append)
        await until(lambda: lost)
        assert "certificate" in str(lost[0].value)
        await until(lambda: not served.protocols)


async def test_a_server_negotiates_its_protocol_and_is_told_of_the_handshake(authority, tmp_path):
    told = []

    @implementer(IHandshakeListener)
    class Told(SOCKS5ExtFactory.protocol):
        def handshakeCompleted(self):
            told.append(self.transport.negotiatedProtocol)

    @implementer(IProtocolNegotiationFactory)
    class Speaking(SOCKS5ExtFactory):
        protocol = Told

        def acceptableProtocols(self):
            return [b"socks5"]

    async with proxy(Speaking(reactor), listen=tls_listener(tmp_path)) as server:
        options = CertificateOptions(acceptableProtocols=[b"http/1.1", b"socks5"])
        client = await server.connect(endpoint=SSL4ClientEndpoint(reactor, "127.0.0.1", server.port, options))
        client.send(GREET_ANONYMOUS)
        assert await client.read(2) == b"\x05\x00"
        assert client.transport.negotiatedProtocol == b"socks5"
        assert told == [b"socks5"]


async def test_nothing_of_a_connection_is_left_when_it_is_over(tmp_path):
    """Without the help of the garbage collector."""
    async with target() as far, proxy(listen=tls_listener(tmp_path)) as server:
        gc.collect()
        gc.disable()
        try:
            before = count_of(Connection)
            client = await server.connect(endpoint=through_tls(server.port))
            await client.ask("127.0.0.1", far.port)
            end = await far.accept()
            end.send(b"words")
            end.close()
            assert await client.read_to_end() == b"words"
            await client.lost()
            await until(lambda: not server.factory.connections)
            await turn(2)
            assert count_of(Connection) <= before + 1  # the client's own, which is Twisted's
        finally:
            gc.enable()


def count_of(kind):
    return sum(type(each) is kind for each in gc.get_objects())
