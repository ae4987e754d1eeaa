"""Rules for some clients only: by address, by user and by protocol."""

import json

import pytest
from support.rules import DEFAULT, LOCAL, OWN, REMOTE
from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.address import IPv6Address, UNIXAddress

from txsocksx_ext import RouteTable, Session
from txsocksx_ext.errors import ConnectionNotAllowed
from txsocksx_ext.policy.rules import RuleSpec
from txsocksx_ext.policy.table import table_from_specs
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.server.settings import ServerSettings


def table_of(*specs):
    """A table in which each of these rules leads to `OWN`, and the rest to `DEFAULT`."""
    return RouteTable([rule for spec in specs for rule in spec.rules(OWN)], DEFAULT)


def client(table, peer=LOCAL, user=None, protocol="socks5"):
    session = Session(peer, table)
    session.protocol = protocol
    if user is not None:
        session.credentials = UsernamePassword(user, b"secret")
    return session


def goes(spec, host="somewhere.example", port=80, **about):
    """Whether a target goes by the rule, and not by the default."""
    table = table_of(spec)
    return table.route_of(Address.of(host, port), client(table, **about)).route is OWN


@pytest.mark.parametrize(
    ("sources", "peer", "expected"),
    [
        (("127.0.0.0/8",), LOCAL, True),
        (("127.0.0.1",), LOCAL, True),
        (("192.0.2.0/24",), LOCAL, False),
        (("192.0.2.0/24", "127.0.0.0/8"), LOCAL, True),
        (("198.51.100.0/24",), REMOTE, True),
        (("198.51.100.0/24",), IPv6Address("TCP", "::ffff:198.51.100.1", 5000), True),
        (("2001:db8::/32",), IPv6Address("TCP", "2001:db8::1", 5000), True),
        (("fe80::/10",), IPv6Address("TCP", "fe80::1%eth0", 5000), True),
        (("2001:db8::/32",), LOCAL, False),
        (("0.0.0.0/0", "::/0"), UNIXAddress(None), False),
    ],
)
def test_by_the_clients_address(sources, peer, expected):
    assert goes(RuleSpec(("*",), "", sources=sources), peer=peer) is expected


@pytest.mark.parametrize(("user", "expected"), [(b"alice", True), (b"bob", False), (b"Alice", False), (None, False)])
def test_by_user(user, expected):
    assert goes(RuleSpec(("*",), "", users=("alice", "carol")), user=user) is expected


@pytest.mark.parametrize(("protocol", "expected"), [("http", True), ("socks5", False)])
def test_by_protocol(protocol, expected):
    assert goes(RuleSpec((), "", protocols=("http",)), protocol=protocol) is expected


def test_all_conditions_have_to_hold():
    spec = RuleSpec(("*.example",), "", ("127.0.0.0/8",), ("alice",), ("http",))
    assert goes(spec, user=b"alice", protocol="http")
    assert not goes(spec, user=b"alice", protocol="http", host="example.org")
    assert not goes(spec, user=b"bob", protocol="http")
    assert not goes(spec, user=b"alice")
    assert not goes(spec, user=b"alice", protocol="http", peer=REMOTE)


@pytest.mark.parametrize(
    ("to", "host", "port", "expected"),
    [
        (":25", "somewhere.example", 25, True),
        (":25", "192.0.2.1", 25, True),
        (":25", "somewhere.example", 80, False),
        (":1-1023", "somewhere.example", 80, True),
        ("private", "10.1.2.3", 80, True),
        ("private", "127.0.0.1", 80, True),
        ("private", "fd00::1", 80, True),
        ("private", "192.0.2.1", 80, False),
        ("private", "private", 80, False),
        ("private:22", "10.1.2.3", 22, True),
        ("private:22", "fd00::1", 22, True),
        ("private:22", "10.1.2.3", 80, False),
    ],
)
def test_targets_that_only_such_rules_name(to, host, port, expected):
    assert goes(RuleSpec((to,), ""), host, port) is expected


