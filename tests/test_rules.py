"""Which target goes which way: patterns, their order, and what no rule opens by accident."""

import pytest
from examples.raw_peers import CONNECT, GREET_ANONYMOUS, RESOLVE, Names, ReactorWith, proxy, request_by_name, target
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from txsocksx_ext import RouteTable, Session
from txsocksx_ext.errors import ConnectionNotAllowed
from txsocksx_ext.route.direct import DirectRoute
from txsocksx_ext.route.interface import Route
from txsocksx_ext.route.refuse import RefuseRoute
from txsocksx_ext.server.rules import Rule, table_from_strings
from txsocksx_ext.wire.messages import Address

OWN, DEFAULT = Route(), Route()

REMOTE = IPv4Address("TCP", "198.51.100.1", 5000)

"""A client elsewhere. Nothing is ever sent there."""
LOCAL = IPv4Address("TCP", "127.0.0.1", 5000)


def goes(patterns, host, port=80, peer=LOCAL):
    """Whether a target goes by one of the patterns, and not by the default."""
    table = RouteTable([(pattern, OWN) for pattern in patterns], DEFAULT)
    return table.route_of(Address.of(host, port), Session(peer, table)) is OWN


def test_a_client_that_turns_out_to_be_remote_is_held_to_be_so():
    session = Session(IPv4Address("TCP", "127.0.0.1", 5000), RouteTable((), OWN))
    assert session.is_local
    assert session.rules.route_of(Address.of("10.1.2.3", 80), session) is OWN
    session.peer = REMOTE
    assert not session.is_local
    with pytest.raises(ConnectionNotAllowed):
        session.rules.route_of(Address.of("10.1.2.3", 80), session)


# Patterns.


@pytest.mark.parametrize(
    ("pattern", "host", "port"),
    [
        ("somewhere.example", "somewhere.example", 80),
        ("somewhere.example", "SomeWhere.Example", 80),
        ("SomeWhere.Example", "somewhere.example", 80),
        ("somewhere.example", "somewhere.example.", 80),
        ("somewhere.example.", "somewhere.example", 80),
        ("*.example", "somewhere.example", 80),
        ("*.example", "deep.in.somewhere.example", 80),
        ("some*", "somewhere.example", 80),
        ("s?mewhere.example", "somewhere.example", 80),
        ("*", "somewhere.example", 80),
        ("*", "192.0.2.1", 80),
        ("*", "2001:db8::1", 80),
        ("*.", "192.0.2.1", 80),
        ("*.:80", "somewhere.example", 80),
        ("**", "192.0.2.1", 80),
        ("*:80", "192.0.2.1", 80),
        ("somewhere.example:80", "somewhere.example", 80),
        ("somewhere.example:80-90", "somewhere.example", 80),
        ("somewhere.example:80-90", "somewhere.example", 90),
        ("somewhere.example:0-65535", "somewhere.example", 65535),
        ("192.0.2.1", "192.0.2.1", 80),
        ("192.0.2.1:80", "192.0.2.1", 80),
        ("192.0.2.0/24", "192.0.2.255", 80),
        ("192.0.2.0/24:1-1023", "192.0.2.255", 1023),
        ("0.0.0.0/0", "192.0.2.1", 80),
        ("2001:db8::1", "2001:db8::1", 80),
        ("2001:DB8:0::1", "2001:db8::1", 80),
        ("[2001:db8::1]", "2001:db8::1", 80),
        ("[2001:db8::1]:80", "2001:db8::1", 80),
        ("2001:db8::/32", "2001:db8:ffff::1", 80),
        ("[2001:db8::/32]:80-81", "2001:db8:ffff::1", 81),
        ("::/0", "2001:db8::1", 80),
        # In every spelling that a resolver takes for an address, since targets are seen so.
        ("127.1", "127.0.0.1", 80),
        ("0x7f000001:80", "127.0.0.1", 80),
        ("192.0.2.1.", "192.0.2.1", 80),
        # An address is what it leads to, too.
        ("192.0.2.0/24", "::ffff:192.0.2.1", 80),
        ("192.0.2.0/24", "2002:c000:201::1", 80),
        ("192.0.2.0/24", "64:ff9b::192.0.2.1", 80),
    ],
)
def test_a_pattern_and_what_it_is_of(pattern, host, port):
    assert goes([pattern], host, port)


