"""Agents for `twisted.web.client` and treq, through a server of our own to a local web site."""

import socket
from contextlib import asynccontextmanager

import pytest
import treq
from support.ways import listening_on_port
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver, IReactorTCP
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseNeverReceived
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IPolicyForHTTPS
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txsocksx_ext import SOCKS5AgentEndpointFactory, SOCKS5ClientEndpoint, SOCKS5ExtFactory, web_agent
from txsocksx_ext.errors import (
    CleartextRefused,
    ConnectionRefused,
    HandshakeTimeout,
    HostUnreachable,
    OnionServiceNotFound,
    UnknownReply,
)
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.testing import Ending, FakeProxy

NAME = "site.example"
"""A name that exists for the server alone."""


@implementer(IHostnameResolver)
class Names:
    """
    A resolver that knows a few names.

    :ivar asked: the names that were asked for.
    """

    def __init__(self, **hosts):
        self._hosts = {name.replace("_", "."): host for name, host in hosts.items()}
        self.asked = []

    def resolveHostName(self, receiver, name, port=0, addressTypes=None, transportSemantics="TCP"):
        self.asked.append(name)
        receiver.resolutionBegan(self)
        host = self._hosts.get(name)
        if host is not None:
            receiver.addressResolved((IPv6Address if ":" in host else IPv4Address)("TCP", host, port))
        receiver.resolutionComplete()
        return self


@implementer(IReactorPluggableNameResolver, IReactorTCP)
class ReactorWithNames:
    """The real reactor, with other names."""

    def __init__(self, names):
        self.nameResolver = names

    def __getattr__(self, name):
        return getattr(reactor, name)


@pytest.fixture(autouse=True)
def asked_here():
    """The names that anything in these tests asks this machine's own resolver for; each test is held to none."""
    here = Names()
    usual = reactor.installNameResolver(here)
    yield here.asked
    reactor.installNameResolver(usual)
    assert here.asked == []


class Page(Resource):
    isLeaf = True

    def render_GET(self, request):
        if request.path == b"/elsewhere":
            request.redirect(request.args[b"to"][0])
            return b""
        return b"a page for " + request.getHeader("host").encode()

    def render_POST(self, request):
        return request.content.read()[::-1]


class Server:
    """A proxy of our own."""

    def __init__(self):
        self.names = Names(site_example="127.0.0.1", six_example="::1")
        self.factory = SOCKS5ExtFactory(ReactorWithNames(self.names))
        self.accepted = 0
        build = self.factory.buildProtocol

        def counting(addr):
            self.accepted += 1
            return build(addr)

        self.factory.buildProtocol = counting


@asynccontextmanager
async def proxied(*arguments, **options):
    """An agent that goes through a server of ours; yields both."""
    server = Server()
    async with listening_on_port(server.factory) as port:
        yield web_agent(reactor, TCP4ClientEndpoint(reactor, "127.0.0.1", port), *arguments, **options), server
        while server.factory.connections:
            await deferLater(reactor, 0.005)


async def body_of(requesting):
    return await treq.content(await requesting)


@implementer(IPolicyForHTTPS)
class TrustIn:
    """Trusts one authority alone."""

    def __init__(self, authority):
        self._authority = authority

    def creatorForNetloc(self, hostname, port):
        return self._authority.client_for(hostname.decode("ascii"))


def with_tls(factory, authority, *hosts):
    return TLSMemoryBIOFactory(authority.server_options(*hosts), False, factory)


# Through a server to a site.


async def test_http_by_a_name_that_only_the_proxy_knows():
    async with listening_on_port(Site(Page())) as port, proxied() as (agent, server):
        assert verifyObject(IAgent, agent)
        body = await body_of(agent.request(b"GET", f"http://{NAME}:{port}/".encode()))
        assert body == f"a page for {NAME}:{port}".encode()
        assert server.names.asked == [NAME]


async def test_https_by_a_name_that_only_the_proxy_knows(authority):
    site = with_tls(Site(Page()), authority, NAME)
    async with listening_on_port(site) as port, proxied(policy=TrustIn(authority)) as (agent, server):
        body = await body_of(agent.request(b"GET", f"https://{NAME}:{port}/".encode()))
        assert body == f"a page for {NAME}:{port}".encode()
        assert server.names.asked == [NAME]


@pytest.mark.parametrize("policy", ["the platform's", "another name"])
async def test_https_with_a_certificate_that_is_not_trusted(authority, policy):
    site = with_tls(Site(Page()), authority, "other.example")
    trust = None if policy == "the platform's" else TrustIn(authority)
    async with listening_on_port(site) as port, proxied(policy=trust) as (agent, _):
        with pytest.raises(ResponseNeverReceived) as caught:
            await agent.request(b"GET", f"https://{NAME}:{port}/".encode())
        assert any(word in str(caught.value.reasons) for word in ("certificate", "VerificationError"))


