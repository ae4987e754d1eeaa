"""
What an HTTP proxy's failure means: the exception for a response.

The first rule that matches decides, the most exact one first: the tokens of
``Tor-Request-Failed``, the error of ``Proxy-Status`` (RFC 9209), ``X-Squid-Error``,
the words with which tor explains its status, the status.
"""

from __future__ import annotations

import re
from base64 import b32decode
from binascii import Error as NotBase32
from collections.abc import Iterator
from hashlib import sha3_256
from typing import Any

from .. import errors
from ..errors import (
    AuthenticationFailed,
    CommandNotSupported,
    ConnectionNotAllowed,
    ConnectionRefused,
    GeneralServerFailure,
    HostUnreachable,
    InvalidArguments,
    NetworkUnreachable,
    OnionAddressInvalid,
    OnionClientAuthRequired,
    OnionClientAuthWrong,
    OnionDescriptorInvalid,
    OnionDescriptorNotFound,
    OnionIntroductionFailed,
    OnionServiceError,
    OnionServiceNotReachable,
    ProtocolViolation,
    ReplyError,
    SOCKS5Error,
    TTLExpired,
)
from ..failures import reply_error, row_of
from ..protocol.codes import HOST_UNREACHABLE, Dialect
from ..protocol.http_connect import HTTPResponse
from ..protocol.messages import Address

LONGEST_TEXT = 200
"""Characters of what a proxy says that go into an exception."""

END_REASONS: dict[str, type[SOCKS5Error]] = {
    "RESOLVEFAILED": HostUnreachable,
    "NOROUTE": HostUnreachable,
    "CONNECTREFUSED": ConnectionRefused,
    "CONNRESET": ConnectionRefused,
    "DONE": ConnectionRefused,
    "EXITPOLICY": ConnectionNotAllowed,
    "TIMEOUT": TTLExpired,
    "NET_UNREACHABLE": NetworkUnreachable,
    "PRIVATE_ADDR": ConnectionNotAllowed,
}
"""Tor's reasons for the end of a stream (``end/``, ``c-tor/``); all others are a general failure."""

ARTI_KINDS: dict[str, type[SOCKS5Error]] = {
    "OnionServiceNotFound": OnionDescriptorNotFound,
    "OnionServiceAddressInvalid": OnionAddressInvalid,
    "OnionServiceMissingClientAuth": OnionClientAuthRequired,
    "OnionServiceWrongClientAuth": OnionClientAuthWrong,
    "OnionServiceNotRunning": OnionIntroductionFailed,
    "OnionServiceConnectionFailed": OnionServiceNotReachable,
    "OnionServiceProtocolViolation": OnionDescriptorInvalid,
    "RemoteConnectionRefused": ConnectionRefused,
    "RemoteStreamReset": ConnectionRefused,
    "RemoteStreamClosed": ConnectionRefused,
    "RemoteHostNotFound": HostUnreachable,
    "RemoteHostResolutionFailed": HostUnreachable,
    "RemoteNetworkFailed": HostUnreachable,
    "ExitPolicyRejected": ConnectionNotAllowed,
    "ForbiddenStreamTarget": ConnectionNotAllowed,
    "NoExit": ConnectionNotAllowed,
    "ExitTimeout": TTLExpired,
    "RemoteNetworkTimeout": TTLExpired,
    "TorNetworkTimeout": TTLExpired,
    "LocalProtocolViolation": InvalidArguments,
    "InvalidStreamTarget": InvalidArguments,
    "FeatureDisabled": CommandNotSupported,
    "NotImplemented": CommandNotSupported,
}
"""Kinds of errors of arti (``arti/``); all others are a general failure."""

PROXY_STATUS_ERRORS: dict[str, type[SOCKS5Error]] = {
    "dns_timeout": TTLExpired,
    "dns_error": HostUnreachable,
    "destination_not_found": HostUnreachable,
    "destination_unavailable": HostUnreachable,
    "destination_ip_prohibited": ConnectionNotAllowed,
    "destination_ip_unroutable": NetworkUnreachable,
    "connection_refused": ConnectionRefused,
    "connection_terminated": ConnectionRefused,
    "connection_timeout": TTLExpired,
    "connection_read_timeout": TTLExpired,
    "connection_write_timeout": TTLExpired,
    "http_request_denied": ConnectionNotAllowed,
}
"""Errors of ``Proxy-Status`` that say more than the status."""

STATUSES: dict[int, type[SOCKS5Error]] = {
    400: InvalidArguments,
    401: AuthenticationFailed,
    403: ConnectionNotAllowed,
    # Of tor before 0.4.9.4, and of privoxy: no such name.
    404: HostUnreachable,
    405: CommandNotSupported,
    407: AuthenticationFailed,
    408: TTLExpired,
    414: InvalidArguments,
    431: InvalidArguments,
    501: CommandNotSupported,
    504: TTLExpired,
}

_MESSAGES = {
    InvalidArguments: "the proxy does not take this request: check the target, and the headers",
    CommandNotSupported: "this is no proxy for HTTP CONNECT: check its address and port",
}

