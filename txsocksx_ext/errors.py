"""
Every exception, and when to retry after it.

Handlers written for direct connections catch these too: each exception that is worth a retry derives from
the exceptions of `twisted.internet.error` of the same meaning. What must not be retried derives from none of them.

In programs that import txtorcon, all derive from `txtorcon.socks.SocksError` too,
and those for which txtorcon has a class also from that class, so that existing
``except`` clauses hold (see `txtorcon_bases`).

Each has ``code``, the reply code (an int that prints as ``0xE0``) or ``None`` where
none was sent, ``message``, which says what happened and what a person can do, and ``retry``.
"""

from __future__ import annotations

import enum
from dataclasses import replace

from twisted.internet.error import (
    ConnectError,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TCPTimedOutError,
    TimeoutError,
)

from .protocol import codes
from .protocol.codes import Byte, ReplyCode
from .protocol.pairs import NO_PAIRS, Pairs
from .txtorcon_bases import TxtorconRelated, link_to_txtorcon


class Retry(str, enum.Enum):
    """Whether to try again what failed."""

    NOW = "now"
    LATER = "later"
    NEVER = "never"


class SOCKS5Error(TxtorconRelated, txtorcon="SocksError"):
    """
    Any failure between us and the target, through a proxy.

    :ivar reply_code: the code with which our server replies when a route fails with it. The
        class's, unless more is known of one failure.
    :ivar retry: whether another attempt can succeed without a change to the configuration.
    :ivar osError: the system's error number, if known: an attribute of Twisted's `ConnectError`.
    :ivar status: the number that the proxy answered beside a reply code: HTTP's status, SOCKS4's code, or the STATUS
        of an authentication; ``None`` if it sent none.
    :ivar reasons: why an HTTP proxy failed, as the tokens of ``Tor-Request-Failed``, such as ``end/RESOLVEFAILED``.
    """

    reply_code: ReplyCode = codes.GENERAL_FAILURE
    code: int | None = None
    message: str = "the proxy failed: its own log may tell more"
    retry: Retry = Retry.LATER
    osError: int | None = None
    status: int | None = None
    reasons: tuple[str, ...] = ()

    def __init__(self, message: str = "", code: int | None = None) -> None:
        self.message = message or self.message
        # Not by `super().__init__`: Twisted's classes and OSError expect other arguments.
        self.args = (self.message,)
        self.code = self.code if code is None else Byte(code)

    def __str__(self) -> str:
        # Twisted's classes would put their docstring before it.
        return str(self.args[0]) if self.args else self.message


# What a reply said: RFC 1928.


class ReplyError(SOCKS5Error):
    """
    The proxy answered the request with a failure.

    :ivar relay_reason: the reason that a relay of Tor's ended the stream with, such as ``CONNECTREFUSED``; empty
        where none is known to have done so.
    """

    relay_reason = ""

    def __init_subclass__(cls, txtorcon: str | None = None) -> None:
        super().__init_subclass__(txtorcon)
        if "reply_code" in vars(cls):
            cls.code = cls.reply_code.number

    def with_plain_code(self, plain: int) -> ReplyError:
        """Return this error, with `plain` as its code for clients that understand only RFC 1928's codes."""
        self.reply_code = replace(self.reply_code, plain=plain)
        return self


class GeneralServerFailure(ReplyError, ConnectError, txtorcon="GeneralServerFailureError"):
    """0x01: general SOCKS server failure (RFC 1928)."""

    reply_code = codes.GENERAL_FAILURE
    message = "the proxy failed and did not say how: its own log may tell more"


class ConnectionNotAllowed(ReplyError, txtorcon="ConnectionNotAllowedError"):
    """0x02: connection not allowed by ruleset (RFC 1928)."""

    reply_code = codes.NOT_ALLOWED
    message = "the proxy's rules do not allow this target: ask who runs the proxy"
    retry = Retry.NEVER


class NetworkUnreachable(ReplyError, NoRouteError, txtorcon="NetworkUnreachableError"):
    """0x03: network unreachable (RFC 1928)."""

    reply_code = codes.NETWORK_UNREACHABLE
    message = "the proxy has no route to the target's network: check the proxy's own network"


class HostUnreachable(ReplyError, DNSLookupError, NoRouteError, txtorcon="HostUnreachableError"):
    """0x04: host unreachable (RFC 1928)."""

    reply_code = codes.HOST_UNREACHABLE
    message = "the target was not found or cannot be reached: check its name"


