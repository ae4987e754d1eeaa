"""
A few words before a connection is a stream: with a proxy, or with an extended ORPort.

An *exchange* is a generator without I/O. It yields what to say and how many bytes
to hear next, and is sent exactly those; when it returns, the stream begins.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..client.early import EarlyBytes
from ..errors import SOCKS5Error
from ..net.twisted_transports import PausedProtocol, hand_over, renew_log_prefix

Exchange = Generator[tuple[bytes, int], bytes, None]


def open_by_exchange(
    reactor: Any, endpoint: IStreamClientEndpoint, exchange: Exchange, closed: SOCKS5Error
) -> Deferred[ITransport]:
    """
    Connect, hold an exchange, and fire with the transport, paused.

    :param reactor: provides time.
    :param closed: what it fails with where the other side closes before the end.
    """
    exchanger = _Exchanger(reactor, exchange, closed, PausedProtocol)
    opening = Deferred.fromCoroutine(_opened(connectProtocol(endpoint, exchanger), exchanger))
    return opening.addCallback(lambda paused: paused.transport)


async def _opened(connecting: Deferred[Any], exchanger: _Exchanger) -> Any:
    await connecting
    return await exchanger.ended


class _Exchanger(Protocol):
    """
    Carries one exchange.

    :param build: builds the protocol that gets the connection after the exchange.
    :ivar ended: fires with that protocol. Cancelling it resets the connection.
    """

    transport: Any

    def __init__(self, reactor: Any, exchange: Exchange, closed: SOCKS5Error, build: Callable[[], IProtocol]) -> None:
        self._reactor = reactor
        self._exchange = exchange
        self._closed = closed
        self._build = build
        # Bytes are removed from its front one by one, which copies nothing, unlike with bytes.
        self._heard = bytearray()
        self._needed = 0
        self.ended: Deferred[IProtocol] = Deferred(lambda _: self.transport.abortConnection())

    def connectionMade(self) -> None:
        self._attempt(self._step, None)

    def dataReceived(self, data: bytes) -> None:
        self._heard += data
        self._attempt(self._continue)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ended.called:
            self.ended.errback(self._closed)

    def _attempt(self, step: Callable[..., object], *arguments: object) -> None:
        """Take a step; whatever the exchange or the application raises in it resets the connection."""
        try:
            step(*arguments)
        except BaseException as error:
            if self.ended.called:
                raise
            self.transport.abortConnection()
            self.ended.errback(error)

    def _continue(self) -> None:
        while not self.ended.called and len(self._heard) >= self._needed:
            part = bytes(self._heard[: self._needed])
            del self._heard[: self._needed]
            self._step(part)

    def _step(self, part: bytes | None) -> None:
        try:
            words, self._needed = next(self._exchange) if part is None else self._exchange.send(part)
        except StopIteration:
            self._succeed()
        else:
            self.transport.write(words)

    def _succeed(self) -> None:
        transport, data = self.transport, bytes(self._heard)
        self._heard.clear()
        successor = self._build()
        if self.ended.called:  # cancelled by the application's own factory
            return
        early = None
        # A paused protocol keeps what comes, and is asked for it.
        if data and not isinstance(successor, PausedProtocol):
            early = EarlyBytes(self._reactor, transport, data)
        hand_over(transport, successor)
        renew_log_prefix(transport)
        if not self.ended.called:
            self.ended.callback(successor)
        if early is not None:
            early.give_to(successor)
        elif data:
            successor.dataReceived(data)


class _ExchangeFactory(Factory):
    """Builds one exchanger. The application's factory starts and stops with this one."""

    noisy = False

    def __init__(self, exchanger: _Exchanger, application: IProtocolFactory) -> None:
        self._exchanger = exchanger
        self._application = application

    def startFactory(self) -> None:
        self._application.doStart()

    def stopFactory(self) -> None:
        self._application.doStop()

    def buildProtocol(self, addr: IAddress | None) -> _Exchanger:
        return self._exchanger


@implementer(IStreamClientEndpoint)
class ExchangeEndpoint:
    """
    An endpoint whose connections begin with an exchange.

    :param reactor: provides time.
    :param endpoint: how to connect.
    :param target: where a connection leads after the exchange: the address that applications are told.
    :param exchange: begins an exchange, for each connection.
    :param closed: as `open_by_exchange` takes it.
    """

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamClientEndpoint,
        target: IAddress,
        exchange: Callable[[], Exchange],
        closed: type[SOCKS5Error],
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._target = target
        self._exchange = exchange
        self._closed = closed

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint`."""

        def build() -> IProtocol:
            # Not the transport's peer, by which a client would take the proxy for the target.
            protocol = protocol_factory.buildProtocol(self._target)
            if protocol is None:
                raise NoProtocol()
            return protocol

        exchanger = _Exchanger(self._reactor, self._exchange(), self._closed(), build)
        connecting = self._endpoint.connect(_ExchangeFactory(exchanger, protocol_factory))
        return Deferred.fromCoroutine(_opened(connecting, exchanger))
