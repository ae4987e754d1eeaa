"""The raw vectors, against the running server."""

import itertools
import socket
from typing import Any, NamedTuple

import pytest
from support.programs import twistd
from support.targets import Target, programs, read_exactly, read_to_end
from support.vectors import OPENINGS, TO_SERVER, by_id, decode_pieces, splits

from txsocksx_ext.protocol import decoding
from txsocksx_ext.protocol.codes import Command, Method, Status
from txsocksx_ext.protocol.messages import Address, ExtendedRequest, Request, UsernamePassword
from txsocksx_ext.protocol.pairs import Pairs


class Answer(NamedTuple):
    """
    What the server answers to a vector.

    :ivar said: the bytes, in hex; or a text that its ERROR pair holds, where `is_refusal`.
    :ivar closes: whether it closes then.
    :ivar is_refusal: whether it is INVALID ARGUMENTS with a reason.
    :ivar after: what completes a vector that is too short, and the answer to that.
    """

    said: str
    closes: bool = True
    is_refusal: bool = False
    after: Any = None


def failing(code):
    return Answer(f"05 {code} 00 01 00000000 0000")


def goes_on(said):
    return Answer(said, closes=False)


def invalid(reason):
    return Answer(reason, is_refusal=True)


SILENT_CLOSE = Answer("")
REFUSED_BY_RULE = failing("02")
ACCEPTED = goes_on("01 00")
ACCEPTED_97 = goes_on("01 00 0000")


def waits_for(missing, answer):
    return Answer("", closes=False, after=(bytes.fromhex(missing), answer))


SERVER_ANSWERS = {
    "greet-noauth": goes_on("05 00"),
    "greet-ext-first": goes_on("05 97"),
    "greet-dup": goes_on("05 00"),
    "greet-nmethods-0": Answer("05 ff"),
    "greet-short": waits_for("00", goes_on("05 97")),
    "greet-v4": SILENT_CLOSE,
    "s4-connect": SILENT_CLOSE,
    "pt-none": goes_on("05 00"),
    "pt-greet": goes_on("05 00"),
    "req-connect-v4": REFUSED_BY_RULE,
    "req-connect-dom": REFUSED_BY_RULE,
    "req-udp-assoc": failing("07"),
    "req-optimistic": REFUSED_BY_RULE,
    "req-dom-empty": failing("01"),
    "req-dom-nul": failing("01"),
    "req-rsv": failing("01"),
    "req-atyp5": failing("08"),
    "req-cmd4": failing("07"),
    "req-badver": failing("01"),
    "req-short": waits_for("50", REFUSED_BY_RULE),
    "tor-resolve-ptr": REFUSED_BY_RULE,
    "up-ok": ACCEPTED,
    "up-nul-pass": ACCEPTED,
    "up-empty-user": ACCEPTED,
    "up-empty-pass": ACCEPTED,
    "up-ver5": SILENT_CLOSE,
    "x-empty": ACCEPTED_97,
    "x-userpass": ACCEPTED_97,
    "x-pipelined": Answer("01 00 0000" + REFUSED_BY_RULE.said),
    "x-ver5": SILENT_CLOSE,
    "x-plain-key": invalid("KEY"),
    "x-key-with-nul": invalid("printable ASCII"),
    "x-key-8bit": invalid("printable ASCII"),
    "x-rfc1929-by-mistake": invalid("1141 pairs"),
    "x-little-endian": invalid("256 pairs"),
    "x-limit-pairs": invalid("65535 pairs"),
    "x-short-header": waits_for("00", ACCEPTED_97),
    "x-short-pair": waits_for("0001 42 0000", invalid("unknown key: A")),
}
"""To a client on loopback, of a server without credentials whose rules refuse all but this machine."""

AT_ONCE = 32
"""Connections that are open together: fewer than the 50 that may wait for the server to accept them."""


@pytest.fixture(scope="module")
def server():
    with programs() as start:
        yield twistd(start, "--protocol=socks5", "--route=127.0.0.1=direct", "--route=*=refuse")


