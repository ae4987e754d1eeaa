"""
Streams through the tor of a program's `txtorcon.Tor`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..client.proxies import AnyProxy, Proxy, proxy_of
from ..client.tls import over_tls
from ..client.tunnel import PROXY_NOT_REACHED
from ..errors import HandshakeTimeout, OnionServiceError, ProxyUnreachable, SOCKS5Error
from ..net.timers import clock_of
from ..net.waiters import SharedResult
from ..protocol.codes import Command
from ..protocol.messages import Address, Request
from .attach import is_disconnected
from .control import ControlConnection
from .instance import TorInstance, WatchedStream
from .listeners import socks_listeners

_log = Logger(namespace="txsocksx_ext.tor")


@dataclass(frozen=True)
class StreamsOfTor:
    """
    The settings of streams through a tor.

    :ivar tor: a `txtorcon.Tor`.
    :ivar socks_port: the endpoint of one of its SOCKS ports, or a `Proxy` for its HTTPTunnelPort.
    :ivar token: isolates the streams; ``None`` for no isolation.
    :ivar timeout: seconds until the target is connected; ``None`` for no deadline.
    :ivar allow_cleartext: whether the token may go to a port that is not on this
        machine or behind TLS.
    """

    tor: Any
    socks_port: IStreamClientEndpoint | Proxy
    token: bytes | None = field(repr=False)
    timeout: float | None
    allow_cleartext: bool = False

    async def connect(self, target: Address, application: IProtocolFactory) -> IProtocol:
        """Connect to a target. Raises the exceptions of `SOCKS5ClientEndpoint`."""
        from twisted.internet import reactor

        request = Request(Command.CONNECT, target)
        instance = TorInstance(reactor, self.socks_port, allow_cleartext=self.allow_cleartext)
        stream = WatchedStream()
        if target.is_onion:
            instance.control = events_of(self.tor)
        asking: Deferred[IProtocol] = Deferred.fromCoroutine(instance.ask(request, self.token, application, stream))
        if self.timeout is not None:
            asking.addTimeout(self.timeout, clock_of(reactor))
        try:
            return await asking
        except DeferredTimeout:
            error = stream.error_of_timeout()
            if not isinstance(error, OnionServiceError):
                raise HandshakeTimeout() from None
            error.code = None  # no reply was received
            raise error from None


@implementer(IStreamClientEndpoint)
class StreamEndpoint:
    """
    A target behind a program's tor.

    :param tls: speaks TLS with the target; ``None`` for plain TCP.
    """

    def __init__(
        self, streams: StreamsOfTor, target: Address, tls: IOpenSSLClientConnectionCreator | None = None
    ) -> None:
        self._streams = streams
        self._target = target
        self._tls = tls

    def __repr__(self) -> str:
        return "<StreamEndpoint>"

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect to the target; see `SOCKS5ClientEndpoint`."""
        if self._tls is not None:
            return over_tls(self._tls, self._connect_plainly, protocol_factory)
        return self._connect_plainly(protocol_factory)

    def _connect_plainly(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._streams.connect(self._target, protocol_factory))


def socks_port(
    tor: Any, given: AnyProxy | Deferred[IStreamClientEndpoint] | None = None
) -> IStreamClientEndpoint | Proxy:
    """
    Return the endpoint of a SOCKS port, or the HTTPTunnelPort that was given as a URL.

    :param given: the program's choice; by default the first port of `tor` that can be reached.
    """
    if given is None or isinstance(given, Deferred):
        return _LateEndpoint(tor, given)
    return proxy_of(None, given) if isinstance(given, str) else given


@implementer(IStreamClientEndpoint)
class _LateEndpoint:
    """A SOCKS port that is looked up when it is first used."""

    def __init__(self, tor: Any, found: Deferred[IStreamClientEndpoint] | None) -> None:
        self._tor = tor
        self._found = None if found is None else SharedResult(found)
        self._endpoint: IStreamClientEndpoint | None = None

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Find the port, then connect to it."""
        return Deferred.fromCoroutine(self._connect(protocol_factory))

    async def _connect(self, protocol_factory: IProtocolFactory) -> IProtocol:
        if self._endpoint is not None:
            return await self._endpoint.connect(protocol_factory)
        if self._found is not None:
            self._endpoint = await self._found.wait()
            return await self._endpoint.connect(protocol_factory)
        # A unix socket may be missing or forbidden, but the next port may work.
        unreachable: BaseException | None = None
        for endpoint in await self._look():
            try:
                protocol = await endpoint.connect(protocol_factory)
            except PROXY_NOT_REACHED as error:
                unreachable = unreachable or error
            else:
                self._endpoint = endpoint
                return protocol
        assert unreachable is not None
        raise unreachable

    async def _look(self) -> list[IStreamClientEndpoint]:
        from twisted.internet import reactor

        if self._tor.protocol is None or is_disconnected(self._tor):
            raise ProxyUnreachable("tor has no control connection, so its SOCKS port is unknown: give socks_endpoint")
        try:
            listeners = await socks_listeners(self._tor)
        except (CancelledError, SOCKS5Error):
            raise
        except Exception as error:  # txtorcon raises many kinds
            raise ProxyUnreachable("tor does not say where its SOCKS port is: give socks_endpoint") from error
        return [clientFromString(reactor, each) for each in listeners]


class _Events(ControlConnection):
    """The events of a program's own control connection, which the program makes and ends."""

    def __init__(self, reactor: Any, tor: Any) -> None:
        super().__init__(reactor, lambda: succeed(tor), "tor")

    def begin(self, tor: Any) -> None:
        """Listen for events until the connection is lost."""
        self._began = self._clock.seconds()
        listening: Deferred[None] = Deferred.fromCoroutine(self._listen_to(tor))
        listening.addCallbacks(lambda _: self._have_begun(tor), self._cannot_begin)
        tor.protocol.when_disconnected().addBoth(lambda _: self._end(tor))

    def _have_begun(self, tor: Any) -> None:
        self.tor = tor
        self._settle()

    def _cannot_begin(self, failure: Failure) -> None:
        _log.warn("tor does not report its events: {error}", error=str(failure.value))
        self._settle()

    def _stalled(self, tor: Any) -> None:
        """Go on without the connection until tor answers; only the program may end it."""
        _log.warn("tor does not answer at its control port: going on without its events")
        self.tor = None
        answer: Deferred[Any] = tor.protocol.get_info("net/listeners/socks")
        answer.addCallbacks(lambda _: self._have_begun(tor), lambda _: None)

    def _end(self, tor: Any) -> None:
        _events.pop(tor, None)
        self._lost()
        self._settle()


_events: dict[Any, _Events] = {}
"""For each tor that was asked for an onion service, while its control connection lasts."""


def events_of(tor: Any) -> ControlConnection | None:
    """Return the events of a tor; ``None`` if it has no control connection."""
    if tor.protocol is None or is_disconnected(tor):
        return None
    events = _events.get(tor)
    if events is None:
        from twisted.internet import reactor

        events = _events[tor] = _Events(reactor, tor)
        events.begin(tor)
    return events