async def test_addresses_need_no_names(authority):
    site = with_tls(Site(Page()), authority, "127.0.0.1")
    async with listening_on_port(site) as port, proxied(policy=TrustIn(authority)) as (agent, server):
        assert await body_of(agent.request(b"GET", f"https://127.0.0.1:{port}/".encode()))
        assert server.names.asked == []


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 on loopback")
@pytest.mark.parametrize("host", ["[::1]", "six.example"])
async def test_ipv6(host):
    async with listening_on_port(Site(Page()), r"tcp6:0:interface=\:\:1") as port, proxied() as (agent, _):
        assert (
            await body_of(agent.request(b"GET", f"http://{host}:{port}/".encode()))
            == f"a page for {host}:{port}".encode()
        )


@pytest.mark.parametrize(
    "methods", [{"login": ("user", "word")}, {"extended": {"USERNAME": "user"}}, {"isolated": None}]
)
async def test_by_every_method(methods):
    async with listening_on_port(Site(Page())) as port, proxied(methods) as (agent, _):
        assert await body_of(agent.request(b"GET", f"http://{NAME}:{port}/".encode()))


async def test_treq_sends_bodies_and_follows_redirects():
    async with listening_on_port(Site(Page())) as port, proxied() as (agent, server):
        client = HTTPClient(agent)
        content = bytes(range(256)) * 2000
        assert await body_of(client.post(f"http://{NAME}:{port}/", data=content)) == content[::-1]
        response = await client.get(f"http://{NAME}:{port}/elsewhere", params={"to": f"http://127.0.0.1:{port}/there"})
        assert await treq.text_content(response) == f"a page for 127.0.0.1:{port}"
        # The second answer is a kept one.
        assert server.names.asked == [NAME]


async def test_with_a_pool_requests_share_a_connection_and_without_they_do_not():
    pool = HTTPConnectionPool(reactor)
    for kept, connections in ((pool, 1), (None, 3)):
        async with listening_on_port(Site(Page())) as port, proxied(pool=kept) as (agent, server):
            for _ in range(3):
                await body_of(agent.request(b"GET", f"http://{NAME}:{port}/".encode()))
            assert server.accepted == connections
            await pool.closeCachedConnections()


IDENTITIES = {
    "anonymous": {"methods": {"anonymous": ()}},
    "another user": {"methods": {"login": ("bob", "word")}},
    "another password": {"methods": {"login": ("alice", "other")}},
    "another token": {"methods": {"isolated": "b"}},
    "other pairs": {"methods": {"extended": {"tor.isolation": "b"}}},
    "another proxy": {"proxy": "another"},
}


@pytest.mark.parametrize("other", IDENTITIES.values(), ids=IDENTITIES)
async def test_a_shared_pool_keeps_identities_apart(other):
    pool = HTTPConnectionPool(reactor)
    first = {"proxy": "one", "methods": {"login": ("alice", "word")}}
    async with listening_on_port(Site(Page())) as port:
        fakes = {name: FakeProxy(Site(Page())) for name in ("one", "another")}
        async with listening_on_port(fakes["one"]) as one, listening_on_port(fakes["another"]) as another:
            ports = {"one": one, "another": another}
            for identity, connections in ((first, 1), (first, 1), ({**first, **other}, 2), (first, 2)):
                proxy = f"tcp:127.0.0.1:{ports[identity['proxy']]}"
                agent = web_agent(reactor, proxy, identity["methods"], pool=pool)
                assert await body_of(agent.request(b"GET", f"http://{NAME}:{port}/".encode()))
                assert sum(len(each.conversations) for each in fakes.values()) == connections
            await pool.closeCachedConnections()


async def test_agents_with_tokens_of_their_own_share_no_connection():
    pool = HTTPConnectionPool(reactor)
    fake = FakeProxy(Site(Page()))
    async with listening_on_port(fake) as port:
        for _ in range(2):
            agent = web_agent(reactor, f"tcp:127.0.0.1:{port}", {"isolated": None}, pool=pool)
            await body_of(agent.request(b"GET", f"http://{NAME}/".encode()))
        await pool.closeCachedConnections()
    assert len({each.credentials.password for each in fake.conversations}) == 2


async def test_what_the_proxy_says_is_what_the_caller_gets():
    async with listening_on_port(Site(Page())) as port:
        pass
    async with proxied() as (agent, _):
        with pytest.raises(ConnectionRefused):
            await agent.request(b"GET", f"http://{NAME}:{port}/".encode())
        with pytest.raises(HostUnreachable):
            await agent.request(b"GET", b"http://unknown.example/")


