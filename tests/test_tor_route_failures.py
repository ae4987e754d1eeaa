"""The route through tor without a control port: what clients hear of what a scripted tor says, or does not say."""

import pytest
from examples.raw_peers import GREET_ANONYMOUS, GREET_LOGIN, RESOLVE, ReactorWith, login, proxy, request, until
from support.answers import table
from support.fake_tor import (
    DOUBT,
    FOUND,
    GREETINGS,
    ONION,
    SHORT,
    ZEROS,
    ZEROS_IPV6,
    behind,
    codes,
    endless_echo,
    fake_tor,
    hear,
    heard_as,
    reply,
    same,
    saying,
    silent,
    through,
)
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from txsocksx_ext import route_from_string

# Failures without a control port: what tor says decides.


RFC_1928 = {code: same(code) for code in range(1, 9)}
EXTENDED_ERRORS = {
    0xF0: heard_as(4, 0xE0, 0xF0),
    0xF1: heard_as(4, 0xE1, 0xF1),
    0xF2: heard_as(4, 0xE1, 0xF2),
    0xF3: heard_as(6, 0xE1, 0xF3),
    0xF4: heard_as(1, 0xE1, 0xF4),
    0xF5: heard_as(1, 0xE1, 0xF5),
    0xF6: heard_as(1, 0xE0, 0xF6),
    0xF7: heard_as(4, 0xE1, 0xF7),
}
NO_CODES_OF_TORS = {code: same(1) for code in (0x09, 0x5A, 0xF8, 0xFF)}


async def test_every_code_of_a_port_with_extended_errors():
    async with behind(silent) as (tor, server):
        for code, expected in {**RFC_1928, **EXTENDED_ERRORS, **NO_CODES_OF_TORS}.items():
            tor.answer = saying(reply(code))
            assert await codes(server) == expected, f"{code:02X}"


async def test_every_code_of_a_plain_port():
    async with behind(silent) as (tor, server):
        for code, expected in {**RFC_1928, **NO_CODES_OF_TORS}.items():
            tor.answer = saying(reply(code, ZEROS_IPV6))
            assert await codes(server) == expected, f"{code:02X}"


async def test_a_time_out_of_another_target_is_not_an_onion_services():
    async with behind(saying(reply(6))) as (_, server):
        assert await codes(server, "target.example") == same(6)


async def test_a_login_that_tor_refuses():
    async with behind(silent) as (tor, server):
        # As tor does with names of a format that it does not know.
        tor.answer_to_login = b"\x05\x01" + ZEROS
        peer = await server.connect(GREET_LOGIN)
        await peer.read(2)
        peer.send(login(b"alice", b"word"))
        await peer.read(2)
        peer.send(request(ONION, 80))
        assert (await peer.read_reply())[0] == 1
    assert tor.asked == []


# F0 and connected: an ExtendedErrors port can say that it failed when it did not.


@pytest.mark.parametrize("rest", [ZEROS, ZEROS_IPV6])
@pytest.mark.parametrize("length", [2, 4, 9, 10, 22])
async def test_f0_and_the_end_is_a_failure_however_much_of_it_came(rest, length):
    async with behind(saying(reply(0xF0, rest)[:length])) as (_, server):
        assert await codes(server) == heard_as(4, 0xE0, 0xF0)


@pytest.mark.parametrize("rest", [ZEROS, ZEROS_IPV6])
async def test_f0_without_an_end_is_a_stream(rest):
    clock = Clock()
    async with fake_tor(endless_echo(reply(0xF0, rest))) as tor:
        route = through(tor, time=ReactorWith(clock=clock))
        async with proxy(policy=table(route)) as server:
            for client in GREETINGS:
                hearing = Deferred.fromCoroutine(hear(server, client))
                await until(clock.getDelayedCalls)
                assert not hearing.called
                clock.advance(DOUBT)
                peer, code = await hearing
                assert code == 0
                peer.send(b"hello")
                assert await peer.read(5) == b"hello"


async def test_data_after_f0_is_the_streams_and_ends_the_doubt():
    clock = Clock()
    async with fake_tor(endless_echo(reply(0xF0) + b"220 hello")) as tor:
        route = through(tor, time=ReactorWith(clock=clock))
        async with proxy(policy=table(route)) as server:
            peer, code = await hear(server, "97")
            assert code == 0
            assert await peer.read(9) == b"220 hello"
            peer.send(b"and back")
            assert await peer.read(8) == b"and back"
        assert not clock.getDelayedCalls()


async def test_data_and_the_end_after_f0_are_the_streams_too():
    async with behind(saying(reply(0xF0) + b"a whole answer")) as (_, server):
        peer, code = await hear(server, "97")
        assert code == 0
        assert await peer.read_to_end() == b"a whole answer"


