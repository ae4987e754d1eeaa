"""Name resolution for many clients: each has its share, and no name is asked for more often than it needs to be."""

import pytest
from examples.raw_peers import (
    GREET_ANONYMOUS,
    GREET_LOGIN,
    RESOLVE,
    ReactorWith,
    login,
    pause,
    proxy,
    proxy_header,
    request,
    target,
    until,
)
from support.silence import SlowNames

from txsocksx_ext import Limits

FLOOD = 100
"""Names of one client: more than a server asks for at once."""

AT_ONCE = 64
"""Look-ups that a server has in flight, at least."""

LIMITS = Limits(connect_timeout=4)


def server_with(names, seen_from="198.51.100.1"):
    """A proxy whose names a test answers, behind a balancer that says from where its clients come."""
    return proxy(reactor=ReactorWith(names=names), limits=LIMITS, seen_from=seen_from)


async def ask(server, name, peer, greeting=GREET_ANONYMOUS):
    """A client of some address that has asked for a name."""
    client = await server.connect(proxy_header(peer))
    client.send(greeting + request(name, 0, RESOLVE))
    return client


async def answer(server, name, peer, user=None):
    """The code of the reply that a client of some address has for a name."""
    client = await ask(server, name, peer, GREET_ANONYMOUS if user is None else GREET_LOGIN + login(user, b"x"))
    assert len(await client.read(2 if user is None else 4)) > 1
    code, _ = await client.read_reply()
    client.abort()
    await client.lost()
    return code


async def flood(server, names, peers, count=FLOOD):
    """Have clients of these addresses ask for silent names, and wait until the server has begun with them."""
    clients = [await ask(server, f"silent{number}.example", peers[number % len(peers)]) for number in range(count)]
    for client in clients:
        assert await client.read(2) == b"\x05\x00"
    await until(lambda: names.asked)
    return clients


# Shares.


@pytest.mark.parametrize(
    ("peers", "other"),
    [
        (["198.51.100.1"], "198.51.100.2"),
        ([f"2001:db8::{number}" for number in range(1, 30)], "2001:db8:0:1::1"),
        (["127.0.0.1"], "198.51.100.2"),
        (["198.51.100.1"], "127.0.0.1"),
    ],
    ids=["IPv4", "an IPv6 network of 64 bits", "loopback", "loopback is served"],
)
async def test_silent_names_of_one_peer_leave_others_their_look_ups(peers, other):
    names = SlowNames(known_example=["192.0.2.1"])
    async with server_with(names) as server:
        await flood(server, names, peers)
        assert await answer(server, "known.example", other) == 0
        names.give_up()


async def test_a_user_on_this_machine_has_a_share_besides_the_clients_without_a_user():
    names = SlowNames(known_example=["192.0.2.1"])
    async with server_with(names) as server:
        await flood(server, names, ["127.0.0.1"])
        assert await answer(server, "known.example", "127.0.0.1", user=b"alice") == 0
        names.give_up()


async def test_many_names_are_asked_for_at_once():
    names = SlowNames()
    async with server_with(names) as server:
        await flood(server, names, [f"198.51.100.{number}" for number in range(1, 33)], AT_ONCE)
        for _ in range(100):
            if len(names.asked) == AT_ONCE:
                break
            await pause(0.02)
        begun = len(names.asked)
        names.give_up()
    assert begun == AT_ONCE


async def test_look_ups_that_wait_are_dropped_where_the_connection_was_reset():
    names = SlowNames()
    async with server_with(names) as server:
        clients = await flood(server, names, ["198.51.100.1"])
        for client in clients:
            client.abort()
            await client.lost()
        await until(lambda: not server.factory.connections)
        begun = list(names.asked)
        assert len(begun) < FLOOD
        names.give_up()
        # The places are free now, and nobody waits for them.
        await pause(0.2)
        assert names.asked == begun


# Names that several clients ask for.


async def test_a_name_in_flight_is_asked_for_once_whoever_leaves_meanwhile():
    names = SlowNames()
    async with server_with(names) as server:
        clients = [await ask(server, "silent.example", f"198.51.100.{number}") for number in range(1, 11)]
        for client in clients:
            assert await client.read(2) == b"\x05\x00"
        clients[0].abort()
        await clients[0].lost()
        await until(lambda: len(server.factory.connections) == 9)
        names.give_up()
        for client in clients[1:]:
            code, _ = await client.read_reply()
            assert code == 4
    assert names.asked == ["silent.example"]


async def test_a_name_that_was_found_is_not_asked_for_again_soon():
    names = SlowNames(known_example=["127.0.0.1"])
    async with target() as far, server_with(names) as server:
        for _ in range(3):
            client = await server.connect(proxy_header("127.0.0.1"))
            code, _ = await client.ask("known.example", far.port)
            assert code == 0
        assert names.asked == ["known.example"]
        # Others must not learn from the time of an answer what somebody else has asked for.
        assert await answer(server, "known.example", "198.51.100.1") == 2
    assert names.asked == ["known.example"] * 2


async def test_a_name_that_was_not_found_is_not_asked_for_again_soon():
    names = SlowNames(nobody_example=[])
    async with server_with(names) as server:
        for _ in range(3):
            assert await answer(server, "nobody.example", "198.51.100.1") == 4
        assert names.asked == ["nobody.example"]
        assert await answer(server, "nobody.example", "198.51.100.2") == 4
    assert names.asked == ["nobody.example"] * 2


async def test_answers_are_kept_for_10_seconds_and_failures_for_2():
    names = SlowNames(known_example=["192.0.2.1"], nobody_example=[])
    async with server_with(names) as server:

        async def ask_both():
            assert await answer(server, "known.example", "198.51.100.1") == 0
            assert await answer(server, "nobody.example", "198.51.100.1") == 4

        await ask_both()
        await pause(2.5)
        await ask_both()
        assert names.asked == ["known.example", "nobody.example", "nobody.example"]
        await pause(8)
        await ask_both()
        assert names.asked[3:] == ["known.example", "nobody.example"]
