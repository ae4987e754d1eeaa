"""The ways out of a transport: source addresses and proxies."""

import time

import pytest
from support.attempts import LOGIN, Application
from support.vectors import byte_by_byte
from twisted.internet.address import HostnameAddress
from twisted.internet.defer import CancelledError, succeed
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectionRefusedError as TCPRefused
from twisted.internet.error import NoProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from txsocksx_ext import SOCKS5ClientEndpoint, errors
from txsocksx_ext.pt.outgoing import Outgoing
from txsocksx_ext.testing import FakeProxy, MemoryEndpoint, Recorder, connect_in_memory
from txsocksx_ext.transports.upstream import UpstreamProxy

IPV4, IPV6, NAME = ("192.0.2.7", 4443), ("2001:db8::7", 4443), ("bridge.example", 4443)


def test_where_connections_come_from():
    outgoing = Outgoing(Clock(), source_v4="192.0.2.1", source_v6="2001:db8::1")
    assert outgoing.endpoint(*IPV4)._bindAddress == ("192.0.2.1", 0)
    assert outgoing.endpoint(*IPV6)._bindAddress == ("2001:db8::1", 0)
    # The specification has it so: what is on this machine is not reached from another address.
    assert outgoing.endpoint("127.0.0.1", 80)._bindAddress is None
    assert outgoing.endpoint("::1", 80)._bindAddress is None
    assert Outgoing(Clock()).endpoint(*IPV4)._bindAddress is None


async def test_a_source_address_for_real():
    """The very address: all of 127.0.0.0/8 is here, but it is loopback, and so is left alone."""
    from twisted.internet import reactor

    factory = Factory.forProtocol(Recorder)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    endpoint = Outgoing(reactor, source_v4="127.0.0.9").endpoint("127.0.0.1", port.getHost().port)
    client = await connectProtocol(endpoint, Recorder())
    assert client.transport.getHost().host == "127.0.0.1"
    client.close()
    await client.until(lambda it: it.lost)
    await port.stopListening()


def test_a_name_is_not_looked_up():
    with pytest.raises(errors.AddressTypeNotSupported, match="reveal it to the network"):
        Outgoing(Clock()).endpoint(*NAME)


class Through(Outgoing):
    """Ways whose proxy is in memory."""

    def __init__(self, clock, proxy, way):
        super().__init__(clock, proxy)
        self.asked_for = []
        self._way = way

    def _direct(self, host, port):
        self.asked_for.append((host, port))
        return self._way


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def raw(clock):
    """A proxy in the test's hand, and how to go through it."""

    def begin(scheme, target, username="", password="", **options):
        proxy = Recorder()
        factory = Factory()
        factory.buildProtocol = lambda address: proxy
        way = MemoryEndpoint(factory, clock=clock, **options)
        outgoing = Through(clock, UpstreamProxy(scheme, "192.0.2.99", 1080, username, password), way)
        client = Recorder()
        connecting = connectProtocol(outgoing.endpoint(*target), client)
        clock.advance(0)
        assert outgoing.asked_for == [("192.0.2.99", 1080)]
        return proxy, client, connecting

    return begin


def error_of(connecting):
    caught = []
    connecting.addErrback(caught.append)
    (failure,) = caught
    return failure.value


@pytest.mark.parametrize(
    ("target", "authority"),
    [(IPV4, "192.0.2.7:4443"), (IPV6, "[2001:db8::7]:4443"), (NAME, "bridge.example:4443")],
)
def test_http(raw, target, authority):
    proxy, client, connecting = raw("http", target)
    assert proxy.received == f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()
    for byte in byte_by_byte(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"):
        assert not connecting.called
        proxy.write(byte)
    assert connecting.called
    client.write(b"payload")
    assert proxy.received.endswith(b"\r\n\r\npayload")


@pytest.mark.parametrize(
    ("password", "encoded"), [("pass:word", b"dXNlcjpwYXNzOndvcmQ="), ("p\udcffw", b"dXNlcjpw/3c=")]
)
def test_http_with_a_login(raw, password, encoded):
    proxy, _, _ = raw("http", IPV4, "user", password)
    assert b"\r\nProxy-Authorization: Basic " + encoded + b"\r\n\r\n" in proxy.received


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication Required"),
        (b"HTTP/1.0 502 Bad Gateway\n\n", "502 Bad Gateway"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "the proxy that the transport has to use refused"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the proxy speaks SSH, not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, "there are more than 100 headers"),
    ],
)
def test_http_that_refuses(raw, answer, words):
    proxy, _, connecting = raw("http", IPV4)
    proxy.write(answer)
    error = error_of(connecting)
    assert isinstance(error, errors.SOCKS5Error)
    assert error.reply_code.number == 0x01
    assert words in str(error)
    assert proxy.lost


