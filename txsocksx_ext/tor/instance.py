"""
One tor: its SOCKS port, its control connection, and the streams that go through it.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamClientEndpoint

from ..client.http_connect import HTTPConnectClientFactory, HTTPConnectClientProtocol
from ..client.methods import ClientMethods
from ..client.proxies import HTTP, Proxy, proxy_of
from ..client.socks5 import SOCKS5ExtClientFactory, SOCKS5ExtClientProtocol
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
from .listeners import HTTP_LISTENERS, SOCKS_LISTENERS
from .tracker import StreamEnd, StreamRecord, key_of_source, key_of_target, onion_address

PASSED_OVER_FOR = 5.0
"""Seconds during which a tor that could not be reached is tried after all others."""


class TorInstance:
    """
    One tor's SOCKS port, and its control connection if there is one.

    :param reactor: provides time.
    :param socks: the endpoint of the SOCKS port, or a `Proxy` for its HTTPTunnelPort; ``None`` while it is not known.
    :param control: the control connection, or ``None``.
    :param name: identifies this tor in all processes of a server.
    :param allow_cleartext: whether tokens may go to a SOCKS port that is not on
        this machine or behind TLS.
    """

    def __init__(
        self,
        reactor: Any,
        socks: IStreamClientEndpoint | Proxy | None,
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
        """Whether this tor could not be reached in the last `PASSED_OVER_FOR` seconds."""
        return bool(clock_of(self._reactor).seconds() < self._passed_over_until)

    async def ask(
        self, request: Request, token: bytes | None, application: IProtocolFactory | None, stream: WatchedStream
    ) -> Any:
        """
        Ask for a stream or a lookup.

        :param token: isolates the stream; ``None`` for no isolation.
        :param application: builds the protocol of the stream; ``None`` for a lookup.
        :param stream: collects what is known of the stream.
        :returns: the application's protocol, or the address that was found.
        :raises ProxyUnreachable: this tor could not be reached.
        :raises ReplyError: tor's answer, made as exact as the events allow.
        """
        # The SOCKS port of a launched tor is known only once the control connection is established.
        if self.control is not None and (self.socks is None or _is_onion_stream(request)):
            await self.control.settled()
        if self.socks is None:
            raise ProxyUnreachable("tor is starting: try again when it has bootstrapped")
        try:
            return await self._ask_once(request, token, application, stream)
        except _NotFoundUnproven as doubt:
            first = doubt
        # Tor caches the descriptor of a service that it has found, so now it gives its final answer.
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
        proxy = proxy_of(self._reactor, self.socks)
        kind: Any = _TorHTTPClientFactory if proxy.speaks == HTTP else _TorClientFactory
        factory = kind(
            request,
            proxy.complete(methods),
            application,
            allow_cleartext=self._allow_cleartext,
            reactor=self._reactor,
        )
        factory.stream = stream
        # The factory's request has the name that tor gets, and that its events have.
        stream.begin(self, factory.request, token, HTTP_LISTENERS if proxy.speaks == HTTP else SOCKS_LISTENERS)
        try:
            return await factory.begin(proxy.endpoint, timeout=None)
        except (ProxyClosed, ProxyUnreachable):
            self._pass_over()
            raise
        except ReplyError as said:
            raise await self._explained(said, request, stream) from None
        finally:
            stream.finish()

    def _pass_over(self) -> None:
        self._passed_over_until = clock_of(self._reactor).seconds() + PASSED_OVER_FOR

    async def _explained(self, said: ReplyError, request: Request, stream: WatchedStream) -> Exception:
        """Return the most exact exception for a failure: by the control events, else by the reply's own code."""
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
    Tor replied 0xF0, the answer of the first directory; another one may have known the service.

    :ivar said: tor's reply.
    :ivar was_connected: whether the events show that the service was reached.
    """

    def __init__(self, said: ReplyError, was_connected: bool) -> None:
        self.said = said
        self.was_connected = was_connected


def _is_onion_stream(request: Request) -> bool:
    """Return whether events can explain a failure. A lookup of an onion address always fails."""
    return request.command == Command.CONNECT and request.destination.is_onion


class WatchedStream:
    """
    One stream through a tor, and what the tracker knows of it.

    :ivar tor: the tor that was asked last, or ``None`` before that.
    :ivar is_asked: whether that tor has been sent the request.
    :ivar record: the tracker's record; ``None`` if the stream is not tracked.
    :ivar end: how the stream ended by the events; ``None`` if they do not tell.
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
        self._listeners = SOCKS_LISTENERS

    def begin(self, tor: TorInstance, request: Request, token: bytes | None, listeners: str = SOCKS_LISTENERS) -> None:
        """Note which tor is asked next, and by which kind of port."""
        self.tor, self._request, self._token, self._listeners = tor, request, token, listeners
        self.is_asked, self.record, self.end, self._control = False, None, None, None

    def connected(self, transport: Any) -> None:
        """Begin to track the stream: the connection to tor is established, and its events may follow."""
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
            self.end = await self._control.end_of(self.record, said, self._socks_port, self._listeners)
        return self.end

    def error_of_timeout(self) -> ReplyError | None:
        """
        Return the exception for a timeout; ``None`` if no tor has been sent the request.

        Without events it is unknown whether tor has asked any directory: it may not have bootstrapped.
        """
        if self._request is None or not self.is_asked:
            return None
        # Only streams to onion services are tracked.
        error = None if self.record is None else of_timeout(self.record.fetch)
        return TTLExpired() if error is None else error.with_plain_code(TTL_EXPIRED.number)

    def finish(self) -> None:
        """Stop tracking the stream."""
        if self.record is None or self._control is None:
            return
        if self.is_asked and not self.record.is_seen:
            Deferred.fromCoroutine(self._find_out_why_unseen(self._control, self.record))
        else:
            self._control.tracker.dismiss(self.record)

    async def _find_out_why_unseen(self, control: ControlConnection, record: StreamRecord) -> None:
        assert self._socks_port is not None
        try:
            await control.check(record, self._socks_port, self._listeners)
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
    """A client of tor whose stream is tracked. Replies become exceptions later, with the help of events."""

    protocol = _TorClientProtocol
    stream: WatchedStream

    def error_for(self, answer: Any, initiator: Initiator) -> Exception:
        if isinstance(answer, Reply):
            return reply_error(answer.code, Dialect.TOR)
        return super().error_for(answer, initiator)


class _TorHTTPClientProtocol(HTTPConnectClientProtocol):
    factory: _TorHTTPClientFactory

    def connectionMade(self) -> None:
        self.factory.stream.connected(self.transport)
        super().connectionMade()

    def _begin(self) -> bytes:
        self.factory.stream.is_asked = True
        return super()._begin()


class _TorHTTPClientFactory(HTTPConnectClientFactory):
    """The same, at an HTTPTunnelPort."""

    protocol = _TorHTTPClientProtocol
    stream: WatchedStream
