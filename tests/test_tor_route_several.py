"""The route through tor: a tor that is away, and several tors. They are scripted."""

from collections import Counter
from types import SimpleNamespace

from examples.raw_peers import GREET_ANONYMOUS, GREET_EXTENDED, ReactorWith, pairs, proxy, request
from support.answers import table
from support.fake_tor import FOUND, behind, codes, endless_echo, fake_tor, reply, same, saying, through
from support.programs import free_port
from twisted.internet import reactor
from twisted.internet.task import Clock

from txsocksx_ext import route_from_string
from txsocksx_ext.route.tor import TorRoute
from txsocksx_ext.tor.instance import PASSED_OVER_FOR, TorInstance
from txsocksx_ext.tor.isolation import IsolationTokens


async def test_a_tor_that_is_not_there_fails_at_once_and_is_used_when_it_comes():
    port = free_port()
    route = route_from_string(reactor, f"tor:127.0.0.1:{port}")
    async with proxy(policy=table(route)) as server:
        assert await codes(server) == same(1)
        async with fake_tor(endless_echo(), listen=f"tcp:{port}:interface=127.0.0.1"):
            assert await codes(server, "target.example") == same(0)


async def test_a_tor_that_ends_before_it_answers():
    async def answer(peer, host):
        peer.abort()

    async with behind(answer) as (_, server):
        assert await codes(server) == same(1)


class Tors:
    """Several tors, whose name they tell in the stream, and a route through them with a `Clock`."""

    def __init__(self, *tors):
        self.clock = Clock()
        self.tors = tors
        self.route = through(*tors, time=ReactorWith(clock=self.clock))

    async def who_serves(self, server, isolation=None):
        greeting, authentication = (
            (GREET_ANONYMOUS, b"") if isolation is None else (GREET_EXTENDED, pairs((b"tor.isolation", isolation)))
        )
        peer = await server.connect(greeting)
        await peer.read(2)
        if authentication:
            peer.send(authentication)
            await peer.read(4)
        peer.send(request("target.example", 80))
        code, _ = await peer.read_reply()
        assert code == 0
        return await peer.read(1)


def named(name):
    return endless_echo(FOUND + name)


async def test_a_dead_tor_is_passed_over_and_used_again():
    first_port = free_port()
    dead = SimpleNamespace(port=first_port)
    async with fake_tor(named(b"2")) as second:
        tors = Tors(dead, second)
        async with proxy(policy=table(tors.route)) as server:
            assert await tors.who_serves(server) == b"2"
            async with fake_tor(named(b"1"), listen=f"tcp:{first_port}:interface=127.0.0.1") as first:
                # It is there again, and for a while nobody looks.
                assert await tors.who_serves(server) == b"2"
                assert first.asked == []
                tors.clock.advance(PASSED_OVER_FOR)
                assert await tors.who_serves(server) == b"1"
            assert await tors.who_serves(server) == b"2"


async def test_a_tor_that_was_passed_over_is_asked_where_no_other_is_there():
    first_port = free_port()
    async with fake_tor(named(b"2")) as second:
        tors = Tors(SimpleNamespace(port=first_port), second)
        async with proxy(policy=table(tors.route)) as server:
            assert await tors.who_serves(server) == b"2"
            await second.stop_listening()
            assert await server.code("target.example", 80) == 1
            async with fake_tor(named(b"1"), listen=f"tcp:{first_port}:interface=127.0.0.1"):
                assert await tors.who_serves(server) == b"1"


async def test_a_tor_that_ends_before_it_answers_is_passed_over_too():
    async def end(peer, host):
        peer.abort()

    async with fake_tor(end) as first, fake_tor(named(b"2")) as second:
        tors = Tors(first, second)
        async with proxy(policy=table(tors.route)) as server:
            assert await server.code("target.example", 80) == 1
            assert await tors.who_serves(server) == b"2"


async def test_one_token_stays_with_one_tor_and_tokens_are_spread():
    async with fake_tor(named(b"1")) as first, fake_tor(named(b"2")) as second, fake_tor(named(b"3")) as third:
        tors = Tors(first, second, third)
        async with proxy(policy=table(tors.route)) as server:
            values = [b"%d" % number for number in range(60)]
            serves = {value: await tors.who_serves(server, value) for value in values}
            assert {value: await tors.who_serves(server, value) for value in values} == serves
            assert all(count >= 5 for count in Counter(serves.values()).values())
            assert len(set(serves.values())) == 3
            # One tor dies: only its own tokens move.
            await second.stop_listening()
            moved = {value: await tors.who_serves(server, value) for value in values}
            for value in values:
                if serves[value] == b"2":
                    assert moved[value] != b"2"
                else:
                    assert moved[value] == serves[value]


async def test_clients_without_a_token_take_the_first_that_is_there():
    async with fake_tor(named(b"1")) as first, fake_tor(named(b"2")) as second:
        tors = Tors(first, second)
        async with proxy(policy=table(tors.route)) as server:
            assert [await tors.who_serves(server) for _ in range(5)] == [b"1"] * 5


async def test_what_a_tor_says_of_a_target_is_not_asked_of_another():
    async with fake_tor(saying(reply(4))) as first, fake_tor(named(b"2")) as second:
        tors = Tors(first, second)
        async with proxy(policy=table(tors.route)) as server:
            assert await server.code("target.example", 80) == 4
    assert second.asked == []


async def test_a_tor_that_starts_says_so():
    route = TorRoute([TorInstance(reactor, None)], IsolationTokens())
    async with proxy(policy=table(route)) as server:
        assert await codes(server) == same(1)
