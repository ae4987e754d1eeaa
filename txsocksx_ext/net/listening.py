"""
Connections that are in the poller from their first moment.
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
"""How many connections are accepted before others have their turn."""


@implementer(IListeningPort)
class PolledPort:
    """
    Accepts the connections of a port of Twisted's in its stead. See `polled`.
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
            self._poller.release(self._port.fileno())
        stopped: Deferred[None] | None = self._port.stopListening()
        return stopped

    def getHost(self) -> Any:
        """See `IListeningPort`."""
        return self._port.getHost()

    def ready(self, events: int) -> None:
        """See `txsocksx_ext.net.poller.Watcher`. A fault in one connection must not keep the others waiting."""
        try:
            have_all = self._accept_some(self._port.socket)
        except BaseException:
            log_fault()
            have_all = False
        if not have_all and self._is_listening:
            self._poller.again(self._port.fileno())

    def abandon(self, why: str) -> None:
        """See `txsocksx_ext.net.poller.Watcher`."""
        self._is_listening = False
        self._poller.forget(self._port.fileno())
        self._port.connectionLost(Failure(ConnectionDone()))

    def _accept_some(self, listening: socket.socket) -> bool:
        """Accept connections; whether there are no more."""
        # What `socket.accept` is made of: that looks up names of constants for each connection.
        accept = listening._accept  # type: ignore[attr-defined]
        for _ in range(self._accepts_in_a_turn):
            try:
                descriptor, address = accept()
            except BlockingIOError:
                return True
            except OSError:
                # There are too many open files, or the client is gone: Twisted knows what to do about it.
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
        except BaseException:
            accepted.close()
            raise
        protocol.makeConnection(transport)


def polled(port: Any, accepts_in_a_turn: int = ACCEPTS_IN_A_TURN) -> Any:
    """
    Have the poller accept a port's connections, where that is possible: a plain one, and a reactor with a poller.

    :param port: what an endpoint's ``listen`` fires with.
    :param accepts_in_a_turn: how many connections the poller accepts before others have their turn.
    :returns: the port to be stopped instead of `port`.
    """
    poller = poller_of(port.reactor) if type(port) is tcp.Port else None
    return port if poller is None else PolledPort(port, poller, accepts_in_a_turn)
