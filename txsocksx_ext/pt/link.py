"""
What stands between an author's protocol and the rest: the connection to the peer, and tor's stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..checks import check_endpoint
from ..errors import ConnectionRefused, SOCKS5Error, TransportInternalError, TransportProtocolFailure
from ..failures import reply_error, row_of
from ..net.half_close import can_half_close, with_half_close
from ..net.socket_state import was_reset
from ..net.twisted_transports import abort, is_connected_to_itself, keep_alive
from ..protocol import codes
from ..protocol.codes import Dialect
from ..protocol.messages import Address
from ..transports.arguments import Arguments
from ..transports.scrubbing import SCRUBBED

if TYPE_CHECKING:
    from .protocol import Side, TransportProtocol

LINGER = 2.0
"""Seconds for a peer to hear our last words."""


@implementer(IHalfCloseableProtocol)
class Link(Protocol):
    """
    The connection to the peer: it tells an author's protocol what happens there.

    Whatever that raises ends the connection, and becomes the reason of the failure.

    :ivar payload: the stream of the transport's user.
    :ivar opened: fires with `payload`, paused, when the handshake is done; fails
        with the reason where it is not. Cancelling it ends the connection.
    :ivar has_failed: whether it is over, so that nothing which the author's protocol does counts any more.
    """

    transport: Any

    def __init__(self, side: Side, inner: TransportProtocol, arguments: Arguments, target: Address | None) -> None:
        self.inner = inner
        self.payload = PayloadTransport(self)
        self.opened: Deferred[PayloadTransport] = Deferred(lambda _: self.abort())
        self.is_lost = False
        self.input_ended = False
        self.has_failed = False
        self._failure: SOCKS5Error | None = None
        self._was_reset = False
        self._linger: IDelayedCall | None = None
        self._side = side
        inner.side, inner.arguments, inner.target = side, arguments, target
        inner._link = self

    def prepare(self) -> None:
        """
        Have the arguments read.

        :raises TransportProtocolFailure: they are not what the transport takes, as a `ValueError` says too.
        :raises SOCKS5Error: what else the author's protocol failed with.
        """
        try:
            self.inner.prepare()
        except ValueError as error:
            text = str(error)
            # int() and its like repeat what they could not read, and this goes to tor's log.
            for _, value in self.inner.arguments.pairs:
                text = text.replace(repr(value), SCRUBBED)
            self.fail(TransportProtocolFailure(f"the transport does not take these arguments: {text}"))
        except BaseException as error:
            self._failed_by(error)
        self._raise_failure()

    def endpoint(self) -> IStreamClientEndpoint:
        """
        Return the endpoint of the peer.

        :raises SOCKS5Error: what the author's protocol failed with.
        """
        returned: Any = None
        try:
            returned = self.inner.endpoint()
            check_endpoint("what endpoint() returns", returned)
        except BaseException as error:
            self._failed_by(error)
        self._raise_failure()
        way: IStreamClientEndpoint = returned
        return way

    def _raise_failure(self) -> None:
        """Raise what the author's protocol has failed with, by `fail` or by raising it."""
        if self._failure is not None:
            # The caller gets this exception, so `opened` need not report it again.
            self.opened.addErrback(lambda _: None)
            raise self._failure

    # What the peer does.

    def connectionMade(self) -> None:
        if self.has_failed:
            abort(self.transport)
            return
        if is_connected_to_itself(self.transport):
            self.fail(ConnectionRefused())
            return
        self.transport = with_half_close(self.transport)
        keep_alive(self.transport)
        self.call(self.inner.makeConnection, self.transport)

    def dataReceived(self, data: bytes) -> None:
        self.call(self.inner.dataReceived, data)

    def readConnectionLost(self) -> None:
        if was_reset(self.transport):
            self._was_reset = True
            abort(self.transport)
            return
        self.input_ended = True
        if self.opened.called and not self.has_failed:
            self.call(self.inner.peer_ended)
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Our own end of sending is through."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_lost = True
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        try:
            # The author may know better what it means, and fail with that.
            if self.inner.connected:
                self.inner.connectionLost(reason)
        except BaseException as error:
            self._failed_by(error)
        is_reset = self._was_reset or (reason.check(ConnectionLost) and not self.input_ended)
        kind = ConnectionRefused if is_reset else TransportProtocolFailure
        self._fail_to_open(kind("the peer closed the connection during the handshake"))
        if not self.has_failed:
            self.payload.lost(reason)
        self.has_failed = True

    # What the author's protocol does.

    def call(self, act: Callable[..., object], *arguments: object) -> None:
        """Call something of the author's; what it raises is the reason of a failure."""
        if self.has_failed:
            return
        try:
            act(*arguments)
        except BaseException as error:
            self._failed_by(error)

    def ready(self) -> None:
        """Begin the stream."""
        if self.opened.called or self.has_failed:
            return
        # Before anyone reads it, there must not be more than what came with the handshake.
        if not self.is_lost:
            self.transport.pauseProducing()
        self.opened.callback(self.payload)

    def fail(self, error: BaseException, last_words: bytes = b"") -> None:
        """
        End the connection; during the handshake, for this reason.

        What the handshake has written still arrives: without it, the peer could
        not know why. A stream that fails is reset.
        """
        if self.has_failed:
            return
        self.has_failed = True
        is_to_be_heard = last_words or not self.opened.called
        if is_to_be_heard and self.transport is not None and not self.is_lost:
            self._close_after(last_words)
        else:
            self.abort()
        if self.opened.called:
            self._side.log.info("{transport} failed: {error}", transport=self._side.name, error=_words(error))
            # Whatever the peer still hears: a stream that was cut off must not look whole to tor.
            self.payload.lost(Failure(ConnectionAborted()))
        else:
            self._failure = _with_code(error)
            self._fail_to_open(self._failure)

    def _close_after(self, last_words: bytes) -> None:
        """
        Send what the peer shall still hear, and close so that it arrives.

        A close with unread input is a reset, which can overtake it: input is thrown away for a while.
        """
        if last_words:
            self.transport.write(last_words)
        self.transport.resumeProducing()
        end_writing(self.transport)
        self._linger = self._side.reactor.callLater(LINGER, self.abort)

    def abort(self) -> None:
        """Reset the connection."""
        if self.transport is not None and not self.is_lost:
            abort(self.transport)

    def _failed_by(self, error: BaseException) -> None:
        """Fail for what the author's protocol raised, unless it has failed already: then that counts."""
        if not self.has_failed:
            self.fail(self._telling(error))

    def _fail_to_open(self, error: BaseException) -> None:
        if not self.opened.called:
            self.opened.errback(error)

    def _telling(self, error: BaseException) -> SOCKS5Error:
        """Return an exception as it is told: one without a code is a fault in the author's program."""
        if isinstance(error, SOCKS5Error):
            return error
        self._side.log.failure("{transport} raised", transport=self._side.name)
        return TransportInternalError(f"the transport raised {type(error).__name__}: see its log")


