"""
Clients of our server by raw bytes, and servers of ours in front of a tor, for tests with the private Tor network.

All of it blocks. The bytes of the clients are made without the package, so that a fault in it cannot hide itself.
"""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from examples.raw_peers import CONNECT, GREET_ANONYMOUS, GREET_EXTENDED, GREET_LOGIN, login, pairs, request, settles

from support.programs import twistd
from support.targets import read_exactly
from support.tornet.socks import Answer

CLIENTS = {
    "plain": (GREET_ANONYMOUS, b""),
    "97": (GREET_EXTENDED, pairs()),
    "304": (GREET_EXTENDED, pairs((b"tor.errors", b"304"))),
    "none": (GREET_EXTENDED, pairs((b"tor.errors", b"none"))),
}
"""Clients by the codes that they ask for: what they say first, and then before their request."""


def user(name, password=b"word"):
    """A client with a user name, for `ask`."""
    return (GREET_LOGIN, login(name, password))


def isolated(value):
    """A client with a value of ``tor.isolation``, for `ask`."""
    return (GREET_EXTENDED, pairs((b"tor.isolation", value)))


def ask(port, client, host, target_port, command=CONNECT, patience=40.0):
    """Ask our server by raw bytes; the very code that it answers."""
    greeting, authentication = CLIENTS[client] if isinstance(client, str) else client
    begun = time.monotonic()
    connection = socket.create_connection(("127.0.0.1", port), timeout=patience)
    try:
        connection.sendall(greeting)
        assert read_exactly(connection, 2) == bytes((5, greeting[2]))
        if authentication:
            connection.sendall(authentication)
            _read_welcome(connection, is_extended=greeting == GREET_EXTENDED)
        connection.sendall(request(host, target_port, command))
        _, code, _, kind = read_exactly(connection, 4)
        length = read_exactly(connection, 1)[0] if kind == 3 else {1: 4, 4: 16}[kind]
        bound = read_exactly(connection, length)
        read_exactly(connection, 2)
    except BaseException:
        connection.close()
        raise
    text = bound.decode() if kind == 3 else socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, bound)
    return Answer(code, time.monotonic() - begun, connection, text)


def _read_welcome(connection, is_extended):
    assert read_exactly(connection, 2) == b"\x01\x00"
    if is_extended:
        for _ in range(2 * int.from_bytes(read_exactly(connection, 2), "big")):
            read_exactly(connection, int.from_bytes(read_exactly(connection, 2), "big"))


def code(port, client, host, target_port, command=CONNECT):
    with ask(port, client, host, target_port, command) as answer:
        return answer.code


def at_once(*calls):
    """Do these side by side; their results in order."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [each.result() for each in [threads.submit(*call) for call in calls]]


def codes(port, hosts, target_port):
    """What each kind of client hears, side by side; each of its own host, if there are as many."""
    hosts = [hosts] * len(CLIENTS) if isinstance(hosts, str) else hosts
    heard = at_once(*((code, port, client, host, target_port) for client, host in zip(CLIENTS, hosts, strict=True)))
    return dict(zip(CLIENTS, heard, strict=True))


def same(code):
    """What all clients hear alike."""
    return dict.fromkeys(CLIENTS, code)


def heard_as(plain, extended, finer):
    """What those hear that know RFC 1928's codes alone, or did not want more; that offered 97; that want Tor's own."""
    return {"plain": plain, "97": extended, "304": finer, "none": plain}


# Servers.


def way(endpoint):
    """An endpoint of tor's, as it stands in a route."""
    return f"unix\\:{endpoint}" if isinstance(endpoint, Path) else f"tcp\\:127.0.0.1\\:{endpoint}"


def routes_to(client):
    """The ways to one tor, by their names."""
    return {
        "control": f"tor:{way(client.plain_port)}:control={way(client.control_port)}",
        "extended": f"tor:{way(client.extended_port)}",
        "unix": f"tor:{way(client.plain_socket)}:control={way(client.control_socket)}",
        "plain": f"tor:{way(client.plain_port)}:extended=no",
    }


EXACT_ROUTES = ["control", "extended", "unix"]
"""Of these, each knows why an onion service failed."""


def all_routes_to(client):
    """A route by each of tor's SOCKS ports, with its control port and without."""
    ports = {
        "plain": client.plain_port,
        "extended": client.extended_port,
        "unix": client.plain_socket,
        "extended unix": client.extended_socket,
    }
    control = way(client.control_port)
    return {
        f"{name}{words}": f"tor:{way(port)}{option}"
        for name, port in ports.items()
        for words, option in (("", ""), (", control", f":control={control}"))
    }


def under_control(server, times=1):
    return server.output.count("control connection established") >= times


def start_server(start, route, *options, attached=True):
    """
    A ``twistd socks5ext`` with this way out, when it listens.

    :param attached: whether to wait until it sees tor's events, if it is to see any.
    """
    server = twistd(start, f"--route=*={route}", "--drain=1", *options)
    if attached and "control=" in route:
        assert settles(lambda: under_control(server), 40), server.output
    return server