@pytest.mark.parametrize(
    ("pattern", "host", "port"),
    [
        ("somewhere.example", "elsewhere.example", 80),
        ("somewhere.example", "somewhere.example.org", 80),
        ("somewhere.example", "not-somewhere.example", 80),
        ("*.example", "example", 80),
        ("*.example", "somewherexexample", 80),
        ("some.where", "somexwhere", 80),
        ("s?mewhere.example", "smewhere.example", 80),
        ("somewhere.example:80", "somewhere.example", 81),
        ("somewhere.example:80-90", "somewhere.example", 91),
        ("*:443", "somewhere.example", 80),
        ("192.0.2.1", "192.0.2.10", 80),
        ("192.0.2.1:80", "192.0.2.1", 8080),
        ("192.0.2.0/24", "192.0.3.1", 80),
        ("[2001:db8::1]:80", "2001:db8::1", 81),
        ("::/0", "192.0.2.1", 80),
        ("0.0.0.0/0", "2001:db8::1", 80),
        # Rules about names say nothing of addresses, and the other way round.
        ("192.0.2.1", "192.0.2.1.example", 80),
        ("0.0.0.0/0", "somewhere.example", 80),
    ],
)
def test_a_pattern_and_what_it_is_not_of(pattern, host, port):
    assert not goes([pattern], host, port)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        ":80",
        "[]:80",
        ".",
        "..:80",
        "[*]",
        "[somewhere.example]:80",
        "[192.0.2.1]",
        "[192.0.2.0/24]:80",
        "[some:where]",
        "somewhere.example:",
        "somewhere.example:http",
        "somewhere.example:80-",
        "somewhere.example:-80",
        "somewhere.example:90-80",
        "somewhere.example:65536",
        "somewhere.example:80-65536",
        "somewhere.example:80:90",
        "192.0.2.1/24",
        "192.0.2.0/33",
        "300.1.1.1",
        "192.0.2.1.1:80",
        "192.*",
        "192.0.2.?",
        "*.1",
        "*.example.1.",
        "0x7f.*",
        "*.0x7f",
        "2001:db8::1/32",
        "[2001:db8::1",
        "2001:db8::1]",
        "[2001:db8::1]80",
        "[2001:db8::1]:http",
        "http://somewhere.example",
        "some where",
        "some[ab]where",
        "some/where",
        "straße.example",
    ],
)
def test_a_pattern_that_is_none_is_named_in_the_error(pattern):
    with pytest.raises(ValueError, match=r"pattern|ports|network|address") as caught:
        Rule.of(pattern, OWN)
    assert any(part in str(caught.value) for part in (pattern, pattern.split("/")[0], pattern.removesuffix(":80")))


def test_the_first_rule_that_matches_wins():
    first, second = Route(), Route()
    table = RouteTable([("www.example", first), ("*.example", second), ("www.example", DEFAULT)], DEFAULT)

    def route_of(host):
        return table.route_of(Address.of(host, 80), Session(LOCAL, table))

    assert route_of("www.example") is first
    assert route_of("ftp.example") is second
    assert route_of("www.example.org") is DEFAULT
    assert table.routes == [first, second, DEFAULT]


# From strings.


def test_rules_with_the_same_route_share_it():
    table = table_from_strings(reactor, ["a.example=direct", "b.example=refuse", "c.example=refuse"])
    assert [route.name for route in table.routes] == ["direct", "refuse"]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("direct", "PATTERN=ROUTE"),
        ("*=", "PATTERN=ROUTE"),
        ("=direct", "names no host"),
        ("*=nowhere", "'nowhere'"),
        ("*=direct:now", "takes no arguments"),
        ("*=direct:how=now", "does not know how"),
        ("*=refuse:now", "takes no arguments"),
        ("10.0.0.1/8=direct", "no network"),
        (".=refuse", "'.' names no host"),
        ("[a.example]:80=refuse", "brackets, which are for IPv6"),
        ("10.*=refuse", "'10.*' is no pattern: addresses are written as a network"),
        ("*=socks", "needs an endpoint"),
        ("*=socks:tcp\\:127.0.0.1", "endpoint"),
        ("*=socks:nothing\\:127.0.0.1\\:9050", "nothing"),
        ("*=socks:127.0.0.1:http", "127.0.0.1"),
        ("*=socks:127.0.0.1:9050:colour=red", "does not know colour"),
        ("*=socks:127.0.0.1:9050:username=u", "password-file together"),
        ("*=socks:127.0.0.1:9050:dialect=latin", "'latin'"),
        ("*=socks:127.0.0.1:9050:username=u:password-file=/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_a_rule_that_is_none_is_explained(rule, said):
    with pytest.raises(ValueError, match=r".") as caught:
        table_from_strings(reactor, [rule])
    assert said in str(caught.value)


# Addresses that are nobody else's business.

PROTECTED = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.1.2.3",
    "100.64.0.1",
    "169.254.169.254",
    "168.63.129.16",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    # The same in disguise: mapped, compatible, 6to4, NAT64, Teredo's client and server.
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::7f00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "2001:0:5333:1::80ff:fffe",
    "2001:0:7f00:1::5333:1",
]
OPEN = ["192.0.2.1", "172.32.0.1", "172.15.255.255", "100.128.0.1", "11.0.0.1", "2001:db8::1", "::ffff:192.0.2.1"]


