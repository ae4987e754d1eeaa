"""
The SOCKS5 proxy for the outgoing connections of a transport that is our child.

It shows the outcome of each connection, which the transport itself does not tell.
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
from ..net.timers import clock_of
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
"""Bytes that the transport may send before the target is reached; then its reading is paused."""

CONNECT_TIMEOUT = 120.0
"""Seconds for one outgoing connection: longer than servers give by default."""


class OutboundProxy:
    """
    A SOCKS5 listener on loopback for one life of one transport, with a random login.

    The transport may reach the bridges that clients wait for, wherever those
    are. Other targets a client may have named in its arguments: so once a
    remote client was served, private addresses among them are refused.

    :param reactor: provides TCP, time, threads and a name resolver.
    :ivar proxy: what the transport is told to use.
    """

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.clock = clock_of(reactor)
        self.attempts = BridgeAttempts()
        self.connections: set[OutboundConnection] = set()
        self._serves_remote_clients = False
        self._port = reactor.listenTCP(0, _OutboundFactory(self), interface="127.0.0.1")
        username, password = secrets.token_hex(16), secrets.token_hex(16)
        self.proxy = UpstreamProxy("socks5", "127.0.0.1", self._port.getHost().port, username, password)

    def __repr__(self) -> str:
        return "<OutboundProxy>"

    async def close(self) -> None:
        """Stop listening, and end every connection."""
        await maybeDeferred(self._port.stopListening)
        for connection in list(self.connections):
            connection.abort()
        while self.connections:
            await next(iter(self.connections)).closed()

    def expect(self, bridge: Address, is_local: bool) -> Attempt:
        """
        Note that the transport is about to be asked for a bridge.

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
        """Return whether this is the transport."""
        expected = f"{self.proxy.username}:{self.proxy.password}".encode()
        return hmac.compare_digest(credentials.username + b":" + credentials.password, expected)


class _OutboundFactory(Factory):
    noisy = False

    def __init__(self, proxy: OutboundProxy) -> None:
        self._proxy = proxy

    def buildProtocol(self, addr: object) -> OutboundConnection:
        return OutboundConnection(self._proxy)


@implementer(IHalfCloseableProtocol)
class OutboundConnection(Protocol):
    """
    One outgoing connection of the transport.

    :ivar groups: the groups of attempts that it may belong to.
    :ivar outcome: see `txsocksx_ext.transports.attempts.Connection`.
    """

    transport: Any

    def __init__(self, proxy: OutboundProxy) -> None:
        self.groups: list[AttemptGroup] = []
        self.outcome: ReplyCode | None = None
        self._proxy = proxy
        self._responder = Responder()
        self._connecting: Deferred[ITransport] | None = None
        self._relay: IRelay | None = None
        self._closed: Waiters[None] = Waiters()

    def closed(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection is closed."""
        return self._closed.wait()

    def abort(self) -> None:
        """Reset it, or stop connecting."""
        if self._relay is not None:
            self._relay.abort("given up")
        else:
            abort(self.transport)

    def connectionMade(self) -> None:
        self._proxy.connections.add(self)
        self._deadline = self._proxy.clock.callLater(HANDSHAKE_TIMEOUT, self.abort)

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
        """The transport gives the connection up."""
        self.abort()

    def writeConnectionLost(self) -> None:
        """The refusal was sent."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._over()

    def _handle(self, message: Message) -> None:
        if isinstance(message, Greeting):
            method = self._responder.preferred_method((Method.USERNAME_PASSWORD,))
            if method == Method.USERNAME_PASSWORD:
                self.transport.write(self._responder.select(method))
            else:
                self._refuse(self._responder.select(method))
        elif isinstance(message, UsernamePassword):
            if self._proxy.is_login(message):
                self.transport.write(self._responder.answer(Status.SUCCESS))
            else:
                self._refuse(self._responder.answer(Status.AUTHENTICATION_FAILED))
        elif isinstance(message, Request):
            self._deadline.cancel()
            self._connecting = Deferred.fromCoroutine(self._connect(message))
            self._connecting.addTimeout(CONNECT_TIMEOUT, self._proxy.clock)
            self._connecting.addCallbacks(self._connected, self._failed)

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
        relay = self._relay = join(self.transport, target, self._proxy.reactor, lambda _: self._over())
        relay.start(self._responder.take_read_ahead())

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        row = row_of(failure.value)
        if not failure.check(CancelledError, ConnectingCancelledError):
            self.came_to(row)
        if self.connected:
            self._refuse(self._responder.reply(row))

    def begin_to(self, destination: Address) -> None:
        """Note where the connection goes, and so for which attempts it may be."""
        self.groups = self._proxy.attempts.groups_of(destination)
        for group in self.groups:
            group.add_connection(self)

    def came_to(self, outcome: ReplyCode) -> None:
        """Note the outcome."""
        self.outcome = outcome
        for group in self.groups:
            group.check_settled()

    def _refuse(self, final_reply: bytes) -> None:
        """Send what ends the conversation, and close so that it arrives."""
        self.transport.write(final_reply)
        self.transport.resumeProducing()
        self.transport.loseWriteConnection()
        if self._deadline.active():
            self._deadline.cancel()
        self._deadline = self._proxy.clock.callLater(LINGER, self.abort)

    def _over(self) -> None:
        if self._deadline.active():
            self._deadline.cancel()
        self._proxy.connections.discard(self)
        self._closed.fire(None)
