"""Endpoints and look-ups: targets, and everything where it matters that sockets are real."""

import sys
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.certificates import Authority
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, maybeDeferred
from twisted.internet.endpoints import (
    ProcessEndpoint,
    TCP4ClientEndpoint,
    UNIXClientEndpoint,
    connectProtocol,
    serverFromString,
    wrapClientTLS,
)
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, ConnectionRefusedError, NoProtocol
from twisted.internet.interfaces import IProtocolNegotiationFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import Clock, deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txsocksx_ext import (
    SOCKS5Address,
    SOCKS5ClientEndpoint,
    SOCKS5ExtClientFactory,
    SOCKS5ExtFactory,
    resolve,
    resolve_ptr,
)
from txsocksx_ext.client.endpoints import target_address
from txsocksx_ext.errors import (
    AddressTypeNotSupported,
    ConnectionRefused,
    HandshakeTimeout,
    HostUnreachable,
    OnionServiceNotFound,
    ProtocolViolation,
    ProxyClosed,
    SOCKS5Error,
)
from txsocksx_ext.handshake import State
from txsocksx_ext.testing import Ending, FakeProxy, HalfCloseRecorder, MemoryEndpoint, Recorder
from txsocksx_ext.wire.codes import Command
from txsocksx_ext.wire.messages import Address, Reply

LOGIN = {"login": ("user", "word")}
CONTENT = bytes(range(256)) * 4096
"""A megabyte, more than the buffers of sockets hold."""
NOWHERE = MemoryEndpoint(Factory.forProtocol(Recorder), failure=AssertionError("it connected"))
"""A way to a proxy that no test should take."""


@pytest.fixture(scope="module")
def authority():
    return Authority()


@asynccontextmanager
async def listening(factory, description="tcp:0:interface=127.0.0.1"):
    """A server that listens; yields its address."""
    port = await serverFromString(reactor, description).listen(factory)
    try:
        yield port.getHost()
    finally:
        await maybeDeferred(port.stopListening)


class TwistedsWay(TCP4ClientEndpoint):
    """An endpoint that is not Twisted's plain one, so that all is left to it."""


WAYS = {"at once": TCP4ClientEndpoint, "in Twisted's time": TwistedsWay}
kind_of_way = TCP4ClientEndpoint


@pytest.fixture(params=WAYS)
def each_way(request, monkeypatch):
    """Take the test's ways to its proxy at once, and as Twisted does."""
    monkeypatch.setattr(sys.modules[__name__], "kind_of_way", WAYS[request.param])


on_each_way = pytest.mark.usefixtures("each_way")


def way_to(address):
    """The way to a server on a port of 127.0.0.1."""
    return kind_of_way(reactor, "127.0.0.1", address.port)


@asynccontextmanager
async def connected(proxy, protocol=Recorder, methods=None, **options):
    """The two ends of a stream through a `FakeProxy` that listens on a port; both are closed in the end."""
    proxy.server = Factory.forProtocol(protocol)
    async with listening(proxy) as address:
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), methods or {"anonymous": ()}, **options)
        near = await endpoint.connect(Factory.forProtocol(protocol))
        await until(lambda: proxy.conversations[0].tunnel)
        far = proxy.conversations[0].tunnel
        try:
            yield near, far
        finally:
            for end in (near, far):
                if end.lost is None:
                    end.abort()
                await end.until(lambda each: each.lost)


async def until(condition):
    """Wait for something outside any protocol. The test's own deadline ends a vain wait."""
    while not condition():
        await deferLater(reactor, 0.005)


async def failure_of(connecting):
    """The exception with which it fails."""
    try:
        outcome = await connecting
    except Exception as error:
        return error
    raise AssertionError(f"it did not fail: {outcome}")


# Targets.