def connected(server, method=None):
    """A connection on which `method` was selected, if any."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    if method is not None:
        connection.sendall(bytes([5, 1, method]))
        assert read_exactly(connection, 2) == bytes([5, method])
    return connection


def wait_until_all_is_read(server):
    """
    Wait until the server has read what was sent to it so far.

    It handles its connections in the order in which they became readable, so
    what was sent before this conversation is read before its answer.
    """
    connected(server, Method.NO_AUTHENTICATION).close()


def say_nothing_more(connection):
    """Whether nothing can be read now, while the connection stands."""
    connection.setblocking(False)
    try:
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    finally:
        connection.settimeout(20)


def check_answer(server, connection, answer):
    if answer.is_refusal:
        message, rest = decode_pieces([read_to_end(connection)], decoding.extended_response)
        assert (message.status, list(message.pairs), rest) == (Status.INVALID_ARGUMENTS, ["ERROR"], b"")
        assert answer.said in message.pairs["ERROR"].decode("ascii")
    elif answer.closes:
        assert read_to_end(connection) == bytes.fromhex(answer.said)
    else:
        said = bytes.fromhex(answer.said)
        assert read_exactly(connection, len(said)) == said
        say_nothing_more(connection)


def check_server(server, method, data, answer, ways):
    """Say the same bytes on many connections, each split in its own way: all get the same answer."""
    ways = iter(ways)
    while chosen := list(itertools.islice(ways, AT_ONCE)):
        connections = [connected(server, method) for _ in chosen]
        for pieces in itertools.zip_longest(*chosen):
            for connection, piece in zip(connections, pieces, strict=True):
                if piece is not None:
                    connection.sendall(piece)
            wait_until_all_is_read(server)
        for connection in connections:
            check_answer(server, connection, answer)
            if answer.after is not None:
                missing, then = answer.after
                connection.sendall(missing)
                wait_until_all_is_read(server)
                check_answer(server, connection, then)
            connection.close()


@pytest.mark.parametrize("vector", **by_id(TO_SERVER))
def test_the_server_answers_a_vector_in_every_split(server, vector):
    answer = ACCEPTED if vector.kind in ("toruser", "ptauth") else SERVER_ANSWERS[vector.name]
    ways = splits(vector.data, exhaustive=8, samples=10)
    check_server(server, OPENINGS[vector.kind], vector.data, answer, ways)


def test_every_vector_for_a_server_has_an_answer():
    own = {vector.name for vector in TO_SERVER if vector.kind not in ("toruser", "ptauth")}
    assert own == set(SERVER_ANSWERS)


LONG = {
    "the longest greeting": (None, b"\5\xff" + bytes(range(255)), goes_on("05 97")),
    "the longest name": (
        Method.NO_AUTHENTICATION,
        b"\5\1\0\3\xff" + b"n" * 255 + b"\0\x50",
        REFUSED_BY_RULE,
    ),
    "the longest credentials": (
        Method.USERNAME_PASSWORD,
        UsernamePassword(b"\xff" * 255, b"\0" * 255).encode(),
        ACCEPTED,
    ),
    "the longest value": (
        Method.EXTENDED,
        ExtendedRequest(Pairs({"USERNAME": bytes(16384), "PASSWD": b"p"})).encode(),
        ACCEPTED_97,
    ),
    "64 pairs": (
        Method.EXTENDED,
        ExtendedRequest(Pairs({f"?x.{number}": b"value" for number in range(64)})).encode(),
        ACCEPTED_97,
    ),
    "a value that is too long": (Method.EXTENDED, b"\1\0\1\0\1a\x40\1" + b"a" * 293, invalid("16385 bytes")),
}


@pytest.mark.parametrize(("method", "data", "answer"), LONG.values(), ids=LONG)
def test_the_server_answers_long_messages_in_splits(server, method, data, answer):
    check_server(server, method, data, answer, splits(data, samples=10))


def test_data_sent_with_the_request_reaches_the_target_in_every_split(server):
    with Target(lambda connection: connection.sendall(read_exactly(connection, 3)[::-1])) as target:
        request = Request(Command.CONNECT, Address.of("127.0.0.1", target.port)).encode()
        for method, before, answered in (
            (Method.NO_AUTHENTICATION, b"", 0),
            (Method.EXTENDED, b"\1\0\0", 4),
        ):
            data = before + request + b"GET"
            for pieces in splits(data):
                connection = connected(server, method)
                for piece in pieces:
                    connection.sendall(piece)
                    wait_until_all_is_read(server)
                answer = read_to_end(connection)
                assert answer[:answered] == bytes.fromhex("01 00 0000")[:answered]
                assert answer[answered : answered + 3] == b"\5\0\0"
                assert answer[answered + 10 :] == b"TEG"
                connection.close()
