"""Code that knows nothing of proxies, with a reactor that goes through one."""

import gc
import os
import socket
import weakref

import pytest
import pytest_twisted
from examples.raw_peers import until
from support.certificates import Authority
from support.documentation import DOCS
from support.programs import free_port
from support.ways import LOGIN, listening, listening_on_port
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    UNIXClientEndpoint,
    clientFromString,
    connectProtocol,
    serverFromString,
)
from twisted.internet.error import (
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
    NotConnectingError,
    UserError,
)
from twisted.internet.interfaces import IConnector, IReactorCore, IReactorPluggableNameResolver, IReactorTCP
from twisted.internet.protocol import (
    ClientCreator,
    ClientFactory,
    DatagramProtocol,
    Factory,
    Protocol,
    ReconnectingClientFactory,
)
from twisted.internet.task import deferLater
from twisted.names.client import Resolver
from twisted.protocols.policies import WrappingFactory
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data
from zope.interface.verify import verifyObject

from txsocksx_ext import SOCKS5ExtFactory, proxied_reactor
from txsocksx_ext.client.direct_hosts import DirectHosts
from txsocksx_ext.errors import (
    CommandNotSupported,
    ConnectionRefused,
    HandshakeTimeout,
    NoAcceptableMethod,
    ProxyRefused,
)
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.testing import Ending, FakeProxy, Recorder


class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


class WebServer(Protocol):
    def dataReceived(self, data):
        self.transport.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        self.transport.loseConnection()


class Client(ClientFactory):
    """
    A factory that notes what happens to it.

    :ivar events: what happened, with the connector's state then.
    """

    noisy = False

    def __init__(self, during=None, protocol=None):
        self.events, self.reasons, self.addresses = [], [], []
        self.over = Deferred()
        self.connector = None
        self._during = during or {}
        self._protocol = protocol

    def note(self, event, connector):
        self.events.append((event, connector.state if connector else None))
        if event in self._during:
            self._during[event](self, connector)

    def doStart(self):
        self.events.append(("start", None))
        super().doStart()

    def doStop(self):
        self.events.append(("stop", None))
        super().doStop()
        if not self.over.called:
            self.over.callback(None)

    def startedConnecting(self, connector):
        self.connector = connector
        self.note("connecting", connector)

    def buildProtocol(self, addr):
        self.addresses.append((addr.host, addr.port))
        self.note("build", self.connector)
        if self._protocol == "none":
            return None
        noting = Noting()
        noting.factory = self
        return noting

    def clientConnectionFailed(self, connector, reason):
        self.reasons.append(reason.type)
        self.note("failed", connector)

    def clientConnectionLost(self, connector, reason):
        self.reasons.append(reason.type)
        self.note("lost", connector)


class Noting(Protocol):
    def connectionMade(self):
        self.factory.note("made", self.factory.connector)

    def dataReceived(self, data):
        self.factory.note(data.decode(), self.factory.connector)

    def connectionLost(self, reason):
        self.factory.note("protocol lost", self.factory.connector)


def disconnect(factory, connector):
    connector.disconnect()


def close(factory, connector):
    reactor.callLater(0, connector.transport.loseConnection)


def once_more(factory, connector):
    if [event for event, _ in factory.events].count("connecting") < 2:
        connector.connect()


SCENARIOS = {
    "disconnected by the connector": {"made": disconnect},
    "closed": {"made": close},
    "stopped before it began": {"connecting": lambda factory, connector: connector.stopConnecting()},
    "disconnected while connecting": {"connecting": disconnect},
    "connected again after a loss": {"made": close, "lost": once_more},
}


async def run_client(with_reactor, port, during, protocol=None):
    factory = Client(during, protocol)
    connector = with_reactor.connectTCP("127.0.0.1", port, factory)
    assert verifyObject(IConnector, connector)
    await factory.over
    assert connector.state == "disconnected"
    assert connector.getDestination() == IPv4Address("TCP", "127.0.0.1", port)
    with pytest.raises(NotConnectingError):
        connector.stopConnecting()
    return factory


