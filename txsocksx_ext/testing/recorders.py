"""
Protocols in a test's hand.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from ..checks import check_protocol_factory, check_type
from .connections import CLIENT_ADDRESS, SERVER_ADDRESS, Hangup, connect_in_memory


class Recorder(Protocol):
    """
    Keeps what it receives, and sends what a test wants: either end of a connection.

    :ivar received: all bytes so far.
    :ivar read_ended: whether the other end has closed its sending side, and
        this one did not close with it: see `HalfCloseRecorder`.
    :ivar lost: why the connection was lost, or ``None``.
    """

    transport: Any = None
    read_ended = False
    lost: Failure | None = None

    def __init__(self) -> None:
        self.received = b""
        self._waits: list[tuple[Callable[[Any], object], Deferred[None]]] = []

    def write(self, data: bytes) -> None:
        """Send `data`."""
        self.transport.write(data)
        self.settle()

    def end(self) -> None:
        """Close the sending side only."""
        self.transport.loseWriteConnection()
        self.settle()

    def close(self) -> None:
        """Close the connection."""
        self.transport.loseConnection()
        self.settle()

    def abort(self) -> None:
        """Reset the connection."""
        self.transport.abortConnection()
        self.settle()

    def settle(self) -> None:
        """On a connection in memory with a `Clock`: let all happen that needs no waiting."""
        clock = getattr(self.transport, "clock", None)
        if isinstance(clock, Clock):
            clock.advance(0)

    def until(self, condition: Callable[[Any], object]) -> Deferred[None]:
        """
        Wait for something to happen here.

        :param condition: called with this object, now and after each event.
        :returns: fires when `condition` has returned something true.
        """
        waiting: Deferred[None] = Deferred()
        self._waits.append((condition, waiting))
        self.happened()
        return waiting

    def happened(self) -> None:
        """Look at what is waited for, after an event."""
        for wait in list(self._waits):
            condition, waiting = wait
            if condition(self):
                self._waits.remove(wait)
                waiting.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.happened()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.happened()


@implementer(IHalfCloseableProtocol)
class HalfCloseRecorder(Recorder):
    """A `Recorder` that stays connected when the other end has closed its sending side."""

    def readConnectionLost(self) -> None:
        self.read_ended = True
        self.happened()

    def writeConnectionLost(self) -> None:
        """Our own end of sending is through."""


def connect_to(
    factory: IProtocolFactory,
    *,
    peer: IAddress = CLIENT_ADDRESS,
    address: IAddress = SERVER_ADDRESS,
    clock: IReactorTime | None = None,
    client: Recorder | None = None,
) -> Recorder:
    """
    Connect a client in memory to a server's factory.

    Then ``client.write(b"...")``, and look at ``client.received``.

    :param peer: the client's address, as the server sees it.
    :param address: the server's own.
    :param clock: by default the factory's ``reactor``, or else the global one.
    :param client: by default a new `Recorder`.
    :returns: `client`, connected; and closed by the server where `factory`
        built no protocol.
    :raises TypeError: an argument is of a wrong type.
    """
    check_protocol_factory("factory", factory)
    check_type("client", client, Recorder, NoneType)
    client = Recorder() if client is None else client
    connect_in_memory(
        client,
        factory.buildProtocol(peer) or Hangup(),
        clock=getattr(factory, "reactor", None) if clock is None else clock,
        client_address=peer,
        server_address=address,
    )
    client.settle()
    return client
