"""
The SOCKS5 proxy for the outgoing connections of a transport that runs as our child.

It sees the outcome of each connection, which the transport itself does not tell.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IHalfCloseableProtocol, ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..addresses import is_protected, literal_of
from ..errors import CommandNotSupported, ConnectionNotAllowed
from ..failures import row_of
from ..net.happy_eyeballs import connect_first
from ..net.own_addresses import own_addresses
from ..net.relay import join
from ..net.relay_interface import IRelay
from ..net.resolver import resolver_of
from ..net.timers import Deadlines, clock_of
from ..net.twisted_transports import abort, bound_address
from ..net.waiters import Waiters
from ..protocol import codes
from ..protocol.codes import Command, Method, ReplyCode, Status
from ..protocol.decoding import MalformedMessage
from ..protocol.messages import Address, Greeting, Message, Request, UsernamePassword
from ..protocol.socks5 import Responder
from .attempts import Attempt, AttemptGroup, BridgeAttempts
from .upstream import UpstreamProxy

HANDSHAKE_TIMEOUT, LINGER = 10.0, 2.0
"""Seconds until the request, and after a refusal until the connection is reset."""

MOST_READ_AHEAD = 64 * 1024
"""Bytes of the transport that are read before the target is reached."""

CONNECT_TIMEOUT = 120.0
"""Seconds for one outgoing connection: longer than servers give by default."""


class OutboundProxy(Factory):
    """
    A SOCKS5 listener on loopback for one process of a transport, with random credentials.

    The transport may connect to the bridges that clients wait for, wherever they
    are. Other targets may come from a client's arguments, so after a remote
    client private addresses among them are refused.

    :param reactor: provides TCP, time, threads and a name resolver.
    :ivar proxy: the proxy, as the transport is told it.
    :ivar connections: the open connections.
    """

    noisy = False

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.clock = clock_of(reactor)
        self.deadlines = Deadlines(self.clock)
        self.attempts = BridgeAttempts()
        self.connections: set[OutboundConnection] = set()
        self._emptied: Waiters[None] = Waiters()
        self._serves_remote_clients = False
        self._port = reactor.listenTCP(0, self, interface="127.0.0.1")
        username, password = secrets.token_hex(16), secrets.token_hex(16)
        self.proxy = UpstreamProxy("socks5", "127.0.0.1", self._port.getHost().port, username, password)

    def __repr__(self) -> str:
        return "<OutboundProxy>"

    async def close(self) -> None:
        """Stop listening, and reset every connection."""
        await maybeDeferred(self._port.stopListening)
        for connection in list(self.connections):
            connection.abort()
        if self.connections:
            await self._emptied.wait()

    def closed(self, connection: OutboundConnection) -> None:
        """Forget a connection."""
        self.deadlines.stop(connection)
        self.connections.discard(connection)
        if not self.connections:
            self.deadlines.rest()
            self._emptied.fire(None)

    def expect(self, bridge: Address, is_local: bool) -> Attempt:
        """
        Return the attempt of a client, before the transport is asked for the bridge.

        :param is_local: whether the client is on this machine.
        """
        self._serves_remote_clients = self._serves_remote_clients or not is_local
        return self.attempts.expect(bridge)

    def may_reach(self, address: Address) -> bool:
        """Return whether the transport may connect to an address."""
        if address in self.attempts or not self._serves_remote_clients:
            return True
        return not is_protected(address.host, own_addresses())

    def is_login(self, credentials: UsernamePassword) -> bool:
        """Return whether these are the transport's credentials."""
        expected = f"{self.proxy.username}:{self.proxy.password}".encode()
        return hmac.compare_digest(credentials.username + b":" + credentials.password, expected)

    def buildProtocol(self, addr: object) -> OutboundConnection:
        return OutboundConnection(self)


