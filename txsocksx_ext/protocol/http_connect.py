"""
HTTP CONNECT (RFC 9110, section 9.3.6; RFC 9112; Tor's specification of it), both ends, without I/O.

The server's end refuses every head that two readers could understand in two
ways, because bytes behind a head that was misread may reach somebody else. The
client's end accepts LF alone as the end of a line, as RFC 9112 permits.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from .codes import AddressType, Command
from .decoding import Buffer, Decoded, Fault, MalformedMessage, MessageReader
from .messages import Address, Request
from .pairs import PairLimits, Pairs, check_key, has_key_characters

MAX_REQUEST_HEAD = 16 * 1024
"""The most bytes of a request's head, with the empty line: twice what tor takes."""
MAX_RESPONSE_HEAD, MAX_HEADERS, MAX_INTERIM_RESPONSES = 64 * 1024, 100, 16
PAIR_HEADER = "Socks5Ext-Pair"
"""One pair of method 0x97: ``KEY=VALUE``, with the value percent-encoded."""

Headers = Mapping[str, Sequence[str]]
"""The values of each header, by its name in lower case. Bytes outside ASCII stand as Latin-1 characters."""


class HTTPRequest(NamedTuple):
    """
    The head of a request.

    :ivar minor: the version is ``HTTP/1.minor``.
    """

    method: str
    target: str
    minor: int
    headers: Headers

    def __repr__(self) -> str:
        return f"<HTTPRequest {self.method}>"

    def header(self, name: str) -> str | None:
        """Return the only value of a header, the first if there are several, or ``None``; `name` in lower case."""
        return self.headers.get(name, (None,))[0]


class HTTPResponse(NamedTuple):
    """The head of a response."""

    status: int
    reason: str
    headers: Headers

    def __repr__(self) -> str:
        return f"<HTTPResponse {self.status}>"


class MalformedHTTP(MalformedMessage):
    """
    The peer sent a head that no message may have.

    :ivar status: what to answer a request with; 0: close without a byte, because
        what is not known to be a CONNECT may come from a web page.
    """

    def __init__(self, message: str, fault: Fault, detail: str, status: int = 0) -> None:
        super().__init__(message, fault, detail)
        self.status = status


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_VALUE = r"[\t\x20-\x7e\x80-\xff]"
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_REQUEST_LINE = re.compile(rf"({_TOKEN}{{1,32}}) ([\x21-\x7e]+) HTTP/1\.([01])\r\n")
_STATUS_LINE = re.compile(rf"HTTP/1\.[01] ([1-9][0-9]{{2}})(?: ({_VALUE}*))?\r?\n")
_HEADER = re.compile(rf"{_TOKEN}{{1,255}}:{_VALUE}*\r\n")
_HEADERS = re.compile(rf"(?:{_HEADER.pattern})*\r\n")
_LENIENT_HEADERS = re.compile(_HEADERS.pattern.replace("\\r\\n", "\\r?\\n"))
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._~!$&'()*+,;=-]{1,255})):([0-9]{1,5})")


def _headers_of(lines: Iterable[str]) -> Headers:
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers.setdefault(name.lower(), []).append(value.strip("\t "))
    return headers


def _excess(data: Buffer, found: re.Match[bytes] | None, most: int) -> str | None:
    """Return what is too much in a head. To look for the end of one with many lines, byte by byte, takes long."""
    end, last_line = (most, 0) if found is None else (found.end(), 1)
    if data.count(b"\n", 0, end) > 1 + MAX_HEADERS + last_line:
        return f"there are more than {MAX_HEADERS} headers"
    return f"the head has more than {most} bytes" if found is None and len(data) >= most else None


# The server's end.