class ConnectionRefused(ReplyError, ConnectionRefusedError, txtorcon="ConnectionRefusedError"):
    """0x05: connection refused (RFC 1928)."""

    reply_code = codes.CONNECTION_REFUSED
    message = "the target refused the connection: check the port, and that the service runs"


class TTLExpired(ReplyError, TimeoutError, txtorcon="TtlExpiredError"):
    """0x06: TTL expired (RFC 1928)."""

    reply_code = codes.TTL_EXPIRED
    message = "the target did not answer the proxy in time: try again later"


class CommandNotSupported(ReplyError, txtorcon="CommandNotSupportedError"):
    """0x07: command not supported (RFC 1928)."""

    reply_code = codes.COMMAND_NOT_SUPPORTED
    message = "the proxy does not know this command: only tor and proxies like it resolve names"
    retry = Retry.NEVER


class AddressTypeNotSupported(ReplyError, txtorcon="AddressTypeNotSupportedError"):
    """0x08: address type not supported (RFC 1928)."""

    reply_code = codes.ADDRESS_TYPE_NOT_SUPPORTED
    message = "the proxy cannot reach addresses of this type: try the name or another type"
    retry = Retry.NEVER


class UnknownReply(ReplyError, ConnectError):
    """A code that has no meaning in the dialect spoken. `code` keeps its number."""

    def __init__(self, message: str = "", code: int | None = None) -> None:
        shown = "" if code is None else f" 0x{code:02X}"
        super().__init__(
            message or f"the proxy failed with the unknown reply code{shown}: its documentation may know it", code
        )


# Onion services.


class OnionServiceError(ReplyError, txtorcon="HostUnreachableError"):
    """The onion service was not reached. The subclass says why."""

    reply_code = codes.ONION_SERVICE_NOT_REACHABLE
    message = "the onion service was not reached: check its address, or try again later"


class OnionServiceNotFound(OnionServiceError, DNSLookupError):
    """0xE0: there is no such service, as far as Tor's directories know."""

    reply_code = codes.ONION_SERVICE_NOT_FOUND
    message = "there is no such onion service: check the address, or ask its owner whether it moved"


class OnionServiceNotReachable(OnionServiceError, ConnectError):
    """0xE1: the service was found or may exist, and could not be reached."""

    reply_code = codes.ONION_SERVICE_NOT_REACHABLE
    message = "the onion service could not be reached: it may be down, try again later"


class OnionDescriptorNotFound(OnionServiceNotFound):
    """Tor's 0xF0: no directory has the service's descriptor."""

    reply_code = codes.DESCRIPTOR_NOT_FOUND


class OnionAddressInvalid(OnionServiceError):
    """Tor's 0xF6: the address is not an onion service's."""

    reply_code = codes.ONION_ADDRESS_INVALID
    message = "this is not an address that an onion service can have: check it for a typing error"
    retry = Retry.NEVER


class OnionDescriptorInvalid(OnionServiceNotReachable):
    """Tor's 0xF1: the service's descriptor is invalid."""

    reply_code = codes.DESCRIPTOR_INVALID
    message = "the onion service's descriptor cannot be used: its owner, or a newer tor, can mend that"


class OnionIntroductionFailed(OnionServiceNotReachable):
    """Tor's 0xF2: no introduction point led to the service."""

    reply_code = codes.INTRODUCTION_FAILED
    message = "the onion service is known, and no introduction point leads to it: it is probably down"


class OnionRendezvousFailed(OnionServiceNotReachable):
    """Tor's 0xF3: the service did not come to the rendezvous."""

    reply_code = codes.RENDEZVOUS_FAILED
    message = "the onion service is known, and did not come to the rendezvous: try again later"


class OnionClientAuthRequired(OnionServiceError):
    """Tor's 0xF4: the service needs a client authorization key."""

    reply_code = codes.CLIENT_AUTHORIZATION_MISSING
    message = "the onion service asks for a client authorization key: get one from its owner, give it to tor"
    retry = Retry.NEVER


class OnionClientAuthWrong(OnionServiceError):
    """Tor's 0xF5: the client authorization key is wrong."""

    reply_code = codes.CLIENT_AUTHORIZATION_WRONG
    message = "the onion service does not accept tor's client authorization key: ask its owner for a new one"
    retry = Retry.NEVER


