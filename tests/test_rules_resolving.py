"""Rules through a server: what was resolved, addresses in other spellings, and look-ups."""

import pytest
from examples.raw_peers import CONNECT, GREET_ANONYMOUS, RESOLVE, Names, ReactorWith, proxy, request_by_name, target
from support.rules import server_of

from txsocksx_ext import RouteTable
from txsocksx_ext.errors import ConnectionNotAllowed
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.route.base import Route
from txsocksx_ext.route.direct import DirectRoute
from txsocksx_ext.route.refuse import RefuseRoute

# Through a server: what `direct` resolved.


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::ffff:127.0.0.1"])
async def test_a_client_elsewhere_does_not_reach_the_proxys_own_machine(host):
    async with target() as far:
        names = Names(innocent_example=[host])
        async with server_of([], names, seen_from="198.51.100.1") as server:
            assert await server.code(host, far.port) == 2
            assert await server.code("innocent.example", far.port) == 2
            assert await server.code("innocent.example", far.port, RESOLVE) == 2
        async with server_of([], names, seen_from="127.0.0.1") as server:
            assert await server.code("innocent.example", far.port, RESOLVE) == 0
        assert far.accepted == 0


@pytest.mark.parametrize("name", ["2130706433", "127.1", "0x7f.1", "0x7f000001", "017700000001", "localhost"])
async def test_a_name_that_the_real_resolver_takes_for_loopback_is_refused(name):
    async with target() as far, proxy(seen_from="198.51.100.1") as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request_by_name(name, far.port))
        answer = await client.read_to_end()
        # A resolver that does not know this way of writing finds nothing.
        assert answer[:4] in (b"\x05\x00\x05\x02", b"\x05\x00\x05\x04")
        assert far.accepted == 0


async def test_one_address_among_several_is_refused_and_the_other_taken():
    # 127.0.0.1 is opened, 127.0.0.2 is not.
    async with target() as far:
        names = Names(both_example=["127.0.0.2", "127.0.0.1"], one_example=["127.0.0.2"])
        async with server_of([("127.0.0.1", "direct")], names, seen_from="198.51.100.1") as server:
            _, code, _ = await server.ask("both.example", far.port)
            assert code == 0
            assert (await far.accept()).transport.getHost().host == "127.0.0.1"
            assert await server.code("one.example", far.port) == 2


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ([("127.0.0.0/8", "refuse")], 2),
        ([("127.0.0.0/8", "refuse"), ("*.example", "direct")], 2),
        ([("*.example", "direct"), ("127.0.0.0/8", "refuse")], 0),
        ([("127.0.0.0/8", "direct"), ("*", "refuse")], 2),
        ([("*.example", "direct"), ("*", "refuse")], 0),
    ],
)
async def test_addresses_are_held_against_the_rules_before_the_names_own(rules, code):
    async with target() as far:
        names = Names(somewhere_example=["127.0.0.1"])
        async with server_of(rules, names) as server:
            assert await server.code("somewhere.example", far.port) == code


async def test_names_for_another_route_are_not_resolved():
    names = Names(somewhere_example=["127.0.0.1"])
    async with server_of([("127.0.0.0/8", "direct"), ("*.example", "refuse")], names) as server:
        assert await server.code("somewhere.example", 80) == 2
        assert await server.code("somewhere.example", 0, RESOLVE) == 2
    assert names.asked == []


async def test_the_connection_goes_to_the_address_that_was_admitted():
    # The second answer is the attack: a name that is innocent when it is looked at, and not when it is used.
    async with target() as far:
        names = Names(changing_example=[["127.0.0.2"], ["127.0.0.1"], ["127.0.0.1"]])
        async with (
            target("127.0.0.2") as admitted,
            server_of([("127.0.0.2", "direct")], names, seen_from="198.51.100.1") as server,
        ):
            _, code, _ = await server.ask("changing.example", admitted.port)
            assert code == 0
            assert (await admitted.accept()).transport.getHost().host == "127.0.0.2"
            assert names.asked == ["changing.example"]
            # The answer is kept for some seconds, and so is what the rules said of it.
            assert await server.code("changing.example", far.port) == 5
            assert far.accepted == 0


class OtherWay(Route):
    """Tells which address it was asked for, and refuses."""

    def __init__(self):
        self.asked = []

    def connect(self, request, addresses, session):
        self.asked.append(request.destination)
        raise ConnectionNotAllowed()


async def test_an_address_that_goes_another_way_is_handed_to_that_way():
    names, other = Names(somewhere_example=["192.0.2.9", "127.0.0.1"]), OtherWay()
    with_names = ReactorWith(names=names)
    table = RouteTable([("192.0.2.0/24", other)], DirectRoute(with_names))
    async with proxy(reactor=with_names, policy=table) as server:
        assert await server.code("somewhere.example", 80) == 2
    assert other.asked == [Address.of("192.0.2.9", 80)]


# Addresses in other spellings.


@pytest.mark.parametrize(
    ("spelling", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0X7F.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
    ],
)
async def test_rules_see_an_address_in_every_spelling_whoever_would_resolve_it(spelling, address):
    names, other = Names(), OtherWay()
    with_names = ReactorWith(names=names)
    async with proxy(reactor=with_names, policy=RouteTable((), other)) as server:
        for command in (CONNECT, RESOLVE):
            client = await server.connect()
            client.send(GREET_ANONYMOUS + request_by_name(spelling, 80, command))
            await client.read_to_end()
    assert [Address.of(address, 80)] == other.asked
    refusing = RouteTable([("127.0.0.0/8", RefuseRoute()), ("::1", RefuseRoute())], DirectRoute(with_names))
    async with proxy(reactor=with_names, policy=refusing) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request_by_name(spelling, 80))
        assert (await client.read_to_end())[:4] == b"\x05\x00\x05\x02"
    assert names.asked == []


@pytest.mark.parametrize(
    ("spelling", "code"),
    [
        ("1.2.3.4.5", 4),
        ("256.256.256.256", 4),
        ("4294967296", 4),
        ("somewhere.1", 4),
        ("somewhere.0x1f", 4),
        ("a:b", 8),
        ("::1%lo", 8),
        ("fe80::1%25eth0", 8),
    ],
)
async def test_what_is_neither_a_name_nor_an_address_goes_no_way_at_all(spelling, code):
    names = Names()
    async with proxy(reactor=ReactorWith(names=names)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request_by_name(spelling, 80))
        assert (await client.read_to_end())[:4] == b"\x05\x00\x05" + bytes((code,))
    assert names.asked == []


# Look-ups, which have no port.


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        # What refuses some ports refuses no look-up.
        ([("somewhere.example:443", "refuse")], 0),
        ([("192.0.2.0/24:443", "refuse")], 0),
        ([("*:443", "refuse")], 0),
        ([("somewhere.example", "refuse")], 2),
        ([("192.0.2.0/24", "refuse")], 2),
        ([("*:0-65535", "refuse")], 2),
        ([("*:1-65535", "refuse")], 2),
        ([("somewhere.example:443", "direct"), ("*", "refuse")], 0),
    ],
)
async def test_a_look_up_goes_where_some_stream_to_that_name_would_go(rules, code):
    async with server_of(rules, Names(somewhere_example=["192.0.2.1"])) as server:
        assert await server.code("somewhere.example", 0, RESOLVE) == code
