"""Who may come in to a server and by which method, and whether a realm is told when its users leave."""

import pytest
from examples.raw_peers import GREET_ANONYMOUS, GREET_EXTENDED, GREET_LOGIN, login, pairs, proxy, request, target, until
from support.answers import SUCCESS, USER, portal, refusal, talk
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from zope.interface import implementer

from txsocksx_ext import RouteTable, SOCKS5ExtFactory, route_from_string
from txsocksx_ext.server.auth import ISOCKSUser, SOCKSUser, portal_for

PASSWORD = (b"PASSWD", b"secret")


# Methods.


@pytest.mark.parametrize(
    ("has_portal", "anonymous", "offered", "selected"),
    [
        (False, None, b"\x00", 0x00),
        (False, None, b"\x00\x02", 0x00),
        (False, None, b"\x02\x00", 0x00),
        (False, None, b"\x02", 0x02),
        (False, None, b"\x00\x02\x97", 0x97),
        (False, None, b"\x97\x02\x00", 0x97),
        (False, None, b"\x01\x09\x00", 0x00),
        (False, None, b"\x01\x09\x80", 0xFF),
        (False, False, b"\x00", 0xFF),
        (False, False, b"\x00\x02", 0x02),
        (True, None, b"\x00", 0xFF),
        (True, None, b"\x00\x02", 0x02),
        (True, None, b"\x00\x97", 0x97),
        (True, True, b"\x00", 0x00),
        (True, True, b"\x00\x02", 0x02),
        (True, True, b"\x02\x97\x00", 0x97),
        (False, None, b"\x00" * 255, 0x00),
        (False, None, bytes(range(255)), 0x97),
    ],
)
async def test_the_method_that_is_selected(has_portal, anonymous, offered, selected):
    options = {"portal": portal()} if has_portal else {}
    async with proxy(anonymous=anonymous, **options) as server:
        answer = await talk(server, bytes((5, len(offered))) + offered, 2)
        assert answer == bytes((5, selected))


class ByUser(SOCKS5ExtFactory):
    """Decides by the user, as an override may."""

    def route(self, session):
        return super().route(session)


class ByCredentials(SOCKS5ExtFactory):
    """Checks credentials by itself."""

    def authenticate(self, session):
        return None


@pytest.mark.parametrize(
    ("descriptions", "selected"),
    [
        (["direct"], 0x00),
        (["socks:127.0.0.1:9", "refuse"], 0x00),
        (["tor:127.0.0.1:9"], 0x02),
        (["direct", "tor:127.0.0.1:9"], 0x02),
        (["transport:obfs4:exec=obfs4proxy", "direct"], 0x02),
    ],
)
async def test_a_user_name_is_asked_for_where_a_route_does_something_with_it(descriptions, selected):
    routes = [route_from_string(reactor, each) for each in descriptions]
    table = RouteTable([("*.example", route) for route in routes[:-1]], routes[-1])
    async with proxy(policy=table) as server:
        assert await talk(server, b"\x05\x02\x00\x02", 2) == bytes((5, selected))


@pytest.mark.parametrize("factory", [ByUser, ByCredentials])
async def test_a_user_name_is_asked_for_where_an_override_may_read_it(factory):
    async with proxy(factory(reactor)) as server:
        assert await talk(server, b"\x05\x02\x00\x02", 2) == b"\x05\x02"


async def test_a_portal_that_comes_later_counts():
    async with proxy() as server:
        assert await talk(server, b"\x05\x02\x00\x02", 2) == b"\x05\x00"
        server.factory.portal = portal()
        assert await talk(server, b"\x05\x02\x00\x02", 2) == b"\x05\x02"


async def test_a_method_that_nobody_wants_ends_the_connection():
    async with proxy(portal=portal()) as server:
        assert await talk(server, GREET_ANONYMOUS + request("127.0.0.1", 80), None) == b"\x05\xff"


# Credentials.


