"""
The client's protocol: it carries the conversation, then gives its transport away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ..errors import (
    AuthenticationFailed,
    CleartextRefused,
    NoAcceptableMethod,
    ProtocolViolation,
    ProxyClosed,
)
from ..handshake import Initiator
from ..transports import hand_over, is_encrypted, is_local
from ..wire.codes import Method, Status
from ..wire.messages import (
    ExtendedRequest,
    ExtendedResponse,
    Message,
    MethodSelection,
    Reply,
    UsernamePasswordResponse,
)
from ..wire.pairs import NO_PAIRS, Pairs
from ..wire.reader import Fault, MalformedMessage

if TYPE_CHECKING:
    from .factory import SOCKS5ExtClientFactory


DOUBT = 1.0
"""Seconds in which tor has closed the connection if its F0 was a failure."""


class SOCKS5ExtClientProtocol(Protocol):
    """
    One conversation with a proxy (proposal 229's initiator).

    After the proxy's success the application's protocol has the transport to
    itself: its `connectionLost` sees Twisted's own reasons, its producers and
    half-close work, and data that came with the reply arrives at once.
    """

    transport: Any
    factory: SOCKS5ExtClientFactory

    def __init__(self, initiator: Initiator) -> None:
        self._initiator = initiator
        self._answered_pairs: Pairs = NO_PAIRS
        self._doubted: Reply | None = None
        self._doubt_ends: IDelayedCall | None = None
        self._is_over = False

    def connectionMade(self) -> None:
        factory = self.factory
        if factory.methods.has_secrets and not factory.allow_cleartext and not self._is_private():
            self._fail(CleartextRefused())
            return
        self._guarded(lambda: self._initiator.offer(factory.offer()))

    def dataReceived(self, data: bytes) -> None:
        if self._is_over:
            return
        self._initiator.feed(data)
        try:
            while not self._is_over:
                message = self._initiator.next_message()
                if message is None:
                    break
                self._heard(message)
        except MalformedMessage as violation:
            self._fail(_error_of(violation))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._is_over:
            return
        if self._doubted is not None:
            self._fail(self.factory.error_for(self._doubted, self._initiator))
            return
        error = ProxyClosed()
        error.__cause__ = reason.value
        self._fail(error)

    def abort(self) -> None:
        """Close the connection, and do nothing more."""
        self._is_over = True
        if self._doubt_ends is not None:
            self._doubt_ends.cancel()
            self._doubt_ends = None
        if self.transport is not None:
            self.transport.abortConnection()

    def _heard(self, message: Message) -> None:
        if isinstance(message, MethodSelection):
            self._selected(message.method)
        elif isinstance(message, Reply):
            if not message.code:
                self._succeeded(message)
            elif self.factory.may_be_success(message, self._initiator):
                self._doubt(message)
            else:
                self._fail(self.factory.error_for(message, self._initiator))
        elif isinstance(message, (ExtendedResponse, UsernamePasswordResponse)):
            if message.status != Status.SUCCESS:
                self._fail(self.factory.error_for(message, self._initiator))
                return
            if isinstance(message, ExtendedResponse):
                self._answered_pairs = message.pairs
            self._ask()

    def _selected(self, method: Method) -> None:
        if method == Method.EXTENDED:
            self._guarded(lambda: self._initiator.authenticate(ExtendedRequest(self.factory.pairs())))
        elif method == Method.USERNAME_PASSWORD:
            self._guarded(lambda: self._initiator.authenticate(self.factory.credentials()))
        elif method == Method.NO_AUTHENTICATION:
            self._ask()
        else:
            self._fail(NoAcceptableMethod())

    def _ask(self) -> None:
        self._guarded(lambda: self._initiator.request(self.factory.request))

    def _doubt(self, reply: Reply) -> None:
        """Wait for the end of the connection, which follows a failure at once; without it, this is none."""
        self._doubted = reply
        self._doubt_ends = self.factory.reactor.callLater(DOUBT, self._overrule)

    def _overrule(self) -> None:
        doubted, self._doubted, self._doubt_ends = self._doubted, None, None
        assert doubted is not None
        reply = self._initiator.overrule()
        if reply is None:
            self._fail(self.factory.error_for(doubted, self._initiator))
        else:
            self._succeeded(reply)

    def _succeeded(self, reply: Reply) -> None:
        factory = self.factory
        if factory.application is None:
            self._is_over = True
            factory.finish(reply.bound)
            self.transport.loseConnection()
            return
        assert self._initiator.selected is not None
        address = factory.address(reply.bound, self._initiator.selected, self._answered_pairs)
        try:
            application = factory.application.buildProtocol(address)
        except Exception as error:
            self._fail(error)
            return
        if application is None:
            self._fail(NoProtocol())
            return
        self._is_over = True
        transport, read_ahead = self.transport, self._initiator.take_read_ahead()
        hand_over(transport, application)
        factory.finish(application)
        if read_ahead and not transport.disconnecting:
            application.dataReceived(read_ahead)

    def _is_private(self) -> bool:
        return is_local(self.transport.getPeer()) or is_encrypted(self.transport)

    def _guarded(self, encode: Any) -> None:
        """Send what `encode` returns; a choice that raises ends the conversation, and nothing hangs."""
        try:
            data = encode()
        except Exception as error:
            self._fail(error)
            return
        self.transport.write(data)

    def _fail(self, error: BaseException) -> None:
        self._is_over = True
        self.factory.give_up(error)


def _error_of(violation: MalformedMessage) -> Exception:
    """Tor answers a login that it does not take with a whole SOCKS5 reply instead of RFC 1929's two bytes."""
    if violation.message == "UsernamePasswordResponse" and violation.fault is Fault.VERSION:
        return AuthenticationFailed(status=None)
    return ProtocolViolation(f"{ProtocolViolation.message} ({violation})")
