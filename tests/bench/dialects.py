"""
What a client says to a proxy, as scripts.

A script is a list of pairs, in hexadecimal digits as they go to another process: what to send, and how the answer to
it has to begin.
"""

from txsocksx_ext.protocol.codes import Command, Method
from txsocksx_ext.protocol.http_connect import connect_request
from txsocksx_ext.protocol.messages import Address, ExtendedRequest, Greeting, Request, UsernamePassword
from txsocksx_ext.protocol.pairs import Pairs
from txsocksx_ext.protocol.socks4 import SOCKS4Request

USER, PASSWORD = "alice", "a-password"
BYTE = ("78", "78")
"""One byte to the target, and back."""


def _pairs(count):
    """USERNAME and PASSWD, and such that the server may ignore, as long as those of a pluggable transport."""
    extra = {f"?space.key-{number}": b"a value of some length" for number in range(count - 2)}
    return Pairs({"USERNAME": USER, "PASSWD": PASSWORD, **extra})


DIALECTS = {
    "none": (Method.NO_AUTHENTICATION, b""),
    "login": (Method.USERNAME_PASSWORD, UsernamePassword(USER.encode(), PASSWORD.encode()).encode()),
    "pairs-4": (Method.EXTENDED, ExtendedRequest(_pairs(4)).encode()),
    "pairs-20": (Method.EXTENDED, ExtendedRequest(_pairs(20)).encode()),
}
"""How a client presents itself: its method, and its message for that method."""

OF_CURL = [("User-Agent", "curl/7.88.1"), ("Proxy-Connection", "Keep-Alive")]


def script(dialect, host, port):
    """
    A connection to a target, up to the reply.

    :param dialect: one of `DIALECTS`, ``socks4`` (4a for a name) or ``http``.
    """
    if dialect == "socks4":
        return [(SOCKS4Request(Command.CONNECT, Address.of(host, port)).encode().hex(), "005a")]
    if dialect == "http":
        return [(connect_request(Address.of(host, port), OF_CURL).hex(), b"HTTP/1.1 200 ".hex())]
    method, message = DIALECTS[dialect]
    said = [(Greeting((method,)).encode(), bytes([5, method]))]
    if message:
        said.append((message, b"\x01\x00"))
    said.append((Request(Command.CONNECT, Address.of(host, port)).encode(), b"\x05\x00"))
    return [(sent.hex(), answer.hex()) for sent, answer in said]
