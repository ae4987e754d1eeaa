"""
What to tell of a proxy that does not answer as one, or not at all.

Each message says what was seen, and what a person can check.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    SSL4ClientEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.error import ConnectionRefusedError

from ..addresses import host_and_port
from ..errors import NoAcceptableMethod, ProtocolViolation, ProxyUnreachable
from ..failures import proxy_unreachable
from ..protocol.codes import Method
from ..protocol.decoding import Fault, MalformedMessage
from ..protocol.foreign import protocol_of

TLS_FAULT = (
    "no TLS could be begun with the proxy: check that it speaks TLS, its certificate,"
    " and that it is the proxy that you meant"
)
NOT_CONNECTED = "the connection to the proxy was not made in time: check its address and port, and that it runs"


def closed_without_answer(speaks: str) -> str:
    """Return what to tell of a proxy that closed the connection; `speaks` names the protocol that it should speak."""
    often = " tor does so with requests that it cannot parse, and some proxies with every failure;" * (speaks == "HTTP")
    return (
        f"the proxy closed the connection before it answered anything:{often}"
        f" is this {_a(speaks)} proxy? Check its address and port, and its log"
    )


def never_answered(speaks: str) -> str:
    """Return what to tell of a proxy that was silent."""
    return (
        f"the proxy did not answer at all in time: is this {_a(speaks)} proxy?"
        " Check its address and port, or give it more time"
    )


def _a(speaks: str) -> str:
    return f"an {speaks}" if speaks == "HTTP" else f"a {speaks}"


def violation_error(violation: MalformedMessage, received: bytes | bytearray, speaks: str) -> ProtocolViolation:
    """
    Return the exception for an answer that the protocol does not have.

    :param received: what was not decoded, from the first byte of the faulty message on.
    :param speaks: the protocol that the proxy should speak.
    """
    name = protocol_of(received) if violation.fault is Fault.VERSION else None
    if name is None and speaks != "SOCKS5" and received[:1] == b"\x05":
        name = "SOCKS5"
    if name is None or name == speaks:
        said = f"the proxy does not speak {speaks} as it should: check that the address is {_a(speaks)} proxy's"
        return ProtocolViolation(f"{said} ({violation})")
    hint = ", or connect to it by TLS" if name == "TLS" else ""
    return ProtocolViolation(f"the proxy speaks {name}, not {speaks}: check its address and port{hint}")


def echo_error(speaks: str) -> ProtocolViolation:
    """Return the exception for an answer that is our own greeting."""
    return ProtocolViolation(
        f"the proxy sends back what it gets, so it is no {speaks} proxy: check its address and port"
    )


def no_acceptable_method(offered: tuple[Method, ...]) -> NoAcceptableMethod:
    """
    Return the exception for a proxy that selected none of the methods.

    :param offered: those that were offered to it.
    """
    if Method.NO_AUTHENTICATION in offered:
        has_login = Method.USERNAME_PASSWORD in offered
        guess = "it may want another one, such as GSSAPI" if has_login else "it may want a user name and password"
    elif Method.USERNAME_PASSWORD in offered:
        guess = 'it may have no authentication: offer "anonymous" too if the user name may be left out'
    else:
        guess = "it may not know method 0x97, the only one that carries pairs"
    shown = ", ".join(f"0x{method:02X}" for method in offered)
    return NoAcceptableMethod(f"the proxy accepts none of the authentication methods offered ({shown}): {guess}")


def refused_error(address: IPv4Address | IPv6Address) -> ProxyUnreachable:
    """Return the exception for a proxy at a port of this machine where nothing listens."""
    return proxy_unreachable(ConnectionRefusedError(), host_and_port(address.host, address.port))


def place_of(endpoint: Any) -> str | None:
    """
    Return where an endpoint of Twisted's leads, below any TLS, for people to read.

    None of them has a public name for it. Return ``None`` for endpoints of other packages, which may have
    secrets in their arguments.
    """
    while hasattr(endpoint, "_wrappedEndpoint"):
        endpoint = endpoint._wrappedEndpoint
    if isinstance(endpoint, UNIXClientEndpoint):
        return str(endpoint._path)
    if isinstance(endpoint, HostnameEndpoint):
        host = endpoint._hostText
    elif isinstance(endpoint, (TCP4ClientEndpoint, TCP6ClientEndpoint, SSL4ClientEndpoint)):
        host = endpoint._host
    else:
        return None
    return host_and_port(host, endpoint._port)
