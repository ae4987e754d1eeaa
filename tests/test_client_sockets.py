"""Endpoints on real sockets: streams, failures, cancelling, and the ways to a proxy."""

import sys

import pytest
from examples.raw_peers import until
from support import ways
from support.ways import CONTENT, LOGIN, Counting, connected, failure_of, listening, way_to
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import ProcessEndpoint, UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater

from txsocksx_ext import SOCKS5ClientEndpoint, SOCKS5ExtClientFactory, SOCKS5ExtFactory
from txsocksx_ext.errors import ConnectionRefused, HandshakeTimeout, OnionServiceNotFound, ProxyRefused
from txsocksx_ext.protocol.messages import Address, Reply
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.testing import Ending, FakeProxy, HalfCloseRecorder, Recorder


@pytest.fixture(params=ways.WAYS)
def each_way(request, monkeypatch):
    """Take the test's ways to its proxy at once, and as Twisted does."""
    monkeypatch.setattr(ways, "kind_of_way", ways.WAYS[request.param])


on_each_way = pytest.mark.usefixtures("each_way")


# A stream on real sockets.


@on_each_way
async def test_the_applications_protocol_has_the_transport_to_itself():
    async with connected(FakeProxy(bound=Address.of("192.0.2.7", 80))) as (near, far):
        assert near.transport.protocol is near
        assert near.transport.getPeer().host == "127.0.0.1"
        near.write(b"question")
        await far.until(lambda end: end.received == b"question")
        far.write(b"answer")
        await near.until(lambda end: end.received == b"answer")


@on_each_way
async def test_data_joined_to_the_reply_arrives_before_any_more_comes():
    async with connected(FakeProxy(joined=b"220 welcome\r\n")) as (near, _):
        await near.until(lambda end: end.received)
        assert near.received == b"220 welcome\r\n"


@on_each_way
@pytest.mark.parametrize(
    ("end_it", "reason"),
    [
        (lambda near, far: far.close(), ConnectionDone),
        (lambda near, far: far.abort(), ConnectionLost),
        (lambda near, far: near.close(), ConnectionDone),
        (lambda near, far: near.abort(), ConnectionAborted),
    ],
)
async def test_the_end_is_twisteds_own(end_it, reason):
    async with connected(FakeProxy()) as (near, far):
        end_it(near, far)
        await near.until(lambda end: end.lost)
        assert near.lost.type is reason


@on_each_way
@pytest.mark.parametrize("first", ["near", "far"])
async def test_half_close_works_both_ways(first):
    async with connected(FakeProxy(), HalfCloseRecorder) as (near, far):
        one, other = (near, far) if first == "near" else (far, near)
        one.write(CONTENT)
        one.end()
        await other.until(lambda end: end.read_ended)
        assert other.received == CONTENT
        assert one.lost is None
        other.write(CONTENT[::-1])
        other.end()
        await one.until(lambda end: end.read_ended)
        assert one.received == CONTENT[::-1]
        assert one.lost is other.lost is None


@on_each_way
async def test_a_half_close_joined_to_the_reply_leaves_our_sending_open():
    class Ending(HalfCloseRecorder):
        def connectionMade(self):
            self.transport.loseWriteConnection()

    async with connected(FakeProxy(joined=b"all there is"), Ending) as (near, far):
        await near.until(lambda end: end.read_ended)
        assert near.received == b"all there is"
        assert near.lost is None
        assert far.lost is None


async def test_an_application_that_does_not_read_holds_the_sender_back():
    class Endless:
        """Writes as long as it is let."""

        is_paused = False

        def __init__(self, transport):
            self._transport = transport

        def resumeProducing(self):
            self.is_paused = False
            self._write()

        def pauseProducing(self):
            self.is_paused = True

        def stopProducing(self):
            self.is_paused = True

        def _write(self):
            if not self.is_paused:
                self._transport.write(CONTENT)
                reactor.callLater(0, self._write)

    async with connected(FakeProxy()) as (near, far):
        near.transport.pauseProducing()
        endless = Endless(far.transport)
        far.transport.registerProducer(endless, True)
        endless.resumeProducing()
        await until(lambda: endless.is_paused)
        assert near.received == b""
        near.transport.resumeProducing()
        await near.until(lambda end: len(end.received) > 3 * len(CONTENT))


async def test_a_producer_of_the_applications_is_held_back_by_the_proxy():
    class Producer:
        paused = resumed = 0

        def pauseProducing(self):
            self.paused += 1

        def resumeProducing(self):
            self.resumed += 1

        def stopProducing(self):
            pass

    class Measuring(Recorder):
        count = 0

        def dataReceived(self, data):
            self.count += len(data)
            self.happened()

    async with connected(FakeProxy(), Measuring) as (near, far):
        producer = Producer()
        far.transport.pauseProducing()
        near.transport.registerProducer(producer, True)
        for _ in range(16):
            near.write(CONTENT)
        assert producer.paused
        assert not producer.resumed
        far.transport.resumeProducing()
        await far.until(lambda end: end.count == 16 * len(CONTENT))
        await until(lambda: producer.resumed)
        near.transport.unregisterProducer()


