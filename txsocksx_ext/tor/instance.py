"""
One tor, as a way to ask for streams.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamClientEndpoint

from ..client.factory import SOCKS5ExtClientFactory
from ..client.methods import ClientMethods
from ..client.negotiation import PROXY_NOT_REACHED, negotiate
from ..client.protocol import SOCKS5ExtClientProtocol
from ..errors import (
    OnionClientAuthRequired,
    OnionClientAuthWrong,
    OnionServiceNotReachable,
    ProxyClosed,
    ProxyUnreachable,
    ReplyError,
    SOCKS5Error,
    TTLExpired,
    reply_error,
)
from ..protocol.codes import TTL_EXPIRED, Command, Dialect
from ..protocol.messages import Address, Reply, Request
from ..protocol.socks5 import Initiator
from .control import ControlConnection
from .tracker import StreamRecord, classify_failure, key_of_source, key_of_target, of_timeout, onion_address

EVENTS_FOLLOW_WITHIN = 0.5
"""Seconds: nothing orders tor's reply and the events of the same failure."""

PASSED_OVER_FOR = 5.0
"""Seconds in which a tor that could not be reached is asked only if no other can be."""


class TorInstance:
    """
    One tor's SOCKS port, and its control connection where there is one.

    :param reactor: provides time.
    :param socks: the way to the SOCKS port; ``None`` while it is not known yet.
    :param control: sees what becomes of the streams; or ``None``.
    :param extended: whether the SOCKS port has ExtendedErrors; ``None`` to find out.
    :param name: what tells this tor from others, the same in every process.
    :param allow_cleartext: whether tokens may go to a SOCKS port that is not on
        this machine or behind TLS.
    """

    def __init__(
        self,
        reactor: Any,
        socks: IStreamClientEndpoint | None,
        control: ControlConnection | None = None,
        extended: bool | None = None,
        name: str = "tor",
        allow_cleartext: bool = False,
    ) -> None:
        self._reactor = reactor
        self._passed_over_until = 0.0
        self._finding_out: Deferred[None] | None = None
        self.socks = socks
        self.control = control
        self.extended = extended
        self.name = name
        self._allow_cleartext = allow_cleartext

    @property
    def is_passed_over(self) -> bool:
        """Whether this tor could not be reached a moment ago."""
        return bool(self._reactor.seconds() < self._passed_over_until)

    async def ask(
        self, request: Request, token: bytes | None, application: IProtocolFactory | None, stream: WatchedStream
    ) -> Any:
        """
        Ask for a stream, or for a look-up.

        :param token: keeps the stream on circuits of its own; or ``None``.
        :param application: builds what gets the stream; ``None`` for a look-up.
        :param stream: is told what is seen of it.
        :returns: the application's protocol, or the address that was found.
        :raises ProxyUnreachable: this tor could not be reached; its cause is Twisted's own error, if there is one.
        :raises ReplyError: tor's answer, as exact as can be said.
        """
        if self.socks is None:
            raise ProxyUnreachable("tor is starting: try again when it has bootstrapped")
        if self.extended is None and self._finding_out is None and _is_onion_stream(request):
            self._finding_out = Deferred.fromCoroutine(self._find_out_extended(self.socks))
        methods = ClientMethods(anonymous=token is None, isolation=token)
        factory = _TorClientFactory(
            request, methods, application, allow_cleartext=self._allow_cleartext, reactor=self._reactor
        )
        factory.stream = stream
        # As tor is asked for it, and tells it in its events.
        stream.begin(self, factory.request, token)
        try:
            return await negotiate(self._reactor, self.socks, factory, timeout=None)
        except PROXY_NOT_REACHED as error:
            self._pass_over()
            raise ProxyUnreachable("tor could not be reached: check that it runs, and its SOCKS port") from error
        except ProxyClosed:
            self._pass_over()
            raise
        except ReplyError as said:
            raise await self._explained(said, request, stream) from None
        finally:
            stream.finish()

    def error_of_timeout(self, request: Request, record: StreamRecord | None) -> ReplyError:
        """What it means that we waited in vain for the answer of this tor, which has the request."""
        error: ReplyError | None = None
        if _is_onion_stream(request):
            if self.control is not None and self.control.is_live:
                fetch = None if record is None else record.fetch
                error = of_timeout(fetch, self.control.tracker.bootstrapped)
            elif self.extended:
                error = OnionServiceNotReachable()
        return TTLExpired() if error is None else error.with_plain_code(TTL_EXPIRED.number)

    async def _find_out_extended(self, socks: IStreamClientEndpoint) -> None:
        """Ask for what cannot be an onion service: tor says so at once, and by F6 if it has ExtendedErrors."""
        request = Request(Command.CONNECT, Address.of("invalid.onion", 1))
        # Without an application: what connects nevertheless is closed.
        factory = SOCKS5ExtClientFactory(
            request, ClientMethods(anonymous=True), dialect=Dialect.TOR, reactor=self._reactor
        )
        try:
            await negotiate(self._reactor, socks, factory, timeout=PASSED_OVER_FOR)
            self.extended = False
        except ReplyError as said:
            self.extended = said.row.dialect is Dialect.TOR
        except (*PROXY_NOT_REACHED, SOCKS5Error):
            # The next stream asks again.
            self._finding_out = None

    def _pass_over(self) -> None:
        self._passed_over_until = self._reactor.seconds() + PASSED_OVER_FOR

    async def _explained(self, said: ReplyError, request: Request, stream: WatchedStream) -> ReplyError:
        """The best that can be said of a failure: control events decide, else the reply's own code."""
        if said.row.dialect is Dialect.TOR:
            self.extended = True
        if not _is_onion_stream(request):
            return said
        control, record = self.control, stream.record
        if control is None or record is None:
            is_timeout = said.row is TTL_EXPIRED and self.extended
            return self.error_of_timeout(request, None) if is_timeout else said
        try:
            await record.ended.addTimeout(EVENTS_FOLLOW_WITHIN, self._reactor)
        except DeferredTimeout:
            return said
        error = classify_failure(record, said, control.tracker.bootstrapped)
        if isinstance(error, OnionClientAuthRequired) and control.is_live:
            address = onion_address(request.destination.host)
            if address is not None and await control.has_client_key(address):
                return OnionClientAuthWrong().with_plain_code(error.row.plain)
        return error


