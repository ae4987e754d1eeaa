"""The public fakes of proxies and routes: they show what a test wants to see."""

import pytest
import treq
from support.attempts import outcome_of
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectBindError, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from txsocksx_ext import RouteTable, SOCKS5ClientEndpoint, SOCKS5ExtFactory, resolve, web_agent
from txsocksx_ext.errors import ConnectionRefused, HostUnreachable, OnionServiceNotFound, ProxyClosed
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.route import IRoute
from txsocksx_ext.testing import Ending, FakeProxy, FakeRoute, HalfCloseRecorder, Recorder, connect_to

GREETING = b"\x05\x01\x00"
ASKING = b"\x05\x01\x00\x03\x0etarget.example\x01\xbb"


# The proxy.


def through(proxy, methods=None, **options):
    """Connect to ``target.example:443`` through a fake, and what came of it."""
    proxy.endpoint.clock = clock = Clock()
    endpoint = SOCKS5ClientEndpoint(
        "target.example", 443, proxy.endpoint, methods or {"anonymous": ()}, reactor=clock, **options
    )
    connecting = endpoint.connect(Factory.forProtocol(Recorder))
    clock.advance(0)
    return outcome_of(connecting)


def test_a_proxy_tells_what_it_heard_and_gives_the_tunnel_to_the_server():
    class Upper(Protocol):
        def dataReceived(self, data):
            self.transport.write(data.upper())

    targets = []

    class Server(Factory):
        protocol = Upper

        def buildProtocol(self, addr):
            targets.append((addr.host, addr.port))
            return super().buildProtocol(addr)

    proxy = FakeProxy(Server())
    client = through(proxy, {"login": ("user", "word"), "extended": {"tor.isolation": "alice"}})
    client.write(b"hello")
    assert client.received == b"HELLO"
    assert targets == [("target.example", 443)]
    (heard,) = proxy.conversations
    assert heard.greeting.methods == (Method.EXTENDED, Method.USERNAME_PASSWORD)
    assert heard.pairs["tor.isolation"] == b"alice"
    assert [heard.request] == proxy.requests


def test_a_proxy_selects_the_method_that_a_test_wants():
    proxy = FakeProxy(method=Method.USERNAME_PASSWORD)
    through(proxy, {"login": ("user", "word"), "extended": {}})
    assert proxy.conversations[0].credentials.username == b"user"


def test_a_proxy_may_be_changed_between_connections():
    proxy = FakeProxy(code=0xE0)
    assert type(through(proxy)) is OnionServiceNotFound
    proxy.code = 0x05
    assert type(through(proxy)) is ConnectionRefused
    proxy.code = 0
    assert isinstance(through(proxy), Recorder)
    assert len(proxy.conversations) == 3


@pytest.mark.parametrize("state", [State.SELECTION, State.CREDENTIALS_ANSWER, State.PAIRS_ANSWER, State.REPLY])
@pytest.mark.parametrize("ending", Ending)
def test_a_proxy_stops_where_and_as_a_test_wants(state, ending):
    methods = {
        State.CREDENTIALS_ANSWER: {"login": ("user", "word")},
        State.PAIRS_ANSWER: {"extended": {}},
    }.get(state, {"anonymous": ()})
    proxy = FakeProxy(stop_at=state, stop_after=1, ending=ending)
    outcome = through(proxy, methods)
    if ending is Ending.SILENCE:
        assert outcome is None
        assert proxy.conversations[0].lost is None
    else:
        assert isinstance(outcome, ProxyClosed)
        assert type(outcome.__cause__) is (ConnectionDone if ending is Ending.CLOSE else ConnectionLost)


def test_a_proxy_says_what_a_test_wants_instead():
    client = connect_to(FakeProxy(instead={State.SELECTION: b"nonsense"}), clock=Clock())
    client.write(GREETING)
    assert client.received == b"nonsense"


def test_a_proxy_sends_any_code_to_any_client():
    client = connect_to(FakeProxy(code=0xF4, bound=Address.of("192.0.2.9", 9)), clock=Clock())
    client.write(GREETING)
    client.write(ASKING)
    assert client.received == b"\x05\x00\x05\xf4\x00\x01\xc0\x00\x02\x09\x00\x09"
    assert client.lost.type is ConnectionDone


def test_a_proxy_gives_what_came_before_its_reply_to_the_server():
    proxy = FakeProxy(joined=b"220 ready")
    client = connect_to(proxy, clock=Clock())
    client.write(GREETING + ASKING + b"early")
    assert client.received.endswith(b"220 ready")
    assert proxy.conversations[0].tunnel.received == b"early"


def test_a_proxy_refuses_a_client_that_breaks_the_protocol():
    proxy = FakeProxy()
    client = connect_to(proxy, clock=Clock())
    client.write(b"GET / HTTP/1.0\r\n\r\n")
    assert client.lost.type is ConnectionLost
    assert "version" in str(proxy.conversations[0].violation)
    assert proxy.conversations[0].greeting is None


