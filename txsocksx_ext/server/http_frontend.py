"""
The front end of HTTP CONNECT, with Tor's headers (spec.torproject.org/http-connect.html).

Any web page can make a browser send other requests than CONNECT here. So those
are answered only where ``Host`` is this machine, and the rest is closed without
a byte. After an answer that is not 2xx nothing more is read (RFC 9931).
"""

from __future__ import annotations

import socket
from functools import lru_cache
from http import HTTPStatus
from itertools import starmap
from typing import TYPE_CHECKING, Any, ClassVar

from ..context import KeyNotHonoured, PairCredentials
from ..errors import AuthenticationFailed, CommandNotSupported, InvalidArguments
from ..failures import CANCELLED, reply_class
from ..protocol import codes
from ..protocol.codes import Byte, Dialect, Method, ReplyCode, reply_row
from ..protocol.decoding import Fault
from ..protocol.http_connect import (
    PAIR_HEADER,
    HTTPRequest,
    MalformedHTTP,
    Responder,
    connect_destination,
    credentials_of,
    has_body,
    is_for_this_machine,
    pair_header,
    pairs_of,
    response,
)
from ..protocol.messages import UNSPECIFIED, Address, Request
from ..protocol.pairs import IP_FAMILY, NO_PAIRS, PASSWD, TOR_ISOLATION, USERNAME, Pairs, is_among
from .socks5_frontend import dialect_wanted

if TYPE_CHECKING:
    from ..context import Session
    from .connection import SOCKS5ExtProtocol
    from .limits import Limits

ANSWERS: dict[ReplyCode, tuple[int, str]] = {
    codes.GENERAL_FAILURE: (500, "proxy_internal_error"),
    codes.NOT_ALLOWED: (403, "http_request_denied"),
    codes.NETWORK_UNREACHABLE: (503, "destination_ip_unroutable"),
    codes.HOST_UNREACHABLE: (503, "destination_unavailable"),
    codes.CONNECTION_REFUSED: (502, "connection_refused"),
    codes.TTL_EXPIRED: (504, "connection_timeout"),
    codes.COMMAND_NOT_SUPPORTED: (501, "http_request_error"),
    codes.ADDRESS_TYPE_NOT_SUPPORTED: (503, "destination_ip_unroutable"),
    codes.ONION_SERVICE_NOT_FOUND: (503, "destination_not_found"),
    codes.ONION_SERVICE_NOT_REACHABLE: (503, "destination_unavailable"),
    codes.DESCRIPTOR_NOT_FOUND: (503, "destination_not_found"),
    codes.DESCRIPTOR_INVALID: (503, "destination_unavailable"),
    codes.INTRODUCTION_FAILED: (503, "destination_unavailable"),
    codes.RENDEZVOUS_FAILED: (503, "destination_unavailable"),
    codes.CLIENT_AUTHORIZATION_MISSING: (503, "http_request_denied"),
    codes.CLIENT_AUTHORIZATION_WRONG: (403, "http_request_denied"),
    codes.ONION_ADDRESS_INVALID: (400, "http_request_error"),
    codes.INTRODUCTION_TIMED_OUT: (504, "connection_timeout"),
    codes.TRANSPORT_TEMPORARY_FAILURE: (503, "destination_unavailable"),
    codes.TRANSPORT_PROTOCOL_FAILURE: (502, "connection_terminated"),
    codes.TRANSPORT_INTERNAL_ERROR: (500, "proxy_internal_error"),
}
"""The status of each failure, and its error in ``Proxy-Status`` (RFC 9209)."""

STATUS_OF_RELAYS_REFUSAL = 403
"""The status of a refused connection where a relay said so: Tor's specification has this one."""

_ISOLATION = ("tor-stream-isolation", "x-tor-stream-isolation")
_CHALLENGE = ("Proxy-Authenticate", 'Basic realm="socks5ext", charset="UTF-8"')
_RETRY_AT_ONCE = ("Retry-After", "0")
_BAD_REQUEST = (
    ("Tor-Request-Failed", f"socks5ext/{InvalidArguments.__name__}"),
    ("Proxy-Status", "socks5ext; error=http_request_error"),
)

MOST_REQUESTS = 16
"""Requests on one connection, the CONNECT included."""


class _NoRPC(CommandNotSupported):
    message = "this proxy has no RPC: leave out Tor-RPC-Target"


def tokens_of(row: ReplyCode, relay_reason: str = "") -> str:
    """
    Return the value of ``Tor-Request-Failed``.

    :param row: a failure: the exception's name, and its code in each table that has one for it.
    :param relay_reason: what a relay ended the stream with; empty if none did.
    """
    tokens = [f"socks5ext/{reply_class(row.number, row.dialect).__name__}"]
    if row.dialect is not Dialect.PLAIN:
        tokens.append(f"prop229/{_prop229_number(row):02X}")
    if row.dialect is Dialect.TOR:
        tokens.append(f"prop304/{row.number:02X}")
    if relay_reason:
        tokens.append(f"end/{relay_reason}")
    return " ".join(tokens)


