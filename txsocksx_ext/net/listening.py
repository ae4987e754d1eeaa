"""
Accepting connections through the poller.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure
from zope.interface import implementer

from .poller import Poller, log_fault, poller_of
from .transport import STREAM, SocketTransport, address_of, keep_socket_alive

ACCEPTS_IN_A_TURN = 64
"""Connections that are accepted before other sockets are served."""


@implementer(IListeningPort)
class PolledPort:
    """
    Accepts connections in place of one of Twisted's ports. See `polled`.
    """

    def __init__(self, port: Any, poller: Poller, accepts_in_a_turn: int) -> None:
        self._port = port
        self._accepts_in_a_turn = accepts_in_a_turn
        self._poller = poller
        self._family = int(port.socket.family)
        self._is_listening = True
        keep_socket_alive(port.socket)
        port.stopReading()
        poller.watch(port.fileno(), self)

    def startListening(self) -> None:
        """See `IListeningPort`."""
        self._port.startListening()

    def stopListening(self) -> Deferred[None] | None:
        """See `IListeningPort`."""
        if self._is_listening:
            self._is_listening = False
            self._poller.detach(self._port.fileno())
        stopped: Deferred[None] | None = self._port.stopListening()
        return stopped

    def getHost(self) -> Any:
        """See `IListeningPort`."""
        return self._port.getHost()

    def ready(self, events: int) -> None:
        """See `txsocksx_ext.net.poller.Watcher`. A fault in one connection must not delay the others."""
        try:
            have_all = self._accept_some(self._port.socket)
        except BaseException:  # of any kind: the port must go on
            log_fault()
            have_all = False
        if not have_all and self._is_listening:
            self._poller.rearm(self._port.fileno())

    def abandon(self, why: str) -> None:
        """See `txsocksx_ext.net.poller.Watcher`."""
        self._is_listening = False
        self._poller.unregister(self._port.fileno())
        self._port.connectionLost(Failure(ConnectionDone()))

    def _accept_some(self, listening: socket.socket) -> bool:
        """Accept connections; return whether none is left."""
        # Not socket.accept(), which converts enumeration members for each connection.
        accept = listening._accept  # type: ignore[attr-defined]  # private
        for _ in range(self._accepts_in_a_turn):
            try:
                descriptor, address = accept()
            except BlockingIOError:
                return True
            except OSError:
                # Too many open files, or a client that has left: Twisted's port handles these.
                self._port.doRead()
                return False
            self._serve(socket.SocketType(self._family, STREAM, 0, descriptor), address)
            if not self._is_listening:
                return True
        return False

    def _serve(self, accepted: socket.SocketType, address: tuple[Any, ...]) -> None:
        peer = address_of(address)
        try:
            protocol = self._port.factory.buildProtocol(peer)
            if protocol is None:
                accepted.close()
                return
            accepted.setblocking(False)
            transport = SocketTransport(accepted, protocol, peer, self._poller, 0, True)
            self._poller.watch(accepted.fileno(), transport)
        except BaseException:  # of any kind: leave no socket open
            accepted.close()
            raise
        protocol.makeConnection(transport)


def polled(port: Any, accepts_in_a_turn: int = ACCEPTS_IN_A_TURN) -> Any:
    """
    Have the poller accept a port's connections, if the port is plain TCP and its reactor has a poller.

    :param port: the result of an endpoint's ``listen``.
    :param accepts_in_a_turn: connections that the poller accepts before it serves other sockets.
    :returns: the port to stop instead of `port`.
    """
    poller = poller_of(port.reactor) if type(port) is tcp.Port else None
    return port if poller is None else PolledPort(port, poller, accepts_in_a_turn)
