"""
The stream of a transport's user, as a Twisted transport.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IConsumer, IHalfCloseableProtocol, IPushProducer, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from .adapter import TransportAdapter


@implementer(IAddress)
class PayloadAddress:
    """The address of both ends of a payload stream, which is inside a transport and has none."""

    def __repr__(self) -> str:
        return "<PayloadAddress>"


@implementer(ITransport, IConsumer, IPushProducer)
class PayloadTransport:
    """
    The payload of one connection. It begins paused and buffers payload until it is resumed.

    :ivar protocol: gets the payload.
    """

    def __init__(self, adapter: TransportAdapter) -> None:
        self.protocol: Any = None
        self._adapter = adapter
        self._buffered: deque[bytes] = deque()
        self._is_paused = True
        self._end_is_due = False
        self._lost_for: Failure | None = None
        self._write_ended = False

    @property
    def connected(self) -> bool:
        """Whether the connection to the peer is open."""
        return not self._adapter.is_lost

    @property
    def disconnecting(self) -> bool:
        """Whether the connection to the peer is being closed."""
        return bool(getattr(self._adapter.transport, "disconnecting", False))

    @property
    def clock(self) -> Any:
        """The clock of a connection in memory."""
        return getattr(self._adapter.transport, "clock", None)

    def getPeer(self) -> IAddress:
        return PayloadAddress()

    def getHost(self) -> IAddress:
        return PayloadAddress()

    # From the user to the peer.

    def write(self, data: bytes) -> None:
        if not self._write_ended:
            self._adapter.call(self._adapter.user_protocol.payload_received, data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseWriteConnection(self) -> None:
        """The user sends no more payload."""
        if not self._write_ended:
            self._write_ended = True
            self._adapter.call(self._adapter.user_protocol.payload_ended)

    def loseConnection(self) -> None:
        """Close the connection after what was written is sent."""
        self.loseWriteConnection()
        if self.connected:
            self._adapter.transport.loseConnection()

    def abortConnection(self) -> None:
        """Reset the connection."""
        self._buffered.clear()
        self._adapter.abort()
        if self._lost_for is not None:
            self._pass_on()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.connected:
            self._adapter.transport.registerProducer(producer, streaming)
        else:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        if self.connected:
            self._adapter.transport.unregisterProducer()

    # From the peer to the user.

    def deliver(self, data: bytes) -> None:
        """Deliver payload to the user."""
        if data and not self._adapter.has_failed:
            self._buffered.append(data)
            self._pass_on()

    def end_of_input(self) -> None:
        """Tell the user that no more payload comes."""
        if not self._adapter.has_failed:
            self._end_is_due = True
            self._pass_on()

    def lost(self, reason: Failure) -> None:
        """Tell the user that the connection to the peer is lost."""
        if not reason.check(ConnectionDone):
            self._buffered.clear()
        self._lost_for = reason
        self._pass_on()

    def pauseProducing(self) -> None:
        self._is_paused = True
        if self.connected:
            self._adapter.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._is_paused = False
        self._pass_on()
        if not self._is_paused and self.connected and not self._adapter.input_ended:
            self._adapter.transport.resumeProducing()

    def stopProducing(self) -> None:
        self.loseConnection()

    def _pass_on(self) -> None:
        if self.protocol is None:
            return
        while self._buffered and not self._is_paused:
            self.protocol.dataReceived(self._buffered.popleft())
        if self._buffered:
            return
        if self._end_is_due and not self._is_paused:
            self._end_is_due = False
            if IHalfCloseableProtocol.providedBy(self.protocol):
                self.protocol.readConnectionLost()
            else:
                self.loseConnection()
        reason, self._lost_for = self._lost_for, None
        if reason is not None:
            self.protocol.connectionLost(reason)