def request(data: Buffer, limits: PairLimits) -> Decoded[HTTPRequest]:
    """Decode the head of an `HTTPRequest`."""
    found = _END_OF_HEAD.search(data, 0, MAX_REQUEST_HEAD)
    length = data.find(b"\n", 0, MAX_REQUEST_HEAD) + 1 if found is None else found.end()
    head = data[:length].decode("latin-1")
    line = _REQUEST_LINE.match(head)
    # Other protocols begin with letters too, and may wait for an answer to their first line.
    if line is None and length:
        fault = Fault.SYNTAX if data.startswith(b"CONNECT ") else Fault.VERSION
        raise _malformed(data, fault, "the request line is malformed")
    if excess := _excess(data, found, MAX_REQUEST_HEAD):
        raise _malformed(data, Fault.LIMIT, excess, 431)
    if found is None or line is None:
        return len(data) + 1
    if _HEADERS.fullmatch(head, line.end()) is None:
        at, number = line.end(), 1
        while (header := _HEADER.match(head, at)) is not None:
            at, number = header.end(), number + 1
        raise _malformed(data, Fault.SYNTAX, f"header {number} is malformed")
    lines = head[line.end() : -4].split("\r\n") if length > line.end() + 2 else ()
    method, target, minor = line.groups()
    return HTTPRequest(method, target, int(minor), _headers_of(lines)), length


def _malformed(data: Buffer, fault: Fault, detail: str, status: int = 400) -> MalformedHTTP:
    """Return the violation in a request; it is answered only to what begins as a CONNECT does."""
    return MalformedHTTP("HTTPRequest", fault, detail, status if data.startswith(b"CONNECT ") else 0)


# Browsers send these with requests of web pages, but not with the CONNECT to their own proxy.
_OF_WEB_PAGES = frozenset({"origin", "referer", "cookie"})
_CHECKED = frozenset({*_OF_WEB_PAGES, "host", "proxy-authorization", "content-length", "x-tor-stream-isolation"})


def connect_destination(message: HTTPRequest) -> Request:
    """
    Return what a CONNECT asks for.

    :raises MalformedHTTP: it may not stand there, or a header may not stand in a CONNECT.
    """
    headers = message.headers
    for name in headers:
        if name in _CHECKED or name[:4] in ("tor-", "sec-"):
            _check_header(name, headers[name])
    if has_body(message):
        raise MalformedHTTP("HTTPRequest", Fault.SYNTAX, "a CONNECT has no body", 400)
    return _destination(message.target)


def _check_header(name: str, values: Sequence[str]) -> None:
    if name in _OF_WEB_PAGES or name.startswith("sec-"):
        raise MalformedHTTP("HTTPRequest", Fault.WEB_PAGE, f"the header {name} comes from a web page")
    if len(values) > 1:
        raise MalformedHTTP("HTTPRequest", Fault.SYNTAX, f"the header {name} stands twice", 400)


@lru_cache(maxsize=1024)
def _destination(target: str) -> Request:
    """Clients repeat their targets, and the server keeps a request as long as its stream: share the objects."""
    found = _AUTHORITY.fullmatch(target)
    address = None if found is None else _address(*found.groups())
    if address is None:
        raise MalformedHTTP("HTTPRequest", Fault.TARGET, "the target is not HOST:PORT or [IPV6]:PORT", 400)
    return Request(Command.CONNECT, address)


def _address(literal: str | None, host: str, digits: str) -> Address | None:
    port = int(digits)
    if not 1 <= port <= 0xFFFF:
        return None
    if literal is None:
        return Address.of(host, port)
    try:
        packed = socket.inet_pton(socket.AF_INET6, literal)
    except OSError:
        return None
    return Address(AddressType.IPV6, socket.inet_ntop(socket.AF_INET6, packed), port)


_HOST = re.compile(r"(localhost|[0-9.]+|::1|\[[0-9A-Fa-f:]+\])(?::([0-9]{1,5}))?", re.IGNORECASE)


def is_for_this_machine(message: HTTPRequest) -> bool:
    """
    Return whether ``Host`` names this machine: ``localhost`` or a loopback address, with a port or without.

    A web page reaches this machine under names of its own (DNS rebinding), which stand in ``Host``.
    """
    hosts = message.headers.get("host", ())
    found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if found is None:
        return False
    host, port = found.groups("80")
    try:
        is_local = host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
    return is_local and 1 <= int(port) <= 0xFFFF