@pytest_twisted.async_yield_fixture
async def through():
    """A proxied reactor, whose proxy is a server of ours."""
    async with listening(SOCKS5ExtFactory(reactor)) as address:
        yield proxied_reactor(reactor, TCP4ClientEndpoint(reactor, "127.0.0.1", address.port))


class TestConnectors:
    """What a factory is told, and when, is what Twisted's reactor tells it."""

    @pytest.mark.parametrize("during", SCENARIOS.values(), ids=SCENARIOS)
    async def test_a_target_that_answers(self, through, during):
        async with listening_on_port(Factory.forProtocol(Echo)) as port:
            proxied, direct = [await run_client(each, port, during) for each in (through, reactor)]
            assert proxied.events == direct.events
            assert proxied.reasons == direct.reasons
            assert proxied.addresses == direct.addresses
            assert proxied.numPorts == direct.numPorts == 0

    @pytest.mark.parametrize("during", [{}, {"failed": once_more}], ids=["once", "twice"])
    async def test_a_target_that_refuses(self, through, during):
        port = free_port()
        proxied, direct = [await run_client(each, port, during) for each in (through, reactor)]
        assert proxied.events == direct.events
        assert set(direct.reasons) == {ConnectionRefusedError}
        assert set(proxied.reasons) == {ConnectionRefused}

    async def test_a_factory_without_a_protocol(self, through):
        async with listening_on_port(Factory.forProtocol(Echo)) as port:
            proxied, direct = [await run_client(each, port, {}, "none") for each in (through, reactor)]
            assert proxied.events == direct.events
            assert proxied.reasons == direct.reasons == [ConnectionDone]

    async def test_one_that_another_protocol_takes_over(self, through):
        def replace(factory, connector):
            connector.transport.protocol = Noting()
            connector.transport.protocol.factory = factory
            connector.transport.loseConnection()

        async with listening_on_port(Factory.forProtocol(Echo)) as port:
            proxied, direct = [await run_client(each, port, {"made": replace}) for each in (through, reactor)]
            assert proxied.events == direct.events

    async def test_it_cannot_connect_twice_at_once(self, through):
        factory = Client()
        connector = through.connectTCP("127.0.0.1", 9, factory)
        with pytest.raises(RuntimeError):
            connector.connect()
        connector.stopConnecting()
        assert factory.reasons == [UserError]

    async def test_one_that_is_stopped_while_the_proxy_is_silent(self):
        async with listening(Factory.forProtocol(Protocol)) as address:
            slow = proxied_reactor(reactor, TCP4ClientEndpoint(reactor, "127.0.0.1", address.port))
            factory = Client()
            connector = slow.connectTCP("target.example", 80, factory)
            await deferLater(reactor, 0.1, lambda: None)
            connector.stopConnecting()
            assert factory.reasons == [UserError]
            assert factory.events[-1] == ("stop", None)