def test_a_proxy_answers_look_ups():
    clock = Clock()
    proxy = FakeProxy(bound=Address.of("192.0.2.9", 0), clock=clock)
    looking = resolve("target.example", proxy.endpoint, reactor=clock)
    clock.advance(0)
    assert outcome_of(looking) == "192.0.2.9"
    assert proxy.conversations[0].lost is not None
    assert clock.getDelayedCalls() == []


async def test_a_proxy_serves_an_agent():
    from twisted.internet import reactor
    from twisted.web.resource import Resource
    from twisted.web.server import Site

    class Page(Resource):
        isLeaf = True

        def render_GET(self, request):
            return b"a page"

    proxy = FakeProxy(Site(Page(), reactor=Clock()))
    response = await web_agent(reactor, proxy.endpoint).request(b"GET", b"http://target.example/")
    assert await treq.content(response) == b"a page"
    assert proxy.requests[0].destination.host == "target.example"


async def test_a_proxy_can_listen_on_a_port():
    from twisted.internet import reactor

    proxy = FakeProxy(joined=b"220 ready")
    port = reactor.listenTCP(0, proxy, interface="127.0.0.1")
    way = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    client = await SOCKS5ClientEndpoint("target.example", 443, way).connect(Factory.forProtocol(Recorder))
    client.write(b"hello")
    await proxy.conversations[0].tunnel.until(lambda recorder: recorder.received == b"hello")
    assert client.received == b"220 ready"
    client.close()
    await client.until(lambda recorder: recorder.lost)
    await port.stopListening()


# The server's side.


def served_by(route, **options):
    """A client of a server with this route alone, and the server."""
    clock = route.endpoint.clock = Clock()
    factory = SOCKS5ExtFactory(clock, policy=RouteTable((), route), **options)
    client = connect_to(factory)
    client.write(GREETING)
    client.write(ASKING)
    return client, factory


def test_a_route_leads_to_a_target_in_memory():
    route = FakeRoute()
    assert verifyObject(IRoute, route)
    client, factory = served_by(route)
    assert client.received[:4] == b"\x05\x00\x05\x00"
    (target,) = route.endpoint.servers
    client.write(b"question")
    target.write(b"answer")
    assert target.received == b"question"
    assert client.received.endswith(b"answer")
    assert route.requests[0].destination.host == "target.example"
    assert route.sessions[0].method == Method.NO_AUTHENTICATION
    target.close()
    assert client.lost.type is ConnectionDone
    assert factory.connections == set()


def test_a_route_fails_with_what_a_test_wants():
    client, _ = served_by(FakeRoute(failure=ConnectBindError()))
    assert client.received[2:4] == b"\x05\x01"
    client, _ = served_by(FakeRoute(failure=OnionServiceNotFound()))
    assert client.received[2:4] == b"\x05\x04"


def test_a_route_that_hangs_shows_that_it_was_given_up():
    route = FakeRoute(hangs=True)
    client, _ = served_by(route)
    assert len(route.endpoint.connecting) == 1
    client.abort()
    assert route.endpoint.connecting == []


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        (FakeRoute(found=Address.of("192.0.2.9", 0)), b"\x05\x00\x00\x01\xc0\x00\x02\x09\x00\x00"),
        (FakeRoute(), b"\x05\x04"),
        (FakeRoute(found=Address.of("192.0.2.9", 0), failure=HostUnreachable()), b"\x05\x04"),
    ],
)
def test_a_route_answers_look_ups(route, expected):
    clock = Clock()
    client = connect_to(SOCKS5ExtFactory(clock, policy=RouteTable((), route)))
    client.write(GREETING)
    client.write(b"\x05\xf0\x00\x03\x0etarget.example\x00\x00")
    assert client.received[2:].startswith(expected)


def test_a_route_whose_look_ups_hang():
    clock = Clock()
    route = FakeRoute(found=Address.of("192.0.2.9", 0), hangs=True)
    client = connect_to(SOCKS5ExtFactory(clock, policy=RouteTable((), route)))
    client.write(GREETING)
    client.write(b"\x05\xf0\x00\x03\x0etarget.example\x00\x00")
    assert client.received == b"\x05\x00"
    clock.advance(60)
    assert client.received[2:4] == b"\x05\x06"


def test_the_server_sees_the_peer_that_a_test_wants():
    factory = SOCKS5ExtFactory(Clock())
    client = connect_to(factory, peer=IPv4Address("TCP", "198.51.100.7", 5000))
    (protocol,) = factory.connections
    assert protocol.session.peer.host == "198.51.100.7"
    client.close()


def test_a_client_of_ones_own():
    client = HalfCloseRecorder()
    assert connect_to(FakeProxy(code=5), client=client, clock=Clock()) is client
    client.write(GREETING)
    client.write(ASKING)
    assert client.read_ended