@pytest.mark.parametrize(
    ("host", "encoded"),
    [
        ("192.0.2.1", "01c0000201"),
        (b"192.0.2.1", "01c0000201"),
        ("2001:db8::1", "0420010db8000000000000000000000001"),
        ("[2001:db8::1]", "0420010db8000000000000000000000001"),
        (b"2001:db8::1", "0420010db8000000000000000000000001"),
        ("::ffff:192.0.2.1", "0400000000000000000000ffffc0000201"),
        ("target.example", "030e" + b"target.example".hex()),
        (b"target.example", "030e" + b"target.example".hex()),
        ("TARGET.example.", "030f" + b"TARGET.example.".hex()),
        ("_srv.target.example", "0313" + b"_srv.target.example".hex()),
        ("a" * 255, "03ff" + "61" * 255),
        ("bücher.example", "0315" + b"xn--bcher-kva.example".hex()),
        ("BÜCHER.example", "0315" + b"xn--bcher-kva.example".hex()),
        ("例え。テスト", "0316" + b"xn--r8jz45g.xn--zckzah".hex()),
    ],
)
def test_a_target_is_sent_as_it_is_meant(host, encoded):
    assert target_address(host, 443).encode().hex() == encoded + "01bb"


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("", "empty"),
        ("[]", "empty"),
        ("a" * 256, "256 bytes"),
        ("ü" + "a" * 100 + ".example", "IDNA"),
        ("ü." * 64, "IDNA"),
        ("a\0b", "printable ASCII"),
        ("target.example\0.other.example", "printable ASCII"),
        ("two words", "printable ASCII"),
        ("line\nbreak", "printable ASCII"),
        ("ü\0", "IDNA"),
        (b"\xff", "IDNA"),
        ("\udcff", "IDNA"),
        ("ü..example", "IDNA"),
    ],
)
@pytest.mark.parametrize("ask", [lambda host, way: SOCKS5ClientEndpoint(host, 443, way), resolve])
def test_a_host_that_socks5_cannot_carry_is_refused_and_never_shortened_or_resolved(host, told, ask):
    with pytest.raises(ValueError, match=told):
        ask(host, NOWHERE)


@given(st.text(max_size=40) | st.binary(max_size=300))
def test_any_host_is_encoded_or_refused(host):
    try:
        address = target_address(host, 443)
    except ValueError:
        return
    assert len(address.encode()) <= 1 + 1 + 255 + 2


@pytest.mark.parametrize("port", [-1, 65536, "443", 1.5, None])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ValueError, match="port"):
        SOCKS5ClientEndpoint("target.example", port, NOWHERE)


@pytest.mark.parametrize(
    "options",
    [
        {"dialect": "klingon"},
        {"methods": {}},
        {"methods": {"login": ("", "")}},
        {"methods": {"x": ()}},
        *({"timeout": each} for each in (0, -1, "5", float("inf"), float("nan"))),
    ],
    ids=str,
)
def test_a_faulty_endpoint_is_refused_before_it_connects(options):
    with pytest.raises(ValueError, match=r"dialect|method|user name|timeout"):
        SOCKS5ClientEndpoint("target.example", 443, NOWHERE, **options)


@pytest.mark.parametrize("by_name", [False, True])
def test_calls_are_those_of_txsocksx(by_name):
    clock = Clock()
    proxy = FakeProxy(clock=clock)
    if by_name:
        endpoint = SOCKS5ClientEndpoint(
            "target.example", 443, proxyEndpoint=proxy.endpoint, methods={"login": ("user", "word")}, reactor=clock
        )
    else:
        endpoint = SOCKS5ClientEndpoint(
            "target.example", 443, proxy.endpoint, {"login": ("user", "word")}, reactor=clock
        )
    assert verifyObject(IStreamClientEndpoint, endpoint)
    endpoint.connect(Factory.forProtocol(Recorder))
    clock.advance(0)
    assert proxy.conversations[0].credentials.username == b"user"


def test_without_a_way_to_a_proxy_there_is_no_endpoint():
    with pytest.raises(TypeError, match="proxy_endpoint"):
        SOCKS5ClientEndpoint("target.example", 443)


def test_an_endpoint_connects_more_than_once():
    clock = Clock()
    proxy = FakeProxy(clock=clock)
    endpoint = SOCKS5ClientEndpoint("target.example", 443, proxy.endpoint, {"isolated": None}, reactor=clock)
    for _ in range(3):
        endpoint.connect(Factory.forProtocol(Recorder))
    clock.advance(0)
    assert all(each.tunnel for each in proxy.conversations)
    # A token that it made for itself is the endpoint's: its streams belong together.
    assert len({each.credentials.password for each in proxy.conversations}) == 1


def test_no_repr_shows_the_target_or_a_secret():
    endpoint = SOCKS5ClientEndpoint("target.example", 443, NOWHERE, {"login": ("someone", "hunter2")})
    assert not any(text in repr(endpoint) for text in ("target", "someone", "hunter2"))


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
        await near.until(lambda end: end.received == b"220 welcome\r\n")


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


class Counting(Factory):
    """Counts its starts and stops."""

    protocol = Recorder
    noisy = False

    def __init__(self):
        self.events = []

    def startFactory(self):
        self.events.append("start")

    def stopFactory(self):
        self.events.append("stop")


