"""
What the system knows of the socket under a transport.
"""

from __future__ import annotations

import socket
import sys
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

from twisted.internet.interfaces import ISystemHandle
from twisted.protocols.policies import ProtocolWrapper


def socket_transport(transport: Any) -> Any:
    """Return the transport under the wrappers around one, such as TLS."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def reactor_of(transport: Any) -> Any:
    """Return the reactor of a connection, which in tests may be another than the global one."""
    reactor = getattr(socket_transport(transport), "reactor", None)
    if reactor is None:
        from twisted.internet import reactor
    return reactor


def was_reset(transport: Any) -> bool:
    """
    Return whether what looks like the end of a connection's input is a reset.

    Where a poller sees an error without input, Twisted takes it for an orderly
    end; the socket knows better, until it is asked.
    """
    handle = transport.getHandle() if ISystemHandle.providedBy(transport) else None
    return isinstance(handle, socket.SocketType) and handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def unacknowledged(transport: Any) -> int:
    """
    Return how many bytes the system has for a peer that the peer has not acknowledged; 0 where it cannot be asked.

    :param transport: a socket, or a transport of one, perhaps with wrappers around it.
    """
    try:
        answer = ioctl(socket_transport(transport).fileno(), TIOCOUTQ, bytes(4))
    except (AttributeError, OSError, ValueError):  # no descriptor, or none of a socket
        return 0
    return int.from_bytes(answer, sys.byteorder)
