"""Where a proxy is: HOST:PORT, IPv6 addresses in brackets, endpoint strings, and what can never be a proxy."""

import socket

import pytest
from examples.raw_peers import proxy
from support.certificates import Authority
from support.ways import listening
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, quoteStringArgument
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.tls import TLSMemoryBIOFactory

from txsocksx_ext import RouteTable, route_from_string
from txsocksx_ext.testing import FakeProxy, Recorder


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 on loopback")
LOOPBACK = {"::1": r"tcp6:0:interface=\:\:1", "127.0.0.1": "tcp:0:interface=127.0.0.1"}

# The texts in which a proxy on PORT can be written, and where it listens.
ADDRESSES = [
    ("::1", "[::1]:PORT"),
    ("::1", "[0:0::0:1]:PORT"),
    ("::1", r"\:\:1:PORT"),
    ("::1", "tcp:[::1]:PORT"),
    ("::1", r"tcp:[\:\:1]:PORT"),
    ("::1", r"tcp:\:\:1:PORT"),
    ("::1", r"tcp:host=\:\:1:port=PORT:timeout=9"),
    ("::1", "tcp:[::1]:PORT:timeout=9"),
    ("127.0.0.1", "127.0.0.1:PORT"),
    ("127.0.0.1", "localhost:PORT"),
    ("127.0.0.1", "tcp:127.0.0.1:PORT"),
    ("127.0.0.1", "TCP:127.0.0.1:PORT:timeout=9"),
]


@needs_ipv6
@pytest.mark.parametrize(("host", "text"), ADDRESSES)
async def test_an_endpoint_string_takes_the_proxy(host, text):
    proxy_elsewhere = FakeProxy()
    async with listening(proxy_elsewhere, LOOPBACK[host]) as address:
        way = quoteStringArgument(text.replace("PORT", str(address.port)))
        endpoint = clientFromString(reactor, f"socks5ext:target.example:443:username=u:password=p:proxy={way}")
        client = await endpoint.connect(Factory.forProtocol(Recorder))
        assert proxy_elsewhere.requests[0].destination.host == "target.example"
        client.abort()
        await client.until(lambda end: end.lost)


def quoted(way):
    """An endpoint string among the arguments of a route, where an equals sign has a backslash, too."""
    return quoteStringArgument(way).replace("=", "\\=")


ROUTES = {
    "socks, whole": lambda way: f"socks:{quoted(way)}",
    "socks, bare": lambda way: f"socks:{way}",
    "tor, whole": lambda way: f"tor:{quoted(way)}",
    "tor, bare": lambda way: f"tor:{way}",
    "tor, two": lambda way: f"tor:{quoted(way)}:{quoted(way)}",
}


IN_ROUTES = [
    (kind, host, text)
    for kind in ROUTES
    for host, text in ADDRESSES
    # A keyword that is not quoted would be the route's.
    if not ("bare" in kind and "timeout=" in text)
]


@needs_ipv6
@pytest.mark.parametrize(("kind", "host", "text"), IN_ROUTES)
async def test_a_route_takes_the_proxy(kind, host, text):
    upstream = FakeProxy(code=5)
    async with listening(upstream, LOOPBACK[host]) as address:
        description = ROUTES[kind](text.replace("PORT", str(address.port)))
        async with proxy(policy=RouteTable((), route_from_string(reactor, description))) as server:
            assert await server.code("target.example", 80) == 5
        assert upstream.requests[0].destination.host == "target.example"


async def test_a_command_line_takes_a_proxy_at_an_ipv6_address(socks5ext):
    upstream = FakeProxy(code=5)
    async with listening(upstream, LOOPBACK["::1" if has_ipv6() else "127.0.0.1"]) as address:
        host = f"[{address.host}]" if ":" in address.host else address.host
        server = socks5ext("--route", f"*=socks:{host}:{address.port}")
        way = quoteStringArgument(f"127.0.0.1:{server.port}")
        endpoint = clientFromString(reactor, f"socks5ext:target.example:443:proxy={way}")
        with pytest.raises(Exception, match="the target refused the connection"):
            await endpoint.connect(Factory.forProtocol(Recorder))
        assert upstream.requests[0].destination.host == "target.example"


