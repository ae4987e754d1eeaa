"""The route through tor without a control port: what clients hear of what a scripted tor says, or does not say."""

import pytest
from examples.raw_peers import GREET_ANONYMOUS, GREET_LOGIN, RESOLVE, ReactorWith, login, proxy, request, until
from support.answers import table
from support.fake_tor import (
    DOUBT,
    FOUND,
    GREETINGS,
    ONION,
    PROBE,
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

from txsocksx_ext import Limits, route_from_string

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
    async with behind(silent, extended=True) as (tor, server):
        for code, expected in {**RFC_1928, **EXTENDED_ERRORS, **NO_CODES_OF_TORS}.items():
            if code == 6:
                # Tor waited in vain for a service that it may have found.
                expected = heard_as(6, 0xE1, 0xE1)
            tor.answer = saying(reply(code))
            assert await codes(server) == expected, f"{code:02X}"


async def test_every_code_of_a_plain_port():
    async with behind(silent, extended=False) as (tor, server):
        for code, expected in {**RFC_1928, **NO_CODES_OF_TORS}.items():
            tor.answer = saying(reply(code, ZEROS_IPV6))
            assert await codes(server) == expected, f"{code:02X}"


async def test_a_time_out_of_another_target_is_not_an_onion_services():
    async with behind(saying(reply(6)), extended=True) as (_, server):
        assert await codes(server, "target.example") == same(6)


async def test_a_login_that_tor_refuses():
    async with behind(silent, extended=True) as (tor, server):
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
    async with behind(saying(reply(0xF0, rest)[:length]), extended=True) as (_, server):
        assert await codes(server) == heard_as(4, 0xE0, 0xF0)


@pytest.mark.parametrize("rest", [ZEROS, ZEROS_IPV6])
async def test_f0_without_an_end_is_a_stream(rest):
    clock = Clock()
    async with fake_tor(endless_echo(reply(0xF0, rest))) as tor:
        route = through(tor, extended=True, time=ReactorWith(clock=clock))
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
        route = through(tor, extended=True, time=ReactorWith(clock=clock))
        async with proxy(policy=table(route)) as server:
            peer, code = await hear(server, "97")
            assert code == 0
            assert await peer.read(9) == b"220 hello"
            peer.send(b"and back")
            assert await peer.read(8) == b"and back"
        assert not clock.getDelayedCalls()


async def test_data_and_the_end_after_f0_are_the_streams_too():
    async with behind(saying(reply(0xF0) + b"a whole answer"), extended=True) as (_, server):
        peer, code = await hear(server, "97")
        assert code == 0
        assert await peer.read_to_end() == b"a whole answer"


@pytest.mark.parametrize("length", [2, 4, 9])
async def test_a_part_of_f0_without_an_end_is_no_stream(length):
    clock = Clock()
    async with fake_tor(saying(reply(0xF0)[:length], closes=False)) as tor:
        route = through(tor, extended=True, time=ReactorWith(clock=clock))
        async with proxy(policy=table(route)) as server:
            hearing = Deferred.fromCoroutine(hear(server, "97"))
            await until(clock.getDelayedCalls)
            clock.advance(DOUBT)
            assert (await hearing)[1] == 0xE0
        await tor.connections[0].lost()


async def test_f0_after_which_the_client_leaves():
    clock = Clock()
    async with fake_tor(endless_echo(reply(0xF0))) as tor:
        route = through(tor, extended=True, time=ReactorWith(clock=clock))
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
        route = through(tor, extended=True, time=ReactorWith(clock=clock))
        async with proxy(policy=table(route)) as server:
            assert (await hear(server, "304"))[1] == code


# The end of the time.


async def test_a_plain_port_that_never_answers_leaves_it_at_06():
    async with behind(silent, extended=False, seconds=SHORT) as (tor, server):
        assert await codes(server) == same(6)
        for each in tor.connections:
            await each.lost()


async def test_a_port_with_extended_errors_that_never_answers():
    async with behind(silent, extended=True, seconds=SHORT) as (_, server):
        assert await codes(server) == heard_as(6, 0xE1, 0xE1)
        assert await codes(server, "target.example") == same(6)


async def test_nothing_is_said_of_a_service_that_tor_was_not_asked_for():
    async with behind(silent, extended=True, seconds=SHORT) as (tor, server):
        tor.is_stopped = True
        assert await codes(server) == same(6)
        for each in tor.connections:
            await each.lost()


async def test_look_ups_have_the_same_time():
    async with behind(silent, extended=True, seconds=SHORT) as (_, server):
        assert await server.code("missing.test", 0, RESOLVE) == 6


# Whether a port has ExtendedErrors is found out, unless it was told.


@pytest.mark.parametrize(("says", "expected"), [(0xF6, heard_as(6, 0xE1, 0xE1)), (0x01, same(6))])
async def test_it_is_found_out_once(says, expected):
    async def answer(peer, host):
        if host == PROBE:
            await saying(reply(says))(peer, host)

    async with fake_tor(answer) as tor:
        route = route_from_string(reactor, f"tor:127.0.0.1:{tor.port}")
        async with proxy(policy=table(route), limits=Limits(connect_timeout=SHORT)) as server:
            assert await codes(server) == expected
            assert await codes(server, "target.example") == same(6)
        assert tor.asked.count(PROBE) == 1


async def test_what_cannot_be_found_out_is_asked_again():
    async def answer(peer, host):
        if host != PROBE:
            peer.send(FOUND)
        elif tor.asked.count(PROBE) == 1:
            peer.abort()
        else:
            await saying(reply(0xF6))(peer, host)

    async with behind(answer, seconds=SHORT) as (tor, server):
        while tor.asked.count(PROBE) < 2:
            assert await server.code(ONION, 80) == 0
        tor.answer = silent
        assert await codes(server) == heard_as(6, 0xE1, 0xE1)
        assert tor.asked.count(PROBE) == 2


@pytest.mark.parametrize(("told", "expected"), [("yes", 0xE1), ("no", 6)])
async def test_what_was_told_is_not_asked(told, expected):
    async with fake_tor(silent) as tor:
        route = route_from_string(reactor, f"tor:127.0.0.1:{tor.port}:extended={told}")
        async with proxy(policy=table(route), limits=Limits(connect_timeout=SHORT)) as server:
            assert (await hear(server, "97"))[1] == expected
        assert tor.asked == [ONION]


async def test_something_that_connects_what_cannot_be_is_not_kept_open():
    async with behind(endless_echo(), seconds=SHORT) as (tor, server):
        assert await server.code(ONION, 80) == 0
        await until(lambda: PROBE in tor.asked)
        await tor.connections[tor.asked.index(PROBE)].lost()
        tor.answer = silent
        assert await codes(server) == same(6)


async def test_other_targets_are_no_reason_to_ask():
    async with behind(endless_echo()) as (tor, server):
        assert await server.code("target.example", 80) == 0
    assert tor.asked == ["target.example"]