class TestWhatItCovers:
    """Twisted's own ways to connect."""

    @pytest.fixture
    def fake(self):
        """A proxy that answers every target with an echo."""
        return FakeProxy(Factory.forProtocol(Echo))

    async def requests_of(self, fake, connect, **options):
        """What a proxy was asked for by code that was given the reactor."""
        async with listening(fake) as address:
            proxy = TCP4ClientEndpoint(reactor, "127.0.0.1", address.port)
            protocol = await connect(proxied_reactor(reactor, proxy, **options))
            protocol.transport.write(b"hello")
            await protocol.until(lambda each: each.received == b"hello")
            protocol.close()
            await protocol.until(lambda each: each.lost)
        return [each.destination for each in fake.requests]

    @pytest.mark.parametrize(
        ("connect", "target"),
        [
            (lambda it: connectProtocol(HostnameEndpoint(it, "name.example", 80), Recorder()), "name.example"),
            (lambda it: connectProtocol(HostnameEndpoint(it, "::1", 80), Recorder()), "::1"),
            (lambda it: connectProtocol(HostnameEndpoint(it, "localhost", 80), Recorder()), "localhost"),
            (lambda it: connectProtocol(TCP4ClientEndpoint(it, "name.example", 80), Recorder()), "name.example"),
            (lambda it: connectProtocol(clientFromString(it, "tcp:name.example:80"), Recorder()), "name.example"),
            (lambda it: ClientCreator(it, Recorder).connectTCP("name.example", 80), "name.example"),
        ],
        ids=["HostnameEndpoint", "IPv6", "localhost", "TCP4ClientEndpoint", "clientFromString", "ClientCreator"],
    )
    async def test_names_go_to_the_proxy(self, fake, connect, target):
        assert await self.requests_of(fake, connect) == [Address.of(target, 80)]

    async def test_a_name_that_is_resolved_first(self, fake):
        async def connect(it):
            found = await it.resolve("name.example")
            return await ClientCreator(it, Recorder).connectTCP(found, 80)

        assert await self.requests_of(fake, connect) == [Address.of("name.example", 80)]

    async def test_resolvers_that_a_program_installs_are_not_asked(self, fake):
        def connect(it):
            it.installResolver(Resolver(servers=[("192.0.2.1", 53)]))
            it.installNameResolver(object())
            return connectProtocol(HostnameEndpoint(it, "name.example", 80), Recorder())

        assert await self.requests_of(fake, connect) == [Address.of("name.example", 80)]

    async def test_methods_and_isolation_are_used(self, fake):
        def connect(it):
            return connectProtocol(HostnameEndpoint(it, "name.example", 80), Recorder())

        await self.requests_of(fake, connect, isolation="alice")
        await self.requests_of(fake, connect, methods=LOGIN)
        await self.requests_of(fake, connect, methods={"extended": {"a.b": "c"}}, isolation="bob")
        anonymous, login, pairs = fake.conversations
        assert anonymous.pairs == {"tor.isolation": b"alice"}
        assert (login.credentials.username, login.credentials.password) == (b"user", b"word")
        assert pairs.pairs == {"a.b": b"c", "tor.isolation": b"bob"}

    async def test_tls_with_the_target(self, through):
        authority = Authority()
        root = Resource()
        root.putChild(b"", Data(b"the page", "text/plain"))
        # Around the site, since Twisted 24.7 cannot negotiate its protocol with a newer pyOpenSSL.
        site = WrappingFactory(Site(root))
        port = reactor.listenSSL(0, site, authority.server_options("localhost"), interface="127.0.0.1")
        number = port.getHost().port
        try:
            agent = Agent(through, BrowserLikePolicyForHTTPS(authority.trust_root))
            response = await HTTPClient(agent).get(f"https://localhost:{number}/")
            assert await response.content() == b"the page"
            creator = ClientCreator(reactor, Recorder)
            creator.reactor = through
            protocol = await creator.connectSSL("localhost", number, authority.client_for("localhost"))
            protocol.transport.write(b"GET / HTTP/1.0\r\n\r\n")
            await protocol.until(lambda each: each.lost)
            assert protocol.received.endswith(b"the page")
            with pytest.raises(Exception, match="certificate verify failed"):
                await HTTPClient(Agent(through)).get(f"https://localhost:{number}/")
        finally:
            await port.stopListening()

    async def test_a_factory_reconnects_through_three_restarts_of_the_proxy(self):
        class Persistent(ReconnectingClientFactory):
            noisy = False
            initialDelay = delay = 0.05
            factor, jitter = 1, 0
            protocol = Recorder

            def buildProtocol(self, addr):
                self.resetDelay()
                built.append(super().buildProtocol(addr))
                return built[-1]

            def clientConnectionFailed(self, connector, reason):
                failures.append(reason.type)
                super().clientConnectionFailed(connector, reason)

        built, failures = [], []
        factory = Persistent()
        port = free_port()
        it = proxied_reactor(reactor, TCP4ClientEndpoint(reactor, "127.0.0.1", port))
        it.connectTCP("name.example", 80, factory)
        for _ in range(4):
            built.clear()
            await until(lambda: failures)
            assert set(failures) == {ProxyRefused}
            async with listening(FakeProxy(Factory.forProtocol(Echo)), f"tcp:{port}:interface=127.0.0.1"):
                await until(lambda: built and built[-1].transport)
                built[-1].transport.write(b"hello")
                await built[-1].until(lambda each: each.received == b"hello")
            failures.clear()
            built[-1].transport.abortConnection()
        factory.stopTrying()


