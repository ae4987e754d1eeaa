"""
Streams through the tor of a program that has a `txtorcon.Tor`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

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
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from ..client.endpoints import over_tls
from ..client.negotiation import PROXY_NOT_REACHED
from ..client.web import FaultyEndpoint, target_and_tls
from ..errors import HandshakeTimeout, OnionServiceError, ProxyUnreachable, SOCKS5Error
from ..net.waiters import Waiters, fired
from ..protocol.codes import Command
from ..protocol.messages import Address, Request
from .attach import is_disconnected
from .control import ControlConnection
from .instance import TorInstance, WatchedStream
from .listeners import socks_listeners

_log = Logger(namespace="txsocksx_ext.tor")

T = TypeVar("T")


@dataclass(frozen=True)
class StreamsOfTor:
    """
    How streams are to be asked of a tor.

    :ivar tor: a `txtorcon.Tor`.
    :ivar socks_port: the endpoint of one of its SOCKS ports.
    :ivar token: keeps the streams on circuits of their own; or ``None``.
    :ivar timeout: seconds until the target is connected; ``None`` for no deadline.
    :ivar allow_cleartext: whether the token may go to a port that is not on this
        machine or behind TLS.
    """

    tor: Any
    socks_port: IStreamClientEndpoint
    token: bytes | None = field(repr=False)
    timeout: float | None
    allow_cleartext: bool = False

    async def connect(self, target: Address, application: IProtocolFactory) -> IProtocol:
        """Connect to a target; fails as `SOCKS5ClientEndpoint` does."""
        from twisted.internet import reactor

        request = Request(Command.CONNECT, target)
        instance = TorInstance(reactor, self.socks_port, allow_cleartext=self.allow_cleartext)
        stream = WatchedStream()

        if target.is_onion:
            instance.control = events_of(self.tor)
        asking: Deferred[IProtocol] = Deferred.fromCoroutine(instance.ask(request, self.token, application, stream))
        if self.timeout is not None:
            asking.addTimeout(self.timeout, reactor)
        try:
            return await asking
        except DeferredTimeout:
            error = stream.error_of_timeout()
            if not isinstance(error, OnionServiceError):
                raise HandshakeTimeout() from None
            error.code = None  # none was sent
            raise error from None


@implementer(IStreamClientEndpoint)
class StreamEndpoint:
    """
    A target behind a program's tor.

    :param tls: speaks TLS with it; or ``None``.
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


@implementer(IAgentEndpointFactory)
class AgentEndpoints:
    """
    Makes the endpoint for each URI of an `Agent`.

    :param policy: decides how to speak TLS with a host.
    """

    def __init__(self, streams: StreamsOfTor, policy: IPolicyForHTTPS) -> None:
        self._streams = streams
        self._policy = policy

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See `twisted.web.iweb.IAgentEndpointFactory`."""
        try:
            target, tls = target_and_tls(uri, self._policy)
            return StreamEndpoint(self._streams, target, tls)
        except (TypeError, ValueError) as error:
            return FaultyEndpoint(error)


def socks_port(
    tor: Any, given: IStreamClientEndpoint | Deferred[IStreamClientEndpoint] | None = None
) -> IStreamClientEndpoint:
    """
    Return the endpoint of a SOCKS port.

    :param given: the program's choice; by default the first of those on which `tor` listens that can be reached.
    """
    if given is None or isinstance(given, Deferred):
        return _LateEndpoint(tor, given)
    return given


@implementer(IStreamClientEndpoint)
class _LateEndpoint:
    """A SOCKS port that is found out when it is first needed."""

    def __init__(self, tor: Any, found: Deferred[IStreamClientEndpoint] | None) -> None:
        self._tor = tor
        self._found = None if found is None else _AwaitedByMany(found)
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
        # A socket may be gone, or not for us: the next one need not be.
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
            raise ProxyUnreachable("nobody controls this tor, so its SOCKS port is not known: give socks_endpoint")
        try:
            listeners = await socks_listeners(self._tor)
        except (CancelledError, SOCKS5Error):
            raise
        except Exception as error:  # txtorcon's, of which there are many
            raise ProxyUnreachable("tor does not say where its SOCKS port is: give socks_endpoint") from error
        return [clientFromString(reactor, each) for each in listeners]


class _AwaitedByMany(Generic[T]):
    """
    What many wait for, each by a Deferred of their own.

    :param found: a failure of it is theirs from now on, and nobody else's.
    """

    def __init__(self, found: Deferred[T]) -> None:
        self._waiting: Waiters[T] = Waiters()
        self._outcome: Any = None
        self._has_come = False
        found.addBoth(self._came)

    def wait(self) -> Deferred[T]:
        """Return a Deferred that fires with the result, or fails with its failure."""
        return fired(self._outcome) if self._has_come else self._waiting.wait()

    def _came(self, outcome: Any) -> Any:
        self._outcome, self._has_come = outcome, True
        self._waiting.fire(outcome)
        return None if isinstance(outcome, Failure) else outcome


class _Events(ControlConnection):
    """What a program's own control connection shows. That is the program's: it is neither made nor ended here."""

    def __init__(self, reactor: Any, tor: Any) -> None:
        super().__init__(reactor, lambda: succeed(tor), "tor")

    def begin(self, tor: Any) -> None:
        """Listen until the connection is lost."""
        self._began = self._clock.seconds()
        listening: Deferred[None] = Deferred.fromCoroutine(self._listen_to(tor))
        listening.addCallbacks(lambda _: self._have_begun(tor), self._cannot_begin)
        tor.protocol.when_disconnected().addBoth(lambda _: self._end(tor))

    def _have_begun(self, tor: Any) -> None:
        self.tor = tor
        self._settle()

    def _cannot_begin(self, failure: Failure) -> None:
        _log.warn("tor does not show its events: {error}", error=str(failure.value))
        self._settle()

    def _stalled(self, tor: Any) -> None:
        """Go on without it until it answers: the connection is not ours to end."""
        _log.warn("tor does not answer at its control port: going on without its events")
        self.tor = None
        answer: Deferred[Any] = tor.protocol.get_info("net/listeners/socks")
        answer.addCallbacks(lambda _: self._have_begun(tor), lambda _: None)

    def _end(self, tor: Any) -> None:
        _events.pop(tor, None)
        self._lost()
        self._settle()


_events: dict[Any, _Events] = {}
"""Of each tor that was asked for an onion service, while its control connection stands."""


def events_of(tor: Any) -> ControlConnection | None:
    """Return the events of a tor; ``None`` where nobody controls it: then its replies have to do."""
    if tor.protocol is None or is_disconnected(tor):
        return None
    events = _events.get(tor)
    if events is None:
        from twisted.internet import reactor

        events = _events[tor] = _Events(reactor, tor)
        events.begin(tor)
    return events
