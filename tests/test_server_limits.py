"""How much a server takes, and how long it waits: what a client announces, sends, or never says."""

import contextlib
import math
import resource
import socket
import time
from dataclasses import fields

import pytest
from examples.raw_peers import (
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    HeldRoute,
    descriptors_at_rest,
    dial,
    pairs,
    proxy,
    proxy_header,
    request,
    settles,
    target,
    until,
)
from support.reactors import connections_read_from
from support.targets import Target, echo, read_exactly, read_to_end

from txsocksx_ext import Limits, RouteTable
from txsocksx_ext.protocol.pairs import PairLimits
from txsocksx_ext.server.limits import connections_by_descriptors

MEGABYTE = 1 << 20
REFUSED = b"\x05\x97" + b"\x01\x02\x00\x01" + b"\x00\x05ERROR"
"""The selection of method 97, and the beginning of an answer that says what is wrong with the pairs."""


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def assert_others_are_served(server, far):
    with dial(server.port, "127.0.0.1", far.port) as other:
        other.sendall(b"question")
        assert read_exactly(other, 8) == b"question"


# What is announced.


@pytest.mark.parametrize(
    ("announced", "named"),
    [
        (b"\x01\xff\xff", b"65535 pairs"),
        (b"\x01\x00\x01\xff\xff", b"65535 bytes"),
        (b"\x01\x00\x01\x00\x01k\xff\xff", b"65535 bytes"),
    ],
    ids=["65,535 pairs", "a key of 65,535 bytes", "a value of 65,535 bytes"],
)
async def test_more_than_the_limits_is_refused_before_any_of_it_came(announced, named):
    async with proxy() as server:
        client = await server.connect()
        client.send(GREET_EXTENDED + announced)
        answer = await client.read_to_end()
        assert answer.startswith(REFUSED)
        assert named in answer


@pytest.mark.parametrize("value", [16 * 1024, 16 * 1024 + 1])
async def test_the_longest_value_is_taken_and_no_longer_one(value):
    async with proxy() as server:
        client = await server.connect()
        client.send(GREET_EXTENDED + pairs((b"USERNAME", bytes(value))))
        answer = await client.read(6)
        assert answer == b"\x05\x97" + (b"\x01\x00\x00\x00" if value == 16 * 1024 else b"\x01\x02\x00\x01")


async def test_limits_of_ones_own():
    limits = Limits(pairs=PairLimits(pairs=1, total_bytes=40))
    async with proxy(limits=limits) as server:
        for items, status in (
            ([(b"USERNAME", b"u")], 0),
            ([(b"USERNAME", b"u"), (b"PASSWD", b"p")], 2),
            ([(b"USERNAME", bytes(28))], 0),
            ([(b"USERNAME", bytes(29))], 2),
        ):
            client = await server.connect()
            client.send(GREET_EXTENDED + pairs(*items))
            assert (await client.read(4))[3] == status


def test_what_is_announced_and_sent_costs_no_memory(socks5ext):
    server = socks5ext()
    with Target(echo) as far:
        assert_others_are_served(server, far)
        before = server.memory()
        for announced in (b"\x01\xff\xff", b"\x01\x00\x01\x00\x01k\xff\xff"):
            for _ in range(20):
                with connect(server) as client:
                    # All that was announced is sent, too, though nobody wants it.
                    with contextlib.suppress(ConnectionError):
                        client.sendall(GREET_EXTENDED + announced + bytes(MEGABYTE))
                    with contextlib.suppress(ConnectionError):
                        assert read_to_end(client).startswith(REFUSED)
        assert server.memory() - before < 8 * MEGABYTE
        assert_others_are_served(server, far)


# Time.


def test_a_byte_now_and_then_does_not_keep_a_connection(socks5ext):
    server = socks5ext("--handshake-timeout", "1.5")
    with Target(echo) as far, connect(server) as slow:
        began = time.monotonic()
        # A greeting that offers 255 methods, and never all of them.
        slow.sendall(b"\x05\xff")
        slow.settimeout(0.25)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 20:
                try:
                    assert slow.recv(1) == b""
                    break
                except TimeoutError:
                    slow.sendall(b"\x00")
        took = time.monotonic() - began
        # Not before its time. How long after it is a matter of the machine, but it did end.
        assert 1.4 < took < 20
        assert_others_are_served(server, far)


