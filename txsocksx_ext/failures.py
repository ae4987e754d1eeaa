"""
What a reply says of a failure: Twisted's and the system's errors, as rows of the table.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import (
    ConnectError,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TCPTimedOutError,
    UnknownHostError,
)
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.python.failure import Failure

from .errors import SOCKS5Error
from .protocol import codes
from .protocol.codes import ReplyCode

_BY_CLASS: dict[type[BaseException], ReplyCode] = {
    ConnectionRefusedError: codes.CONNECTION_REFUSED,
    # A peer that resets while we connect refuses, as transports answer it too.
    ConnectionLost: codes.CONNECTION_REFUSED,
    NoRouteError: codes.NETWORK_UNREACHABLE,
    ConnectTimeoutError: codes.TTL_EXPIRED,
    TCPTimedOutError: codes.TTL_EXPIRED,
    DeferredTimeoutError: codes.TTL_EXPIRED,
    TimeoutError: codes.TTL_EXPIRED,
    DNSLookupError: codes.HOST_UNREACHABLE,
    UnknownHostError: codes.HOST_UNREACHABLE,
    UnauthorizedLogin: codes.NOT_ALLOWED,
}

_BY_ERRNO: dict[int, ReplyCode] = {
    errno.ECONNREFUSED: codes.CONNECTION_REFUSED,
    errno.ECONNRESET: codes.CONNECTION_REFUSED,
    errno.ENETUNREACH: codes.NETWORK_UNREACHABLE,
    errno.ENETDOWN: codes.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: codes.HOST_UNREACHABLE,
    errno.EHOSTDOWN: codes.HOST_UNREACHABLE,
    errno.ETIMEDOUT: codes.TTL_EXPIRED,
    # A firewall of this machine's.
    errno.EACCES: codes.NOT_ALLOWED,
    errno.EPERM: codes.NOT_ALLOWED,
    errno.EAFNOSUPPORT: codes.ADDRESS_TYPE_NOT_SUPPORTED,
}

_TELLING = (
    codes.CONNECTION_REFUSED,
    codes.TTL_EXPIRED,
    codes.HOST_UNREACHABLE,
    codes.NETWORK_UNREACHABLE,
    codes.NOT_ALLOWED,
    codes.ADDRESS_TYPE_NOT_SUPPORTED,
)
"""Of several addresses that failed, the one that came farthest tells most."""


def row_of(error: BaseException | None) -> ReplyCode:
    """Return the row to answer for an exception; 0x01 if nothing better is known."""
    if isinstance(error, SOCKS5Error):
        return error.row
    for kind, row in _BY_CLASS.items():
        if isinstance(error, kind):
            return row
    number = error.osError if isinstance(error, ConnectError) else getattr(error, "errno", None)
    return _BY_ERRNO.get(number, codes.GENERAL_FAILURE) if isinstance(number, int) else codes.GENERAL_FAILURE


_RESOLVER_ERRORS = {
    number: name for name, number in vars(socket).items() if name.startswith("EAI_") and isinstance(number, int)
}


def describe(error: BaseException) -> str:
    """Name an exception for a log line: its class, and the system's or the resolver's error behind it."""
    name = type(error).__name__
    for each in (error, error.__cause__):
        number = each.osError if isinstance(each, ConnectError) else getattr(each, "errno", None)
        names = _RESOLVER_ERRORS if isinstance(each, socket.gaierror) else errno.errorcode
        if isinstance(number, int) and number in names:
            return f"{name}({names[number]})"
    return name


def most_telling(failures: Sequence[Failure]) -> Failure:
    """Return the failure that says most about why none of several ways led to the target."""

    def rank(failure: Failure) -> int:
        row = row_of(failure.value)
        return _TELLING.index(row) if row in _TELLING else len(_TELLING)

    return min(failures, key=rank)
