"""
Every exception, and which reply code is which, by dialect.

In programs that import txtorcon, all derive from `txtorcon.socks.SocksError` too,
and those for which txtorcon has a class also from that class, so that existing
``except`` clauses hold (see `txtorcon_bases`).
None derives from `OSError`, which other layers retry or swallow.

Each has ``code``, the reply code (an int that prints as ``0xE0``) or ``None`` where
none was sent, and ``message``, which says what happened and what a person can do.
"""

from __future__ import annotations

import enum
from dataclasses import replace

from .protocol import codes
from .protocol.codes import Byte, Dialect, Method, ReplyCode
from .protocol.pairs import ERROR, NO_PAIRS, Pairs
from .txtorcon_bases import TxtorconRelated, link_to_txtorcon


class SOCKS5Error(TxtorconRelated):
    """
    Anything that can go wrong between us and the target, through a proxy.

    :ivar row: what a server of ours answers when a way out fails like this. It
        is the class's, unless more is known of one failure.
    """

    row: ReplyCode = codes.GENERAL_FAILURE
    code: int | None = None
    message: str = "the proxy could not do it: its own log may tell more"

    def __init__(self, message: str = "", code: int | None = None) -> None:
        super().__init__(message or self.message)
        self.message = message or self.message
        self.code = self.code if code is None else Byte(code)


class Retry(str, enum.Enum):
    """Whether to try again what failed."""

    NOW = "now"
    LATER = "later"
    NEVER = "never"


# What a reply said: RFC 1928.


class ReplyError(SOCKS5Error):
    """The proxy answered the request with a failure."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "row" in vars(cls):
            cls.code = cls.row.number

    def with_plain_code(self, plain: int) -> ReplyError:
        """Return this error, to be told as `plain` to clients that know RFC 1928's codes alone."""
        self.row = replace(self.row, plain=plain)
        return self


class GeneralServerFailure(ReplyError):
    """0x01: general SOCKS server failure (RFC 1928)."""

    row = codes.GENERAL_FAILURE
    message = "the proxy failed and did not say how: its own log may tell more"


class ConnectionNotAllowed(ReplyError):
    """0x02: connection not allowed by ruleset (RFC 1928)."""

    row = codes.NOT_ALLOWED
    message = "the proxy's rules do not allow this target: ask who runs the proxy"


class NetworkUnreachable(ReplyError):
    """0x03: network unreachable (RFC 1928)."""

    row = codes.NETWORK_UNREACHABLE
    message = "the proxy has no way to the target's network: check the proxy's own network"


class HostUnreachable(ReplyError):
    """0x04: host unreachable (RFC 1928)."""

    row = codes.HOST_UNREACHABLE
    message = "the target was not found or cannot be reached: check its name"


class ConnectionRefused(ReplyError):
    """0x05: connection refused (RFC 1928)."""

    row = codes.CONNECTION_REFUSED
    message = "the target refused the connection: check the port, and that the service runs"


class TTLExpired(ReplyError):
    """0x06: TTL expired (RFC 1928)."""

    row = codes.TTL_EXPIRED
    message = "the target did not answer the proxy in time: try again later"


class CommandNotSupported(ReplyError):
    """0x07: command not supported (RFC 1928)."""

    row = codes.COMMAND_NOT_SUPPORTED
    message = "the proxy does not know this command: only tor and proxies like it resolve names"


class AddressTypeNotSupported(ReplyError):
    """0x08: address type not supported (RFC 1928)."""

    row = codes.ADDRESS_TYPE_NOT_SUPPORTED
    message = "the proxy cannot reach addresses of this type: try the name or another type"


class UnknownReply(ReplyError):
    """A code that has no meaning in the dialect spoken. `code` keeps its number."""

    def __init__(self, message: str = "", code: int | None = None) -> None:
        shown = "" if code is None else f" 0x{code:02X}"
        super().__init__(
            message or f"the proxy failed with the unknown reply code{shown}: its documentation may know it", code
        )


# Onion services.


class OnionServiceError(ReplyError):
    """The onion service was not reached. Which of the two it was, a subclass says."""

    row = codes.ONION_SERVICE_NOT_REACHABLE
    message = "the onion service was not reached: check its address, or try again later"


