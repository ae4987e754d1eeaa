"""Programs outside the package that change one decision each, and routes that are nothing but a class."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from examples.raw_peers import (
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    RESOLVE,
    Names,
    ReactorWith,
    login,
    pairs,
    proxy,
    request,
    target,
)
from examples.ticket_holder import HelloFactory, TicketRefused, endpoint
from examples.ticket_office import Desk, TicketOffice
from support.programs import free_port
from support.targets import Target, echo
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint

from txsocksx_ext import RouteTable, open_transport
from txsocksx_ext.errors import AuthenticationFailed, ConnectionRefused, TransportTemporaryFailure
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.route.direct import DirectRoute

EXAMPLES = Path(__file__).parent / "examples"
TICKET = (b"office.ticket", b"early bird")
SEAT = b"\x01\x00\x00\x01" + b"\x00\x0boffice.seat" + b"\x00\x011"
"""The answer to a valid ticket."""


# Both programs as their users run them.


def visit(port, host, far_port, ticket):
    """What the client's program prints."""
    return subprocess.run(
        [sys.executable, EXAMPLES / "ticket_holder.py", str(port), host, str(far_port), ticket],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout.strip()


def test_the_programs_do_what_they_say(program):
    port, closed = free_port(), free_port()
    with Target(echo) as desk, Target(echo) as elsewhere:
        program([sys.executable, EXAMPLES / "ticket_office.py", port, desk.port], port=port)
        assert visit(port, "any.name.office", 80, "early bird") == "seat 1 heard hello"
        assert visit(port, "127.0.0.1", elsewhere.port, "late comer") == "seat 99 heard hello"
        assert (len(desk.peers), len(elsewhere.peers)) == (1, 1)
        assert visit(port, "any.name.office", 80, "forged") == "refused: the ticket is not valid: buy another"
    closed_office = free_port()
    program([sys.executable, EXAMPLES / "ticket_office.py", closed_office, closed], port=closed_office)
    assert visit(closed_office, "any.name.office", 80, "early bird") == "closed, try again: now"


# The server's overrides, one by one.


def office(desk_port):
    return proxy(TicketOffice(reactor, Desk(reactor, desk_port)))


async def test_who_may_come_in():
    async with office(free_port()) as server:
        client = await server.connect()
        client.send(GREET_EXTENDED + pairs(TICKET))
        assert await client.read(2 + len(SEAT)) == b"\x05\x97" + SEAT
        for said, heard in (
            (GREET_EXTENDED + pairs((b"office.ticket", b"forged")), b"\x05\x97" + b"\x01\x02"),
            (GREET_EXTENDED + pairs(), b"\x05\x97" + b"\x01\x02"),
            (b"\x05\x01\x02" + login(b"early bird", b""), b"\x05\x02" + b"\x01\x02"),
            (GREET_ANONYMOUS, b"\x05\xff"),
        ):
            client = await server.connect()
            client.send(said + request("127.0.0.1", 80))
            assert (await client.read_to_end())[:4] == heard


async def test_where_to_go():
    async with target() as desk, target() as elsewhere, office(desk.port) as server:
        for asked, reached in (
            (request("any.name.office", 1), desk),
            (request("127.0.0.1", elsewhere.port), elsewhere),
        ):
            client = await server.connect()
            client.send(GREET_EXTENDED + pairs(TICKET) + asked + b"question")
            end = await reached.accept()
            assert await end.read(8) == b"question"


async def test_what_to_answer():
    async with office(free_port()) as server:
        for asked, code in (
            (request("any.name.office", 80), 0xF0),
            (request("any.name.office", 80, RESOLVE), 0x07),
            (request("127.0.0.1", free_port()), 0x05),
        ):
            client = await server.connect()
            client.send(GREET_EXTENDED + pairs(TICKET) + asked)
            assert (await client.read_to_end())[-10:-8] == bytes((5, code))


# The client's overrides, one by one.


async def hear_greeting(end):
    _, count = await end.read(2)
    return await end.read(count)


async def test_what_to_offer_and_what_to_say():
    for selected, said in (
        (b"\x97", pairs(TICKET)),
        (b"\x02", login(b"visitor", b"please")),
    ):
        async with target() as faked:
            connecting = endpoint(reactor, faked.port, "192.0.2.1", 80, b"early bird").connect(HelloFactory())
            end = await faked.accept()
            assert await hear_greeting(end) == bytes((Method.EXTENDED, Method.USERNAME_PASSWORD))
            end.send(b"\x05" + selected)
            assert await end.read(len(said)) == said
            end.send(b"\x01\x01" + (b"\x00\x00" if selected == b"\x97" else b""))
            with pytest.raises(AuthenticationFailed) as caught:
                await connecting
            assert not isinstance(caught.value, TicketRefused)


async def test_what_an_answer_means():
    async with office(free_port()) as server:
        for ticket, host, port, error in (
            (b"forged", "127.0.0.1", 80, TicketRefused),
            (b"early bird", "any.name.office", 80, TransportTemporaryFailure),
            (b"early bird", "127.0.0.1", free_port(), ConnectionRefused),
        ):
            with pytest.raises(error):
                await endpoint(reactor, server.port, host, port, ticket).connect(HelloFactory())


async def test_what_the_server_answered_reaches_the_application():
    with Target(echo) as far:
        async with office(far.port) as server:
            hello = await endpoint(reactor, server.port, "any.name.office", 80, b"late comer").connect(HelloFactory())
            assert dict(hello.address.pairs) == {"office.seat": b"99"}
            assert hello.address.method == Method.EXTENDED
            assert await hello.answered == b"hello"


# Routes that are nothing but a class.


class ToOnePlace:
    """All that a route needs."""

    def __init__(self, port):
        self._port = port

    def connect(self, request, addresses, session):
        return open_transport(TCP4ClientEndpoint(reactor, "127.0.0.1", self._port))


@dataclass
class AsData:
    """The same, as many would write it. Such a class has no hash."""

    port: int

    def connect(self, request, addresses, session):
        return open_transport(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port))


class AsCoroutine(ToOnePlace):
    async def connect(self, request, addresses, session):
        return await super().connect(request, addresses, session)


@pytest.mark.parametrize("route_class", [ToOnePlace, AsData, AsCoroutine])
async def test_a_route_may_be_a_plain_class(route_class):
    async with target() as far:
        table = RouteTable([("*.example", route_class(far.port))], DirectRoute(reactor))
        async with proxy(policy=table) as server:
            client, code, _ = await server.ask("any.example", 80)
            assert code == 0
            client.send(b"question")
            assert await (await far.accept()).read(8) == b"question"
            # What it does not have, it does not do.
            assert await server.code("any.example", 0, RESOLVE) == 7


@pytest.mark.parametrize("route_class", [ToOnePlace, AsData, AsCoroutine])
async def test_a_name_that_direct_resolves_may_lead_to_a_plain_class(route_class):
    with_names = ReactorWith(names=Names(any_example=["192.0.2.1"]))
    async with target() as far:
        table = RouteTable([("192.0.2.0/24", route_class(far.port))], DirectRoute(with_names))
        async with proxy(reactor=with_names, policy=table) as server:
            assert (await server.ask("any.example", 80))[1] == 0
            assert far.accepted == 1


async def test_two_plain_routes_that_are_equal_are_two_routes():
    async with target() as far:
        table = RouteTable([("a.example", AsData(far.port)), ("b.example", AsData(far.port))], DirectRoute(reactor))
        assert len(table.routes) == 3
