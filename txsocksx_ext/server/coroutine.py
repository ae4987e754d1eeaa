"""
Runs the coroutine that is a connection's life, and ends the connection so that its last bytes arrive.
"""

from __future__ import annotations

from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any

from twisted.cred.error import LoginFailed, Unauthorized
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ..context import Session
from ..errors import SOCKS5Error
from ..failures import CANCELLED
from ..net.half_close import can_half_close
from ..net.socket_state import was_reset
from ..net.twisted_transports import abort

if TYPE_CHECKING:
    from .factory import SOCKS5ExtFactory
    from .frontends import Frontend

EXPECTED = (SOCKS5Error, ConnectError, LoginFailed, Unauthorized, OSError, *CANCELLED)
"""What a decision or a route may fail with without a bug in a program."""

STOPS_PROCESS = (SystemExit, KeyboardInterrupt)

_MORE_INPUT = object()
"""What the coroutine yields to be resumed when the client has sent more."""


@implementer(IHalfCloseableProtocol)
class CoroutineProtocol(Protocol):
    """
    A protocol whose life is a coroutine, which may await the client's next message, Deferreds and coroutines.

    It is not an `ensureDeferred`, whose callbacks cost six times as much as what this class does.

    :ivar session: what is known of the client.
    """

    transport: Any
    factory: SOCKS5ExtFactory
    session: Session

    _frontend: Frontend | None
    _life: Any  # the coroutine; `Coroutine` has no cr_running
    _awaited: Deferred[Any] | None
    _closing: bool
    _input_ended: bool
    _lost: bool
    _is_paused: bool

    @coroutine
    def next_message(self) -> Any:
        """
        Wait for the client's next message.

        :raises MalformedMessage: the client violated the protocol.
        """
        frontend = self._frontend
        assert frontend is not None
        while (message := frontend.next_message()) is None:
            yield _MORE_INPUT
        return message

    def _resume(self, failure: Failure | None = None) -> None:
        """
        Run the coroutine until it needs more input, or awaits a Deferred that has not fired.

        :param failure: what the awaited Deferred failed with.
        """
        life = self._life
        if life is None or life.cr_running:
            return
        try:
            awaited = life.send(None) if failure is None else failure.throwExceptionIntoGenerator(life)
            if awaited is not _MORE_INPUT and not isinstance(awaited, Deferred):
                awaited = life.throw(TypeError(f"await Deferreds and coroutines here, not {type(awaited).__name__}"))
        except StopIteration:
            self._life = None
            return
        except STOPS_PROCESS:
            self._life = None
            self.abort("fault")
            # Reactors log what a protocol raises, and go on.
            self.factory.reactor.stop()
            raise
        except BaseException:  # of any kind: the connection must end
            self._life = None
            self.factory.log.unexpected(Failure(), self.session)
            self.abort("fault")
            return
        if awaited is not _MORE_INPUT:
            self._awaited = awaited
            awaited.addBoth(self._fired)
            if self._lost or self._closing:
                # An override went on after its cancellation, so cancel what it awaits now.
                self._cancel()
            return
        if self._is_paused:
            self._is_paused = False
            self.transport.resumeProducing()
        if self._input_ended and not self._closing and not self._lost:
            self._end("the client left")
            self.transport.loseConnection()

    def _fired(self, result: object) -> object:
        """Resume: the coroutine reads a result from the Deferred itself."""
        self._awaited = None
        if isinstance(result, Failure):
            self._resume(result)
            return None
        self._resume()
        return result

    def _cancel(self) -> None:
        """Cancel what the coroutine awaits. A canceller may be foreign, and fail."""
        if self._awaited is not None:
            try:
                self._awaited.cancel()
            except BaseException:  # as in `report`
                self.factory.log.unexpected(Failure(), self.session)

    def report(self, error: BaseException) -> None:
        """
        Log an error, unless a decision or a route may fail with it.

        Call this for any `BaseException`: overrides may also raise asyncio's CancelledError.

        :raises BaseException: `error`, if it stops the process or closes the coroutine.
        """
        if self._must_propagate(error):
            raise error
        if not isinstance(error, EXPECTED):
            self.factory.log.unexpected(Failure(error), self.session)

    def _must_propagate(self, error: BaseException) -> bool:
        return isinstance(error, STOPS_PROCESS) or (isinstance(error, GeneratorExit) and (self._lost or self._closing))

    # The ends of a connection.

    def readConnectionLost(self) -> None:
        """The client sends no more; what it sent before still counts."""
        if was_reset(self.transport):
            abort(self.transport)
            return
        self._input_ended = True
        # A client that has not sent its request yet never will.
        if self._closing or self._awaited is None or self._frontend is None or not self._frontend.has_request:
            self._end("the client left")
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Our own sending side was closed."""

    def close_after(self, final_reply: bytes, reason: str) -> None:
        """
        Send what ends the conversation, and close so that it arrives.

        A close with unread input makes Linux reset the connection, and the reset
        can overtake the reply. So only our sending side is closed, input is
        dropped, and the rest follows when the client closes, or soon.

        :param reason: for the access log.
        """
        self._end(reason)
        if self._lost:
            return
        self._closing = True
        if self._frontend is not None:
            self._frontend.close()
        if final_reply:
            self.transport.write(final_reply)
        # A client that sent more than could be kept is paused; now its input is dropped.
        self.transport.resumeProducing()
        self.factory.deadlines.start(self, self.factory.limits.linger, partial(abort, self.transport))
        if can_half_close(self.transport) and not self._input_ended:
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    def abort(self, reason: str) -> None:
        """
        End the connection at once, whatever its state.

        :param reason: for the access log.
        """
        self._end(reason)
        abort(self.transport)

    def _end(self, reason: str) -> None:
        """Keep the first reason: what follows is its consequence."""
        self.session.end = self.session.end or reason
