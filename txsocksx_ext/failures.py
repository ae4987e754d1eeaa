"""
From exceptions to reply codes, for servers, and from what a proxy answers to exceptions, for clients.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TCPTimedOutError,
    UnknownHostError,
)
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.python.failure import Failure

from . import errors
from .errors import (
    AuthenticationFailed,
    InvalidArguments,
    ProxyNetworkUnreachable,
    ProxyNotFound,
    ProxyRefused,
    ProxyTimedOut,
    ProxyUnreachable,
    ReplyError,
    SOCKS5Error,
    UnknownReply,
    UnknownStatus,
)
from .protocol import codes
from .protocol.codes import Dialect, Method, ReplyCode
from .protocol.pairs import ERROR, NO_PAIRS, Pairs

CANCELLED = (CancelledError, ConnectingCancelledError)
"""What Twisted's own Deferreds fail with where they are cancelled."""

_BY_CLASS: dict[type[BaseException], ReplyCode] = {
    ConnectionRefusedError: codes.CONNECTION_REFUSED,
    # A reset during the connection attempt counts as refused, as transports reply too.
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
    # From a firewall on this machine.
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
"""The most informative failure of several addresses first: that of the attempt that got farthest."""


def row_of(error: BaseException | None) -> ReplyCode:
    """Return the row to answer for an exception; 0x01 if nothing better is known."""
    if isinstance(error, SOCKS5Error):
        return error.reply_code
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
    """Return the most informative of the failures of several attempts."""

    def rank(failure: Failure) -> int:
        row = row_of(failure.value)
        return _TELLING.index(row) if row in _TELLING else len(_TELLING)

    return min(failures, key=rank)


# From answers to exceptions.

# Later classes win: where the head of a family shares its row with a member, the member is raised.
_REPLY_CLASSES: dict[ReplyCode, type[ReplyError]] = {
    cls.reply_code: cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, ReplyError) and "reply_code" in vars(cls)
}


def reply_class(code: int, dialect: Dialect) -> type[ReplyError]:
    """Return the class of a failing reply: what `code` means in `dialect`, or `UnknownReply`."""
    row = codes.reply_row(code, dialect)
    return UnknownReply if row is None else _REPLY_CLASSES.get(row, UnknownReply)


def reply_error(code: int, dialect: Dialect) -> ReplyError:
    """
    Return the exception for a failing reply.

    :param code: the REP byte, not 0.
    :param dialect: the table in which the proxy that sent it speaks.
    """
    return reply_class(code, dialect)(code=code)


def proxy_unreachable(cause: BaseException, place: str | None = None) -> ProxyUnreachable:
    """
    Return the exception for a proxy that could not be reached.

    :param cause: why: an exception of `twisted.internet.error`.
    :param place: the proxy's address, as ``HOST:PORT``; ``None`` if it is not known.
    """
    kinds = (ProxyRefused, ProxyNotFound, ProxyNetworkUnreachable, ProxyTimedOut)
    cls = next((kind for kind in kinds if isinstance(cause, kind.__bases__[1:])), ProxyUnreachable)
    at = "" if place is None else f" at {place}"
    why = str(cause).rstrip(".")
    error = cls(f"the proxy{at} could not be reached ({why}): check that it runs, and its address")
    error.osError = cause.osError if isinstance(cause, ConnectError) else None
    error.__cause__ = cause
    return error


def authentication_error(method: Method, status: int, pairs: Pairs = NO_PAIRS) -> AuthenticationFailed:
    """Return the exception for a failing STATUS of RFC 1929 or of proposal 229."""
    if method != Method.EXTENDED or status == codes.Status.AUTHENTICATION_FAILED:
        return AuthenticationFailed(status=status, pairs=pairs)
    if status == codes.Status.INVALID_ARGUMENTS:
        return InvalidArguments(_with_reason(InvalidArguments.message, pairs), status=status, pairs=pairs)
    return UnknownStatus(f"{UnknownStatus.message} (0x{status:02X})", status=status, pairs=pairs)


def _with_reason(message: str, pairs: Pairs) -> str:
    """Return `message` with the proxy's own reason, without characters that control a terminal."""
    said = "".join(c for c in pairs.get(ERROR, b"").decode("ascii", "replace")[:200] if c.isprintable())
    return f"{message} (it said {said!r})" if said else message
