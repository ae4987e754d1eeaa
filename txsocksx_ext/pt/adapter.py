"""
The adapter between an author's protocol, the connection to the peer, and tor's stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..checks import check_endpoint
from ..errors import ConnectionRefused, SOCKS5Error, TransportInternalError, TransportProtocolFailure
from ..failures import reply_error, row_of
from ..net.half_close import end_writing, with_half_close
from ..net.socket_state import was_reset
from ..net.timers import clock_of
from ..net.twisted_transports import abort, is_connected_to_itself, keep_alive
from ..protocol import codes
from ..protocol.codes import Dialect
from ..protocol.messages import Address
from ..transports.arguments import Arguments
from ..transports.scrubbing import SCRUBBED
from .payload import PayloadTransport

if TYPE_CHECKING:
    from .protocol import Side, TransportProtocol

LINGER = 2.0
"""Seconds for a peer to read our last bytes."""

_FAULTS = (Exception, asyncio.CancelledError)
"""What a user protocol may raise. SystemExit and its like go to the reactor."""


@implementer(IHalfCloseableProtocol)
class TransportAdapter(Protocol):
    """
    The protocol of a connection to the peer. It calls an author's protocol, the *user protocol*.

    An exception of the user protocol ends the connection and is the reason of the failure.

    :ivar payload: the stream of the transport's user.
    :ivar opened: fires with `payload`, paused, after the handshake; fails with the
        reason if there is no stream. Cancelling it resets the connection.
    :ivar is_lost: whether the connection to the peer is closed.
    :ivar input_ended: whether the peer sends no more.
    :ivar has_failed: whether the user protocol has failed or ended; its calls are ignored then.
    """

    transport: Any

    def __init__(
        self, side: Side, user_protocol: TransportProtocol, arguments: Arguments, target: Address | None
    ) -> None:
        self.user_protocol = user_protocol
        self.payload = PayloadTransport(self)
        self.opened: Deferred[PayloadTransport] = Deferred(self._cancelled)
        self.is_lost = False
        self.input_ended = False
        self.has_failed = False
        self._failure: SOCKS5Error | None = None
        self._was_reset = False
        self._linger: IDelayedCall | None = None
        self._side = side
        user_protocol.side, user_protocol.arguments, user_protocol.target = side, arguments, target
        user_protocol._adapter = self

    def prepare(self) -> None:
        """
        Have the user protocol read its arguments.

        :raises TransportProtocolFailure: the transport does not take them; also for a `ValueError`.
        :raises SOCKS5Error: another failure of the user protocol.
        """
        with self._before_connecting():
            try:
                self.user_protocol.prepare()
            except ValueError as error:
                text = str(error)
                # The messages of int() and the like repeat the value, and tor logs this text.
                for _, value in self.user_protocol.arguments.pairs:
                    text = text.replace(repr(value), SCRUBBED)
                raise TransportProtocolFailure(f"the transport does not take these arguments: {text}") from None

    def endpoint(self) -> IStreamClientEndpoint:
        """
        Return the endpoint of the peer.

        :raises SOCKS5Error: the user protocol failed.
        """
        with self._before_connecting():
            endpoint = self.user_protocol.endpoint()
            check_endpoint("what endpoint() returns", endpoint)
        return endpoint

    @contextmanager
    def _before_connecting(self) -> Iterator[None]:
        """Raise what the user protocol raises, or what it gives to `fail`."""
        try:
            yield
        except _FAULTS as error:
            self._failed_by(error)
        if self._failure is not None:
            # The caller gets this exception, so `opened` need not report it again.
            self.opened.addErrback(lambda _: None)
            raise self._failure

    # Events of the connection to the peer.

    def connectionMade(self) -> None:
        if self.has_failed:
            abort(self.transport)
        elif is_connected_to_itself(self.transport):
            self.fail(ConnectionRefused())
        else:
            self.transport = with_half_close(self.transport)
            keep_alive(self.transport)
            self.call(self.user_protocol.makeConnection, self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.call(self.user_protocol.dataReceived, data)

    def readConnectionLost(self) -> None:
        if was_reset(self.transport):
            self._was_reset = True
            abort(self.transport)
            return
        self.input_ended = True
        if self.opened.called and not self.has_failed:
            self.call(self.user_protocol.peer_ended)
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """We have closed the sending side."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_lost = True
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        try:
            # The user protocol may know a better reason, and fail with it.
            if self.user_protocol.connected:
                self.user_protocol.connectionLost(reason)
        except _FAULTS as error:
            self._failed_by(error)
        if not self.opened.called:
            is_reset = self._was_reset or (reason.check(ConnectionLost) and not self.input_ended)
            kind = ConnectionRefused if is_reset else TransportProtocolFailure
            self.opened.errback(kind("the peer closed the connection during the handshake"))
        if not self.has_failed:
            self.payload.lost(reason)
        self.has_failed = True

    # Calls of the user protocol.

    def call(self, act: Callable[..., object], *arguments: object) -> None:
        """Call the user protocol, and fail with what it raises; no-op after a failure."""
        if self.has_failed:
            return
        try:
            act(*arguments)
        except _FAULTS as error:
            self._failed_by(error)

    def ready(self) -> None:
        """Begin the stream."""
        if self.opened.called or self.has_failed:
            return
        # Until somebody reads the payload, only what came with the handshake may be buffered.
        if not self.is_lost:
            self.transport.pauseProducing()
        self.opened.callback(self.payload)

    def fail(self, error: BaseException, last_words: bytes = b"") -> None:
        """
        End the connection; during the handshake, for this reason.

        Bytes written during the handshake are still sent: they may tell the peer
        the reason. A stream that fails is reset.
        """
        if self.has_failed:
            return
        self.has_failed = True
        if self.transport is None or self.is_lost or (self.opened.called and not last_words):
            self.abort()
        else:
            # Closing with unread input is a reset, which can overtake these bytes: discard input for a while.
            self.transport.write(last_words)
            self.transport.resumeProducing()
            end_writing(self.transport)
            self._linger = clock_of(self._side.reactor).callLater(LINGER, self.abort)
        if self.opened.called:
            self._side.log.info("{transport} failed: {error}", transport=self._side.name, error=_words(error))
            # A stream that was cut off must not look complete to tor, whatever the peer still reads.
            self.payload.lost(Failure(ConnectionAborted()))
        else:
            self._failure = _with_code(error)
            self.opened.errback(self._failure)

    def abort(self) -> None:
        """Reset the connection."""
        if self.transport is not None and not self.is_lost:
            abort(self.transport)

    def _cancelled(self, opened: Deferred[PayloadTransport]) -> None:
        self.has_failed = True
        self.abort()

    def _failed_by(self, error: BaseException) -> None:
        """Fail with an exception of the user protocol; one without a code is a bug in it."""
        if self.has_failed:
            return
        if not isinstance(error, SOCKS5Error):
            self._side.log.failure("{transport} raised", transport=self._side.name)
            error = TransportInternalError(f"the transport raised {type(error).__name__}: see its log")
        self.fail(error)


def _with_code(error: BaseException) -> SOCKS5Error:
    """Return the exception whose code the client gets."""
    if isinstance(error, SOCKS5Error):
        return error
    row = row_of(error)
    if row is codes.GENERAL_FAILURE:
        return TransportInternalError(_words(error))
    return reply_error(row.number, Dialect.PLAIN)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