@pytest.mark.parametrize("tls", [False, True])
async def test_the_applications_factory_starts_and_stops_once(tls, authority):
    server = Factory.forProtocol(Recorder)
    if tls:
        server = TLSMemoryBIOFactory(authority.server_options("target.example"), False, server)
    async with listening(FakeProxy(server)) as address:
        factory = Counting()
        creator = authority.client_for("target.example") if tls else False
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), tls=creator)
        protocol = await endpoint.connect(factory)
        assert factory.events == ["start"]
        protocol.abort()
        await until(lambda: factory.events != ["start"])
        assert factory.events == ["start", "stop"]


# Failures on real sockets.


@on_each_way
async def test_a_proxy_that_is_not_there_is_twisteds_own_error():
    async with listening(FakeProxy()) as address:
        pass
    error = await failure_of(SOCKS5ClientEndpoint("target.example", 443, way_to(address)).connect(Counting()))
    assert type(error) is ConnectionRefusedError
    assert not isinstance(error, SOCKS5Error)


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


# Unix sockets, TLS, proxies behind proxies.


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


async def test_tls_to_the_proxy(authority):
    proxy = FakeProxy(joined=b"220 welcome\r\n")
    secured = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, proxy)
    async with listening(secured) as address:
        way = wrapClientTLS(authority.client_for("proxy.example"), way_to(address))
        protocol = await SOCKS5ClientEndpoint("target.example", 443, way, LOGIN).connect(Factory.forProtocol(Recorder))
        await protocol.until(lambda each: each.received == b"220 welcome\r\n")
        protocol.write(b"hello")
        tunnel = proxy.conversations[0].tunnel
        await tunnel.until(lambda end: end.received == b"hello")
        tunnel.close()
        await protocol.until(lambda each: each.lost)
        assert protocol.lost.type is ConnectionDone


@pytest.mark.parametrize("name", ["other.example", None])
async def test_a_certificate_that_does_not_hold_is_told_as_such(authority, name):
    secured = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, FakeProxy())
    trust = optionsForClientTLS("proxy.example") if name is None else authority.client_for(name)
    async with listening(secured) as address:
        way = wrapClientTLS(trust, way_to(address))
        error = await failure_of(SOCKS5ClientEndpoint("target.example", 443, way, LOGIN).connect(Counting()))
        assert type(error) is ProxyClosed
        assert "certificate" in str(error)
        assert error.__cause__ is not None


async def test_tls_with_the_target_of_a_factory_that_builds_nothing(authority):
    class Nothing(Factory):
        def buildProtocol(self, addr):
            return None

    proxy = FakeProxy()
    async with listening(proxy) as address:
        creator = authority.client_for("target.example")
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), tls=creator)
        assert type(await failure_of(endpoint.connect(Nothing()))) is NoProtocol
        await proxy.conversations[0].tunnel.until(lambda each: each.lost)


INJECTED = b"what nobody signed"
BEHIND_TLS = pytest.mark.parametrize("behind_tls", [False, True], ids=["a proxy in the open", "a proxy behind TLS"])


@asynccontextmanager
async def injecting(authority, behind_tls):
    """A way to a proxy that puts bytes before those of its target, which speaks TLS."""
    site = TLSMemoryBIOFactory(authority.server_options("target.example"), False, Factory.forProtocol(Recorder))
    proxy = FakeProxy(site, joined=INJECTED)
    served = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, proxy) if behind_tls else proxy
    async with listening(served) as address:
        way = way_to(address)
        yield wrapClientTLS(authority.client_for("proxy.example"), way) if behind_tls else way


class PausingRecorder(Recorder):
    def connectionMade(self):
        self.transport.pauseProducing()
        reactor.callLater(0.05, self.transport.resumeProducing)


@BEHIND_TLS
@pytest.mark.parametrize("protocol", [Recorder, PausingRecorder])
async def test_what_comes_with_the_reply_goes_through_the_targets_tls_too(authority, behind_tls, protocol):
    """Whoever stands between proxy and target could put it there: the certificate says nothing of it."""
    async with injecting(authority, behind_tls) as way:
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way, tls=authority.client_for("target.example"))
        client = await endpoint.connect(Factory.forProtocol(protocol))
        client.write(b"secret")
        await client.until(lambda it: it.lost)
        assert client.received == b""
        assert not client.lost.check(ConnectionDone)


