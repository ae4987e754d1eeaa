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
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..errors import SOCKS5Error
from ..transports import PausedProtocol, hand_over

Exchange = Generator[tuple[bytes, int], bytes, None]


def open_by_exchange(endpoint: IStreamClientEndpoint, exchange: Exchange, closed: SOCKS5Error) -> Deferred[ITransport]:
    """
    Connect, hold an exchange, and fire with the transport, paused.

    :param closed: what it fails with where the other side closes before the end.
    """
    return Deferred.fromCoroutine(_open(endpoint, _Exchanger(exchange, closed)))


async def _open(endpoint: IStreamClientEndpoint, exchanger: _Exchanger) -> ITransport:
    await connectProtocol(endpoint, exchanger)
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


@implementer(IStreamClientEndpoint)
class ExchangeEndpoint:
    """
    An endpoint whose connections begin with an exchange.

    :param endpoint: how to connect.
    :param exchange: begins an exchange, for each connection.
    :param closed: as `open_by_exchange` takes it.
    """

    def __init__(
        self, endpoint: IStreamClientEndpoint, exchange: Callable[[], Exchange], closed: type[SOCKS5Error]
    ) -> None:
        self._endpoint = endpoint
        self._exchange = exchange
        self._closed = closed

    def connect(self, protocol_factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint`."""
        return Deferred.fromCoroutine(self._connect(protocol_factory))

    async def _connect(self, protocol_factory: IProtocolFactory) -> IProtocol:
        transport: Any = await open_by_exchange(self._endpoint, self._exchange(), self._closed())
        try:
            protocol = protocol_factory.buildProtocol(transport.getPeer())
            if protocol is None:
                raise NoProtocol()
        except BaseException:
            transport.abortConnection()
            raise
        transport.resumeProducing()
        hand_over(transport, protocol)
        return protocol