def _is_onion_stream(request: Request) -> bool:
    """Whether there is more to know of a failure than a reply says: a look-up of an onion always fails."""
    return request.command == Command.CONNECT and request.destination.is_onion


class WatchedStream:
    """
    One stream on its way through a tor, and what a tracker sees of it.

    :ivar tor: the tor that was asked last, or ``None`` before that.
    :ivar is_asked: whether that tor has the request, and did not only let us connect.
    :ivar record: what was seen; ``None`` where nobody watches.
    """

    def __init__(self) -> None:
        self.tor: TorInstance | None = None
        self.is_asked = False
        self.record: StreamRecord | None = None
        self._request: Request | None = None
        self._token: bytes | None = None

    def begin(self, tor: TorInstance, request: Request, token: bytes | None) -> None:
        """A tor is about to be asked."""
        self.tor, self._request, self._token = tor, request, token

    def connected_from(self, address: IAddress) -> None:
        """The connection to tor stands; its events can follow from now on."""
        assert self.tor is not None
        assert self._request is not None
        control, destination = self.tor.control, self._request.destination
        if control is None or not control.is_live or not _is_onion_stream(self._request):
            return
        if isinstance(address, (IPv4Address, IPv6Address)):
            key = key_of_source(address.host, address.port)
        else:
            key = key_of_target(self._token, destination.host, destination.port)
        self.record = control.tracker.expect(key)

    def error_of_timeout(self) -> ReplyError | None:
        """What it means that we waited in vain; ``None`` where no tor has the request."""
        if self.tor is None or self._request is None or not self.is_asked:
            return None
        return self.tor.error_of_timeout(self._request, self.record)

    def finish(self) -> None:
        """Nobody waits for this stream's events any more."""
        if self.record is not None and self.tor is not None and self.tor.control is not None:
            self.tor.control.tracker.dismiss(self.record)


class _TorClientProtocol(SOCKS5ExtClientProtocol):
    factory: _TorClientFactory

    def connectionMade(self) -> None:
        self.factory.stream.connected_from(self.transport.getHost())
        super().connectionMade()

    def _ask(self) -> None:
        self.factory.stream.is_asked = True
        super()._ask()


class _TorClientFactory(SOCKS5ExtClientFactory):
    """A client of tor that is watched; what a reply means is decided by all that was seen."""

    protocol = _TorClientProtocol
    stream: WatchedStream

    def error_for(self, answer: Any, initiator: Initiator) -> Exception:
        if isinstance(answer, Reply):
            return reply_error(answer.code, Dialect.TOR)
        return super().error_for(answer, initiator)
