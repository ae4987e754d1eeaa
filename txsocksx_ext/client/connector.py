"""
A connector as a reactor's ``connectTCP`` returns it, for a connection that an endpoint makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.base import BaseConnector
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure


def twisted_address(host: str, port: int) -> IPv4Address | IPv6Address:
    """Return a target as Twisted's connectors return theirs, which may be by name."""
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)


class EndpointConnector(BaseConnector):
    """
    A connector whose every ``connect`` uses an endpoint.

    Its states and what it tells the factory, in which order, are Twisted's. The endpoint has the timeout.

    :param endpoint: makes the endpoint; what it raises is told the factory.
    :param destination: the target.
    :param factory: a `ClientFactory`.
    :param reactor: provides time.
    """

    def __init__(
        self, endpoint: Callable[[], IStreamClientEndpoint], destination: IAddress, factory: Any, reactor: Any
    ) -> None:
        super().__init__(factory, None, reactor)  # type: ignore[arg-type]  # no timeout
        self._endpoint = endpoint
        self._destination = destination

    def _makeTransport(self) -> Any:
        return _Attempt(self, self._endpoint)

    def getDestination(self) -> IAddress:
        """See `IConnector`."""
        return self._destination


class _Attempt:
    """
    One connection of a connector, which takes it for its transport, from the attempt to the end.

    To the endpoint it is the factory.
    """

    def __init__(self, connector: EndpointConnector, endpoint: Callable[[], IStreamClientEndpoint]) -> None:
        self._connector: EndpointConnector | None = connector
        self._endpoint = endpoint
        self._connecting: Deferred[IProtocol] | None = None
        self._transport: Any = None
        self._reason = Failure(ConnectionDone())
        # As Twisted's transports begin: the caller has the connector when the factory hears of it.
        self._beginning: IDelayedCall | None = connector.reactor.callLater(0, self._begin)

    def __getattr__(self, name: str) -> Any:
        # `loseConnection`, and all else that is asked of a connector's transport.
        return getattr(self._transport, name)

    # For the connector.

    def failIfNotConnected(self, error: Exception) -> None:
        """Give up, if there is no connection yet."""
        connector = self._connector
        if connector is None or self._transport is not None:
            return
        self._connector = None
        if self._beginning is not None:
            self._beginning.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        connector.connectionFailed(Failure(error))

    def _begin(self) -> None:
        self._beginning = None
        try:
            self._connecting = self._endpoint().connect(self)  # type: ignore[arg-type]
        except Exception:
            self._failed(Failure())
        else:
            self._connecting.addCallbacks(self._connected, self._failed)

    def _connected(self, protocol: object) -> None:
        self._connecting = None

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        connector, self._connector = self._connector, None
        if connector is not None:
            connector.connectionFailed(failure)

    # For the endpoint.

    def doStart(self) -> None:
        """Do nothing: the connector starts the factory."""

    def doStop(self) -> None:
        """Tell the connector that the connection is lost, also where another protocol has taken the transport."""
        connector = self._connector
        if connector is None or self._transport is None:
            return
        self._connector = None
        connector.connectionLost(self._reason)

    def buildProtocol(self, addr: IAddress) -> Any:
        """Return the factory's protocol, or one that closes the connection, if it has none."""
        connector = self._connector
        assert connector is not None
        protocol: Any = connector.buildProtocol(connector.getDestination()) or _Closing()
        make_connection, connection_lost = protocol.makeConnection, protocol.connectionLost

        def connected(transport: Any) -> None:
            del protocol.makeConnection
            self._transport = transport
            make_connection(transport)

        def lost(reason: Failure) -> None:
            del protocol.connectionLost
            self._reason = reason
            try:
                connection_lost(reason)
            finally:
                self.doStop()

        # On the instance: the protocol itself must have the transport, which may be asked what it is.
        protocol.makeConnection, protocol.connectionLost = connected, lost
        return protocol


class _Closing(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()