async def test_a_protocol_given_ready_made():
    async with listening(FakeProxy()) as address:
        ours = Recorder()
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address))
        assert await connectProtocol(endpoint, ours) is ours
        ours.close()
        await ours.until(lambda each: each.lost)


# Failures on real sockets.


@on_each_way
async def test_a_proxy_that_is_not_there_is_also_twisteds_error():
    async with listening(FakeProxy()) as address:
        pass
    error = await failure_of(SOCKS5ClientEndpoint("target.example", 443, way_to(address)).connect(Counting()))
    assert type(error) is ProxyRefused
    assert isinstance(error, ConnectionRefusedError)
    assert f"127.0.0.1:{address.port}" in str(error)


@on_each_way
@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.SILENCE])
async def test_a_short_reply_tells_its_code_and_leaves_no_socket(ending):
    proxy = FakeProxy(code=0xE0, stop_at=State.REPLY, stop_after=3, ending=ending)
    async with listening(proxy) as address:
        error = await failure_of(SOCKS5ClientEndpoint("target.example", 443, way_to(address)).connect(Counting()))
        assert type(error) is OnionServiceNotFound
        await until(lambda: proxy.conversations[0].lost)


@on_each_way
async def test_the_deadline_on_real_sockets():
    proxy = FakeProxy(stop_at=State.REPLY, stop_after=5, ending=Ending.SILENCE)
    async with listening(proxy) as address:
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), timeout=0.05)
        assert type(await failure_of(endpoint.connect(Counting()))) is HandshakeTimeout
        await until(lambda: proxy.conversations[0].lost)


@on_each_way
@pytest.mark.parametrize("choice", ["offer", "credentials", "error_for"])
async def test_a_choice_that_raises_ends_with_that_exception_on_real_sockets(choice):
    class Fault(Exception):
        """What the choice raises."""

    def raising(*_):
        raise Fault

    class Endpoint(SOCKS5ClientEndpoint):
        factory = type("Mine", (SOCKS5ExtClientFactory,), {choice: raising})

    proxy = FakeProxy(code=5)
    async with listening(proxy) as address:
        factory = Counting()
        error = await failure_of(Endpoint("target.example", 443, way_to(address), LOGIN).connect(factory))
        assert type(error) is Fault
        await until(lambda: proxy.conversations and proxy.conversations[0].lost)
        await until(lambda: factory.events == ["start", "stop"])


# Cancelling on real sockets. That nothing is left, every test here is held to.


@on_each_way
async def test_cancelling_before_there_is_a_connection():
    async with listening(FakeProxy()) as address:
        factory = Counting()
        connecting = SOCKS5ClientEndpoint("target.example", 443, way_to(address)).connect(factory)
        connecting.cancel()
        assert isinstance(await failure_of(connecting), CancelledError)
        await until(lambda: factory.events == ["start", "stop"])


@on_each_way
@pytest.mark.parametrize(
    ("state", "count"), [(State.SELECTION, 0), (State.SELECTION, 1), (State.REPLY, 0), (State.REPLY, 9)]
)
async def test_cancelling_while_the_proxy_is_silent(state, count):
    proxy = FakeProxy(stop_at=state, stop_after=count, ending=Ending.SILENCE)
    async with listening(proxy) as address:
        factory = Counting()
        connecting = SOCKS5ClientEndpoint("target.example", 443, way_to(address)).connect(factory)
        await until(lambda: proxy.conversations and proxy.conversations[0].greeting)
        connecting.cancel()
        assert isinstance(await failure_of(connecting), CancelledError)
        await until(lambda: proxy.conversations[0].lost)
        await until(lambda: factory.events == ["start", "stop"])


@on_each_way
async def test_cancelling_after_any_number_of_turns():
    proxy = FakeProxy()
    async with listening(proxy) as address:
        for turns in range(12):
            connecting = SOCKS5ClientEndpoint("target.example", 443, way_to(address)).connect(Counting())
            for _ in range(turns):
                await deferLater(reactor, 0)
            connecting.cancel()
            try:
                protocol = await connecting
            except CancelledError:
                continue
            protocol.abort()
        await until(lambda: all(each.lost or each.tunnel.lost for each in proxy.conversations))
        assert 0 < len(proxy.conversations) <= 12


# Unix sockets, processes, proxies behind proxies.