@pytest.mark.parametrize("host", PROTECTED)
def test_a_protected_address_is_refused_to_clients_elsewhere_alone(host):
    table = RouteTable((), DEFAULT)
    destination = Address.of(host, 80)
    with pytest.raises(ConnectionNotAllowed):
        table.route_of(destination, Session(REMOTE, table))
    for peer in (LOCAL, IPv6Address("TCP", "::1", 1), IPv4Address("TCP", "::ffff:127.0.0.1", 1), UNIXAddress(None)):
        assert table.route_of(destination, Session(peer, table)) is DEFAULT


@pytest.mark.parametrize("host", OPEN)
def test_other_addresses_are_open_to_all(host):
    table = RouteTable((), DEFAULT)
    assert table.route_of(Address.of(host, 80), Session(REMOTE, table)) is DEFAULT


@pytest.mark.parametrize(
    ("pattern", "is_open"),
    [
        ("10.1.0.0/16", True),
        ("10.1.2.3", True),
        ("10.1.2.3:80", True),
        ("10.1.2.3:81", False),
        ("10.2.0.0/16", False),
        # These name no address, so they open none by accident.
        ("*", False),
        ("*:80", False),
    ],
)
def test_a_rule_that_names_addresses_opens_them(pattern, is_open):
    table = RouteTable([(pattern, OWN)], DEFAULT)
    session = Session(REMOTE, table)
    if is_open:
        assert table.route_of(Address.of("10.1.2.3", 80), session) is OWN
    else:
        with pytest.raises(ConnectionNotAllowed):
            table.route_of(Address.of("10.1.2.3", 80), session)


def test_a_rule_that_refuses_addresses_does_not_open_them():
    table = RouteTable([("*.example", OWN), ("10.0.0.0/8", RefuseRoute())], DEFAULT)
    session = Session(REMOTE, table)
    name = Address.of("intranet.example", 80)
    # The name's rule stands first, so the refusal does not reach it; but it must not do the contrary.
    assert table.route_of_resolved(name, Address.of("10.1.2.3", 80), session) is None


@pytest.mark.parametrize("pattern", ["0.0.0.0/0", "8.0.0.0/5"])
def test_a_rule_about_more_than_private_addresses_opens_none_by_accident(pattern):
    table = RouteTable([(pattern, OWN)], DEFAULT)
    with pytest.raises(ConnectionNotAllowed):
        table.route_of(Address.of("10.1.2.3", 80), Session(REMOTE, table))
    assert table.route_of(Address.of("10.1.2.3", 80), Session(LOCAL, table)) is OWN


def test_a_rule_opens_addresses_to_its_own_route_alone():
    table = RouteTable([("*.example", OWN), ("10.0.0.0/8", Route())], DEFAULT)
    name = Address.of("intranet.example", 80)
    assert table.route_of_resolved(name, Address.of("10.1.2.3", 80), Session(REMOTE, table)) is None
    assert table.route_of_resolved(name, Address.of("10.1.2.3", 80), Session(LOCAL, table)) is OWN


# Through a server: what `direct` resolved.


def server_of(rules, names, **options):
    """A proxy with these rules: each a pattern, and ``direct`` or ``refuse``."""
    with_names = ReactorWith(names=names)
    direct, refuse = DirectRoute(with_names), RefuseRoute()
    table = RouteTable([(pattern, {"direct": direct, "refuse": refuse}[way]) for pattern, way in rules], direct)
    return proxy(reactor=with_names, routes=table, **options)


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
            assert await server.code("changing.example", far.port) == 2
            assert far.accepted == 0


class OtherWay(Route):
    """Tells which address it was asked for, and refuses."""

    def __init__(self):
        self.asked = []

    def connect(self, request, session):
        self.asked.append(request.destination)
        raise ConnectionNotAllowed()


async def test_an_address_that_goes_another_way_is_handed_to_that_way():
    names, other = Names(somewhere_example=["192.0.2.9", "127.0.0.1"]), OtherWay()
    with_names = ReactorWith(names=names)
    table = RouteTable([("192.0.2.0/24", other)], DirectRoute(with_names))
    async with proxy(reactor=with_names, routes=table) as server:
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
    async with proxy(reactor=with_names, routes=RouteTable((), other)) as server:
        for command in (CONNECT, RESOLVE):
            client = await server.connect()
            client.send(GREET_ANONYMOUS + request_by_name(spelling, 80, command))
            await client.read_to_end()
    assert [Address.of(address, 80)] == other.asked
    refusing = RouteTable([("127.0.0.0/8", RefuseRoute()), ("::1", RefuseRoute())], DirectRoute(with_names))
    async with proxy(reactor=with_names, routes=refusing) as server:
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