@pytest.mark.parametrize(
    ("target", "request_bytes"),
    [
        (IPV4, b"\x04\x01\x11\x5b\xc0\x00\x02\x07user\0"),
        (NAME, b"\x04\x01\x11\x5b\x00\x00\x00\x01user\0bridge.example\0"),
    ],
)
def test_socks4a(raw, target, request_bytes):
    proxy, client, connecting = raw("socks4a", target, "user")
    assert proxy.received == request_bytes
    proxy.write(b"\x00\x5a\x00\x00\x00\x00\x00")
    assert not connecting.called
    proxy.write(b"\x00and more")
    assert connecting.called
    assert client.received == b"and more"


def test_socks4a_with_an_ipv6_address(raw):
    """Servers of SOCKS4a take it as a name."""
    proxy, _, _ = raw("socks4a", IPV6)
    assert proxy.received == b"\x04\x01\x11\x5b\x00\x00\x00\x01\x002001:db8::7\0"


def test_socks4a_that_refuses(raw):
    proxy, _, connecting = raw("socks4a", IPV4)
    proxy.write(b"\x00\x5b" + bytes(6))
    error = error_of(connecting)
    assert isinstance(error, errors.GeneralServerFailure)
    assert error.status == 0x5B
    proxy, _, connecting = raw("socks4a", IPV4)
    proxy.write(b"\x05\xff" + bytes(6))
    assert isinstance(error_of(connecting), errors.ProtocolViolation)


@pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5"])
def test_a_proxy_that_closes(raw, scheme):
    proxy, _, connecting = raw(scheme, IPV4)
    proxy.close()
    assert isinstance(error_of(connecting), errors.ProxyClosed)


@pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5"])
def test_a_proxy_that_cannot_be_reached(raw, scheme):
    """That says nothing of the bridge: not that it refused, say."""
    _, _, connecting = raw(scheme, IPV4, failure=TCPRefused())
    error = error_of(connecting)
    assert isinstance(error, errors.ProxyUnreachable)
    assert error.reply_code.number == 0x01


@pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5"])
def test_giving_up(raw, clock, scheme):
    proxy, _, connecting = raw(scheme, IPV4)
    connecting.cancel()
    assert isinstance(error_of(connecting), (CancelledError, errors.SOCKS5Error))
    clock.advance(0)
    assert proxy.lost


@pytest.mark.parametrize("target", [IPV4, IPV6, NAME])
def test_socks5(clock, target):
    proxy = FakeProxy(clock=clock, address=_elsewhere())
    settings = UpstreamProxy("socks5", "192.0.2.99", 1080, "user", "pass\udcffword")
    client = Recorder()
    connecting = connectProtocol(Through(clock, settings, proxy.endpoint).endpoint(*target), client)
    clock.advance(0)
    assert connecting.called
    (conversation,) = proxy.conversations
    # Though it is not on this machine: the operator chose it.
    assert (conversation.credentials.username, conversation.credentials.password) == (b"user", b"pass\xffword")
    assert (conversation.request.destination.host, conversation.request.destination.port) == target
    client.write(b"payload")
    assert conversation.tunnel.received == b"payload"


def test_socks5_that_says_why(clock):
    settings = UpstreamProxy("socks5", "192.0.2.99", 1080)
    proxy = FakeProxy(clock=clock, code=0x05)
    connecting = connectProtocol(Through(clock, settings, proxy.endpoint).endpoint(*IPV4), Recorder())
    clock.advance(0)
    assert isinstance(error_of(connecting), errors.ConnectionRefused)
    (conversation,) = proxy.conversations
    assert conversation.greeting.methods == (0,)


