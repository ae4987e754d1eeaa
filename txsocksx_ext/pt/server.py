"""
The bridge's side: a listener for clients, and the connections to tor.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IAddress, IDelayedCall, IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from ..errors import SOCKS5Error, TTLExpired
from ..net.relay import IRelay, join
from ..net.twisted_transports import endpoint_to, open_transport, unmapped
from ..server.draining import Draining
from ..server.limits import connections_by_descriptors
from ..transports.environment import ServerEnvironment
from ..transports.notation import format_address
from .adapter import TransportAdapter
from .exchange import open_by_exchange
from .extorport import ExtendedORPortRefused, introduce, read_cookie
from .payload import PayloadTransport
from .protocol import Side, TransportProtocol

ORPORT_TIMEOUT = 30.0
"""Seconds for tor to take a connection."""

ConnectToTor = Callable[[str, IAddress], Deferred[ITransport]]
"""Given a transport's name and a client's address, fires with a paused transport."""


def way_to_tor(reactor: Any, environment: ServerEnvironment) -> ConnectToTor:
    """
    Return the endpoint of the extended ORPort, or of the ORPort if there is no extended one.

    :raises ValueError: the cookie for it cannot be read; the text says why.
    """
    address, cookie_file = environment.extended_or_port, environment.cookie_file
    if address is None or cookie_file is None:
        assert environment.or_port is not None
        or_port = endpoint_to(reactor, *environment.or_port, ORPORT_TIMEOUT)
        return lambda name, client: open_transport(or_port)
    extended = endpoint_to(reactor, *address, ORPORT_TIMEOUT)
    read_cookie(cookie_file)
    return lambda name, client: _introduced(reactor, extended, cookie_file, name, client)


def _introduced(
    reactor: Any, endpoint: IStreamClientEndpoint, cookie_file: Path, name: str, client: IAddress
) -> Deferred[ITransport]:
    try:
        # Each time: a tor that was started anew has another.
        cookie = read_cookie(cookie_file)
    except ValueError as error:
        raise ExtendedORPortRefused(f"the cookie of tor's extended ORPort {error}") from None
    source = None
    if isinstance(client, (IPv4Address, IPv6Address)):
        source = format_address(_told_host(client.host), client.port)
    closed = ExtendedORPortRefused("tor's extended ORPort closed the connection")
    opening = open_by_exchange(reactor, endpoint, introduce(cookie, name, source), closed)
    return opening.addTimeout(ORPORT_TIMEOUT, reactor)


def _told_host(host: str) -> str:
    """Return a client's address as tor counts it: a listener at ``[::]`` has IPv4 clients as addresses of IPv6."""
    return str(unmapped(ipaddress.ip_address(host.split("%")[0])))


class TransportServerFactory(Factory):
    """
    Takes the connections of clients to one transport.

    :param side: the transport.
    :param protocol: the class of its connections.
    :param connect_to_tor: where payload goes to.
    :ivar connections: all that are open.
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
        """Build a protocol, or ``None`` where there are too many."""
        if len(self.connections) >= self._most:
            # Said once, until one has left: those who come too many must not fill the log.
            if not self._is_full:
                self.side.log.warn("{transport} closes connections: there are too many", transport=self.side.name)
            self._is_full = True
            return None
        return BridgeConnection(self, self._protocol())

    def opened(self, connection: BridgeConnection) -> None:
        """A connection has begun."""
        self.connections.add(connection)

    def closed(self, connection: BridgeConnection) -> None:
        """A connection is over."""
        self.connections.discard(connection)
        self._is_full = False
        if not self.connections:
            self._draining.emptied()

    def drain(self, seconds: float) -> Deferred[None]:
        """
        End every connection: handshakes at once, streams by themselves or after `seconds`.

        :returns: fires when none is left.
        """
        for connection in list(self.connections):
            if not connection.opened.called:
                connection.abort()
        if not self.connections:
            return succeed(None)
        return self._draining.wait(self.side.reactor, seconds, self._abort_all)

    def _abort_all(self) -> None:
        for connection in list(self.connections):
            connection.end_stream()


class BridgeConnection(TransportAdapter):
    """One client's connection, from its first moment until tor has its payload."""

    def __init__(self, factory: TransportServerFactory, user_protocol: TransportProtocol) -> None:
        super().__init__(factory.side, user_protocol, factory.side.arguments, None)
        self._factory = factory
        self._timer: IDelayedCall | None = None
        self._connecting: Deferred[Any] | None = None
        self._relay: IRelay | None = None

    def connectionMade(self) -> None:
        self._factory.opened(self)
        self._timer = self._factory.side.reactor.callLater(self.user_protocol.handshake_timeout, self._expire)
        self.opened.addCallbacks(self._begin, self._refuse)
        try:
            self.prepare()
        except SOCKS5Error:
            # The client hears the last words, as it does where it fails later.
            return
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._stop_timer()
        if self._connecting is not None:
            self._connecting.cancel()
        # A stream is over when tor has all of it.
        if self._relay is None:
            self._factory.closed(self)

    def end_stream(self) -> None:
        """Reset the connection, and that to tor."""
        if self._relay is None:
            self.abort()
        else:
            self._relay.abort("drained")

    def _expire(self) -> None:
        self._timer = None
        # An orderly end would tell the client that it is no peer of ours, and we do not know that.
        self.abort()
        self.fail(TTLExpired("the handshake was not done in time"))

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _refuse(self, failure: Failure) -> None:
        side = self._factory.side
        side.log.debug("{transport} refused a client: {error}", transport=side.name, error=str(failure.value))

    def _begin(self, payload: PayloadTransport) -> None:
        """Have tor take the payload, and join the two."""
        self._stop_timer()
        side = self._factory.side
        self._connecting = maybeDeferred(self._factory.connect_to_tor, side.name, self.transport.getPeer())
        self._connecting.addCallbacks(self._join, self._give_up)

    def _join(self, tor: Any) -> None:
        self._connecting = None
        if self.is_lost:
            tor.abortConnection()
            return
        self._relay = join(self.payload, tor, self._factory.side.reactor, lambda reason: self._factory.closed(self))
        self._relay.start()

    def _give_up(self, failure: Failure) -> None:
        self._connecting = None
        if self.is_lost and failure.check(CancelledError, ConnectingCancelledError):
            return
        side = self._factory.side
        side.log.error(
            "{transport} cannot reach tor: {error}",
            transport=side.name,
            error=f"{type(failure.value).__name__}: {failure.value}",
        )
        self.abort()
