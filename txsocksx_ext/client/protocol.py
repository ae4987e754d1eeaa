"""
The client's protocol: it carries the conversation, then gives its transport away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionClosed, NoProtocol
from twisted.internet.interfaces import IDelayedCall, IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ..errors import (
    CleartextRefused,
    ProtocolViolation,
    ProxyClosed,
)
from ..net.half_close import with_half_close
from ..net.handover import write_now
from ..net.timers import clock_of
from ..net.twisted_transports import (
    PausedProtocol,
    abort,
    hand_over,
    is_connected_to_itself,
    is_encrypted,
    is_local,
    renew_log_prefix,
)
from ..protocol.codes import Method, Status
from ..protocol.decoding import MalformedMessage
from ..protocol.messages import (
    UNSPECIFIED,
    ExtendedRequest,
    ExtendedResponse,
    Message,
    MethodSelection,
    Reply,
    UsernamePassword,
    UsernamePasswordResponse,
)
from ..protocol.pairs import NO_PAIRS, Pairs
from ..protocol.socks5 import Initiator
from .diagnosis import (
    CLOSED_WITHOUT_ANSWER,
    TLS_FAULT,
    echo_error,
    no_acceptable_method,
    refused_error,
    violation_error,
)
from .early import EarlyBytes

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
        self._greeting = b""
        self._answered_pairs: Pairs = NO_PAIRS
        self._doubted: Reply | None = None
        self._believed: Reply | None = None
        self._doubt_ends: IDelayedCall | None = None
        self._is_private = False
        self._is_over = False
        # Who has the connection, where the transport cannot be given away.
        self._successor: IProtocol | None = None

    @property
    def has_heard(self) -> bool:
        """Whether the proxy said anything at all."""
        initiator = self._initiator
        return bool(initiator.selected is not None or initiator.buffer)

    def connectionMade(self) -> None:
        if self._is_over:  # the caller cancelled while we connected
            abort(self.transport)
            return
        self.transport = with_half_close(self.transport)
        self._attempt(self._begin)

    def dataReceived(self, data: bytes) -> None:
        if self._successor is not None:
            self._successor.dataReceived(data)
        if self._is_over:
            return
        self._initiator.feed(data)
        self._attempt(self._listen if self._doubted is None else self._believe_data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._successor is not None:
            self._successor.connectionLost(reason)
        if self._is_over:
            return
        if self._doubted is not None:
            self._attempt(self._confirm)
            return
        # Whatever else ends a TLS connection, such as a certificate of someone else.
        is_tls_fault = is_encrypted(self.transport) and not reason.check(ConnectionClosed)
        closed = ProxyClosed.message if self.has_heard else CLOSED_WITHOUT_ANSWER
        error = ProxyClosed(TLS_FAULT if is_tls_fault else closed)
        error.__cause__ = reason.value
        self._fail(error)

    def abort(self) -> None:
        """Close the connection, and do nothing more."""
        self._is_over = True
        if self._doubt_ends is not None:
            self._doubt_ends.cancel()
            self._doubt_ends = None
        if self.transport is not None:
            abort(self.transport)

    def _attempt(self, step: Callable[[], object]) -> None:
        """Take a step; whatever is raised in it, by a choice or by the application, ends the conversation."""
        try:
            step()
        except MalformedMessage as violation:
            self._fail(self._echo_error() if self._is_echo else violation_error(violation, self._initiator.buffer))
        except BaseException as error:
            if self._is_over:
                raise
            self._fail(error)

    def _begin(self) -> None:
        self._is_private = self._only_the_proxy_reads()
        if self.factory.methods.has_secrets:
            self._check_privacy()
        self._greeting = self._initiator.offer(self.factory.offer())
        self._say(self._greeting)

    def _listen(self) -> None:
        while not self._is_over and self._doubted is None:
            message = self._initiator.next_message()
            if message is None:
                break
            self._heard(message)

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

    @property
    def _is_echo(self) -> bool:
        """Whether the proxy's answer is our own greeting, of which a selection was decoded."""
        initiator, greeting = self._initiator, self._greeting
        return bool(initiator.buffer) and initiator.buffer == greeting[2:] and initiator.selected == greeting[1]

    def _echo_error(self) -> Exception:
        """Return the exception for a proxy that answered our own greeting: perhaps nothing listens there."""
        if is_connected_to_itself(self.transport):
            return refused_error(self.transport.getPeer())
        return echo_error()

    def _selected(self, method: Method) -> None:
        if self._is_echo:  # before anything secret is sent
            self._fail(self._echo_error())
            return
        if method == Method.EXTENDED:
            pairs = self.factory.pairs()
            self._authenticate(ExtendedRequest(pairs), is_secret=bool(pairs))
        elif method == Method.USERNAME_PASSWORD:
            self._authenticate(self.factory.credentials(), is_secret=True)
        elif method == Method.NO_AUTHENTICATION:
            self._ask()
        else:
            self._fail(no_acceptable_method(self._initiator.offered))

    def _authenticate(self, message: ExtendedRequest | UsernamePassword, is_secret: bool) -> None:
        # Again, since the choices of a subclass may be secrets that the methods do not hold.
        if is_secret:
            self._check_privacy()
        self._say(self._initiator.authenticate(message))

    def _ask(self) -> None:
        self._say(self._initiator.request(self.factory.request))

    def _say(self, data: bytes) -> None:
        # A turn of the reactor less, where that is possible.
        write_now(self.transport, data)

    def _check_privacy(self) -> None:
        """Raise `CleartextRefused` where others could read what goes to the proxy."""
        if not self._is_private and not self.factory.allow_cleartext:
            raise CleartextRefused()

    def _only_the_proxy_reads(self) -> bool:
        """Return whether only the proxy can read what we send. Call it before anything is sent."""
        transport, address = self.transport, self.factory.proxy_address
        is_tls = is_encrypted(transport)
        # TLS that begins with us ends at the proxy. Older TLS may end at one whose tunnel we are in.
        if is_tls and transport.getPeerCertificate() is None:
            return True
        # Any tunnel returns another address than that of its near end.
        return bool((is_tls or is_local(address)) and address == transport.getPeer())

    # A failing reply that may be none.

    def _doubt(self, reply: Reply) -> None:
        """Wait whether the proxy closes the connection, as it does at once after a real failure."""
        self._doubted = reply
        self._doubt_ends = clock_of(self.factory.reactor).callLater(DOUBT, self._attempt, self._end_doubt)
        self._believe_data()

    def _believe_data(self) -> None:
        """Data that follows the whole reply comes from the target."""
        try:
            self._believed = self._believed or self._initiator.overrule()
        except MalformedMessage:
            # Nothing can follow that is worth collecting.
            self._confirm()
            return
        if self._believed is not None and self._initiator.buffered:
            self._end_doubt()

    def _end_doubt(self) -> None:
        if self._doubt_ends is not None and self._doubt_ends.active():
            self._doubt_ends.cancel()
        self._doubt_ends = None
        if self._believed is None:
            self._confirm()
        else:
            self._succeeded(self._believed)

    def _confirm(self) -> None:
        """The failing reply meant what it said."""
        assert self._doubted is not None
        self._fail(self.factory.error_for(self._doubted, self._initiator))

    # The end of the conversation.

    def _succeeded(self, reply: Reply) -> None:
        factory, transport = self.factory, self.transport
        if factory.application is None:
            if not reply.bound.is_well_formed:
                self._fail(ProtocolViolation("the proxy found neither an address nor a well-formed name"))
                return
            self._is_over = True
            factory.finish(reply.bound)
            transport.loseConnection()
            return
        assert self._initiator.selected is not None
        bound = reply.bound if reply.bound.is_well_formed else UNSPECIFIED
        address = factory.address(bound, self._initiator.selected, self._answered_pairs)
        application = factory.application.buildProtocol(address)
        if self._is_over:  # cancelled by the application's own factory
            return
        if application is None:
            self._fail(NoProtocol())
            return
        read_ahead = self._initiator.take_read_ahead()
        early = None
        # A paused protocol keeps what comes, and is asked for it.
        if read_ahead and not isinstance(application, PausedProtocol):
            early = EarlyBytes(factory.reactor, transport, read_ahead)
        if not hand_over(transport, application):
            self._successor = application
        renew_log_prefix(transport)
        self._is_over = True
        factory.finish(application)
        if early is not None:
            early.give_to(application)
        elif read_ahead:
            application.dataReceived(read_ahead)

    def _fail(self, error: BaseException) -> None:
        self._is_over = True
        self.factory.give_up(error)