@pytest.mark.parametrize("code", range(1, 0x100))
def test_of_what_a_socks5_proxy_says_only_what_the_bridge_may_mean_is_passed_on(clock, code):
    settings = UpstreamProxy("socks5", "192.0.2.99", 1080)
    proxy = FakeProxy(clock=clock, code=code)
    connecting = connectProtocol(Through(clock, settings, proxy.endpoint).endpoint(*IPV4), Recorder())
    clock.advance(2)
    assert error_of(connecting).reply_code.number == (code if code in (3, 4, 5, 6, 8) else 1)


def through(scheme, clock, application, target=IPV4, **options):
    """A proxy in the test's hand, and an application's factory that connects through it."""
    proxy = Recorder()
    factory = Factory()
    factory.buildProtocol = lambda address: proxy
    settings = UpstreamProxy(scheme, "192.0.2.99", 1080)
    way = MemoryEndpoint(factory, clock=clock, **options)
    connecting = Through(clock, settings, way).endpoint(*target).connect(application)
    clock.advance(0)
    return proxy, connecting


def agree(scheme, clock, proxy):
    """Have the proxy say that it has connected."""
    for answer in {
        "http": [b"HTTP/1.1 200 OK\r\n\r\n"],
        "socks4a": [b"\0\x5a" + bytes(6)],
        "socks5": [b"\5\0", b"\5\0\0\1" + bytes(6)],
    }[scheme]:
        proxy.write(answer)
        clock.advance(0)


@pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5"])
def test_the_applications_factory_starts_and_stops_with_the_connection(clock, scheme):
    application = Application()
    proxy, connecting = through(scheme, clock, application)
    agree(scheme, clock, proxy)
    assert connecting.called
    assert application.events == ["start", "build"]
    proxy.close()
    clock.advance(0)
    assert application.events == ["start", "build", "stop"]


@pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5"])
@pytest.mark.parametrize("failing", ["unreachable", "closed", "cancelled"])
def test_the_applications_factory_stops_where_there_is_no_connection(clock, scheme, failing):
    application = Application()
    proxy, connecting = through(scheme, clock, application, failure=TCPRefused() if failing == "unreachable" else None)
    if failing == "closed":
        proxy.close()
    elif failing == "cancelled":
        connecting.cancel()
    error_of(connecting)
    clock.advance(0)
    assert application.events == ["start", "stop"]


@pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5"])
@pytest.mark.parametrize("target", [IPV4, NAME])
def test_the_application_is_told_the_target_and_not_the_proxy(clock, scheme, target):
    application = Application()
    proxy, _ = through(scheme, clock, application, target)
    agree(scheme, clock, proxy)
    (address,) = application.addresses
    host = address.hostname.decode() if isinstance(address, HostnameAddress) else address.host
    assert (host, address.port) == target


@pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5"])
def test_behind_a_proxy_on_this_machine_there_is_no_place_for_secrets(clock, scheme):
    settings = UpstreamProxy(scheme, "127.0.0.1", 1080)
    proxy = Recorder()
    factory = Factory()
    factory.buildProtocol = lambda address: proxy
    tunnel = Through(clock, settings, MemoryEndpoint(factory, clock=clock)).endpoint(*IPV4)
    connecting = SOCKS5ClientEndpoint("target.example", 443, tunnel, LOGIN, reactor=clock).connect(Application())
    clock.advance(0)
    agree(scheme, clock, proxy)
    assert type(error_of(connecting)) is errors.CleartextRefused


@pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5"])
@pytest.mark.parametrize("builds", ["nothing", "a fault"])
def test_a_factory_that_builds_nothing_is_told_so_and_leaves_nothing(clock, scheme, builds):
    class Fault(Exception):
        pass

    class Builder(Factory):
        def buildProtocol(self, address):
            if builds == "a fault":
                raise Fault

    proxy, connecting = through(scheme, clock, Builder())
    agree(scheme, clock, proxy)
    assert type(error_of(connecting)) is (Fault if builds == "a fault" else NoProtocol)
    assert proxy.lost


SCHEMES = pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5"])
LAST_ANSWER = {"http": b"HTTP/1.1 200 OK\r\n\r\n", "socks4a": b"\0\x5a" + bytes(6), "socks5": b"\5\0\0\1" + bytes(6)}


