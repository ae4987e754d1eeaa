"""
One client's connection, from its first byte to its line in the access log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from ..addresses import literal_of
from ..context import Session, peer_group
from ..errors import AuthenticationFailed, CommandNotSupported, TTLExpired
from ..failures import CANCELLED, describe
from ..net.half_close import with_half_close
from ..net.rate_limit import NO_RATES
from ..net.relay import join
from ..net.transport import SocketTransport, write_now
from ..net.twisted_transports import abort, bound_address, close_result, set_keep_alive_idle
from ..policy.table import Decision
from ..protocol import codes
from ..protocol.codes import AddressType, Method, ReplyCode
from ..protocol.decoding import MalformedMessage
from ..protocol.foreign import reason_of
from ..protocol.messages import UNSPECIFIED, Address, Request
from ..protocol.pairs import NO_PAIRS, Pairs
from .coroutine import CoroutineProtocol
from .users import User, rates_of

if TYPE_CHECKING:
    from .frontends import Frontend

AWAITABLE = (Deferred, CoroutineType)
"""
What an override may return instead of its result.

A failed isinstance() of these costs about 0.2 µs, so test for the usual type first.
"""

_DOMAINNAME = AddressType.DOMAINNAME

CANCELLED_WITHIN = 2.0
"""Seconds after which a route that was cancelled and has not finished is not awaited any longer."""


class SOCKS5ExtProtocol(CoroutineProtocol):
    """
    One client's connection, until the relay takes its transport over.

    `_serve`, the coroutine that is its life, reads from top to bottom what happens
    on it. It ends when the relay begins, because a suspended coroutine costs more
    memory than an idle tunnel. Decisions are the factory's.

    One deadline is set at a time: for the handshake, for the connection to the
    target, or for the final reply to arrive.
    """

    def connectionMade(self) -> None:
        factory, transport = self.factory, self.transport
        # Create every attribute here: CPython's key-sharing dicts stay compact only if attributes appear now.
        self._closing = self._input_ended = self._lost = self._is_paused = False
        self._given_up = self._timed_out = False
        self._frontend = self._life = self._awaited = None
        self._counted_as: str | None = None
        self._user: User | None = None
        self._asked = 0.0
        header_is_unread = False
        if isinstance(transport, ProtocolWrapper):
            # Twisted's wrapper, which has no public name, returns the balancer's address now, and the client's later.
            header_is_unread = type(transport).__name__ == "HAProxyProtocolWrapper"
            transport = self.transport = with_half_close(transport)
        session = self.session
        factory.connections.add(self)
        session.began = factory.deadlines.start(self, factory.limits.handshake_timeout, self._handshake_expired)
        if header_is_unread:
            self.abort("the PROXY header was not read: listen by SOCKS5ExtService or ProxyProtocolFactory")
        elif not session.is_local:
            self._count_peer()

    # Called by the transport.

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        frontend = self._frontend
        if frontend is None:
            kind = self.factory.frontends[data[0]]
            frontend = self._frontend = kind(self.factory.limits)
            self.session.protocol = kind.name
            frontend.feed(data)
            self._life = self._serve(frontend)
            self._resume()
            return
        frontend.feed(data)
        if self._awaited is None:
            self._resume()
        elif not self._is_paused and frontend.buffered > self.factory.limits.read_ahead:
            self._is_paused = True
            self.transport.pauseProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._lost:  # its stream is over already
            return
        self._lost = True
        self.factory.deadlines.stop(self)
        self._end("the client left")
        if not self._closing:
            self._cancel()
        self._closed()

    # Called by the factory.

    def stop(self) -> None:
        """End the connection because the server stops, unless it is a stream. A client that awaits a reply gets one."""
        session = self.session
        if session.relay is not None or self._closing:
            return
        self._end("stopped")
        if self._awaited is not None and session.request is not None and session.reply_code is None:
            self._give_up_request()
        else:
            self.abort("stopped")

    def abort(self, reason: str) -> None:
        """End the connection at once, whatever its state."""
        if self.session.relay is not None:
            self.session.relay.abort(reason)
            return
        super().abort(reason)

    # The life of a connection.

    async def _serve(self, frontend: Frontend) -> None:
        try:
            request = await frontend.receive_request(self)
        except MalformedMessage as violation:
            self.session.reply_code = frontend.replied
            self.close_after(frontend.final_reply, f"violation: {reason_of(violation, frontend.buffer)}")
            return
        if request is None or self._closing or self._lost:
            self._log_out()
            return
        factory, session = self.factory, self.session
        session.request = request
        self._asked = factory.deadlines.start(self, factory.limits.connect_timeout, self._request_expired)
        try:
            if session.credentials is not None and (factory.limits.max_per_user or factory.limits.has_rates):
                self._user = factory.users.join(session.credentials.username, factory.limits)
            command = factory.commands.get(request.command)
            if command is None:
                raise CommandNotSupported()
            if request.destination.type == _DOMAINNAME:
                request = _with_literal(request, session)
            await command(self, request)
        except BaseException as error:
            self._request_failed(error)

    def accepted_methods(self) -> Sequence[int]:
        """Ask the factory which methods this client may use."""
        accepted = self.factory.methods(self.session)
        if type(accepted) is not tuple and isinstance(accepted, Deferred):
            # Iterating over one never ends.
            raise TypeError("methods() must return the methods at once, not a Deferred")
        return accepted

    async def admit(self, method: Method) -> Pairs:
        """
        Ask the factory whether a client may come in that did not negotiate a method.

        :param method: the one of SOCKS5 that its request corresponds to.
        :returns: the pairs to answer with.
        :raises AuthenticationFailed: the client may not; an override may raise anything.
        """
        self.session.offered, self.session.method = (method,), method
        if method not in self.accepted_methods():
            raise AuthenticationFailed()
        answer = await self.authenticate()
        return NO_PAIRS if answer is None else Pairs(dict(answer))

    async def authenticate(self) -> Any:
        """
        Ask the factory whether the client may come in. Set `Session.method`, `credentials` and `pairs` before.

        :returns: the pairs to answer with, or ``None``.
        :raises AuthenticationFailed: the client may not; an override may raise anything.
        """
        answer: Any = self.factory.authenticate(self.session)
        if answer is not None and isinstance(answer, AWAITABLE):
            answer = await answer
        return answer

    async def decide(self, request: Request) -> Decision:
        """
        Decide where the request goes, with the addresses that were admitted.

        :raises ConnectionNotAllowed: nowhere; an override may raise anything.
        """
        session = self.session
        chosen: Any = self.factory.route(session)
        if not isinstance(chosen, Decision):
            if isinstance(chosen, AWAITABLE):
                chosen = await chosen
            if not isinstance(chosen, Decision):
                chosen = session.policy.admit(chosen, request.destination, session)
        decision: Decision = chosen
        route = session.route = decision.route
        if session.required_keys:
            session.check_keys(route)
        if decision.addresses is None and getattr(route, "resolver", None) is not None:
            decision = await decision.policy.resolve(decision, request.destination, session)
            session.route = decision.route
            session.check_keys(decision.route)
        if self._lost or self._closing or self._given_up:
            # An override turned its cancellation into a decision.
            raise CancelledError()
        return decision

    def send(self, data: bytes) -> None:
        """Send bytes of the handshake at once: the fast relay takes over only sockets that have sent everything."""
        write_now(self.transport, data)

    def reply(self, bound: Address) -> None:
        """Reply success, and keep the connection: for commands that reply twice, or that hold it without a relay."""
        assert self._frontend is not None
        write_now(self.transport, self._frontend.success(bound))
        session, factory = self.session, self.factory
        session.reply_code = 0
        session.connect_seconds = factory.clock.seconds() - self._asked
        # The time for the request is over; a command that holds the connection sets its own.
        factory.deadlines.stop(self)

    def start_relay(self, target: Any) -> None:
        """
        Reply success, and join the client to its target.

        :param target: the connected transport that a route fired with.
        """
        if self._lost or self._closing:
            # The client left, or has got the reply that the time is over.
            close_result(target)
            return
        if not getattr(target, "connected", True):
            # It was lost while the route had more to do with it.
            raise ConnectionLost()
        try:
            bound = target.bound_address() if type(target) is SocketTransport else bound_address(target)
        except BaseException:  # a foreign route fired with something else than a transport
            close_result(target)
            raise
        factory, session, transport, frontend = self.factory, self.session, self.transport, self._frontend
        assert frontend is not None
        try:
            self.reply(bound)
            limits, ended, fast = factory.limits, self._stream_ended, factory.fast_relay
            if limits.keepalive is not None:
                set_keep_alive_idle(transport, limits.keepalive)
                set_keep_alive_idle(target, limits.keepalive)
            rates = rates_of(limits, self._user, factory.clock) if limits.has_rates else NO_RATES
            relay = join(transport, target, factory.reactor, ended, limits.idle_timeout, fast=fast, rates=rates)
            session.relay, session.relay_name = relay, relay.name
            # A stream needs them no more, and there may be thousands of streams.
            self.transport = self._frontend = None
            relay.start(frontend.take_read_ahead() if frontend.buffer else b"", self._input_ended)
        except BaseException:  # of any kind: both connections must end
            close_result(target)
            self.factory.log.unexpected(Failure(), session)
            self._end("fault")
            if session.relay is not None:
                session.relay.abort("fault")
            else:
                abort(transport)

    def reply_and_close(
        self, code: ReplyCode | int, bound: Address, reason: str, error: BaseException | None = None
    ) -> None:
        """
        Send the reply that ends the conversation.

        :param bound: for a success, the address in the reply.
        :param reason: for the access log.
        :param error: the exception that the request failed with.
        """
        frontend = self._frontend
        if self._lost or self._closing or frontend is None:
            return
        reply = frontend.success(bound) if code is codes.SUCCEEDED else frontend.failure(code, error)
        self.session.reply_code = frontend.replied
        self.close_after(reply, reason)

    # The ends of a connection.

    def _request_failed(self, error: BaseException) -> None:
        if self._timed_out and isinstance(error, CANCELLED):
            error = TTLExpired()
        self.report(error)
        if not self._lost and not self._closing:
            self.reply_and_close(self._reply_for(Failure(error)), UNSPECIFIED, describe(error), error)

    def _reply_for(self, failure: Failure) -> ReplyCode | int:
        """Ask the factory for the reply code; log a bug in an override, and answer 0x01 for it."""
        try:
            code = self.factory.reply_for(failure, self.session)
            number = code.number if isinstance(code, ReplyCode) else code
            if not isinstance(number, int) or not 0 < number <= 0xFF:
                raise TypeError("reply_for() must return a failing row of the table or a number from 1 to 255")
            return code
        except BaseException as error:  # as in `report`
            if self._must_propagate(error):
                raise
            self.factory.log.unexpected(Failure(), self.session)
            return codes.GENERAL_FAILURE

    def _handshake_expired(self) -> None:
        self.abort("handshake timeout")

    def _request_expired(self) -> None:
        self._timed_out = True
        self._give_up_request()

    def _give_up_request(self) -> None:
        """Cancel the route; its exception decides the reply."""
        self._given_up = True
        if self._awaited is None:
            self._abandon_request()
            return
        self._cancel()
        if self._awaited is not None and not self._closing:
            self.factory.deadlines.start(self, CANCELLED_WITHIN, self._abandon_request)

    def _abandon_request(self) -> None:
        """Reply although the route has not finished; a connection that it still makes is closed."""
        self._request_failed(TTLExpired() if self._timed_out else CancelledError())
        self._cancel()

    def _stream_ended(self, reason: str) -> None:
        self.session.end_relay(reason)
        self._lost = True
        self._closed()

    def _closed(self) -> None:
        factory, session = self.factory, self.session
        if self._counted_as is not None:
            factory.discount_peer(self._counted_as)
        if self._user is not None:
            factory.users.leave(self._user)
        self._log_out()
        session.seconds = factory.clock.seconds() - session.began
        factory.connection_closed(self)

    def _log_out(self) -> None:
        """Call the avatar's logout function, once the connection is closed."""
        logout = self.session.logout
        if self._lost and logout is not None:
            self.session.logout = None
            maybeDeferred(logout).addErrback(self.factory.log.unexpected, self.session)

    # Limits for each peer.

    def _count_peer(self) -> None:
        """Count this connection for its peer, and end it if that peer has too many."""
        self._counted_as = peer_group(self.session.peer)
        if not self.factory.count_peer(self._counted_as):
            self.abort("too many connections of this peer")


Command = Callable[[SOCKS5ExtProtocol, Request], Any]


def _with_literal(request: Request, session: Session) -> Request:
    """Return the request, in which an address that was sent as a name is an address: rules must see it."""
    literal = literal_of(request.destination)
    if literal is not None:
        request = session.request = Request(request.command, literal)
    return request
