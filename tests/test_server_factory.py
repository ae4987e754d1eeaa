"""Who may come in and by which method, and what one override of the factory changes."""

import pytest
from examples.raw_peers import (
    CONNECT,
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    GREET_LOGIN,
    HeldRoute,
    login,
    pairs,
    proxy,
    request,
    target,
    until,
)
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.error import LoginDenied, UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from txsocksx_ext import RouteTable, SOCKS5ExtFactory
from txsocksx_ext.errors import (
    AuthenticationFailed,
    ConnectionNotAllowed,
    InvalidArguments,
    OnionClientAuthRequired,
    OnionServiceNotFound,
    TransportTemporaryFailure,
)
from txsocksx_ext.route.refuse import RefuseRoute
from txsocksx_ext.server.credentials import ISOCKSUser, SOCKSUser, portal_for
from txsocksx_ext.wire import codes
from txsocksx_ext.wire.codes import Method
from txsocksx_ext.wire.messages import UsernamePassword
from txsocksx_ext.wire.pairs import Pairs

USER = (b"USERNAME", b"alice")
PASSWORD = (b"PASSWD", b"secret")
SUCCESS = b"\x01\x00\x00\x00"
"""Method 97's answer without a pair."""


def portal():
    return portal_for([InMemoryUsernamePasswordDatabaseDontUse(alice="secret")])


async def talk(server, said, count):
    """The first `count` bytes that a client hears, or all of them if that is ``None``."""
    client = await server.connect()
    client.send(said)
    return await (client.read_to_end() if count is None else client.read(count))


def answered_pairs(answer):
    """The status and the pairs of method 97's answer."""
    assert answer[0] == 1
    found, rest = {}, answer[4:]
    for _ in range(int.from_bytes(answer[2:4], "big")):
        parts = []
        for _ in range(2):
            length = int.from_bytes(rest[:2], "big")
            parts.append(rest[2 : 2 + length])
            rest = rest[2 + length :]
        found[parts[0]] = parts[1]
    assert rest == b""
    return answer[1], found


async def refusal(server, *items):
    """The status and the pairs with which a server refuses some pairs; it closes after them."""
    answer = await talk(server, GREET_EXTENDED + pairs(*items) + request("192.0.2.1", 80), None)
    assert answer[:2] == b"\x05\x97"
    return answered_pairs(answer[2:])


# Methods.


