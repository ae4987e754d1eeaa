"""
The server's protocol: it carries the conversation, asks for decisions, and starts the relay.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CoroutineType
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..addresses import literal_of
from ..context import Session
from ..errors import (
    AddressTypeNotSupported,
    AuthenticationFailed,
    CommandNotSupported,
    GeneralServerFailure,
    InvalidArguments,
    TTLExpired,
)
from ..net.handover import write_now
from ..net.relay import IRelay, join
from ..net.socket_state import was_reset
from ..net.twisted_transports import abort, bound_address
from ..protocol import codes
from ..protocol.codes import AddressType, Command, Dialect, Method, ReplyCode, Status
from ..protocol.decoding import MalformedMessage
from ..protocol.foreign import reason_of
from ..protocol.messages import (
    UNSPECIFIED,
    Address,
    ExtendedRequest,
    Greeting,
    Request,
    UsernamePassword,
)
from ..protocol.pairs import ERROR, NO_PAIRS, TOR_ERRORS, Pairs
from ..protocol.socks5 import DEFAULT_PREFERENCE, LONGEST_REASON, Responder, State
from ..route.base import IRoute, Route
from .decisions import DecidingConnection, Question, close_result

_GREETING, _REPLY, _SUCCESS = State.GREETING, State.REPLY, Status.SUCCESS
_CONNECT, _DOMAINNAME, _NO_AUTHENTICATION = Command.CONNECT, AddressType.DOMAINNAME, Method.NO_AUTHENTICATION

DIALECT_OF_TOR_ERRORS = {b"229": Dialect.PROP229, b"304": Dialect.TOR, b"none": Dialect.PLAIN}
"""The values of ``tor.errors``."""


@implementer(IHalfCloseableProtocol)
class SOCKS5ExtProtocol(DecidingConnection):
    """
    One client's connection, until the relay takes its transport over.

    What it knows of the client is in `session`; every decision is the factory's.
    """

    _relay: IRelay | None = None
    _timed_out = False

    # The connection.

    def connectionMade(self) -> None:
        # All that will be set, at once: Python keeps attributes that come later less tightly, and finds them later.
        self._closing = self._input_ended = self._lost = self._timed_out = False
        self._decision = self._relay = self._counted_as = None
        self._responder = Responder(self.factory.limits.pairs)
        DecidingConnection.connectionMade(self)

    def dataReceived(self, data: bytes) -> None:
        responder = self._responder
        if self._closing or (self._is_wrapped and responder.state is _GREETING and not self._is_counted_right()):
            return
        responder.feed(data)
        if self._decision is None:
            self._listen()
        elif responder.buffered > self.factory.limits.read_ahead:
            self.transport.pauseProducing()

    def readConnectionLost(self) -> None:
        """The client sends no more; what it sent before still counts."""
        if was_reset(self.transport):
            abort(self.transport)
            return
        self._input_ended = True
        responder = self._responder
        if self._closing or self._decision is None or not (responder.buffer or responder.state is _REPLY):
            # Also where one waits to be let in who has not said for what: it never will.
            self._end("the client left")
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Our own end of sending is through."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._lost:  # its stream is over already
            return
        self._lost = True
        self.factory.deadlines.stop(self)
        self._end("the client left")
        if not self._closing:  # a decision that is still pending was cancelled before
            self._cancel_decision()
        self._closed()

    def stop(self) -> None:
        """End the connection unless it is a stream already; one that waits for its target is told."""
        if self._relay is not None or self._closing:
            return
        self._end("stopped")
        if self._decision is not None and self._responder.state is _REPLY:
            self._give_up_request()
        else:
            super().stop()

    def abort(self, reason: str) -> None:
        """End the connection at once, whatever it is."""
        if self._relay is not None:
            self._relay.abort(reason)
        else:
            super().abort(reason)

    # What the client says.

    def _listen(self) -> None:
        """Take the client's messages until one of them needs a decision, or bytes are missing."""
        responder = self._responder
        try:
            while responder.buffer and self._decision is None and not self._closing:
                message = responder.next_message()
                if message is None:
                    break
                _ACTS[type(message)](self, message)
        except MalformedMessage as violation:
            self.session.code = responder.replied
            self._say_and_close(responder.final_reply, f"violation: {reason_of(violation, responder.buffer)}")

    def _heard_greeting(self, greeting: Greeting) -> None:
        session = self.session
        session.offered = greeting.methods
        try:
            accepted = self.factory.methods(session)
            # To ask whether something is a Deferred takes long if it is not. One yields itself, again and again.
            if type(accepted) is not tuple and isinstance(accepted, Deferred):
                raise TypeError("methods() has to decide at once, and returned a Deferred")
            method = self._responder.preferred_method(accepted)
        except BaseException:
            self._refuse_method(Failure())
            return
        if method == _NO_AUTHENTICATION:
            # Nothing follows by which the client could be refused later.
            session.method = method
            self._decide(_ADMISSION, greeting)
        elif method in DEFAULT_PREFERENCE:
            session.method = method
            write_now(self.transport, self._responder.select(method))
        else:
            self._accept_no_method()

    def _admit(self, answer: Any) -> None:
        """Let the client in without authentication, which has no place for an answer; but for one that is none."""
        if answer is not None:
            # False is meant to refuse, and what should have been waited for, as a future of asyncio, may be about to.
            Pairs(dict(answer))
        write_now(self.transport, self._responder.select(_NO_AUTHENTICATION))

    def _accept_no_method(self) -> None:
        self._say_and_close(self._responder.select(Method.NO_ACCEPTABLE), "no acceptable method")

    def _refuse_method(self, failure: Failure) -> None:
        self._report_unless_expected(failure)
        self._accept_no_method()

    def _heard_credentials(self, credentials: UsernamePassword) -> None:
        self.session.credentials = credentials
        self._decide(_LOGIN, credentials)

    def _heard_pairs(self, request: ExtendedRequest) -> None:
        self._decide(_LOGIN_WITH_PAIRS, request)

    def _authenticate(self, message: Greeting | UsernamePassword) -> Any:
        return self.factory.authenticate(self.session)

    def _authenticate_pairs(self, request: ExtendedRequest) -> Any:
        session = self.session
        session.take_pairs(*self.factory.sift(request.pairs))
        wanted = session.pairs.get(TOR_ERRORS)
        if wanted is not None:
            if wanted not in DIALECT_OF_TOR_ERRORS:
                raise InvalidArguments(f"the value of {TOR_ERRORS} is 229, 304 or none")
            self._responder.dialect = DIALECT_OF_TOR_ERRORS[wanted]
        return self.factory.authenticate(session)

    def _accept(self, answer: Any) -> None:
        wanted = self.session.pairs.get(TOR_ERRORS)
        pairs = NO_PAIRS
        if answer is not None or wanted is not None:
            answered = {} if answer is None else dict(answer)
            if wanted is not None:
                answered.setdefault(TOR_ERRORS, wanted)
            pairs = Pairs(answered)
        write_now(self.transport, self._responder.answer(_SUCCESS, pairs))

    def _refuse(self, failure: Failure) -> None:
        self._report_unless_expected(failure)
        error = failure.value
        pairs = error.pairs if isinstance(error, AuthenticationFailed) else Pairs()
        if isinstance(error, InvalidArguments):
            text = error.message.encode("ascii", "replace")[:LONGEST_REASON]
            pairs = Pairs({**pairs, ERROR: text})
            self._say_and_close(self._responder.answer(Status.INVALID_ARGUMENTS, pairs), "invalid arguments")
        else:
            self._say_and_close(self._responder.answer(Status.AUTHENTICATION_FAILED, pairs), "authentication failed")

    # What the client wants.

    def _heard_request(self, request: Request) -> None:
        self.session.request = request
        if request.command is _CONNECT:
            self._decide(_CONNECTION, request)
        else:
            self._decide(_RESOLUTION, request)
        if self._decision is not None:
            factory = self.factory
            factory.deadlines.start(self, factory.limits.connect_timeout, self._request_expired)

    def _connect(self, request: Request) -> Any:
        request = _note_literal(request, self.session)
        if not request.destination.port:
            raise GeneralServerFailure("port 0 is no port to connect to")
        return self._ask_route(_connect_by)

    def _resolve(self, request: Request) -> Any:
        request = _note_literal(request, self.session)
        if request.command not in (Command.RESOLVE, Command.RESOLVE_PTR):
            raise CommandNotSupported()
        if request.command == Command.RESOLVE_PTR and request.destination.is_name:
            raise AddressTypeNotSupported()
        return self._ask_route(_resolve_by)

    def _ask_route(self, ask: Callable[[IRoute, Session], Any]) -> Any:
        session = self.session
        route = self.factory.route(session)
        # To ask whether something is a Deferred takes long if it is not.
        if not isinstance(route, Route) and isinstance(route, (Deferred, CoroutineType)):
            return ensureDeferred(route).addCallback(ask, session).addCallback(_awaited)
        return ask(route, session)

    def _connected(self, target: Any) -> None:
        if not getattr(target, "connected", True):
            # It was lost while the route had more to do with it.
            self._failed(Failure(ConnectionLost()))
            return
        try:
            bound = bound_address(target)
        except BaseException:  # it is none: a route of someone's own fired with something else
            close_result(target)
            self._failed(Failure())
            return
        factory, session, responder, transport = self.factory, self.session, self._responder, self.transport
        factory.deadlines.stop(self)
        try:
            write_now(transport, responder.reply(codes.SUCCEEDED, bound))
            session.code = 0
            ended, idle_timeout = self._stream_ended, factory.limits.idle_timeout
            relay = self._relay = join(transport, target, factory.reactor, ended, idle_timeout, fast=factory.fast_relay)
            session.relay = relay.name
            relay.start(responder.take_read_ahead() if responder.buffer else b"", self._input_ended)
        except BaseException:
            close_result(target)
            raise
        # A stream needs them no more, and there may be thousands of streams.
        del self._responder
        self.transport = None

    def _resolved(self, found: Any) -> None:
        if not isinstance(found, Address):  # a route of someone's own fired with something else
            self._failed(Failure(TypeError(f"a look-up leads to an Address, not to {type(found).__name__}")))
            return
        self.factory.deadlines.stop(self)
        self._reply_and_close(codes.SUCCEEDED, found, "resolved")

    def _failed(self, failure: Failure) -> None:
        self.factory.deadlines.stop(self)
        if self._timed_out:
            failure = Failure(self._error_of_timeout())
        self._report_unless_expected(failure)
        self._reply_and_close(self._reply_for(failure), UNSPECIFIED, type(failure.value).__name__)

    def _error_of_timeout(self) -> Exception:
        """What the end of the time means: a route may know more of it."""
        timed_out = getattr(self.session.way, "timed_out", None)
        if timed_out is None:
            return TTLExpired()
        return timed_out(self.session.request, self.session)  # type: ignore[no-any-return]

    def _reply_for(self, failure: Failure) -> ReplyCode | int:
        """The factory's word for a failure; what is none, or would be a success, becomes 01, and is a fault."""
        try:
            code = self.factory.reply_for(failure, self.session)
            number = code.number if isinstance(code, ReplyCode) else code
            if not isinstance(number, int) or not 0 < number <= 0xFF:
                raise TypeError("reply_for() returned no row of a failure, and no number from 1 to 255")
            return code
        except BaseException:
            self.factory.log.unexpected(Failure(), self.session)
            return codes.GENERAL_FAILURE

    def _reply_and_close(self, code: ReplyCode | int, bound: Address, reason: str) -> None:
        responder = self._responder
        last_words = responder.reply(code, bound)
        self.session.code = responder.replied
        self._say_and_close(last_words, reason)

    def _stream_ended(self, reason: str) -> None:
        relay, session = self._relay, self.session
        assert relay is not None
        session.up, session.down = relay.up, relay.down
        session.end = session.end or reason
        self._lost = True
        self._closed()

    # What had to wait.

    def _go_on(self) -> None:
        """Hear what the client said while a decision was pending."""
        if self._lost or self._closing or self._relay is not None:
            return
        if self._responder.buffered > self.factory.limits.read_ahead:
            self.transport.resumeProducing()
        self._listen()
        if self._input_ended and self._decision is None and self._relay is None and not self._closing:
            self._end("the client left")
            self.transport.loseConnection()

    def _request_expired(self) -> None:
        self._timed_out = True
        self._give_up_request()

    def _give_up_request(self) -> None:
        """Answer that the target was not reached, whatever the route makes of being cancelled."""
        self._cancel_decision()
        if self._decision is None:
            return
        # A route of someone's own goes on all the same; its client waits no longer.
        try:
            self._failed(Failure(CancelledError()))
        except BaseException:
            self._failed_unexpectedly()

    def _say_and_close(self, last_words: bytes, reason: str) -> None:
        """Say what ends the conversation."""
        self._responder.close()
        self._close_after(last_words, reason)