@pytest.fixture
def many_descriptors():
    """Room for some thousand sockets in this process, and in those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this machine allows {hard} descriptors alone")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_half_open_handshakes(socks5ext, many_descriptors):
    server = socks5ext("--max-connections", "1500")
    with Target(echo) as far, contextlib.ExitStack() as clients:
        assert_others_are_served(server, far)
        memory_before, descriptors_before = server.memory(), descriptors_at_rest(server)
        half_open = []
        for number in range(1000):
            client = clients.enter_context(connect(server))
            # Each stops elsewhere: before its greeting, within it, within its pairs, within its request.
            said = (b"", b"\x05", GREET_EXTENDED + b"\x01\x00\x02\x00\x08USER", GREET_ANONYMOUS + b"\x05\x01")
            client.sendall(said[number % 4])
            if number % 4 == 3:
                # An answer now and then, so that the connections do not queue before the server.
                assert read_exactly(client, 2) == b"\x05\x00"
            half_open.append(client)
        assert_others_are_served(server, far)
        assert server.descriptors() - descriptors_before >= 1000
        assert server.memory() - memory_before < 20 * MEGABYTE
        for client in half_open:
            with contextlib.suppress(ConnectionResetError):
                assert read_to_end(client) in (b"", b"\x05\x97")
        assert_others_are_served(server, far)
        assert settles(lambda: server.descriptors() <= descriptors_before)
        assert server.output.count("end=handshake timeout") == 1000


# What is sent ahead.


async def test_a_client_that_sends_megabytes_before_the_reply_is_paused():
    route = HeldRoute()
    limits = Limits(read_ahead=64 * 1024)
    async with proxy(policy=RouteTable((), route), limits=limits) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("192.0.2.1", 80) + bytes(8 * MEGABYTE))
        await route.asked.get()
        (session,) = server.factory.connections
        await until(lambda: session.transport not in connections_read_from())
        # One read more than the limit may have come, and no second.
        assert session._frontend.buffered <= 64 * 1024 + session.transport.bufferSize
        assert client.reason is None


async def test_megabytes_before_a_login_is_decided_are_paused_and_then_gone_on_with():
    async with target() as far, proxy(limits=Limits(read_ahead=1000)) as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request("127.0.0.1", far.port) + bytes(8 * MEGABYTE))
        client.half_close()
        end = await far.accept()
        assert await end.read_to_end() == bytes(8 * MEGABYTE)


def test_clients_that_send_ahead_and_never_read_cost_bounded_memory(socks5ext):
    # The proxy behind ours takes connections and says nothing, so all that clients send has to wait.
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent, contextlib.ExitStack() as clients:
        server = socks5ext("--route", f"*=socks:127.0.0.1:{silent.getsockname()[1]}")
        before = server.memory()
        for _ in range(40):
            client = clients.enter_context(connect(server))
            client.sendall(GREET_ANONYMOUS + request("192.0.2.1", 80))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while client.send(bytes(MEGABYTE)):
                    pass
        assert server.memory() - before < 40 * 256 * 1024


# How many.


async def test_more_connections_than_there_may_be_are_closed_as_they_come():
    async with proxy(limits=Limits(max_connections=3)) as server:
        clients = [await server.connect() for _ in range(3)]
        for client in clients:
            client.send(GREET_ANONYMOUS)
            assert await client.read(2) == b"\x05\x00"
        one_too_many = await server.connect()
        assert await one_too_many.read_to_end() == b""
        clients[0].abort()
        await until(lambda: len(server.factory.connections) == 2)
        another = await server.connect()
        another.send(GREET_ANONYMOUS)
        assert await another.read(2) == b"\x05\x00"


async def test_one_address_has_so_many_connections_and_no_more():
    limits = Limits(max_per_peer=2)
    async with proxy(seen_from="192.0.2.7", limits=limits) as server:
        first, second = [await server.connect() for _ in range(2)]
        for client in (first, second):
            client.send(GREET_ANONYMOUS)
            assert await client.read(2) == b"\x05\x00"
        third = await server.connect()
        third.send(GREET_ANONYMOUS)
        assert await third.read_to_end() == b""
        # Another address is not concerned.
        other = await server.connect(header=proxy_header("192.0.2.8"))
        other.send(GREET_ANONYMOUS)
        assert await other.read(2) == b"\x05\x00"
        first.abort()
        await until(lambda: len(server.factory.connections) == 2)
        fourth = await server.connect()
        fourth.send(GREET_ANONYMOUS)
        assert await fourth.read(2) == b"\x05\x00"
    await until(lambda: not server.factory.connections)
    assert server.factory._peers == {}


async def test_the_addresses_that_one_ipv6_host_has_to_itself_count_as_one():
    async with proxy(limits=Limits(max_per_peer=1), seen_from="2001:db8::1") as server:
        for address, heard in (
            ("2001:db8::1", b"\x05\x00"),
            ("2001:db8::2", b""),
            ("2001:db8::ffff:ffff:ffff:ffff", b""),
            ("2001:db8:0:1::1", b"\x05\x00"),
            ("::ffff:192.0.2.1", b"\x05\x00"),
            ("192.0.2.1", b""),
            ("192.0.2.2", b"\x05\x00"),
        ):
            client = await server.connect(header=proxy_header(address))
            client.send(GREET_ANONYMOUS)
            assert await client.read(2) == heard, address


@pytest.mark.parametrize("seen_from", [None, "127.0.0.9", "::1"])
async def test_loopback_is_not_counted(seen_from):
    async with proxy(seen_from=seen_from, limits=Limits(max_per_peer=1)) as server:
        for _ in range(3):
            client = await server.connect()
            client.send(GREET_ANONYMOUS)
            assert await client.read(2) == b"\x05\x00"


@pytest.mark.parametrize(
    ("soft", "connections"), [(1024, 320), (64, 1), (10, 1), (20000, 6645), (resource.RLIM_INFINITY, 1 << 20)]
)
def test_as_many_connections_as_descriptors_allow(monkeypatch, soft, connections):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert connections_by_descriptors() == connections


@pytest.mark.parametrize("name", [each.name for each in fields(Limits) if each.name != "pairs"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), None, "1"])
def test_limits_that_would_end_every_connection_or_fail_are_refused(name, value):
    is_count = name in ("max_connections", "max_per_peer", "max_per_user", "read_ahead")
    is_optional = "None" in Limits.__annotations__[name]
    may_be = (name, value) in {("read_ahead", 0), ("linger", 0)} or (is_optional and value is None)
    if may_be or (is_count and value == math.inf):
        assert getattr(Limits(**{name: value}), name) == value
        return
    with pytest.raises(ValueError, match=f"^{name} must be a (finite )?number "):
        Limits(**{name: value})


def test_limits_of_pairs_are_limits_of_pairs():
    with pytest.raises(ValueError, match=r"^pairs must be PairLimits, not int"):
        Limits(pairs=20)