def _prop229_number(row: ReplyCode) -> int:
    return row.number if row.prop229 is None else row.prop229


def reason_of(status: int, row: ReplyCode) -> str:
    """Return the reason phrase of an answer."""
    return f"{HTTPStatus(status).phrase} ({row.name})"


@lru_cache(maxsize=64)
def _capabilities(keys: frozenset[str], with_credentials: bool) -> str:
    """Return the value of ``Tor-Capabilities``: the request headers that are honoured."""
    headers = [PAIR_HEADER]
    if with_credentials:
        headers.append("Proxy-Authorization")
    if is_among(TOR_ISOLATION, keys):
        headers += ("Tor-Stream-Isolation", "X-Tor-Stream-Isolation")
    if is_among(IP_FAMILY, keys):
        headers.append("Tor-Family-Preference")
    return " ".join(sorted(headers))


_VIA = ("Via", "tor/1.0 tor-network (socks5ext)")


@lru_cache(maxsize=64)
def _success(minor: int, capabilities: str, is_over_tor: bool) -> bytes:
    return response(200, "OK", [("Tor-Capabilities", capabilities), *[_VIA] * is_over_tor], minor=minor)


class HTTPFrontend(Responder):
    """HTTP/1.0 and 1.1 with the methods CONNECT and OPTIONS."""

    name: ClassVar[str] = "http"
    _has_message = False
    _pairs_to_answer = NO_PAIRS
    _capabilities = ""
    _session: Session

    def __init__(self, limits: Limits) -> None:
        Responder.__init__(self)
        self.replied: int | None = None
        self._pair_limits = limits.pairs

    @property
    def has_request(self) -> bool:
        """See `Frontend`."""
        return bool(self.buffer) or self._has_message

    async def receive_request(self, connection: SOCKS5ExtProtocol) -> Request | None:
        """See `Frontend`."""
        session = self._session = connection.session
        policy = session.policy
        with_credentials = policy.uses_credentials or connection.factory.portal is not None
        self._capabilities = _capabilities(policy.keys, with_credentials)
        self.refusal_headers = (("Tor-Capabilities", self._capabilities), *_BAD_REQUEST)
        # A client that does not read the answers must not make the server keep them.
        for left in reversed(range(MOST_REQUESTS)):
            message: HTTPRequest = await connection.next_message()
            if message.method == "CONNECT":
                return await self._receive_connect(message, connection)
            if not is_for_this_machine(message):
                raise MalformedHTTP("HTTPRequest", Fault.HOST, Fault.HOST.value)
            if not self._answer_other(message, connection, is_last=not left):
                break
        return None

    def _answer_other(self, message: HTTPRequest, connection: SOCKS5ExtProtocol, is_last: bool) -> bool:
        """Answer a request that is no CONNECT; return whether another may follow."""
        headers = [("Allow", "OPTIONS, CONNECT"), ("Tor-Capabilities", self._capabilities)]
        if message.method != "OPTIONS":
            text = "this is a proxy for CONNECT: configure it as the HTTPS or SOCKS proxy of your program"
            connection.close_after(response(405, "Method Not Allowed", headers, text, self.minor), "method not allowed")
            return False
        if message.target != "*" or has_body(message):
            violation = MalformedHTTP("HTTPRequest", Fault.SYNTAX, "OPTIONS is for *, and has no body", 400)
            self.refuse(violation)
            raise violation
        routes = self._session.policy.routes
        is_tor = all(getattr(route, "is_over_tor", False) for route in routes)
        headers += [("Server", "tor/1.0 (socks5ext)" if is_tor else "socks5ext"), ("Content-Length", "0")]
        if is_last or not self.minor or "close" in ",".join(message.headers.get("connection", ())).lower():
            headers.append(("Connection", "close"))
            connection.close_after(response(200, "OK", headers, minor=self.minor), "answered OPTIONS")
            return False
        connection.send(response(200, "OK", headers, minor=self.minor))
        return True

    async def _receive_connect(self, message: HTTPRequest, connection: SOCKS5ExtProtocol) -> Request | None:
        self._has_message = True
        try:
            request = connect_destination(message)
            pairs = pairs_of(message.headers, self._pair_limits)
        except MalformedHTTP as violation:
            self.refuse(violation)
            raise
        try:
            answered = await connection.admit(self._take(message, pairs, connection))
        except BaseException as error:
            connection.report(error)
            self._refuse_client(error, connection)
            return None
        if "tor-rpc-target" in message.headers:
            connection.reply_and_close(codes.COMMAND_NOT_SUPPORTED, UNSPECIFIED, "no RPC", _NoRPC())
            return None
        if pairs:
            self._pairs_to_answer = answered
        return request

    def _take(self, message: HTTPRequest, pairs: Pairs, connection: SOCKS5ExtProtocol) -> Method:
        """
        Note what the headers say; return the method of SOCKS5 that would have carried it.

        :raises InvalidArguments: a pair is unknown, or something is said twice.
        :raises AuthenticationFailed: the portal cannot check what stands in place of Basic credentials.
        """
        headers, session = message.headers, connection.session
        method = Method.NO_AUTHENTICATION
        values: dict[str, bytes] = {}
        required: frozenset[str] = frozenset()
        if pairs:
            method = Method.EXTENDED
            pairs, required = connection.factory.filter_pairs(pairs, session)
            values = dict(pairs)
            dialect_wanted(pairs)
        isolation = [message.header(name) or "" for name in _ISOLATION]
        if any(isolation):
            required |= {TOR_ISOLATION}
        given = message.header("proxy-authorization")
        credentials = None if given is None else credentials_of(given)
        if given is not None and credentials is None:
            if connection.factory.portal is not None:
                raise AuthenticationFailed()
            # Where nothing checks credentials, something else than Basic is a value like the others.
            isolation.append(given)
        if any(isolation):
            _add(values, TOR_ISOLATION, "\n".join(isolation).rstrip("\n"))
        if "tor-family-preference" in headers:
            family = headers["tor-family-preference"][0].lower()
            _add(values, IP_FAMILY, family)
            if family in ("ipv4-only", "ipv6-only"):
                required |= {IP_FAMILY}
        if values:
            session.take_pairs(Pairs.checked(values), required)
        if credentials is not None:
            if USERNAME in values or PASSWD in values:
                raise InvalidArguments("the user name stands twice")
            session.credentials = PairCredentials(*credentials)
            method = Method.USERNAME_PASSWORD if method == Method.NO_AUTHENTICATION else method
        return method

    def _refuse_client(self, error: BaseException, connection: SOCKS5ExtProtocol) -> None:
        headers = [("Tor-Capabilities", self._capabilities)]
        if isinstance(error, AuthenticationFailed):
            headers += [pair_header(key, value) for key, value in error.pairs.items()]
        if isinstance(error, InvalidArguments):
            text = "".join(each for each in error.message[:200] if each.isprintable())
            headers += self.refusal_headers
            connection.close_after(response(400, "Bad Request", headers, text, self.minor), "invalid arguments")
        else:
            headers.append(_CHALLENGE)
            answer = response(407, "Proxy Authentication Required", headers, AuthenticationFailed.message, self.minor)
            connection.close_after(answer, "authentication failed")

    def success(self, bound: Address) -> bytes:
        """See `Frontend`."""
        self.replied = 0
        head = _success(self.minor, self._capabilities, self._is_over_tor)
        if self._pairs_to_answer:
            lines = [f"{name}: {value}\r\n" for name, value in starmap(pair_header, self._pairs_to_answer.items())]
            head = head[:-2] + "".join(lines).encode("ascii") + b"\r\n"
        return head

    @property
    def _is_over_tor(self) -> bool:
        return bool(getattr(self._session.route, "is_over_tor", False))

    def failure(self, code: ReplyCode | int, error: BaseException | None) -> bytes:
        """See `Frontend`."""
        number, dialect = (code.number, code.dialect) if isinstance(code, ReplyCode) else (code, Dialect.PROP229)
        # A route may have replaced the plain code of a row, so take the table's own.
        row = reply_row(number, dialect) or codes.GENERAL_FAILURE
        self.replied = Byte(_prop229_number(row))
        status, problem = ANSWERS[row]
        text = reply_class(row.number, row.dialect).message
        relay_reason: str = getattr(error, "relay_reason", "")
        headers = [("Tor-Capabilities", self._capabilities)]
        if self._is_over_tor:
            headers.append(_VIA)
        if row is codes.CONNECTION_REFUSED and relay_reason == "CONNECTREFUSED":
            status = STATUS_OF_RELAYS_REFUSAL
        elif row is codes.TRANSPORT_TEMPORARY_FAILURE:
            headers.append(_RETRY_AT_ONCE)
        elif isinstance(error, CANCELLED):
            status, problem, text = 503, "connection_limit_reached", "the proxy gave the request up: try again"
            headers.append(_RETRY_AT_ONCE)
        elif isinstance(error, (KeyNotHonoured, _NoRPC)):
            # Any other error may hold what another proxy said.
            text = error.message
        elif row is codes.NOT_ALLOWED and self._is_address_refused:
            problem = "destination_ip_prohibited"
        elif row is codes.HOST_UNREACHABLE:
            problem = _of_dns(error) or problem
        headers += [
            ("Tor-Request-Failed", tokens_of(row, relay_reason)),
            ("Proxy-Status", f"socks5ext; error={problem}"),
        ]
        return response(status, reason_of(status, row), headers, text, self.minor)

    @property
    def _is_address_refused(self) -> bool:
        request = self._session.request
        return request is not None and not request.destination.is_name


def _add(values: dict[str, bytes], key: str, value: str) -> None:
    if key in values:
        raise InvalidArguments(f"{key} stands twice: as a header and as a pair")
    values[key] = value.encode("latin-1")


def _of_dns(error: Any) -> str | None:
    """Return the error of a name that was not resolved; ``None`` if that was not the cause."""
    cause = getattr(error, "__cause__", None)
    if not isinstance(cause, socket.gaierror):
        return None
    return "dns_error; rcode=NXDOMAIN" if cause.errno == socket.EAI_NONAME else "dns_error"
