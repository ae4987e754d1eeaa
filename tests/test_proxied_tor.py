"""Any proxy, for programs that were written for a `txtorcon.Tor`."""

import inspect

import pytest
import treq
import txtorcon
from support.certificates import Authority
from support.tor_programs import FakeControl, FakeTor
from support.ways import LOGIN, listening_on_port
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.protocol import Factory
from twisted.protocols.policies import WrappingFactory
from twisted.web.client import BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from txsocksx_ext import ProxiedTor, SOCKS5ExtFactory
from txsocksx_ext.errors import CommandNotSupported, ConnectionRefused
from txsocksx_ext.protocol.codes import Command
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.testing import FakeProxy, Recorder
from txsocksx_ext.tor import SHARED, web_agent


@pytest.mark.parametrize("name", ["stream_via", "web_agent", "dns_resolve", "dns_resolve_ptr"])
def test_the_signature_is_that_of_txtorcon(name):
    ours, theirs = (inspect.signature(getattr(cls, name)).parameters.values() for cls in (ProxiedTor, txtorcon.Tor))
    assert [(each.name, each.default) for each in ours] == [(each.name, each.default) for each in theirs]


def page(body=b"the page"):
    root = Resource()
    root.putChild(b"", Data(body, "text/plain"))
    return Site(root)


@pytest.mark.parametrize("scheme", ["socks5", "http"])
async def test_streams_and_agents(scheme):
    authority = Authority()
    async with listening_on_port(SOCKS5ExtFactory(reactor)) as port, listening_on_port(page()) as plain:
        tor = ProxiedTor(reactor, f"{scheme}://127.0.0.1:{port}")
        # Around the site, since Twisted 24.7 cannot negotiate its protocol with a newer pyOpenSSL.
        site = WrappingFactory(page())
        secure = reactor.listenSSL(0, site, authority.server_options("localhost"), interface="127.0.0.1")
        number = secure.getHost().port
        try:
            protocol = await connectProtocol(tor.stream_via("localhost", plain), Recorder())
            protocol.transport.write(b"GET / HTTP/1.0\r\n\r\n")
            await protocol.until(lambda each: each.lost)
            assert protocol.received.endswith(b"the page")
            over_tls = tor.stream_via("localhost", number, tls=authority.client_for("localhost"))
            protocol = await connectProtocol(over_tls, Recorder())
            protocol.close()
            await protocol.until(lambda each: each.lost)
            policy = BrowserLikePolicyForHTTPS(authority.trust_root)
            for url, agent in (
                (f"http://localhost:{plain}/", tor.web_agent()),
                (f"https://localhost:{number}/", tor.web_agent(tls_context_factory=policy)),
            ):
                assert await treq.content(await HTTPClient(agent).get(url)) == b"the page"
        finally:
            await secure.stopListening()


async def test_names_are_resolved_by_a_proxy_that_can():
    fake = FakeProxy(bound=Address.of("192.0.2.7", 0))
    tor = ProxiedTor(reactor, fake.endpoint)
    assert await tor.dns_resolve("name.example") == "192.0.2.7"
    fake.bound = Address.of("name.example", 0)
    assert await tor.dns_resolve_ptr("192.0.2.7") == "name.example"
    assert [each.command for each in fake.requests] == [Command.RESOLVE, Command.RESOLVE_PTR]
    fake.code = 7
    with pytest.raises(CommandNotSupported):
        await tor.dns_resolve("name.example")
    with pytest.raises(CommandNotSupported):
        await ProxiedTor(reactor, "http://127.0.0.1:9").dns_resolve("name.example")
    faulty = tor.dns_resolve_ptr("name.example")
    assert isinstance(faulty, Deferred)
    with pytest.raises(ValueError, match="takes an IPv4 or IPv6 address"):
        await faulty


async def test_who_we_are_to_the_proxy():
    fake = FakeProxy()
    for options in ({"isolation": "alice"}, {"methods": LOGIN}):
        tor = ProxiedTor(reactor, fake.endpoint, **options)
        for _ in range(2):
            (await connectProtocol(tor.stream_via("name.example", 80), Recorder())).close()
    assert [each.pairs for each in fake.conversations[:2]] == [{"tor.isolation": b"alice"}] * 2
    assert {each.credentials.username for each in fake.conversations[2:]} == {b"user"}


async def test_failures_are_those_of_an_endpoint():
    with pytest.raises(ConnectionRefused):
        await ProxiedTor(reactor, FakeProxy(code=5).endpoint).stream_via("a.example", 1).connect(Factory())


@pytest.mark.parametrize(
    "call",
    [
        lambda tor: tor.stream_via("name.example", 80, socks_endpoint=FakeProxy().endpoint),
        lambda tor: tor.web_agent(socks_endpoint=FakeProxy().endpoint),
        lambda tor: tor.stream_via("name example", 80),
        lambda tor: ProxiedTor(reactor, FakeProxy().endpoint, timeout=0),
        lambda tor: ProxiedTor(reactor, "127.0.0.1"),
    ],
)
def test_faulty_arguments(call):
    with pytest.raises(ValueError, match=r"timeout|socks_endpoint|host name|scheme"):
        call(ProxiedTor(reactor, FakeProxy().endpoint))


async def test_a_pool_that_agents_of_a_real_tor_share_keeps_their_tokens_apart():
    pool = HTTPConnectionPool(reactor)
    fake = FakeProxy(page())
    async with listening_on_port(fake) as port:
        tor = FakeTor(FakeControl(f"127.0.0.1:{port}"))
        for isolation, connections in (("a", 1), ("a", 1), ("b", 2), (SHARED, 3), (SHARED, 3), (None, 4), (None, 5)):
            agent = web_agent(tor, pool, isolation=isolation)
            assert await treq.content(await HTTPClient(agent).get("http://name.example/")) == b"the page"
            assert len(fake.conversations) == connections
        await pool.closeCachedConnections()
