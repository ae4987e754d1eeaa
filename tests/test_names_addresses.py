"""The addresses of a name: how many are looked at, their scope, and who judges them."""

import socket

import pytest
from examples.raw_peers import (
    CONNECT,
    GREET_ANONYMOUS,
    GREET_LOGIN,
    RESOLVE,
    Names,
    login,
    proxy,
    request,
    target,
)
from support.namespaces import LINK_LOCAL, own_network
from support.rules import server_of
from support.silence import system_resolver
from support.targets import read_exactly
from twisted.internet import reactor

from txsocksx_ext import RouteTable, SOCKS5ExtFactory, route_from_string

# Many.

REFUSED = [f"192.0.2.{number}" for number in range(1, 255)]


async def test_no_address_beyond_the_first_is_held_against_the_rules():
    async with target() as far:
        names = Names(many_example=[*REFUSED * 10, "127.0.0.1"])
        async with server_of([("192.0.2.0/24", "refuse")], names) as server:
            assert await server.code("many.example", far.port) == 2
            assert await server.code("many.example", far.port, RESOLVE) == 2


async def test_some_refused_addresses_do_not_hide_the_one_behind_them():
    async with target() as far:
        names = Names(some_example=[*REFUSED[:40], "127.0.0.1"])
        async with server_of([("192.0.2.0/24", "refuse")], names) as server:
            assert await server.code("some.example", far.port) == 0


# Scopes.


TARGET = f"""
import socket, threading
listener = socket.socket(socket.AF_INET6)
listener.bind(({LINK_LOCAL!r}, 7, 0, socket.if_nametoindex("lo")))
listener.listen()

def serve():
    while True:
        connection, _ = listener.accept()
        connection.sendall(b"hello")
        connection.close()

threading.Thread(target=serve, daemon=True).start()
"""


def test_a_name_with_a_link_local_address_is_connected_to_with_its_scope(socks5ext, tmp_path):
    path = tmp_path / "socks"
    names = system_resolver(scoped_example=[f"{LINK_LOCAL}%lo"])
    socks5ext(listen=[f"unix:{path}"], prefix=own_network(), before=TARGET + names)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(GREET_ANONYMOUS + request("scoped.example", 7))
        assert read_exactly(client, 5) == b"\x05\x00\x05\x00\x00"
        assert b"hello" in read_exactly(client, 1 + 16 + 2 + 5)


@pytest.mark.parametrize("address", ["fe80::1%lo", "::1%lo", "::ffff:127.0.0.1%lo"])
async def test_a_scope_opens_no_protected_address(address):
    async with target() as far:
        names = Names(scoped_example=[address])
        async with server_of([], names, seen_from="198.51.100.1") as server:
            assert await server.code("scoped.example", far.port) == 2
        assert far.accepted == 0


# Who judges them.


class TableForEachUser(SOCKS5ExtFactory):
    """A server whose users have rules of their own."""

    def __init__(self):
        super().__init__(reactor)
        direct, refuse = route_from_string(reactor, "direct"), route_from_string(reactor, "refuse")
        self._table_of = {
            b"alice": RouteTable([("127.0.0.0/8", refuse), ("::1", refuse)], direct),
            b"bob": RouteTable([], direct),
        }

    def route(self, session):
        return self._table_of[session.user].route_of(session.request.destination, session)


async def code_for(server, user, host, port, command=CONNECT):
    """The code of the reply that a user has to a request."""
    client = await server.connect()
    client.send(GREET_LOGIN + login(user, b"x") + request(host, port, command))
    assert await client.read(4) == b"\x05\x02\x01\x00"
    code, _ = await client.read_reply()
    return code


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_users_own_table_refuses_an_address(host):
    async with proxy(TableForEachUser()) as server:
        assert await code_for(server, b"alice", host, 80) == 2


@pytest.mark.parametrize("command", [CONNECT, RESOLVE])
async def test_the_table_that_decided_judges_what_was_resolved(command):
    async with target() as far, proxy(TableForEachUser()) as server:
        assert await code_for(server, b"bob", "localhost", far.port, command) == 0
        assert await code_for(server, b"alice", "localhost", far.port, command) == 2


class StrictServer(SOCKS5ExtFactory):
    """A server that refuses addresses of this machine, but for the users whose table an override takes."""

    def __init__(self):
        direct, refuse = route_from_string(reactor, "direct"), route_from_string(reactor, "refuse")
        super().__init__(reactor, policy=RouteTable([("127.0.0.0/8", refuse), ("::1", refuse)], direct))
        self._open = RouteTable([], direct)

    def route(self, session):
        return self._open.route_of(session.request.destination, session)


async def test_a_table_that_allows_more_than_the_servers_own_decides_alone():
    async with target() as far, proxy(StrictServer()) as server:
        assert await code_for(server, b"bob", "localhost", far.port) == 0
