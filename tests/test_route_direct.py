"""The route ``direct``: from which address it connects, and to which family."""

import contextlib
import os
import socket

import pytest
from examples.raw_peers import Names, ReactorWith, proxy, target
from support.logs import lines_logged
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTCP
from zope.interface import implementer

from txsocksx_ext import Limits, RouteTable
from txsocksx_ext.route import route_from_string

UNREACHABLE, NOT_SUPPORTED, FAILED = 4, 8, 1


def table(description, of=reactor):
    return RouteTable([("*", route_from_string(of, description))], route_from_string(of, "refuse"))


@implementer(IReactorTCP)
class OwnTCP(ReactorWith):
    """A reactor whose ``connectTCP`` the poller must not replace."""

    def connectTCP(self, *arguments, **keywords):
        return reactor.connectTCP(*arguments, **keywords)


@pytest.mark.parametrize("of", [reactor, OwnTCP()], ids=["poller", "endpoint"])
@pytest.mark.parametrize(("source", "written"), [("127.0.0.9", "127.0.0.9"), ("::1", "\\:\\:1")])
async def test_connections_come_from_the_source(of, source, written):
    interface = "::1" if ":" in source else "127.0.0.1"
    async with target(interface) as far, proxy(policy=table(f"direct:source={written}", of)) as server:
        client, code, bound = await server.ask(interface, far.port)
        assert (code, bound[0]) == (0, source)
        assert (await far.accept()).transport.getPeer().host == source
        client.send(b"question")
        # The other family would leave by another address.
        assert await server.code("127.0.0.1" if ":" in source else "::1", far.port) == NOT_SUPPORTED


async def test_a_name_is_reached_from_the_source():
    names = Names(host_example=["::1", "127.0.0.2", "127.0.0.1"])
    route = table("direct:source=127.0.0.9", ReactorWith(names=names))
    async with target("127.0.0.1") as far, proxy(policy=route) as server:
        assert await server.code("host.example", far.port) == 0
        assert (await far.accept()).transport.getPeer().host == "127.0.0.9"


async def test_a_source_that_this_machine_does_not_have_is_a_failure_with_its_reason():
    with lines_logged("txsocksx_ext.server") as lines:
        async with target() as far, proxy(policy=table("direct:source=192.0.2.1")) as server:
            assert await server.code("127.0.0.1", far.port) == FAILED
    assert "end=ConnectBindError(EADDRNOTAVAIL)" in lines[0]


@pytest.mark.parametrize(
    ("family", "listens", "code"),
    [
        ("4", "127.0.0.1", 0),
        ("4", "::1", 5),
        ("6", "::1", 0),
        ("6", "127.0.0.1", 5),
        ("prefer4", "127.0.0.1", 0),
        ("prefer4", "::1", 0),
        ("prefer6", "127.0.0.1", 0),
        ("prefer6", "::1", 0),
    ],
)
async def test_the_family_of_the_route(family, listens, code):
    names = Names(host_example=["127.0.0.1", "::1"])
    route = table(f"direct:family={family}", ReactorWith(names=names))
    async with target(listens) as far, proxy(policy=route) as server:
        assert await server.code("host.example", far.port) == code


@pytest.mark.parametrize(
    ("family", "wanted", "reached"),
    [
        ("4", "ipv4-only", "127.0.0.1"),
        ("4", "ipv6-preferred", "127.0.0.1"),
        ("4", "ipv6-only", None),
        ("prefer4", "ipv6-preferred", "::1"),
        ("prefer4", "ipv6-only", "::1"),
        ("prefer6", "", "::1"),
    ],
)
async def test_a_client_chooses_among_the_families_of_the_route(family, wanted, reached):
    names = Names(host_example=["127.0.0.1", "::1"])
    route = table(f"direct:family={family}", ReactorWith(names=names))
    async with target("::") as far, proxy(policy=route) as server:
        client = await server.connect()
        header = f"Tor-Family-Preference: {wanted}\r\n" if wanted else ""
        client.send(f"CONNECT host.example:{far.port} HTTP/1.1\r\n{header}\r\n".encode())
        line = (await client.read(len("HTTP/1.1 200"))).decode()
        assert line == f"HTTP/1.1 {503 if reached is None else 200}"
        if reached is not None:
            assert (await far.accept()).transport.getHost().host in (reached, f"::ffff:{reached}")


def option_of(ours, theirs, option):
    """An option of the socket of this process that is connected from one port to another."""
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(entry))) as found:
            if found.getsockname()[1:2] == (ours,) and found.getpeername()[1] == theirs:
                return found.getsockopt(socket.IPPROTO_TCP, option)
    raise AssertionError("there is no such connection")


@pytest.mark.parametrize(("seconds", "set_to"), [(7, 7), (7.5, 7), (0.5, 1), (1e9, 32767), (None, None)])
async def test_keepalive_probes_both_sides_of_a_stream(seconds, set_to):
    async with target() as far, proxy(limits=Limits(keepalive=seconds)) as server:
        client, code, _ = await server.ask("127.0.0.1", far.port)
        assert code == 0
        here = (await far.accept()).transport.getPeer().port
        for ours, theirs in ((server.port, client.transport.getHost().port), (here, far.port)):
            with socket.socket() as other:
                default = other.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            idle = option_of(ours, theirs, socket.TCP_KEEPIDLE)
            assert idle == (default if seconds is None else set_to)
            if seconds is not None:
                assert option_of(ours, theirs, socket.TCP_KEEPINTVL) == set_to