@pytest.mark.parametrize(
    ("has_portal", "anonymous", "offered", "selected"),
    [
        (False, None, b"\x00", 0x00),
        (False, None, b"\x00\x02", 0x02),
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
        (session,) = server.factory.sessions
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
        await until(lambda: not server.factory.sessions)


# Pairs.


async def test_an_unknown_key_is_named_and_its_value_is_not():
    async with proxy() as server:
        status, answered = await refusal(server, USER, (b"tor.isolation", b"a secret value"))
        assert status == 2
        assert list(answered) == [b"ERROR"]
        assert b"tor.isolation" in answered[b"ERROR"]
        assert b"secret" not in answered[b"ERROR"]


async def test_an_unknown_key_that_is_optional_is_ignored():
    async with proxy() as server:
        items = pairs((b"?tor.isolation", b"a"), (b"?anything-At:all", b""), (b"??odd", b""), (b"?", b""))
        assert await talk(server, GREET_EXTENDED + items, 6) == b"\x05\x97" + SUCCESS


async def test_a_known_key_that_is_optional_counts():
    async with proxy(portal=portal()) as server:
        items = pairs((b"?USERNAME", b"alice"), (b"?PASSWD", b"secret"))
        assert await talk(server, GREET_EXTENDED + items, 6) == b"\x05\x97" + SUCCESS
        assert await refusal(server, (b"?USERNAME", b"alice"), (b"?PASSWD", b"wrong")) == (1, {})


@pytest.mark.parametrize(
    "items",
    [
        [USER, USER],
        [USER, (b"USERNAME", b"bob")],
        [USER, (b"?USERNAME", b"bob")],
        [(b"?USERNAME", b"bob"), USER],
        [(b"?odd", b"1"), (b"?odd", b"1")],
    ],
)
async def test_a_key_that_stands_twice_is_refused(items):
    async with proxy() as server:
        status, answered = await refusal(server, *items)
        assert (status, list(answered)) == (2, [b"ERROR"])


@pytest.mark.parametrize("key", [b"", b"a b", b"a\x00", b"\xc3\xa4", b"\x7f", b"a\n"])
async def test_a_key_that_is_none_is_refused(key):
    async with proxy() as server:
        status, answered = await refusal(server, (key, b""))
        assert (status, list(answered)) == (2, [b"ERROR"])


@pytest.mark.parametrize("key", [b"username", b"Username", b"USERNAME.", b"tor.Errors"])
async def test_keys_are_compared_byte_for_byte(key):
    async with proxy() as server:
        assert (await refusal(server, (key, b"none")))[0] == 2


class KeyRoute(HeldRoute):
    keys = frozenset({"my.key", "pt."})


@pytest.mark.parametrize(
    ("key", "status"),
    [(b"my.key", 0), (b"my.other", 2), (b"pt.cert", 0), (b"pt.iat-mode", 0), (b"pt", 2), (b"PT.cert", 2), (b"own", 0)],
)
async def test_keys_of_routes_and_of_an_authenticate_of_ones_own_are_known(key, status):
    class Mine(SOCKS5ExtFactory):
        keys = frozenset({"own"})

    # The key is known wherever its route stands in the table.
    table = RouteTable([("elsewhere.example", KeyRoute())], HeldRoute())
    async with proxy(Mine(reactor, routes=table)) as server:
        answer = await talk(server, GREET_EXTENDED + pairs((key, b"v")), 4)
        assert answer == b"\x05\x97" + bytes((1, status))


@pytest.mark.parametrize(
    ("key", "host", "reaches_a_route"),
    [
        (b"my.key", "elsewhere.example", True),
        (b"?my.key", "elsewhere.example", True),
        (b"my.key", "somewhere.example", False),
        (b"?my.key", "somewhere.example", True),
        (b"pt.cert", "somewhere.example", False),
        # These are the server's own business.
        (b"USERNAME", "somewhere.example", True),
        (b"tor.errors", "somewhere.example", True),
    ],
)
async def test_a_way_that_cannot_honour_a_key_is_not_taken(key, host, reaches_a_route):
    refusal = Failing(OnionServiceNotFound())
    knowing = Failing(OnionServiceNotFound())
    knowing.keys = KeyRoute.keys
    table = RouteTable([("elsewhere.example", knowing)], refusal)
    async with proxy(routes=table) as server:
        said = GREET_EXTENDED + pairs((key, b"304" if b"errors" in key else b"v")) + request(host, 80)
        assert (await talk(server, said, None))[-9] == (0xE0 if reaches_a_route else 2)


class Failing:
    name = "failing"

    def __init__(self, error):
        self._error = error

    def connect(self, request, session):
        raise self._error


@pytest.mark.parametrize(
    ("wanted", "error", "code"),
    [
        (None, OnionServiceNotFound(), 0xE0),
        (None, OnionClientAuthRequired(), 0xE1),
        (None, TransportTemporaryFailure(), 0xF0),
        (b"229", OnionServiceNotFound(), 0xE0),
        (b"229", OnionClientAuthRequired(), 0xE1),
        (b"229", TransportTemporaryFailure(), 0xF0),
        (b"304", OnionServiceNotFound(), 0xE0),
        (b"304", OnionClientAuthRequired(), 0xF4),
        (b"304", TransportTemporaryFailure(), 0x01),
        (b"none", OnionServiceNotFound(), 0x04),
        (b"none", OnionClientAuthRequired(), 0x01),
        (b"none", TransportTemporaryFailure(), 0x01),
    ],
)
async def test_tor_errors_chooses_the_codes_and_is_confirmed(wanted, error, code):
    items = [] if wanted is None else [(b"tor.errors", wanted)]
    async with proxy(routes=RouteTable((), Failing(error))) as server:
        answer = await talk(server, GREET_EXTENDED + pairs(*items) + request("192.0.2.1", 80), None)
        assert answer[:2] == b"\x05\x97"
        assert answered_pairs(answer[2:-10]) == (0, dict(items))
        assert answer[-10:-8] == bytes((5, code))


@pytest.mark.parametrize("wanted", [b"", b"305", b"None", b"304 "])
async def test_other_values_of_tor_errors_are_refused(wanted):
    async with proxy() as server:
        status, answered = await refusal(server, (b"tor.errors", wanted))
        assert status == 2
        assert b"tor.errors" in answered[b"ERROR"]


@pytest.mark.parametrize(
    ("offered", "code"), [(b"\x05\x02\x02\x97", 0xE0), (b"\x05\x01\x02", 0x04), (b"\x05\x01\x00", 0x04)]
)
async def test_extended_codes_go_to_those_alone_who_offered_method_97(offered, code):
    class NoPairs(SOCKS5ExtFactory):
        def methods(self, session):
            return [Method.USERNAME_PASSWORD, Method.NO_AUTHENTICATION]

    said = offered + (login(b"u", b"p") if b"\x02" in offered[2:] else b"") + request("192.0.2.1", 80)
    async with proxy(NoPairs(reactor, routes=RouteTable((), Failing(OnionServiceNotFound())))) as server:
        assert (await talk(server, said, None))[-10:-8] == bytes((5, code))


# Overrides.


class Deciding(SOCKS5ExtFactory):
    """A server whose `authenticate` is the test's."""

    def __init__(self, decision, **options):
        super().__init__(reactor, **options)
        self._decision = decision
        self.seen = []

    def authenticate(self, session):
        self.seen.append((session.method, session.credentials, dict(session.pairs)))
        return self._decision(session)


def later(value):
    return deferLater(reactor, 0, lambda: value)


async def in_a_coroutine(value):
    return await later(value)


@pytest.mark.parametrize(
    "decision",
    [
        lambda session: {"my.ticket": b"42"},
        lambda session: Pairs({"my.ticket": "42"}),
        lambda session: [("my.ticket", b"42")],
        lambda session: later({"my.ticket": b"42"}),
        lambda session: in_a_coroutine({"my.ticket": "42"}),
    ],
    ids=["a dict", "Pairs", "a list", "a Deferred", "a coroutine"],
)
async def test_an_authenticate_may_answer_with_pairs(decision):
    async with proxy(Deciding(decision)) as server:
        answer = await talk(server, GREET_EXTENDED + pairs(USER), 2 + 4 + 2 + 9 + 2 + 2)
        assert answered_pairs(answer[2:]) == (0, {b"my.ticket": b"42"})
        # RFC 1929 has no place for them.
        assert await talk(server, GREET_LOGIN + login(b"u", b"p"), 4) == b"\x05\x02\x01\x00"
        assert await talk(server, GREET_ANONYMOUS, 2) == b"\x05\x00"


async def test_an_authenticate_may_confirm_another_choice_of_codes():
    async with proxy(Deciding(lambda session: {"tor.errors": "none"})) as server:
        answer = await talk(server, GREET_EXTENDED + pairs((b"tor.errors", b"304")), 2 + 4 + 2 + 10 + 2 + 4)
        assert answered_pairs(answer[2:]) == (0, {b"tor.errors": b"none"})


async def test_an_authenticate_sees_what_the_client_gave():
    factory = Deciding(lambda session: None)
    async with proxy(factory) as server:
        await talk(server, GREET_ANONYMOUS, 2)
        await talk(server, GREET_LOGIN + login(b"alice", b"secret"), 4)
        await talk(server, GREET_EXTENDED + pairs(USER, (b"?tor.errors", b"229"), (b"?odd", b"")), 4)
    anonymous, by_login, by_pairs = factory.seen
    assert anonymous == (Method.NO_AUTHENTICATION, None, {})
    assert by_login == (Method.USERNAME_PASSWORD, UsernamePassword(b"alice", b"secret"), {})
    assert by_pairs[0] == Method.EXTENDED
    assert (by_pairs[1].username, by_pairs[1].password) == (b"alice", b"")
    assert by_pairs[2] == {"USERNAME": b"alice", "tor.errors": b"229"}


def raising(error):
    def decide(session):
        raise error

    return decide


def failing_later(error):
    def decide(session):
        return later(None).addCallback(lambda _: raising(error)(session))

    return decide


@pytest.mark.parametrize("how", [raising, failing_later])
@pytest.mark.parametrize(
    ("error", "status", "answered"),
    [
        (AuthenticationFailed(), 1, {}),
        (AuthenticationFailed(pairs=Pairs({"my.hint": "ask"})), 1, {b"my.hint": b"ask"}),
        (UnauthorizedLogin(), 1, {}),
        (LoginDenied(), 1, {}),
        (ConnectionNotAllowed(), 1, {}),
        (InvalidArguments("my.key is missing"), 2, {b"ERROR": b"my.key is missing"}),
        (
            InvalidArguments("odd: \xe4", pairs=Pairs({"my.hint": "ask"})),
            2,
            {b"my.hint": b"ask", b"ERROR": b"odd: ?"},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_a_refusal_by_authenticate_in_each_method(how, error, status, answered):
    async with proxy(Deciding(how(error))) as server:
        assert await refusal(server) == (status, answered)
        assert await talk(server, GREET_LOGIN + login(b"u", b"p"), None) == b"\x05\x02" + bytes((1, status))
        # Method 00 leaves no other place to say it.
        assert await talk(server, GREET_ANONYMOUS + request("192.0.2.1", 80), None) == b"\x05\xff"


@pytest.mark.logs_errors
async def test_a_fault_in_an_authenticate_lets_nobody_in():
    async with proxy(Deciding(raising(ZeroDivisionError()))) as server:
        assert await refusal(server) == (1, {})
        assert await talk(server, GREET_LOGIN + login(b"u", b"p"), None) == b"\x05\x02\x01\x01"
        assert await talk(server, GREET_ANONYMOUS, None) == b"\x05\xff"


@pytest.mark.logs_errors
@pytest.mark.parametrize("answer", [7, {"k": 7}, {"": b""}, "text"])
async def test_an_authenticate_that_answers_nonsense_ends_the_connection(answer):
    async with proxy(Deciding(lambda session: answer)) as server:
        client = await server.connect()
        client.send(GREET_EXTENDED + pairs() + request("192.0.2.1", 80))
        assert await client.read_to_end() in (b"", b"\x05\x97")
        await client.lost()


@pytest.mark.parametrize("kind", ["a route", "a Deferred", "a coroutine"])
async def test_a_route_of_ones_own(kind):
    class Mine(SOCKS5ExtFactory):
        def route(self, session):
            route = RefuseRoute() if session.request.destination.port == 25 else super().route(session)
            return {"a route": lambda r: r, "a Deferred": later, "a coroutine": in_a_coroutine}[kind](route)

    async with target() as far, proxy(Mine(reactor)) as server:
        assert await server.code("127.0.0.1", 25) == 2
        assert await server.code("127.0.0.1", far.port) == 0


@pytest.mark.parametrize("how", [raising, failing_later])
async def test_a_route_that_is_refused_by_an_exception(how):
    class Mine(SOCKS5ExtFactory):
        def route(self, session):
            return how(ConnectionNotAllowed())(session)

    async with proxy(Mine(reactor)) as server:
        assert await server.code("127.0.0.1", 80) == 2


@pytest.mark.logs_errors
async def test_a_fault_in_a_route_is_a_general_failure():
    class Mine(SOCKS5ExtFactory):
        def route(self, session):
            return None

    async with proxy(Mine(reactor)) as server:
        assert await server.code("127.0.0.1", 80) == 1


class AsyncRoute:
    """A plain class whose ``connect`` is a coroutine."""

    def __init__(self, error):
        self._error = error

    async def connect(self, request, session):
        await later(None)
        raise self._error


async def test_a_route_whose_connect_is_a_coroutine():
    async with proxy(routes=RouteTable((), AsyncRoute(ConnectionNotAllowed()))) as server:
        assert await server.code("192.0.2.1", 80) == 2


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (codes.TTL_EXPIRED, 6),
        (6, 6),
        (0xE0, 4),
        (codes.ONION_SERVICE_NOT_FOUND, 4),
        (0x55, 1),
        (0x1FF, 1),
    ],
)
async def test_a_reply_of_ones_own_passes_the_gate(said, code):
    class Mine(SOCKS5ExtFactory):
        def reply_for(self, failure, session):
            assert failure.check(ConnectionNotAllowed)
            return said

    async with proxy(Mine(reactor, routes=RouteTable((), RefuseRoute()))) as server:
        assert await server.code("192.0.2.1", 80) == code


@pytest.mark.logs_errors
async def test_a_fault_in_reply_for_is_a_general_failure():
    class Mine(SOCKS5ExtFactory):
        def reply_for(self, failure, session):
            raise ZeroDivisionError

    async with proxy(Mine(reactor, routes=RouteTable((), RefuseRoute()))) as server:
        assert await server.code("192.0.2.1", 80, CONNECT) == 1


async def test_no_reply_of_ones_own_makes_a_success_of_a_failure():
    class Mine(SOCKS5ExtFactory):
        def reply_for(self, failure, session):
            return 0

    async with proxy(Mine(reactor, routes=RouteTable((), RefuseRoute()))) as server:
        assert await server.code("192.0.2.1", 80) == 1


async def test_methods_of_ones_own():
    class Mine(SOCKS5ExtFactory):
        def methods(self, session):
            return [Method.NO_AUTHENTICATION] if session.is_local else []

    async with proxy(Mine(reactor)) as server:
        assert await talk(server, b"\x05\x03\x97\x02\x00", 2) == b"\x05\x00"
    async with proxy(Mine(reactor), seen_from="192.0.2.1") as server:
        assert await talk(server, b"\x05\x03\x97\x02\x00", None) == b"\x05\xff"


async def test_a_decision_that_never_comes_is_not_needed_to_build_the_next_connection():
    undecided = Deferred()
    async with proxy(Deciding(lambda session: undecided if session.credentials else None)) as server:
        waiting = await server.connect()
        waiting.send(GREET_LOGIN + login(b"u", b"p"))
        assert await waiting.read(2) == b"\x05\x02"
        assert await talk(server, GREET_ANONYMOUS, 2) == b"\x05\x00"
        assert waiting.unread == b""
