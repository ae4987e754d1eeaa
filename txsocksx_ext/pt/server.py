"""
The bridge's side: a listener for clients, and the connections to tor.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IAddress, ITransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from ..errors import SOCKS5Error, TTLExpired
from ..net.relay import IRelay, join
from ..net.timers import clock_of
from ..net.twisted_transports import abort, endpoint_to, open_transport, unmapped
from ..server.draining import Draining
from ..server.limits import connections_by_descriptors
from ..transports.environment import ServerEnvironment
from ..transports.notation import format_address
from .adapter import TransportAdapter
from .extorport import ExtendedORPortRefused, connect_introduced, introduce, read_cookie
from .protocol import Side, TransportProtocol

ORPORT_TIMEOUT = 30.0
"""Seconds for tor to take a connection."""

ConnectToTor = Callable[[str, IAddress], Deferred[ITransport]]
"""Given a transport's name and a client's address, fires with a paused transport."""


def tor_connector(reactor: Any, environment: ServerEnvironment) -> ConnectToTor:
    """
    Return what connects to the extended ORPort, or to the ORPort if there is no extended one.

    :raises ValueError: the extended ORPort's cookie cannot be read; the text says why.
    """
    address, cookie_file = environment.extended_or_port, environment.cookie_file
    if address is None or cookie_file is None:
        assert environment.or_port is not None
        or_port = endpoint_to(reactor, *environment.or_port, ORPORT_TIMEOUT)
        return lambda name, client: open_transport(or_port)
    extended = endpoint_to(reactor, *address, ORPORT_TIMEOUT)
    read_cookie(cookie_file)

    async def connect(name: str, client: IAddress) -> ITransport:
        try:
            # For each connection: tor writes a new cookie when it starts.
            cookie = read_cookie(cookie_file)
        except ValueError as error:
            raise ExtendedORPortRefused(f"the cookie of tor's extended ORPort {error}") from None
        source = None
        if isinstance(client, (IPv4Address, IPv6Address)):
            # A listener at [::] has IPv4 clients as IPv6 addresses, which tor would count as such.
            host = unmapped(ipaddress.ip_address(client.host.split("%")[0]))
            source = format_address(str(host), client.port)
        return await connect_introduced(extended, introduce(cookie, name, source))

    clock = clock_of(reactor)
    return lambda name, client: Deferred.fromCoroutine(connect(name, client)).addTimeout(ORPORT_TIMEOUT, clock)


class TransportServerFactory(Factory):
    """
    Accepts the connections of clients to one transport.

    :param side: the transport.
    :param protocol: the class of its connections.
    :param connect_to_tor: connects each of them to tor.
    :ivar connections: the open connections.
    """

    noisy = False

    def __init__(self, side: Side, protocol: type[TransportProtocol], connect_to_tor: ConnectToTor) -> None:
        self.side = side
        self.connect_to_tor = connect_to_tor
        self.connections: set[BridgeConnection] = set()
        self._protocol = protocol
        self._most = connections_by_descriptors()
        self._is_full = False
        self._draining = Draining()

    def buildProtocol(self, addr: IAddress | None) -> BridgeConnection | None:
        """Build a protocol, or return ``None`` to close the connection if there are too many."""
        if len(self.connections) >= self._most:
            # Logged once until a connection closes: clients must not be able to fill the log.
            if not self._is_full:
                self.side.log.warn("{transport} closes connections: there are too many", transport=self.side.name)
            self._is_full = True
            return None
        return BridgeConnection(self, self._protocol())

    def closed(self, connection: BridgeConnection) -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        self._is_full = False
        if not self.connections:
            self._draining.emptied()

    def drain(self, seconds: float) -> Deferred[None]:
        """
        Wait for the streams to end, and reset those that are left after `seconds`. Handshakes are reset at once.

        :returns: fires when no connection is left.
        """
        for connection in list(self.connections):
            if not connection.opened.called:
                connection.abort()
        if not self.connections:
            return succeed(None)

        def reset_all() -> None:
            for connection in list(self.connections):
                connection.reset()

        return self._draining.wait(clock_of(self.side.reactor), seconds, reset_all)


class BridgeConnection(TransportAdapter):
    """One client's connection, until tor has all of its payload."""

    def __init__(self, factory: TransportServerFactory, user_protocol: TransportProtocol) -> None:
        super().__init__(factory.side, user_protocol, factory.side.arguments, None)
        self._factory = factory
        self._serving: Deferred[None] | None = None
        self._relay: IRelay | None = None

    def connectionMade(self) -> None:
        self._factory.connections.add(self)
        # It resets the connection: an orderly end would tell the client that it is not a peer, which we do not know.
        self.opened.addTimeout(self.user_protocol.handshake_timeout, clock_of(self._side.reactor), _out_of_time)
        self._serving = Deferred.fromCoroutine(self._serve())
        try:
            self.prepare()
        except SOCKS5Error:
            # The client still gets the bytes of the failure.
            return
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._serving is not None:
            self._serving.cancel()
        # A stream is over when tor has all of it.
        if self._relay is None:
            self._factory.closed(self)

    def reset(self) -> None:
        """Reset the connection and its connection to tor."""
        if self._relay is None:
            self.abort()
        else:
            self._relay.abort("drained")

    async def _serve(self) -> None:
        """Wait for the handshake, connect to tor, and relay."""
        log, name, factory = self._side.log, self._side.name, self._factory
        try:
            payload = await self.opened
        except SOCKS5Error as error:
            log.debug("{transport} refused a client: {error}", transport=name, error=str(error))
            return
        try:
            tor = await factory.connect_to_tor(name, self.transport.getPeer())
        except Exception as error:
            if not (self.is_lost and isinstance(error, (CancelledError, ConnectingCancelledError))):
                text = f"{type(error).__name__}: {error}"
                log.error("{transport} cannot reach tor: {error}", transport=name, error=text)
                self.abort()
            return
        if self.is_lost:
            abort(tor)
            return
        self._relay = join(payload, tor, self._side.reactor, lambda reason: factory.closed(self))
        self._relay.start()


def _out_of_time(result: object, seconds: float) -> Failure:
    return Failure(TTLExpired("the handshake was not done in time"))
