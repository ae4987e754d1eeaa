"""
The client of SOCKS5 (RFC 1928, RFC 1929) and proposal 229: the choices of one conversation, and its words.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IProtocolFactory
from twisted.python.failure import Failure

from ..checks import check_protocol_factory, check_reactor, check_type
from ..errors import ProtocolViolation
from ..failures import authentication_error, reply_error
from ..net.timers import clock_of
from ..protocol.codes import DESCRIPTOR_NOT_FOUND, Dialect, Method, Status
from ..protocol.decoding import Fault, MalformedMessage
from ..protocol.messages import (
    UNSPECIFIED,
    Address,
    ExtendedRequest,
    ExtendedResponse,
    Message,
    MethodSelection,
    Reply,
    Request,
    UsernamePassword,
    UsernamePasswordResponse,
)
from ..protocol.pairs import DEFAULT_PAIR_LIMITS, NO_PAIRS, PairLimits, Pairs
from ..protocol.socks5 import Initiator
from .diagnosis import no_acceptable_method
from .methods import ClientMethods
from .tunnel import SOCKS5Address, TunnelFactory, TunnelProtocol

_NO_SECRET = ExtendedRequest()

DOUBT = 1.0
"""Seconds in which tor has closed the connection if its 0xF0 was a failure."""


class SOCKS5ExtClientProtocol(TunnelProtocol):
    """
    One conversation with a SOCKS5 proxy (proposal 229's initiator).

    After the proxy's success the application's protocol has the transport to
    itself: its `connectionLost` sees Twisted's own reasons, its producers and
    half-close work, and data that came with the reply arrives at once.
    """

    factory: SOCKS5ExtClientFactory
    _initiator: Initiator

    def __init__(self, factory: SOCKS5ExtClientFactory) -> None:
        super().__init__(factory, factory.initiator())
        self._answered_pairs: Pairs = NO_PAIRS
        self._doubted: Reply | None = None
        self._believed: Reply | None = None
        self._doubt_ends: IDelayedCall | None = None

    def _begin(self) -> bytes:
        return self._initiator.offer(self.factory.offer())

    def _heard(self, message: Message) -> None:
        if isinstance(message, MethodSelection):
            self._selected(message.method)
        elif isinstance(message, Reply):
            if not message.code:
                self._replied(message)
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
        initiator, greeting = self._initiator, self._first_words
        return bool(initiator.buffer) and initiator.buffer == greeting[2:] and initiator.selected == greeting[1]

    def _selected(self, method: Method) -> None:
        if self._is_echo:  # before anything secret is sent
            raise MalformedMessage("MethodSelection", Fault.METHOD)
        if method == Method.EXTENDED:
            self._authenticate(ExtendedRequest(self.factory.pairs()))
        elif method == Method.USERNAME_PASSWORD:
            self._authenticate(self.factory.credentials())
        elif method == Method.NO_AUTHENTICATION:
            self._ask()
        else:
            self._fail(no_acceptable_method(self._initiator.offered))

    def _authenticate(self, message: ExtendedRequest | UsernamePassword) -> None:
        # Again, since the choices of a subclass may be secrets that the methods do not hold.
        if message != _NO_SECRET:
            self._check_privacy()
        self._say(self._initiator.authenticate(message))

    def _ask(self) -> None:
        self._say(self._initiator.request(self.factory.request))

    def _replied(self, reply: Reply) -> None:
        """The proxy succeeded."""
        factory, bound = self.factory, reply.bound
        if factory.application is not None:
            selected = self._initiator.selected
            assert selected is not None
            bound = bound if bound.is_well_formed else UNSPECIFIED
            self._succeeded(factory.address(bound, selected, self._answered_pairs))
        elif not bound.is_well_formed:
            self._fail(ProtocolViolation("the proxy found neither an address nor a well-formed name"))
        else:
            self._is_over = True
            factory.finish(bound)
            self.transport.loseConnection()

    # A failing reply that may be none.

    def abort(self) -> None:
        """Close the connection, and do nothing more."""
        if self._doubt_ends is not None:
            self._doubt_ends.cancel()
            self._doubt_ends = None
        super().abort()

    def _lost(self, reason: Failure) -> None:
        if self._doubted is None:
            super()._lost(reason)
        else:
            self._confirm()

    def _doubt(self, reply: Reply) -> None:
        """Wait whether the proxy closes the connection, as it does at once after a real failure."""
        self._doubted = reply
        self._receive = self._receive_in_doubt  # type: ignore[method-assign]
        self._doubt_ends = clock_of(self.factory.reactor).callLater(DOUBT, self._attempt, self._end_doubt)
        self._believe_data()

    def _receive_in_doubt(self, data: bytes) -> None:
        self._initiator.feed(data)
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
            self._replied(self._believed)

    def _confirm(self) -> None:
        """The failing reply meant what it said."""
        assert self._doubted is not None
        self._fail(self.factory.error_for(self._doubted, self._initiator))


class SOCKS5ExtClientFactory(TunnelFactory):
    """
    One request to a SOCKS5 proxy (the proposal's initiator).

    To change one choice, override one of `offer`, `credentials`, `pairs` and
    `error_for`.

    :param request: what to ask the proxy for.
    :param methods: what to offer: see `SOCKS5ClientEndpoint`.
    :param application: builds the protocol that gets the connection; ``None``
        where the reply is the result, as for RESOLVE.
    :param dialect: how to read extended codes; ``None`` decides by what the
        proxy selects and confirms.
    :param allow_cleartext: whether secrets may go to a proxy that is not seen to
        be on this machine or behind TLS.
    :param limits: how much the proxy may answer.
    :param reactor: provides time; by default the global one.
    :raises ValueError: the methods are faulty.
    :raises TypeError: an argument, or what `methods` holds, is of a wrong type.
    :ivar request: what the proxy is asked for: an onion service's name has no dot at its end.
    :ivar proxy_address: what the proxy's endpoint says it connected to; ``None`` before that.
    :ivar was_built: whether the proxy's endpoint has asked for a protocol.
    :ivar result: fires with the application's protocol, or with the address
        that the reply holds; or fails with an exception of `txsocksx_ext.errors`.
    """

    protocol = SOCKS5ExtClientProtocol

    def __init__(
        self,
        request: Request,
        methods: Mapping[str, Any] | ClientMethods,
        application: IProtocolFactory | None = None,
        *,
        dialect: Dialect | None = None,
        allow_cleartext: bool = False,
        limits: PairLimits = DEFAULT_PAIR_LIMITS,
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        check_type("request", request, Request)
        check_type("limits", limits, PairLimits)
        check_type("dialect", dialect, Dialect, NoneType)
        check_type("allow_cleartext", allow_cleartext, bool)
        check_reactor("reactor", reactor)
        if application is not None:
            check_protocol_factory("application", application)
        self._dialect = dialect
        self._limits = limits
        given = methods if isinstance(methods, ClientMethods) else ClientMethods.of(methods)
        super().__init__(request, given, application, allow_cleartext, reactor)

    def initiator(self) -> Initiator:
        """Return our end of the conversation."""
        return Initiator(self._dialect, self._limits)

    # Choices.

    def offer(self) -> tuple[Method, ...]:
        """Return the methods to offer, the preferred first."""
        return self.methods.offer()

    def credentials(self) -> UsernamePassword:
        """Return what to send if the proxy selected method 0x02."""
        credentials = self.methods.credentials()
        if credentials is None:
            raise ValueError("method 0x02 was offered without a user name and password")
        return credentials

    def pairs(self) -> Pairs:
        """Return what to send if the proxy selected method 0x97."""
        return self.methods.pairs_to_send()

    def error_for(self, answer: UsernamePasswordResponse | ExtendedResponse | Reply, initiator: Initiator) -> Exception:
        """
        Return the exception for a failing answer.

        :param answer: what the proxy said.
        :param initiator: our end of the conversation: its ``dialect`` says how
            to read a reply's code.
        """
        if isinstance(answer, Reply):
            return reply_error(answer.code, initiator.dialect)
        assert initiator.selected is not None
        pairs = answer.pairs if isinstance(answer, ExtendedResponse) else NO_PAIRS
        return authentication_error(initiator.selected, answer.status, pairs)

    # What the protocol asks for.

    def may_be_success(self, reply: Reply, initiator: Initiator) -> bool:
        """
        Return whether a failing reply may come with a connection that stands.

        If one directory does not have a descriptor and another has, tor's port
        with ExtendedErrors answers 0xF0 and connects. After a failure it closes.
        """
        is_doubtful = initiator.dialect is Dialect.TOR and reply.code == DESCRIPTOR_NOT_FOUND.number
        return is_doubtful and self.application is not None

    def address(self, bound: Address, method: Method, pairs: Pairs) -> SOCKS5Address:
        """Return what the application is told of its connection."""
        destination = self.request.destination
        return SOCKS5Address(destination.host, destination.port, bound, method, pairs)
