"""Secrets that the server itself would send on to a proxy, or a tor, which is elsewhere."""

import pytest
from examples.raw_peers import proxy
from support.answers import table
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from txsocksx_ext import SOCKS5ClientEndpoint, route_from_string
from txsocksx_ext.client.proxies import SOCKS5, Proxy
from txsocksx_ext.errors import GeneralServerFailure
from txsocksx_ext.testing import FakeProxy

DESCRIPTIONS = {
    "proxy": "socks:192.0.2.1:1080:username=us:password-file={folder}/password",
    "tor": "tor:192.0.2.1:9050:extended=yes",
}


@pytest.fixture(params=sorted(DESCRIPTIONS))
def asked(request, monkeypatch, tmp_path):
    """What makes a route, of each kind, to a proxy that is elsewhere; and that proxy."""
    elsewhere = FakeProxy(address=IPv4Address("TCP", "192.0.2.1", 1080))
    if request.param == "proxy":
        monkeypatch.setattr("txsocksx_ext.route.proxy.proxy_of", lambda *_: Proxy(SOCKS5, elsewhere.endpoint))
    else:
        monkeypatch.setattr("txsocksx_ext.route.tor.client_endpoint", lambda *_: elsewhere.endpoint)
    (tmp_path / "password").write_bytes(b"secret\n")
    description = DESCRIPTIONS[request.param].format(folder=tmp_path)
    return lambda more: route_from_string(reactor, description + more), elsewhere


async def connect_by(route):
    async with proxy(policy=table(route)) as server:
        way = TCP4ClientEndpoint(reactor, "127.0.0.1", server.port)
        # A user gets circuits of his own from tor, by a token.
        endpoint = SOCKS5ClientEndpoint("target.example", 80, way, {"login": ("alice", "word")})
        connected = await endpoint.connect(Factory.forProtocol(Protocol))
        connected.transport.abortConnection()


@pytest.mark.parametrize("more", ["", ":allow-cleartext=no"])
async def test_they_stay_here(asked, more):
    route, elsewhere = asked
    with pytest.raises(GeneralServerFailure):
        await connect_by(route(more))
    assert not elsewhere.requests
    assert not any(each.credentials or each.pairs for each in elsewhere.conversations)


async def test_they_go_where_that_is_allowed(asked):
    route, elsewhere = asked
    await connect_by(route(":allow-cleartext=yes"))
    assert [each.destination.host for each in elsewhere.requests] == ["target.example"]
    assert all(each.credentials or each.pairs for each in elsewhere.conversations)


def test_it_is_yes_or_no(asked):
    route, _ = asked
    with pytest.raises(ValueError, match="allow-cleartext is yes or no, not 'maybe'"):
        route(":allow-cleartext=maybe")