async def test_what_comes_with_the_reply_goes_through_tls_that_the_application_begins(authority):
    class Beginning(Recorder):
        def connectionMade(self):
            self.transport.startTLS(authority.client_for("target.example"))

    async with injecting(authority, False) as way:
        client = await SOCKS5ClientEndpoint("target.example", 443, way).connect(Factory.forProtocol(Beginning))
        await client.until(lambda it: it.lost)
        assert client.received == b""
        assert not client.lost.check(ConnectionDone)


async def test_tls_with_the_target_offers_what_the_applications_factory_speaks(authority):
    @implementer(IProtocolNegotiationFactory)
    class Speaking(Factory):
        protocol = Recorder

        def acceptableProtocols(self):
            return [b"h2"]

    server = Speaking()
    site = TLSMemoryBIOFactory(authority.server_options("target.example"), False, server)
    async with listening(FakeProxy(site)) as address:
        creator = authority.client_for("target.example")
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), tls=creator)
        client = await endpoint.connect(Speaking())
        client.write(b"hello")
        await until(lambda: client.transport.negotiatedProtocol)
        assert client.transport.negotiatedProtocol == b"h2"
        client.close()
        await client.until(lambda it: it.lost)


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


async def test_tls_makes_a_proxy_elsewhere_fit_for_secrets(authority):
    proxy = FakeProxy(address=IPv4Address("TCP", "192.0.2.1", 1080))
    proxy.endpoint.server = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, proxy)
    way = wrapClientTLS(authority.client_for("proxy.example"), proxy.endpoint)
    protocol = await SOCKS5ClientEndpoint("target.example", 443, way, LOGIN).connect(Factory.forProtocol(Recorder))
    assert proxy.conversations[0].credentials.password == b"word"
    protocol.abort()
    await protocol.until(lambda each: each.lost)


@pytest.mark.parametrize("host", ["target.example", "192.0.2.1", "2001:db8::1"])
async def test_tls_with_the_target(authority, host):
    site = TLSMemoryBIOFactory(authority.server_options(host), False, Factory.forProtocol(Recorder))
    proxy = FakeProxy(site)
    async with listening(proxy) as address:
        endpoint = SOCKS5ClientEndpoint(host, 443, way_to(address), tls=authority.client_for(host))
        addresses = []

        class Telling(Factory):
            protocol = Recorder

            def buildProtocol(self, addr):
                addresses.append(addr)
                return super().buildProtocol(addr)

        protocol = await endpoint.connect(Telling())
        assert isinstance(addresses[0], SOCKS5Address)
        protocol.write(b"hello")
        tunnel = proxy.conversations[0].tunnel.wrappedProtocol
        await tunnel.until(lambda end: end.received == b"hello")
        tunnel.write(b"answer")
        await protocol.until(lambda each: each.received == b"answer")
        assert protocol.transport.getPeerCertificate() is not None
        protocol.close()
        await protocol.until(lambda each: each.lost)
        assert protocol.lost.type is ConnectionDone


async def test_tls_trusts_by_default_what_the_platform_trusts(authority):
    site = TLSMemoryBIOFactory(authority.server_options("target.example"), False, Factory.forProtocol(Recorder))
    async with listening(FakeProxy(site)) as address:
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), tls=True)
        protocol = await endpoint.connect(Factory.forProtocol(Recorder))
        protocol.write(b"secret")
        await protocol.until(lambda each: each.lost)
        assert "certificate" in str(protocol.lost.value)


async def test_tls_with_the_wrong_name_fails(authority):
    site = TLSMemoryBIOFactory(authority.server_options("other.example"), False, Factory.forProtocol(Recorder))
    proxy = FakeProxy(site)
    async with listening(proxy) as address:
        creator = authority.client_for("target.example")
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), tls=creator)
        protocol = await endpoint.connect(Factory.forProtocol(Recorder))
        protocol.write(b"secret")
        await protocol.until(lambda each: each.lost)
        assert not protocol.lost.check(ConnectionDone)
        assert proxy.conversations[0].tunnel.wrappedProtocol.received == b""


async def test_tls_within_tls(authority):
    site = TLSMemoryBIOFactory(authority.server_options("target.example"), False, Factory.forProtocol(Recorder))
    proxy = FakeProxy(site)
    secured = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, proxy)
    async with listening(secured) as address:
        way = wrapClientTLS(authority.client_for("proxy.example"), way_to(address))
        creator = authority.client_for("target.example")
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way, LOGIN, tls=creator)
        protocol = await endpoint.connect(Factory.forProtocol(Recorder))
        protocol.write(CONTENT)
        tunnel = proxy.conversations[0].tunnel.wrappedProtocol
        await tunnel.until(lambda end: end.received == CONTENT)
        tunnel.write(CONTENT[::-1])
        await protocol.until(lambda each: each.received == CONTENT[::-1])
        protocol.close()
        await protocol.until(lambda each: each.lost)


