"""Rules that a running server is given: they count from then on, with the keys of their routes."""

from examples.raw_peers import GREET_ANONYMOUS, GREET_EXTENDED, HeldRoute, pairs, proxy, request, target
from support.answers import SUCCESS, refusal, reply, talk
from twisted.internet import reactor

from txsocksx_ext import RouteTable, SOCKS5ExtFactory, route_from_string


class RouteWithKeys(HeldRoute):
    def __init__(self, *keys):
        super().__init__()
        self.keys = frozenset(keys)


async def test_the_keys_of_routes_that_come_later_are_known_and_those_before_are_not():
    factory = SOCKS5ExtFactory(reactor)
    async with proxy(factory) as server:
        factory.policy = RouteTable([("*.example", RouteWithKeys("my.key"))], RouteWithKeys("my.other"))
        for key in (b"my.key", b"my.other"):
            assert await talk(server, GREET_EXTENDED + pairs((key, b"x")), 6) == b"\x05\x97" + SUCCESS
        factory.policy = RouteTable([], RouteWithKeys("my.other"))
        status, answered = await refusal(server, (b"my.key", b"x"))
        assert status == 2
        assert b"my.key" in answered[b"ERROR"]


async def test_rules_that_come_later_decide_about_new_connections():
    factory = SOCKS5ExtFactory(reactor)
    async with target() as far, proxy(factory) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS)
        assert await client.read(2) == b"\x05\x00"
        factory.policy = RouteTable([], route_from_string(reactor, "refuse"))
        assert await server.code("127.0.0.1", far.port) == 2
        # A connection keeps the rules by which its keys were accepted.
        client.send(request("127.0.0.1", far.port))
        assert (await client.read(10))[:2] == reply(0)[:2]
