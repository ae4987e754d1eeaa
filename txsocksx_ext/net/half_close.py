"""
Half-close on transports of Twisted's that close both directions at once.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import alsoProvides

from .tls import TLSTransport

_BEFORE_HANDSHAKE = b"before SSL initialization"
"""OpenSSL's name for the state of a connection that has neither sent nor received."""


def can_half_close(transport: Any) -> bool:
    """
    Return whether the transport can close its sending side alone.

    Twisted's TLS closes both sides, and a wrapper around it would half-close the TCP
    connection below it. Standard input and output, which cannot be reset, are
    never closed completely after a half-close.
    """
    while isinstance(transport, ProtocolWrapper):
        if isinstance(transport, (TLSTransport, TLSMemoryBIOProtocol)):
            return isinstance(transport, TLSTransport)
        transport = transport.transport
    is_divisible = hasattr(transport, "loseWriteConnection") and hasattr(transport, "abortConnection")
    return is_divisible and not ISSLTransport.providedBy(transport)


def end_writing(transport: Any) -> None:
    """Close the sending side of a transport, or both sides if they cannot be closed separately."""
    if can_half_close(transport):
        transport.loseWriteConnection()
    else:
        transport.loseConnection()


def with_half_close(transport: Any) -> Any:
    """
    Make a new connection support half-close, also through Twisted's wrappers for TLS and the PROXY protocol.

    Call this in ``connectionMade``, before anything is written.

    :returns: the transport that the protocol has to use.
    """
    if not isinstance(transport, ProtocolWrapper) or isinstance(transport, TLSTransport):
        return transport
    wrapper: Any = transport
    below = wrapper.transport = with_half_close(wrapper.transport)
    if isinstance(wrapper, TLSMemoryBIOProtocol):
        # Once the handshake has begun, Twisted's TLS may hold data.
        is_new = wrapper.getHandle() is not None and wrapper.getHandle().get_state_string() == _BEFORE_HANDSHAKE
        return TLSTransport(wrapper, can_half_close(below) and _is_told_of_ends(wrapper)) if is_new else wrapper
    if can_half_close(wrapper):
        _pass_half_close(wrapper)
    return wrapper


def _is_told_of_ends(tls: TLSMemoryBIOProtocol) -> bool:
    """Return whether the transport below TLS reports the end of each direction; make it do so if it can."""
    below: Any = tls.transport
    told = getattr(below, "protocol", None)
    if getattr(told, "_wrappedProtocol", None) is tls:
        # Twisted's endpoints put a protocol between, which was asked before for the interfaces that it provides.
        alsoProvides(told, IHalfCloseableProtocol)
        return True
    # Any other protocol between, such as a tunnel of txtorcon's, does not pass the end of input on.
    return told is tls or isinstance(below, ProtocolWrapper)


def _pass_half_close(wrapper: Any) -> None:
    """Have a wrapper pass the end of each direction on to its protocol."""

    # Look the protocol up each time, because it changes at the hand-over.
    def read_connection_lost() -> None:
        protocol = IHalfCloseableProtocol(wrapper.wrappedProtocol, None)
        if protocol is None:
            wrapper.transport.loseConnection()
        else:
            protocol.readConnectionLost()

    def write_connection_lost() -> None:
        protocol = IHalfCloseableProtocol(wrapper.wrappedProtocol, None)
        if protocol is not None:
            protocol.writeConnectionLost()

    wrapper.readConnectionLost, wrapper.writeConnectionLost = read_connection_lost, write_connection_lost
    alsoProvides(wrapper, IHalfCloseableProtocol)
