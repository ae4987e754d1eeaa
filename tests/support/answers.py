"""A server's replies as bytes, and rules with one route."""

from examples.raw_peers import GREET_EXTENDED, pairs, request
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse

from txsocksx_ext import RouteTable
from txsocksx_ext.server.auth import portal_for

ZEROS = b"\x01\x00\x00\x00\x00\x00\x00"
"""ATYP, address and port of a reply that tells no address."""


def reply(code):
    return bytes((5, code, 0)) + ZEROS


def table(route):
    return RouteTable((), route)


USER = (b"USERNAME", b"alice")
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
