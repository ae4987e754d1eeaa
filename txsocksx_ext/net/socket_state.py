"""
The state of the socket below a transport.
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
    """Return the transport below wrappers such as TLS."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def reactor_of(transport: Any) -> Any:
    """Return the reactor of a connection. In tests it may not be the global one."""
    reactor = getattr(socket_transport(transport), "reactor", None)
    if reactor is None:
        from twisted.internet import reactor
    return reactor


def was_reset(transport: Any) -> bool:
    """
    Return whether an apparent end of input is a reset.

    Twisted takes an error without input for an orderly end. The socket keeps the
    error until it is read once.
    """
    handle = transport.getHandle() if ISystemHandle.providedBy(transport) else None
    return isinstance(handle, socket.SocketType) and handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def unacknowledged(transport: Any) -> int:
    """
    Return the number of sent bytes that the peer has not acknowledged; 0 if the system cannot tell.

    :param transport: a socket, or its transport, perhaps with wrappers.
    """
    try:
        answer = ioctl(socket_transport(transport).fileno(), TIOCOUTQ, bytes(4))
    except (AttributeError, OSError, ValueError):  # there is no descriptor, or it is not a socket's
        return 0
    return int.from_bytes(answer, sys.byteorder)