# What goes to the proxy.


async def failure_of(proxy, url=b"http://target.example/", methods=None, **options):
    """What a request through a `FakeProxy` fails with."""
    agent = web_agent(reactor, proxy.endpoint, methods or {"anonymous": ()}, **options)
    try:
        await agent.request(b"GET", url)
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        (b"http://target.example/", "target.example", 80),
        (b"https://target.example/", "target.example", 443),
        (b"http://target.example:8080/", "target.example", 8080),
        (b"http://xn--bcher-kva.example/", "xn--bcher-kva.example", 80),
        (b"http://192.0.2.1/", "192.0.2.1", 80),
        (b"http://[2001:db8::1]/", "2001:db8::1", 80),
        (b"http://" + b"a" * 56 + b".onion/", "a" * 56 + ".onion", 80),
    ],
)
async def test_the_proxy_is_asked_for_what_stands_in_the_url(url, host, port):
    proxy = FakeProxy(code=0xE0)
    assert type(await failure_of(proxy, url)) is OnionServiceNotFound
    (request,) = proxy.requests
    assert (request.destination.host, request.destination.port) == (host, port)


async def test_options_are_the_endpoints():
    silent = FakeProxy(stop_at=State.REPLY, ending=Ending.SILENCE)
    assert type(await failure_of(silent, timeout=0.05)) is HandshakeTimeout
    assert type(await failure_of(FakeProxy(code=0xF1), dialect="plain")) is UnknownReply
    elsewhere = FakeProxy(code=0xE0, address=IPv4Address("TCP", "192.0.2.1", 1080))
    login = {"login": ("user", "word")}
    assert type(await failure_of(elsewhere, methods=login)) is CleartextRefused
    assert type(await failure_of(elsewhere, methods=login, allow_cleartext=True)) is OnionServiceNotFound


async def test_the_requests_of_one_agent_share_a_token_and_agents_do_not():
    proxy = FakeProxy(code=5)
    for _ in range(2):
        agent = web_agent(reactor, proxy.endpoint, {"isolated": None})
        for _ in range(2):
            with pytest.raises(ConnectionRefused):
                await agent.request(b"GET", b"http://target.example/")
    first, again, other, other_again = (each.credentials.password for each in proxy.conversations)
    assert first == again
    assert other == other_again
    assert first != other


@pytest.mark.parametrize("url", [b"ftp://target.example/", b"socks5://target.example/", b"target.example"])
async def test_other_schemes_are_not_supported(url):
    proxy = FakeProxy()
    assert type(await failure_of(proxy, url)) is SchemeNotSupported
    assert proxy.conversations == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (b"http://" + b"a" * 256 + b"/", "256 bytes"),
        (b"https://target.example:99999/", "port"),
        (b"http://alice:secret@target.example/", "holds no @"),
        (b"https://alice:secret@target.example/", "holds no @"),
        # Of these it is TLS that cannot name the host.
        (b"https://exclamation!mark.example/", "exclamation"),
        (b"https:///", "empty"),
    ],
)
async def test_a_url_that_socks5_cannot_carry_fails_as_other_failures_do(url, told):
    proxy = FakeProxy()
    requesting = web_agent(reactor, proxy.endpoint).request(b"GET", url)
    with pytest.raises(ValueError, match=told) as caught:
        await requesting
    assert "secret" not in str(caught.value)
    assert proxy.conversations == []


async def test_an_endpoint_factory_for_an_agent_of_ones_own():
    proxy = FakeProxy(Site(Page()))
    endpoints = SOCKS5AgentEndpointFactory(reactor, proxy.endpoint, timeout=5.0)
    assert verifyObject(IAgentEndpointFactory, endpoints)
    assert isinstance(endpoints.endpointForURI(URI.fromBytes(b"http://target.example/")), SOCKS5ClientEndpoint)
    agent = Agent.usingEndpointFactory(reactor, endpoints)
    assert await body_of(agent.request(b"GET", b"http://target.example/")) == b"a page for target.example"


@pytest.mark.parametrize(
    ("methods", "options", "told"),
    [
        ({"login": ("", "")}, {}, "user name"),
        ({"unknown": ()}, {}, "unknown"),
        ({}, {}, "method"),
        ({"anonymous": ()}, {"timeout": -1}, "timeout"),
        ({"anonymous": ()}, {"dialect": "typo"}, "dialect"),
    ],
)
def test_what_is_faulty_is_refused_before_any_request(methods, options, told):
    with pytest.raises(ValueError, match=told):
        web_agent(reactor, FakeProxy().endpoint, methods, **options)
