"""
Both ends of HTTP CONNECT and SOCKS4 with inputs that nobody thought of: pieces change nothing, and h11 reads alike.

FUZZ_INPUTS=250000 tries so many inputs at each of the four ends, a million in all.
"""

import os
from itertools import pairwise
from random import Random

import h11
import pytest

from txsocksx_ext.protocol import http_connect, socks4
from txsocksx_ext.protocol.decoding import MalformedMessage

INPUTS = int(os.environ.get("FUZZ_INPUTS", "4000"))

OF_HTTP = [
    *(b"CONNECT ", b"OPTIONS ", b"GET ", b"a.example:80", b"[::1]:443", b"*", b"/", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"),
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 407 \xe4\r\n", b"HTTP/1.1 100 \r\n\r\n", b"HTTP/1.1 ", b"503"),
    *(b"Host: localhost\r\n", b"Proxy-Authorization: Basic dTpw\r\n", b"Socks5Ext-Pair: a=%00\r\n", b"A:b\r\n"),
    *(b"Tor-Stream-Isolation: x\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Cookie: a\r\n"),
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\n\n", b" ", b"\t", b":", b"\0", b"\x7f", b"\xff", b"x" * 255, b"y" * 9000),
]
OF_SOCKS4 = [
    *(b"\4\1\0\x50", b"\4\2", b"\4", b"\0\0\0\1", b"\0\0\0\0", b"\xc0\0\2\1", b"alice\0", b"a.example\0", b"\0"),
    *(b"\0\x5a\x1f\x90\xc0\0\2\1", b"\0\x5b", b"\0\x5a", b"\x5a", b"\xff", b" ", b"x" * 255, b"y" * 256),
]
ENDS = {
    "HTTP server": (http_connect.Responder, OF_HTTP),
    "HTTP client": (http_connect.Initiator, OF_HTTP),
    "SOCKS4 server": (socks4.Responder, OF_SOCKS4),
    "SOCKS4 client": (socks4.Initiator, OF_SOCKS4),
}
PREFIXES = {
    "HTTP server": [b"CONNECT ", b"a.example:80", b" HTTP/1.1\r\n"],
    "HTTP client": [b"HTTP/1.1 200 OK\r\n"],
    "SOCKS4 server": [b"\4\1\0\x50"],
    "SOCKS4 client": [b"\0"],
}
"""What most inputs begin with, so that many come far."""


def outcome(end, pieces):
    """The first message, or what was wrong, with the bytes left and those that are answered."""
    message = violation = None
    for piece in pieces:
        end.feed(piece)
        if message is None and violation is None:
            try:
                message = end.next_message()
            except MalformedMessage as error:
                violation = error
    if violation is not None:
        return type(violation), violation.fault, violation.detail, getattr(end, "final_reply", b"")
    return message, end.take_read_ahead() if message is not None else None


def read_by_h11(data):
    """A request as `HTTPRequest` has it; ``None`` for one that lacks Host, which h11 refuses."""
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(data)
    try:
        event = theirs.next_event()
    except h11.RemoteProtocolError as error:
        if "Missing mandatory Host" in str(error):
            return None
        raise
    headers = {}
    for name, value in event.headers:
        headers.setdefault(name.decode(), []).append(value.decode("latin-1"))
    return event.method.decode(), event.target.decode(), int(event.http_version[-1:]), headers


def is_connect(message):
    try:
        return isinstance(message, http_connect.HTTPRequest) and http_connect.connect_destination(message) is not None
    except MalformedMessage:
        return False


@pytest.mark.parametrize("end", ENDS)
def test_pieces_change_nothing(end):
    make, fragments = ENDS[end]
    connects = 0
    for number in range(INPUTS):
        random = Random(f"{end} {number}")
        parts = [
            random.choice(fragments) if random.random() < 0.9 else random.randbytes(3)
            for _ in range(random.randrange(12))
        ]
        data = b"".join(PREFIXES[end] * (random.random() < 0.7) + parts)
        whole = outcome(make(), [data])
        cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(5)))
        pieces = [data[start:stop] for start, stop in pairwise((0, *cuts, len(data)))]
        assert outcome(make(), pieces) == whole, (number, data, cuts)
        if len(data) < 100:
            assert outcome(make(), [bytes((byte,)) for byte in data]) == whole, (number, data)
        if is_connect(whole[0]):
            connects += 1
            # What is smuggled past this end would be read otherwise by somebody else.
            assert read_by_h11(data) in (None, tuple(whole[0])), (number, data)
    assert connects > 0 or end != "HTTP server"
