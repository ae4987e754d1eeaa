"""Which target goes which way: patterns and their order."""

import pytest
from support.rules import DEFAULT, LOCAL, OWN, REMOTE, goes
from support.ways import NOWHERE
from twisted.internet import reactor
from twisted.internet.address import IPv4Address

from txsocksx_ext import RouteTable, Session
from txsocksx_ext.errors import ConnectionNotAllowed
from txsocksx_ext.policy.rules import Rule, RuleSpec
from txsocksx_ext.policy.table import table_from_specs
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.route.base import Route


def test_a_client_that_turns_out_to_be_remote_is_held_to_be_so():
    session = Session(IPv4Address("TCP", "127.0.0.1", 5000), RouteTable((), OWN))
    assert session.is_local
    assert session.policy.route_of(Address.of("10.1.2.3", 80), session).route is OWN
    session.peer = REMOTE
    assert not session.is_local
    with pytest.raises(ConnectionNotAllowed):
        session.policy.route_of(Address.of("10.1.2.3", 80), session)


@pytest.mark.parametrize(
    ("rules", "default"), [([("*.onion", "tor:127.0.0.1:9050")], DEFAULT), ([], None), ([], NOWHERE)]
)
def test_what_is_no_route_is_refused_at_once(rules, default):
    words = r"(the route for '\*.onion'|default) must provide IRoute, not (str|NoneType|MemoryEndpoint)"
    with pytest.raises(TypeError, match=words):
        RouteTable(rules, default)


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

    assert route_of("www.example").route is first
    assert route_of("ftp.example").route is second
    assert route_of("www.example.org").route is DEFAULT
    assert table.routes == [first, second, DEFAULT]


# From strings.


def test_rules_with_the_same_route_share_it():
    table = table_from_specs(reactor, map(RuleSpec.of, ["a.example=direct", "b.example=refuse", "c.example=refuse"]))
    assert [route.name for route in table.routes] == ["direct", "refuse"]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("direct", "PATTERN=ROUTE"),
        ("*=", "PATTERN=ROUTE"),
        ("=direct", "names no host"),
        ("*=nowhere", "'nowhere'"),
        ("*=direct:now", "takes no arguments without a name"),
        ("*=direct:famly=4", "does not know famly; it knows family, source"),
        ("*=direct:family=5", "unknown family '5'; known are 4, 6, prefer4, prefer6"),
        ("*=direct:source=lo", "source is an IP address of this machine, not 'lo'"),
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
        table_from_specs(reactor, [RuleSpec.of(rule)])
    assert said in str(caught.value)