_ACTS: dict[type, Callable[[SOCKS5ExtProtocol, Any], None]] = {
    Greeting: SOCKS5ExtProtocol._heard_greeting,
    UsernamePassword: SOCKS5ExtProtocol._heard_credentials,
    ExtendedRequest: SOCKS5ExtProtocol._heard_pairs,
    Request: SOCKS5ExtProtocol._heard_request,
}
"""What is done about each message."""

_ADMISSION: Question = (SOCKS5ExtProtocol._authenticate, SOCKS5ExtProtocol._admit, SOCKS5ExtProtocol._refuse_method)
_LOGIN: Question = (SOCKS5ExtProtocol._authenticate, SOCKS5ExtProtocol._accept, SOCKS5ExtProtocol._refuse)
_LOGIN_WITH_PAIRS: Question = (
    SOCKS5ExtProtocol._authenticate_pairs,
    SOCKS5ExtProtocol._accept,
    SOCKS5ExtProtocol._refuse,
)
_CONNECTION: Question = (SOCKS5ExtProtocol._connect, SOCKS5ExtProtocol._connected, SOCKS5ExtProtocol._failed)
_RESOLUTION: Question = (SOCKS5ExtProtocol._resolve, SOCKS5ExtProtocol._resolved, SOCKS5ExtProtocol._failed)


def _note_literal(request: Request, session: Session) -> Request:
    """The request, in which an address that was sent as a name is an address: rules must see it."""
    if request.destination.type == _DOMAINNAME:
        literal = literal_of(request.destination)
        if literal is not None:
            request = session.request = Request(request.command, literal)
    return request


def _awaited(answer: Any) -> Any:
    """A route's answer as a callback may return it: a Deferred waits for another one, but for no coroutine."""
    return ensureDeferred(answer) if isinstance(answer, CoroutineType) else answer


def _connect_by(route: IRoute, session: Session) -> Any:
    session.take_route(route)
    assert session.request is not None
    return route.connect(session.request, session)


def _resolve_by(route: IRoute, session: Session) -> Any:
    session.take_route(route)
    resolve = getattr(route, "resolve", None)
    if resolve is None:
        # A route of someone's own may connect only.
        raise CommandNotSupported()
    return resolve(session.request, session)