class OnionServiceNotFound(OnionServiceError):
    """0xE0: there is no such service, as far as Tor's directories know."""

    row = codes.ONION_SERVICE_NOT_FOUND
    message = "there is no such onion service: check the address, or ask its owner whether it moved"


class OnionServiceNotReachable(OnionServiceError):
    """0xE1: the service was found or may exist, and could not be reached."""

    row = codes.ONION_SERVICE_NOT_REACHABLE
    message = "the onion service could not be reached: it may be down, try again later"


class OnionDescriptorNotFound(OnionServiceNotFound):
    """Tor's 0xF0: no directory has the service's descriptor."""

    row = codes.DESCRIPTOR_NOT_FOUND


class OnionAddressInvalid(OnionServiceNotFound):
    """Tor's 0xF6: the address is not an onion service's."""

    row = codes.ONION_ADDRESS_INVALID
    message = "this is not an address that an onion service can have: check it for a typing error"


class OnionDescriptorInvalid(OnionServiceNotReachable):
    """Tor's 0xF1: the service's descriptor is invalid."""

    row = codes.DESCRIPTOR_INVALID
    message = "the onion service's descriptor cannot be used: its owner, or a newer tor, can mend that"


class OnionIntroductionFailed(OnionServiceNotReachable):
    """Tor's 0xF2: no introduction point led to the service."""

    row = codes.INTRODUCTION_FAILED
    message = "the onion service is known, and no introduction point leads to it: it is probably down"


class OnionRendezvousFailed(OnionServiceNotReachable):
    """Tor's 0xF3: the service did not come to the rendezvous."""

    row = codes.RENDEZVOUS_FAILED
    message = "the onion service is known, and did not come to the rendezvous: try again later"


class OnionClientAuthRequired(OnionServiceNotReachable):
    """Tor's 0xF4: the service needs a client authorization key."""

    row = codes.CLIENT_AUTHORIZATION_MISSING
    message = "the onion service asks for a client authorization key: get one from its owner, give it to tor"


class OnionClientAuthWrong(OnionServiceNotReachable):
    """Tor's 0xF5: the client authorization key is wrong."""

    row = codes.CLIENT_AUTHORIZATION_WRONG
    message = "the onion service does not accept tor's client authorization key: ask its owner for a new one"


class OnionIntroductionTimedOut(OnionServiceNotReachable):
    """Tor's 0xF7: the introduction timed out."""

    row = codes.INTRODUCTION_TIMED_OUT
    message = "the onion service is known, and its introduction points did not answer: try again later"


# Pluggable transports.


class TransportError(ReplyError):
    """
    The pluggable transport failed.

    :cvar retry: what proposal 229 (section 2.2) says of trying again.
    """

    row = codes.TRANSPORT_INTERNAL_ERROR
    message = "the pluggable transport failed: its own log may tell more"
    retry: Retry = Retry.LATER


class TransportTemporaryFailure(TransportError):
    """0xF0 of proposal 229: the transport's temporary failure."""

    row = codes.TRANSPORT_TEMPORARY_FAILURE
    message = "the transport failed this once: try again at once"
    retry = Retry.NOW


class TransportProtocolFailure(TransportError):
    """0xF1 of proposal 229: the transport's protocol failure."""

    row = codes.TRANSPORT_PROTOCOL_FAILURE
    message = "the bridge does not speak this transport with these arguments: get another bridge line"
    retry = Retry.NEVER


class MissingArgument(TransportProtocolFailure, KeyError):
    """An argument that the transport needs was not given: 0xF1, because these parameters never work."""

    message = "the transport needs an argument that was not given: see what its bridge lines have to hold"

    def __str__(self) -> str:
        return str(self.message)


class TransportInternalError(TransportError):
    """0xF2 of proposal 229: the transport's internal error."""

    row = codes.TRANSPORT_INTERNAL_ERROR
    message = "the transport itself failed: let it restart, and try again after a pause"
    retry = Retry.LATER


# Before there was a reply.


class NoAcceptableMethod(SOCKS5Error):
    """The proxy took none of the methods that we offered."""

    message = "the proxy accepts none of the authentication methods offered: ask who runs it which ones it takes"