@implementer(IHalfCloseableProtocol)
class OutboundConnection(Protocol):
    """
    One outgoing connection of the transport.

    :ivar groups: the groups of attempts that it may belong to.
    :ivar outcome: the reply code of the connection attempt; ``None`` until it is known.
    """

    transport: Any

    def __init__(self, proxy: OutboundProxy) -> None:
        self.groups: list[AttemptGroup] = []
        self.outcome: ReplyCode | None = None
        self._proxy = proxy
        self._responder = Responder()
        self._connecting: Deferred[ITransport] | None = None
        self._relay: IRelay | None = None

    def abort(self) -> None:
        """Reset the connection, or stop connecting."""
        if self._relay is not None:
            self._relay.abort("given up")
        else:
            abort(self.transport)

    def connectionMade(self) -> None:
        self._proxy.connections.add(self)
        self._proxy.deadlines.start(self, HANDSHAKE_TIMEOUT, self.abort)

    def dataReceived(self, data: bytes) -> None:
        self._responder.feed(data)
        if self._responder.buffered > MOST_READ_AHEAD:
            self.transport.pauseProducing()
        try:
            while (message := self._responder.next_message()) is not None:
                self._handle(message)
        except MalformedMessage:
            self._refuse(self._responder.final_reply)

    def readConnectionLost(self) -> None:
        """Reset the connection: the transport does not wait for the reply."""
        self.abort()

    def writeConnectionLost(self) -> None:
        """The refusal was sent."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._proxy.closed(self)

    def _handle(self, message: Message) -> None:
        if isinstance(message, Greeting):
            method = self._responder.preferred_method((Method.USERNAME_PASSWORD,))
            self._answer(self._responder.select(method), method == Method.USERNAME_PASSWORD)
        elif isinstance(message, UsernamePassword):
            is_login = self._proxy.is_login(message)
            status = Status.SUCCESS if is_login else Status.AUTHENTICATION_FAILED
            self._answer(self._responder.answer(status), is_login)
        elif isinstance(message, Request):
            self._proxy.deadlines.stop(self)
            self._connecting = Deferred.fromCoroutine(self._connect(message))
            self._connecting.addTimeout(CONNECT_TIMEOUT, self._proxy.clock)
            self._connecting.addCallbacks(self._connected, self._failed)

    def _answer(self, data: bytes, is_accepted: bool) -> None:
        if is_accepted:
            self.transport.write(data)
        else:
            self._refuse(data)

    async def _connect(self, request: Request) -> ITransport:
        if request.command != Command.CONNECT:
            raise CommandNotSupported()
        destination = request.destination
        if destination.is_name:
            destination = literal_of(destination) or destination
        self.begin_to(destination)
        addresses = [destination]
        if destination.is_name:
            hosts = await resolver_of(self._proxy.reactor).addresses_of(destination.host, "transport")
            addresses = [Address.of(host.partition("%")[0], destination.port) for host in hosts]
        admitted = [address for address in addresses if self._proxy.may_reach(address)]
        if not admitted:
            raise ConnectionNotAllowed()
        return await connect_first(self._proxy.reactor, admitted)

    def _connected(self, target: ITransport) -> None:
        self._connecting = None
        self.came_to(codes.SUCCEEDED)
        self.transport.write(self._responder.reply(codes.SUCCEEDED, bound_address(target)))
        relay = self._relay = join(self.transport, target, self._proxy.reactor, lambda _: self._proxy.closed(self))
        relay.start(self._responder.take_read_ahead())

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        if not failure.check(CancelledError, ConnectingCancelledError):  # else the transport has left
            row = row_of(failure.value)
            self.came_to(row)
            self._refuse(self._responder.reply(row))

    def begin_to(self, destination: Address) -> None:
        """Find the attempts to which the connection may belong, by its destination."""
        self.groups = self._proxy.attempts.groups_of(destination)
        for group in self.groups:
            group.add_connection(self)

    def came_to(self, outcome: ReplyCode) -> None:
        """Record the outcome."""
        self.outcome = outcome
        for group in self.groups:
            group.check_settled()

    def _refuse(self, final_reply: bytes) -> None:
        """Send the last bytes of the conversation, and close so that they arrive."""
        self.transport.write(final_reply)
        self.transport.resumeProducing()
        self.transport.loseWriteConnection()
        self._proxy.deadlines.start(self, LINGER, self.abort)