def agree_with(scheme, clock, proxy, data):
    """Have the proxy say that it has connected, and send some of the target's data with that."""
    if scheme == "socks5":
        proxy.write(b"\5\0")
    proxy.write(LAST_ANSWER[scheme] + data)
    clock.advance(0)


@SCHEMES
@pytest.mark.parametrize("data", [b"", b"of the target"])
def test_an_application_that_raises_when_it_is_connected_leaves_nothing(clock, scheme, data):
    class Fault(Exception):
        pass

    class Raising(Recorder):
        def connectionMade(self):
            raise Fault

    made = []
    application = Application()
    application.buildProtocol = lambda address: made.append(Raising()) or made[0]
    proxy, connecting = through(scheme, clock, application)
    agree_with(scheme, clock, proxy, data)
    assert type(error_of(connecting)) is Fault
    clock.advance(0)
    assert proxy.lost
    (protocol,) = made
    assert protocol.received == b""
    assert application.events == ["start", "stop"]


@SCHEMES
def test_a_paused_application_gets_no_data_before_it_resumes(clock, scheme):
    class Paused(Recorder):
        def connectionMade(self):
            self.transport.pauseProducing()

    application = Factory.forProtocol(Paused)
    proxy, connecting = through(scheme, clock, application)
    agree_with(scheme, clock, proxy, b"first")
    results = []
    connecting.addCallback(results.append)
    (protocol,) = results
    proxy.write(b", second")
    clock.advance(1)
    assert protocol.received == b""
    protocol.transport.resumeProducing()
    clock.advance(0)
    assert protocol.received == b"first, second"
    proxy.write(b", third")
    assert protocol.received == b"first, second, third"


@SCHEMES
def test_an_application_is_connected_before_it_gets_data(clock, scheme):
    events = []

    class Ordered(Recorder):
        def connectionMade(self):
            events.append("made")

        def dataReceived(self, data):
            events.append(data)

    proxy, connecting = through(scheme, clock, Factory.forProtocol(Ordered))
    connecting.addCallback(lambda protocol: events.append("fired"))
    agree_with(scheme, clock, proxy, b"data")
    assert events == ["made", "fired", b"data"]


@SCHEMES
def test_an_application_may_give_up_when_its_protocol_is_built(clock, scheme):
    class Leaving(Factory):
        def buildProtocol(self, address):
            connecting.cancel()
            return Recorder()

    proxy, connecting = through(scheme, clock, Leaving())
    agree_with(scheme, clock, proxy, b"data")
    assert isinstance(error_of(connecting), CancelledError)
    clock.advance(0)
    assert proxy.lost


def test_a_login_that_cannot_be_sent_is_refused(raw):
    with pytest.raises(ValueError, match="surrogate"):
        raw("http", IPV4, "user", "\ud800")


def test_the_time_for_an_answer_does_not_grow_with_what_follows_it(clock):
    """64 MB at once, as no transport gives them, so that what would grow takes a minute."""
    head = b"HTTP/1.1 200 OK\r\n" + (b"a: " + b"b" * 100 + b"\r\n") * 75 + b"\r\n"
    assert 7_500 < len(head) <= 8 * 1024
    data = bytes(64 * 1024 * 1024)

    class AtOnce(Protocol):
        """A proxy whose whole answer comes in one piece."""

        def dataReceived(self, request):
            client_side = ends[0]
            client_side.protocol.dataReceived(head + data)

    ends = []

    class Way:
        def connect(self, factory):
            ends.extend(connect_in_memory(factory.buildProtocol(None), AtOnce(), clock=clock))
            return succeed(ends[0].protocol)

    class Counting(Protocol):
        count = 0

        def dataReceived(self, data):
            self.count += len(data)

    application = Counting()
    outgoing = Through(clock, UpstreamProxy("http", "192.0.2.99", 1080), Way())
    connectProtocol(outgoing.endpoint(*IPV4), application)
    began = time.process_time()
    clock.advance(0)
    assert application.count == len(data)
    assert time.process_time() - began < 5


def _elsewhere():
    from twisted.internet.address import IPv4Address

    return IPv4Address("TCP", "192.0.2.99", 1080)
