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

from ..errors import SOCKS5Error
from ..net.twisted_transports import PausedProtocol, hand_over

Exchange = Generator[tuple[bytes, int], bytes, None]


def open_by_exchange(endpoint: IStreamClientEndpoint, exchange: Exchange, closed: SOCKS5Error) -> Deferred[ITransport]:
    """
    Connect, hold an exchange, and fire with the transport, paused.

    :param closed: what it fails with where the other side closes before the end.
    """
    exchanger = _Exchanger(exchange, closed)
    return Deferred.fromCoroutine(_opened(connectProtocol(endpoint, exchanger), exchanger))


async def _opened(connecting: Deferred[Any], exchanger: _Exchanger) -> ITransport:
    await connecting
    return await exchanger.ended


class _Exchanger(Protocol):
    """Carries one exchange."""

    transport: Any

    def __init__(self, exchange: Exchange, closed: SOCKS5Error) -> None:
        self._exchange = exchange
        self._closed = closed
        self._heard = b""
        self._needed = 0
        self.ended: Deferred[ITransport] = Deferred(lambda _: self.transport.abortConnection())

    def connectionMade(self) -> None:
        self._step(None)

    def dataReceived(self, data: bytes) -> None:
        self._heard += data
        while not self.ended.called and len(self._heard) >= self._needed:
            part, self._heard = self._heard[: self._needed], self._heard[self._needed :]
            self._step(part)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ended.called:
            self.ended.errback(self._closed)

    def _step(self, part: bytes | None) -> None:
        try:
            words, self._needed = next(self._exchange) if part is None else self._exchange.send(part)
        except StopIteration:
            self._succeed()
        except SOCKS5Error as error:
            self.transport.abortConnection()
            self.ended.errback(error)
        else:
            self.transport.write(words)

    def _succeed(self) -> None:
        successor = PausedProtocol()
        successor.early, self._heard = self._heard, b""
        hand_over(self.transport, successor)
        self.ended.callback(self.transport)


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

    :param endpoint: how to connect.
    :param target: where a connection leads after the exchange: the address that applications are told.
    :param exchange: begins an exchange, for each connection.
    :param closed: as `open_by_exchange` takes it.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        target: IAddress,
        exchange: Callable[[], Exchange],
        closed: type[SOCKS5Error],
    ) -> None:
        self._endpoint = endpoint
        self._target = target
        self._exchange = exchange
        self._closed = closed

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint`."""
        return Deferred.fromCoroutine(self._connect(protocol_factory))

    async def _connect(self, protocol_factory: IProtocolFactory) -> IProtocol:
        exchanger = _Exchanger(self._exchange(), self._closed())
        connecting = self._endpoint.connect(_ExchangeFactory(exchanger, protocol_factory))
        transport: Any = await _opened(connecting, exchanger)
        try:
            # Not the transport's peer, by which a client would take the proxy for the target.
            protocol = protocol_factory.buildProtocol(self._target)
            if protocol is None:
                raise NoProtocol()
        except BaseException:
            transport.abortConnection()
            raise
        transport.resumeProducing()
        hand_over(transport, protocol)
        return protocol
