"""Every command of a client of the server, and every failure's reply."""

import socket

import pytest
from examples.raw_peers import (
    BIND,
    CONNECT,
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    RESOLVE,
    RESOLVE_PTR,
    UDP_ASSOCIATE,
    HeldRoute,
    Names,
    ReactorWith,
    pairs,
    proxy,
    request,
    request_by_name,
    target,
    turn,
)
from support.answers import reply, table
from support.programs import free_port
from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from txsocksx_ext import Limits, RouteTable
from txsocksx_ext.errors import HostUnreachable, NetworkUnreachable, OnionServiceNotFound, TransportProtocolFailure
from txsocksx_ext.route.direct import DirectRoute
from txsocksx_ext.route.refuse import RefuseRoute


def need_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 on loopback")


# CONNECT.


async def test_connects_to_an_ipv4_address_and_tells_its_own_end():
    async with target() as far, proxy() as server:
        client, code, bound = await server.ask("127.0.0.1", far.port)
        end = await far.accept()
        seen_by_target = end.transport.getPeer()
        assert (code, bound) == (0, (seen_by_target.host, seen_by_target.port))
        client.send(b"question")
        assert await end.read(8) == b"question"
        end.send(b"answer")
        assert await client.read(6) == b"answer"


async def test_connects_to_an_ipv6_address_and_tells_its_own_end():
    need_ipv6()
    async with target("::1") as far, proxy() as server:
        client, code, bound = await server.ask("::1", far.port)
        end = await far.accept()
        assert (code, bound) == (0, ("::1", end.transport.getPeer().port))
        client.send(b"question")
        assert await end.read(8) == b"question"


async def test_connects_to_a_name():
    names = Names(somewhere_example=["127.0.0.1"])
    async with target() as far, proxy(reactor=ReactorWith(names=names)) as server:
        client, code, _ = await server.ask("somewhere.example", far.port)
        assert code == 0
        client.send(b"question")
        assert await (await far.accept()).read(8) == b"question"
    assert names.asked == ["somewhere.example"]


async def test_an_address_sent_as_a_name_is_taken_for_the_address():
    names = Names()
    async with target() as far, proxy(reactor=ReactorWith(names=names)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request_by_name("127.0.0.1", far.port))
        assert await client.read(2) == b"\x05\x00"
        assert (await client.read_reply())[0] == 0
    assert names.asked == []


async def test_rules_about_addresses_hold_for_an_address_sent_as_a_name():
    rules = RouteTable([("127.0.0.0/8", RefuseRoute())], DirectRoute(reactor))
    async with target() as far, proxy(policy=rules) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request_by_name("127.0.0.1", far.port))
        assert await client.read_to_end() == b"\x05\x00" + reply(2)
        assert far.accepted == 0


# RESOLVE and RESOLVE_PTR.


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (["192.0.2.1", "192.0.2.2"], "192.0.2.1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["2001:db8::1", "192.0.2.1"], "192.0.2.1"),
    ],
)
async def test_resolves_a_name(addresses, found):
    names = Names(somewhere_example=addresses)
    async with proxy(reactor=ReactorWith(names=names)) as server:
        client, code, bound = await server.ask("somewhere.example", 0, RESOLVE)
        assert (code, bound) == (0, (found, 0))
        # One answer, then the end: no stream follows.
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("literal", ["192.0.2.1", "2001:db8::1"])
async def test_resolving_an_address_gives_the_address(literal):
    names = Names()
    async with proxy(reactor=ReactorWith(names=names)) as server:
        _, code, bound = await server.ask(literal, 0, RESOLVE)
    assert (code, bound, names.asked) == (0, (literal, 0), [])


async def test_finds_the_name_of_an_address():
    try:
        name, _ = await deferToThread(socket.getnameinfo, ("127.0.0.1", 0), socket.NI_NAMEREQD)
    except OSError:
        pytest.skip("127.0.0.1 has no name on this machine")
    async with proxy() as server:
        for ask_by in (request, request_by_name):
            client = await server.connect()
            client.send(GREET_ANONYMOUS + ask_by("127.0.0.1", 0, RESOLVE_PTR))
            assert await client.read(2) == b"\x05\x00"
            assert await client.read_reply() == (0, (name, 0))


# Failures that the request itself holds.