def has_body(message: HTTPRequest) -> bool:
    """Return whether bytes behind the head belong to this request."""
    lengths = message.headers.get("content-length", ("0",))
    return "transfer-encoding" in message.headers or any(length != "0" for length in lengths)


def response(
    status: int, reason: str, headers: Iterable[tuple[str, str]] = (), text: str = "", minor: int = 1
) -> bytes:
    """
    Return the bytes of a response.

    :param text: one sentence for people; with it the response says that the connection closes.
    """
    lines = [f"HTTP/1.{minor} {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    body = b""
    if text:
        body = f"{text}\n".encode("ascii", "replace")
        lines += ("Content-Type: text/plain", f"Content-Length: {len(body)}", "Connection: close")
    return "\r\n".join((*lines, "", "")).encode("latin-1", "replace") + body


class Responder(MessageReader):
    """
    The server's end.

    :cvar refusal_headers: headers of the answer to a violation.
    :ivar minor: the version of the request, in which the answer is written.
    :ivar final_reply: after a violation, the bytes to send before closing.
    """

    refusal_headers: Sequence[tuple[str, str]] = ()
    final_reply = b""
    minor = 1

    def next_message(self) -> HTTPRequest | None:
        """
        Decode the client's next request.

        :returns: ``None`` while bytes are missing. The bytes behind a CONNECT
            are not a message: take them by `take_read_ahead`.
        :raises MalformedHTTP: the client violated the protocol.
        """
        try:
            message = self.decode(request)
        except MalformedHTTP as violation:
            self.refuse(violation)
            # The decoder's frames hold passwords and names; a traceback must not show them.
            raise violation.with_traceback(None) from None
        if message is not None:
            self.minor = message.minor
        return message

    def refuse(self, violation: MalformedHTTP) -> None:
        """Make `final_reply` the answer to a violation."""
        if status := violation.status:
            phrase, headers = HTTPStatus(status).phrase, self.refusal_headers
            self.final_reply = response(status, phrase, headers, violation.detail, self.minor)


# The client's end.


def connect_request(destination: Address, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """
    Return the bytes of a CONNECT.

    :param headers: further ones, in their order; ``Host`` is written here.
    :raises ValueError: the host, the port or a header cannot be written; the
        message names it, and shows no value.
    """
    is_ipv6 = destination.type == AddressType.IPV6
    authority = f"[{destination.host}]:{destination.port}" if is_ipv6 else f"{destination.host}:{destination.port}"
    if not _AUTHORITY.fullmatch(authority) or not destination.port:
        raise ValueError("HTTP CONNECT cannot carry this host or port: give a name, an address, and a port from 1")
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    for name, value in headers:
        if not re.fullmatch(f"{_TOKEN}{{1,255}}", name):
            raise ValueError(f"{name!r} is not the name of a header")
        if not re.fullmatch("[\x20-\x7e]*", value):
            raise ValueError(f"the value of the header {name} has a character that is not printable ASCII")
        lines.append(f"{name}: {value}")
    return "\r\n".join((*lines, "", "")).encode("ascii")


def response_head(data: Buffer, limits: PairLimits) -> Decoded[HTTPResponse]:
    """Decode the head of an `HTTPResponse`. A body is no part of it."""
    if not b"HTTP/1.".startswith(bytes(data[:7])):
        raise MalformedHTTP("HTTPResponse", Fault.VERSION, "the answer does not begin with HTTP/1.")
    found = _END_OF_HEAD.search(data, 0, MAX_RESPONSE_HEAD)
    if excess := _excess(data, found, MAX_RESPONSE_HEAD):
        raise MalformedHTTP("HTTPResponse", Fault.LIMIT, excess)
    if found is None:
        return len(data) + 1
    length = found.end()
    head = data[:length].decode("latin-1")
    line = _STATUS_LINE.match(head)
    if line is None or _LENIENT_HEADERS.fullmatch(head, line.end()) is None:
        raise MalformedHTTP("HTTPResponse", Fault.SYNTAX, "the status line or a header is malformed")
    lines = head[line.end() :].replace("\r", "").split("\n")[:-2]
    return HTTPResponse(int(line[1]), line[2] or "", _headers_of(lines)), length


class Initiator(MessageReader):
    """The client's end. The bytes behind a 2xx response are the target's: take them by `take_read_ahead`."""

    _interim = 0

    def next_message(self) -> HTTPResponse | None:
        """
        Decode the server's final response; interim ones (1xx) are skipped.

        :returns: ``None`` while bytes are missing.
        :raises MalformedHTTP: the server violated the protocol, switches to another, or sends only interim ones.
        """
        while (message := self.decode(response_head)) is not None:
            if message.status == 101:
                raise MalformedHTTP("HTTPResponse", Fault.SYNTAX, "the server switches to another protocol")
            if message.status >= 200:
                return message
            self._interim += 1
            if self._interim > MAX_INTERIM_RESPONSES:
                raise MalformedHTTP("HTTPResponse", Fault.LIMIT, f"more than {MAX_INTERIM_RESPONSES} responses are 1xx")
        return None


# Credentials and pairs, in headers.


def basic_credentials(username: bytes, password: bytes) -> str:
    """
    Return the value of ``Proxy-Authorization`` (RFC 7617).

    :raises ValueError: the user name holds a colon or a control character, or the password a control character.
    """
    if b":" in username:
        raise ValueError("a user name with a colon does not fit Basic authentication")
    if _CONTROL.search(username + password):
        raise ValueError("a user name or password with a control character does not fit Basic authentication")
    return "Basic " + b64encode(username + b":" + password).decode("ascii")


_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_BASE64 = "[0-9A-Za-z+/]"
_BASIC = re.compile(f"basic +((?:{_BASE64}{{4}})*(?:{_BASE64}{{2}}==|{_BASE64}{{3}}=)?)", re.IGNORECASE)


def credentials_of(value: str) -> tuple[bytes, bytes] | None:
    """Return user name and password of ``Proxy-Authorization``, or ``None`` if it is not Basic (RFC 7617)."""
    found = _BASIC.fullmatch(value)
    username, colon, password = (b"" if found is None else b64decode(found[1])).partition(b":")
    return (username, password) if colon else None


def pair_header(key: str, value: bytes) -> tuple[str, str]:
    """
    Return the header that carries a pair.

    :raises ValueError: the key cannot stand in one.
    """
    if "=" in check_key(key):
        raise ValueError(f"the key {key} holds '=', so it cannot be sent over HTTP")
    return PAIR_HEADER, f"{key}={quote_from_bytes(value, safe='')}"


_bad_pair = partial(MalformedHTTP, PAIR_HEADER, status=400)
_ENCODED = re.compile(r"(?:[\x21-\x24\x26-\x7e]|%[0-9A-Fa-f]{2})*")


def pairs_of(headers: Headers, limits: PairLimits) -> Pairs:
    """
    Return the pairs in a message's headers.

    :raises MalformedHTTP: one is malformed, stands twice, or passes a limit.
    """
    values: dict[str, bytes] = {}
    size = 2
    for number, field in enumerate(headers.get(PAIR_HEADER.lower(), ()), 1):
        key, equals, encoded = field.partition("=")
        if not (equals and key and has_key_characters(key) and _ENCODED.fullmatch(encoded)):
            raise _bad_pair(Fault.SYNTAX, f"pair {number} is not KEY=VALUE with the value percent-encoded")
        value = unquote_to_bytes(encoded)
        size += 4 + len(key) + len(value)
        if len(key) > limits.key_bytes or len(value) > limits.value_bytes:
            raise _bad_pair(Fault.LIMIT, f"pair {number} is too long")
        if key in values:
            raise _bad_pair(Fault.KEY_TWICE, f"the key {key} stands twice")
        values[key] = value
    if len(values) > limits.pairs or size > limits.total_bytes:
        raise _bad_pair(Fault.LIMIT, "there are too many pairs, or they are too long in all")
    return Pairs.checked(values)