def test_a_rule_with_several_targets():
    spec = RuleSpec((":25", "a.example"), "")
    assert goes(spec, port=25)
    assert goes(spec, "a.example")
    assert not goes(spec, "b.example")


def test_the_first_match_that_is_for_the_client_decides():
    table = table_from_specs(
        reactor,
        [
            RuleSpec(("*.example",), "direct", users=("alice",)),
            RuleSpec(("*.example",), "refuse"),
            RuleSpec((), "direct"),
        ],
    )
    target = Address.of("www.example", 80)
    assert table.route_of(target, client(table, user=b"alice")).route.name == "direct"
    assert table.route_of(target, client(table, user=b"bob")).route.name == "refuse"


def test_a_private_network_is_opened_to_the_clients_of_the_rule_alone():
    table = table_of(RuleSpec(("10.0.0.0/8",), "", users=("alice",)))
    target = Address.of("10.1.2.3", 80)
    assert table.route_of(target, client(table, REMOTE, b"alice")).route is OWN
    with pytest.raises(ConnectionNotAllowed):
        table.route_of(target, client(table, REMOTE, b"bob"))
    # Nor for a route that a program has chosen.
    assert table.admit(OWN, target, client(table, REMOTE, b"alice")).route is OWN
    with pytest.raises(ConnectionNotAllowed):
        table.admit(OWN, target, client(table, REMOTE, b"bob"))


def test_an_address_is_closed_to_the_clients_of_the_rule_alone():
    table = table_from_specs(reactor, [RuleSpec(("192.0.2.0/24",), "refuse", users=("bob",))])
    target = Address.of("192.0.2.1", 80)
    direct = table.routes[1]
    assert table.admit(direct, target, client(table, user=b"alice")).route is direct
    with pytest.raises(ConnectionNotAllowed):
        table.admit(direct, target, client(table, user=b"bob"))


class Resolver:
    """Resolves every name to one address."""

    async def addresses_of(self, host, share):
        return ["10.1.2.3"]


@pytest.mark.parametrize(("user", "is_open"), [(b"alice", True), (b"bob", False)])
async def test_resolved_addresses_are_judged_by_the_clients_rules(user, is_open):
    table = table_from_specs(reactor, [RuleSpec(("private",), "direct", users=("alice",)), RuleSpec((), "direct")])
    session = client(table, REMOTE, user)
    target = Address.of("intranet.example", 80)
    decision = table.route_of(target, session)
    decision.route.resolver = Resolver()
    if is_open:
        assert [each.host for each in (await table.resolve(decision, target, session)).addresses] == ["10.1.2.3"]
    else:
        with pytest.raises(ConnectionNotAllowed):
            await table.resolve(decision, target, session)


def test_clients_are_asked_for_a_login_where_a_rule_names_users():
    assert table_of(RuleSpec((), "", users=("alice",))).uses_credentials
    assert not table_of(RuleSpec((), "", protocols=("http",))).uses_credentials


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (RuleSpec(("*",), "direct", sources=("office",)), "'office' is neither an address nor a network"),
        (RuleSpec(("*",), "direct", sources=("10.0.0.1/8",)), "'10.0.0.1/8' is neither an address nor a network"),
        (RuleSpec((":http",), "direct"), "'*:http'"),
        (RuleSpec(("private:http",), "direct", users=("alice",)), "private:http user alice"),
        (RuleSpec((), "nowhere", users=("alice",)), "* user alice: unknown route kind 'nowhere'"),
    ],
)
def test_a_malformed_rule_is_explained(spec, said):
    with pytest.raises(ValueError, match=r".") as caught:
        table_from_specs(reactor, [spec])
    assert said in str(caught.value)


def test_workers_are_sent_the_conditions():
    rules = (RuleSpec.of("*:25=refuse"), RuleSpec(("private",), "direct", ("10.0.0.0/8",), ("alice",), ("http",)))
    message = json.loads(json.dumps(ServerSettings(rules=rules).as_message()))
    assert ServerSettings.from_message(message).rules == rules