@pytest.mark.parametrize(
    ("name", "bytes_of_request", "code"),
    [
        ("BIND", request("127.0.0.1", 80, BIND), 7),
        ("UDP ASSOCIATE", request("0.0.0.0", 0, UDP_ASSOCIATE), 7),
        ("UDP ASSOCIATE of a name", request("somewhere.example", 80, UDP_ASSOCIATE), 7),
        ("an unassigned command", request("127.0.0.1", 80, 0x7F), 7),
        ("port 0", request("127.0.0.1", 0), 1),
        ("port 0 of a name", request("somewhere.example", 0), 1),
        ("RESOLVE_PTR of a name", request("somewhere.example", 0, RESOLVE_PTR), 8),
        ("an unknown address type", b"\x05\x01\x00\x05", 8),
        ("address type 0", b"\x05\x01\x00\x00", 8),
        ("a reserved byte that is not 0", b"\x05\x01\x01\x01\x7f\x00\x00\x01\x00\x50", 1),
        ("another version", b"\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x50", 1),
        ("an empty name", b"\x05\x01\x00\x03\x00\x00\x50", 1),
        ("a name with a NUL", b"\x05\x01\x00\x03\x03a\x00b\x00\x50", 1),
        ("a name with a space", b"\x05\x01\x00\x03\x03a b\x00\x50", 1),
        ("a name beyond ASCII", b"\x05\x01\x00\x03\x02\xc3\xa4\x00\x50", 1),
    ],
)
async def test_a_request_that_cannot_be_served_gets_its_code_at_once(name, bytes_of_request, code):
    names = Names()
    async with proxy(reactor=ReactorWith(names=names)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + bytes_of_request)
        assert await client.read_to_end() == b"\x05\x00" + reply(code)
    assert names.asked == []


# Failures of the way to the target.


async def test_a_port_where_nothing_listens_is_refused():
    async with proxy() as server:
        assert await server.code("127.0.0.1", free_port()) == 5


@pytest.mark.parametrize("address", ["255.255.255.255", "224.0.0.1"])
async def test_a_network_that_cannot_be_reached(address):
    # The system itself refuses both before a packet leaves.
    async with proxy() as server:
        assert await server.code(address, 80) == 3


async def test_a_name_that_does_not_exist():
    names = Names()
    async with proxy(reactor=ReactorWith(names=names)) as server:
        assert await server.code("nobody.example", 80) == 4
        assert await server.code("nobody.example", 0, RESOLVE) == 4
    # The failure is kept for a moment.
    assert names.asked == ["nobody.example"]


@pytest.mark.parametrize(
    "name", ["abc.onion", "ABC.Onion", "abc.onion.", "onion", "www.abc.onion", "abc.onion.."], ids=str
)
async def test_onion_names_never_reach_a_resolver(name):
    names = Names(**{name.replace(".", "_"): ["127.0.0.1"]})
    async with proxy(reactor=ReactorWith(names=names)) as server:
        assert await server.code(name, 80) == 4
        assert await server.code(name, 0, RESOLVE) == 4
    assert names.asked == []


@pytest.mark.parametrize(
    "name",
    ["a..b", ".", "..", ".a", "a" * 64 + ".invalid", "a." * 127 + "a", "a" * 255, "xn--", "xn--a.invalid", "%.invalid"],
    ids=lambda name: name[:8],
)
async def test_a_name_that_no_host_can_have_is_answered_by_the_real_resolver_too(name):
    async with proxy() as server:
        assert await server.code(name, 80) == 4


async def test_a_rule_that_refuses():
    rules = RouteTable([("*.example", RefuseRoute())], DirectRoute(reactor))
    names = Names()
    async with proxy(reactor=ReactorWith(names=names), policy=rules) as server:
        for command in (CONNECT, RESOLVE):
            assert await server.code("somewhere.example", 80, command) == 2
    assert names.asked == []


async def test_a_route_that_never_answers_is_answered_in_its_stead():
    clock, route = Clock(), HeldRoute()
    limits = Limits(handshake_timeout=10, connect_timeout=45)
    async with proxy(reactor=ReactorWith(clock=clock), policy=table(route), limits=limits) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80))
        await route.asked.get()
        assert await client.read(2) == b"\x05\x00"
        # The handshake's own deadline ended with the request.
        clock.advance(44)
        await turn(3)
        assert (client.unread, client.input_ended, route.cancelled) == (b"", False, 0)
        clock.advance(1)
        assert await client.read_to_end() == reply(6)
        assert route.cancelled == 1


class FailingRoute:
    def __init__(self, error):
        self.error = error

    def connect(self, request, addresses, session):
        raise self.error

    resolve = connect


@pytest.mark.parametrize(
    ("error", "to_plain", "to_extended"),
    [
        (NetworkUnreachable(), 3, 3),
        (HostUnreachable(), 4, 4),
        (OnionServiceNotFound(), 4, 0xE0),
        (TransportProtocolFailure(), 1, 0xF1),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("command", [CONNECT, RESOLVE])
async def test_a_route_that_raises_is_answered_in_what_the_client_understands(error, to_plain, to_extended, command):
    async with proxy(policy=table(FailingRoute(error))) as server:
        assert await server.code("somewhere.example", 80, command) == to_plain
        client = await server.connect()
        client.send(GREET_EXTENDED + pairs() + request("somewhere.example", 80, command))
        assert await client.read_to_end() == b"\x05\x97" + b"\x01\x00\x00\x00" + reply(to_extended)


async def test_a_route_without_resolve_answers_that_it_has_no_such_command():
    async with proxy(policy=table(HeldRoute())) as server:
        assert await server.code("somewhere.example", 0, RESOLVE) == 7
