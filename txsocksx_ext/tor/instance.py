"""
One tor, as a way to ask for streams.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamClientEndpoint

from ..client.factory import SOCKS5ExtClientFactory
from ..client.methods import ClientMethods
from ..client.negotiation import negotiate
from ..client.protocol import SOCKS5ExtClientProtocol
from ..errors import (
    HostUnreachable,
    OnionClientAuthRequired,
    OnionClientAuthWrong,
    ProxyClosed,
    ProxyUnreachable,
    ReplyError,
    TTLExpired,
)
from ..failures import reply_error
from ..net.timers import clock_of
from ..protocol.codes import DESCRIPTOR_NOT_FOUND, TTL_EXPIRED, Command, Dialect
from ..protocol.messages import Reply, Request
from ..protocol.socks5 import Initiator
from .control import ControlConnection
from .failures import classify_failure, of_timeout
from .tracker import StreamEnd, StreamRecord, key_of_source, key_of_target, onion_address

PASSED_OVER_FOR = 5.0
"""Seconds in which a tor that could not be reached is asked only if no other can be."""


class TorInstance:
    """
    One tor's SOCKS port, and its control connection where there is one.

    :param reactor: provides time.
    :param socks: the endpoint of the SOCKS port; ``None`` while it is not known yet.
    :param control: sees what becomes of the streams; or ``None``.
    :param name: what tells this tor from others, the same in every process.
    :param allow_cleartext: whether tokens may go to a SOCKS port that is not on
        this machine or behind TLS.
    """

    def __init__(
        self,
        reactor: Any,
        socks: IStreamClientEndpoint | None,
        control: ControlConnection | None = None,
        name: str = "tor",
        allow_cleartext: bool = False,
    ) -> None:
        self._reactor = reactor
        self._passed_over_until = 0.0
        self.socks = socks
        self.control = control
        self.name = name
        self._allow_cleartext = allow_cleartext

    @property
    def is_passed_over(self) -> bool:
        """Whether this tor could not be reached a moment ago."""
        return bool(clock_of(self._reactor).seconds() < self._passed_over_until)

    async def ask(
        self, request: Request, token: bytes | None, application: IProtocolFactory | None, stream: WatchedStream
    ) -> Any:
        """
        Ask for a stream, or for a look-up.

        :param token: keeps the stream on circuits of its own; or ``None``.
        :param application: builds what gets the stream; ``None`` for a look-up.
        :param stream: is told what is seen of it.
        :returns: the application's protocol, or the address that was found.
        :raises ProxyUnreachable: this tor could not be reached.
        :raises ReplyError: tor's answer, as exact as can be said.
        """
        # A tor of our own is not known where it listens before it is under control.
        if self.control is not None and (self.socks is None or _is_onion_stream(request)):
            await self.control.settled()
        if self.socks is None:
            raise ProxyUnreachable("tor is starting: try again when it has bootstrapped")
        try:
            return await self._ask_once(request, token, application, stream)
        except _NotFoundUnproven as doubt:
            first = doubt
        # Tor keeps the descriptor of a service that it found, and so comes to its real answer now.
        try:
            return await self._ask_once(request, token, application, stream)
        except (_NotFoundUnproven, HostUnreachable):
            if first.was_connected or stream.end is not None:
                raise HostUnreachable() from None
            raise first.said from None

    async def _ask_once(
        self, request: Request, token: bytes | None, application: IProtocolFactory | None, stream: WatchedStream
    ) -> Any:
        assert self.socks is not None
        methods = ClientMethods(anonymous=token is None, isolation=token)
        factory = _TorClientFactory(
            request, methods, application, allow_cleartext=self._allow_cleartext, reactor=self._reactor
        )
        factory.stream = stream
        # As tor is asked for it, and tells it in its events.
        stream.begin(self, factory.request, token)
        try:
            return await negotiate(self._reactor, self.socks, factory, timeout=None)
        except (ProxyClosed, ProxyUnreachable):
            self._pass_over()
            raise
        except ReplyError as said:
            raise await self._explained(said, request, stream) from None
        finally:
            stream.finish()

    def error_of_timeout(self, request: Request, record: StreamRecord | None) -> ReplyError:
        """
        Return what a timeout means while this tor has the request.

        Without events it is not known whether tor has asked any directory: it may not have bootstrapped.
        """
        error = of_timeout(record.fetch) if record is not None and _is_onion_stream(request) else None
        return TTLExpired() if error is None else error.with_plain_code(TTL_EXPIRED.number)

    def _pass_over(self) -> None:
        self._passed_over_until = clock_of(self._reactor).seconds() + PASSED_OVER_FOR

    async def _explained(self, said: ReplyError, request: Request, stream: WatchedStream) -> Exception:
        """Return the best that can be said of a failure: control events decide, else the reply's own code."""
        if not _is_onion_stream(request):
            return said
        end = await stream.end_for(said)
        if said.reply_code is DESCRIPTOR_NOT_FOUND and (end is None or end.was_connected):
            return _NotFoundUnproven(said, was_connected=end is not None)
        if end is None:
            return said
        error = classify_failure(end, said)
        control = self.control
        if isinstance(error, OnionClientAuthRequired) and control is not None and control.is_live:
            address = onion_address(request.destination.host)
            if address is not None and await control.has_client_key(address):
                return OnionClientAuthWrong().with_plain_code(error.reply_code.plain)
        return error


