"""
TLS with half-close (RFC 8446, section 6.1).

Twisted's TLS answers the peer's close_notify with its own and closes. If the TCP
connection ends without close_notify, it drops what a slow application has not read
yet. `TLSTransport` replaces Twisted's `TLSMemoryBIOProtocol` before the handshake.
It keeps that object's configured OpenSSL connection, and its place between the TCP
transport and the application's protocol, so it works with every endpoint and
listener that uses Twisted's TLS.

To the application it is like a TCP transport: `loseWriteConnection` sends
close_notify, and an `IHalfCloseableProtocol` is told when the peer's direction
ends, by close_notify or by a FIN alone. Any other protocol loses its connection
then, as with Twisted's TLS.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionClosed, ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    INegotiated,
    IProtocol,
    IPushProducer,
    ISystemHandle,
)
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import alsoProvides, directlyProvides, implementer, providedBy

from .socket_state import reactor_of, was_reset
from .timers import clock_of
from .tls_output import RECORD_SIZE, TLSOutput

LINGER = 10.0
"""Seconds that a peer has to end its direction after ours, or to read what remains of a failed connection."""

_TAKEN_OVER = ("dataReceived", "connectionLost", "readConnectionLost", "writeConnectionLost", "failVerification")
"""The methods that the transport below and the verification of certificates call on Twisted's TLS."""


