"""
The shortest way to a proxy on this machine.

The system makes a connection to a loopback address while it is asked to. So
there is nothing to wait for: no turn of the reactor, no timer, no connector.
"""

from __future__ import annotations

import socket
from copy import copy
from errno import EALREADY, EINPROGRESS
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import NoProtocol, NotConnectingError
from twisted.internet.interfaces import IConnector, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.posixbase import PosixReactorBase
from twisted.python.failure import Failure
from zope.interface import implementer

from ..net.twisted_transports import is_loopback_host


def connect(endpoint: IStreamClientEndpoint, factory: IProtocolFactory) -> Deferred[IProtocol]:
    """
    Do what ``endpoint.connect(factory)`` does, at once if possible.

    That is where the endpoint is Twisted's own for a loopback address of IPv4,
    on a reactor of Twisted that watches descriptors, and the system does
    connect at once. All else, failures too, is left to the endpoint.
    """
    if not _is_plain(endpoint):
        return endpoint.connect(factory)
    reactor, address = endpoint._reactor, (endpoint._host, endpoint._port)  # type: ignore[attr-defined]
    try:
        connecting = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return endpoint.connect(factory)  # which tells it in Twisted's words
    connecting.setblocking(False)
    try:
        result = connecting.connect_ex(address) and connecting.connect_ex(address)
    except (OSError, OverflowError, TypeError):
        result = -1
    if not result:
        return _connected(LoopbackClient(connecting, address, factory, reactor), factory)
    if result in (EINPROGRESS, EALREADY):
        endpoint = copy(endpoint)
        endpoint._reactor = _Continuing(reactor, connecting)  # type: ignore[attr-defined]
        return endpoint.connect(factory)
    connecting.close()
    return endpoint.connect(factory)


def _is_plain(endpoint: IStreamClientEndpoint) -> bool:
    """Return whether an endpoint does nothing but to have its reactor connect to a loopback address."""
    if type(endpoint) is not TCP4ClientEndpoint or endpoint._bindAddress is not None:
        return False
    connect_tcp = getattr(endpoint._reactor, "connectTCP", None)
    is_usual = getattr(connect_tcp, "__func__", None) is PosixReactorBase.connectTCP
    return is_usual and isinstance(endpoint._host, str) and is_loopback_host(endpoint._host)


def _connected(transport: LoopbackClient, factory: Any) -> Deferred[IProtocol]:
    """Do what Twisted does with a connection that stands."""
    factory.doStart()
    try:
        protocol = factory.buildProtocol(transport.getPeer())
        if protocol is None:
            raise NoProtocol()
    except BaseException:
        failure = Failure()
        transport.socket.close()
        factory.doStop()
        return fail(failure)
    transport.logstr = f"{type(protocol).__name__},client"
    transport.protocol = protocol
    transport.startReading()
    try:
        protocol.makeConnection(transport)
    except BaseException:
        transport.connectionLost(Failure())
        return fail()
    return succeed(protocol)


class LoopbackClient(tcp.Client):
    """Twisted's client connection, of a socket that is connected."""

    connected = 1

    def __init__(self, connected: socket.socket, address: tuple[str, int], factory: Any, reactor: Any) -> None:
        # Not Client's own, which makes the socket.
        tcp.Connection.__init__(self, connected, None, reactor)  # type: ignore[arg-type]
        self.addr = self.realAddress = address
        self.connector = _Connector(self, factory)


@implementer(IConnector)
class _Connector:
    """What an application finds as ``transport.connector``, of a connection that stands."""

    __slots__ = ("_address", "_factory", "_transport")

    def __init__(self, transport: LoopbackClient, factory: Any) -> None:
        self._address = transport.addr
        self._transport: LoopbackClient | None = transport
        self._factory = factory

    def getDestination(self) -> IPv4Address:
        """See `IConnector`."""
        return IPv4Address("TCP", *self._address)

    def disconnect(self) -> None:
        """See `IConnector`."""
        if self._transport is not None:
            self._transport.loseConnection()

    def stopConnecting(self) -> None:
        """See `IConnector`."""
        raise NotConnectingError("the connection stands already")

    def connect(self) -> None:
        """See `IConnector`."""
        raise RuntimeError("this connector cannot connect again: use the endpoint")

    def connectionLost(self, reason: Failure) -> None:
        """Tell the factory of the end."""
        # Break the reference cycle, so that no garbage collection is needed.
        factory, self._factory, self._transport = self._factory, None, None
        factory.doStop()


class _Continuing:
    """What an endpoint needs of a reactor, to go on with a socket that is connecting already."""

    def __init__(self, reactor: Any, connecting: socket.socket) -> None:
        self._reactor = reactor
        self._connecting = connecting

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float, bindAddress: None) -> tcp.Connector:
        """See `twisted.internet.interfaces.IReactorTCP`."""
        connector = _ContinuingConnector(host, port, factory, timeout, bindAddress, self._reactor)
        connector.connecting = self._connecting
        connector.connect()
        return connector


class _ContinuingConnector(tcp.Connector):
    connecting: socket.socket

    def _makeTransport(self) -> tcp.Client:
        return _ContinuingClient(self.host, self.port, None, self, self.reactor)


class _ContinuingClient(tcp.Client):
    def createInternetSocket(self) -> socket.socket:
        """Return the socket that is connecting already: Twisted asks the system how far it is."""
        connecting: socket.socket = self.connector.connecting
        return connecting