_PHRASES = {
    "resolve failed": "RESOLVEFAILED",
    "no route": "NOROUTE",
    "connection refused": "CONNECTREFUSED",
    "connection reset": "CONNRESET",
    "exit policy": "EXITPOLICY",
}
"""How tor's status lines say the reason, also before it had a header for that."""


def error_for_response(response: HTTPResponse, target: Address) -> SOCKS5Error:
    """Return the exception for a response that is not 2xx, with ``status`` and ``reasons``."""
    tokens = tuple(_printable(token) for token in " ".join(response.headers.get("tor-request-failed", ())).split())[:8]
    candidates = _candidates(response, tokens, target)
    error = next(candidates)
    said = _printable(f"{response.status} {response.reason}".rstrip())
    details = " ".join((said, *tokens))
    for name in ("proxy-authenticate", "retry-after"):
        if name in response.headers:
            details += f"; {name}: {_printable(', '.join(response.headers[name]))}"
    message = _MESSAGES.get(type(error), error.message) if not tokens else error.message
    text = f"{message} (it said {details!r})"
    error.message, error.args = text, (text,)
    error.status, error.reasons = response.status, tokens
    return error


def _candidates(response: HTTPResponse, tokens: tuple[str, ...], target: Address) -> Iterator[SOCKS5Error]:
    """Yield what each rule makes of a response, the most exact first; always something in the end."""
    for kind in ("socks5ext", "prop304", "prop229", "arti", "end", "c-tor"):
        for token in tokens:
            prefix, _, value = token.partition("/")
            error = _of_token(kind, value, target) if prefix == kind else None
            if error is not None:
                yield error
    members = _QUOTED.sub("", ",".join(response.headers.get("proxy-status", ()))).split(",")
    found = _ERROR.search(members[-1])  # the last is the closest to us
    if found is not None and found[1] in PROXY_STATUS_ERRORS:
        yield PROXY_STATUS_ERRORS[found[1]]()
    squid = _SQUID.match(" ".join(response.headers.get("x-squid-error", ())))
    if squid is not None:
        yield _of_squid(squid[1], int(squid[2] or 0))
    phrase = _PHRASE.search(response.reason)
    if phrase is not None and phrase[1] in _PHRASES:
        yield _of_end(_PHRASES[phrase[1]], target)
    if response.status < 400:
        yield ProtocolViolation("a proxy does not answer CONNECT so: check that this is a proxy's address")
    yield STATUSES.get(response.status, GeneralServerFailure)()


_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_ERROR = re.compile(r";\s*error\s*=\s*([a-z_]+)")
_SQUID = re.compile(r"(ERR_[A-Z_]+)(?: ([0-9]{1,5}))?")
_PHRASE = re.compile(r"\(([a-z ]+)\)\Z")


def _of_token(kind: str, value: str, target: Address) -> SOCKS5Error | None:
    if kind == "socks5ext":
        cls: Any = getattr(errors, value, None)
        is_known = isinstance(cls, type) and issubclass(cls, (ReplyError, AuthenticationFailed))
        return cls() if is_known else None
    if kind in ("prop304", "prop229"):
        dialect = Dialect.TOR if kind == "prop304" else Dialect.PROP229
        return reply_error(int(value, 16), dialect) if re.fullmatch("[0-9A-Fa-f]{2}", value) else None
    if kind == "arti":
        return ARTI_KINDS.get(value, GeneralServerFailure)()
    return _of_end(value, target)


def _of_end(reason: str, target: Address) -> SOCKS5Error:
    if target.is_onion:
        # Tor says this of services that do not exist, and of others that are down.
        if reason == "RESOLVEFAILED":
            error = OnionServiceError()
            error.reply_code, error.code = HOST_UNREACHABLE, None
            return error
        if reason == "TORPROTOCOL" and not _is_onion_address(target.host):
            return OnionAddressInvalid()
    return END_REASONS.get(reason, GeneralServerFailure)()


def _is_onion_address(host: str) -> bool:
    """Return whether a name in .onion holds the address of a service: version 3, with its checksum (rend-spec-v3)."""
    try:
        decoded = b32decode(host.rpartition(".")[0].rpartition(".")[2], casefold=True)
    except NotBase32:
        return False
    key, checksum, version = decoded[:32], decoded[32:34], decoded[34:]
    return version == b"\x03" and sha3_256(b".onion checksum" + key + version).digest()[:2] == checksum


def _of_squid(name: str, number: int) -> SOCKS5Error:
    if name == "ERR_CONNECT_FAIL":
        return reply_error(row_of(OSError(number, "")).number, Dialect.PLAIN)
    known = {"ERR_DNS_FAIL": HostUnreachable, "ERR_ACCESS_DENIED": ConnectionNotAllowed}
    return known.get(name, GeneralServerFailure)()


def _printable(text: str) -> str:
    """Return what a proxy said, short, and without anything that a terminal could obey."""
    return "".join(c for c in text[:LONGEST_TEXT] if c.isascii() and c.isprintable())
