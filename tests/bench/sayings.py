"""
What the visitors of a soak say, and what they have to hear. The bytes are made without the package.
"""

from typing import NamedTuple

from examples.raw_peers import (
    BIND,
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    GREET_LOGIN,
    RESOLVE,
    login,
    pairs,
    request,
    request_by_name,
)

from bench.dialects import PASSWORD, USER
from bench.visited import REFUSED_ADDRESS, REFUSED_NAME

SUCCEEDED = b"\x05\x00\x00"
INVALID = b"\x01\x02"
REJECTED = b"\x00\x5b" + bytes(6)
_NAME, _WORD = USER.encode(), PASSWORD.encode()
_KEYS = [(b"USERNAME", _NAME), (b"PASSWD", _WORD)]


def _extra(count):
    return [(b"?space.key-%d" % number, b"a value of some length") for number in range(count)]


ANONYMOUS = ((GREET_ANONYMOUS, b"\x05\x00"),)
LOGIN = ((GREET_LOGIN, b"\x05\x02"), (login(_NAME, _WORD), b"\x01\x00"))
METHODS = (
    ANONYMOUS,
    ANONYMOUS,
    LOGIN,
    *(((GREET_EXTENDED, b"\x05\x97"), (pairs(*_KEYS, *_extra(count)), b"\x01\x00\x00\x00")) for count in (0, 2, 18)),
)
"""How visitors come in: what they say, and what they hear."""


class Refused(NamedTuple):
    """
    A visitor that is sent away.

    :ivar said: what it says, and what it hears.
    :ivar end: what the log says of it: the code, and the end.
    """

    said: tuple[tuple[bytes, bytes], ...]
    end: str


def reply(code):
    return bytes((5, code, 0, 1)) + bytes(6)


def refused(way_in, asked, code, end):
    return Refused((*way_in, (asked, reply(code))), f"{code:02X} {end}")


def violation(what, *said, code="-"):
    return Refused(said, f"{code} violation: {what}")


def all_refused(target_port, closed_port):
    """Every way in which a server says no."""
    extended = METHODS[-1]
    greets_extended = (GREET_EXTENDED, b"\x05\x97")
    return [
        refused(ANONYMOUS, request_by_name(REFUSED_NAME, 80), 2, "ConnectionNotAllowed"),
        refused(extended, request_by_name(REFUSED_NAME, 80), 2, "ConnectionNotAllowed"),
        refused(LOGIN, request(REFUSED_ADDRESS, target_port), 2, "ConnectionNotAllowed"),
        refused(ANONYMOUS, request("127.0.0.1", closed_port), 5, "ConnectionRefusedError(ECONNREFUSED)"),
        refused(extended, request("127.0.0.1", closed_port), 5, "ConnectionRefusedError(ECONNREFUSED)"),
        refused(ANONYMOUS, request_by_name("localhost", closed_port), 5, "ConnectionRefusedError(ECONNREFUSED)"),
        refused(extended, request_by_name("unknown.onion", 80), 4, "HostUnreachable"),
        refused(LOGIN, request("127.0.0.1", target_port, BIND), 7, "CommandNotSupported"),
        refused(ANONYMOUS, request("127.0.0.1", 0), 1, "GeneralServerFailure"),
        Refused((*extended, (request("127.0.0.1", 0, RESOLVE), SUCCEEDED + b"\x01\x7f\0\0\1\0\0")), "00 resolved"),
        Refused((*ANONYMOUS, (request_by_name("localhost", 0, RESOLVE), SUCCEEDED)), "00 resolved"),
        Refused(((GREET_LOGIN, b"\x05\x02"), (login(_NAME, b"wrong"), b"\x01\x01")), "- authentication failed"),
        Refused(
            (greets_extended, (pairs(_KEYS[0], (b"PASSWD", b"wrong")), b"\x01\x01\0\0")), "- authentication failed"
        ),
        Refused((greets_extended, (pairs(*_KEYS, (b"other.key", b"")), INVALID)), "- invalid arguments"),
        violation("a key is empty", greets_extended, (b"\x01\x00\x01\x00\x00\x00\x00", INVALID)),
        violation("a key stands twice", greets_extended, (pairs(_KEYS[0], _KEYS[0]), INVALID)),
        violation("a limit is passed", greets_extended, (b"\x01\xff\xff", INVALID)),
        violation("the version byte is wrong", greets_extended, (b"\x05\x00\x00", b"")),
        violation("the request is no CONNECT, and its Host is not this machine", (b"GET / HTTP/1.0\r\n\r\n", b"")),
        violation("the HTTP message is malformed", (b"CONNECT a:1 HTTP/1.1\r\n b\r\n\r\n", b"HTTP/1.1 400 ")),
        violation("the address type is unknown", (b"\4\1\0\1\0\0\0\0\0", REJECTED)),
        Refused(
            ((b"CONNECT %b:80 HTTP/1.1\r\n\r\n" % REFUSED_NAME.encode(), b"HTTP/1.1 403 "),), "02 ConnectionNotAllowed"
        ),
        Refused(((b"\4\1\0\x50\0\0\0\1\0%b\0" % REFUSED_NAME.encode(), REJECTED),), "02 ConnectionNotAllowed"),
        violation("no method is offered", (b"\x05\x00", b"\x05\xff")),
        Refused(((b"\x05\x01\x01", b"\x05\xff"),), "- no acceptable method"),
        violation(
            "the version byte is wrong; it looks like SOCKS4",
            *LOGIN,
            (b"\x04\x01\x00\x01" + bytes(6), reply(1)),
            code="01",
        ),
        violation("the reserved byte is not zero", *ANONYMOUS, (b"\x05\x01\x01\x01" + bytes(6), reply(1)), code="01"),
        violation("the address type is unknown", *ANONYMOUS, (b"\x05\x01\x00\x05" + bytes(900), reply(8)), code="08"),
        violation(
            "the host name may not stand in a request", *extended, (request_by_name("a b", 80), reply(1)), code="01"
        ),
    ]