def of(proxy, **options):
    """A reactor through a `FakeProxy` in memory."""
    return proxied_reactor(reactor, proxy.endpoint, **options)


async def failure_through(it, host="name.example"):
    factory = Client()
    reasons = []
    factory.clientConnectionFailed = lambda connector, reason: reasons.append(reason.value)
    it.connectTCP(host, 80, factory)
    await factory.over
    (reason,) = reasons
    return reason


class TestFailures:
    async def test_what_applications_catch(self):
        assert isinstance(await failure_through(of(FakeProxy(code=5))), ConnectionRefusedError)
        assert isinstance(await failure_through(of(FakeProxy(code=4))), DNSLookupError)
        assert type(await failure_through(of(FakeProxy(method=0xFF)))) is NoAcceptableMethod

    async def test_what_their_users_read_is_in_the_documentation(self):
        page = " ".join((DOCS / "howto" / "applications.rst").read_text().split())
        port = free_port()
        down = proxied_reactor(reactor, f"socks5://127.0.0.1:{port}")
        assert str(await failure_through(down)).replace(f":{port} ", ":1080 ") in page
        for answers in ({"code": 5}, {"code": 4}, {"code": 6}, {"code": 2}, {"method": 0xFF}):
            assert str(await failure_through(of(FakeProxy(**answers)))) in page
        wrong = of(FakeProxy(method=Method.USERNAME_PASSWORD, status=1), methods=LOGIN)
        assert str(await failure_through(wrong)) in page
        async with listening_on_port(Factory.forProtocol(WebServer)) as web:
            no_proxy = proxied_reactor(reactor, f"socks5://127.0.0.1:{web}")
            assert str(await failure_through(no_proxy)) in page

    async def test_the_timeout_is_the_reactors_and_not_the_callers(self):
        it = of(FakeProxy(stop_at=State.REPLY, ending=Ending.SILENCE), timeout=0.2)
        factory = Client()
        it.connectTCP("name.example", 80, factory, timeout=600)
        await factory.over
        assert factory.reasons == [HandshakeTimeout]

    async def test_what_socks_cannot_carry(self):
        assert isinstance(await failure_through(of(FakeProxy()), "name example"), ValueError)

    async def test_an_address_to_connect_from(self):
        it = of(FakeProxy())
        factory = Client()
        it.connectTCP("name.example", 80, factory, bindAddress=("127.0.0.1", 0))
        await factory.over
        assert factory.reasons == [CommandNotSupported]

    @pytest.mark.parametrize(
        "call",
        [
            lambda it: it.listenUDP(0, DatagramProtocol()),
            lambda it: it.listenMulticast(0, DatagramProtocol(), listenMultiple=True),
            lambda it: it.adoptDatagramPort(0, socket.AF_INET, DatagramProtocol()),
        ],
        ids=["listenUDP", "listenMulticast", "adoptDatagramPort"],
    )
    def test_datagrams_are_refused(self, call):
        with pytest.raises(CommandNotSupported, match="datagrams do not go through the proxy"):
            call(of(FakeProxy()))

    async def test_queries_of_a_resolver_are_not_sent(self):
        with pytest.raises(CommandNotSupported):
            await Resolver(servers=[("192.0.2.1", 53)], reactor=of(FakeProxy())).lookupAddress("name.example")

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"methods": {"unknown": ()}}, ValueError),
            ({"methods": LOGIN, "isolation": "alice"}, ValueError),
            ({"timeout": -1}, ValueError),
            ({"direct": "localhost"}, TypeError),
            ({"direct": ["http://localhost"]}, ValueError),
        ],
    )
    def test_faulty_arguments_are_told_at_once(self, options, error):
        with pytest.raises(error):
            of(FakeProxy(), **options)