@pytest.mark.parametrize(
    ("username", "password", "status"),
    [
        (b"alice", b"secret", 0),
        (b"alice", b"Secret", 1),
        (b"alice", b"", 1),
        (b"", b"secret", 1),
        (b"bob", b"secret", 1),
        (b"\xff\xfe", b"\x00", 1),
    ],
)
async def test_one_portal_checks_credentials_by_either_method(username, password, status):
    async with proxy(portal=portal()) as server:
        answer = await talk(server, GREET_LOGIN + login(username, password), None if status else 4)
        assert answer == b"\x05\x02" + bytes((1, status))
        items = pairs((b"USERNAME", username), (b"PASSWD", password))
        answer = await talk(server, GREET_EXTENDED + items, None if status else 6)
        assert answer == b"\x05\x97" + bytes((1, status, 0, 0))


@pytest.mark.parametrize("items", [[], [USER], [PASSWORD], [(b"tor.errors", b"304")]])
async def test_pairs_without_credentials_do_not_open_a_portal(items):
    async with proxy(portal=portal()) as server:
        assert await refusal(server, *items) == (1, {})


async def test_pairs_without_credentials_come_in_where_anonymous_clients_do():
    async with proxy(portal=portal(), anonymous=True) as server:
        assert await talk(server, GREET_EXTENDED + pairs(), 6) == b"\x05\x97" + SUCCESS
        # But who gives credentials is held to them.
        assert await refusal(server, USER, (b"PASSWD", b"wrong")) == (1, {})
        assert await talk(server, GREET_LOGIN + login(b"alice", b"wrong"), None) == b"\x05\x02\x01\x01"


@pytest.mark.parametrize(("username", "password"), [(b"", b""), (b"u", b""), (b"", b"p"), (b"\xff" * 255, b"\0" * 255)])
async def test_without_a_portal_any_credentials_are_taken(username, password):
    async with proxy() as server:
        assert await talk(server, GREET_LOGIN + login(username, password), 4) == b"\x05\x02\x01\x00"
        items = pairs((b"USERNAME", username), (b"PASSWD", password))
        assert await talk(server, GREET_EXTENDED + items, 6) == b"\x05\x97" + SUCCESS


async def test_credentials_in_pairs_may_be_longer_than_rfc_1929_can_carry():
    name, word = "n" * 300, "w" * 16000
    long = portal_for([InMemoryUsernamePasswordDatabaseDontUse(**{name: word})])
    async with proxy(portal=long) as server:
        items = pairs((b"USERNAME", name.encode()), (b"PASSWD", word.encode()))
        assert await talk(server, GREET_EXTENDED + items, 6) == b"\x05\x97" + SUCCESS


@implementer(IRealm)
class CountingRealm:
    """Counts who is in."""

    def __init__(self):
        self.inside = []

    def requestAvatar(self, avatarId, mind, *interfaces):
        self.inside.append(avatarId)
        return ISOCKSUser, SOCKSUser(avatarId), lambda: self.inside.remove(avatarId)


async def test_a_realm_is_told_when_its_user_leaves():
    realm = CountingRealm()
    checker = InMemoryUsernamePasswordDatabaseDontUse()
    checker.users = {b"alice": b"secret"}
    async with target() as far, proxy(portal=Portal(realm, [checker])) as server:
        client = await server.connect()
        client.send(GREET_LOGIN + login(b"alice", b"secret") + request("127.0.0.1", far.port))
        end = await far.accept()
        (session,) = server.factory.connections
        assert session.session.avatar.name == b"alice"
        assert realm.inside == [b"alice"]
        client.close()
        end.close()
        await end.lost()
    assert realm.inside == []


@pytest.mark.logs_errors
async def test_a_realm_that_fails_when_its_user_leaves_does_no_harm():
    class Faulty(CountingRealm):
        def requestAvatar(self, avatarId, mind, *interfaces):
            return ISOCKSUser, SOCKSUser(avatarId), lambda: 1 / 0

    checker = InMemoryUsernamePasswordDatabaseDontUse()
    checker.users = {b"alice": b"secret"}
    async with proxy(portal=Portal(Faulty(), [checker])) as server:
        assert await talk(server, GREET_LOGIN + login(b"alice", b"secret") + request("127.0.0.1", 0), None)
        server.peers[0].close()
        await until(lambda: not server.factory.connections)