@pytest.mark.parametrize("length", [2, 4, 9])
async def test_a_part_of_f0_without_an_end_is_no_stream(length):
    clock = Clock()
    async with fake_tor(saying(reply(0xF0)[:length], closes=False)) as tor:
        route = through(tor, time=ReactorWith(clock=clock))
        async with proxy(policy=table(route)) as server:
            hearing = Deferred.fromCoroutine(hear(server, "97"))
            for connections in (1, 2):
                await until(lambda count=connections: len(tor.connections) == count and clock.getDelayedCalls())
                clock.advance(DOUBT)
            assert (await hearing)[1] == 0xE0
        for each in tor.connections:
            await each.lost()


async def test_f0_after_which_the_client_leaves():
    clock = Clock()
    async with fake_tor(endless_echo(reply(0xF0))) as tor:
        route = through(tor, time=ReactorWith(clock=clock))
        async with proxy(policy=table(route)) as server:
            peer = await server.connect(GREET_ANONYMOUS)
            await peer.read(2)
            peer.send(request(ONION, 80))
            await until(clock.getDelayedCalls)
            peer.abort()
            await tor.connections[0].lost()
        assert not clock.getDelayedCalls()


@pytest.mark.parametrize("code", range(0xF1, 0xF8))
async def test_other_codes_are_believed_at_once(code):
    clock = Clock()
    async with fake_tor(saying(reply(code), closes=False)) as tor:
        route = through(tor, time=ReactorWith(clock=clock))
        async with proxy(policy=table(route)) as server:
            assert (await hear(server, "304"))[1] == code


# F0 is what the first directory said, and stays whatever follows: asked again, tor comes to its real answer.


def in_turn(*replies):
    """Answers: each to one connection, and the last to all that follow."""
    said = list(replies)

    async def answer(peer, host):
        data = said.pop(0) if len(said) > 1 else said[0]
        peer.send(data)
        if data[1]:
            peer.close()

    return answer


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (0x05, same(0x05)),
        (0x01, same(0x01)),
        (0x06, same(0x06)),
        (0xF2, heard_as(4, 0xE1, 0xF2)),
        (0xF4, heard_as(1, 0xE1, 0xF4)),
    ],
)
async def test_not_found_is_not_claimed_of_a_service_that_tor_has_found(second, expected):
    async with behind(silent) as (tor, server):
        for client in GREETINGS:
            tor.answer = in_turn(reply(0xF0), reply(second))
            assert (await hear(server, client))[1] == expected[client]
    assert tor.asked == [ONION] * 2 * len(GREETINGS)


async def test_a_service_that_closes_at_once_is_connected_when_it_is_asked_again():
    async with behind(in_turn(reply(0xF0), FOUND + b"220 hello")) as (_, server):
        peer, code = await hear(server, "97")
        assert code == 0
        assert await peer.read(9) == b"220 hello"


@pytest.mark.parametrize("second", [0xF0, 0x04])
async def test_not_found_is_claimed_where_tor_finds_nothing_the_second_time(second):
    """04: tor does not ask the same directories again so soon."""
    async with behind(silent) as (tor, server):
        for client, expected in heard_as(4, 0xE0, 0xF0).items():
            tor.answer = in_turn(reply(0xF0), reply(second))
            assert (await hear(server, client))[1] == expected


async def test_a_tor_that_is_gone_the_second_time_proves_nothing():
    async def answer(peer, host):
        if len(tor.asked) == 1:
            peer.send(reply(0xF0))
            peer.close()
        else:
            peer.abort()

    async with behind(answer) as (tor, server):
        assert (await hear(server, "97"))[1] == 1


async def test_the_second_question_has_the_same_token():
    async with behind(in_turn(reply(0xF0), reply(0x04))) as (tor, server):
        peer = await server.connect(GREET_LOGIN)
        await peer.read(2)
        peer.send(login(b"alice", b"word"))
        await peer.read(2)
        peer.send(request(ONION, 80))
        assert (await peer.read_reply())[0] == 4
    first, second = tor.tokens
    assert first is not None
    assert first == second


async def test_what_was_said_of_the_flag_does_not_matter():
    for told in ("yes", "no"):
        async with fake_tor(in_turn(reply(0xF0), reply(0x05), reply(0xF2))) as tor:
            route = route_from_string(reactor, f"tor:127.0.0.1:{tor.port}:extended={told}")
            async with proxy(policy=table(route)) as server:
                assert (await hear(server, "97"))[1] == 5
                assert (await hear(server, "304"))[1] == 0xF2


# The end of the time.


async def test_a_port_that_never_answers_leaves_it_at_06():
    """Tor may not have bootstrapped: then nobody was asked about the service."""
    async with behind(silent, seconds=SHORT) as (tor, server):
        assert await codes(server) == same(6)
        for each in tor.connections:
            await each.lost()


async def test_nothing_is_said_of_a_service_that_tor_was_not_asked_for():
    async with behind(silent, seconds=SHORT) as (tor, server):
        tor.is_stopped = True
        assert await codes(server) == same(6)
        for each in tor.connections:
            await each.lost()


async def test_look_ups_have_the_same_time():
    async with behind(silent, seconds=SHORT) as (_, server):
        assert await server.code("missing.test", 0, RESOLVE) == 6
