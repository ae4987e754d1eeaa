"""What no rule opens by accident: addresses that are nobody else's business."""

from ipaddress import ip_address, ip_network

import pytest
from examples.raw_peers import Names, ReactorWith
from support.rules import DEFAULT, LOCAL, OWN, REMOTE
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from txsocksx_ext import RouteTable, Session
from txsocksx_ext.addresses import is_protected, is_protected_network
from txsocksx_ext.errors import ConnectionNotAllowed
from txsocksx_ext.net.own_addresses import own_addresses
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.route.base import Route
from txsocksx_ext.route.direct import DirectRoute
from txsocksx_ext.route.refuse import RefuseRoute

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
    # SIIT, and ISATAP in anyone's prefix, whose identifier may be marked as global.
    "::ffff:0:10.0.0.5",
    "::ffff:0:127.0.0.1",
    "2001:db8::5efe:10.0.0.5",
    "2001:db8:1:2:200:5efe:169.254.169.254",
    "2001:2::1",
    "5f00::1",
]
OPEN = ["192.0.2.1", "172.32.0.1", "172.15.255.255", "100.128.0.1", "11.0.0.1", "2001:db8::1", "::ffff:192.0.2.1"]
OPEN += ["::ffff:0:192.0.2.1", "64:ff9b::192.0.2.1", "2001:db8::5efe:192.0.2.1", "2001:db8::10.0.0.5"]


@pytest.mark.parametrize("host", PROTECTED)
def test_a_protected_address_is_refused_to_clients_elsewhere_alone(host):
    table = RouteTable((), DEFAULT)
    destination = Address.of(host, 80)
    with pytest.raises(ConnectionNotAllowed):
        table.route_of(destination, Session(REMOTE, table))
    for peer in (LOCAL, IPv6Address("TCP", "::1", 1), IPv4Address("TCP", "::ffff:127.0.0.1", 1), UNIXAddress(None)):
        assert table.route_of(destination, Session(peer, table)).route is DEFAULT


@pytest.mark.parametrize("host", OPEN)
def test_other_addresses_are_open_to_all(host):
    table = RouteTable((), DEFAULT)
    assert table.route_of(Address.of(host, 80), Session(REMOTE, table)).route is DEFAULT


OWN_ADDRESSES = frozenset(map(ip_address, ("203.0.113.4", "203.0.113.5", "2001:db8::5")))


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("203.0.113.5", True),
        ("203.0.113.6", False),
        ("2001:db8::5", True),
        ("2001:db8:0::5", True),
        ("2001:db8::6", False),
        # The same in disguise.
        ("::ffff:203.0.113.5", True),
        ("::ffff:0:203.0.113.5", True),
        ("64:ff9b::203.0.113.5", True),
        ("2002:cb00:7105::1", True),
        ("2001:db8::5efe:203.0.113.5", True),
        ("::ffff:203.0.113.6", False),
    ],
)
def test_this_machines_own_addresses_are_protected(host, is_own):
    assert is_protected(host, OWN_ADDRESSES) is is_own
    assert not is_protected(host)


def test_the_addresses_of_interfaces_are_known():
    assert ip_address("127.0.0.1") in own_addresses()


@pytest.mark.parametrize(
    ("network", "is_own"),
    [
        ("203.0.113.5/32", True),
        ("203.0.113.4/31", True),
        ("2001:db8::5/128", True),
        # These name more than this machine.
        ("203.0.113.4/30", False),
        ("203.0.113.6/31", False),
        ("2001:db8::/64", False),
        ("0.0.0.0/0", False),
    ],
)
def test_a_rule_opens_own_addresses_that_names_no_others(network, is_own):
    assert is_protected_network(ip_network(network), OWN_ADDRESSES) is is_own


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
        assert table.route_of(Address.of("10.1.2.3", 80), session).route is OWN
    else:
        with pytest.raises(ConnectionNotAllowed):
            table.route_of(Address.of("10.1.2.3", 80), session)


@pytest.mark.parametrize(
    ("pattern", "is_open"), [("203.0.113.5", True), ("203.0.113.4/31", True), ("203.0.113.0/24", False), ("*", False)]
)
def test_a_rule_that_names_this_machine_alone_opens_it(monkeypatch, pattern, is_open):
    monkeypatch.setattr("txsocksx_ext.policy.table.own_addresses", lambda: OWN_ADDRESSES)
    table = RouteTable([(pattern, OWN)], DEFAULT)
    destination = Address.of("203.0.113.5", 80)
    assert table.may_reach(destination, Session(REMOTE, table), OWN) is is_open
    assert table.may_reach(destination, Session(LOCAL, table), OWN)


def resolving():
    """A route that takes addresses: the name intranet.example is 10.1.2.3."""
    return DirectRoute(ReactorWith(names=Names(intranet_example=["10.1.2.3"])))


async def route_of_the_name(table, peer):
    name, session = Address.of("intranet.example", 80), Session(peer, table)
    return (await table.resolve(table.route_of(name, session), name, session)).route


async def test_a_rule_that_refuses_addresses_does_not_open_them():
    table = RouteTable([("*.example", resolving()), ("10.0.0.0/8", RefuseRoute())], DEFAULT)
    # The name's rule stands first, so the refusal does not reach it; but it must not do the contrary.
    with pytest.raises(ConnectionNotAllowed):
        await route_of_the_name(table, REMOTE)


@pytest.mark.parametrize("pattern", ["0.0.0.0/0", "8.0.0.0/5"])
def test_a_rule_about_more_than_private_addresses_opens_none_by_accident(pattern):
    table = RouteTable([(pattern, OWN)], DEFAULT)
    with pytest.raises(ConnectionNotAllowed):
        table.route_of(Address.of("10.1.2.3", 80), Session(REMOTE, table))
    assert table.route_of(Address.of("10.1.2.3", 80), Session(LOCAL, table)).route is OWN


async def test_a_rule_opens_addresses_to_its_own_route_alone():
    direct = resolving()
    table = RouteTable([("*.example", direct), ("10.0.0.0/8", Route())], DEFAULT)
    with pytest.raises(ConnectionNotAllowed):
        await route_of_the_name(table, REMOTE)
    assert await route_of_the_name(table, LOCAL) is direct


@pytest.mark.parametrize("is_in_table", [True, False])
async def test_a_rule_that_refuses_addresses_holds_for_a_route_of_an_override(is_in_table):
    direct = resolving()
    table = RouteTable([("203.0.113.0/24", RefuseRoute()), ("10.1.2.3", RefuseRoute())], direct if is_in_table else OWN)
    session = Session(LOCAL, table)
    with pytest.raises(ConnectionNotAllowed):
        table.admit(direct, Address.of("203.0.113.5", 80), session)
    name = Address.of("intranet.example", 80)
    with pytest.raises(ConnectionNotAllowed):
        await table.resolve(table.admit(direct, name, session), name, session)
    assert table.admit(direct, Address.of("203.0.114.5", 80), session).route is direct


@pytest.mark.parametrize("host", ["fd00::5efe:a00:1", "2002:7f00:1::5efe:a00:1", "64:ff9b:1::a00:1"])
def test_a_rule_opens_no_address_by_another_one_inside_it(host):
    table = RouteTable([("10.0.0.0/8", OWN)], DEFAULT)
    session = Session(REMOTE, table)
    assert table.route_of(Address.of("10.0.0.1", 80), session).route is OWN
    assert table.route_of(Address.of("::ffff:10.0.0.1", 80), session).route is OWN
    with pytest.raises(ConnectionNotAllowed):
        table.route_of(Address.of(host, 80), session)
