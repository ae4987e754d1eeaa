"""
A closed port of this machine is refused, also if the system connects a socket to itself.

That happens by chance where the port is one from which connections start: the socket then answers itself.
"""

import itertools
import os
import socket
from pathlib import Path

import pytest
from examples.raw_peers import ReactorWith, proxy, until
from support.programs import free_port
from support.sockets import bind_to_target
from support.ways import failure_of
from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol

from txsocksx_ext import RouteTable, SOCKS5ClientEndpoint, open_transport, resolve
from txsocksx_ext.pt import TransportProtocol
from txsocksx_ext.pt.client import TransportSOCKSFactory
from txsocksx_ext.pt.outgoing import Outgoing
from txsocksx_ext.pt.protocol import Side
from txsocksx_ext.testing import Recorder

REFUSED = 0x05
TRIES = int(os.environ.get("SELF_CONNECTION_TRIES", "3000"))
"""By hand: ``SELF_CONNECTION_TRIES=60000 python -m pytest tests/test_self_connection.py -k chance``."""


@pytest.fixture
def closed_port(monkeypatch):
    """A port on which nothing listens; a socket that connects to it is connected to itself."""
    port = free_port()
    bind_to_target(monkeypatch, port)
    return port


def is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class OwnWay:
    """A route by an endpoint of Twisted's."""

    def __init__(self, kind, host):
        self._kind, self._host = kind, host

    def connect(self, request, *_):
        return open_transport(self._kind(reactor, self._host, request.destination.port))


@pytest.mark.parametrize("kind", [TCP4ClientEndpoint, HostnameEndpoint])
async def test_twisted_itself_takes_it_for_a_connection(closed_port, kind):
    """So that the tests below test something."""
    protocol = await connectProtocol(kind(reactor, "127.0.0.1", closed_port), Protocol())
    assert protocol.transport.getHost() == protocol.transport.getPeer()
    protocol.transport.abortConnection()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_a_server_answers_that_the_target_refused(closed_port, host):
    async with proxy() as server:
        assert await server.code(host, closed_port) == REFUSED
    # At once: a socket that was closed in order would keep its port for a minute.
    await until(lambda: is_free(closed_port))


async def test_an_address_that_the_poller_waits_for_is_no_exception(closed_port, monkeypatch):
    monkeypatch.setattr("txsocksx_ext.net.connecting.is_loopback_host", lambda host: False)
    async with proxy() as server:
        assert await server.code("127.0.0.1", closed_port) == REFUSED


async def test_a_reactor_without_a_poller_is_no_exception(closed_port):
    class Wrapped(ReactorWith):
        """Something stands before ``connectTCP``, so Twisted's endpoint is used."""

        def connectTCP(self, *arguments, **keywords):
            return reactor.connectTCP(*arguments, **keywords)

    async with proxy(reactor=Wrapped()) as server:
        assert await server.code("127.0.0.1", closed_port) == REFUSED
        assert await server.code("::1", closed_port) == REFUSED


@pytest.mark.parametrize(
    ("kind", "host"),
    [(TCP4ClientEndpoint, "127.0.0.1"), (TCP6ClientEndpoint, "::1"), (HostnameEndpoint, "localhost")],
)
async def test_a_route_of_ones_own_is_no_exception(closed_port, kind, host):
    async with proxy(policy=RouteTable((), OwnWay(kind, host))) as server:
        assert await server.code("192.0.2.1", closed_port) == REFUSED


def connect(way, methods):
    return SOCKS5ClientEndpoint("target.example", 443, way, methods).connect(Factory.forProtocol(Recorder))


def look_up(way, methods):
    return resolve("target.example", way, methods)


METHODS = {
    "anonymous": {"anonymous": ()},
    "several": {"extended": {}, "login": ("user", "word"), "anonymous": ()},
    "login": {"login": ("user", "word")},
}


@pytest.mark.parametrize("methods", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(
    ("kind", "host"),
    [(TCP4ClientEndpoint, "127.0.0.1"), (TCP6ClientEndpoint, "::1"), (HostnameEndpoint, "localhost")],
)
@pytest.mark.parametrize("ask", [connect, look_up])
async def test_a_client_is_told_that_its_proxy_is_down(closed_port, kind, host, methods, ask):
    error = await failure_of(ask(kind(reactor, host, closed_port), methods))
    assert isinstance(error, ConnectionRefusedError), repr(error)
    assert "the proxy at " in str(error)
    assert f":{closed_port} could not be reached (Connection was refused" in str(error)


class Mirrored(TransportProtocol):
    """A transport whose handshake is the same on both sides, as many are."""

    def connectionMade(self):
        self.transport.write(b"hello")

    def dataReceived(self, data):
        self.ready()


async def test_a_pluggable_transport_is_no_exception(closed_port):
    side = Side(reactor, "mirrored", True, state_location=None, outgoing=Outgoing(reactor))
    async with proxy(TransportSOCKSFactory(side, Mirrored)) as server:
        assert await server.code("127.0.0.1", closed_port) == REFUSED


def closed_ports_where_connections_start():
    """Two of them: Linux takes every other port of its range, and begins again after all of those."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    return list(itertools.islice(filter(is_free, range(first + (last - first) // 4 * 2, last, 2)), 2))


@pytest.mark.deadline(900)
async def test_no_connection_to_closed_ports_succeeds_by_chance():
    refused = 0
    async with proxy() as server:
        for port in itertools.islice(itertools.cycle(closed_ports_where_connections_start()), TRIES):
            client, code, bound = await server.ask("127.0.0.1", port)
            client.abort()
            await client.lost()
            server.peers.clear()
            refused += code == REFUSED
            # Another program may listen there by now.
            assert code == REFUSED or bound[1] != port, f"after {refused} refusals"
    assert refused > TRIES / 2
