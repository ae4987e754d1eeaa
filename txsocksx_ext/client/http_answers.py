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
from collections.abc import Mapping
from hashlib import sha3_256
from typing import Any

from .. import errors
from ..errors import SOCKS5Error
from ..failures import reply_error, row_of
from ..protocol.codes import HOST_UNREACHABLE, Dialect
from ..protocol.http_connect import HTTPResponse
from ..protocol.messages import Address

LONGEST_TEXT = 200
"""Characters of what a proxy says that go into an exception."""


def _by_word(words_of: Mapping[type[SOCKS5Error], str]) -> dict[str, type[SOCKS5Error]]:
    return {word: error for error, words in words_of.items() for word in words.split()}


END_REASONS = _by_word(
    {
        errors.HostUnreachable: "RESOLVEFAILED NOROUTE",
        errors.ConnectionRefused: "CONNECTREFUSED CONNRESET DONE",
        errors.ConnectionNotAllowed: "EXITPOLICY PRIVATE_ADDR",
        errors.TTLExpired: "TIMEOUT",
        errors.NetworkUnreachable: "NET_UNREACHABLE",
    }
)
"""Tor's reasons for the end of a stream (``end/``, ``c-tor/``); all others are a general failure."""

ARTI_KINDS = _by_word(
    {
        errors.OnionDescriptorNotFound: "OnionServiceNotFound",
        errors.OnionAddressInvalid: "OnionServiceAddressInvalid",
        errors.OnionClientAuthRequired: "OnionServiceMissingClientAuth",
        errors.OnionClientAuthWrong: "OnionServiceWrongClientAuth",
        errors.OnionIntroductionFailed: "OnionServiceNotRunning",
        errors.OnionServiceNotReachable: "OnionServiceConnectionFailed",
        errors.OnionDescriptorInvalid: "OnionServiceProtocolViolation",
        errors.ConnectionRefused: "RemoteConnectionRefused RemoteStreamReset RemoteStreamClosed",
        errors.HostUnreachable: "RemoteHostNotFound RemoteHostResolutionFailed RemoteNetworkFailed",
        errors.ConnectionNotAllowed: "ExitPolicyRejected ForbiddenStreamTarget NoExit",
        errors.TTLExpired: "ExitTimeout RemoteNetworkTimeout TorNetworkTimeout",
        errors.InvalidArguments: "LocalProtocolViolation InvalidStreamTarget",
        errors.CommandNotSupported: "FeatureDisabled NotImplemented",
    }
)
"""Kinds of errors of arti (``arti/``); all others are a general failure."""

PROXY_STATUS_ERRORS = _by_word(
    {
        errors.HostUnreachable: "dns_error destination_not_found destination_unavailable",
        errors.ConnectionNotAllowed: "destination_ip_prohibited http_request_denied",
        errors.NetworkUnreachable: "destination_ip_unroutable",
        errors.ConnectionRefused: "connection_refused connection_terminated",
        errors.TTLExpired: "dns_timeout connection_timeout connection_read_timeout connection_write_timeout",
    }
)
"""Errors of ``Proxy-Status`` that say more than the status."""

STATUSES = _by_word(
    {
        errors.InvalidArguments: "400 414 431",
        errors.AuthenticationFailed: "401 407",
        errors.ConnectionNotAllowed: "403",
        # Of tor before 0.4.9.4, and of privoxy: no such name.
        errors.HostUnreachable: "404",
        errors.CommandNotSupported: "405 501",
        errors.TTLExpired: "408 504",
    }
)

_MESSAGES = {
    errors.InvalidArguments: "the proxy does not take this request: check the target, and the headers",
    errors.CommandNotSupported: "this is no proxy for HTTP CONNECT: check its address and port",
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
    tokens = tuple(map(_printable, " ".join(response.headers.get("tor-request-failed", ())).split()[:8]))
    error = _by_first_rule(response, tokens, target)
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


def _by_first_rule(response: HTTPResponse, tokens: tuple[str, ...], target: Address) -> SOCKS5Error:
    for kind in ("socks5ext", "prop304", "prop229", "arti", "end", "c-tor"):
        for token in tokens:
            prefix, _, value = token.partition("/")
            error = _of_token(kind, value, target) if prefix == kind else None
            if error is not None:
                return error
    members = _QUOTED.sub("", ",".join(response.headers.get("proxy-status", ()))).split(",")
    found = _ERROR.search(members[-1])  # the last is the closest to us
    if found is not None and found[1] in PROXY_STATUS_ERRORS:
        return PROXY_STATUS_ERRORS[found[1]]()
    squid = _SQUID.match(" ".join(response.headers.get("x-squid-error", ())))
    if squid is not None:
        return _of_squid(squid[1], int(squid[2] or 0))
    phrase = _PHRASE.search(response.reason)
    if phrase is not None and phrase[1] in _PHRASES:
        return _of_end(_PHRASES[phrase[1]], target)
    if response.status < 400:
        return errors.ProtocolViolation("a proxy does not answer CONNECT so: check that this is a proxy's address")
    return STATUSES.get(str(response.status), errors.GeneralServerFailure)()


# Matches from any quotation mark on, closed or not: to try each of them would take quadratic time.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)')
_ERROR = re.compile(r";\s*error\s*=\s*([a-z_]+)")
_SQUID = re.compile(r"(ERR_[A-Z_]+)(?: ([0-9]{1,5}))?")
_PHRASE = re.compile(r"\(([a-z ]+)\)\Z")


def _of_token(kind: str, value: str, target: Address) -> SOCKS5Error | None:
    if kind == "socks5ext":
        cls: Any = getattr(errors, value, None)
        is_known = isinstance(cls, type) and issubclass(cls, (errors.ReplyError, errors.AuthenticationFailed))
        return cls() if is_known else None
    if kind in ("prop304", "prop229"):
        dialect = Dialect.TOR if kind == "prop304" else Dialect.PROP229
        return reply_error(int(value, 16), dialect) if re.fullmatch("[0-9A-Fa-f]{2}", value) else None
    if kind == "arti":
        return ARTI_KINDS.get(value, errors.GeneralServerFailure)()
    return _of_end(value, target)


def _of_end(reason: str, target: Address) -> SOCKS5Error:
    if target.is_onion:
        # Tor says this of services that do not exist, and of others that are down.
        if reason == "RESOLVEFAILED":
            error = errors.OnionServiceError()
            error.reply_code, error.code = HOST_UNREACHABLE, None
            return error
        if reason == "TORPROTOCOL" and not _is_onion_address(target.host):
            return errors.OnionAddressInvalid()
    return END_REASONS.get(reason, errors.GeneralServerFailure)()


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
    known = {"ERR_DNS_FAIL": errors.HostUnreachable, "ERR_ACCESS_DENIED": errors.ConnectionNotAllowed}
    return known.get(name, errors.GeneralServerFailure)()


def _printable(text: str) -> str:
    """Return what a proxy said, short, and without anything that a terminal could obey."""
    return "".join(c for c in text[:LONGEST_TEXT] if c.isascii() and c.isprintable())