class OnionIntroductionTimedOut(OnionServiceNotReachable, TimeoutError):
    """Tor's 0xF7: the introduction timed out."""

    reply_code = codes.INTRODUCTION_TIMED_OUT
    message = "the onion service is known, and its introduction points did not answer: try again later"


# Pluggable transports.


class TransportError(ReplyError, txtorcon="GeneralServerFailureError"):
    """The pluggable transport failed. ``retry`` is what proposal 229 (section 2.2) says of trying again."""

    reply_code = codes.TRANSPORT_INTERNAL_ERROR
    message = "the pluggable transport failed: its own log may tell more"


class TransportTemporaryFailure(TransportError, ConnectError):
    """0xF0 of proposal 229: the transport's temporary failure."""

    reply_code = codes.TRANSPORT_TEMPORARY_FAILURE
    message = "the transport failed this once: try again at once"
    retry = Retry.NOW


class TransportProtocolFailure(TransportError):
    """0xF1 of proposal 229: the transport's protocol failure."""

    reply_code = codes.TRANSPORT_PROTOCOL_FAILURE
    message = "the bridge does not speak this transport with these arguments: get another bridge line"
    retry = Retry.NEVER


class MissingArgument(TransportProtocolFailure, KeyError):
    """An argument that the transport needs was not given: 0xF1, because these parameters never work."""

    message = "the transport needs an argument that was not given: see what its bridge lines have to hold"


class TransportInternalError(TransportError, ConnectError):
    """0xF2 of proposal 229: the transport's internal error."""

    reply_code = codes.TRANSPORT_INTERNAL_ERROR
    message = "the transport itself failed: let it restart, and try again after a pause"


# Before there was a reply.


class NoAcceptableMethod(SOCKS5Error):
    """The proxy took none of the methods that we offered."""

    message = "the proxy accepts none of the authentication methods offered: ask who runs it which ones it takes"
    retry = Retry.NEVER


class AuthenticationFailed(SOCKS5Error):
    """
    The proxy did not let us in (RFC 1929, or STATUS 0x01 of proposal 229).

    :ivar status: the STATUS byte; ``None`` where the proxy sent none.
    :ivar pairs: the pairs of the answer.
    """

    message = "the proxy does not let us in: check the user name and password, or the pairs"
    retry = Retry.NEVER

    def __init__(self, message: str = "", *, status: int | None = 1, pairs: Pairs = NO_PAIRS) -> None:
        super().__init__(message)
        self.status = None if status is None else Byte(status)
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
    retry = Retry.NEVER


class ProxyClosed(SOCKS5Error, ConnectError):
    """The proxy closed the connection before it answered."""

    message = "the proxy closed the connection before it answered: see its log, or try again later"


class ProxyUnreachable(SOCKS5Error, ConnectError):
    """
    The proxy itself could not be reached.

    Where Twisted has a class for the reason, the exception is of a subclass that derives from that class too.
    """

    message = "the proxy could not be reached: check that it runs, and its address"


class ProxyRefused(ProxyUnreachable, ConnectionRefusedError):
    """Nothing listens at the proxy's address."""


class ProxyNotFound(ProxyUnreachable, DNSLookupError):
    """The proxy's name was not resolved."""


class ProxyNetworkUnreachable(ProxyUnreachable, NoRouteError):
    """There is no route to the proxy."""


class ProxyTimedOut(ProxyUnreachable, TimeoutError, TCPTimedOutError):
    """The connection to the proxy was not made in time."""


class HandshakeTimeout(SOCKS5Error, TimeoutError):
    """The deadline passed before the proxy had answered."""

    reply_code = codes.TTL_EXPIRED
    message = "the proxy did not answer in time: try again later, or give it more time"


class CleartextRefused(SOCKS5Error):
    """
    The connection to the proxy can be read by others, so no secret was sent (proposal 229, section 4).

    That a proxy at the end of a tunnel is on this machine cannot be seen: there only TLS inside the tunnel counts.
    """

    message = (
        "the proxy is not seen to be on this machine or behind TLS, so neither password nor pairs were sent: "
        "use TLS, or allow_cleartext if you must"
    )
    retry = Retry.NEVER


link_to_txtorcon()