async def test_a_failure_beneath_tls_is_told_as_without_it(authority):
    async with listening(FakeProxy(code=0xE0)) as address:
        endpoint = SOCKS5ClientEndpoint(
            "target.example", 443, way_to(address), tls=authority.client_for("target.example")
        )
        assert type(await failure_of(endpoint.connect(Counting()))) is OnionServiceNotFound


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
        await until(lambda: not server.sessions)


# Look-ups.


def look_up(proxy, ask, host, methods=None):
    """What came of asking a `FakeProxy`."""
    proxy.endpoint.clock = clock = Clock()
    found = []
    ask(host, proxy.endpoint, methods or {"anonymous": ()}, reactor=clock).addBoth(found.append)
    clock.advance(0)
    assert clock.getDelayedCalls() == []
    return found[0].value if isinstance(found[0], Failure) else found[0]


@pytest.mark.parametrize("address", ["192.0.2.9", "2001:db8::9"])
def test_a_name_is_resolved_by_the_proxy(address):
    proxy = FakeProxy(bound=Address.of(address, 0))
    assert look_up(proxy, resolve, "bücher.example", LOGIN) == address
    (request,) = proxy.requests
    assert (request.command, request.destination.host) == (Command.RESOLVE, "xn--bcher-kva.example")
    assert proxy.conversations[0].credentials.username == b"user"
    assert proxy.conversations[0].lost is not None


@pytest.mark.parametrize("address", ["192.0.2.9", "2001:db8::9", b"192.0.2.9", "[2001:db8::9]"])
def test_an_address_is_named_by_the_proxy(address):
    proxy = FakeProxy(bound=Address.of("target.example", 0))
    assert look_up(proxy, resolve_ptr, address) == "target.example"
    assert proxy.requests[0].command == Command.RESOLVE_PTR
    assert not proxy.requests[0].destination.is_name


def test_only_an_address_has_a_name_to_find():
    with pytest.raises(ValueError, match="address"):
        resolve_ptr("target.example", NOWHERE)


def test_tors_answer_to_a_look_up_that_failed():
    tor = b"\x05\x04\x00\x00\x00\x00\x00\x00\x00\x00"
    assert type(look_up(FakeProxy(code=4, instead={State.REPLY: tor}), resolve, "nowhere.example")) is HostUnreachable


def test_a_look_up_closes_a_connection_that_its_proxy_leaves_open():
    proxy = FakeProxy(bound=Address.of("192.0.2.9", 0), stop_at=State.REPLY, stop_after=10, ending=Ending.SILENCE)
    assert look_up(proxy, resolve, "target.example") == "192.0.2.9"
    assert proxy.conversations[0].lost is not None


def test_a_look_up_that_found_nothing_has_failed():
    proxy = FakeProxy(instead={State.REPLY: bytes.fromhex("05000003000000")})
    assert type(look_up(proxy, resolve, "target.example")) is ProtocolViolation


def test_look_ups_fail_as_connections_do():
    assert type(look_up(FakeProxy(code=8), resolve_ptr, "192.0.2.9")) is AddressTypeNotSupported
    assert type(look_up(FakeProxy(stop_at=State.REPLY), resolve, "target.example")) is ProxyClosed
    assert type(look_up(FakeProxy(failure=ConnectionRefusedError()), resolve, "a.example")) is ConnectionRefusedError


def test_look_ups_have_a_deadline_and_can_be_cancelled():
    for end in (lambda clock, looking: clock.advance(7), lambda clock, looking: looking.cancel()):
        clock = Clock()
        proxy = FakeProxy(stop_at=State.REPLY, ending=Ending.SILENCE, clock=clock)
        outcome = []
        looking = resolve("target.example", proxy.endpoint, timeout=7, reactor=clock)
        looking.addErrback(outcome.append)
        clock.advance(0)
        end(clock, looking)
        clock.advance(0)
        assert outcome[0].check(HandshakeTimeout, CancelledError)
        assert proxy.conversations[0].lost is not None
        assert clock.getDelayedCalls() == []


async def test_look_ups_through_a_server_of_our_own():
    async with listening(SOCKS5ExtFactory(reactor)) as address:
        assert await resolve("127.0.0.1", way_to(address)) == "127.0.0.1"
        assert await resolve("localhost", way_to(address)) == "127.0.0.1"
