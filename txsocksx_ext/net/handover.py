"""
Sockets, taken away from Twisted's transports when those have done their work.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from functools import lru_cache
from typing import Any

from twisted.internet import tcp, unix

from .poller import Poller, Watcher
from .transport import SocketTransport
from .twisted_transports import is_closing, keep_alive

_PLAIN_TRANSPORTS: tuple[type, ...] = (
    SocketTransport,
    unix.Server,
    unix.Client,
    tcp.Server,
    tcp.Client,
)

_DATA_PATH = (
    "doRead",
    "_dataReceived",
    "write",
    "writeSequence",
    "writeSomeData",
    "doWrite",
    "readConnectionLost",
    "connectionLost",
)
"""The methods through which bytes go, and the ends of connections."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@lru_cache(maxsize=64)
def _is_plain(kind: type) -> bool:
    """Return whether transports of this class do with bytes what Twisted's plain ones do, and no more."""
    plain = next((each for each in _PLAIN_TRANSPORTS if issubclass(kind, each)), None)
    return plain is not None and all(getattr(kind, name) is getattr(plain, name) for name in _DATA_PATH)


def _has_sent_all(transport: Any) -> bool:
    """Return whether a transport is a plain one, whose sending side is open, and has sent what it was given."""
    return bool(
        _is_plain(type(transport))  # type: ignore[arg-type]  # mypy does not see that a class can be hashed
        and transport.connected
        and not transport.TLS
        and not is_closing(transport)
        and not transport._writeDisconnecting
        and not transport._tempDataLen
        and len(transport.dataBuffer) == transport.offset
    )


def can_take(transport: Any) -> bool:
    """
    Return whether the socket of a transport is all that there is to it.

    It is not where TLS or another wrapper is around it, or a subclass sees the
    bytes; and not while the transport is closing, has bytes to send, or serves
    a producer.
    """
    if type(transport) is SocketTransport:
        return transport.has_sent_all and transport.producer is None
    return _has_sent_all(transport) and transport.producer is None


def take_socket(transport: Any, poller: Poller, watcher: Watcher) -> tuple[socket.SocketType, int]:
    """
    Take the socket of a transport that `can_take` admits, and have the poller tell `watcher` of it.

    The system keeps its connection alive from now on.

    The transport is dead then, and to close it or to write to it does nothing.
    Its protocol is told nothing, and can be replaced by `hand_over` as before.

    :returns: the socket, non-blocking, and the events that the poller will not
        tell again, since it has told them to the transport.
    :raises OSError: the poller cannot watch one more; nothing was changed.
    """
    taken: socket.SocketType = transport.socket
    if isinstance(transport, SocketTransport):
        events = transport.events
        transport.has_sent_all = False
        poller.replace(taken.fileno(), watcher)
    else:
        events = 0
        # The sockets of our own transports were made so.
        keep_alive(transport)
        poller.watch(taken.fileno(), watcher)
        transport.stopReading()
        transport.stopWriting()
    transport.connected, transport.disconnected = 0, 1
    # As Twisted does when a connection is lost: what its class says is no descriptor.
    del transport.socket, transport.fileno
    return taken, events


def write_now(transport: Any, data: bytes) -> None:
    """
    Send at once, if the transport is a plain one with nothing before that; otherwise in its own time.

    Twisted would send in the reactor's next turn, and ask the system twice for that.
    """
    if isinstance(transport, SocketTransport):
        transport.write(data)
        return
    sent = 0
    if _has_sent_all(transport):
        try:
            sent = transport.socket.send(data)
        except OSError:
            # It is full or lost, as the transport will find out by itself.
            sent = 0
    if sent < len(data):
        transport.write(data[sent:])


def reset_socket(to_close: socket.SocketType) -> None:
    """Close a socket so that its peer sees a reset, and what was not sent is thrown away."""
    # A connection that is gone already takes no options.
    with suppress(OSError):
        to_close.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    to_close.close()