class AuthenticationFailed(SOCKS5Error):
    """
    The proxy did not let us in (RFC 1929, or STATUS 0x01 of proposal 229).

    :ivar status: the STATUS byte; ``None`` where the proxy sent none.
    :ivar pairs: the pairs of the answer.
    """

    message = "the proxy does not let us in: check the user name and password, or the pairs"

    def __init__(self, message: str = "", *, status: int | None = 1, pairs: Pairs = NO_PAIRS) -> None:
        super().__init__(message)
        self.status: int | None = None if status is None else Byte(status)
        self.pairs = pairs


class InvalidArguments(AuthenticationFailed):
    """
    STATUS 0x02: the proxy does not accept the pairs.

    A server that raises it names the key in `message`, never its value: the
    client gets that text in an ``ERROR`` pair.
    """

    message = "the proxy does not take these arguments: check the keys and values of the pairs"

    def __init__(self, message: str = "", *, status: int | None = 2, pairs: Pairs = NO_PAIRS) -> None:
        super().__init__(message, status=status, pairs=pairs)


class UnknownStatus(AuthenticationFailed):
    """A STATUS that proposal 229 does not define: a failure, with its number in `status`."""

    message = "the proxy refused the authentication with a status that only it knows: see its documentation"


class ProtocolViolation(SOCKS5Error):
    """The other side broke the protocol: it is no SOCKS5 proxy, or a faulty one."""

    message = "the proxy does not speak SOCKS5 as it should: check that the address is a SOCKS5 proxy's"


class ProxyClosed(SOCKS5Error):
    """The proxy closed the connection before it answered."""

    message = "the proxy closed the connection before it answered: see its log, or try again later"


class ProxyUnreachable(SOCKS5Error):
    """The proxy itself could not be reached."""

    message = "the proxy could not be reached: check that it runs, and its address"


class HandshakeTimeout(SOCKS5Error):
    """The deadline passed before the proxy had answered."""

    row = codes.TTL_EXPIRED
    message = "the proxy did not answer in time: try again later, or give it more time"


class CleartextRefused(SOCKS5Error):
    """
    The connection to the proxy can be read by others, so no secret was sent.

    That a proxy at the end of a tunnel is on this machine cannot be seen: there only TLS inside the tunnel counts.

    Proposal 229, section 4, forbids the protocol where sniffing is possible.
    """

    message = (
        "the proxy is not seen to be on this machine or behind TLS, so neither password nor pairs were sent: "
        "use TLS, or allow_cleartext if you must"
    )


link_to_txtorcon(
    {
        SOCKS5Error: "SocksError",
        GeneralServerFailure: "GeneralServerFailureError",
        ConnectionNotAllowed: "ConnectionNotAllowedError",
        NetworkUnreachable: "NetworkUnreachableError",
        HostUnreachable: "HostUnreachableError",
        ConnectionRefused: "ConnectionRefusedError",
        TTLExpired: "TtlExpiredError",
        CommandNotSupported: "CommandNotSupportedError",
        AddressTypeNotSupported: "AddressTypeNotSupportedError",
        # What tor sends for these to clients that know RFC 1928 alone.
        OnionServiceError: "HostUnreachableError",
        TransportError: "GeneralServerFailureError",
    }
)

# Later classes win: where the head of a family shares its row with a member, the member is raised.
_REPLY_CLASSES: dict[ReplyCode, type[ReplyError]] = {
    cls.row: cls
    for cls in list(globals().values())
    if isinstance(cls, type) and issubclass(cls, ReplyError) and "row" in vars(cls)
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


def authentication_error(method: Method, status: int, pairs: Pairs = NO_PAIRS) -> AuthenticationFailed:
    """Return the exception for a failing STATUS of RFC 1929 or of proposal 229."""
    if method != Method.EXTENDED or status == codes.Status.AUTHENTICATION_FAILED:
        return AuthenticationFailed(status=status, pairs=pairs)
    if status == codes.Status.INVALID_ARGUMENTS:
        return InvalidArguments(_with_reason(InvalidArguments.message, pairs), status=status, pairs=pairs)
    return UnknownStatus(f"{UnknownStatus.message} (0x{status:02X})", status=status, pairs=pairs)


def _with_reason(message: str, pairs: Pairs) -> str:
    """`message`, and what the proxy said of it, with nothing that a terminal could obey."""
    said = "".join(c for c in pairs.get(ERROR, b"").decode("ascii", "replace")[:200] if c.isprintable())
    return f"{message} (it said {said!r})" if said else message