class TestTheReactorItself:
    def test_it_provides_what_the_reactor_provides(self):
        it = of(FakeProxy())
        for interface in (IReactorTCP, IReactorCore, IReactorPluggableNameResolver):
            assert interface.providedBy(it)
        assert it.running is reactor.running
        assert "secret" not in repr(of(FakeProxy(), methods={"login": ("user", "secret")}))

    async def test_it_listens_and_uses_unix_sockets(self, tmp_path):
        it = of(FakeProxy(failure=AssertionError("the proxy was asked")))
        for description in ("tcp:0:interface=127.0.0.1", f"unix:{tmp_path}/socket"):
            port = await serverFromString(it, description).listen(Factory.forProtocol(Echo))
            await maybeDeferred(port.stopListening)
        async with listening(Factory.forProtocol(Echo), f"unix:{tmp_path}/socket"):
            protocol = await connectProtocol(UNIXClientEndpoint(it, f"{tmp_path}/socket"), Recorder())
            protocol.close()
            await protocol.until(lambda each: each.lost)

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    async def test_direct_hosts_are_not_the_proxys(self, host):
        fake = FakeProxy(Factory.forProtocol(Echo))
        it = of(fake, direct=["127.0.0.0/8", "localhost"])
        async with listening_on_port(Factory.forProtocol(Echo)) as port:
            for way in (
                connectProtocol(HostnameEndpoint(it, host, port), Recorder()),
                ClientCreator(it, Recorder).connectTCP(host, port),
            ):
                protocol = await way
                protocol.close()
                await protocol.until(lambda each: each.lost)
            assert fake.requests == []
            protocol = await ClientCreator(it, Recorder).connectTCP("name.example", 80)
            protocol.close()
            assert fake.requests[0].destination == Address.of("name.example", 80)

    @pytest.mark.parametrize("during", [{"made": close}, {"made": disconnect}], ids=["closed", "disconnected"])
    @pytest.mark.parametrize("is_there", [True, False], ids=["a target", "no target"])
    async def test_two_hundred_connections_leave_nothing(self, through, during, is_there):
        async with listening_on_port(Factory.forProtocol(Echo)) as port:
            number = port if is_there else free_port()
            await run_client(through, number, during)
            open_before, calls_before = len(os.listdir("/proc/self/fd")), len(reactor.getDelayedCalls())
            left = []
            for _ in range(200):
                factory = Client(during)
                connector = through.connectTCP("127.0.0.1", number, factory)
                left += [weakref.ref(factory), weakref.ref(connector)]
                await factory.over
            del factory, connector
            await deferLater(reactor, 0, lambda: None)
            gc.collect()
            assert [each() for each in left if each() is not None] == []
            await until(lambda: len(os.listdir("/proc/self/fd")) <= open_before)
            await until(lambda: len(reactor.getDelayedCalls()) <= calls_before)


DIRECT = {
    "example.com": (
        {"example.com", "www.example.com", "EXAMPLE.com.", "a.b.example.com"},
        {"notexample.com", "com", "example.com.evil"},
    ),
    ".example.com": ({"example.com", "www.example.com"}, {"notexample.com"}),
    "*.example.com": ({"example.com", "www.example.com"}, {"notexample.com"}),
    "*": ({"example.com", "192.0.2.1", "::1"}, set()),
    "192.0.2.0/24": ({"192.0.2.77"}, {"192.0.3.1", "example.com", "::1"}),
    "192.0.2.1": ({"192.0.2.1"}, {"192.0.2.2"}),
    "2001:db8::/32": ({"2001:db8::7"}, {"2001:db9::1", "192.0.2.1"}),
    "[::1]:80": ({"::1"}, {"::2"}),
    "example.com:80": ({"example.com", "www.example.com"}, set()),
    "example.com:81": (set(), {"example.com"}),
    "192.0.2.1:81": (set(), {"192.0.2.1"}),
}


@pytest.mark.parametrize(("pattern", "hosts"), DIRECT.items(), ids=DIRECT)
def test_patterns_of_direct_hosts(pattern, hosts):
    direct = DirectHosts([pattern])
    for is_direct, each_host in zip((True, False), hosts, strict=True):
        for host in each_host:
            assert direct.has(host, 80) is is_direct, host


@pytest.mark.parametrize("pattern", ["", ".", "http://localhost", "exa mple", "a:b", "a:1:2x", "*.*.com"])
def test_faulty_patterns_of_direct_hosts(pattern):
    with pytest.raises(ValueError, match="neither a name, an address nor a network"):
        DirectHosts([pattern])