async def test_a_proxy_behind_a_unix_socket_may_have_secrets(tmp_path):
    proxy = FakeProxy()
    async with listening(proxy, f"unix:{tmp_path}/proxy") as address:
        way = UNIXClientEndpoint(reactor, address.name)
        protocol = await SOCKS5ClientEndpoint("target.example", 443, way, LOGIN).connect(Factory.forProtocol(Recorder))
        assert proxy.conversations[0].credentials.password == b"word"
        assert protocol.transport.protocol is protocol
        protocol.write(b"hello")
        await proxy.conversations[0].tunnel.until(lambda end: end.received == b"hello")
        protocol.close()
        await protocol.until(lambda each: each.lost)


CHILD = """
import os, sys
def hear(count):
    heard = b""
    while len(heard) < count:
        more = os.read(0, count - len(heard))
        heard += more or sys.exit()
hear(3)
os.write(1, bytes([5, 0]))
hear(4 + 1 + 14 + 2)
os.write(1, bytes.fromhex(sys.argv[1]))
while more := os.read(0, 100):
    os.write(1, more.upper())
"""
"""A proxy on its standard input and output."""


def child(answer):
    """A way to it, whose transport can be closed and no more."""
    return ProcessEndpoint(reactor, sys.executable, [sys.executable, "-c", CHILD, answer.hex()])


async def test_a_proxy_in_a_process():
    endpoint = SOCKS5ClientEndpoint("target.example", 443, child(Reply(0).encode() + b"early"))
    client = await endpoint.connect(Factory.forProtocol(Recorder))
    await client.until(lambda it: it.received == b"early")
    client.transport.write(b", late")
    await client.until(lambda it: it.received == b"early, LATE")
    client.transport.loseConnection()
    await client.until(lambda it: it.lost)
    assert client.lost.check(ConnectionDone)


@pytest.mark.parametrize("timeout", [None, 20])
async def test_a_failure_of_a_proxy_in_a_process(timeout):
    endpoint = SOCKS5ClientEndpoint("target.example", 443, child(Reply(5).encode()), timeout=timeout)
    assert type(await failure_of(endpoint.connect(Counting()))) is ConnectionRefused


@pytest.mark.parametrize("timeout", [None, 0.5])
async def test_a_proxy_in_a_process_that_falls_silent(timeout):
    connecting = SOCKS5ClientEndpoint("target.example", 443, child(b""), timeout=timeout).connect(Counting())
    if timeout is None:
        await deferLater(reactor, 0.2)
        connecting.cancel()
    assert isinstance(await failure_of(connecting), CancelledError if timeout is None else HandshakeTimeout)


@on_each_way
async def test_a_proxy_behind_a_proxy_and_its_end():
    far = FakeProxy(joined=b"220 welcome\r\n", pairs={"from": "far"})
    near = FakeProxy(far, pairs={"from": "near"})
    async with listening(near) as address:
        tunnel = SOCKS5ClientEndpoint("far.example", 1080, way_to(address), {"extended": {}})
        built = []

        class Telling(Factory):
            protocol = Recorder

            def buildProtocol(self, addr):
                built.append(addr.pairs)
                return super().buildProtocol(addr)

        protocol = await SOCKS5ClientEndpoint("target.example", 443, tunnel, {"extended": {}}).connect(Telling())
        assert built == [{"from": b"far"}]
        assert protocol.transport.protocol is protocol
        await protocol.until(lambda each: each.received == b"220 welcome\r\n")
        far.conversations[0].tunnel.close()
        await protocol.until(lambda each: each.lost)
        assert protocol.lost.type is ConnectionDone


@pytest.mark.parametrize("code", [0x05, 0xE0])
async def test_a_failure_of_the_first_of_two_proxies(code):
    near = FakeProxy(code=code)
    async with listening(near) as address:
        tunnel = SOCKS5ClientEndpoint("far.example", 1080, way_to(address))
        error = await failure_of(SOCKS5ClientEndpoint("target.example", 443, tunnel).connect(Counting()))
        assert error.code == code


async def test_through_a_server_of_our_own():
    server = SOCKS5ExtFactory(reactor)
    target = Counting()
    built = []
    target.buildProtocol = lambda addr: built.append(HalfCloseRecorder()) or built[-1]
    async with listening(target) as there, listening(server) as here:
        endpoint = SOCKS5ClientEndpoint("127.0.0.1", there.port, way_to(here), {"extended": {}})
        protocol = await endpoint.connect(Factory.forProtocol(HalfCloseRecorder))
        await until(lambda: built)
        protocol.write(CONTENT)
        protocol.end()
        await built[0].until(lambda end: end.read_ended)
        assert built[0].received == CONTENT
        built[0].write(b"got it")
        built[0].close()
        await protocol.until(lambda end: end.read_ended)
        assert protocol.received == b"got it"
        protocol.close()
        await until(lambda: not server.connections)