@needs_ipv6
@pytest.mark.parametrize("written", ["[::1]", r"[\:\:1]", r"\:\:1"])
async def test_tls_to_a_proxy_at_an_ipv6_address(written, tmp_path, monkeypatch):
    authority = Authority()
    (tmp_path / "authority.pem").write_bytes(authority.pem)
    behind_tls = FakeProxy()
    secured = TLSMemoryBIOFactory(authority.server_options("::1"), False, behind_tls)
    async with listening(secured, LOOPBACK["::1"]) as address:
        way = quoteStringArgument(f"tls:{written}:{address.port}:trustRoots={tmp_path}:timeout=9")
        endpoint = clientFromString(reactor, f"socks5ext:target.example:443:proxy={way}")
        client = await endpoint.connect(Factory.forProtocol(Recorder))
        assert behind_tls.requests[0].destination.host == "target.example"
        client.close()
        await client.until(lambda end: end.lost)


@pytest.mark.parametrize(
    "target", ["[2001:db8::1]:443", r"[2001\:db8\:\:1]:443", r"2001\:db8\:\:1:443", "port=443:[2001:db8::1]"]
)
async def test_a_target_is_written_in_brackets_too(target):
    upstream = FakeProxy()
    async with listening(upstream) as address:
        endpoint = clientFromString(reactor, rf"socks5ext:{target}:proxy=127.0.0.1\:{address.port}")
        client = await endpoint.connect(Factory.forProtocol(Recorder))
        destination = upstream.requests[0].destination
        assert (destination.host, destination.port, destination.is_name) == ("2001:db8::1", 443, False)
        client.abort()
        await client.until(lambda end: end.lost)


NEVER = [
    ("[::1", "neither"),
    ("::1]:1080", "neither"),
    ("[::1]:0", "no port 0"),
    ("[::1]:65536", "no port 65536"),
    ("[::1]:socks", "neither"),
    ("[::1]", "neither"),
    ("[]:1080", "neither a name nor an address"),
    ("[::g]:1080", "neither a name nor an address"),
    ("[127.0.0.1]:1080", "neither a name nor an address"),
    ("::1:1080", "neither"),
    ("127.0.0.1:0", "no port 0"),
    ("127.0.0.1:65536", "no port 65536"),
    ("proxy/path:1080", "neither a name nor an address"),
    ("tcp:[\\:\\:1:1080", "neither a name nor an address"),
    ("tcp:[::g]:1080", "neither a name nor an address"),
    ("tcp:127.0.0.1:0", "no port 0"),
    ("tcp:127.0.0.1:-1", "no port -1"),
    ("tcp:127.0.0.1:99999", "no port 99999"),
    ("tls:127.0.0.1:99999", "no port 99999"),
    ("ssl:127.0.0.1:99999", "no port 99999"),
    ("tcp::1080", "neither a name nor an address"),
    ("tcp:1080", "tcp:HOST:PORT"),
    ("tcp:host=127.0.0.1", "tcp:HOST:PORT"),
    ("unix:/" + "a" * 107, "at most 107 bytes"),
    ("unix:path=/" + "ä" * 60, "at most 107 bytes"),
]
each_that_never_works = pytest.mark.parametrize(("text", "told"), NEVER)


@each_that_never_works
def test_what_can_never_be_a_proxy_is_refused_by_endpoint_strings(text, told):
    with pytest.raises(ValueError, match=told):
        clientFromString(MemoryReactorClock(), f"socks5ext:target.example:443:proxy={quoteStringArgument(text)}")


@pytest.mark.parametrize("kind", ["socks, whole", "tor, whole"])
@each_that_never_works
def test_what_can_never_be_a_proxy_is_refused_by_routes(text, told, kind):
    with pytest.raises(ValueError, match=told):
        route_from_string(MemoryReactorClock(), ROUTES[kind](text))


@each_that_never_works
def test_what_can_never_be_a_control_port_is_refused(text, told):
    with pytest.raises(ValueError, match=told):
        route_from_string(MemoryReactorClock(), f"tor:127.0.0.1:9050:control={quoteStringArgument(text)}")


@pytest.mark.parametrize("text", ["[::1]:9051", "127.0.0.1:9051", r"tcp:[\:\:1]:9051", "unix:/run/tor/control"])
def test_a_control_port_is_written_as_a_proxy_is(text):
    route = route_from_string(MemoryReactorClock(), f"tor:[::1]:9050:control={quoteStringArgument(text)}")
    assert route.name == "tor"


@pytest.mark.parametrize("text", ["tcp:someone:hunter2@proxy.example", "tcp:someone@hunter2:1080"])
def test_a_login_in_the_place_of_an_address_is_not_shown(text):
    for description in (f"socks:{quoteStringArgument(text)}", f"tor:{quoteStringArgument(text)}"):
        with pytest.raises(ValueError, match="no user name and no password belong there") as caught:
            route_from_string(MemoryReactorClock(), description)
        assert "hunter2" not in str(caught.value)
