"""The pairs of a server's clients: which keys are known and honoured, and which codes they choose."""

import pytest
from examples.raw_peers import GREET_EXTENDED, HeldRoute, login, pairs, proxy, request
from support.answers import SUCCESS, USER, answered_pairs, portal, refusal, talk
from twisted.internet import reactor

from txsocksx_ext import RouteTable, SOCKS5ExtFactory
from txsocksx_ext.errors import OnionClientAuthRequired, OnionServiceNotFound, TransportTemporaryFailure
from txsocksx_ext.protocol.codes import Method


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
    async with proxy(Mine(reactor, policy=table)) as server:
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
    async with proxy(policy=table) as server:
        said = GREET_EXTENDED + pairs((key, b"304" if b"errors" in key else b"v")) + request(host, 80)
        assert (await talk(server, said, None))[-9] == (0xE0 if reaches_a_route else 2)


class Failing:
    name = "failing"

    def __init__(self, error):
        self._error = error

    def connect(self, request, addresses, session):
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
    async with proxy(policy=RouteTable((), Failing(error))) as server:
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
    async with proxy(NoPairs(reactor, policy=RouteTable((), Failing(OnionServiceNotFound())))) as server:
        assert (await talk(server, said, None))[-10:-8] == bytes((5, code))