@implementer(INegotiated, ISystemHandle, IPushProducer)
class TLSTransport(ProtocolWrapper):
    """
    The transport of one TLS connection.

    :param replaced: Twisted's TLS before its handshake. It stays the protocol of the transport below.
    :param can_half_close: whether the transport below supports half-close.
    :ivar disconnecting: whether the connection is closing: the application gets no more data.
    """

    def __init__(self, replaced: TLSMemoryBIOProtocol, can_half_close: bool) -> None:
        # Set this first, because `wrappedProtocol` reads it.
        self._replaced: Any = replaced  # Twisted declares its attributes for other classes than it stores
        super().__init__(replaced.factory, replaced.wrappedProtocol)  # type: ignore[arg-type]  # as of its own factory
        self.transport: Any = replaced.transport
        self.connected = 1
        self.disconnecting: bool = False
        self._connection: Any = replaced.getHandle()
        self._connection.set_app_data(self)
        for name in _TAKEN_OVER:
            setattr(replaced, name, getattr(self, name))
        alsoProvides(replaced, IHalfCloseableProtocol)
        self._can_half_close_below = can_half_close
        self._output = TLSOutput(self._connection, self.transport)
        self._clock = reactor_of(self.transport)
        self._reason: Failure | None = None
        self._next_turn: IDelayedCall | None = None
        self._linger: IDelayedCall | None = None
        self._is_ready = False  # the handshake is complete
        self._is_over = False  # failed or aborted: nothing is encrypted or decrypted any more
        self._is_paused = self._is_delivering = self._may_hold_input = False
        self._fin_received = self._input_ended = False
        directlyProvides(self, providedBy(self.transport))
        self._shake_hands()

    @property
    def wrappedProtocol(self) -> Any:
        """The application's protocol, stored in the replaced object, where Twisted's endpoints look for it."""
        return self._replaced.wrappedProtocol

    @wrappedProtocol.setter
    def wrappedProtocol(self, protocol: IProtocol | None) -> None:
        self._replaced.wrappedProtocol = protocol

    # Called by the transport below.

    def dataReceived(self, data: bytes) -> None:
        """Decrypt and deliver data."""
        if self._is_over:
            return
        self._connection.bio_write(data)
        if self._is_ready or self._shake_hands():
            self._deliver()
            if self._output.unsent and self._next_turn is None:
                # A write has waited for the peer's answer to a renegotiation.
                self._send()

    def readConnectionLost(self) -> None:
        """Handle the peer's FIN."""
        if self._fin_received or self._is_over:
            return
        if was_reset(self.transport):
            self._reason = self._reason or Failure(CONNECTION_LOST)
            self._abort_below()
            return
        # Do not tell OpenSSL: after an unexpected EOF it would refuse to send.
        self._fin_received = True
        if not self._is_ready:
            self._fail(Failure(CONNECTION_LOST))
        elif not self._is_delivering:
            self._deliver()

    def writeConnectionLost(self) -> None:
        """Wait for the peer, now that our FIN is sent."""
        if self.connected and not self._is_over:
            self._start_linger(self.transport.loseConnection)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Deliver what was received, even to an application that has paused, and tell it of the loss."""
        for timer in (self._next_turn, self._linger):
            if timer is not None and timer.active():
                timer.cancel()
        self.connected = 0
        self._output.clear()
        self._is_paused = False
        try:
            # Any other reason is an exception of the application.
            if self._is_ready and reason.check(ConnectionClosed) is not None:
                self._deliver()
        finally:
            self._is_over = True
            is_truncated = not self._input_ended and not self.disconnecting
            if self._reason is None and is_truncated and reason.check(ConnectionDone) is not None:
                self._reason = Failure(CONNECTION_LOST)
            reason, self._reason = self._reason or reason, None
            try:
                self.wrappedProtocol.connectionLost(reason)
            finally:
                self._release()

    def failVerification(self, reason: Failure) -> None:
        """Abort because of the peer's certificate. Twisted's TLS options call this during the handshake."""
        self._reason = reason
        self.abortConnection()

    # Called by the application.

    def write(self, data: bytes) -> None:
        """Encrypt and send; send small writes together in the reactor's next turn. See `ITransport`."""
        output = self._output
        if not self.connected or self._is_over or (output.is_ending and output.producer is None):
            return
        if not output.add(data):
            self._schedule()
        elif self._is_ready:
            self._send()
        else:
            output.hold_producer()

    def writeSequence(self, data: Any) -> None:
        """See `ITransport`."""
        self.write(b"".join(data))

    @property
    def unsent(self) -> int:
        """The number of bytes that were written and are not encrypted yet."""
        return self._output.unsent

    def loseWriteConnection(self) -> None:
        """Send close_notify after all writes, and keep receiving. See `ITCPTransport`."""
        if not self._output.is_ending and self.connected:
            self._output.is_ending = True
            self._schedule()

    def loseConnection(self) -> None:
        """Send close_notify after all writes, and close once the peer has sent its own. See `ITransport`."""
        if self.disconnecting or self._is_over or not self.connected:
            return
        if not self._is_ready:
            if not self.unsent:
                self.abortConnection()
                return
            self._start_linger(self._abort_below)
        self.disconnecting = self._output.is_ending = True
        if self._is_paused:
            # The peer's close_notify is behind data that the application has not read.
            self.resumeProducing()
        if self._output.has_ended:
            self._end_connection()
        else:
            self._send()

    def abortConnection(self) -> None:
        """Reset the connection. See `ITCPTransport`."""
        if self.connected:
            self._is_over = self.disconnecting = True
            self._abort_below()

    def pauseProducing(self) -> None:
        """Deliver nothing until `resumeProducing`. The handshake continues."""
        if self.connected:
            self._is_paused = True
            if self._is_ready:
                self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Deliver again: in the reactor's next turn what was received meanwhile, then new data."""
        self._is_paused = False
        if self._may_hold_input and not self._is_delivering:
            self._schedule()
        elif self._is_ready:
            self._resume_below()

    def stopProducing(self) -> None:
        """See `IProducer`."""
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""
        if self._is_over or not self.connected:
            producer.stopProducing()
        else:
            self._output.register(producer, streaming)

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""
        self._output.unregister()
        if self._output.is_ending:
            self._send()

    def getHandle(self) -> Any:
        """Return OpenSSL's connection. See `ISystemHandle`."""
        return self._connection

    def getPeerCertificate(self) -> Any:
        """See `ISSLTransport`."""
        return self._connection.get_peer_certificate()

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """See `INegotiated`."""
        return None if self._connection is None else self._connection.get_alpn_proto_negotiated() or None

    # The handshake.

    def _shake_hands(self) -> bool:
        """Continue the handshake; return whether it is complete and the connection usable."""
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            self._output.flush()
            return False
        except SSL.Error:
            if not self._is_over:
                self._fail(Failure())
            return False
        if self._is_over:
            # Before 26.10, Twisted calls failVerification() in a callback, and the handshake succeeds all the same.
            return False
        self._is_ready = True
        self._output.flush()
        if self._is_paused:
            self.transport.pauseProducing()
        if IHandshakeListener.providedBy(self.wrappedProtocol):
            self.wrappedProtocol.handshakeCompleted()
        self._output.resume_producer()
        self._send()
        return not self._is_over

    # Receiving.

    def _deliver(self) -> None:
        """Decrypt and deliver until no whole record is left or the application pauses."""
        receive = self._connection.recv
        self._is_delivering = self._may_hold_input = True
        try:
            while not (self._is_paused or self._input_ended or self._is_over):
                try:
                    data = receive(RECORD_SIZE)
                except SSL.WantReadError:
                    self._may_hold_input = False
                    if self._fin_received:
                        self._end_input(is_truncated=True)
                    break
                except SSL.ZeroReturnError:
                    self._end_input(is_truncated=False)
                except SSL.Error:
                    self._fail(Failure())
                else:
                    if not self.disconnecting:
                        self.wrappedProtocol.dataReceived(data)
        finally:
            self._is_delivering = False
        if not self._is_over:
            # OpenSSL answers messages that are not data, such as a KeyUpdate.
            self._output.flush()

    def _end_input(self, is_truncated: bool) -> None:
        self._input_ended = True
        if self.disconnecting:
            if self._output.has_ended:
                self._end_connection()
            return
        if IHalfCloseableProtocol.providedBy(self.wrappedProtocol):
            self.wrappedProtocol.readConnectionLost()
            if self._output.has_ended:
                self.loseConnection()
            return
        if is_truncated:
            self._reason = Failure(CONNECTION_LOST)
        self._output.drop_producer()
        self.loseConnection()
        # The application does not know that the peer's direction has ended, so it cannot end this wait.
        self._start_linger(self._abort_below)

    def _resume_below(self) -> None:
        if self.connected and not self._fin_received and not self._is_paused:
            self.transport.resumeProducing()

    # Sending.

    def _schedule(self) -> None:
        """Send and deliver in the reactor's next turn."""
        if self._next_turn is None:
            self._next_turn = self._clock.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        self._next_turn = None
        if self._is_over or not self._is_ready:
            return
        self._send()
        if self._may_hold_input and not self._is_paused and not self._is_over:
            self._deliver()
            self._resume_below()

    def _send(self) -> None:
        """Encrypt and send all writes, and close_notify if it is due."""
        if not self._is_ready or self._is_over or not self.connected:
            return
        try:
            self._output.send()
        except SSL.Error:
            self._fail(Failure())
            return
        if self._output.end_is_due:
            self._output.end()
            if self.disconnecting or self._input_ended:
                self._end_connection()
            elif IHalfCloseableProtocol.providedBy(self.wrappedProtocol):
                self.wrappedProtocol.writeConnectionLost()

    # The end.

    def _end_connection(self) -> None:
        """Wait up to `LINGER` for the end of the peer's direction, and close. Ours has ended."""
        self.disconnecting = True
        if self._input_ended:
            self.transport.loseConnection()
        elif self._can_half_close_below:
            self.transport.loseWriteConnection()
        else:
            self._start_linger(self.transport.loseConnection)

    def _fail(self, reason: Failure) -> None:
        """Send the alert of OpenSSL, and close."""
        self._is_over = True
        self._reason = self._reason or reason
        self._output.flush()
        self._output.drop_producer()
        self.transport.loseConnection()
        self._start_linger(self._abort_below)

    def _abort_below(self) -> None:
        # A transport over pipes cannot be reset.
        getattr(self.transport, "abortConnection", self.transport.loseConnection)()

    def _start_linger(self, act: Any) -> None:
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        if self.connected:
            self._linger = clock_of(self._clock).callLater(LINGER, act)

    def _release(self) -> None:
        """Break reference cycles, and release OpenSSL's connection."""
        self._replaced.factory.unregisterProtocol(self._replaced)
        # It has reference cycles too.
        vars(self._replaced).clear()
        self._replaced.wrappedProtocol = None
        self._output.close()
        self._connection = None
