"""TLS with a target: which names can be verified, what the server is told of them, and what is taken for `tls`."""

import pytest
import treq
from examples.raw_peers import until
from support.ways import LOGIN, failure_of, listening, way_to
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions, ClientContextFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.client import ResponseNeverReceived
from twisted.web.iweb import IPolicyForHTTPS
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from txsocksx_ext import RetryingEndpoint, SOCKS5ClientEndpoint, web_agent
from txsocksx_ext.testing import FakeProxy, Recorder
from txsocksx_ext.tor import stream_via
from txsocksx_ext.tor import web_agent as tor_web_agent


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    """The platform trusts the authority, and nobody else."""
    path = tmp_path / "authority.pem"
    path.write_bytes(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return authority


class Page(Resource):
    isLeaf = True

    def render_GET(self, request):
        return b"a page for " + request.getHeader("host").encode()


class SecureSite:
    """
    Far ends with TLS, for a `FakeProxy`.

    :ivar server_names: what clients sent as the name of the server (SNI), ``None`` for nothing.
    """

    def __init__(self, authority, host, application):
        options = authority.server_options(host)
        context = options.getContext()
        context.set_tlsext_servername_callback(lambda connection: self.server_names.append(connection.get_servername()))
        self.server_names = []
        self.factory = TLSMemoryBIOFactory(options, False, application)


class NoControl:
    """What `txsocksx_ext.tor` needs of a `txtorcon.Tor` whose SOCKS port is given."""

    protocol = None


def by_endpoint(host, address):
    return SOCKS5ClientEndpoint(host, 443, way_to(address), tls=True)


def by_string(host, address):
    return clientFromString(reactor, rf"socks5ext:{host}:443:tls=yes:proxy=tcp\:127.0.0.1\:{address.port}")


def by_retrying_string(host, address):
    return clientFromString(reactor, rf"socks5ext:{host}:443:tls=yes:retries=1:proxy=tcp\:127.0.0.1\:{address.port}")


def by_retrying_endpoint(host, address):
    return RetryingEndpoint(by_endpoint(host, address), reactor)


def by_tor(host, address):
    return stream_via(NoControl(), host, 443, tls=True, socks_endpoint=way_to(address))


each_endpoint = pytest.mark.parametrize(
    "endpoint", [by_endpoint, by_string, by_retrying_string, by_retrying_endpoint, by_tor]
)
each_agent = pytest.mark.parametrize(
    "agent_for",
    [
        lambda address: web_agent(reactor, way_to(address)),
        lambda address: tor_web_agent(NoControl(), socks_endpoint=way_to(address)),
    ],
    ids=["web_agent", "tor.web_agent"],
)

NAMES = [
    ("a_b.wild.test", "*.wild.test", b"a_b.wild.test"),
    ("under_score.test", "under_score.test", b"under_score.test"),
    ("r3---sn-4g5e.wild.test", "*.wild.test", b"r3---sn-4g5e.wild.test"),
    ("-begin.wild.test", "*.wild.test", b"-begin.wild.test"),
    ("name.wild.test.", "*.wild.test", b"name.wild.test"),
    ("a_b.wild.test.", "*.wild.test", b"a_b.wild.test"),
    ("A_B.Wild.test", "*.wild.test", b"A_B.Wild.test"),
    ("bücher.test", "xn--bcher-kva.test", b"xn--bcher-kva.test"),
    ("192.0.2.1", "192.0.2.1", None),
]
each_name = pytest.mark.parametrize(("host", "certified", "told"), NAMES, ids=[name[0] for name in NAMES])


async def speak_tls(trusted, endpoint, host, certified, told):
    """Have a client send a word to a server with this certificate; what the server got, and what ended the client."""
    site = SecureSite(trusted, certified, Factory.forProtocol(Recorder))
    proxy = FakeProxy(site.factory)
    async with listening(proxy) as address:
        client = await endpoint(host, address).connect(Factory.forProtocol(Recorder))
        client.write(b"hello")
        far = proxy.conversations[-1].tunnel.wrappedProtocol
        await until(lambda: far.received or client.lost)
        if client.lost is None:
            client.abort()
        await until(lambda: client.lost and far.lost)
    assert site.server_names == [told]
    return far.received, client.lost.value


@each_name
async def test_tls_with_every_name_that_can_exist(trusted, host, certified, told):
    received, _ = await speak_tls(trusted, by_endpoint, host, certified, told)
    assert received == b"hello"


@each_endpoint
@pytest.mark.parametrize(
    ("host", "told"), [("a_b.wild.test", b"a_b.wild.test"), ("name.wild.test.", b"name.wild.test")]
)
async def test_tls_with_such_names_by_every_kind_of_endpoint(trusted, endpoint, host, told):
    received, _ = await speak_tls(trusted, endpoint, host, "*.wild.test", told)
    assert received == b"hello"


@each_endpoint
@pytest.mark.parametrize("host", ["a_b.other.test", "a_b.deep.wild.test", "other.test."])
async def test_a_certificate_for_another_name_is_not_accepted(trusted, endpoint, host):
    received, error = await speak_tls(trusted, endpoint, host, "*.wild.test", host.rstrip(".").encode())
    assert received == b""
    assert "Mismatch" in str(error) or "certificate" in str(error)


@each_agent
@pytest.mark.parametrize(
    ("host", "told"), [("a_b.wild.test", b"a_b.wild.test"), ("name.wild.test.", b"name.wild.test")]
)
async def test_https_with_every_name_that_can_exist(trusted, agent_for, host, told):
    site = SecureSite(trusted, "*.wild.test", Site(Page()))
    proxy = FakeProxy(site.factory)
    async with listening(proxy) as address:
        response = await agent_for(address).request(b"GET", f"https://{host}/".encode())
        assert await treq.content(response) == b"a page for " + host.encode()
        assert site.server_names == [told]
        assert proxy.requests[-1].destination.host == host


@each_agent
async def test_https_with_a_certificate_for_another_name(trusted, agent_for):
    site = SecureSite(trusted, "*.wild.test", Site(Page()))
    async with listening(FakeProxy(site.factory)) as address:
        with pytest.raises(ResponseNeverReceived):
            await agent_for(address).request(b"GET", b"https://a_b.other.test/")


@implementer(IPolicyForHTTPS)
class Policy:
    """
    A policy of the application's own.

    :ivar asked: the names of hosts for which it was asked.
    """

    def __init__(self, creator_for):
        self._creator_for = creator_for
        self.asked = []

    def creatorForNetloc(self, hostname, port):
        self.asked.append(hostname)
        return self._creator_for(hostname.decode("ascii"))


async def test_a_policy_is_asked_for_the_name_that_certificates_hold(authority):
    site = SecureSite(authority, "*.wild.test", Site(Page()))
    policy = Policy(authority.client_for)
    async with listening(FakeProxy(site.factory)) as address:
        agent = web_agent(reactor, way_to(address), policy=policy)
        response = await agent.request(b"GET", b"https://name.wild.test./")
        assert await treq.content(response) == b"a page for name.wild.test."
        assert policy.asked == [b"name.wild.test"]
        assert site.server_names == [b"name.wild.test"]


# What is no way to speak TLS with one host.

WITHOUT_A_HOST = [
    lambda root: CertificateOptions(trustRoot=root),
    lambda root: ClientContextFactory(),
    lambda root: CertificateOptions,
    lambda root: "yes",
    lambda root: 1,
    lambda root: None,
]
each_without_a_host = pytest.mark.parametrize(
    "make_tls", WITHOUT_A_HOST, ids=["CertificateOptions", "ClientContextFactory", "a class", "str", "int", "None"]
)


@each_without_a_host
def test_what_checks_no_host_name_is_refused(authority, make_tls):
    with pytest.raises(TypeError, match=r"optionsForClientTLS\("):
        SOCKS5ClientEndpoint("localhost", 443, FakeProxy().endpoint, LOGIN, tls=make_tls(authority.trust_root))


@each_without_a_host
def test_what_checks_no_host_name_is_refused_for_tor_too(authority, make_tls):
    with pytest.raises(TypeError, match=r"optionsForClientTLS\("):
        stream_via(NoControl(), "localhost", 443, tls=make_tls(authority.trust_root))


async def test_what_a_policy_makes_that_checks_no_host_name_is_refused(authority):
    policy = Policy(lambda host: CertificateOptions(trustRoot=authority.trust_root))
    proxy = FakeProxy()
    for agent in (
        web_agent(reactor, proxy.endpoint, policy=policy),
        tor_web_agent(NoControl(), socks_endpoint=proxy.endpoint, tls_context_factory=policy),
    ):
        error = await failure_of(agent.request(b"GET", b"https://localhost/"))
        assert type(error) is TypeError
        assert "optionsForClientTLS(" in str(error)
    assert proxy.conversations == []


@pytest.mark.parametrize("host", ["a!b.test", "a b.test", "", "."])
def test_a_name_that_no_certificate_holds_is_refused_at_once(host):
    with pytest.raises(ValueError, match="host name"):
        SOCKS5ClientEndpoint(host, 443, FakeProxy().endpoint, tls=True)