def _with_code(error: BaseException) -> SOCKS5Error:
    """Return an error as a client is told of it."""
    if isinstance(error, SOCKS5Error):
        return error
    row = row_of(error)
    if row is codes.GENERAL_FAILURE:
        return TransportInternalError(_words(error))
    return reply_error(row.number, Dialect.PLAIN)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


@implementer(IAddress)
class PayloadAddress:
    """The address of either end of a stream that has none: it is inside a transport."""

    def __repr__(self) -> str:
        return "<PayloadAddress>"


@implementer(ITransport, IConsumer, IPushProducer)
class PayloadTransport:
    """
    The stream of a transport's user, which the transport hides. It is a Twisted transport.

    It begins paused, and holds what comes until it is resumed.

    :ivar protocol: who gets what comes.
    """

    def __init__(self, link: Link) -> None:
        self.protocol: Any = None
        self._link = link
        self._held: deque[bytes] = deque()
        self._is_paused = True
        self._end_is_due = False
        self._lost_for: Failure | None = None
        self._write_ended = False

    @property
    def connected(self) -> bool:
        """Whether the connection to the peer stands."""
        return not self._link.is_lost

    @property
    def disconnecting(self) -> bool:
        """Whether it is being closed."""
        return bool(getattr(self._link.transport, "disconnecting", False))

    @property
    def clock(self) -> Any:
        """Of a connection in memory: what provides its turns."""
        return getattr(self._link.transport, "clock", None)

    def getPeer(self) -> IAddress:
        return PayloadAddress()

    def getHost(self) -> IAddress:
        return PayloadAddress()

    # From the transport's user to the peer.

    def write(self, data: bytes) -> None:
        if not self._write_ended:
            self._link.call(self._link.inner.payload_received, data)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseWriteConnection(self) -> None:
        """The user sends no more."""
        if not self._write_ended:
            self._write_ended = True
            self._link.call(self._link.inner.payload_ended)

    def loseConnection(self) -> None:
        """The user leaves; what it sent still goes out."""
        self.loseWriteConnection()
        if self.connected:
            self._link.transport.loseConnection()

    def abortConnection(self) -> None:
        """Reset the connection."""
        self._held.clear()
        self._link.abort()
        if self._lost_for is not None:
            self._pass_on()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.connected:
            self._link.transport.registerProducer(producer, streaming)
        else:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        if self.connected:
            self._link.transport.unregisterProducer()

    # From the peer to the transport's user.

    def deliver(self, data: bytes) -> None:
        """Give the user bytes."""
        if data and not self._link.has_failed:
            self._held.append(data)
            self._pass_on()

    def end_of_input(self) -> None:
        """Tell the user that no more bytes come."""
        if not self._link.has_failed:
            self._end_is_due = True
            self._pass_on()

    def lost(self, reason: Failure) -> None:
        """Tell the user that the connection to the peer is lost."""
        if not reason.check(ConnectionDone):
            self._held.clear()
        self._lost_for = reason
        self._pass_on()

    def pauseProducing(self) -> None:
        self._is_paused = True
        if self.connected:
            self._link.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._is_paused = False
        self._pass_on()
        if not self._is_paused and self.connected and not self._link.input_ended:
            self._link.transport.resumeProducing()

    def stopProducing(self) -> None:
        self.loseConnection()

    def _pass_on(self) -> None:
        if self.protocol is None:
            return
        while self._held and not self._is_paused:
            self.protocol.dataReceived(self._held.popleft())
        if self._held:
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


def end_writing(transport: Any) -> None:
    """Close the sending side of a transport, or all of it where it cannot be halved."""
    if can_half_close(transport):
        transport.loseWriteConnection()
    else:
        transport.loseConnection()
