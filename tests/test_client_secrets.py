"""Where a client sends secrets, and where it does not as others could read them."""

import pytest
from support.attempts import ANONYMOUS, EXTENDED, LOGIN, Application, attempt, choosing
from support.certificates import Authority
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import ProcessEndpoint, clientFromString, quoteStringArgument, wrapClientTLS
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from txtorcon.socks import TorSocksEndpoint

from txsocksx_ext import SOCKS5ClientEndpoint, errors
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.protocol.messages import UsernamePassword
from txsocksx_ext.protocol.pairs import Pairs
from txsocksx_ext.testing import FakeProxy, Recorder

ELSEWHERE = IPv4Address("TCP", "192.0.2.1", 1080)


@pytest.mark.parametrize("methods", [LOGIN, EXTENDED, {**ANONYMOUS, **LOGIN}, {"isolated": None}])
def test_no_secret_goes_where_others_can_read_it(methods):
    tried = attempt(FakeProxy(address=ELSEWHERE), methods)
    assert type(tried.outcome) is errors.CleartextRefused
    assert tried.said.greeting is None
    assert tried.has_left_nothing


@pytest.mark.parametrize("methods", [ANONYMOUS, {"extended": {}}])
def test_without_secrets_a_proxy_may_be_anywhere(methods):
    assert isinstance(attempt(FakeProxy(address=ELSEWHERE), methods).outcome, Recorder)


@pytest.mark.parametrize("methods", [LOGIN, EXTENDED])
def test_secrets_go_there_where_that_is_allowed(methods):
    tried = attempt(FakeProxy(address=ELSEWHERE), methods, allow_cleartext=True)
    assert tried.said.credentials or tried.said.pairs


@pytest.mark.parametrize(
    "address",
    [
        IPv4Address("TCP", "127.9.9.9", 1080),
        IPv6Address("TCP", "::1", 1080),
        IPv6Address("TCP", "::ffff:127.0.0.1", 1080),
        UNIXAddress("/run/proxy"),
        UNIXAddress(None),
    ],
    ids=repr,
)
def test_this_machine_is_no_place_where_others_read(address):
    assert attempt(FakeProxy(address=address), EXTENDED).said.pairs == {"tor.isolation": b"alice"}


def own_tunnel(host, way, clock):
    return SOCKS5ClientEndpoint(host, 1080, way, reactor=clock)


def txtorcons_tunnel(host, way, clock):
    return TorSocksEndpoint(way, host, 1080)


each_tunnel = pytest.mark.parametrize("tunnel_to", [own_tunnel, txtorcons_tunnel])


@each_tunnel
@pytest.mark.parametrize("methods", [LOGIN, EXTENDED])
def test_a_proxy_behind_a_proxy_is_not_on_this_machine(methods, tunnel_to):
    clock = Clock()
    far = FakeProxy(clock=clock)
    near = FakeProxy(far, clock=clock)
    tunnel = tunnel_to("far.example", near.endpoint, clock)
    tried = []
    connecting = SOCKS5ClientEndpoint("target.example", 443, tunnel, methods, reactor=clock).connect(Application())
    connecting.addBoth(tried.append)
    clock.advance(0)
    assert isinstance(tried[0], Failure)
    assert tried[0].type is errors.CleartextRefused
    assert far.conversations[0].greeting is None


@each_tunnel
@pytest.mark.parametrize("inner", [True, False], ids=["tls in the tunnel", "tls to the near proxy alone"])
async def test_of_tls_only_what_begins_inside_a_tunnel_counts(inner, tunnel_to):
    authority = Authority()

    def secured(proxy, host):
        return TLSMemoryBIOFactory(authority.server_options(host), False, proxy)

    far = FakeProxy()
    near = FakeProxy(secured(far, "far.example") if inner else far)
    # With TLS to the near proxy in either case: it does not stand in the way of another inside.
    near.endpoint.server = secured(near, "near.example")
    way = wrapClientTLS(authority.client_for("near.example"), near.endpoint)
    tunnel = tunnel_to("far.example", way, None)
    if inner:
        tunnel = wrapClientTLS(authority.client_for("far.example"), tunnel)
    connecting = SOCKS5ClientEndpoint("target.example", 443, tunnel, LOGIN).connect(Application())
    if not inner:
        with pytest.raises(errors.CleartextRefused):
            await connecting
        assert far.conversations[0].greeting is None
        return
    protocol = await connecting
    assert far.conversations[0].credentials.password == b"word"
    protocol.abort()
    await protocol.until(lambda it: it.lost)


async def test_the_string_of_a_tunnel_of_another_package():
    from twisted.internet import reactor

    far = FakeProxy()
    near = reactor.listenTCP(0, FakeProxy(far), interface="127.0.0.1")
    way = f"tor:far.example:1080:socksHostname=127.0.0.1:socksPort={near.getHost().port}"
    login = "username=user:password=word"
    endpoint = clientFromString(reactor, f"socks5ext:target.example:443:{login}:proxy={quoteStringArgument(way)}")
    with pytest.raises(errors.CleartextRefused):
        await endpoint.connect(Application())
    assert far.conversations[0].greeting is None
    await near.stopListening()


@pytest.mark.parametrize("way", ["tcp:127.0.0.1:{port}", "tcp:localhost:{port}", "unix:{path}"])
async def test_a_proxy_on_this_machine_gets_them(way, tmp_path):
    from twisted.internet import reactor

    proxy, path = FakeProxy(), str(tmp_path / "proxy")
    ports = [reactor.listenTCP(0, proxy, interface="127.0.0.1"), reactor.listenUNIX(path, proxy)]
    proxy_endpoint = clientFromString(reactor, way.format(port=ports[0].getHost().port, path=path))
    protocol = await SOCKS5ClientEndpoint("target.example", 443, proxy_endpoint, LOGIN).connect(Application())
    assert proxy.conversations[0].credentials.password == b"word"
    protocol.abort()
    await protocol.until(lambda it: it.lost)
    for port in ports:
        await port.stopListening()


async def test_where_a_process_leads_is_not_seen():
    from twisted.internet import reactor

    way = ProcessEndpoint(reactor, "/bin/cat", ["cat"])
    with pytest.raises(errors.CleartextRefused):
        await SOCKS5ClientEndpoint("target.example", 443, way, LOGIN).connect(Application())


@pytest.mark.parametrize(
    ("methods", "overrides", "method"),
    [
        ({"extended": {}}, {"pairs": lambda self: Pairs({"tor.isolation": "alice"})}, 0x97),
        (
            ANONYMOUS,
            {
                "offer": lambda self: (Method.USERNAME_PASSWORD,),
                "credentials": lambda self: UsernamePassword(b"user", b"word"),
            },
            0x02,
        ),
    ],
)
def test_secrets_of_ones_own_do_not_go_where_others_can_read_them(methods, overrides, method):
    tried = attempt(FakeProxy(address=ELSEWHERE, method=method), methods, factory=choosing(**overrides))
    assert type(tried.outcome) is errors.CleartextRefused
    assert (tried.said.credentials, tried.said.pairs) == (None, None)
    assert tried.has_left_nothing