class _NotFoundUnproven(Exception):
    """
    Tor said F0, which is what the first directory said: another may have known the service.

    :ivar said: tor's reply.
    :ivar was_connected: whether the service was reached, as events say.
    """

    def __init__(self, said: ReplyError, was_connected: bool) -> None:
        self.said = said
        self.was_connected = was_connected


def _is_onion_stream(request: Request) -> bool:
    """Return whether more can be known of a failure than a reply says: a look-up of an onion always fails."""
    return request.command == Command.CONNECT and request.destination.is_onion


class WatchedStream:
    """
    One stream on its way through a tor, and what a tracker sees of it.

    :ivar tor: the tor that was asked last, or ``None`` before that.
    :ivar is_asked: whether that tor has the request, and did not only let us connect.
    :ivar record: what was seen; ``None`` where nobody watches.
    :ivar end: how it ended, as events showed it; ``None`` where they did not.
    """

    def __init__(self) -> None:
        self.tor: TorInstance | None = None
        self.is_asked = False
        self.record: StreamRecord | None = None
        self.end: StreamEnd | None = None
        self._request: Request | None = None
        self._token: bytes | None = None
        self._control: ControlConnection | None = None
        self._socks_port: IAddress | None = None

    def begin(self, tor: TorInstance, request: Request, token: bytes | None) -> None:
        """A tor is about to be asked."""
        self.tor, self._request, self._token = tor, request, token
        self.is_asked, self.record, self.end, self._control = False, None, None, None

    def connected(self, transport: Any) -> None:
        """The connection to tor stands; its events can follow from now on."""
        assert self.tor is not None
        assert self._request is not None
        control, destination, address = self.tor.control, self._request.destination, transport.getHost()
        if control is None or not control.is_live or not _is_onion_stream(self._request):
            return
        if isinstance(address, (IPv4Address, IPv6Address)):
            key = key_of_source(address.host, address.port, destination.host, destination.port)
        else:
            key = key_of_target(self._token, destination.host, destination.port)
        self._control, self._socks_port = control, transport.getPeer()
        self.record = control.expect(key, destination.host)

    async def end_for(self, said: ReplyError) -> StreamEnd | None:
        """Wait for `end`."""
        if self.record is not None and self._control is not None:
            assert self._socks_port is not None
            self.end = await self._control.end_of(self.record, said, self._socks_port)
        return self.end

    def error_of_timeout(self) -> ReplyError | None:
        """Return what a timeout means; ``None`` if no tor has the request."""
        if self.tor is None or self._request is None or not self.is_asked:
            return None
        return self.tor.error_of_timeout(self._request, self.record)

    def finish(self) -> None:
        """Nobody waits for this stream's events any more."""
        if self.record is None or self._control is None:
            return
        if self.is_asked and not self.record.is_seen:
            Deferred.fromCoroutine(self._find_out_why_unseen(self._control, self.record))
        else:
            self._control.tracker.dismiss(self.record)

    async def _find_out_why_unseen(self, control: ControlConnection, record: StreamRecord) -> None:
        assert self._socks_port is not None
        try:
            await control.check(record, self._socks_port)
        finally:
            control.tracker.dismiss(record)


class _TorClientProtocol(SOCKS5ExtClientProtocol):
    factory: _TorClientFactory

    def connectionMade(self) -> None:
        self.factory.stream.connected(self.transport)
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
